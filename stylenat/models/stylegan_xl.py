"""StyleGAN-XL's generator, unconditional (Sauer et al. 2022), which is StyleGAN3's in stages.

A stem makes a small image from Fourier features; each stage of super-resolution puts layers of its own in
the place of the last three. `alias_free.plan_layers` says which layers these are.

Left out is what has no effect without classes: the table of class embeddings, 320,000 parameters that the
published counts hold, and the running magnitude of features, which its training leaves at 1. Filters are
separable in all variants. The original trains stage after stage, with all below frozen.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylenat.attention.linear import in_type_of
from stylenat.attention.transforms import sizes
from stylenat.models.alias_free import LARGEST, FilteredActivation, LayerPlan, Signal, plan_layers
from stylenat.models.base import Generator, Stage
from stylenat.models.layers import EqualizedLinear, MappingLayer, PixelNorm
from stylenat.stages import SynthesisStage

OUTPUT_SCALE = 0.25


class FourierInput(nn.Module):
    """Sines of random frequencies, which the style turns and moves, and a learned mix of them.

    Args:
        signal: what it gives.
        style_dim: size of the style.

    Attributes:
        frequencies: `(C, 2)` of x and y, drawn once, within the signal's band.
        phases: `(C,)`, in turns, drawn once.
        transform: a matrix `(3, 3)` that may be set, to turn and move every image besides: it takes
            positions (x, y, 1) in widths from the center to those that are shown there.
    """

    frequencies: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, signal: Signal, style_dim: int) -> None:
        super().__init__()
        self.signal = signal
        channels = signal.channels
        drawn = torch.randn(channels, 2)
        radii = drawn.square().sum(1, keepdim=True).sqrt()
        self.register_buffer("frequencies", drawn / (radii * radii.square().exp() ** 0.25) * signal.cutoff)
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.register_buffer("transform", torch.eye(3))
        self.affine = EqualizedLinear(style_dim, 4)  # (cos, sin) of a turn, and a way (x, y)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.weight = nn.Parameter(torch.randn(channels, channels))

    def forward(self, style: Tensor) -> Tensor:
        """Styles `(B, style_dim)` → features `(B, C, size, size)`."""
        features = self.waves(self.affine(style)).to(self.weight.dtype)  # (B, C, size, size)
        return F.conv2d(features, self.weight[:, :, None, None] / math.sqrt(len(self.weight)))

    def waves(self, turn_and_way: Tensor) -> Tensor:
        """The sines where a style's turn and way put the image: `(B, C, size, size)`.

        What is shown at a position is what was at R · (transform · position - way), R the matrix
        [[cos, -sin], [sin, cos]]. All of it acts on frequencies and phases, and a frequency that leaves the
        band fades out.

        Args:
            turn_and_way: `(B, 4)`: cos and sin, up to a common factor, then the way (x, y).
        """
        exact = torch.promote_types(self.weight.dtype, torch.float32)
        values = turn_and_way.to(exact)
        cosine, sine = (values[:, :2] / values[:, :2].norm(dim=1, keepdim=True)).split(1, dim=1)  # (B, 1)
        x, y = self.frequencies.to(exact).unbind(1)  # (C,) each
        x, y = cosine * x + sine * y, cosine * y - sine * x  # (B, C) each: frequencies · R
        matrix = self.transform.to(exact)
        phases = (
            self.phases.to(exact) + x * (matrix[0, 2] - values[:, 2:3]) + y * (matrix[1, 2] - values[:, 3:])
        )
        x, y = x * matrix[0, 0] + y * matrix[1, 0], x * matrix[0, 1] + y * matrix[1, 1]
        signal = self.signal
        fade = (torch.hypot(x, y) - signal.cutoff) / (signal.rate / 2 - signal.cutoff)
        amplitudes = (1 - fade).clamp(0, 1)[:, :, None, None]
        axis = (
            torch.arange(signal.size, device=values.device, dtype=exact) + 0.5 - signal.size / 2
        ) / signal.rate
        along_x = x[:, :, None, None] * axis  # (B, C, 1, size)
        along_y = (y[:, :, None] * axis + phases[:, :, None])[..., None]  # (B, C, size, 1)
        return torch.sin(2 * math.pi * (along_x + along_y)) * amplitudes


class SynthesisLayer(nn.Module):
    """A convolution whose weights the style scales, then the filtered activation; or the colors.

    Args:
        plan: of the layer.
        style_dim: size of the style.
    """

    def __init__(self, plan: LayerPlan, style_dim: int) -> None:
        super().__init__()
        channels, kernel_size = plan.inputs.channels, plan.kernel_size
        self.affine = EqualizedLinear(style_dim, channels)
        nn.init.ones_(self.affine.bias)
        self.weight = nn.Parameter(torch.randn(plan.outputs.channels, channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(plan.outputs.channels))
        self.activation = None if plan.to_rgb else FilteredActivation(plan)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Features `(B, C, n, n)` and styles `(B, style_dim)` → `(B, C', n', n')`, as planned."""
        scales = self.affine(style)  # (B, C)
        bias = self.bias[:, None, None]
        if self.activation is None:
            scaled = x * _per_map(scales / math.sqrt(sizes(x)[1]), x)
            return (F.conv2d(scaled, self.weight) + bias).clamp(-LARGEST, LARGEST)
        weight, scales, norms = normalized(self.weight, scales)
        # A whole border of zeros: the map grows by kernel - 1, which the filters take away again.
        padding = sizes(weight)[-1] - 1
        scaled = in_type_of(x * _per_map(scales, x), self.weight)
        out = F.conv2d(scaled, weight.to(self.weight.dtype), padding=padding)
        return self.activation(out * _per_map(norms, out) + bias)


def _per_map(values: Tensor, x: Tensor) -> Tensor:
    """A value for each map of x `(B, C, H, W)`: `(B, C)` → `(B, C, 1, 1)`."""
    return values.to(x.dtype)[:, :, None, None]


def normalized(weight: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight and scales of a layer such that outputs have the variance of inputs (StyleGAN3, section 3.2).

    The weights of an image, `weight · scale`, are divided by their norm for each output. That is the same as
    scaling the input by `scales` and the output by `norms`, so that one convolution serves all images. Both
    factors are divided by their root mean square first, which keeps half precision in its range; that of the
    scales is over the batch, and no more than rounding depends on it.

    Args:
        weight: `(C', C, k, k)`.
        scales: of the input's channels `(B, C)`.

    Returns:
        weight `(C', C, k, k)`, scales `(B, C)` and norms `(B, C')`, in float32 at least.
    """
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        exact = torch.promote_types(weight.dtype, torch.float32)
        weight, scales = weight.to(exact), scales.to(exact)
        fan_in = weight[0].numel()
        unit = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True))
        scales = scales * torch.rsqrt(scales.square().mean())
        squares = scales.square() @ unit.square().sum((2, 3)).mT  # (B, C')
        return unit, scales, torch.rsqrt(squares + 1e-8 / fan_in)


class StyleGANXL(Generator):
    """StyleGAN-XL's generator. Its levels are its stages.

    Args:
        stages: the stem, then the stages of super-resolution.
        most_channels: of a layer, times its stage's width.
        last_channels: of the last convolution, times its stage's width.
        latent_dim: size of z.
        style_dim: size of w.
        mapping_depth: layers of the mapping network.

    Raises:
        UserError: as of `check_stylegan_xl`.
    """

    def __init__(
        self,
        stages: Sequence[SynthesisStage],
        most_channels: int = 512,
        last_channels: int = 128,
        latent_dim: int = 64,
        style_dim: int = 512,
        mapping_depth: int = 2,
    ) -> None:
        plans = plan_layers(stages, most_channels, last_channels)
        # A stage's width is that of its last convolution, which a further stage goes on from.
        widths = {plan.resolution: plan.outputs.channels for plan in plans if not plan.to_rgb}
        super().__init__(list(widths), list(widths.values()), latent_dim, style_dim)
        self.style = nn.Sequential(PixelNorm(), MappingLayer(latent_dim, style_dim))
        for _ in range(mapping_depth - 1):
            self.style.append(MappingLayer(style_dim))
        self.input = FourierInput(plans[0].inputs, style_dim)
        self.layers = nn.ModuleList(SynthesisLayer(plan, style_dim) for plan in plans)
        self.plans = plans

    @property
    def num_styles(self) -> int:
        """Styles a w+ holds: one for the input and one for each layer."""
        return 1 + len(self.plans)

    def first_style(self, resolution: int) -> int:
        """Index in a w+ of the style of a stage's first layer; the stem's is the input's."""
        if self.level_index(resolution) == 0:
            return 0
        return 1 + [plan.resolution for plan in self.plans].index(resolution)

    def mapping(self, z: Tensor) -> Tensor:
        """Latents z `(B, latent_dim)` → styles w `(B, style_dim)`."""
        return self.style(z)

    def synthesis(self, w: Tensor) -> Tensor:
        """Styles w `(B, style_dim)`, or w+ `(B, num_styles, style_dim)`, → images `(B, 3, R, R)`."""
        plus = w[:, None].expand(-1, self.num_styles, -1) if w.ndim == 2 else w
        first, *styles = plus.unbind(1)  # num_styles of (B, style_dim)
        x = self.input(first)  # (B, C, size, size)
        for plan, layer, style in zip(self.plans, self.layers, styles, strict=True):
            x = self.call_level(plan.resolution, layer, x, style)
        return x * OUTPUT_SCALE

    def describe_level(self, resolution: int) -> str:
        """The stage's layers."""
        self.level_index(resolution)
        kernels = [
            plan.kernel_size for plan in self.plans if plan.resolution == resolution and not plan.to_rgb
        ]
        return f"{len(kernels)} convolutions of {kernels[0]} × {kernels[0]}"

    def stages(self) -> list[Stage]:
        """Each stage's layers; the first has the input as well."""
        found: list[Stage] = []
        for resolution in self.resolutions:
            modules: list[nn.Module] = [] if found else [self.input]
            for plan, layer in zip(self.plans, self.layers, strict=True):
                if plan.resolution == resolution:
                    modules.append(layer)
            found.append(Stage(resolution, tuple(modules)))
        return found
