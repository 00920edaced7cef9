"""The four generators trained alike, in tables, words and figures, from what is recorded alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stylenat.evaluation.intervals import mean_interval, welch
from stylenat.experiments.analysis import Analysis, analyze
from stylenat.experiments.grid import load_grid
from stylenat.experiments.report import recorded, samples_figure, to_markdown
from stylenat.experiments.verdict import metric_title, number
from stylenat.figures.ablation import ArmScores, arm_scores

GRID = "generators-32"
NONE = (
    f"None recorded yet: `python -m stylenat ablation {GRID} --jobs 2` trains and scores what is missing.\n"
)
FIGURES = {"scores": "Scores of each run", "samples": "Samples of each arm's first run"}
LIMITS = (
    "What this can't tell: which generator is better at the paper's size. These are small copies that see "
    "few drawn images of 32 pixels. Discriminator, losses, augmentation and learning rates are this "
    "repository's, chosen while training the small StyleNAT, and nobody looked for what suits the others; "
    "the authors' own discriminators, schedules, and StyleGAN-XL's training stage by stage, are not here. "
    "Alike means equal images, not equal time. With three seeds the intervals (Student's t, Welch's for "
    "differences) are wide: a difference that is not shown may be there all the same."
)


@dataclass(frozen=True)
class Difference:
    """The first arm's mean score minus another's.

    Attributes:
        arm: the other one.
        value: below 0 the first arm is better.
        low: lower end of Welch's 95 % interval; NaN where an arm has fewer than two runs.
        high: upper end of it.
    """

    arm: str
    value: float
    low: float
    high: float


def recorded_analysis(name: str = GRID) -> Analysis | None:
    """What the recorded runs say; None where none is recorded.

    Raises:
        UserError: as of `analyze`.
    """
    analysis = analyze(load_grid(name))
    return analysis if analysis.recorded else None


def differences(analysis: Analysis) -> list[Difference]:
    """The first arm minus each other one, on the grid's metric; arms without runs are left out."""
    scores = _scores(analysis)
    base, *others = (variant.name for variant in analysis.grid.variants)
    found = []
    for other in others:
        if scores[base] and scores[other]:
            value, low, high = welch(scores[base], scores[other])
            found.append(Difference(other, value, low, high))
    return found


def _scores(analysis: Analysis) -> dict[str, list[float]]:
    """The runs' scores of every arm on the grid's metric."""
    own = analysis.scores[analysis.grid.scoring.metric]
    return {variant.name: list(own.get(variant.name, {}).values()) for variant in analysis.grid.variants}


def arm_table(analysis: Analysis) -> pd.DataFrame:
    """A row an arm: parameters, scores with intervals, the first arm's difference to it, minutes of a run."""
    grid = analysis.grid
    apart = {difference.arm: difference for difference in differences(analysis)}
    rows = []
    for variant in grid.variants:
        records = recorded(grid, variant.name)
        row: dict[str, str | int] = {"generator": variant.name, "preset": f"`{variant.preset}`"}
        row["parameters"] = f"{records[0].parameters.generator:,}" if records else "–"
        row["seeds"] = len(records)
        for metric, scores in analysis.scores.items():
            row[f"{metric_title(metric)} ↓"] = _mean(list(scores.get(variant.name, {}).values()))
        difference = apart.get(variant.name)
        row[f"{grid.variants[0].name} minus it"] = _interval(difference) if difference else "–"
        minutes = [record.minutes for record in records]
        row["minutes a run"] = f"{np.mean(minutes):.1f}" if minutes else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def _mean(values: Sequence[float]) -> str:
    """Such as "412.3 (390.1 to 434.5)"."""
    if not values:
        return "–"
    low, high = mean_interval(values)
    return f"{number(float(np.mean(values)))} ({number(low)} to {number(high)})"


def _interval(difference: Difference) -> str:
    value, low, high = (number(part, True) for part in (difference.value, difference.low, difference.high))
    return f"{value} ({low} to {high})"


def conclusion(analysis: Analysis) -> str:
    """What the intervals show and what they leave open, whichever way they fall."""
    grid = analysis.grid
    if not analysis.is_complete:
        return f"{analysis.recorded} of {analysis.planned} runs are recorded: a conclusion waits for all."
    first = grid.variants[0].name
    title = metric_title(grid.scoring.metric)
    sentences = []
    for difference in differences(analysis):
        between = f"{first} − {difference.arm}: {title} {_interval(difference)}"
        if math.isnan(difference.low) or difference.low <= 0 <= difference.high:
            sentences.append(f"{between}, no difference is shown.")
        else:
            better = first if difference.value < 0 else difference.arm
            sentences.append(f"{between}, {better} is better.")
    config = grid.cells()[0].config
    images = f"{config.nimg:,} images of {config.data} at {config.resolution} pixels a run"
    return f"After {images}: {' '.join(sentences)}"


def scores_figure(analysis: Analysis) -> Figure:
    """Each run's score by arm, with the mean's interval."""
    arms = []
    for name, values in _scores(analysis).items():
        if values:
            low, high = mean_interval(values)
            arms.append(ArmScores(name, values, low, high))
    return arm_scores(arms, f"{metric_title(analysis.grid.scoring.metric)} (not FID; ← less is better)")


def draw_figures(name: str = GRID) -> dict[str, Figure]:
    """The figures of the recorded runs, by the names of their files; none where none is recorded."""
    analysis = recorded_analysis(name)
    if analysis is None:
        return {}
    figures = {f"{name}-scores": scores_figure(analysis)}
    samples = samples_figure(analysis.grid)
    if samples is not None:
        figures[f"{name}-samples"] = samples
    return figures


def readme_block(name: str = GRID) -> str:
    """README's block: table, conclusion, limits and figures, or how to train what is missing."""
    analysis = recorded_analysis(name)
    if analysis is None:
        return f"{NONE}\n{LIMITS}\n"
    arms = arm_table(analysis)
    snapshots = analysis.grid.scoring.snapshots
    note = (
        f"Means over seeds with their 95 % intervals; scores are not FID. {analysis.images:,} generated "
        f"images against as many held-out ones, the mean of the last {snapshots} snapshots."
    )
    figures = [f"![{title} of {name}](figures/{name}-{kind}.png)" for kind, title in FIGURES.items()]
    return "\n\n".join((to_markdown(arms), note, conclusion(analysis), LIMITS, *figures)) + "\n"
