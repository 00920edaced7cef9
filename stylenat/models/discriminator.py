"""StyleSwin's wavelet discriminator, which StyleNAT trains against (StyleSwin, section 3.4)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import utils

from stylenat.attention.partitions import resolutions
from stylenat.errors import UserError
from stylenat.models.layers import BiasActivation, Blur, fir_downsample, haar, inverse_haar


def spectral_norm(module: nn.Module) -> nn.Module:
    """PyTorch's spectral norm, but for autocast, which would take its power iteration in half precision."""
    normalized = utils.spectral_norm(module)
    norm: Any
    (norm,) = normalized._forward_pre_hooks.values()
    for device in ("cpu", "cuda"):
        norm.compute_weight = torch.autocast(device, enabled=False)(norm.compute_weight)
    return normalized


def _conv(channels: int, out_channels: int, kernel_size: int, **options: Any) -> nn.Module:
    """Spectrally normalized convolution without bias, as a convolution before an activation is."""
    return spectral_norm(nn.Conv2d(channels, out_channels, kernel_size, bias=False, **options))


class FromRGB(nn.Module):
    """1 × 1 convolution and activation of wavelet bands.

    Args:
        channels: C of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(12, channels, 1), BiasActivation(channels))

    def forward(self, bands: Tensor) -> Tensor:
        """Wavelet bands `(B, 12, H, W)` → features `(B, C, H, W)`."""
        return self.conv(bands)


class ConvBlock(nn.Module):
    """3 × 3 convolution, then blur and strided 3 × 3 convolution, each with its activation.

    Args:
        channels: C.
        out_channels: C'.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(_conv(channels, channels, 3, padding=1), BiasActivation(channels))
        self.conv2 = nn.Sequential(
            Blur(), _conv(channels, out_channels, 3, stride=2), BiasActivation(out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` → `(B, C', H/2, W/2)`."""
        return self.conv2(self.conv1(x))


def minibatch_deviation(x: Tensor, group_size: int = 4) -> Tensor:
    """Appends one channel to `(B, C, H, W)`: the mean deviation within each image's group.

    A group is `min(B, group_size)` images; image i belongs to group i mod (B / group) (StyleGAN2, app. B).

    Args:
        x: features `(B, C, H, W)`.
        group_size: images of a group.

    Returns:
        `(B, C + 1, H, W)`.

    Raises:
        UserError: the group does not divide the batch.
    """
    batch, _, height, width = x.shape
    group = min(batch, group_size)
    if batch % group:
        raise UserError(
            f"a batch of {batch} images can't be split in groups of {group}: use a multiple of {group}"
        )
    exact = x.to(torch.promote_types(x.dtype, torch.float32))  # also under autocast
    variance = exact.unflatten(0, (group, -1)).var(dim=0, correction=0)  # (B / group, C, H, W)
    deviation = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3)).repeat(group).to(x.dtype)  # (B,)
    return torch.cat([x, deviation[:, None, None, None].expand(-1, 1, height, width)], dim=1)


class Discriminator(nn.Module):
    """Wavelet discriminator: images `(B, 3, R, R)` → logits `(B, 1)`.

    Args:
        widths: channels of the features at 4, 8, …, R/2.

    Attributes:
        resolution: pixels a side of an image, R.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.resolution = 2 * resolutions(len(widths))[-1]
        down = widths[::-1]
        self.from_rgbs = nn.ModuleList(FromRGB(width) for width in down)
        self.convs = nn.ModuleList(ConvBlock(*pair) for pair in pairwise(down))
        final = widths[0]
        self.final_conv = nn.Sequential(_conv(final + 1, final, 3, padding=1), BiasActivation(final))
        self.final_linear = nn.Sequential(
            spectral_norm(nn.Linear(16 * final, final)),
            BiasActivation(final),
            spectral_norm(nn.Linear(final, 1)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, 3, R, R)` → logits `(B, 1)`."""
        bands = haar(images)  # (B, 12, R/2, R/2)
        features = self.from_rgbs[0](bands)  # (B, C, R/2, R/2)
        for conv, from_rgb in zip(self.convs, self.from_rgbs[1:], strict=True):
            bands = haar(fir_downsample(inverse_haar(bands)))  # (B, 12, r/2, r/2) from r
            features = conv(features) + from_rgb(bands)  # (B, C', r/2, r/2)
        features = self.final_conv(minibatch_deviation(features))  # (B, C, 4, 4)
        return self._logits(features)

    @torch.compiler.disable  # spectral norm's vectors move at every call: a compiled backward pass objects
    def _logits(self, features: Tensor) -> Tensor:
        return self.final_linear(features.flatten(1))
