"""Images from a generator: seeds, truncation, style mixing, interpolation."""

from itertools import pairwise

import torch

from stylenat.device import keep_freed_memory
from stylenat.errors import UserError
from stylenat.images import to_uint8

MEAN_STYLES = 10_000  # styles whose mean truncation moves towards, of seed 0


def latents(generator, seeds):
    """Latents `(len(seeds), latent_dim)`, each drawn from its own seed alone, on the CPU."""
    draws = [torch.randn(generator.latent_dim, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(draws)


@torch.no_grad()
def mean_style(generator):
    """The mean of `MEAN_STYLES` styles, `(latent_dim,)`; estimated once and kept in the generator."""
    if generator.mean_style is None:
        draw = torch.Generator().manual_seed(0)
        z = torch.randn(MEAN_STYLES, generator.latent_dim, generator=draw)
        generator.mean_style = generator.mapping(z.to(_device(generator))).mean(0)
    return generator.mean_style


@torch.no_grad()
def styles(generator, seeds, truncation_psi=1.0):
    """Styles w `(len(seeds), latent_dim)` of seeds, on the generator's device; see `truncate`."""
    return truncate(
        generator, generator.mapping(latents(generator, seeds).to(_device(generator))), truncation_psi
    )


def truncate(generator, w, truncation_psi):
    """w or w+ moved towards the mean style: `mean + psi · (w - mean)` (StyleGAN, section 3 and appendix B).

    1 changes nothing, 0 gives the mean style for every w.
    """
    return w if truncation_psi == 1 else mean_style(generator).lerp(w, truncation_psi)


def sample_batches(generator, seeds, *, truncation_psi=1.0, batch_size=32):
    """Images of the given seeds, one batch after the other: uint8 `(b, 3, R, R)` on the CPU, none kept."""
    for i in range(0, len(seeds), batch_size):
        yield render(generator, styles(generator, seeds[i : i + batch_size], truncation_psi))


def sample_images(generator, seeds, *, truncation_psi=1.0, batch_size=32):
    """Images of the given seeds: uint8 `(len(seeds), 3, R, R)` on the CPU.

    A seed's image is its own but for rounding, which may depend on the batch that a matrix product is part
    of; `batch_size=1` rules that out.
    """
    return torch.cat(
        list(sample_batches(generator, seeds, truncation_psi=truncation_psi, batch_size=batch_size))
    )


@torch.no_grad()
def render(generator, w):
    """Images of styles w `(B, latent_dim)` or w+ `(B, num_styles, latent_dim)`: uint8 on the CPU."""
    keep_freed_memory()
    return to_uint8(generator.synthesis(w)).cpu()


def mix_styles(generator, coarse, fine, level):
    """w+ `(B, num_styles, latent_dim)`: `coarse` below the resolution `level`, `fine` from there on.

    Args:
        coarse, fine: styles w `(B, latent_dim)`.
        level: one of the generator's resolutions 4, 8, …, R (4: `fine` alone).

    Raises:
        UserError: there is no such level.
    """
    below = 2 * check_level(generator, level)
    parts = coarse[:, None].expand(-1, below, -1), fine[:, None].expand(-1, generator.num_styles - below, -1)
    return torch.cat(parts, dim=1)


def check_level(generator, level):
    """The index of the level of resolution `level`.

    Raises:
        UserError: there is no such level.
    """
    levels = [4 * 2**i for i in range(len(generator.layers))]
    if level not in levels:
        raise UserError(
            f"level {level!r} is none of this generator's: take one of {', '.join(map(str, levels))}"
        )
    return levels.index(level)


def slerp(a, b, t):
    """Spherical interpolation of latents `(…, L)`, t from 0 (a) to 1 (b): keeps the length of normals."""
    unit = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
    angle = torch.linalg.vecdot(*unit).clamp(-1, 1).acos()[..., None]
    weights = ((1 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()
    return torch.where(angle.sin() < 1e-4, torch.lerp(a, b, t), weights[0] * a + weights[1] * b)


@torch.no_grad()
def interpolate(generator, seeds, frames, *, space="w", truncation_psi=1.0):
    """Images on the way from each seed to the next: uint8 `((len(seeds) - 1) · frames + 1, 3, R, R)`.

    Args:
        frames: steps from one seed to the next.
        space: "w" goes straight between styles, "z" along the sphere between latents (`slerp`).

    Raises:
        UserError: another space, fewer than two seeds, or no frame.
    """
    if space not in ("w", "z"):
        raise UserError(f"space {space!r} is unknown: interpolate in 'w' or 'z'")
    if len(seeds) < 2 or frames < 1:
        raise UserError(
            f"{len(seeds)} seeds and {frames} frames: give two seeds or more and one frame or more"
        )
    z = latents(generator, seeds).to(_device(generator))
    ends, way = (z, slerp) if space == "z" else (generator.mapping(z), torch.lerp)
    steps = [way(a, b, i / frames) for a, b in pairwise(ends) for i in range(frames)]
    points = torch.stack([*steps, ends[-1]])
    w = generator.mapping(points) if space == "z" else points
    return torch.cat([render(generator, truncate(generator, one, truncation_psi)) for one in w.split(1)])


def _device(generator):
    return next(generator.parameters()).device
