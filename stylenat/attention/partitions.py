"""How each level's heads are shared among neighborhoods (paper, section 3.2, "Hydra"): types, rules and text.

Level i of a generator is a grid of 4 · 2^i tokens a side. Its attention is a tuple of partitions, whose heads
add up to the level's:

    HeadPartition(4, 7, 8)   4x7@8     4 heads, each sees 7 × 7 keys that are 8 tokens apart
    Full(4)                  4xfull    4 heads, each sees all of a square grid; alone in its level
    ShiftedWindows(4, 8)     4xswin8   StyleSwin's: windows of 8 × 8, half of them shifted; alone in its level
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stylenat.errors import UserError

COARSEST = 4  # tokens a side of the first level
WIDEST = 1024  # tokens a side of a neighborhood or window, whose table has four times as many squared
OCTAVES = 4  # partitions of a pyramid


def resolutions(count: int) -> tuple[int, ...]:
    """Tokens a side of `count` levels: 4, 8, 16, …."""
    return tuple(COARSEST * 2**i for i in range(count))


@dataclass(frozen=True)
class HeadPartition:
    """`heads` heads that see `kernel_size` × `kernel_size` keys, `dilation` tokens apart.

    Attributes:
        heads: number of heads.
        kernel_size: keys a side of a neighborhood, odd and at least 3.
        dilation: tokens from one key to the next.

    Raises:
        UserError: heads or dilation below 1, an even kernel or one below 3, anything but an int.
    """

    heads: int
    kernel_size: int
    dilation: int = 1

    def __post_init__(self) -> None:
        for name, least in (("heads", 1), ("kernel_size", 3), ("dilation", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UserError(f"{name} {value!r} of a head partition: give an int of at least {least}")
        if self.kernel_size > WIDEST:
            raise UserError(f"kernel_size {self.kernel_size}: give at most {WIDEST - 1}")
        if self.kernel_size % 2 == 0:
            nearest = f"{self.kernel_size - 1} or {self.kernel_size + 1}"
            raise UserError(
                f"kernel_size {self.kernel_size} is even: a neighborhood has its query in the middle; "
                f"give {nearest}"
            )

    @property
    def table_shape(self) -> tuple[int, int, int]:
        """Shape of the relative position bias: `(heads, 2k - 1, 2k - 1)`."""
        return self.heads, 2 * self.kernel_size - 1, 2 * self.kernel_size - 1

    def __str__(self) -> str:
        return f"{self.heads}x{self.kernel_size}@{self.dilation}"


@dataclass(frozen=True)
class Full:
    """All `heads` of a level, each of which sees every token; the published models have it at 4 × 4 alone.

    Attributes:
        heads: number of heads.

    Raises:
        UserError: heads that are no int of at least 1.
    """

    heads: int

    def __post_init__(self) -> None:
        if type(self.heads) is not int or self.heads < 1:
            raise UserError(f"heads {self.heads!r} of full attention: give an int of at least 1")

    def __str__(self) -> str:
        return f"{self.heads}xfull"


@dataclass(frozen=True)
class ShiftedWindows:
    """All `heads` of a level in StyleSwin's windows: half of them in plain ones, half in shifted ones.

    Attributes:
        heads: number of heads, even.
        window_size: tokens a side of a window, even.

    Raises:
        UserError: heads or window_size that are no even int of at least 2.
    """

    heads: int
    window_size: int

    def __post_init__(self) -> None:
        for name in ("heads", "window_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 2 or value % 2:
                raise UserError(f"{name} {value!r} of shifted windows: give an even int of at least 2")
        if self.window_size > WIDEST:
            raise UserError(f"window_size {self.window_size}: give at most {WIDEST}")

    def __str__(self) -> str:
        return f"{self.heads}xswin{self.window_size}"


Partition = HeadPartition | Full | ShiftedWindows
Level = tuple[Partition, ...]
Levels = tuple[Level, ...]


# What fits


def check_partitions(level: Sequence[Partition]) -> None:
    """Check that a level is made of partitions.

    Raises:
        UserError: it is something else, such as text; names it.
    """
    for part in [level] if isinstance(level, str) or not isinstance(level, Sequence) else level:
        if not isinstance(part, Partition):
            raise UserError(
                f"partition {part!r} is {type(part).__name__}: give HeadPartition(heads, kernel_size, "
                'dilation) and the like, or parse_partitions("2x7@1,2x7@8") of heads x kernel @ dilation'
            )


def check_levels(levels: Sequence[Level]) -> None:
    """Check that every level is made of partitions; raises as `check_partitions`."""
    for level in levels:
        check_partitions(level)


def count_heads(level: Sequence[Partition]) -> int:
    """Heads of all partitions of a level together."""
    return sum(part.heads for part in level)


def check_fits(level: Sequence[Partition], height: int, width: int, resolution: int | None = None) -> None:
    """Check that each partition fits a `height` × `width` grid of tokens.

    Args:
        level: the partitions.
        height: tokens of a column.
        width: tokens of a row.
        resolution: of the level, if known: it is named in errors.

    Raises:
        UserError: kernel_size · dilation exceeds an axis (names level, k, d and n), windows that do not fill
            the grid, full attention on a grid that is no square, either of them beside other partitions, or
            no partition at all.
    """
    where = "" if resolution is None else f"level {resolution}: "
    if len(level) != 1 and not (level and all(isinstance(part, HeadPartition) for part in level)):
        raise UserError(
            f"{where}partitions {format_partitions(level)!r}: give one or more of heads x kernel @ dilation, "
            "or full attention or windows alone"
        )
    for part in level:
        if isinstance(part, HeadPartition):
            problem = _neighborhood_problem(part, min(height, width))
        elif isinstance(part, ShiftedWindows):
            problem = _windows_problem(part.window_size, height, width)
        else:
            problem = _full_problem(height, width)
        if problem:
            raise UserError(where + problem)


def _neighborhood_problem(part: HeadPartition, n: int) -> str:
    k = part.kernel_size
    d = part.dilation
    if k * d <= n:
        return ""
    fix = f"d of at most {n // k}" if n >= k else "a smaller kernel or a larger level"
    return f"kernel k={k} with dilation d={d} spans k*d={k * d} tokens, over n={n}: take {fix}"


def _windows_problem(size: int, height: int, width: int) -> str:
    if height % size == 0 and width % size == 0:
        return ""
    return f"windows of {size} × {size} do not fill {height} × {width} tokens: give multiples of {size}"


def _full_problem(height: int, width: int) -> str:
    if height == width:
        return ""
    return f"full attention got {height} × {width} tokens: give a square, or use HydraNeighborhoodAttention"


# Rules: from the levels' numbers of heads to their partitions


def head_counts(widths: Sequence[int], head_dim: int, min_heads: int) -> tuple[int, ...]:
    """Heads of each level: `max(C // head_dim, min_heads)` (published: max(C / 32, 4)).

    Args:
        widths: channels C of the levels.
        head_dim: channels of a head.
        min_heads: the least heads of a level.
    """
    return tuple(max(width // head_dim, min_heads) for width in widths)


def split_heads(heads: int, parts: int) -> tuple[int, ...]:
    """Heads of each of `parts` partitions; the last `heads mod parts` get one more, as published.

    Raises:
        UserError: fewer heads than partitions.
    """
    if not 1 <= parts <= heads:
        raise UserError(
            f"{heads} heads in {parts} partitions: give from 1 to {heads} partitions, a head for each"
        )
    each, extra = divmod(heads, parts)
    return (each,) * (parts - extra) + (each + 1,) * extra


def share_heads(heads: int, kernel_size: int, dilations: Sequence[int]) -> tuple[HeadPartition, ...]:
    """A level's heads shared evenly among dilations; see `split_heads`.

    Raises:
        UserError: fewer heads than dilations.
    """
    shares = split_heads(heads, len(dilations))
    return tuple(HeadPartition(h, kernel_size, d) for h, d in zip(shares, dilations, strict=True))


def published_partitions(heads: int, resolution: int) -> tuple[HeadPartition, ...]:
    """Partitions of the published FFHQ models at a level of `resolution` ≥ 8 tokens a side.

    Kernel 7 throughout; dilation 1 at 8 × 8, from 16 × 16 on one half of the heads at 1, the other at R/8.
    Source: SHI-Labs/StyleNAT, configurations of FFHQ-256 and FFHQ-1024.

    Raises:
        UserError: a resolution that is no power of two of at least 8, or fewer heads than partitions.
    """
    if resolution < 8 or resolution & (resolution - 1):
        raise UserError(
            f"resolution {resolution} has no published partitions: give a power of two, 8 or more"
        )
    dilations = (1,) if resolution == 8 else (1, resolution // 8)
    return share_heads(heads, 7, dilations)


def published_levels(heads: Sequence[int]) -> Levels:
    """The published FFHQ models' rule, full attention at 4 × 4 first; see `published_partitions`.

    Args:
        heads: of the levels 4, 8, …, R.

    Raises:
        UserError: fewer heads than partitions at a level.
    """
    levels: list[Level] = [(Full(heads[0]),)]
    sides = resolutions(len(heads))
    for side, count in zip(sides[1:], heads[1:], strict=True):
        levels.append(published_partitions(count, side))
    return tuple(levels)


def pyramid_levels(heads: Sequence[int], dilations: Sequence[Sequence[int]], kernel_size: int) -> Levels:
    """Full attention at 4 × 4, then at each level the heads shared evenly among the level's own dilations.

    Args:
        heads: of the levels 4, 8, …, R.
        dilations: of each level from 8 on.
        kernel_size: of all levels.

    Raises:
        UserError: fewer heads than dilations at a level.
    """
    levels: list[Level] = [(Full(heads[0]),)]
    for count, own in zip(heads[1:], dilations, strict=True):
        levels.append(share_heads(count, kernel_size, own))
    return tuple(levels)


def dilated_levels(heads: Sequence[int], dilation: int, kernel_size: int = 3) -> Levels:
    """Full attention at 4 × 4, then half the heads local, half at `dilation`.

    At a level where `dilation` does not fit, the largest that does is taken; the finest level must hold it.

    Args:
        heads: of the levels 4, 8, …, R.
        dilation: of every level's second half.
        kernel_size: of all levels.

    Raises:
        UserError: the dilation does not fit the image, or is no dilation; a level of one head.
    """
    sides = resolutions(len(heads))
    largest = sides[-1] // kernel_size
    if not 1 <= dilation <= largest:
        raise UserError(
            f"dilation {dilation} with kernel size {kernel_size} does not fit {sides[-1]} × {sides[-1]} "
            f"tokens: give 1 to {largest}"
        )
    dilations = [(1, min(dilation, side // kernel_size)) for side in sides[1:]]
    return pyramid_levels(heads, dilations, kernel_size)


def local_levels(heads: Sequence[int], kernel_size: int) -> Levels:
    """Full attention at 4 × 4, then all heads local: one neighborhood for all, dilation 1."""
    return pyramid_levels(heads, [(1,)] * (len(heads) - 1), kernel_size)


def two_view_levels(heads: Sequence[int], kernel_size: int) -> Levels:
    """Full attention at 4 × 4, then half the heads local, half at the level's `far_dilation`.

    With kernel size 7 these are the published FFHQ models' partitions. A level whose far dilation is 1 keeps
    all its heads in one partition.

    Raises:
        UserError: a level of one head.
    """
    dilations = []
    for side in resolutions(len(heads))[1:]:
        far = far_dilation(side, kernel_size)
        dilations.append((1,) if far == 1 else (1, far))
    return pyramid_levels(heads, dilations, kernel_size)


def octave_levels(heads: Sequence[int], kernel_size: int) -> Levels:
    """Full attention at 4 × 4, then the heads shared evenly among dilations 1, 2, 4, … `far_dilation`.

    Of more than four dilations the local one and the three largest are taken.

    Raises:
        UserError: fewer heads than dilations at a level.
    """
    dilations = []
    for side in resolutions(len(heads))[1:]:
        far = far_dilation(side, kernel_size)
        octaves = [2**i for i in range(far.bit_length())]
        dilations.append(octaves if len(octaves) <= OCTAVES else [1, *octaves[1 - OCTAVES :]])
    return pyramid_levels(heads, dilations, kernel_size)


def far_levels(heads: Sequence[int], kernel_size: int) -> Levels:
    """Full attention at 4 × 4, then all heads at the level's `far_dilation`."""
    dilations = [(far_dilation(side, kernel_size),) for side in resolutions(len(heads))[1:]]
    return pyramid_levels(heads, dilations, kernel_size)


def far_dilation(side: int, kernel_size: int) -> int:
    """The dilation side / (k + 1) at which a neighborhood spans nearly the grid: R/8 at k = 7, as published.

    Raises:
        UserError: the kernel is larger than the grid.
    """
    if kernel_size > side:
        raise UserError(
            f"kernel size {kernel_size} does not fit {side} × {side} tokens: give at most {side - 1}"
        )
    return max(1, side // (kernel_size + 1))


def kernel_levels(heads: Sequence[int], kernel_sizes: Sequence[int]) -> Levels:
    """Full attention at 4 × 4, then the heads shared evenly among kernel sizes, all at dilation 1.

    Raises:
        UserError: fewer heads than kernel sizes at a level.
    """
    levels: list[Level] = [(Full(heads[0]),)]
    for count in heads[1:]:
        shares = split_heads(count, len(kernel_sizes))
        levels.append(tuple(HeadPartition(h, k) for h, k in zip(shares, kernel_sizes, strict=True)))
    return tuple(levels)


def window_levels(heads: Sequence[int], window_size: int) -> Levels:
    """Full attention at 4 × 4, then StyleSwin's windows of `window_size`, half of them shifted.

    Raises:
        UserError: an odd number of heads at a level.
    """
    return ((Full(heads[0]),), *((ShiftedWindows(count, window_size),) for count in heads[1:]))


def full_levels(heads: Sequence[int]) -> Levels:
    """Full attention at every level: the most that heads can see."""
    return tuple((Full(count),) for count in heads)


def repeated_levels(heads: Sequence[int], level: Level) -> Levels:
    """Full attention at 4 × 4, then one level's partitions at all; a dilation that does not fit is shortened.

    Args:
        heads: of the levels 4, 8, …, R.
        level: the partitions; the finest level must hold them as they are.

    Raises:
        UserError: other heads than a level has, or a partition that does not fit the finest level.
    """
    sides = resolutions(len(heads))
    check_fits(level, sides[-1], sides[-1], sides[-1])
    levels: list[Level] = [(Full(heads[0]),)]
    for side, count in zip(sides[1:], heads[1:], strict=True):
        if count_heads(level) != count:
            raise UserError(
                f"partitions {format_partitions(level)!r} hold {count_heads(level)} heads, level {side} has "
                f"{count}: make them equal"
            )
        levels.append(tuple(_shortened(part, side) for part in level))
    return tuple(levels)


def _shortened(part: Partition, side: int) -> Partition:
    """A partition with the largest dilation up to its own that fits the grid."""
    if not isinstance(part, HeadPartition):
        return part
    return HeadPartition(part.heads, part.kernel_size, max(1, min(part.dilation, side // part.kernel_size)))


def styleswin_levels(heads: Sequence[int]) -> Levels:
    """StyleSwin's rule: windows of 8 × 8 at every level, of 4 × 4 at the first.

    Args:
        heads: of the levels 4, 8, …, R.

    Raises:
        UserError: an odd number of heads at a level.
    """
    levels: list[Level] = []
    for side, count in zip(resolutions(len(heads)), heads, strict=True):
        levels.append((ShiftedWindows(count, min(8, side)),))
    return tuple(levels)


# As text


def parse_partitions(text: str) -> Level:
    """A level's attention as text → its tuple of partitions.

    `"2x7@1,2x7@8"` is heads x kernel @ dilation; `"4xfull"` is full attention of 4 heads; `"4xswin8"` is
    StyleSwin's: 4 heads, windows of 8 × 8.

    Raises:
        UserError: the text has another form, or a number is not allowed.
    """
    if not isinstance(text, str):
        raise UserError(f"partitions {text!r}: write text, heads x kernel @ dilation, such as 2x7@1,2x7@8")
    if full := re.fullmatch(r"\s*(\d{1,9})\s*x\s*full\s*", text, re.ASCII):
        return (Full(int(full[1])),)
    if windows := re.fullmatch(r"\s*(\d{1,9})\s*x\s*swin\s*(\d{1,9})\s*", text, re.ASCII):
        return (ShiftedWindows(int(windows[1]), int(windows[2])),)
    level = []
    for entry in text.split(","):
        numbers = re.fullmatch(r"\s*(\d{1,9})\s*x\s*(\d{1,9})\s*@\s*(\d{1,9})\s*", entry, re.ASCII)
        if not numbers:
            raise UserError(
                f"partitions {text!r}: write each as heads x kernel @ dilation, with commas between, "
                'such as "2x7@1,2x7@8", or "4xswin8" for StyleSwin\'s windows'
            )
        level.append(HeadPartition(int(numbers[1]), int(numbers[2]), int(numbers[3])))
    return tuple(level)


def format_partitions(level: Sequence[Partition]) -> str:
    """A level's partitions → the text that `parse_partitions` reads."""
    return ",".join(str(part) for part in level)


# Rules that have a name in text.
RULES = {"": published_levels, "swin": styleswin_levels}


def parse_levels(text: str, heads: Sequence[int]) -> Levels:
    """All levels' attention as text → one tuple of partitions a level, from 4 × 4 on.

    Args:
        text: the levels from 8 on with '/' between (4 × 4 then is full), or all from 4 on; or the name of a
            rule: empty for the published one, "swin" for StyleSwin's.
        heads: of the levels 4, 8, …, R.

    Raises:
        UserError: as of `parse_partitions` and of the rules; another number of levels.
    """
    if text in RULES:
        return RULES[text](heads)
    levels = [parse_partitions(part) for part in text.split("/")]
    if len(levels) == len(heads) - 1:
        levels.insert(0, (Full(heads[0]),))
    if len(levels) != len(heads):
        raise UserError(
            f"partitions={text!r} describes {len(levels)} levels, expected {len(heads) - 1}: "
            f"one for each of 8 … {resolutions(len(heads))[-1]}, with '/' between them"
        )
    return tuple(levels)


def format_levels(levels: Levels) -> str:
    """All levels' partitions → the shortest text from which `parse_levels` makes them."""
    heads = [count_heads(level) for level in levels]
    for name, rule in RULES.items():
        try:
            made = rule(heads)
        except UserError:  # the rule asks for more heads
            continue
        if made == levels:
            return name
    shown = levels[1:] if levels[0] == (Full(heads[0]),) else levels  # full attention at 4 × 4 is understood
    return "/".join(format_partitions(level) for level in shown)
