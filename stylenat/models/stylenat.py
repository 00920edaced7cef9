"""StyleNAT's generator: style-modulated transformer blocks from 4 × 4 up to the image (paper, section 3)."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from stylenat.attention.layers import FullAttention, HydraNeighborhoodAttention
from stylenat.attention.partitions import ShiftedWindows
from stylenat.attention.shifted_windows import ShiftedWindowAttention
from stylenat.errors import UserError
from stylenat.models.layers import AdaIN, MappingLayer, PixelNorm, fir_upsample, position_embedding
from stylenat.models.mlp import mlp


class ConstantInput(nn.Module):
    """The learned 4 × 4 image every image grows from; returns `(B, 4, 4, C)`."""

    def __init__(self, channels):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch):
        return self.input.permute(0, 2, 3, 1).expand(batch, -1, -1, -1)


class MLP(nn.Module):
    """Linear C → 4C, exact GELU, linear 4C → C."""

    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x):
        return mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)


class Block(nn.Module):
    """Pre-norm transformer block under a style: attention, then MLP, each behind its AdaIN."""

    def __init__(self, channels, attention, style_dim):
        super().__init__()
        self.norm1 = AdaIN(channels, style_dim)
        self.attn = attention
        self.norm2 = AdaIN(channels, style_dim)
        self.mlp = MLP(channels)

    def forward(self, x, style):
        x = x + self.attn(self.norm1(x, style))
        return x + self.mlp(self.norm2(x, style))


class Upsample(nn.Module):
    """Bilinear ×2, layer norm, linear C → C', plus `alpha` times a position embedding."""

    def __init__(self, channels, out_channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1))
        self.norm = nn.LayerNorm(channels)
        self.reduction = nn.Linear(channels, out_channels, bias=False)

    def forward(self, x):
        x = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")
        x = self.reduction(self.norm(x.permute(0, 2, 3, 1)))  # (B, 2H, 2W, C')
        return torch.addcmul(x, self.alpha, position_embedding(x.shape[-1], x.shape[1], x.device))


class Level(nn.Module):
    """Two blocks at one resolution, then, but at the last level, the way up to the next."""

    def __init__(self, channels, out_channels, make_attention, style_dim):
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels, make_attention(), style_dim) for _ in range(2))
        self.upsample = Upsample(channels, out_channels) if out_channels else None

    def forward(self, x, styles):
        for block, style in zip(self.blocks, styles, strict=True):
            x = block(x, style)
        return self.upsample(x) if self.upsample else x


class ToRGB(nn.Module):
    """1 × 1 convolution of `(B, H, W, C)` to colors, added to the colors of the levels below."""

    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.conv = nn.Conv2d(channels, 3, 1)

    def forward(self, x, skip):
        rgb = self.conv(x.permute(0, 3, 1, 2)) + self.bias
        if skip is None:
            return rgb
        return rgb + (skip if skip.shape == rgb.shape else fir_upsample(skip))


class Generator(nn.Module):
    """StyleNAT generator.

    Args:
        widths: channels of the levels 4, 8, …, R.
        partitions: the levels' head partitions, one tuple a level, of `HeadPartition` or of one
            `ShiftedWindows` (StyleSwin). At 4 × 4 Hydra's attention is full: only the number of heads counts.
        latent_dim: size of z and of the style w.
        mapping_depth: layers of the mapping network.

    Attributes:
        mean_style: the mean w `(latent_dim,)` that truncation moves towards; None until it is estimated.
        checkpoint_levels: resolutions whose activations are not kept for the backward pass but computed anew.

    Raises:
        UserError: widths and partitions differ in number, or a partition does not fit its level.
    """

    def __init__(self, widths, partitions, latent_dim=512, mapping_depth=8):
        super().__init__()
        if len(widths) != len(partitions):
            raise UserError(
                f"{len(widths)} widths and {len(partitions)} partitions: give one of each for every level"
            )
        self.latent_dim = latent_dim
        self.partitions = tuple(map(tuple, partitions))
        self.register_buffer("mean_style", None, persistent=False)  # no tensor of the published state dict
        self.resolution = 4 * 2 ** (len(widths) - 1)
        self.checkpoint_levels = ()
        self.style = nn.Sequential(PixelNorm(), *(MappingLayer(latent_dim) for _ in range(mapping_depth)))
        self.input = ConstantInput(widths[0])
        self.layers = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for i, (width, partition) in enumerate(zip(widths, partitions, strict=True)):
            upper = widths[i + 1] if i + 1 < len(widths) else None
            self.layers.append(Level(width, upper, _attention_maker(width, partition, 4 * 2**i), latent_dim))
            self.to_rgbs.append(ToRGB(upper or width))
        self.apply(_initialize)

    @property
    def num_styles(self):
        """Styles a w+ holds: one for each block."""
        return 2 * len(self.layers)

    def mapping(self, z):
        """Latents z `(B, latent_dim)` → styles w `(B, latent_dim)`."""
        return self.style(z)

    def synthesis(self, w):
        """Styles w `(B, latent_dim)`, or w+ `(B, num_styles, latent_dim)`, → images `(B, 3, R, R)`."""
        styles = (w[:, None].expand(-1, self.num_styles, -1) if w.ndim == 2 else w).unbind(1)
        x, skip = self.input(len(w)), None
        for i, (level, to_rgb) in enumerate(zip(self.layers, self.to_rgbs, strict=True)):
            own = styles[2 * i : 2 * i + 2]
            if 4 * 2**i in self.checkpoint_levels and torch.is_grad_enabled():
                x = checkpoint(level, x, own, use_reentrant=False, preserve_rng_state=False)
            else:
                x = level(x, own)
            skip = to_rgb(x, skip)
        return skip

    def forward(self, z):
        """Latents z `(B, latent_dim)` → ImageNet-normalized images `(B, 3, R, R)`."""
        return self.synthesis(self.mapping(z))


def _attention_maker(width, partition, resolution):
    if isinstance(partition[0], ShiftedWindows):
        return lambda: ShiftedWindowAttention(width, partition[0])
    if resolution == 4:
        return lambda: FullAttention(width, sum(part.heads for part in partition))
    return lambda: HydraNeighborhoodAttention(width, partition, level=resolution)


def _initialize(module):
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight, gain=0.02)
        nn.init.zeros_(module.bias)
