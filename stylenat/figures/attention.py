"""Figures that show a generator at work: samples, truncation, mixing, interpolation, attention."""

from itertools import accumulate
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from stylenat.attention.partitions import ShiftedWindows
from stylenat.figures.style import GRAY, WIDTH
from stylenat.sampling.attention_maps import attention_maps, by_partition
from stylenat.sampling.sample import check_level, render, styles


class Part(NamedTuple):
    """Heads of a level that see the same keys."""

    title: str
    heads: int


def head_parts(partitions, resolution=None):
    """The `Part`s of a level: its partitions; the two halves of StyleSwin's windows; all heads at 4 × 4.

    Args:
        partitions: the level's tuple, of `HeadPartition` or of one `ShiftedWindows`.
        resolution: of the level; only 4 matters, where Hydra's attention is full.
    """
    first = partitions[0]
    if isinstance(first, ShiftedWindows):
        size, half = f"{first.window_size} × {first.window_size}", first.heads // 2
        seen = [(half, f"{size} windows"), (half, f"{size} windows, shifted")]
    elif resolution == 4:
        seen = [(sum(part.heads for part in partitions), "full attention")]
    else:
        seen = [
            (part.heads, f"{part.kernel_size} × {part.kernel_size}, dilation {part.dilation}")
            for part in partitions
        ]
    last = accumulate(heads for heads, _ in seen)
    return [
        Part(f"head {end}: {told}" if heads == 1 else f"heads {end - heads + 1}–{end}: {told}", heads)
        for end, (heads, told) in zip(last, seen, strict=True)
    ]


def attention_figure(generator, seed, level, queries, *, block=0, truncation_psi=1.0):
    """What each part of a level's heads attends to while an image is made: a row a query, a column a part.

    A key's color is the mean of its softmax weight over the part's heads; what is left gray has no weight.

    Args:
        level: resolution of the level, one of 4, 8, …, R.
        queries: `{"name": (row, column)}` on the level's grid; the query is the outlined square.
        block: 0 or 1, the level's first or second block.

    Raises:
        UserError: no such level or block, or a query outside of the grid.
    """
    parts = head_parts(generator.partitions[check_level(generator, level)], level)
    w = styles(generator, [seed], truncation_psi)
    maps = {
        name: by_partition(attention_maps(generator, w, level, query, block=block), parts)[0].cpu()
        for name, query in queries.items()
    }
    image = render(generator, w)[0].permute(1, 2, 0)
    strongest = max(weights.max().item() for weights in maps.values())
    columns = len(parts) + 1
    side = min(2.4, (WIDTH - 1.1) / columns)
    figure = Figure((columns * side + 1.1, (side + 0.3) * len(queries) + 0.4), layout="constrained")
    panels = figure.subplots(len(queries), columns, squeeze=False)
    for row, (name, query) in zip(panels, queries.items(), strict=True):
        _panel(row[0], image, query, level)
        row[0].set_ylabel(name, fontsize=11)
        for axes, weights in zip(row[1:], maps[name], strict=True):
            shown = _panel(axes, _gray(image), query, level, weights.numpy(), strongest)
            axes.set_xlabel(f"largest weight {weights.max():.2g}", fontsize=10, color=GRAY)
    panels[0][0].set_title(f"seed {seed}, level {level} × {level}\nblock {block + 1}", fontsize=11)
    for axes, part in zip(panels[0][1:], parts, strict=True):
        axes.set_title(part.title.replace(": ", "\n"), fontsize=11)
    bar = figure.colorbar(shown, ax=panels, aspect=30, pad=0.02)
    bar.set_label("attention weight (gray: none)", fontsize=10)
    return figure


def _gray(image):
    """An image `(R, R, 3)` in pale gray, on which colors can be told."""
    luma = image.float() @ torch.tensor([0.299, 0.587, 0.114]) / 255  # ITU-R BT.601
    return (0.55 + 0.4 * luma)[..., None].expand(-1, -1, 3)


def _panel(axes, image, query, level, weights=None, strongest=None):
    """An image on the level's grid, weights `(level, level)` over it where there are any, and the query."""
    extent = (0, level, level, 0)
    shown = axes.imshow(image.numpy(), extent=extent)
    if weights is not None:
        shown = axes.imshow(
            weights, extent=extent, cmap="YlOrRd", vmin=0, vmax=strongest,
            interpolation="nearest", alpha=(weights > 1e-25) * 1.0,  # masks of windows leave e⁻¹⁰⁰
        )  # fmt: skip
    margin = 0.006 * level  # keeps the query's own color free
    axes.add_patch(
        Rectangle(
            (query[1] - margin, query[0] - margin), 1 + 2 * margin, 1 + 2 * margin, fill=False, clip_on=False,
            linewidth=1.0, path_effects=[withStroke(linewidth=2.4, foreground="white")],
        )
    )  # fmt: skip
    axes.set(xticks=[], yticks=[], xlim=(0, level), ylim=(level, 0))
    axes.spines[:].set_visible(False)
    return shown
