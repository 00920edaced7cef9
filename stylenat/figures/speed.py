"""Figures of speed: a generator's levels under the machine's roofs, and every benchmark before and now."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stylenat.figures.style import COLORS, GRAY, WIDTH


class Level(Protocol):
    """What `roofline` needs of a level, as of `stylenat.benchmark.throughput.LevelTime`."""

    @property
    def level(self) -> int:
        """Its resolution."""

    @property
    def seconds(self) -> float:
        """Of one image."""

    @property
    def gflops(self) -> float:
        """Achieved, in GFLOP/s."""

    @property
    def intensity(self) -> float:
        """FLOP per byte."""


def performance(ratios: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> Figure:
    """Every benchmark's time as a multiple of its matmul time, before and now.

    Args:
        ratios: by title of the case and by state, "before" and "now": the median, the least, the greatest.
    """
    figure = Figure((WIDTH, 4), layout="constrained")
    axes = figure.add_subplot()
    for state, color, shift in (("before", GRAY, -0.14), ("now", COLORS[0], 0.14)):
        places = [row + shift for row in range(len(ratios))]
        found = [states[state] for states in ratios.values()]
        medians = [median for median, _, _ in found]
        axes.hlines(places, [low for _, low, _ in found], [high for _, _, high in found], color=color)
        axes.scatter(medians, places, color=color, s=24, label=state)
    axes.axvline(1, color="black", linewidth=1, label="matmul time")
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.set(xlim=(0, None), xlabel="times matmul; lines: least to greatest")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def roofline(levels: Sequence[Level], roofs: tuple[float, float]) -> Figure:
    """Speed of every level against FLOP per byte, under what the machine can do (Williams et al., 2009).

    Args:
        levels: as of `stylenat.benchmark.throughput.measure_levels`.
        roofs: GFLOP/s and GB/s, as of `stylenat.benchmark.throughput.roofs`.
    """
    product, bandwidth = roofs
    figure = Figure((WIDTH, 4.5), layout="constrained")
    axes = figure.add_subplot()
    corner = product / bandwidth
    reach = [corner, *(level.intensity for level in levels)]
    low = min(reach) / 2
    high = max(reach) * 2
    axes.plot([low, corner, high], [low * bandwidth, product, product], color=GRAY)
    _label(axes, f"a copy: {bandwidth:.3g} GB/s", (low, low * bandwidth), (6, 5), va="top")
    _label(axes, f"a product of 2048 × 2048 matrices: {product:.3g} GFLOP/s", (corner, product), (6, 5))
    whole = sum(level.seconds for level in levels)
    for level in levels:
        place = (level.intensity, level.gflops)
        share = level.seconds / whole
        axes.scatter(*place, s=3000 * share, color=COLORS[0], alpha=0.5, linewidth=0)
        radius = (3000 * share / math.pi) ** 0.5
        inside = radius > 12  # points: room for three digits
        below = 0 if inside else -radius - 2
        _label(axes, str(level.level), place, (0, below), ha="center", va="center" if inside else "top")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set(
        xlabel="FLOP per byte that the products read and write",
        ylabel="GFLOP/s",
        ylim=(min(level.gflops for level in levels) / 1.4, 1.4 * product),
    )
    axes.set_title("Levels by tokens a side; area: share of the time", loc="left", fontsize=10)
    return figure


def _label(axes: Axes, text: str, place: tuple, shift: tuple, **alignment: Any) -> None:
    """Text at a place of the data, moved by some points."""
    axes.annotate(text, place, xytext=shift, textcoords="offset points", **alignment)
