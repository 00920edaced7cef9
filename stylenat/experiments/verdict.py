"""What a grid's results support and what they do not, in words, whichever way they fall."""

import math
from collections.abc import Sequence

from stylenat.evaluation.metrics import keys_of
from stylenat.experiments.analysis import ALPHA, Analysis, Comparison, Spread

BETTER = {-1: "better", 1: "worse"}


def metric_title(metric: str) -> str:
    """A metric's name for readers, such as "FD-lite0@128"."""
    return next(keys_of([metric])).metric_title


def number(value: float, signed: bool = False) -> str:
    """Four digits, with a minus sign that is one; "–" where there is no number."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    text = f"{float(f'{value:.4g}'):{'+' if signed else ''},g}"
    return text.replace("-", "−")


def verdict(analysis: Analysis) -> str:
    """A paragraph on a grid's results, next to the paper's signs.

    Args:
        analysis: of the grid.
    """
    grid = analysis.grid
    if not analysis.recorded:
        return f"No run of {grid.name} is recorded yet: nothing is known."
    sentences = [] if analysis.is_complete else [_progress(analysis)]
    if analysis.primary and analysis.is_decided(analysis.primary.contrast):
        sentences.append(_primary(analysis.primary))
    if analysis.is_decided(*grid.secondary):
        sentences += [_secondary(comparison) for comparison in analysis.secondary]
        sentences += _limits(analysis.secondary)
    for comparison in analysis.exploratory:
        if analysis.is_decided(comparison.contrast):
            sentences.append(_exploratory(comparison))
    if not analysis.is_decided(*grid.contrasts[:1]):
        return " ".join(sentences)
    if analysis.spread:
        sentences.append(_spread(analysis.spread))
    config = grid.cells()[0].config
    sentences.append(
        "The paper's FIDs are of single runs on photographs at 256 pixels; this tests the sign of its "
        f"mechanism on {config.data} at {config.resolution} pixels, not its FID."
    )
    return " ".join(sentences)


def _progress(analysis: Analysis) -> str:
    grid = analysis.grid
    text = f"{analysis.recorded} of {analysis.planned} runs of {grid.name} are recorded."
    if analysis.is_decided(*grid.contrasts[:1]):
        return f"{text} What is not judged below waits for the rest."
    return f"{text} A contrast is judged when all its runs are: what the figure shows so far decides nothing."


def _primary(found: Comparison) -> str:
    contrast = found.contrast
    if not found.is_significant:
        return f"Primary contrast, {_measured(found)}: no difference is shown. {_undecided(found)}"
    sign = 1 if found.mean > 0 else -1
    order = f"{contrast.treatment} scores {BETTER[sign]} than {contrast.control}"
    return f"Primary contrast, {_measured(found)}: {order}. {_beside_paper(found, sign)}"


def _secondary(found: Comparison) -> str:
    contrast = found.contrast
    if not found.is_significant:
        return f"{_measured(found)}: not shown{_paper_note(found)}."
    sign = 1 if found.mean > 0 else -1
    return (
        f"{_measured(found)}: {contrast.treatment} is {BETTER[sign]}. {_beside_paper(found, sign)}".rstrip()
    )


def _exploratory(found: Comparison) -> str:
    """What an interval says that no test was planned for."""
    if found.low <= 0 <= found.high:
        reading = "the interval holds 0"
    else:
        reading = f"{found.contrast.treatment} scored {BETTER[1 if found.mean > 0 else -1]}"
    return f"Exploratory, {_measured(found)}: {reading}."


def _limits(family: Sequence[Comparison]) -> list[str]:
    """That few pairs and many contrasts can show nothing, where that is so."""
    pairs = max((len(found.differences) for found in family), default=0)
    least = len(family) * 2 / 2**pairs
    if not family or least <= ALPHA:
        return []
    return [
        f"No secondary contrast could have been shown, whatever its size: with {len(family)} of them and at "
        f"most {pairs} pairs Holm's first p is {min(1.0, least):.2g} or more. Their intervals are the result."
    ]


def _measured(found: Comparison) -> str:
    """The contrast with its numbers, such as "hydra-2 − na, FD-lite0@128 −12.1 (−4.2 %, …)"."""
    share = 100 * found.mean / found.control_mean if found.control_mean else math.nan
    interval = f"95 % interval {number(found.low, True)} to {number(found.high, True)}"
    adjusted = "" if found.adjusted == found.p else f", {found.adjusted:.2g} after Holm"
    return (
        f"{found.contrast.name}, {metric_title(found.metric)} {number(found.mean, True)} "
        f"({number(round(share, 1), True)} %, {interval}; p = {found.p:.2g}{adjusted}, "
        f"{len(found.differences)} pairs)"
    )


def _undecided(found: Comparison) -> str:
    """What a difference that is not shown leaves open."""
    if math.isinf(found.detectable):
        pairs = len(found.differences)
        return (
            f"With {pairs} {'pair' if pairs == 1 else 'pairs'} no difference could have been: the exact p is "
            f"at least {2 / 2**pairs:.2g}."
        )
    share = 100 * found.detectable / found.control_mean if found.control_mean else math.nan
    signs = " for or against the paper's sign" if found.contrast.sign else ""
    return (
        f"The design finds {number(found.detectable)} ({number(round(share, 1))} %) in 80 % of cases: "
        f"smaller differences in either direction remain possible, and this is no evidence{signs}."
    )


def _beside_paper(found: Comparison, sign: int) -> str:
    contrast = found.contrast
    if contrast.paper is None:
        return ""
    published = f"{contrast.paper[0]:g} against {contrast.paper[1]:g}"
    if sign == contrast.sign:
        return f"That is the paper's sign ({published})."
    return f"The paper's sign is the opposite ({published}): it is not found at this size."


def _paper_note(found: Comparison) -> str:
    contrast = found.contrast
    if contrast.paper is None:
        return ""
    return f" (the paper: {contrast.paper[0]:g} against {contrast.paper[1]:g})"


def _spread(spread: Spread) -> str:
    ratio = f"{number(round(spread.ratio, 1))} times"
    return (
        f"Retraining moves a score by a standard deviation of {number(spread.retraining)} "
        f"({100 * spread.relative:.1f} %), {ratio} what other latents do ({number(spread.resampling)})."
    )
