"""The augmentation of bCR and DiffAugment: differentiable, drawn for each image on its own.

Every function takes images `(B, C, H, W)` and returns new ones of the same shape.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stylenat.distributed import ALONE, Processes


def augment(images: Tensor, flips: bool = True, processes: Processes = ALONE) -> Tensor:
    """Augmented copies of images `(B, 3, H, W)`, drawn from torch's global random state.

    In order: horizontal flip (probability ½), translation by up to 1/8 of the side (zeros come in),
    brightness, saturation, contrast, and a square cutout of half the side (zeros). Where `flips` is False
    as much is drawn, so that everything after it is the same. The images are a share of those of several
    `processes`, each of which draws for all of them.
    """
    mirrored = flip(images, processes)
    translated = translate(mirrored if flips else images, processes)
    return cutout(recolor(translated, processes), processes)


def _uniform(images: Tensor, low: float, high: float, processes: Processes) -> Tensor:
    """One number an image, `(B, 1, 1, 1)`."""
    count = len(images) * processes.size
    return processes.share(torch.empty(count, 1, 1, 1, device=images.device).uniform_(low, high))


def _integers(images: Tensor, low: int, high: int, processes: Processes) -> Tensor:
    """One integer an image, `low` … `high` inclusive, `(B, 1, 1, 1)`."""
    count = len(images) * processes.size
    return processes.share(torch.randint(low, high + 1, (count, 1, 1, 1), device=images.device))


def flip(images: Tensor, processes: Processes = ALONE) -> Tensor:
    """Mirror each image with probability ½."""
    return torch.where(_uniform(images, 0, 1, processes) < 0.5, images.flip(3), images)


def translate(images: Tensor, processes: Processes = ALONE) -> Tensor:
    """Shift each image by whole pixels, up to 1/8 of each side; zeros come in."""
    channels, height, width = images.shape[1:]
    down = round(height / 8)
    across = round(width / 8)
    padded = F.pad(images, (across, across, down, down))  # (B, C, H + 2 down, W + 2 across)
    rows = torch.arange(height, device=images.device).view(1, 1, -1, 1)
    rows = rows + _integers(images, 0, 2 * down, processes)
    shifted = padded.gather(2, rows.expand(-1, channels, -1, padded.shape[3]))  # (B, C, H, W + 2 across)
    columns = torch.arange(width, device=images.device) + _integers(images, 0, 2 * across, processes)
    return shifted.gather(3, columns.expand(-1, channels, height, -1))  # (B, C, H, W)


def recolor(images: Tensor, processes: Processes = ALONE) -> Tensor:
    """Brightness ± ½, saturation × 0 … 2, contrast × ½ … 3/2, in this order."""
    bright = images + _uniform(images, -0.5, 0.5, processes)
    gray = bright.mean(dim=1, keepdim=True)  # (B, 1, H, W)
    colored = torch.lerp(gray, bright, _uniform(images, 0, 2, processes))
    mean = colored.mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    return torch.lerp(mean, colored, _uniform(images, 0.5, 1.5, processes))


def cutout(images: Tensor, processes: Processes = ALONE) -> Tensor:
    """Zero a square of half the side, centered anywhere in the image."""
    height, width = images.shape[2:]
    cut_height = height // 2
    cut_width = width // 2
    # The center may be anywhere, so a cutout may leave the image in part.
    top = _integers(images, 0, height - cut_height % 2, processes) - cut_height // 2
    left = _integers(images, 0, width - cut_width % 2, processes) - cut_width // 2
    rows = torch.arange(height, device=images.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, 1, -1)
    in_rows = (rows >= top) & (rows < top + cut_height)  # (B, 1, H, 1)
    in_columns = (columns >= left) & (columns < left + cut_width)  # (B, 1, 1, W)
    return images.masked_fill(in_rows & in_columns, 0)
