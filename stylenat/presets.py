"""Named configurations: a run is fully named by a preset plus overrides."""

import ast
import dataclasses
import hashlib
import json
from dataclasses import dataclass

from stylenat.discriminator import Discriminator
from stylenat.errors import UserError, unknown
from stylenat.generator import Generator
from stylenat.partition import (
    HeadPartition,
    ShiftedWindows,
    format_partitions,
    parse_partitions,
    published_partitions,
    split_heads,
)


def _positive(value):
    return value > 0


def _widths(value):
    return all(type(width) is int and width > 0 for width in value)


_ALLOWED = dict.fromkeys(
    ("nimg", "batch_size", "head_dim", "min_heads", "latent_dim", "mapping_depth", "r1_interval",
     "ema_half_life", "accumulate", "snapshot", "generator_lr", "discriminator_lr", "clip_norm"),
    (_positive, "above 0"),
) | dict.fromkeys(("widths", "discriminator_widths"), (_widths, "whole numbers above 0")) | {
    "seed": (lambda value: 0 <= value < 2**63, "from 0 to 2**63 - 1"),
    "adam_beta2": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "decay_start": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "r1_gamma": (lambda value: value >= 0, "0 or more"),
    "bcr_weight": (lambda value: value >= 0, "0 or more"),
}  # fmt: skip

# Left out of a run's identity: so runs recorded before these existed keep their names.
_HOW = {"checkpoint_levels": (), "accumulate": 1, "compile": False}


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's outcome. Defaults are the published FFHQ-256 schedule.

    Lengths of time are counted in images shown (nimg), so that they hold whatever the batch size is.
    """

    preset: str
    data: str
    resolution: int
    widths: tuple[int, ...]  # generator's channels at 4, 8, …, R
    discriminator_widths: tuple[int, ...]  # channels at 4, 8, …, R/2
    nimg: int
    batch_size: int = 64
    head_dim: int = 32
    min_heads: int = 4
    latent_dim: int = 512
    mapping_depth: int = 8
    partitions: str = ""  # levels from 8 on, '/' between; empty: the published rule; "swin": StyleSwin's
    generator_lr: float = 5e-5
    discriminator_lr: float = 2e-4
    adam_beta2: float = 0.99
    decay_start: float = 0.775  # share of nimg after which learning rates fall linearly to 0
    r1_gamma: float = 10.0
    r1_interval: int = 16  # steps
    bcr_weight: float = 10.0
    diffaugment: bool = False  # the discriminator sees augmented images only
    clip_norm: float = 5.0  # of the discriminator's gradient
    ema_half_life: int = 20_000  # images
    snapshot: int = 1_000_000  # images between checkpoints
    seed: int = 0
    # How it is computed, which changes no more than rounding, but for minibatch deviation in smaller batches.
    checkpoint_levels: tuple[int, ...] = ()  # generator's resolutions with activation checkpointing
    accumulate: int = 1  # micro-batches a step
    compile: bool = False  # both networks through torch.compile
    cost: str = dataclasses.field(default="", compare=False)

    def __post_init__(self):
        for name, (allowed, told) in _ALLOWED.items():
            if not allowed(getattr(self, name)):
                raise UserError(f"{name}={getattr(self, name)!r} must be {told}")
        if self.batch_size > 4 and self.batch_size % 4:
            raise UserError(
                f"batch_size={self.batch_size} must be below 5 or a multiple of 4 (minibatch deviation)"
            )
        micro = self.batch_size // self.accumulate
        if self.batch_size % self.accumulate or (micro > 4 and micro % 4):
            raise UserError(
                f"accumulate={self.accumulate} does not split batch_size={self.batch_size} in equal "
                "micro-batches below 5 or of a multiple of 4 images"
            )
        levels = len(self.widths)
        if self.resolution != 4 * 2 ** (levels - 1):
            raise UserError(
                f"{levels} widths make {4 * 2 ** (levels - 1)} pixels, not resolution={self.resolution}"
            )
        if odd := set(self.checkpoint_levels) - {4 * 2**i for i in range(levels)}:
            raise UserError(f"checkpoint_levels={min(odd)} is no level: take of 4, 8, …, {self.resolution}")
        if len(self.discriminator_widths) != levels - 1:
            raise UserError(
                f"discriminator_widths has {len(self.discriminator_widths)} entries, expected {levels - 1}: "
                f"one for each of 4 … {self.resolution // 2}"
            )
        self.level_partitions()

    def heads(self, width):
        """Heads of a level of that many channels (published: max(C / 32, 4))."""
        return max(width // self.head_dim, self.min_heads)

    def level_partitions(self):
        """The head partitions of every level from 4 × 4 on, as the generator takes them."""
        heads = [self.heads(width) for width in self.widths]
        if self.partitions == "swin":
            return tuple((ShiftedWindows(h, min(8, 4 * 2**i)),) for i, h in enumerate(heads))
        coarsest = (HeadPartition(heads[0], 3, 1),)  # full attention: only the heads count
        if not self.partitions:
            return (coarsest, *(published_partitions(h, 8 * 2**i) for i, h in enumerate(heads[1:])))
        given = [parse_partitions(text) for text in self.partitions.split("/")]
        if len(given) != len(heads) - 1:
            raise UserError(
                f"partitions={self.partitions!r} describes {len(given)} levels, expected {len(heads) - 1}: "
                f"one for each of 8 … {self.resolution}, with '/' between them"
            )
        for i, (partition, expected) in enumerate(zip(given, heads[1:], strict=True)):
            if (total := sum(part.heads for part in partition)) != expected:
                raise UserError(
                    f"partitions at level {8 * 2**i} hold {total} heads, expected {expected} "
                    f"(max({self.widths[i + 1]} // head_dim {self.head_dim}, min_heads {self.min_heads}))"
                )
        return (coarsest, *given)

    def to_dict(self):
        """Plain types only, `cost` and defaults of `_HOW` left out: what is hashed, stored and compared."""
        fields = dataclasses.asdict(self)
        hidden = [name for name, default in _HOW.items() if fields[name] == default]
        for name in ("cost", *hidden):
            del fields[name]
        return json.loads(json.dumps(fields))

    @property
    def run_id(self):
        """The preset's name, and the configuration's hash where anything was overridden."""
        preset = PRESETS.get(self.preset)
        if preset is not None and preset.to_dict() == self.to_dict():
            return self.preset
        text = json.dumps(self.to_dict(), sort_keys=True)
        return f"{self.preset}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"

    def build_generator(self):
        return Generator(self.widths, self.level_partitions(), self.latent_dim, self.mapping_depth)

    def build_discriminator(self):
        return Discriminator(self.discriminator_widths)


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
    its colours is far worse (FD-lite0 684 against 529 after 24,000 images); falling learning rates spoil the
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


def parse_overrides(settings):
    """`["nimg=1000", "partitions=4x7@1/…"]` → `{"nimg": 1000, …}`, as `--set` takes them.

    Raises:
        UserError: an entry without '='.
    """
    overrides = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise UserError(f"override {setting!r} has no '=': write name=value, such as nimg=10000")
        try:
            overrides[name] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            overrides[name] = text
    return overrides


def _typed(name, value, current):
    kind = type(current)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if type(value) is not kind:
        raise UserError(
            f"{name}={value!r} is {type(value).__name__}, expected {kind.__name__}, such as {current!r}"
        )
    return value


def build_generator(preset, **overrides):
    """A freshly initialised generator of a preset: z `(B, latent_dim)` → images `(B, 3, R, R)`."""
    return get_config(preset, **overrides).build_generator()


def build_discriminator(preset, **overrides):
    """A freshly initialised discriminator of a preset: images `(B, 3, R, R)` → logits `(B, 1)`."""
    return get_config(preset, **overrides).build_discriminator()
