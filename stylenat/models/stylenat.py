"""StyleNAT's generator: style-modulated transformer blocks from 4 × 4 up to the image (paper, section 3)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylenat.attention.layers import Attention, FullAttention, HydraNeighborhoodAttention
from stylenat.attention.linear import Linear
from stylenat.attention.partitions import (
    Full,
    HeadPartition,
    Level,
    ShiftedWindows,
    check_fits,
    format_partitions,
    resolutions,
)
from stylenat.attention.shifted_windows import ShiftedWindowAttention
from stylenat.attention.transforms import sizes
from stylenat.errors import UserError
from stylenat.models.base import Generator, Stage
from stylenat.models.layers import AdaIN, LayerNorm, MappingLayer, PixelNorm, fir_upsample, position_embedding
from stylenat.models.mlp import mlp

BLOCKS = 2  # of a level, each with a style of its own


class ConstantInput(nn.Module):
    """The learned 4 × 4 image that every image grows from.

    Args:
        channels: of the first level.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch: int) -> Tensor:
        """The same image `batch` times: `(B, 4, 4, C)`."""
        return self.input.permute(0, 2, 3, 1).expand(batch, -1, -1, -1)


class MLP(nn.Module):
    """Linear C → 4C, exact GELU, linear 4C → C.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, 4 * channels)
        self.fc2 = Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, H, W, C)` → the same."""
        return mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)


class Block(nn.Module):
    """Pre-norm transformer block under a style: attention, then MLP, each behind its AdaIN.

    Args:
        channels: C.
        attention: the block's attention layer.
        style_dim: size of the style.
    """

    def __init__(self, channels: int, attention: Attention, style_dim: int) -> None:
        super().__init__()
        self.norm1 = AdaIN(channels, style_dim)
        self.attn = attention
        self.norm2 = AdaIN(channels, style_dim)
        self.mlp = MLP(channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Features `(B, H, W, C)` and a style `(B, style_dim)` → features `(B, H, W, C)`."""
        attended = x + self.attn(self.norm1(x, style))  # (B, H, W, C)
        return attended + self.mlp(self.norm2(attended, style))


class Upsample(nn.Module):
    """Bilinear ×2, layer norm, linear C → C', plus `alpha` times a position embedding.

    Args:
        channels: C.
        out_channels: C'.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1))
        self.norm = LayerNorm(channels)
        self.reduction = Linear(channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, H, W, C)` → `(B, 2H, 2W, C')`."""
        larger = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")  # (B, C, 2H, 2W)
        out = self.reduction(self.norm(larger.permute(0, 2, 3, 1)))  # (B, 2H, 2W, C')
        _, side, _, channels = sizes(out)
        embedding = position_embedding(channels, side, out.device, self.alpha.dtype)  # (2H, 2W, C')
        return torch.addcmul(out, self.alpha, embedding)


class LevelBlocks(nn.Module):
    """Two blocks at one resolution, then, but at the last level, the way up to the next.

    Args:
        channels: C.
        out_channels: C' of the next level; None at the last one.
        partitions: the attention of both blocks.
        resolution: tokens a side.
        style_dim: size of the style.
        position_bias: whether attention has relative position tables.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None,
        partitions: Level,
        resolution: int,
        style_dim: int,
        position_bias: bool = True,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(BLOCKS):
            attention = make_attention(channels, partitions, resolution, position_bias)
            self.blocks.append(Block(channels, attention, style_dim))
        self.upsample = Upsample(channels, out_channels) if out_channels else None

    def forward(self, x: Tensor, styles: Sequence[Tensor]) -> Tensor:
        """Features `(B, H, W, C)` and a style `(B, style_dim)` for each block → `(B, 2H, 2W, C')`.

        At the last level `(B, H, W, C)`.
        """
        features = x
        for block, style in zip(self.blocks, styles, strict=True):
            features = block(features, style)  # (B, H, W, C)
        return features if self.upsample is None else self.upsample(features)


class ToRGB(nn.Module):
    """1 × 1 convolution to colors, added to the colors of the levels below.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.conv = nn.Conv2d(channels, 3, 1)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Features `(B, H, W, C)` and the colors so far, of half the size or the same → `(B, 3, H, W)`."""
        rgb = self.conv(x.permute(0, 3, 1, 2)) + self.bias  # (B, 3, H, W)
        if skip is None:
            return rgb
        return rgb + (skip if skip.shape == rgb.shape else fir_upsample(skip))


class StyleNAT(Generator):
    """StyleNAT's generator, and StyleSwin's, which differs in its attention alone.

    Args:
        widths: channels of the levels 4, 8, …, R.
        partitions: attention of the levels 4, 8, …, R, a tuple of partitions each.
        latent_dim: size of z and of the style w.
        mapping_depth: layers of the mapping network.
        position_bias: whether attention has relative position tables, as every published model does.

    Attributes:
        partitions: as given.

    Raises:
        UserError: widths and partitions differ in number, or a partition does not fit its level.
    """

    shows_attention = True

    def __init__(
        self,
        widths: Sequence[int],
        partitions: Sequence[Level],
        latent_dim: int = 512,
        mapping_depth: int = 8,
        position_bias: bool = True,
    ) -> None:
        if len(widths) != len(partitions):
            raise UserError(
                f"{len(widths)} widths and {len(partitions)} partitions: give one of each for every level"
            )
        if not widths:
            raise UserError("0 widths: give one for each of the levels 4, 8, …")
        super().__init__(resolutions(len(widths)), widths, latent_dim)
        self.partitions = tuple(tuple(level) for level in partitions)
        self.style = nn.Sequential(PixelNorm(), *(MappingLayer(latent_dim) for _ in range(mapping_depth)))
        self.input = ConstantInput(widths[0])
        self.layers = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        next_widths = [*widths[1:], None]
        for side, width, next_width, level in zip(
            self.resolutions, widths, next_widths, self.partitions, strict=True
        ):
            self.layers.append(LevelBlocks(width, next_width, level, side, latent_dim, position_bias))
            self.to_rgbs.append(ToRGB(next_width or width))
        self.apply(_initialize)

    @property
    def num_styles(self) -> int:
        """Styles a w+ holds: one for each block."""
        return BLOCKS * len(self.layers)

    def first_style(self, resolution: int) -> int:
        """Index in a w+ of the style of a level's first block."""
        return BLOCKS * self.level_index(resolution)

    def mapping(self, z: Tensor) -> Tensor:
        """Latents z `(B, latent_dim)` → styles w `(B, latent_dim)`."""
        if z.ndim != 2 or sizes(z)[1] != self.latent_dim:
            raise UserError(f"latents of shape {sizes(z)}: give (B, {self.latent_dim})")
        return self.style(z)

    def synthesis(self, w: Tensor) -> Tensor:
        """Styles w `(B, latent_dim)`, or w+ `(B, num_styles, latent_dim)`, → images `(B, 3, R, R)`."""
        plus = w[:, None].expand(-1, self.num_styles, -1) if w.ndim == 2 else w
        if plus.ndim != 3 or sizes(plus)[1:] != (self.num_styles, self.latent_dim):
            raise UserError(
                f"styles of shape {sizes(w)}: give (B, {self.latent_dim}) or "
                f"(B, {self.num_styles}, {self.latent_dim})"
            )
        styles = plus.unbind(1)  # num_styles of (B, latent_dim)
        x = self.input(w.shape[0])  # (B, 4, 4, C)
        image: Tensor | None = None
        for i, (level, to_rgb) in enumerate(zip(self.layers, self.to_rgbs, strict=True)):
            own = styles[BLOCKS * i : BLOCKS * (i + 1)]
            # (B, 2r, 2r, C') from a level of r; the last: (B, R, R, C)
            x = self.call_level(self.resolutions[i], level, x, own)
            image = to_rgb(x, image)  # (B, 3, 2r, 2r); the last: (B, 3, R, R)
        assert image is not None  # there is a level
        return image

    def describe_level(self, resolution: int) -> str:
        """The level's partitions."""
        partitions = self.partitions[self.level_index(resolution)]
        return "full attention" if isinstance(partitions[0], Full) else format_partitions(partitions)

    def stages(self) -> list[Stage]:
        """Each level's blocks with the way up, and its colors."""
        found = []
        for resolution, level, to_rgb in zip(self.resolutions, self.layers, self.to_rgbs, strict=True):
            found.append(Stage(resolution, (level, to_rgb)))
        return found

    def attention(self, resolution: int, block: int) -> Attention:
        """The attention layer of a level's block 0 or 1."""
        level: Any = self.layers[self.level_index(resolution)]
        if block not in range(BLOCKS):
            raise UserError(f"block {block!r} of level {resolution} is not there: take 0 or {BLOCKS - 1}")
        return level.blocks[block].attn


def make_attention(
    channels: int, partitions: Level, resolution: int, position_bias: bool = True
) -> Attention:
    """A freshly initialized attention layer for a level.

    Args:
        channels: of the level.
        partitions: of the level.
        resolution: tokens a side.
        position_bias: whether it has relative position tables.

    Raises:
        UserError: heads that do not divide the channels, or a partition that does not fit the level.
    """
    check_fits(partitions, resolution, resolution, resolution)
    first = partitions[0]
    if isinstance(first, ShiftedWindows):
        return ShiftedWindowAttention(channels, first, bias=position_bias)
    if isinstance(first, Full):
        return FullAttention(channels, first.heads, resolution, bias=position_bias)
    neighborhoods = [part for part in partitions if isinstance(part, HeadPartition)]
    return HydraNeighborhoodAttention(channels, neighborhoods, level=resolution, bias=position_bias)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight, gain=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
