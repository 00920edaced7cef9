"""Named configurations: a run is fully named by a preset plus overrides."""

import dataclasses
import hashlib
import json

from stylenat.attention.partitions import (
    HeadPartition,
    format_partitions,
    split_heads,
)
from stylenat.config import Config, _typed
from stylenat.errors import unknown


def _levels(heads, dilations, kernel_size):
    """Partition text: at each level the heads shared among the level's dilations."""
    shares = (zip(split_heads(h, len(d)), d, strict=True) for h, d in zip(heads, dilations, strict=True))
    return "/".join(format_partitions(HeadPartition(n, kernel_size, d) for n, d in level) for level in shares)


def _published(preset, resolution, cost, nimg=64_000_000, data=None, multiplier=2, **settings):
    """The published channels: up to 32 pixels 512, at 64 `multiplier` · 256, and half as many each time."""

    def channels(multiplier):
        return tuple(min(512, 16384 * multiplier // (4 * 2**i)) for i in range(resolution.bit_length() - 2))

    widths = channels(2)
    return Config(
        preset=preset,
        data=f"datasets/{data or preset}",
        resolution=resolution,
        widths=channels(multiplier),
        # The features at R/2 have the width c(R), those below their own (StyleSwin's discriminator).
        discriminator_widths=(*widths[:-2], widths[-1]),
        nimg=nimg,
        cost=cost,
        **settings,
    )


def _noto(preset, widths, discriminator_widths, nimg, snapshot, cost):
    """Small networks for a CPU: kernel 3, one half of the heads local, the other at dilation R/4.

    Measured on noto-faces: batches of 16 reach in 16,000 images a better score than batches of 32 in 36,000,
    and learning rates twenty and ten times the published ones learn in a run this short; DiffAugment without
    its colors is far worse (FD-lite0 684 against 529 after 24,000 images); falling learning rates spoil the
    end (461 when they began to fall, 514 at their end). The field's habits, not measured here: DiffAugment
    instead of bCR, which costs two more passes; R1 weak, as spectral norm and augmentation tame the
    discriminator already; an average over the last few thousand images.
    """
    dilations = [(1, 2 * 2**i) for i in range(len(widths) - 1)]
    return Config(
        preset=preset,
        data="noto-faces",
        resolution=4 * 2 ** (len(widths) - 1),
        widths=widths,
        discriminator_widths=discriminator_widths,
        partitions=_levels([max(width // 16, 2) for width in widths[1:]], dilations, kernel_size=3),
        nimg=nimg,
        snapshot=snapshot,
        batch_size=16,
        head_dim=16,
        min_heads=2,
        latent_dim=128,
        mapping_depth=2,
        generator_lr=1e-3,
        discriminator_lr=2e-3,
        decay_start=1.0,
        r1_gamma=0.1,
        bcr_weight=0.0,
        diffaugment=True,
        ema_half_life=5_000,
        cost=cost,
    )


# The authors' configuration is lost; this is a reader's proposal (SHI-Labs/StyleNAT, issue 18).
_CHURCH = _levels(
    (16, 16, 16, 16, 8, 8), [[2**i for i in range(n)] for n in (1, 2, 3, 4, 5, 6)], kernel_size=7
)

# fmt: off
PRESETS = {config.preset: config for config in (
    _noto("smoke",        (32, 32, 16, 16),     (32, 32, 16),      320,     160,    "10 s, 2 cores"),
    _noto("noto-32",      (64, 64, 32, 16),     (128, 96, 48),     57_600,  7_200,  "20 min, 2 cores, 1 GB"),
    _noto("noto-32-long", (64, 64, 32, 16),     (128, 96, 48),     160_000, 16_000, "1 h, 2 cores, 1 GB"),
    _noto("noto-64",      (64, 64, 32, 16, 16), (128, 96, 48, 32), 240_000, 30_000, "3 h, 2 cores, 2 GB"),
    _published("ffhq-256",   256,  "2 weeks on 8 A100, as published"),
    _published("ffhq-1024",  1024, "not published; weeks on 8 A100, and our guess of a schedule"),
    _published("church-256", 256,  "lost by the authors; a proposal", min_heads=8, partitions=_CHURCH),
    _published("styleswin-256",  256,  "StyleSwin's generator; as long as published", data="ffhq-256",
               nimg=32_000_000, batch_size=32, partitions="swin"),
    _published("styleswin-1024", 1024, "StyleSwin's generator; our guess of a schedule", data="ffhq-1024",
               nimg=32_000_000, batch_size=32, multiplier=1, partitions="swin"),
)}
# fmt: on


def get_config(preset, **overrides):
    """The configuration of a preset with fields replaced.

    Raises:
        UserError: an unknown preset or field, a value of the wrong type, a partition that does not fit.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, list(PRESETS))
    config = PRESETS[preset]
    names = [field.name for field in dataclasses.fields(Config) if field.name not in ("preset", "cost")]
    for name, value in overrides.items():
        if name not in names:
            raise unknown("override", name, names)
        overrides[name] = _typed(name, value, getattr(config, name))
    return dataclasses.replace(config, **overrides)


def run_id(config):
    """The preset's name, and the configuration's hash where anything was overridden."""
    preset = PRESETS.get(config.preset)
    if preset is not None and preset.to_dict() == config.to_dict():
        return config.preset
    text = json.dumps(config.to_dict(), sort_keys=True)
    return f"{config.preset}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
