"""What generators without partitions are made of, stage by stage, and which of it fits together."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from stylenat.errors import UserError


class HiTStage(NamedTuple):
    """One level of HiT: a block of cross-attention, then further units.

    Attributes:
        units: blocks of multi-axis self-attention, or, without a patch, residual perceptrons.
        heads: of every attention of the level.
        patch: tokens a side of a patch; 0: the level has no self-attention, and colors of its own.
    """

    units: int
    heads: int
    patch: int = 0


class SynthesisStage(NamedTuple):
    """The stem of StyleGAN-XL, or one stage of super-resolution.

    Attributes:
        resolution: pixels a side of its image.
        layers: its convolutions, without that to colors; the next stage drops the last two.
        kernel_size: of those convolutions, 1 or 3.
        width: factor of its channels.
    """

    resolution: int
    layers: int
    kernel_size: int = 3
    width: int = 1


def hit_resolutions(count: int) -> tuple[int, ...]:
    """Tokens a side of HiT's levels: 8, 16 and so on."""
    return tuple(8 * 2**i for i in range(count))


def check_hit(stages: Sequence[HiTStage], widths: Sequence[int]) -> None:
    """Check that HiT can be built.

    Args:
        stages: of the levels 8, 16, …, R.
        widths: channels of each.

    Raises:
        UserError: names the level and what does not fit.
    """
    if len(stages) != len(widths):
        raise UserError(f"{len(widths)} widths and {len(stages)} stages: give one of each for every level")
    sides = hit_resolutions(len(stages))
    for side, width, stage in zip(sides, widths, stages, strict=True):
        if stage.units < 0 or stage.heads < 1 or stage.patch < 0:
            raise UserError(f"level {side}: {stage} needs heads above 0, units and patch not below 0")
        if width % stage.heads:
            raise UserError(f"level {side}: width {width} does not split into {stage.heads} heads")
        if stage.patch and (side % stage.patch or stage.heads % 2):
            raise UserError(
                f"level {side}: patch={stage.patch} must divide {side}, and heads={stage.heads} be even"
            )
        if side != sides[-1] and width % 4:
            raise UserError(f"level {side}: width {width} must be a multiple of 4 to be shuffled into pixels")
    patches = [bool(stage.patch) for stage in stages]
    if not stages or patches[-1] or patches != sorted(patches, reverse=True):
        raise UserError("levels with patches must come first, and the last level must be without")


def check_stylegan_xl(stages: Sequence[SynthesisStage]) -> None:
    """Check that the layers of StyleGAN-XL can be planned.

    Args:
        stages: the stem, then the stages of super-resolution.

    Raises:
        UserError: names the stage and what does not fit.
    """
    if not stages or stages[0].resolution < 16:
        raise UserError("StyleGAN-XL needs stages, the first of 16 pixels or more")
    for stage in stages:
        if stage.resolution & (stage.resolution - 1):
            raise UserError(f"stage {stage.resolution}: take a power of two")
        if stage.layers < 3:
            raise UserError(f"stage {stage.resolution}: layers={stage.layers} must be 3 or more")
        if stage.kernel_size not in (1, 3) or stage.width < 1:
            raise UserError(
                f"stage {stage.resolution}: kernel_size={stage.kernel_size} must be 1 or 3, and "
                f"width={stage.width} above 0"
            )
    for lower, upper in pairwise(stages):
        if upper.resolution <= lower.resolution:
            raise UserError(f"stage {upper.resolution} follows {lower.resolution}: it must have more pixels")
