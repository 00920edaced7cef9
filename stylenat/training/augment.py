"""The augmentation of bCR and DiffAugment: differentiable, drawn for each image on its own."""

import torch
import torch.nn.functional as F


def augment(images):
    """Augmented copies of images `(B, 3, H, W)`, drawn from torch's global random state.

    In order: horizontal flip (probability ½), translation by up to 1/8 of the side (zeros come in),
    brightness, saturation, contrast, and a square cutout of half the side (zeros).
    """
    return cutout(recolor(translate(flip(images))))


def _uniform(images, low, high):
    return torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(low, high)


def _integers(images, low, high):
    """One integer an image, `low` … `high` inclusive."""
    return torch.randint(low, high + 1, (len(images), 1, 1, 1), device=images.device)


def flip(images):
    return torch.where(_uniform(images, 0, 1) < 0.5, images.flip(3), images)


def translate(images):
    height, width = images.shape[2:]
    limits = round(height / 8), round(width / 8)
    padded = F.pad(images, (limits[1], limits[1], limits[0], limits[0]))
    for dim, limit, size in ((2, limits[0], height), (3, limits[1], width)):
        shape = [1, 1, 1, 1]
        shape[dim] = size
        index = torch.arange(size, device=images.device).view(shape) + _integers(images, 0, 2 * limit)
        target = list(padded.shape)
        target[dim] = size
        padded = padded.gather(dim, index.expand(target))
    return padded


def recolor(images):
    images = images + _uniform(images, -0.5, 0.5)
    gray = images.mean(dim=1, keepdim=True)
    images = torch.lerp(gray, images, _uniform(images, 0, 2))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, _uniform(images, 0.5, 1.5))


def cutout(images):
    height, width = images.shape[2:]
    size = height // 2, width // 2
    # The center may lie anywhere, so a cutout may leave the image in part.
    top = _integers(images, 0, height - size[0] % 2) - size[0] // 2
    left = _integers(images, 0, width - size[1] % 2) - size[1] // 2
    rows = torch.arange(height, device=images.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, 1, -1)
    inside = (rows >= top) & (rows < top + size[0]) & (columns >= left) & (columns < left + size[1])
    return images.masked_fill(inside, 0)
