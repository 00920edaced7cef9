"""Resizing of images for feature networks, as clean-fid resizes, but a batch at once; and full precision."""

import contextlib
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

_PIECE = 2**17  # pixels resized at once, in four images at most: they stay in a core's cache
Band = tuple[int, int, Tensor]  # first and last column, and the rows of a matrix between them


@lru_cache(maxsize=8)
def _bicubic_bands(length: int, size: int, device: torch.device) -> list[Band]:
    """The `(size, length)` matrix of Pillow's antialiased bicubic filter, in bands of rows.

    torch has Pillow's filter, so resizing the identity gives the matrix; in float64, since its float32
    positions are off by up to 0.004 of a gray level. A GPU takes the matrix whole: few calls, fast products.
    """
    identity = torch.eye(length, dtype=torch.float64)[None, None]
    matrix = F.interpolate(identity, (size, length), mode="bicubic", antialias=True)[0, 0]
    bands = []
    for rows in matrix.split(16 if device.type == "cpu" else size):
        columns = rows.any(0).nonzero().flatten().tolist()
        first = columns[0]
        last = columns[-1] + 1
        bands.append((first, last, rows[:, first:last].float().to(device)))
    return bands


def _bicubic(images: Tensor, size: int) -> Tensor:
    count, channels, height, width = images.shape
    rows = images.permute(2, 0, 1, 3).reshape(-1, width).float()  # (H · B · C, W)
    wide = rows.new_empty(len(rows), size)  # (H · B · C, size)
    across = _bicubic_bands(width, size, rows.device)
    for (first, last, block), part in zip(across, wide.split(len(across[0][2]), 1), strict=True):
        torch.mm(rows[:, first:last], block.T, out=part)
    lines = wide.view(height, -1)  # (H, B · C · size)
    tall = lines.new_empty(size, lines.shape[1])  # (size, B · C · size)
    down = _bicubic_bands(height, size, rows.device)
    for (first, last, block), part in zip(down, tall.split(len(down[0][2])), strict=True):
        torch.mm(block, lines[first:last], out=part)
    return tall.view(size, count, channels, size).permute(1, 2, 0, 3)


def _bilinear(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images.float(), (size, size), mode="bilinear", align_corners=False)


def resize(images: Tensor, size: int, mode: str) -> Tensor:
    """Resize images as clean-fid does.

    Args:
        images: uint8 `(B, 3, R, R)`.
        size: pixels a side of the result.
        mode: "bilinear", clean-fid's legacy_pytorch: torch's, not antialiased; or "bicubic", its clean:
            Pillow's, antialiased.

    Returns:
        float32 `(B, 3, size, size)` in 0..255, not rounded.
    """
    kernel = {"bilinear": _bilinear, "bicubic": _bicubic}[mode]
    count = max(1, min(4, _PIECE // images.shape[2:].numel()))
    resized = torch.empty((*images.shape[:2], size, size), device=images.device)
    with full_precision(images.device):
        for part, piece in zip(resized.split(count), images.split(count), strict=True):
            torch.clamp(kernel(piece, size), 0, 255, out=part)
    return resized


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No TF32, no bfloat16, whatever the caller trains with."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
