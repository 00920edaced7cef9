"""Figures of the ablation's grid: paired differences, what heads see and use, samples of every arm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stylenat.figures.samples import labeled_sheet
from stylenat.figures.style import COLORS, GRAY, WIDTH, plain_axes


@dataclass(frozen=True)
class Rung:
    """A contrast as the ladder draws it.

    Attributes:
        title: such as "hydra-2 − na".
        differences: one a seed.
        mean: of them.
        low: lower end of its interval; NaN for none.
        high: upper end of its interval.
        note: beside it, such as "p = 0.008".
        paper: the sign of the paper's difference; 0 for none.
    """

    title: str
    differences: Sequence[float]
    mean: float
    low: float
    high: float
    note: str
    paper: int = 0


def ladder(rungs: Sequence[Rung], label: str, scores: Mapping[str, Mapping[int, float]]) -> Figure:
    """Each run's score by arm (left), and the paired differences by seed with the mean's interval (right).

    Runs of one seed share a color and, on the left, a line.

    Args:
        rungs: from top to bottom, the primary contrast first.
        label: of the score.
        scores: by arm and seed.
    """
    height = 0.9 + 0.42 * max(len(rungs), len(scores), 2)
    figure = Figure((WIDTH, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    _draw_scores(left, label, scores)
    for row, rung in enumerate(rungs):
        _draw_rung(right, row, rung)
    right.axvline(0, color="black", linewidth=0.9)
    right.set_yticks(range(len(rungs)), [rung.title for rung in rungs], fontsize=8.5)
    right.set_ylim(len(rungs) - 0.5, -0.5)
    right.margins(x=0.12)
    right.set_xlabel(f"difference in {label} (← first is better)", fontsize=9)
    right.set_title("dots: seeds; bar: mean, 95 % interval; ◁ ▷ paper's sign", loc="left", fontsize=7)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=8)
        plain_axes(axes)
    return figure


@dataclass(frozen=True)
class ArmScores:
    """The scores of an arm's runs.

    Attributes:
        name: of the arm.
        scores: of its runs.
        low: lower end of the mean's interval; NaN for none.
        high: upper end of it.
    """

    name: str
    scores: Sequence[float]
    low: float
    high: float


def arm_scores(arms: Sequence[ArmScores], label: str) -> Figure:
    """Each run's score as a dot and the mean's interval as a bar, a row an arm.

    Args:
        arms: from top to bottom.
        label: of the score.
    """
    figure = Figure((WIDTH, 1.0 + 0.45 * len(arms)), layout="constrained")
    axes = figure.add_subplot()
    for row, arm in enumerate(arms):
        color = COLORS[row % len(COLORS)]
        axes.hlines(row, arm.low, arm.high, color=color, linewidth=2)
        axes.plot(np.mean(arm.scores), row, "|", color=color, markersize=16, markeredgewidth=2)
        axes.plot(arm.scores, [row] * len(arm.scores), "o", color=color, markersize=6, alpha=0.6)
    axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.set_title("dots: runs; bar: mean, 95 % interval", loc="left", fontsize=9, color=GRAY)
    plain_axes(axes)
    return figure


def _draw_scores(axes: Axes, label: str, scores: Mapping[str, Mapping[int, float]]) -> None:
    names = list(scores)
    for seed in sorted({seed for own in scores.values() for seed in own}):
        rows = [row for row, name in enumerate(names) if seed in scores[name]]
        values = [scores[names[row]][seed] for row in rows]
        color = COLORS[seed % len(COLORS)]
        axes.plot(values, rows, "-", color=color, alpha=0.25, linewidth=0.8)
        axes.plot(values, rows, "o", color=color, alpha=0.8, markersize=4)
    for row, name in enumerate(names):
        axes.plot(
            [np.mean(list(scores[name].values()))] * 2, [row - 0.3, row + 0.3], color="black", linewidth=1.6
        )
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"{label} (← better)", fontsize=9)
    axes.set_title("a dot a run; line: mean", loc="left", fontsize=8)


def _draw_rung(axes: Axes, row: int, rung: Rung) -> None:
    spread = np.linspace(-0.16, 0.16, len(rung.differences)) if len(rung.differences) > 1 else [0.0]
    for shift, value in zip(spread, rung.differences, strict=True):
        axes.plot(value, row + shift, "o", color=COLORS[0], alpha=0.55, markersize=4)
    if np.isfinite(rung.low):
        axes.plot([rung.low, rung.high], [row, row], color=COLORS[1], linewidth=2.2, solid_capstyle="butt")
    axes.plot([rung.mean] * 2, [row - 0.25, row + 0.25], color=COLORS[1], linewidth=2.2)
    beyond: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "va": "center",
        "fontsize": 8,
        "color": GRAY,
    }
    axes.text(1.01, row, rung.note, ha="left", **beyond)
    if rung.paper:
        axes.text(0.01 if rung.paper < 0 else 0.99, row, "◁" if rung.paper < 0 else "▷",
                  ha="left" if rung.paper < 0 else "right", **beyond)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ArmViews:
    """What an arm's heads could see and did use at one level.

    Attributes:
        name: of the arm.
        parts: of each part of the heads its title and the keys `(n, n)` that the middle query sees.
        field: effective receptive field `(n, n)`.
        entropy: in nats, one a part, averaged over blocks and heads.
        distance: in tokens, likewise.
    """

    name: str
    parts: Sequence[tuple[str, np.ndarray]]
    field: np.ndarray
    entropy: Sequence[float]
    distance: Sequence[float]


def arm_views(arms: Sequence[ArmViews]) -> Figure:
    """A row an arm: the keys that its heads see, its effective receptive field, their entropy and reach.

    Args:
        arms: at one level.
    """
    height = 1.15 * len(arms) + 0.5
    figure = Figure((WIDTH, height), layout="constrained")
    panels = figure.subplots(len(arms), 4, squeeze=False, width_ratios=(1, 1, 1.5, 1.5))
    for row, arm in zip(panels, arms, strict=True):
        _draw_keys(row[0], arm)
        row[0].set_ylabel(arm.name, fontsize=8.5, rotation=0, ha="right", va="center")
        row[1].imshow(np.sqrt(arm.field), cmap="magma", interpolation="nearest")
        row[1].set(xticks=[], yticks=[])
        _draw_bars(row[2], arm, arm.entropy)
        _draw_bars(row[3], arm, arm.distance)
    limits = (max(max(arm.entropy) for arm in arms), max(max(arm.distance) for arm in arms))
    for axes_of, limit in zip((panels[:, 2], panels[:, 3]), limits, strict=True):
        for axes in axes_of:
            axes.set_xlim(0, 1.1 * limit)
            if axes is not axes_of[-1]:
                axes.tick_params(labelbottom=False)
    titles = (
        "keys of the\nmiddle query",
        "effective receptive\nfield (root)",
        "entropy, nats",
        "mean distance, tokens",
    )
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=8.5)
    return figure


def _draw_keys(axes: Axes, arm: ArmViews) -> None:
    """Each part's keys in its color, the first on top."""
    side = len(arm.field)
    image = np.full((side, side, 3), 0.95)
    for index in reversed(range(len(arm.parts))):
        color = COLORS[index].lstrip("#")
        image[arm.parts[index][1]] = [int(color[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    axes.imshow(image, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _draw_bars(axes: Axes, arm: ArmViews, values: Sequence[float]) -> None:
    """A bar a part."""
    rows = range(len(arm.parts))
    axes.barh(rows, values, color=[COLORS[row] for row in rows], height=0.7)
    axes.set_yticks(rows, [title for title, _ in arm.parts], fontsize=6.5)
    axes.set_ylim(len(arm.parts) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=7)
    plain_axes(axes)


def arm_samples(sheets: Mapping[str, np.ndarray], resolution: int, columns: int = 12) -> Figure:
    """The same seeds of every arm: a row an arm.

    Args:
        sheets: by arm a recorded sheet of samples, uint8 `(H, W, 3)`, see `sample_sheet`.
        resolution: pixels a side of an image.
        columns: images of a row.
    """
    rows = []
    for sheet in sheets.values():
        images = torch.tensor(sheet).permute(2, 0, 1)  # (3, H, W)
        tiles = images.unfold(1, resolution, resolution).unfold(2, resolution, resolution)  # (3, h, w, R, R)
        rows.append(tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)[:columns])  # (columns, 3, R, R)
    return labeled_sheet(torch.cat(rows), [""] * columns, list(sheets), left=1.3, top=0.05)
