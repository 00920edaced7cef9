"""An experiment from end to end: score every snapshot of a run and record it; the ablation over dilations."""

from stylenat.attention.partitions import dilated_levels, format_partitions, resolutions
from stylenat.errors import UserError
from stylenat.experiments.record import score_run
from stylenat.presets import get_config
from stylenat.training.loop import train


def dilated_partitions(config, dilation, kernel_size=3):
    """Partitions for every level from 8 on: half the heads local, half at `dilation`.

    At a level where `dilation` does not fit, the largest that does is taken; the finest level must hold it.

    Returns:
        `{resolution: text}`, such as `{8: "2x3@1,2x3@2", …}`.

    Raises:
        UserError: the dilation does not fit the image, or is no dilation.
    """
    levels = dilated_levels(config.level_heads, dilation, kernel_size)
    sides = resolutions(len(levels))
    return {side: format_partitions(level) for side, level in list(zip(sides, levels, strict=True))[1:]}


def run_ablation(preset, dilation, **overrides):
    """Train a preset with half its heads at `dilation`, score the last snapshot; returns the record.

    The run's id is the preset's name and a hash, its record holds "ablation": the variant, the preset, the
    dilation and the partitions of every level. Finished runs are not trained again, interrupted ones go on.

    Raises:
        UserError: a dilation that does not fit, or "partitions" among the overrides.
    """
    if "partitions" in overrides:
        raise UserError(
            f"partitions={overrides['partitions']!r}: the ablation sets them from dilation; leave them out"
        )
    levels = dilated_partitions(get_config(preset, **overrides, partitions=""), dilation)
    config = get_config(preset, **overrides, partitions="/".join(levels.values()))
    ablation = {
        "variant": f"dilation {dilation}",
        "preset": preset,  # a column of the table: a smoke run must be known as one
        "dilation": dilation,
        "partitions": levels,
    }
    return score_run(train(config), history=False, ablation=ablation)
