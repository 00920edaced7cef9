"""What heads attend to: attention weights over an image, a panel for each part of a level's heads."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from stylenat.attention.partitions import Full, Partition, ShiftedWindows
from stylenat.errors import UserError
from stylenat.figures.style import GRAY, WIDTH
from stylenat.models.base import Generator
from stylenat.sampling.attention_maps import attention_maps, by_partition
from stylenat.sampling.sample import render, styles


class Part(NamedTuple):
    """Heads of a level that see the same keys.

    Attributes:
        title: which heads, and what they see.
        heads: how many.
    """

    title: str
    heads: int


def head_parts(partitions: Sequence[Partition]) -> list[Part]:
    """The parts of a level: its partitions; StyleSwin's windows are two, plain and shifted.

    Args:
        partitions: of the level.
    """
    parts = []
    first = 1
    for heads, keys in _groups(partitions):
        last = first + heads - 1
        name = f"head {first}" if heads == 1 else f"heads {first}–{last}"
        parts.append(Part(f"{name}: {keys}", heads))
        first = last + 1
    return parts


def _groups(partitions: Sequence[Partition]) -> list[tuple[int, str]]:
    """(heads, what they see) of the heads that see the same, in order."""
    groups = []
    for part in partitions:
        if isinstance(part, ShiftedWindows):
            windows = f"{part.window_size} × {part.window_size} windows"
            groups.append((part.heads // 2, windows))
            groups.append((part.heads // 2, f"{windows}, shifted"))
        elif isinstance(part, Full):
            groups.append((part.heads, "full attention"))
        else:
            kernel = f"{part.kernel_size} × {part.kernel_size}"
            groups.append((part.heads, f"{kernel}, dilation {part.dilation}"))
    return groups


def attention_figure(
    generator: Generator,
    seed: int,
    level: int,
    queries: dict[str, tuple[int, int]],
    *,
    block: int = 0,
    truncation_psi: float = 1.0,
) -> Figure:
    """What each part of a level's heads attends to while an image is made: a row a query, a column a part.

    A key's color is the mean of its softmax weight over the part's heads; what is left gray has no weight.

    Args:
        generator: in eval mode.
        seed: of the image.
        level: resolution of the level, one of the generator's.
        queries: `{"name": (row, column)}` on the level's grid; the query is the outlined square.
        block: which block of the level, from 0.
        truncation_psi: see `truncate`.

    Raises:
        UserError: no such level or block, no query, or one outside of the grid.
    """
    if not queries:
        raise UserError('no query is given: give one or more, {"name": (row, column)}')
    parts = head_parts(generator.attention(level, block).partitions)
    w = styles(generator, [seed], truncation_psi)  # (1, style_dim)
    maps = {}
    for name, query in queries.items():
        weights = attention_maps(generator, w, level, query, block=block)  # (1, heads, level, level)
        maps[name] = by_partition(weights, parts)[0].cpu()  # (parts, level, level)
    image = render(generator, w)[0].permute(1, 2, 0)  # (R, R, 3)
    strongest = max(weights.max().item() for weights in maps.values())
    columns = len(parts) + 1
    side = min(2.4, (WIDTH - 1.1) / columns)
    figure = Figure((columns * side + 1.1, (side + 0.3) * len(queries) + 0.4), layout="constrained")
    panels = figure.subplots(len(queries), columns, squeeze=False)
    for row, (name, query) in zip(panels, queries.items(), strict=True):
        _show_image(row[0], image, level)
        _outline(row[0], query, level)
        row[0].set_ylabel(name, fontsize=11)
        for axes, weights in zip(row[1:], maps[name], strict=True):
            _show_image(axes, _gray(image), level)
            shown = _show_weights(axes, weights, strongest)
            _outline(axes, query, level)
            axes.set_xlabel(f"largest weight {weights.max():.2g}", fontsize=10, color=GRAY)
    panels[0][0].set_title(f"seed {seed}, level {level} × {level}\nblock {block + 1}", fontsize=11)
    for axes, part in zip(panels[0][1:], parts, strict=True):
        axes.set_title(part.title.replace(": ", "\n"), fontsize=11)
    bar = figure.colorbar(shown, ax=panels, aspect=30, pad=0.02)
    bar.set_label("attention weight (gray: none)", fontsize=10)
    return figure


def _gray(image: Tensor) -> Tensor:
    """An image `(R, R, 3)` in pale gray, on which colors stand out."""
    luma = image.float() @ torch.tensor([0.299, 0.587, 0.114]) / 255  # (R, R), ITU-R BT.601
    return (0.55 + 0.4 * luma)[..., None].expand(-1, -1, 3)


def _show_image(axes: Axes, image: Tensor, level: int) -> None:
    """An image `(R, R, 3)` on the level's grid."""
    axes.imshow(image.numpy(), extent=(0, level, level, 0))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _show_weights(axes: Axes, weights: Tensor, strongest: float) -> AxesImage:
    """Weights `(level, level)` over the image; where there is none, it shows through."""
    values = weights.numpy()
    return axes.imshow(
        values,
        extent=(0, len(values), len(values), 0),
        cmap="YlOrRd",
        vmin=0,
        vmax=strongest,
        interpolation="nearest",
        alpha=(values > 1e-25) * 1.0,  # masks of windows leave e⁻¹⁰⁰
    )


def _outline(axes: Axes, query: tuple[int, int], level: int) -> None:
    """A square around the query."""
    row, column = query
    margin = 0.006 * level  # keeps the query's own color free
    square = Rectangle(
        (column - margin, row - margin),
        1 + 2 * margin,
        1 + 2 * margin,
        fill=False,
        clip_on=False,
        linewidth=1.0,
        path_effects=[withStroke(linewidth=2.4, foreground="white")],
    )
    axes.add_patch(square)
    axes.set(xlim=(0, level), ylim=(level, 0))
