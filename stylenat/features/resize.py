"""Feature networks: uint8 images in, float32 features out, and a protocol that says how they were made."""

import contextlib
from functools import lru_cache

import torch
from torch.nn import functional as F

_PIECE = 2**17  # pixels resized at once, in four images at most: they stay in a core's cache


@lru_cache(maxsize=8)
def _bicubic_bands(length, size, device):
    """The `(size, length)` matrix of Pillow's antialiased bicubic filter, in bands (first, last, block).

    torch has Pillow's filter, so resizing the identity gives the matrix; in float64, since its float32
    positions are off by up to 0.004 of a gray level. A GPU takes the matrix whole: few calls, fast products.
    """
    identity = torch.eye(length, dtype=torch.float64)[None, None]
    matrix = F.interpolate(identity, (size, length), mode="bicubic", antialias=True)[0, 0]
    bands = []
    for rows in matrix.split(16 if device.type == "cpu" else size):
        columns = rows.any(0).nonzero().flatten().tolist()
        first, last = columns[0], columns[-1] + 1
        bands.append((first, last, rows[:, first:last].float().to(device)))
    return bands


def _bicubic(images, size):
    count, channels, height, width = images.shape
    rows = images.permute(2, 0, 1, 3).reshape(-1, width).float()
    wide = rows.new_empty(len(rows), size)
    bands = _bicubic_bands(width, size, rows.device)
    for (first, last, block), part in zip(bands, wide.split(len(bands[0][2]), 1), strict=True):
        torch.mm(rows[:, first:last], block.T, out=part)
    wide = wide.view(height, -1)
    tall = wide.new_empty(size, wide.shape[1])
    bands = _bicubic_bands(height, size, rows.device)
    for (first, last, block), part in zip(bands, tall.split(len(bands[0][2])), strict=True):
        torch.mm(block, wide[first:last], out=part)
    return tall.view(size, count, channels, size).permute(1, 2, 0, 3)


def _bilinear(images, size):
    return F.interpolate(images.float(), (size, size), mode="bilinear", align_corners=False)


def resize(images, size, mode):
    """uint8 `(B, 3, R, R)` → float32 `(B, 3, size, size)` in 0..255, not rounded, as clean-fid resizes.

    "bilinear" is its mode legacy_pytorch: torch's, not antialiased. "bicubic" is its mode clean: Pillow's,
    antialiased.
    """
    kernel = {"bilinear": _bilinear, "bicubic": _bicubic}[mode]
    count = max(1, min(4, _PIECE // images.shape[2:].numel()))
    resized = torch.empty((*images.shape[:2], size, size), device=images.device)
    with _full_precision(images.device):
        for part, piece in zip(resized.split(count), images.split(count), strict=True):
            torch.clamp(kernel(piece, size), 0, 255, out=part)
    return resized


@contextlib.contextmanager
def _full_precision(device):
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
