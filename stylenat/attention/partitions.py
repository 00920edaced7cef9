"""How an attention level shares its heads among neighborhoods (paper, section 3.2, "Hydra")."""

import re
from dataclasses import dataclass

from stylenat.errors import UserError


@dataclass(frozen=True)
class HeadPartition:
    """`heads` heads that see `kernel_size` × `kernel_size` keys, `dilation` tokens apart.

    Raises:
        UserError: heads or dilation below 1, an even kernel or one below 3, anything but an int.
    """

    heads: int
    kernel_size: int
    dilation: int = 1

    def __post_init__(self):
        for name, least in (("heads", 1), ("kernel_size", 3), ("dilation", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name} {value!r} of a head partition: give an int of at least {least}")
        if self.kernel_size % 2 == 0:
            nearest = f"{self.kernel_size - 1} or {self.kernel_size + 1}"
            raise UserError(
                f"kernel_size {self.kernel_size} is even: a neighborhood has its query in the middle; "
                f"give {nearest}"
            )

    def __str__(self):
        return f"{self.heads}x{self.kernel_size}@{self.dilation}"


@dataclass(frozen=True)
class ShiftedWindows:
    """All `heads` of a level in StyleSwin's windows: half of them in plain ones, half in shifted ones.

    Raises:
        UserError: heads or window_size that are no even int of at least 2.
    """

    heads: int
    window_size: int

    def __post_init__(self):
        for name in ("heads", "window_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 2 or value % 2:
                raise UserError(f"{name} {value!r} of shifted windows: give an even int of at least 2")

    def __str__(self):
        return f"{self.heads}xswin{self.window_size}"


def parse_partitions(text):
    """A level's attention as text → a tuple of `HeadPartition`, or of one `ShiftedWindows`.

    `"2x7@1,2x7@8"` is heads x kernel @ dilation; `"4xswin8"` is StyleSwin's: 4 heads, windows of 8 × 8.

    Raises:
        UserError: the text has another form, or a number is not allowed.
    """
    if windows := re.fullmatch(r"\s*(\d+)\s*x\s*swin\s*(\d+)\s*", text, re.ASCII):
        return (ShiftedWindows(*map(int, windows.groups())),)
    parts = [re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*@\s*(\d+)\s*", part, re.ASCII) for part in text.split(",")]
    if not all(parts):
        raise UserError(
            f"partitions {text!r}: write each as heads x kernel @ dilation, with commas between, "
            'such as "2x7@1,2x7@8", or "4xswin8" for StyleSwin\'s windows'
        )
    return tuple(HeadPartition(*map(int, part.groups())) for part in parts)


def format_partitions(partitions):
    """A level's tuple of partitions → the text that `parse_partitions` reads."""
    return ",".join(map(str, partitions))


def split_heads(heads, parts):
    """Heads of each of `parts` partitions; the last `heads mod parts` get one more, as published.

    Raises:
        UserError: fewer heads than partitions.
    """
    if not 1 <= parts <= heads:
        raise UserError(
            f"{heads} heads in {parts} partitions: give from 1 to {heads} partitions, a head for each"
        )
    each, extra = divmod(heads, parts)
    return tuple(each + (i >= parts - extra) for i in range(parts))


def check_fits(partitions, height, width, level=None):
    """Check that each partition's dilated window fits a `height` × `width` grid of tokens.

    Raises:
        UserError: kernel_size · dilation exceeds an axis; names level, k, d and n.
    """
    n = min(height, width)
    where = "" if level is None else f"level {level}: "
    for part in partitions:
        k, d = part.kernel_size, part.dilation
        if k * d > n:
            fix = f"d of at most {n // k}" if n >= k else "a smaller kernel or a larger level"
            raise UserError(
                f"{where}kernel k={k} with dilation d={d} spans k*d={k * d} tokens, over n={n}: take {fix}"
            )


def published_partitions(heads, resolution):
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
    shares = split_heads(heads, len(dilations))
    return tuple(HeadPartition(h, 7, d) for h, d in zip(shares, dilations, strict=True))
