"""The image space: uint8 pictures to what the networks see, and back."""

import io

import torch
from PIL import Image

from stylenat.paths import write_atomically

# Torchvision's ImageNet statistics; the published generators were trained in this space.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def _statistic(values, like):
    return torch.tensor(values, device=like.device, dtype=torch.float32).view(3, 1, 1)


def normalize(pictures):
    """uint8 `(B, 3, H, W)` → float32 `(B, 3, H, W)`, ImageNet-normalised."""
    return (pictures.float() / 255 - _statistic(MEAN, pictures)) / _statistic(STD, pictures)


def to_uint8(images):
    """ImageNet-normalised `(B, 3, H, W)` → uint8, rounded and clipped; the input is left as it was."""
    unit = images.float() * _statistic(STD, images) + _statistic(MEAN, images)
    return (unit * 255).round().clamp(0, 255).to(torch.uint8)


def picture_grid(pictures, columns):
    """Pictures uint8 `(N, 3, H, W)` side by side, row by row → one picture `(3, rows · H, columns · W)`.

    N must be a multiple of `columns`.
    """
    rows = pictures.unflatten(0, (-1, columns))  # (rows, columns, 3, H, W)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def save_png(path, picture):
    """Write one picture uint8 `(3, H, W)` as PNG, atomically."""
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "PNG", optimize=True)
    write_atomically(path, buffer.getvalue())
