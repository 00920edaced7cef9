"""The image space: uint8 pictures to what the networks see, and back."""

import torch

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
