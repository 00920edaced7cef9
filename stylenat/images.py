"""Images as tensors: uint8 to the space that the networks see and back, grids, PNG and GIF files."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stylenat.device import has_values
from stylenat.errors import UserError
from stylenat.paths import write_atomically

# Torchvision's ImageNet statistics; the published generators were trained in this space.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def _statistic(values: Sequence[float], like: Tensor) -> Tensor:
    """One value per channel as float32 `(3, 1, 1)`, on the device of `like`."""
    return torch.tensor(values, device=like.device, dtype=torch.float32).view(3, 1, 1)


def normalize(images: Tensor) -> Tensor:
    """uint8 `(B, 3, H, W)` → float32 `(B, 3, H, W)`, ImageNet-normalized."""
    return (images.float() / 255 - _statistic(MEAN, images)) / _statistic(STD, images)


def denormalize(images: Tensor) -> Tensor:
    """ImageNet-normalized `(B, 3, H, W)` → float32 `(B, 3, H, W)`, 0 to 255 but not clipped; a new tensor."""
    return (images.float() * _statistic(STD, images) + _statistic(MEAN, images)) * 255


def to_uint8(images: Tensor, names: Sequence[str] = ()) -> Tensor:
    """ImageNet-normalized images as uint8, rounded and clipped.

    Args:
        images: `(B, 3, H, W)`.
        names: of the images, for the error; default: their number in the batch.

    Returns:
        uint8 `(B, 3, H, W)`.

    Raises:
        UserError: an image holds NaN or infinity, which would become black; names it.
    """
    finite = images.isfinite().flatten(1).all(1).tolist() if has_values(images) else []
    if not all(finite):
        first = finite.index(False)
        name = names[first] if names else f"image {first}"
        raise UserError(
            f"{name} holds NaN or infinity ({finite.count(False)} of {len(finite)} images do): check the "
            "generator's weights, its type (float16 overflows at 65504) and the styles"
        )
    return denormalize(images).round().clamp(0, 255).to(torch.uint8)


def check_images(images: Tensor) -> None:
    """Check that images are one or more, uint8 `(N, 3, H, W)`.

    Raises:
        UserError: they are not.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise UserError(
            f"images are {images.dtype} {tuple(images.shape)}: give torch.uint8 (N, 3, H, W), one or more"
        )


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images against others, in dB; infinite where they are equal.

    Args:
        images: uint8 `(N, …)`, of levels 0 to 255.
        others: of the same shape.

    Returns:
        `(N,)`.
    """
    squares = (images.double() - others.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / squares)


def image_grid(images: Tensor, columns: int, gap: int = 0) -> Tensor:
    """Images side by side, row by row; places that the last row leaves empty are white.

    Args:
        images: uint8 `(N, 3, H, W)`.
        columns: images in a row.
        gap: white pixels between neighbors.

    Returns:
        One image, uint8 `(3, rows · (H + gap) − gap, columns · (W + gap) − gap)`.

    Raises:
        UserError: as of `check_images`, or no column.
    """
    check_images(images)
    if not isinstance(columns, int) or columns < 1:
        raise UserError(f"columns={columns!r}: give the images of a row, 1 or more")
    empty = -len(images) % columns
    padding = (0, gap, 0, gap, 0, 0, 0, empty)  # right, below, and images after the last
    padded = F.pad(images, padding, value=255)  # (rows · columns, 3, H + gap, W + gap)
    rows = padded.unflatten(0, (-1, columns))  # (rows, columns, 3, H + gap, W + gap)
    grid = rows.permute(2, 0, 3, 1, 4)  # (3, rows, H + gap, columns, W + gap)
    grid = grid.flatten(3, 4).flatten(1, 2)  # (3, rows · (H + gap), columns · (W + gap))
    return grid[:, : grid.shape[1] - gap, : grid.shape[2] - gap]


def enlarge(images: Tensor, scale: int) -> Tensor:
    """Images `(…, H, W)` → `(…, scale · H, scale · W)`, each pixel a square: nothing is blurred."""
    return images.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def save_png(path: Path | str, image: Tensor) -> None:
    """Write one image as PNG, atomically.

    Args:
        path: of the file.
        image: uint8 `(3, H, W)`, on the CPU.

    Raises:
        UserError: it is no such image.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        raise UserError(f"image is {image.dtype} {tuple(image.shape)}: give torch.uint8 (3, H, W)")
    buffer = io.BytesIO()
    _to_pillow(image).save(buffer, "PNG", optimize=True)
    write_atomically(path, buffer.getvalue())


def save_gif(path: Path | str, images: Tensor, *, frame_ms: int = 40, scale: int = 1) -> None:
    """Write images as a GIF that loops forever, atomically.

    All frames share one palette of 256 colors and none is dithered: what does not change does not flicker.

    Args:
        path: of the file.
        images: the frames, uint8 `(N, 3, H, W)`, on the CPU.
        frame_ms: milliseconds per frame; the format counts in steps of 10.
        scale: whole factor by which tiny images are enlarged.

    Raises:
        UserError: as of `check_images`.
    """
    check_images(images)
    step = math.ceil((images.numel() / 2**19) ** 0.5)  # every so many pixels: refining a palette is slow
    sheet = _to_pillow(image_grid(images[..., ::step, ::step], 1))
    palette = sheet.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)
    frames = []
    for image in images:
        frame = _to_pillow(enlarge(image, scale))
        frames.append(frame.quantize(palette=palette, dither=Image.Dither.NONE))
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0)
    write_atomically(path, buffer.getvalue())


def _to_pillow(image: Tensor) -> Image.Image:
    """uint8 `(3, H, W)`, on the CPU → the same as Pillow's image."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())
