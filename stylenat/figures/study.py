"""The figure of the human study."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stylenat.figures.style import COLORS, GRAY, WIDTH, plain_axes
from stylenat.reporting.study import OURS, Difference, Group


def human_study(groups: Sequence[Group], found: Sequence[Difference]) -> Figure:
    """Error rates of the people who saw each model (left) and StyleNAT's minus theirs (right), a row each.

    Args:
        groups: from top to bottom.
        found: StyleNAT minus each other model, with 95 % intervals.
    """
    figure = Figure((WIDTH, 0.36 * len(groups) + 1.1), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = {group.model: row for row, group in enumerate(groups)}
    for group in groups:
        color = COLORS[1] if group.model == OURS else COLORS[0]
        _draw_row(
            left, rows[group.model], group.mean, group.mean - group.error, group.mean + group.error, color
        )
    for one in found:
        color = GRAY if one.low <= 0 <= one.high else COLORS[0]
        _draw_row(right, rows[one.model], one.value, one.low, one.high, color)
    left.set_xlabel("share judged wrongly ± standard error", fontsize=10)
    right.set_xlabel(f"{OURS} minus the model, 95 %", fontsize=10)
    left.set_title("Real or generated? FFHQ-256", loc="left", fontsize=11)
    right.set_title(f"{OURS} looks more real →", loc="left", fontsize=11)
    left.set_yticks(range(len(groups)), [f"{group.model} ({group.people})" for group in groups])
    left.set_ylabel("model (people)", fontsize=10)
    left.set_ylim(len(groups) - 0.5, -0.5)
    left.set_xlim(left=0)
    right.axvline(0, color="black", linewidth=1)
    for axes in (left, right):
        plain_axes(axes)
    return figure


def _draw_row(axes: Axes, row: int, value: float, low: float, high: float, color: str) -> None:
    axes.hlines(row, low, high, color=color, linewidth=2)
    axes.plot(value, row, "o", color=color, markersize=6)
