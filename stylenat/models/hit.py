"""HiT's generator: multi-axis attention on coarse levels, perceptrons on fine ones (Zhao et al. 2021).

No convolution. The latent enters twice: as the first 8 × 8 tokens, and as a memory of 16 tokens that every
level reads by cross-attention. Batch norm is the only norm.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylenat.attention.linear import Linear
from stylenat.attention.transforms import func_differentiates, softmax, transformed, wrapped
from stylenat.errors import UserError
from stylenat.models.base import Generator, Stage
from stylenat.models.stylenat import MLP
from stylenat.stages import HiTStage, check_hit, hit_resolutions

FIRST_SIDE = 8
MEMORY_TOKENS = 16


class BatchNorm(nn.Module):
    """Batch norm over all but the last dimension (eps 0.001, momentum 0.99), out of plain operations.

    In training mode it normalizes by the batch and moves its averages, of which the variance is the biased
    one; in eval mode it normalizes by those.

    Args:
        channels: C.

    Attributes:
        running_mean: average of the batches' means `(C,)`.
        running_var: average of their variances `(C,)`.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(…, C)` → the same.

        Raises:
            UserError: in training mode, `torch.func` would have to transform the averages' move.
        """
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        if not self.training:
            scale = self.weight * torch.rsqrt(self.running_var + 1e-3)  # (C,)
            return torch.addcmul(self.bias - self.running_mean * scale, exact, scale).to(x.dtype)
        if transformed() and (wrapped(x) or func_differentiates()):
            raise UserError(
                "batch norm moves its averages at every call in training mode, which torch.func cannot "
                "transform: call eval() on the generator first"
            )
        tokens = tuple(range(x.ndim - 1))
        mean = exact.mean(tokens)  # (C,)
        centered = exact - mean
        variance = centered.square().mean(tokens)  # (C,)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), 0.01)
            self.running_var.lerp_(variance.to(self.running_var.dtype), 0.01)
        return torch.addcmul(self.bias, centered, self.weight * torch.rsqrt(variance + 1e-3)).to(x.dtype)


def multi_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention whose heads share their keys and values (Shazeer 2019).

    Args:
        q: queries `(N, T, heads, head_dim)`.
        k: keys `(N, S, head_dim)`.
        v: values `(N, S, head_dim)`.

    Returns:
        `(N, T, heads, head_dim)`.
    """
    heads, head_dim = q.shape[2:]
    queries = q.flatten(1, 2) * head_dim**-0.5  # (N, T · heads, head_dim)
    weights = softmax(queries @ k.mT).to(v.dtype)  # (N, T · heads, S)
    return (weights @ v).unflatten(1, (-1, heads))


class MultiQueryAttention(nn.Module):
    """The projections of both attentions: many heads of queries, one of keys and one of values.

    Args:
        channels: C of the queries, a multiple of the heads.
        source_channels: of what keys and values are made from.
        heads: number of heads of queries.
    """

    def __init__(self, channels: int, source_channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = Linear(channels, channels)
        self.k = Linear(source_channels, channels // heads)
        self.v = Linear(source_channels, channels // heads)
        self.proj = Linear(channels, channels)

    def queries(self, x: Tensor) -> Tensor:
        """`(…, C)` → `(…, heads, head_dim)`."""
        return self.q(x).unflatten(-1, (self.heads, -1))


class CrossAttention(MultiQueryAttention):
    """Every position attends to the memory (section 3.3)."""

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Features `(B, H, W, C)` and a memory `(B, 16, C0)` → features `(B, H, W, C)`."""
        out = multi_query(self.queries(x).flatten(1, 2), self.k(memory), self.v(memory))
        return self.proj(out.flatten(2)).view(x.shape)


def to_patches(x: Tensor, patch: int) -> Tensor:
    """`(B, H, W, …)` → `(B, patches, patch², …)`, both row by row."""
    height, width = x.shape[1:3]
    split = x.unflatten(2, (width // patch, patch)).unflatten(1, (height // patch, patch))
    return split.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_patches(x: Tensor, patch: int, height: int, width: int) -> Tensor:
    """The inverse of `to_patches`: `(B, patches, patch², …)` → `(B, H, W, …)`."""
    split = x.unflatten(2, (patch, patch)).unflatten(1, (height // patch, width // patch))
    return split.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class MultiAxisAttention(MultiQueryAttention):
    """Self-attention of which half the heads see their patch, the others across patches (section 3.2).

    A head of the second half sees the tokens that have its query's place in all patches.

    Args:
        channels: C, a multiple of the heads.
        heads: an even number.
        patch: tokens a side of a patch.
    """

    def __init__(self, channels: int, heads: int, patch: int) -> None:
        super().__init__(channels, channels, heads)
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """`(B, H, W, C)` → the same."""
        height, width = x.shape[1:3]
        q = to_patches(self.queries(x), self.patch)  # (B, n, p², heads, head_dim)
        k = to_patches(self.k(x), self.patch)  # (B, n, p², head_dim)
        v = to_patches(self.v(x), self.patch)
        inside, across = q.chunk(2, dim=3)
        local = _on_middle_axis(inside, k, v)
        distant = _on_middle_axis(across.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out = torch.cat([local, distant.transpose(1, 2)], dim=3)  # (B, n, p², heads, head_dim)
        return self.proj(from_patches(out.flatten(3), self.patch, height, width))


def _on_middle_axis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`multi_query` along dimension 2 of q `(B, N, T, heads, head_dim)` and k, v `(B, N, T, head_dim)`."""
    out = multi_query(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    return out.unflatten(0, (-1, q.shape[1]))


class ResidualAttention(nn.Module):
    """`x + attention(norm(x))`; a memory is not normalized.

    Args:
        channels: C.
        attention: the layer.
    """

    def __init__(self, channels: int, attention: MultiQueryAttention) -> None:
        super().__init__()
        self.norm = BatchNorm(channels)
        self.attn = attention

    def forward(self, x: Tensor, *memory: Tensor) -> Tensor:
        """Features `(B, H, W, C)`, and a memory `(B, 16, C0)` where the attention takes one → features."""
        return x + self.attn(self.norm(x), *memory)


class ResidualMLP(nn.Module):
    """`x + mlp(norm(x))`.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = BatchNorm(channels)
        self.mlp = MLP(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, H, W, C)` → the same."""
        return x + self.mlp(self.norm(x))


def pixel_shuffle(x: Tensor) -> Tensor:
    """`(B, H, W, C)` → `(B, 2H, 2W, C / 4)`: the first quarter of the channels is each top left pixel.

    Then come top right, bottom left and bottom right. PyTorch's own takes channels in another order.
    """
    split = x.unflatten(-1, (2, 2, -1))  # (B, H, W, row, column, C / 4)
    return split.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)


class Upsample(nn.Module):
    """Pixel shuffle ×2, then linear C / 4 → C', unless they are the same.

    Args:
        channels: C, a multiple of 4.
        out_channels: C'.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        same = channels // 4 == out_channels
        self.reduction = nn.Identity() if same else Linear(channels // 4, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, H, W, C)` → `(B, 2H, 2W, C')`."""
        return self.reduction(pixel_shuffle(x))


class ToRGB(nn.Module):
    """Batch norm and a linear layer to colors, added to those of the level below, each of which is repeated.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = BatchNorm(channels)
        self.linear = nn.Linear(channels, 3)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Features `(B, H, W, C)` and the colors so far, of half the size → `(B, 3, H, W)`."""
        rgb = self.linear(self.norm(x)).permute(0, 3, 1, 2)
        return rgb if skip is None else rgb + F.interpolate(skip, scale_factor=2, mode="nearest")


class Memory(nn.Module):
    """The latent as 16 tokens, which every level reads.

    Args:
        latent_dim: size of the latent.
        channels: C0, the first level's.
    """

    def __init__(self, latent_dim: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_dim, MEMORY_TOKENS * channels)
        self.position = nn.Parameter(torch.zeros(MEMORY_TOKENS, channels))
        self.norm = BatchNorm(channels)

    def forward(self, z: Tensor) -> Tensor:
        """`(B, latent_dim)` → `(B, 16, C0)`."""
        return self.norm(self.linear(z).unflatten(-1, (MEMORY_TOKENS, -1)) + self.position)


class Level(nn.Module):
    """One resolution: positions, cross-attention with its perceptron, then the stage's units.

    Args:
        side: tokens a side.
        channels: C.
        memory_channels: C0.
        stage: units, heads and patch.
    """

    def __init__(self, side: int, channels: int, memory_channels: int, stage: HiTStage) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(side, side, channels))
        self.cross = ResidualAttention(channels, CrossAttention(channels, memory_channels, stage.heads))
        self.cross_mlp = ResidualMLP(channels)
        self.units = nn.ModuleList()
        for _ in range(stage.units):
            unit = nn.Sequential(ResidualMLP(channels))
            if stage.patch:
                attention = MultiAxisAttention(channels, stage.heads, stage.patch)
                unit.insert(0, ResidualAttention(channels, attention))
            self.units.append(unit)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Features `(B, H, W, C)` and the memory `(B, 16, C0)` → features `(B, H, W, C)`."""
        features = self.cross_mlp(self.cross(x + self.position, memory))
        for unit in self.units:
            features = unit(features)
        return features


class HiT(Generator):
    """HiT's generator.

    It has no mapping network: a style w is the latent z itself, so there is no space of styles to truncate
    in. A w+ holds a latent for each level; the first also makes the first tokens. Activations are always
    kept, as batch norm would count a batch twice.

    Args:
        widths: channels of the levels 8, 16, …, R.
        stages: units, heads and patch of each.
        latent_dim: size of z.

    Raises:
        UserError: as of `check_hit`.
    """

    has_style_space = False

    def __init__(self, widths: Sequence[int], stages: Sequence[HiTStage], latent_dim: int = 512) -> None:
        check_hit(stages, widths)
        super().__init__(hit_resolutions(len(widths)), widths, latent_dim)
        first = widths[0]
        self.stage_plan = tuple(stages)
        self.input = nn.Linear(latent_dim, FIRST_SIDE**2 * first)
        self.memory = Memory(latent_dim, first)
        self.levels = nn.ModuleList()
        self.upsamples = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()  # of the levels without self-attention, which are the last
        for side, width, stage in zip(self.resolutions, widths, stages, strict=True):
            self.levels.append(Level(side, width, first, stage))
            if not stage.patch:
                self.to_rgbs.append(ToRGB(width))
        for width, next_width in pairwise(widths):
            self.upsamples.append(Upsample(width, next_width))
        self.apply(_initialize)

    @property
    def num_styles(self) -> int:
        """Styles a w+ holds: one for each level."""
        return len(self.levels)

    def first_style(self, resolution: int) -> int:
        """Index in a w+ of a level's style."""
        return self.level_index(resolution)

    def mapping(self, z: Tensor) -> Tensor:
        """Latents z `(B, latent_dim)`, which are the styles."""
        return z

    def synthesis(self, w: Tensor) -> Tensor:
        """Styles w `(B, latent_dim)`, or w+ `(B, num_styles, latent_dim)`, → images `(B, 3, R, R)`."""
        styles = w[:, None] if w.ndim == 2 else w  # (B, 1 or num_styles, latent_dim)
        tokens = self.memory(styles.flatten(0, 1)).unflatten(0, (-1, styles.shape[1]))
        memories = tokens.expand(-1, self.num_styles, -1, -1).unbind(1)  # num_styles of (B, 16, C0)
        x = self.input(styles[:, 0]).unflatten(-1, (FIRST_SIDE, FIRST_SIDE, -1))  # (B, 8, 8, C0)
        image: Tensor | None = None
        without_rgb = len(self.levels) - len(self.to_rgbs)
        for i, (level, memory) in enumerate(zip(self.levels, memories, strict=True)):
            x = level(x, memory)  # (B, r, r, C)
            if i >= without_rgb:
                image = self.to_rgbs[i - without_rgb](x, image)  # (B, 3, r, r)
            if i < len(self.upsamples):
                x = self.upsamples[i](x)  # (B, 2r, 2r, C')
        assert image is not None  # the last level has colors
        return image

    def describe_level(self, resolution: int) -> str:
        """The level's units and heads."""
        units, heads, patch = self.stage_plan[self.level_index(resolution)]
        kind = f"multi-axis attention in patches of {patch} × {patch}" if patch else "a residual perceptron"
        return f"cross-attention of {heads} heads, then {units} × {kind}"

    def stages(self) -> list[Stage]:
        """Each level's units, colors and way up; the first has the input as well."""
        found = []
        without_rgb = len(self.levels) - len(self.to_rgbs)
        for i, (resolution, level) in enumerate(zip(self.resolutions, self.levels, strict=True)):
            modules = [level] if i else [self.input, level]
            if i >= without_rgb:
                modules.append(self.to_rgbs[i - without_rgb])
            if i < len(self.upsamples):
                modules.append(self.upsamples[i])
            found.append(Stage(resolution, tuple(modules)))
        return found


def _initialize(module: nn.Module) -> None:
    """Normal weights of deviation 0.02, cut off at two deviations as TensorFlow does; biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(module.bias)
    elif isinstance(module, Memory | Level):
        nn.init.trunc_normal_(module.position, std=0.02, a=-0.04, b=0.04)
