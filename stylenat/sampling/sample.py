"""Images from a generator: seeds, truncation, style mixing, interpolation."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from stylenat.device import keep_freed_memory
from stylenat.errors import UserError
from stylenat.images import image_grid, to_uint8
from stylenat.models.base import Generator

SHEET_SEEDS = 64
SHEET_COLUMNS = 8
MEAN_STYLES = 10_000  # styles whose mean truncation moves towards, of seed 0


def latents(generator: Generator, seeds: Sequence[int]) -> Tensor:
    """Latents of seeds, each drawn from its own seed alone.

    Returns:
        `(len(seeds), latent_dim)`, on the CPU.
    """
    draws = []
    for seed in seeds:
        random = torch.Generator().manual_seed(seed)
        draws.append(torch.randn(generator.latent_dim, generator=random))
    return torch.stack(draws)


@torch.no_grad()
def mean_style(generator: Generator) -> Tensor:
    """The mean of `MEAN_STYLES` styles, `(latent_dim,)`; estimated once and kept in the generator."""
    if generator.mean_style is None:
        random = torch.Generator().manual_seed(0)
        z = torch.randn(MEAN_STYLES, generator.latent_dim, generator=random)  # (10000, latent_dim)
        generator.mean_style = generator.mapping(z.to(generator.device, generator.dtype)).mean(0)
    return generator.mean_style


@torch.no_grad()
def styles(generator: Generator, seeds: Sequence[int], truncation_psi: float = 1.0) -> Tensor:
    """Styles w of seeds; see `truncate`.

    Returns:
        `(len(seeds), latent_dim)`, on the generator's device.
    """
    w = generator.mapping(latents(generator, seeds).to(generator.device, generator.dtype))
    return truncate(generator, w, truncation_psi)


def truncate(generator: Generator, w: Tensor, truncation_psi: float) -> Tensor:
    """Move styles towards the mean style: `mean + psi · (w - mean)` (StyleGAN, section 3 and appendix B).

    Args:
        generator: whose mean style.
        w: w `(B, latent_dim)` or w+ `(B, num_styles, latent_dim)`.
        truncation_psi: 1 changes nothing, 0 gives the mean style for every w.

    Returns:
        Of w's shape.
    """
    if truncation_psi == 1:
        return w
    return mean_style(generator).lerp(w, truncation_psi)


def sample_batches(
    generator: Generator, seeds: Sequence[int], *, truncation_psi: float = 1.0, batch_size: int = 32
) -> Iterator[Tensor]:
    """Images of the given seeds, batch by batch, none kept; see `sample_images`.

    Yields:
        uint8 `(b, 3, R, R)` on the CPU.
    """
    for i in range(0, len(seeds), batch_size):
        yield render(generator, styles(generator, seeds[i : i + batch_size], truncation_psi))


def sample_images(
    generator: Generator, seeds: Sequence[int], *, truncation_psi: float = 1.0, batch_size: int = 32
) -> Tensor:
    """Images of the given seeds.

    A seed's image is its own but for rounding, which may depend on the batch that a matrix product is part
    of; `batch_size=1` rules that out.

    Args:
        generator: in eval mode.
        seeds: one for each image.
        truncation_psi: see `truncate`.
        batch_size: images made at once.

    Returns:
        uint8 `(len(seeds), 3, R, R)` on the CPU.
    """
    batches = sample_batches(generator, seeds, truncation_psi=truncation_psi, batch_size=batch_size)
    return torch.cat(list(batches))


def sample_sheet(generator: Generator) -> Tensor:
    """The samples that a run keeps: seeds 0 … 63 without truncation, eight in a row.

    Args:
        generator: in eval mode.

    Returns:
        One image, uint8 `(3, 8 · R, 8 · R)` on the CPU.
    """
    return image_grid(sample_images(generator, range(SHEET_SEEDS)), SHEET_COLUMNS)


@torch.no_grad()
def render(generator: Generator, w: Tensor) -> Tensor:
    """Images of styles w `(B, latent_dim)` or w+ `(B, num_styles, latent_dim)`.

    Returns:
        uint8 `(B, 3, R, R)` on the CPU.
    """
    keep_freed_memory()
    return to_uint8(generator.synthesis(w)).cpu()


def mix_styles(generator: Generator, coarse: Tensor, fine: Tensor, level: int) -> Tensor:
    """Styles that are `coarse` below a level and `fine` from there on (StyleGAN, section 3.1).

    Args:
        generator: whose levels.
        coarse: styles w `(B, latent_dim)`.
        fine: styles w `(B, latent_dim)`.
        level: one of the generator's resolutions (the first: `fine` alone).

    Returns:
        w+ `(B, num_styles, latent_dim)`.

    Raises:
        UserError: there is no such level.
    """
    below = generator.first_style(level)
    lower = coarse[:, None].expand(-1, below, -1)  # (B, below, latent_dim)
    upper = fine[:, None].expand(-1, generator.num_styles - below, -1)
    return torch.cat([lower, upper], dim=1)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation of latents (Shoemake 1985), which keeps the length of normals.

    Args:
        a: `(…, L)`, the result at t = 0.
        b: `(…, L)`, the result at t = 1.
        t: from 0 to 1.

    Returns:
        `(…, L)`; straight interpolation where a and b have one direction or opposite ones.
    """
    unit_a = a / a.norm(dim=-1, keepdim=True)
    unit_b = b / b.norm(dim=-1, keepdim=True)
    angle = torch.linalg.vecdot(unit_a, unit_b).clamp(-1, 1).acos()[..., None]  # (…, 1)
    weight_a = ((1 - t) * angle).sin() / angle.sin()  # (…, 1)
    weight_b = (t * angle).sin() / angle.sin()  # (…, 1)
    return torch.where(angle.sin() < 1e-4, torch.lerp(a, b, t), weight_a * a + weight_b * b)


@torch.no_grad()
def interpolate(
    generator: Generator,
    seeds: Sequence[int],
    frames: int,
    *,
    space: str = "w",
    truncation_psi: float = 1.0,
) -> Tensor:
    """Images on the way from each seed to the next.

    Args:
        generator: in eval mode.
        seeds: two or more.
        frames: steps from one seed to the next.
        space: "w" goes straight between styles, "z" along the sphere between latents (`slerp`).
        truncation_psi: see `truncate`.

    Returns:
        uint8 `((len(seeds) - 1) · frames + 1, 3, R, R)`.

    Raises:
        UserError: another space, fewer than two seeds, or no frame.
    """
    if space not in ("w", "z"):
        raise UserError(f"space {space!r} is unknown: interpolate in 'w' or 'z'")
    if len(seeds) < 2 or frames < 1:
        raise UserError(
            f"{len(seeds)} seeds and {frames} frames: give two seeds or more and one frame or more"
        )
    z = latents(generator, seeds).to(generator.device, generator.dtype)  # (seeds, latent_dim)
    if space == "z":
        w = generator.mapping(_between(z, frames, slerp))
    else:
        w = _between(generator.mapping(z), frames, torch.lerp)
    images = [render(generator, truncate(generator, one, truncation_psi)) for one in w.split(1)]
    return torch.cat(images)


def _between(ends: Tensor, frames: int, way: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    """Points from each row of `(n, L)` to the next, by `way(a, b, t)`: `((n - 1) · frames + 1, L)`."""
    points = []
    for a, b in pairwise(ends):
        for i in range(frames):
            points.append(way(a, b, i / frames))
    points.append(ends[-1])
    return torch.stack(points)
