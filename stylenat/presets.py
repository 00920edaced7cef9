"""Named configurations: a run is fully named by a preset plus overrides."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from stylenat.attention.partitions import (
    Levels,
    format_levels,
    head_counts,
    published_levels,
    pyramid_levels,
    resolutions,
    styleswin_levels,
    window_levels,
)
from stylenat.config import Config, convert_value
from stylenat.errors import UserError, unknown
from stylenat.paths import to_json
from stylenat.stages import HiTStage, SynthesisStage


def _published_widths(resolution: int, multiplier: int) -> tuple[int, ...]:
    """Channels at 4, 8, …, R: up to 32 pixels 512, at 64 `multiplier` · 256, and half as many each time."""
    count = resolution.bit_length() - 2
    return tuple(min(512, 16384 * multiplier // side) for side in resolutions(count))


def _discriminator_widths(resolution: int) -> tuple[int, ...]:
    """StyleSwin's: the features at R/2 have the width c(R), those below their own."""
    *coarse, _, finest = _published_widths(resolution, 2)
    return (*coarse, finest)


def _published(
    preset: str,
    resolution: int,
    cost: str,
    *,
    nimg: int = 64_000_000,
    data: str | None = None,
    multiplier: int = 2,
    min_heads: int = 4,
    rule: Callable[[Sequence[int]], Levels] = published_levels,
    **settings: Any,
) -> Config:
    """A configuration with the published channels, from a rule for its partitions."""
    widths = _published_widths(resolution, multiplier)
    return Config(
        preset=preset,
        data=f"datasets/{data or preset}",
        resolution=resolution,
        widths=widths,
        discriminator_widths=_discriminator_widths(resolution),
        nimg=nimg,
        min_heads=min_heads,
        partitions=rule(head_counts(widths, 32, min_heads)),
        cost=cost,
        **settings,
    )


def _hit(preset: str, widths: tuple[int, ...], units: tuple[int, ...], cost: str) -> Config:
    """HiT at 256 × 256, with the schedule of its authors but this repository's discriminator."""
    heads = (16, 8, 4, 4, 4, 4)
    patches = (4, 4, 8, 8, 0, 0)
    return Config(
        preset=preset,
        generator="hit",
        data="datasets/ffhq-256",
        resolution=256,
        widths=widths,
        stages=tuple(HiTStage(*stage) for stage in zip(units, heads, patches, strict=True)),
        discriminator_widths=_discriminator_widths(256),
        nimg=128_000_000,
        batch_size=256,
        generator_lr=5e-5,
        discriminator_lr=5e-5,
        decay_start=1.0,
        ema_half_life=177_000,  # 0.999 a step
        cost=cost,
    )


def _stylegan_xl(
    preset: str,
    stem: int,
    heads: tuple[int, ...],
    cost: str,
    kernels: tuple[int, ...] = (3, 3, 3, 3, 3),
    width: int = 1,
) -> Config:
    """StyleGAN-XL at 256 × 256, 16384 channels times cutoff and 256 at most as its command line counts them.

    Args:
        preset: name.
        stem: layers of the stem.
        heads: layers of the stages 32, 64, 128 and 256.
        cost: in words.
        kernels: of the stem and of the stages.
        width: factor of all channels.
    """
    layers = (stem, *heads)
    stages = [SynthesisStage(16 * 2**i, layers[i], kernels[i], width) for i in range(5)]
    return Config(
        preset=preset,
        generator="stylegan-xl",
        data="datasets/ffhq-256",
        resolution=256,
        widths=(512, 128),
        stages=tuple(stages),
        discriminator_widths=_discriminator_widths(256),
        nimg=64_000_000,
        latent_dim=64,
        style_dim=512,
        mapping_depth=2,
        cost=cost,
    )


def _small_run(
    preset: str,
    discriminator_widths: tuple[int, ...],
    nimg: int,
    snapshot: int,
    cost: str,
    *,
    data: str = "noto-faces",
    **generator: Any,
) -> Config:
    """What small networks for a CPU are trained by, whatever the generator.

    Measured on noto-faces: batches of 16 reach in 16,000 images a better score than batches of 32 in 36,000,
    and learning rates twenty and ten times the published ones learn in a run this short; DiffAugment without
    its colors is far worse (FD-lite0 684 against 529 after 24,000 images); falling learning rates spoil the
    end (461 when they began to fall, 514 at their end). The field's habits, not measured here: DiffAugment
    instead of bCR, which costs two more passes; R1 weak, as spectral norm and augmentation tame the
    discriminator already; an average over the last few thousand images.
    """
    return Config(
        preset=preset,
        data=data,
        resolution=8 * 2 ** (len(discriminator_widths) - 1),
        discriminator_widths=discriminator_widths,
        nimg=nimg,
        snapshot=snapshot,
        batch_size=16,
        generator_lr=1e-3,
        discriminator_lr=2e-3,
        decay_start=1.0,
        r1_gamma=0.1,
        bcr_weight=0.0,
        diffaugment=True,
        ema_half_life=5_000,
        cost=cost,
        **generator,
    )


def _small(
    preset: str,
    widths: tuple[int, ...],
    discriminator_widths: tuple[int, ...],
    nimg: int,
    snapshot: int,
    cost: str,
    *,
    data: str = "noto-faces",
    min_heads: int = 2,
    rule: Callable[[Sequence[int]], Levels] | None = None,
) -> Config:
    """A small StyleNAT: kernel 3, half the heads local, the others at dilation R/4; or another rule's."""
    heads = head_counts(widths, 16, min_heads)
    dilations = [(1, side // 4) for side in resolutions(len(widths))[1:]]
    return _small_run(
        preset,
        discriminator_widths,
        nimg,
        snapshot,
        cost,
        data=data,
        widths=widths,
        partitions=rule(heads) if rule else pyramid_levels(heads, dilations, kernel_size=3),
        head_dim=16,
        min_heads=min_heads,
        latent_dim=128,
        mapping_depth=2,
    )


def _church_levels(heads: Sequence[int]) -> Levels:
    """A pyramid of dilations 1, 2, 4, …, one more at every level.

    The authors' configuration is lost; this is a reader's proposal (SHI-Labs/StyleNAT, issue 18).
    """
    dilations = []
    for count in range(1, len(heads)):
        dilations.append([2**i for i in range(count)])
    return pyramid_levels(heads, dilations, kernel_size=7)


def _small_windows(heads: Sequence[int]) -> Levels:
    """StyleSwin's windows, half of them shifted, of half its published side: the images are small."""
    return window_levels(heads, 4)


# fmt: off
PRESETS = {config.preset: config for config in (
    _small("smoke",        (32, 32, 16, 16),     (32, 32, 16),      320,     160,    "10 s, 2 cores"),
    _small("noto-32",      (64, 64, 32, 16),     (128, 96, 48),     57_600,  7_200,  "20 min, 2 cores, 1 GB"),
    _small("noto-32-long", (64, 64, 32, 16),     (128, 96, 48),     160_000, 16_000, "1 h, 2 cores, 1 GB"),
    _small("noto-64",      (64, 64, 32, 16, 16), (128, 96, 48, 32), 240_000, 30_000, "3 h, 2 cores, 2 GB"),
    # Four heads at every level, so that there is room for a pyramid of partitions.
    _small("avatars-32",   (64, 64, 32, 16),     (128, 96, 48),     57_600,  7_200,  "20 min, 2 cores, 1 GB",
           data="avatars", min_heads=4),
    _small("avatars-64",   (64, 64, 32, 16, 16), (128, 96, 48, 32), 240_000, 30_000, "3 h, 2 cores, 2 GB",
           data="avatars", min_heads=4),
    # The compared generators as small, trained as noto-32 is; StyleSwin's windows are of 4 × 4.
    _small("styleswin-32", (64, 64, 32, 16),     (128, 96, 48),     57_600,  7_200,  "20 min, 2 cores, 1 GB",
           rule=_small_windows),
    _small_run("hit-32", (128, 96, 48), 57_600, 7_200, "20 min, 2 cores, 1 GB", generator="hit",
               widths=(48, 48, 32), stages=((2, 4, 4), (2, 4, 4), (1, 4, 0)), latent_dim=64),
    _small_run("stylegan-xl-32", (128, 96, 48), 57_600, 7_200, "1 h, 2 cores, 1 GB", generator="stylegan-xl",
               widths=(48, 24), stages=((16, 5, 3, 1), (32, 4, 3, 1)),
               latent_dim=64, style_dim=256, mapping_depth=2),
    _published("ffhq-256",   256,  "2 weeks on 8 A100, as published"),
    _published("ffhq-1024",  1024, "not published; weeks on 8 A100, and our guess of a schedule"),
    _published("church-256", 256,  "lost by the authors; a proposal", min_heads=8, rule=_church_levels),
    _published("styleswin-256",  256,  "StyleSwin's generator; as long as published", data="ffhq-256",
               nimg=32_000_000, batch_size=32, rule=styleswin_levels),
    _published("styleswin-1024", 1024, "StyleSwin's generator; our guess of a schedule", data="ffhq-1024",
               nimg=32_000_000, batch_size=32, multiplier=1, rule=styleswin_levels),
    _hit("hit-b", (512, 512, 256, 128, 64, 64),    (2, 2, 2, 2, 1, 1), "HiT-B's; as long as published"),
    _hit("hit-l", (1024, 512, 256, 128, 128, 128), (2, 2, 2, 2, 2, 2), "HiT-L's, inferred from its size"),
    _stylegan_xl("stylegan-xl-a", 7,  (4, 4, 4, 4), "StyleGAN-XL's generator, as documented; our schedule"),
    _stylegan_xl("stylegan-xl-b", 10, (7, 7, 7, 7), "StyleGAN-XL's generator, larger; our schedule"),
    _stylegan_xl("stylegan-xl-c", 12, (7, 7, 7, 7), "StyleGAN-XL's generator, larger still; our schedule"),
    _stylegan_xl("stylegan-xl-e", 6,  (6, 4, 4, 4), "StyleGAN-XL's generator, inferred from its size",
                 kernels=(1, 1, 3, 3, 3), width=2),
)}
# fmt: on


def get_config(preset: str, /, **overrides: Any) -> Config:
    """The configuration of a preset with fields replaced.

    Args:
        preset: name of one of `PRESETS`.
        overrides: fields and their values; `partitions` as text (see `parse_levels`) or as tuples. Where the
            preset's partitions follow a named rule, they follow it for other widths, too.

    Raises:
        UserError: an unknown preset or field, a value of the wrong type or out of its range, a partition that
            does not fit.
    """
    if not isinstance(preset, str):
        raise UserError(f"preset {preset!r} is {type(preset).__name__}: give a preset's name")
    if preset not in PRESETS:
        raise unknown("preset", preset, list(PRESETS))
    config = PRESETS[preset]
    names = [field.name for field in dataclasses.fields(Config) if field.name not in ("preset", "cost")]
    changes: dict[str, Any] = {}
    if config.partitions:
        # As text, so that partitions made by a named rule are made again where widths change.
        changes["partitions"] = format_levels(config.partitions)
    for name, value in overrides.items():
        if name not in names:
            raise unknown("override", name, names)
        if name == "partitions" and isinstance(value, tuple):
            changes[name] = value
        else:
            current = changes.get(name, "") if name == "partitions" else getattr(config, name)
            changes[name] = convert_value(name, value, current)
    return dataclasses.replace(config, **changes)


def run_id(config: Config) -> str:
    """The preset's name, and the configuration's hash where anything was overridden."""
    preset = PRESETS.get(config.preset)
    if preset is not None and preset.to_dict() == config.to_dict():
        return config.preset
    text = to_json(config.to_dict(), sort_keys=True)
    return f"{config.preset}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
