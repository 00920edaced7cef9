"""The small parts both networks are made of, in plain PyTorch.

Generator parts take channels last, `(B, H, W, C)`; resampling and wavelets take images, `(B, C, H, W)`.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylenat.attention.transforms import differentiated_again, sizes, transformed
from stylenat.errors import UserError


class LayerNorm(nn.LayerNorm):
    """PyTorch's layer norm with right derivatives of every order.

    PyTorch's own are silently wrong from the third order on, in forward mode from the second on.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(…, C)` → the same, in the weights' type."""
        if torch.compiler.is_compiling() and not transformed():
            return super().forward(x)
        exact = x.to(self.weight.dtype)  # under autocast
        if torch.jit.is_tracing() or transformed():
            return _plain_layer_norm(exact, self.weight, self.bias, self.eps)
        return _LayerNorm.apply(exact, self.weight, self.bias, self.eps)


def _plain_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm over the last dimension out of its parts."""
    centered = x - x.mean(-1, keepdim=True)
    variance = centered.square().mean(-1, keepdim=True)
    return torch.addcmul(bias, centered * torch.rsqrt(variance + eps), weight)


class _LayerNorm(torch.autograd.Function):
    """PyTorch's kernels, but where a derivative is differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        out, mean, rstd = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if differentiated_again(grad):
            return *_layer_norm_gradients(grad, x, weight, ctx.eps), None
        wanted = ctx.needs_input_grad[:3]
        backward = torch.ops.aten.native_layer_norm_backward
        return *backward(grad, x, weight.shape, mean, rstd, weight, bias, wanted), None


def _layer_norm_gradients(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Gradients of `_plain_layer_norm`'s three tensors, out of operations that have derivatives."""
    centered = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt(centered.square().mean(-1, keepdim=True) + eps)  # (…, 1)
    normal = centered * scale
    grad_normal = grad * weight
    along = normal * (grad_normal * normal).mean(-1, keepdim=True)
    grad_x = (grad_normal - grad_normal.mean(-1, keepdim=True) - along) * scale
    others = list(range(x.ndim - 1))
    return grad_x, (grad * normal).sum(others), grad.sum(others)


class PixelNorm(nn.Module):
    """Scales each latent `(B, L)` to unit mean square (StyleGAN, mapping network input)."""

    def forward(self, z: Tensor) -> Tensor:
        """`(B, L)` → the same."""
        exact = z.to(torch.promote_types(z.dtype, torch.float32))  # 1e-8 is 0 in float16
        return (exact * torch.rsqrt(exact.square().mean(dim=1, keepdim=True) + 1e-8)).to(z.dtype)


class EqualizedLinear(nn.Module):
    """Linear layer with equalized learning rate: weights are stored large and scaled when used.

    Stored weights are N(0, 1) / `lr_multiplier`, used times `lr_multiplier / sqrt(in_features)`; the bias is
    used times `lr_multiplier` (StyleGAN; Progressive GAN, section 4.1).

    Args:
        in_features: size of the input.
        out_features: size of the output.
        lr_multiplier: how much slower than other layers it learns.
    """

    def __init__(self, in_features: int, out_features: int, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """`(…, in_features)` → `(…, out_features)`."""
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


class MappingLayer(EqualizedLinear):
    """One layer of the mapping network: equalized linear, LeakyReLU(0.2), times √2.

    Args:
        features: size of the input.
        out_features: size of the output; default: the same.
    """

    def __init__(self, features: int, out_features: int | None = None) -> None:
        super().__init__(features, out_features or features, lr_multiplier=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, features)` → `(B, out_features)`."""
        return F.leaky_relu(super().forward(x), 0.2) * math.sqrt(2)


class BiasActivation(nn.Module):
    """Learned bias, LeakyReLU(0.2), times √2 over dimension 1 of `(B, C, …)`.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, …)` → the same."""
        bias = self.bias.view(-1, *(1,) * (x.ndim - 2))  # (C, 1, …)
        return F.leaky_relu(x + bias, 0.2) * math.sqrt(2)


class AdaIN(nn.Module):
    """Adaptive instance norm: each channel of `(B, H, W, C)` gets the mean and scale that the style asks for.

    Instance norm over H·W (biased variance, eps 1e-5), then `gamma · x + beta` with `[gamma, beta]` an
    equalized linear of the style `(B, style_dim)`; nothing is added to gamma.

    Args:
        channels: C.
        style_dim: size of the style.
    """

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.style = EqualizedLinear(style_dim, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Features `(B, H, W, C)` and a style `(B, style_dim)` → features `(B, H, W, C)`."""
        gamma, beta = self.style(style)[:, None, None].to(x.dtype).chunk(2, dim=-1)  # (B, 1, 1, C) each
        exact = x.to(torch.promote_types(x.dtype, torch.float32))  # squares would overflow float16
        centered = exact - exact.mean(dim=(1, 2), keepdim=True)  # (B, H, W, C)
        # (B, 1, 1, C); var_mean is several times slower on a CPU
        variance = centered.square().mean(dim=(1, 2), keepdim=True)
        return torch.addcmul(beta, centered, gamma * torch.rsqrt(variance + 1e-5)).to(x.dtype)


def position_embedding(
    channels: int,
    resolution: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """2-D sinusoidal embedding `(resolution, resolution, channels)`: x in the first half, y in the second.

    Frequencies are exp(−ln(10000) / (n − 1) · i) for i < n = channels / 4; positions count from 1.

    Args:
        channels: a multiple of 4, 8 or more.
        resolution: tokens a side.
        device: of the result.
        dtype: of the result; angles are float32 at least.

    Raises:
        UserError: channels that four do not divide, or fewer than eight, for which there is no frequency.
    """
    if channels < 8 or channels % 4:
        raise UserError(f"width {channels} has no position embedding: take multiples of 4 from 8 on")
    n = channels // 4
    exact = torch.promote_types(dtype, torch.float32)
    steps = torch.arange(n, device=device, dtype=exact)  # (n,)
    frequencies = torch.exp(steps * (-math.log(10000) / (n - 1)))  # (n,)
    positions = torch.arange(1, resolution + 1, device=device, dtype=exact)  # (resolution,)
    angles = positions[:, None] * frequencies  # (resolution, n)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1).to(dtype)  # (resolution, channels / 2)
    grid = (resolution, resolution, 2 * n)
    return torch.cat([axis[None].expand(grid), axis[:, None].expand(grid)], dim=-1)


def fir_upsample(x: Tensor) -> Tensor:
    """FIR upsampling by two with [1, 3, 3, 1]: `(B, C, H, W)` → `(B, C, 2H, 2W)`."""
    # Bilinear interpolation has these very taps, but repeats the border where the filter sees zeros.
    return F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")[..., 2:-2, 2:-2]


def _fir(x: Tensor, stride: int, padding: int) -> Tensor:
    # The [1, 3, 3, 1] binomial filter of StyleGAN2, as one depthwise 4 × 4 convolution.
    channels = sizes(x)[1]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype) / 8
    kernel = torch.outer(taps, taps).expand(channels, 1, 4, 4)  # (C, 1, 4, 4)
    return F.conv2d(x, kernel, stride=stride, padding=padding, groups=channels)


def fir_downsample(x: Tensor) -> Tensor:
    """FIR downsampling by two: `(B, C, H, W)` → `(B, C, H/2, W/2)`."""
    return _fir(x, stride=2, padding=1)


class Blur(nn.Module):
    """FIR blur before a strided convolution: `(B, C, H, W)` → `(B, C, H + 1, W + 1)`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` → `(B, C, H + 1, W + 1)`."""
        return _fir(x, stride=1, padding=2)


def haar(image: Tensor) -> Tensor:
    """Haar transform `(B, 3, H, W)` → `(B, 12, H/2, W/2)`: ll of r, g, b, then lh, hl, hh.

    lh varies from row to row, hl from column to column; the transform is orthonormal.
    """
    top, bottom = image.unflatten(2, (-1, 2)).unbind(3)  # (B, 3, H/2, W) each
    low, high = (x.unflatten(3, (-1, 2)).unbind(4) for x in (top + bottom, top - bottom))  # (B, 3, H/2, W/2)
    bands = [low[0] + low[1], high[0] + high[1], low[0] - low[1], high[0] - high[1]]
    return torch.cat(bands, dim=1) / 2
