"""What all figures share: sizes, colors, axes, and how they are written."""

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stylenat.paths import check_writable, workspace, write_atomically

WIDTH = 8.0  # inches: at 100 dots each, the 800 px a README shows
DPI = 200  # of the files: an image's pixel takes a whole number of theirs
GRAY = "#6b6b6b"
# Okabe and Ito's colors, which color-blind readers can tell apart; the pale yellow left out.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def plain_axes(axes: Axes) -> None:
    """No frame on top and right, a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def to_png(figure: Figure, dpi: int = DPI) -> bytes:
    """A figure's PNG, without matplotlib's version in it: the same figure, the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, name: str) -> Path:
    """Write `figures/<name>.png` atomically.

    Returns:
        Its path.
    """
    path = workspace("figures", f"{name}.png")
    write_atomically(path, to_png(figure))
    return path


def save_all(figures: Mapping[str, Figure]) -> list[Path]:
    """`save` figures by the names of their files, once all of them are made.

    Returns:
        Their paths.

    Raises:
        UserError: the folder can't be written.
    """
    for name in figures:
        check_writable(workspace("figures", f"{name}.png"))
    return [save(figure, name) for name, figure in figures.items()]
