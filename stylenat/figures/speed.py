"""Figures that show a generator at work: samples, truncation, mixing, interpolation, attention."""

import math

from matplotlib.figure import Figure

from stylenat.figures.style import GRAY, WIDTH


def roofline(levels, roofs):
    """Speed of every level against FLOP per byte, under what the machine can do (Williams et al., 2009).

    Args:
        levels: rows of `stylenat.throughput.measure_levels`.
        roofs: GFLOP/s and GB/s, as of `stylenat.throughput.roofs`.
    """
    product, bandwidth = roofs
    figure = Figure((WIDTH, 4.5), layout="constrained")
    axes = figure.add_subplot()
    corner = product / bandwidth
    reach = [corner, *(level["intensity"] for level in levels)]
    low, high = min(reach) / 2, max(reach) * 2
    axes.plot([low, corner, high], [low * bandwidth, product, product], color=GRAY)
    label = {"xytext": (6, 5), "textcoords": "offset points"}
    axes.annotate(f"a copy: {bandwidth:.3g} GB/s", (low, low * bandwidth), **label, va="top")
    axes.annotate(f"a product of 2048 × 2048 matrices: {product:.3g} GFLOP/s", (corner, product), **label)
    whole = sum(level["seconds"] for level in levels)
    for level in levels:
        place, share = (level["intensity"], level["gflops"]), level["seconds"] / whole
        axes.scatter(*place, s=3000 * share, color="#0072B2", alpha=0.5, linewidth=0)
        radius = (3000 * share / math.pi) ** 0.5
        inside = radius > 12  # points: room for three digits
        label = {"xytext": (0, 0 if inside else -radius - 2), "textcoords": "offset points"}
        axes.annotate(level["level"], place, **label, ha="center", va="center" if inside else "top")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set(
        xlabel="FLOP per byte that the products read and write",
        ylabel="GFLOP/s",
        ylim=(min(level["gflops"] for level in levels) / 1.4, 1.4 * product),
    )
    axes.set_title("Levels by tokens a side; area: share of the time", loc="left", fontsize=10)
    return figure
