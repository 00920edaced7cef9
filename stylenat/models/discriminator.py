"""StyleSwin's wavelet discriminator, which StyleNAT trains against (StyleSwin, section 3.4)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylenat.attention.partitions import resolutions
from stylenat.attention.transforms import func_differentiates, sizes, wrapped
from stylenat.errors import UserError
from stylenat.models.layers import BiasActivation, Blur, fir_downsample, haar


class SpectralNorm(nn.Module):
    """A layer whose weight is divided by its largest singular value (Miyato et al. 2018).

    That value is estimated by one step of the power iteration at every call in training mode, from the
    vectors of the last one, which count as constants in derivatives. Neither autocast nor its half precision
    touches it. Tensors are named and ordered as by `torch.nn.utils.spectral_norm`, whose hooks can be neither
    pickled nor transformed.

    Attributes:
        weight_orig: the weight as it is learned, `(out, …)`.
        weight_u: the left singular vector, `(out,)`.
        weight_v: the right one, of all other dimensions as one.
    """

    weight_orig: nn.Parameter
    weight_u: Tensor
    weight_v: Tensor

    def _take_weight(self) -> None:
        """Turn `weight` into `weight_orig` and draw the vectors."""
        weight: Any = self._parameters.pop("weight")
        self.weight_orig = weight
        inputs = weight[0].numel()
        self.register_buffer("weight_u", F.normalize(weight.detach().new_empty(len(weight)).normal_(), dim=0))
        self.register_buffer("weight_v", F.normalize(weight.detach().new_empty(inputs).normal_(), dim=0))

    def normalized_weight(self) -> Tensor:
        """The weight `(out, …)` with a largest singular value of 1; in training mode moves the vectors.

        Raises:
            UserError: `torch.func` would have to differentiate, or map, the vectors' move.
        """
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            matrix = self.weight_orig.flatten(1)  # (out, inputs)
            left, right = self._move(matrix.detach()) if self.training else (self.weight_u, self.weight_v)
            return self.weight_orig / torch.dot(left, torch.mv(matrix, right))

    @torch.no_grad()
    def _move(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the power iteration."""
        if wrapped(matrix) or func_differentiates():
            raise UserError(
                "spectral norm moves its vectors at every call in training mode, which torch.func cannot "
                "transform: call eval() on the discriminator first"
            )
        right = F.normalize(torch.mv(matrix.t(), self.weight_u), dim=0)
        left = F.normalize(torch.mv(matrix, right), dim=0)
        # In place, for replicas on several devices share these with the module that they are of.
        self.weight_u.copy_(left)
        self.weight_v.copy_(right)
        return left, right


class SpectralConv2d(SpectralNorm, nn.Conv2d):
    """Convolution under spectral norm; see `torch.nn.Conv2d` for its arguments."""

    def __init__(self, channels: int, out_channels: int, kernel_size: int, **options: Any) -> None:
        super().__init__(channels, out_channels, kernel_size, **options)
        self._take_weight()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` → `(B, C', H', W')`."""
        return self._conv_forward(x, self.normalized_weight(), self.bias)


class SpectralLinear(SpectralNorm, nn.Linear):
    """Linear layer under spectral norm; see `torch.nn.Linear` for its arguments."""

    def __init__(self, features: int, out_features: int) -> None:
        super().__init__(features, out_features)
        self._take_weight()

    def forward(self, x: Tensor) -> Tensor:
        """`(…, features)` → `(…, out_features)`."""
        return F.linear(x, self.normalized_weight(), self.bias)


def _conv(channels: int, out_channels: int, kernel_size: int, **options: Any) -> nn.Module:
    """Spectrally normalized convolution without bias, as a convolution before an activation is."""
    return SpectralConv2d(channels, out_channels, kernel_size, bias=False, **options)


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
    batch, _, height, width = sizes(x)
    group = min(batch, group_size)
    if batch % group:
        raise UserError(
            f"a batch of {batch} images can't be split in groups of {group}: use a multiple of {group}"
        )
    exact = x.to(torch.promote_types(x.dtype, torch.float32))  # also under autocast
    groups = exact.unflatten(0, (group, batch // group))  # (group, B / group, C, H, W)
    # (B / group, C, H, W); var is several times slower on a CPU
    variance = (groups - groups.mean(dim=0)).square().mean(dim=0)
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
        if not widths:
            raise UserError("a discriminator of no widths: give one for each of 4, 8, …, R/2")
        self.resolution = 2 * resolutions(len(widths))[-1]
        down = widths[::-1]
        self.from_rgbs = nn.ModuleList(FromRGB(width) for width in down)
        self.convs = nn.ModuleList(ConvBlock(*pair) for pair in pairwise(down))
        final = widths[0]
        self.final_conv = nn.Sequential(_conv(final + 1, final, 3, padding=1), BiasActivation(final))
        self.final_linear = nn.Sequential(
            SpectralLinear(16 * final, final),
            BiasActivation(final),
            SpectralLinear(final, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, 3, R, R)` → logits `(B, 1)`."""
        side = self.resolution
        if images.ndim != 4 or sizes(images)[1:] != (3, side, side):
            raise UserError(f"images of shape {sizes(images)}: give (B, 3, {side}, {side})")
        features = self.from_rgbs[0](haar(images))  # (B, C, R/2, R/2)
        for conv, from_rgb in zip(self.convs, self.from_rgbs[1:], strict=True):
            images = fir_downsample(images)  # (B, 3, r, r)
            features = conv(features) + from_rgb(haar(images))  # (B, C', r/2, r/2)
        features = self.final_conv(minibatch_deviation(features))  # (B, C, 4, 4)
        return self._logits(features)

    @torch.compiler.disable  # spectral norm's vectors move at every call: a compiled backward pass objects
    def _logits(self, features: Tensor) -> Tensor:
        return self.final_linear(features.flatten(1))
