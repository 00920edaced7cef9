"""The ablation over dilations: half the heads local, half of them dilated."""

from typing import Any

from stylenat.attention.partitions import dilated_levels
from stylenat.errors import UserError
from stylenat.experiments.record import score_run
from stylenat.presets import get_config
from stylenat.reporting.records import RunRecord
from stylenat.training.loop import train


def run_ablation(preset: str, dilation: int, /, **overrides: Any) -> RunRecord:
    """Train a preset with half its heads at `dilation` and score the last snapshot.

    The variant, such as "dilation 8", is part of the run's configuration and so of its id. Finished runs are
    not trained again, interrupted ones go on.

    Args:
        preset: a preset's name.
        dilation: in tokens of the finest level; a coarser level takes the largest that fits it.
        overrides: fields of the preset to replace, as of `get_config`.

    Returns:
        The run's record.

    Raises:
        UserError: a dilation that does not fit, or "partitions" among the overrides.
    """
    if "partitions" in overrides:
        raise UserError(
            f"partitions={overrides['partitions']!r}: the ablation sets them from dilation; leave them out"
        )
    # Only its heads are used: the published rule fits whatever widths the overrides give.
    config = get_config(preset, **overrides, partitions="")
    levels = dilated_levels(config.level_heads, dilation)
    variant = get_config(preset, **overrides, partitions=levels, variant=f"dilation {dilation}")
    return score_run(train(variant), history=False)
