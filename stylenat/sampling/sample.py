"""Images from a generator: seeds, truncation, style mixing, interpolation."""

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from stylenat.attention.transforms import wrapped
from stylenat.device import has_values, keep_freed_memory
from stylenat.errors import UserError, check_number
from stylenat.images import image_grid, to_uint8
from stylenat.models.base import Generator, MeanStyle

Seeds = Iterable[int] | np.ndarray | Tensor  # see `check_seeds`
SHEET_SEEDS = 64
SHEET_COLUMNS = 8
SEEDS_END = 2**63  # no seed is as large
MOST_AT_ONCE = 10**6  # images in one tensor
MOST_FRAMES = 10_000  # of one interpolation
MEAN_STYLES = 10_000  # styles whose mean truncation moves towards, of seed 0
PROBES = 8  # styles that tell one mapping network from another


def check_seeds(seeds: Seeds) -> Sequence[int]:
    """Seeds as whole numbers of Python's.

    Args:
        seeds: one or more from 0 to 2⁶³ - 1, in anything that holds whole numbers in one row: a list, a
            range (which is not written out), a NumPy array, a tensor.

    Raises:
        UserError: no seed at all, one that is no whole number or out of range (named), or no row.
    """
    numbers: Sequence[int]
    if isinstance(seeds, range):
        numbers = seeds
        ends = [*seeds[:1], *seeds[-1:]]
    else:
        numbers = ends = [_check_seed(seed) for seed in _in_a_row(seeds)]
    if not numbers:
        raise UserError("no seed is given: give one or more, such as [0, 1, 2]")
    for seed in ends:
        if not 0 <= seed < SEEDS_END:
            raise UserError(f"seed {seed} is out of range: take whole numbers from 0 to 2**63 - 1")
    return numbers


def _in_a_row(seeds: Seeds) -> Iterable[object]:
    is_row = isinstance(seeds, Iterable) and not isinstance(seeds, str | bytes)
    if isinstance(seeds, np.ndarray | Tensor):
        is_row = seeds.ndim == 1
    if not is_row:
        raise UserError(f"seeds {seeds!r} are no row of whole numbers: give a list such as [0, 1, 2]")
    return seeds.tolist() if isinstance(seeds, np.ndarray | Tensor) else seeds


def _check_seed(seed: object) -> int:
    if isinstance(seed, Tensor) and seed.ndim == 0:
        return _check_seed(seed.item())
    if isinstance(seed, bool | np.bool_):
        raise UserError(f"seed {seed!r} is no whole number: give such as 0 or 42")
    try:
        return operator.index(seed)  # type: ignore[arg-type]  # what has no index is the error
    except TypeError:
        raise UserError(f"seed {seed!r} is no whole number: give such as 0 or 42") from None


def latents(generator: Generator, seeds: Seeds) -> Tensor:
    """Latents of seeds, each drawn from its own seed alone.

    Args:
        generator: whose latents.
        seeds: see `check_seeds`.

    Returns:
        `(len(seeds), latent_dim)`, on the CPU.

    Raises:
        UserError: as of `check_seeds`.
    """
    draws = []
    for seed in check_seeds(seeds):
        random = torch.Generator().manual_seed(seed)
        draws.append(torch.randn(generator.latent_dim, generator=random))
    return torch.stack(draws)


@torch.compiler.disable  # what it does depends on values
def mean_style(generator: Generator) -> Tensor:
    """The mean of `MEAN_STYLES` styles, a constant in derivatives.

    It is kept in the generator and estimated again whenever the mapping network has changed, in whatever way:
    the styles of a few fixed latents are compared at every call.

    Args:
        generator: whose mean style.

    Returns:
        `(style_dim,)`, on the generator's device and in its type.
    """
    with _constant():
        probe = generator.mapping(_probe_latents(generator))  # (PROBES, style_dim)
        is_known = has_values(probe) and not wrapped(probe)  # else there is nothing to compare
        kept = generator.mean_style
        if is_known and kept is not None and _are_equal(kept.probe, probe):
            return kept.mean
        random = torch.Generator().manual_seed(0)
        z = torch.randn(MEAN_STYLES, generator.latent_dim, generator=random)  # (10000, latent_dim)
        mean = generator.mapping(z.to(generator.device, generator.dtype)).mean(0)
        if is_known:
            generator.mean_style = MeanStyle(mean, probe)
        return mean


@contextlib.contextmanager
def _constant() -> Iterator[None]:
    """No derivative of either mode, no autocast; and what is made may be part of a training later."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        forward_ad._set_fwd_grad_enabled(False),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


def _probe_latents(generator: Generator) -> Tensor:
    """Fixed latents `(PROBES, latent_dim)`, from NumPy: `vmap` refuses to draw numbers."""
    draws = np.random.default_rng(0).standard_normal((PROBES, generator.latent_dim))
    return torch.tensor(draws, device=generator.device, dtype=generator.dtype)


def _are_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are alike to the last bit, in device and type, too."""
    return one.device == other.device and one.dtype == other.dtype and torch.equal(one, other)


@torch.no_grad()
def styles(generator: Generator, seeds: Seeds, truncation_psi: float = 1.0) -> Tensor:
    """Styles w of seeds; see `check_seeds` and `truncate`.

    Returns:
        `(len(seeds), style_dim)`, on the generator's device.
    """
    w = generator.mapping(latents(generator, seeds).to(generator.device, generator.dtype))
    return truncate(generator, w, truncation_psi)


def truncate(generator: Generator, w: Tensor, truncation_psi: float) -> Tensor:
    """Move styles towards the mean style: `mean + psi · (w - mean)` (StyleGAN, section 3 and appendix B).

    Args:
        generator: whose mean style.
        w: w `(B, style_dim)` or w+ `(B, num_styles, style_dim)`.
        truncation_psi: 1 changes nothing, 0 gives the mean style for every w.

    Returns:
        Of w's shape.

    Raises:
        UserError: psi is not finite.
        UserError: the generator has no learned styles, and psi is not 1.
    """
    check_number("truncation_psi", truncation_psi)
    if truncation_psi == 1:
        return w
    if not generator.has_style_space:
        name = type(generator).__name__
        raise UserError(f"psi {truncation_psi:g}: {name} has no learned styles to truncate, take psi 1")
    return mean_style(generator).lerp(w, truncation_psi)


def check_batch_size(batch_size: int) -> None:
    """Check that a batch size is a whole number of 1 or more.

    Raises:
        UserError: it is not.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"batch_size={batch_size!r} must be a whole number, 1 or more")


def sample_batches(
    generator: Generator, seeds: Seeds, *, truncation_psi: float = 1.0, batch_size: int = 32
) -> Iterator[Tensor]:
    """Images of the given seeds, batch by batch, none kept; see `sample_images`.

    Yields:
        uint8 `(b, 3, R, R)` on the CPU.

    Raises:
        UserError: as of `sample_images`.
    """
    numbers = check_seeds(seeds)
    check_number("truncation_psi", truncation_psi)
    check_batch_size(batch_size)
    for i in range(0, len(numbers), batch_size):
        batch = numbers[i : i + batch_size]
        names = [f"the image of seed {seed}" for seed in batch]
        yield render(generator, styles(generator, batch, truncation_psi), names)


def sample_images(
    generator: Generator, seeds: Seeds, *, truncation_psi: float = 1.0, batch_size: int = 32
) -> Tensor:
    """Images of the given seeds.

    A seed's image is its own but for rounding, which may depend on the batch that a matrix product is part
    of; `batch_size=1` rules that out.

    Args:
        generator: in eval mode.
        seeds: one for each image, see `check_seeds`.
        truncation_psi: see `truncate`.
        batch_size: images made at once.

    Returns:
        uint8 `(len(seeds), 3, R, R)` on the CPU.

    Raises:
        UserError: as of `check_seeds`, more than a million seeds, a batch size below 1, a psi or an image
            that is not finite.
    """
    numbers = check_seeds(seeds)
    if len(numbers) > MOST_AT_ONCE:
        raise UserError(
            f"{len(numbers):,} seeds are more than {MOST_AT_ONCE:,}: give fewer, or take sample_batches, "
            "which keeps none of the images"
        )
    batches = sample_batches(generator, numbers, truncation_psi=truncation_psi, batch_size=batch_size)
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
def render(generator: Generator, w: Tensor, names: Sequence[str] = ()) -> Tensor:
    """Images of styles.

    Args:
        generator: in eval mode.
        w: w `(B, style_dim)` or w+ `(B, num_styles, style_dim)`.
        names: of the images, for the error; default: their number.

    Returns:
        uint8 `(B, 3, R, R)` on the CPU.

    Raises:
        UserError: an image that is not finite; names it.
    """
    keep_freed_memory()
    return to_uint8(generator.synthesis(w), names).cpu()


def mix_styles(generator: Generator, coarse: Tensor, fine: Tensor, level: int) -> Tensor:
    """Styles that are `coarse` below a level and `fine` from there on (StyleGAN, section 3.1).

    Args:
        generator: whose levels.
        coarse: styles w `(B, style_dim)`.
        fine: styles w `(B, style_dim)`.
        level: one of the generator's resolutions (the first: `fine` alone).

    Returns:
        w+ `(B, num_styles, style_dim)`.

    Raises:
        UserError: there is no such level, or the styles differ in number or size.
    """
    check_same_shape(coarse, fine)
    below = generator.first_style(level)
    lower = coarse[:, None].expand(-1, below, -1)  # (B, below, style_dim)
    upper = fine[:, None].expand(-1, generator.num_styles - below, -1)
    return torch.cat([lower, upper], dim=1)


def check_same_shape(a: Tensor, b: Tensor) -> None:
    """Check that two tensors have one shape.

    Raises:
        UserError: they differ.
    """
    if a.shape != b.shape:
        raise UserError(f"tensors of shapes {tuple(a.shape)} and {tuple(b.shape)}: give both of one shape")


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation of latents (Shoemake 1985), which keeps the length of normals.

    Args:
        a: `(…, L)`, the result at t = 0.
        b: `(…, L)`, the result at t = 1.
        t: from 0 to 1.

    Returns:
        `(…, L)`; straight interpolation where a and b have one direction or opposite ones.

    Raises:
        UserError: a and b differ in shape.
    """
    check_same_shape(a, b)
    unit_a = a / a.norm(dim=-1, keepdim=True)
    unit_b = b / b.norm(dim=-1, keepdim=True)
    angle = torch.linalg.vecdot(unit_a, unit_b).clamp(-1, 1).acos()[..., None]  # (…, 1)
    weight_a = ((1 - t) * angle).sin() / angle.sin()  # (…, 1)
    weight_b = (t * angle).sin() / angle.sin()  # (…, 1)
    return torch.where(angle.sin() < 1e-4, torch.lerp(a, b, t), weight_a * a + weight_b * b)


@torch.no_grad()
def interpolate(
    generator: Generator,
    seeds: Seeds,
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
        UserError: another space, fewer than two seeds, no frame or more than 10,000 in all, a psi or an image
            that is not finite.
    """
    check_number("truncation_psi", truncation_psi)
    if space not in ("w", "z"):
        raise UserError(f"space {space!r} is unknown: interpolate in 'w' or 'z'")
    numbers = check_seeds(seeds)
    if len(numbers) < 2 or not isinstance(frames, int) or frames < 1:
        raise UserError(
            f"{len(numbers)} seeds and {frames} frames: give two seeds or more and one frame or more"
        )
    if (len(numbers) - 1) * frames > MOST_FRAMES:
        raise UserError(
            f"{len(numbers)} seeds and {frames} frames from each to the next: give at most {MOST_FRAMES:,} "
            "in all"
        )
    z = latents(generator, numbers).to(generator.device, generator.dtype)  # (seeds, latent_dim)
    if space == "z":
        w = generator.mapping(_between(z, frames, slerp))
    else:
        w = _between(generator.mapping(z), frames, torch.lerp)
    images = []
    for frame, one in enumerate(truncate(generator, w, truncation_psi).split(1)):
        images.append(render(generator, one, [f"frame {frame}"]))
    return torch.cat(images)


def _between(ends: Tensor, frames: int, way: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    """Points from each row of `(n, L)` to the next, by `way(a, b, t)`: `((n - 1) · frames + 1, L)`."""
    points = []
    for a, b in pairwise(ends):
        for i in range(frames):
            points.append(way(a, b, i / frames))
    points.append(ends[-1])
    return torch.stack(points)
