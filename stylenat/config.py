"""The configuration of a run: every field, what it means, and the values it may take."""

import ast
import dataclasses
import functools
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from stylenat.attention.partitions import (
    Levels,
    check_fits,
    check_levels,
    count_heads,
    format_levels,
    head_counts,
    parse_levels,
    resolutions,
)
from stylenat.errors import UserError, check_fields, check_number
from stylenat.paths import from_json, to_json
from stylenat.stages import HiTStage, SynthesisStage, check_hit, check_stylegan_xl, hit_resolutions


@dataclass(frozen=True)
class Allowed:
    """The values that a field may take; stands beside its type.

    Attributes:
        holds: whether a value is one of them.
        words: how an error puts it, after "must be".
    """

    holds: Callable[[Any], bool]
    words: str


ABOVE_0 = Allowed(lambda value: value > 0, "above 0")
COUNT = Allowed(lambda value: 0 < value < 2**63, "above 0 and below 2**63")
BATCH = Allowed(lambda value: 0 < value <= 2**16, "above 0, at most 65536")
NOT_BELOW_0 = Allowed(lambda value: value >= 0, "0 or more")
SHARE = Allowed(lambda value: 0 <= value <= 1, "from 0 to 1")
BETA = Allowed(lambda value: 0 <= value < 1, "from 0 to below 1")
SEED = Allowed(lambda value: 0 <= value < 2**63, "from 0 to 2**63 - 1")
WIDTHS = Allowed(
    lambda value: all(type(width) is int and width > 0 for width in value), "whole numbers above 0"
)
NOT_EMPTY = Allowed(lambda value: value != "", "a folder, a zip or the name of a bundled dataset")
# Empty: by the device, as all runs before there was this field.
DTYPE = Allowed(lambda value: value in ("", "float32", "bfloat16"), "float32 or bfloat16, or be left out")
MOST_PARAMETERS = 2 * 10**9  # of a network's part: more is a mistake, and would fill the memory
# Whose generator: a value of `Config.generator`, with the settings that it has no use for.
GENERATORS = {
    "stylenat": ("stages", "style_dim"),
    "hit": (
        "partitions",
        "head_dim",
        "min_heads",
        "mapping_depth",
        "style_dim",
        "checkpoint_levels",
        "position_bias",
        "paired",
    ),
    "stylegan-xl": ("partitions", "head_dim", "min_heads", "position_bias", "paired"),
}
GENERATOR = Allowed(lambda value: value in GENERATORS, f"one of {', '.join(GENERATORS)}")

# What a field of that type may be given as.
_KINDS: dict[type, type] = {int: numbers.Integral, float: numbers.Real, bool: bool, str: str}

# Left out of a run's identity where they have their defaults: runs recorded before these existed keep their
# names.
_OMITTED_DEFAULTS = (
    "checkpoint_levels",
    "accumulate",
    "compile",
    "variant",
    "position_bias",
    "flips",
    "paired",
    "generator",
    "stages",
    "style_dim",
    "dtype",
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run's outcome. Defaults are the published FFHQ-256 schedule.

    Lengths of time are counted in images shown (nimg), so that they hold whatever the batch size is.

    Attributes:
        preset: name of the preset it came from.
        data: dataset: a folder, a zip, or the name of a bundled one.
        resolution: pixels a side of an image, R.
        widths: the generator's channels at 4, 8, …, R; HiT's at 8, 16, …, R; of StyleGAN-XL two numbers, the
            most channels and those of the last convolution, see `plan_layers`.
        discriminator_widths: channels at 4, 8, …, R/2.
        nimg: images shown in all.
        batch_size: images a step.
        head_dim: channels of an attention head, where `min_heads` asks for no smaller ones.
        min_heads: the least heads of a level.
        latent_dim: size of z, and of w where `style_dim` is 0.
        mapping_depth: layers of the mapping network.
        partitions: attention of the levels 4, 8, …, R, a tuple of partitions each. May be given as text, see
            `parse_levels`, which is how it is stored; it holds tuples from then on.
        generator_lr: learning rate of the generator.
        discriminator_lr: learning rate of the discriminator.
        adam_beta2: Adam's second decay.
        decay_start: share of nimg after which learning rates fall linearly to 0.
        r1_gamma: weight of the gradient penalty.
        r1_interval: steps from one gradient penalty to the next.
        bcr_weight: weight of balanced consistency regularization.
        diffaugment: the discriminator sees augmented images only.
        clip_norm: largest norm of the discriminator's gradient.
        ema_half_life: of the averaged generator, in images.
        snapshot: images between checkpoints.
        seed: of everything random.
        variant: the arm of an ablation that the run belongs to, as its tables name it; empty: none.
        position_bias: whether attention has relative position tables, as published.
        flips: whether training images are mirrored at random, when they are read and when they are augmented.
        paired: the first weights depend on the seed and not on the attention, so that the arms of an ablation
            begin alike.
        generator: whose, "stylenat", "hit" or "stylegan-xl"; StyleSwin's is StyleNAT's with its partitions.
        stages: what another generator than StyleNAT's is made of: HiT's levels, each (units, heads, patch),
            see `HiTStage`, or StyleGAN-XL's stages, each (resolution, layers, kernel size, factor of the
            widths), see `SynthesisStage`.
        style_dim: size of StyleGAN-XL's w.
        dtype: of large products, "float32" or "bfloat16" (by autocast; everything else stays in float32);
            empty: bfloat16 on a GPU, float32 on a CPU.
        checkpoint_levels: generator's resolutions with activation checkpointing. This and the next two are
            how it is computed, which changes no more than rounding, but for minibatch deviation in smaller
            batches.
        accumulate: micro-batches a step.
        compile: both networks through `torch.compile`.
        cost: of the preset, in words; no part of the identity.

    Raises:
        UserError: a value out of its range, or values that do not fit each other.
    """

    preset: str
    data: Annotated[str, NOT_EMPTY]
    resolution: int
    widths: Annotated[tuple[int, ...], WIDTHS]
    discriminator_widths: Annotated[tuple[int, ...], WIDTHS]
    nimg: Annotated[int, COUNT]
    batch_size: Annotated[int, BATCH] = 64
    head_dim: Annotated[int, COUNT] = 32
    min_heads: Annotated[int, COUNT] = 4
    latent_dim: Annotated[int, COUNT] = 512
    mapping_depth: Annotated[int, COUNT] = 8
    partitions: Levels = ()
    generator_lr: Annotated[float, ABOVE_0] = 5e-5
    discriminator_lr: Annotated[float, ABOVE_0] = 2e-4
    adam_beta2: Annotated[float, BETA] = 0.99
    decay_start: Annotated[float, SHARE] = 0.775
    r1_gamma: Annotated[float, NOT_BELOW_0] = 10.0
    r1_interval: Annotated[int, COUNT] = 16
    bcr_weight: Annotated[float, NOT_BELOW_0] = 10.0
    diffaugment: bool = False
    clip_norm: Annotated[float, ABOVE_0] = 5.0
    ema_half_life: Annotated[int, COUNT] = 20_000
    snapshot: Annotated[int, COUNT] = 1_000_000
    seed: Annotated[int, SEED] = 0
    variant: str = ""
    position_bias: bool = True
    flips: bool = True
    paired: bool = False
    generator: Annotated[str, GENERATOR] = "stylenat"
    stages: tuple[tuple[int, ...], ...] = ()
    style_dim: Annotated[int, NOT_BELOW_0] = 0
    dtype: Annotated[str, DTYPE] = ""
    checkpoint_levels: tuple[int, ...] = ()
    accumulate: Annotated[int, COUNT] = 1
    compile: bool = False
    cost: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        self._check_types()
        check_fields(self, without=["partitions"])  # which may be text, too
        self._check_ranges()
        self._check_size()
        self._check_batches()
        self._check_unused()
        if self.generator == "stylenat":
            self._check_widths()
        else:
            self._check_stages()
        self._check_levels()
        if self.generator != "stylenat":
            return
        if isinstance(self.partitions, str):
            object.__setattr__(self, "partitions", parse_levels(self.partitions, self.level_heads))
        self._check_partitions()

    def _check_types(self) -> None:
        """Numbers become Python's own: JSON has no form for NumPy's."""
        for name, kind in get_type_hints(Config).items():
            value = getattr(self, name)
            expected = _KINDS.get(kind)
            if expected is None or type(value) is kind or (kind is float and type(value) is int):
                continue
            if isinstance(value, bool) or not isinstance(value, expected):
                raise UserError(f"{name}={value!r} is {type(value).__name__}, expected {kind.__name__}")
            object.__setattr__(self, name, kind(value))

    def _check_ranges(self) -> None:
        for name, allowed in _ranges().items():
            value = getattr(self, name)
            if isinstance(value, float):
                check_number(name, value)
            if not allowed.holds(value):
                raise UserError(f"{name}={value!r} must be {allowed.words}")

    def _check_size(self) -> None:
        """Refuse networks that no machine holds, roughly: by their matrices alone."""
        counts = {
            f"latent_dim={self.latent_dim} and mapping_depth={self.mapping_depth}": (
                self.mapping_depth * self.latent_dim**2
            ),
            f"widths={self.widths}": sum(
                24 * width**2 + 8 * width * self.latent_dim for width in self.widths
            ),
            f"discriminator_widths={self.discriminator_widths}": sum(
                18 * width**2 for width in self.discriminator_widths
            ),
        }
        for settings, count in counts.items():
            if count > MOST_PARAMETERS:
                raise UserError(
                    f"{settings} make over {MOST_PARAMETERS:,} parameters, {count:.1e}: take smaller numbers"
                )

    def _check_batches(self) -> None:
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

    def _check_unused(self) -> None:
        """Refuse what the generator has no use for."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in GENERATORS[self.generator] and value != field.default:
                raise UserError(
                    f"{field.name}={value!r} means nothing to generator {self.generator!r}: leave it out"
                )

    def _check_widths(self) -> None:
        sides = resolutions(len(self.widths))
        for side, width in zip(sides[1:], self.widths[1:], strict=True):
            if width < 8 or width % 4:
                raise UserError(
                    f"widths={self.widths!r}: {width} at level {side} has no position embedding, take "
                    "multiples of 4 from 8 on"
                )

    def _check_stages(self) -> None:
        kind = HiTStage if self.generator == "hit" else SynthesisStage
        names = ", ".join(kind._fields)
        for stage in self.stages:
            numbers = stage if isinstance(stage, tuple | list) else ()
            if len(numbers) != len(kind._fields) or any(type(number) is not int for number in numbers):
                raise UserError(f"stages: {stage!r} must be the whole numbers ({names})")
        # Plain tuples, whether they come from a preset, from JSON or from the command line.
        object.__setattr__(self, "stages", tuple(tuple(stage) for stage in self.stages))
        if self.generator == "hit":
            check_hit([HiTStage(*stage) for stage in self.stages], self.widths)
            return
        check_stylegan_xl([SynthesisStage(*stage) for stage in self.stages])
        if len(self.widths) != 2 or not self.style_dim:
            raise UserError(
                f"widths={self.widths!r} and style_dim={self.style_dim}: StyleGAN-XL needs two widths, the "
                "most and the last, and a style_dim above 0"
            )

    def _check_levels(self) -> None:
        sides = self.level_sides
        finest = sides[-1] if sides else 0
        if self.resolution != finest:
            what = f"{len(sides)} {'widths' if self.generator == 'stylenat' else 'stages'}"
            raise UserError(f"{what} make {finest} pixels, not resolution={self.resolution}")
        for level in self.checkpoint_levels:
            if type(level) is not int or level not in sides:
                known = "4, 8, …" if self.generator == "stylenat" else f"{sides[0]}, …"
                raise UserError(
                    f"checkpoint_levels={level!r} is no level: take of {known}, {self.resolution}"
                )
        halves = self.resolution.bit_length() - 3
        if len(self.discriminator_widths) != halves:
            raise UserError(
                f"discriminator_widths has {len(self.discriminator_widths)} entries, expected "
                f"{halves}: one for each of 4 … {self.resolution // 2}"
            )

    def _check_partitions(self) -> None:
        expected = self.level_heads
        check_levels(self.partitions)
        if len(self.partitions) != len(expected):
            raise UserError(
                f"partitions describe {len(self.partitions)} levels, expected {len(expected)}: "
                f"one for each of 4 … {self.resolution}"
            )
        sides = resolutions(len(expected))
        for side, width, level, heads in zip(sides, self.widths, self.partitions, expected, strict=True):
            if (total := count_heads(level)) != heads:
                raise UserError(
                    f"partitions at level {side} hold {total} heads, expected {heads} "
                    f"(max({width} // head_dim {self.head_dim}, min_heads {self.min_heads}))"
                )
        for side, level in zip(sides, self.partitions, strict=True):
            check_fits(level, side, side, side)

    @property
    def level_sides(self) -> tuple[int, ...]:
        """Tokens or pixels a side of the generator's levels."""
        if self.generator == "hit":
            return hit_resolutions(len(self.stages))
        if self.generator == "stylegan-xl":
            return tuple(stage[0] for stage in self.stages)
        return resolutions(len(self.widths))

    @property
    def level_heads(self) -> tuple[int, ...]:
        """Heads of the levels 4, 8, …, R; see `head_counts`."""
        return head_counts(self.widths, self.head_dim, self.min_heads)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only: what is hashed, stored and compared; see `from_dict`.

        Partitions are text. `cost` is left out, and so are the defaults of fields that came later.
        """
        plain: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "cost" or (field.name in _OMITTED_DEFAULTS and value == field.default):
                continue
            if field.name in GENERATORS[self.generator]:
                continue
            plain[field.name] = format_levels(value) if field.name == "partitions" else value
        return from_json(to_json(plain))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Config":
        """The configuration of what `to_dict` gave.

        Raises:
            UserError: as of `Config`.
            TypeError: a field is missing or unknown.
        """
        values: dict[str, Any] = {}
        for name, value in fields.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


@functools.cache
def _ranges() -> dict[str, Allowed]:
    """The allowed values of every field that states them."""
    found = {}
    for name, hint in get_type_hints(Config, include_extras=True).items():
        for entry in getattr(hint, "__metadata__", ()):
            if isinstance(entry, Allowed):
                found[name] = entry
    return found


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """`["nimg=1000", "partitions=4x7@1/…"]` → `{"nimg": 1000, …}`, as `--set` takes them.

    Args:
        settings: `name=value` each; a value that is no Python literal is text.

    Returns:
        Values by field, types not yet checked.

    Raises:
        UserError: an entry without '=', or a name that is set twice.
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise UserError(f"override {setting!r} has no '=': write name=value, such as nimg=10000")
        if name in overrides:
            raise UserError(f"{name} is set twice, to {overrides[name]!r} and {text!r}: set it once")
        overrides[name] = _literal(text)
    return overrides


def _literal(text: str) -> Any:
    """The value of a Python literal; any other text, too deep or long a one as well, is itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text


def convert_value(name: str, value: Any, current: Any) -> Any:
    """A field's new value in the type of its current one: an int becomes a float, a list a tuple.

    Args:
        name: of the field.
        value: the new one.
        current: the one that it replaces.

    Raises:
        UserError: a value of another type.
    """
    kind = type(current)
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{name}={value!r} is too large: give a number below 1e308") from None
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if type(value) is not kind:
        raise UserError(
            f"{name}={value!r} is {type(value).__name__}, expected {kind.__name__}, such as {current!r}"
        )
    return value
