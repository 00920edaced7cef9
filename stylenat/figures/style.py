"""Every figure, one function each: the same data give the same image, to the byte."""

import io

from stylenat.paths import workspace, write_atomically

# Okabe and Ito's colors, which color-blind readers can tell apart; the pale yellow left out.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def _style(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def to_png(figure, dpi=200):
    """A figure's PNG bytes, without matplotlib's version in them."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save(figure, name):
    """Write `figures/<name>.png` atomically and return its path."""
    path = workspace("figures", f"{name}.png")
    write_atomically(path, to_png(figure))
    return path
