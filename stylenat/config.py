"""The configuration of a run: every field, what it means, and the values it may take."""

import ast
import dataclasses
import json
from dataclasses import dataclass

from stylenat.attention.partitions import (
    HeadPartition,
    ShiftedWindows,
    parse_partitions,
    published_partitions,
)
from stylenat.errors import UserError


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
