"""Figures that show a generator at work: samples, truncation, mixing, interpolation, attention."""

import math
from itertools import accumulate
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from stylenat.attention_maps import attention_maps, by_partition
from stylenat.images import enlarge, picture_grid
from stylenat.partition import ShiftedWindows
from stylenat.sampling import check_level, interpolate, mix_styles, render, styles

WIDTH = 8.0  # inches: at 100 dots each, the 800 px a README shows
DPI = 200  # of the files: a picture's pixel takes a whole number of theirs
GAP = 8  # dots between pictures
GREY = "#6b6b6b"


def sample_grid(pictures, columns=8):
    """Pictures side by side, enlarged by a whole factor so that no pixel is blurred.

    Args:
        pictures: uint8 `(N, 3, R, R)`.
    """
    return _sheet(pictures, columns)[0]


def _sheet(pictures, columns, left=0.0, top=0.0):
    """A figure of pictures with margins in inches, its axes, and dots from one picture to the next."""
    side = pictures.shape[-1]
    room = round((WIDTH - left) * DPI) - (columns - 1) * GAP
    scale = max(1, room // (columns * side))
    sheet = picture_grid(enlarge(pictures, scale), columns, GAP)
    width = min(WIDTH - left, sheet.shape[2] / DPI)  # large pictures are made smaller, and filtered
    height = width * sheet.shape[1] / sheet.shape[2]
    figure = Figure((left + width, top + height))
    axes = figure.add_axes(
        (left / (left + width), 0, width / (left + width), height / (top + height)), frame_on=False
    )
    crisp = "nearest" if scale > 1 else None  # matplotlib's default filters what it makes smaller
    axes.imshow(sheet.permute(1, 2, 0).numpy(), aspect="auto", interpolation=crisp)
    axes.set(xticks=[], yticks=[])
    return figure, axes, scale * side + GAP


def _labelled(pictures, column_labels, row_labels, left=0.75, top=0.3):
    """`_sheet` with a label above each column and beside each row."""
    figure, axes, step = _sheet(pictures, len(column_labels), left, top)
    centre = (step - GAP) / 2 - 0.5
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks([centre + i * step for i in range(len(column_labels))], column_labels)
    axes.set_yticks([centre + i * step for i in range(len(row_labels))], row_labels)
    axes.tick_params(length=0, labelsize=11)
    return figure, axes, step


def _styles(generator, seeds, truncation_psi):
    """Styles one by one: a seed's is the same in every figure, to the last bit."""
    return torch.cat([styles(generator, [seed], truncation_psi) for seed in seeds])


def _render(generator, w):
    """Pictures one by one: none depends on its neighbours, and large ones need little memory."""
    return torch.cat([render(generator, one) for one in w.split(1)])


def truncation_sweep(generator, seeds, psis=(0, 0.25, 0.5, 0.7, 0.85, 1, 1.5)):
    """The same seeds under growing truncation_psi: a row a seed, a column a psi.

    0 is the mean style, the same in every row; 1 the style as it was drawn; above 1 lies what is rarer still.
    """
    w = torch.stack([_styles(generator, seeds, psi) for psi in psis], dim=1).flatten(0, 1)
    columns = [f"ψ = {psi:g}" for psi in psis]
    return _labelled(_render(generator, w), columns, [f"seed {seed}" for seed in seeds])[0]


def neighbours_figure(pictures, found, train, rows=6):
    """The samples that are nearest to the training set, a row each, and their nearest training pictures.

    Args:
        pictures: samples, uint8 `(N, 3, R, R)`.
        found: their `Memorisation`.
        train: the training split, an `ImageDataset`.
    """
    order = found.distances[:, 0].argsort()[:rows]
    neighbours = found.indices.shape[1]
    near = train.stack(found.indices[order].flatten().tolist()).unflatten(0, (-1, neighbours))
    sheet = torch.cat([pictures[order][:, None], near], dim=1).flatten(0, 1)
    columns = ["sample", *(f"training picture {i + 1}" for i in range(neighbours))]
    figure, axes, _ = _labelled(sheet, columns, [f"{d:.1f}" for d in found.distances[order, 0]])
    axes.set_ylabel("distance to the nearest, in features")
    return figure


def mixing_grid(generator, coarse_seeds, fine_seeds, level, *, truncation_psi=1.0):
    """Style mixing (StyleGAN, figure 3): the styles below `level` of a row's seed, the others of a column's.

    Args:
        coarse_seeds: the rows' seeds, whose own pictures are on the left.
        fine_seeds: the columns' seeds, whose own pictures are on top.
        level: resolution from which on the fine styles hold, one of 4, 8, …, R.

    Raises:
        UserError: there is no such level.
    """
    coarse = _styles(generator, coarse_seeds, truncation_psi)
    fine = _styles(generator, fine_seeds, truncation_psi)
    rows, columns = len(coarse), len(fine)
    mixes = mix_styles(generator, coarse.repeat_interleave(columns, 0), fine.repeat(rows, 1), level)
    mixed = _render(generator, mixes).unflatten(0, (rows, columns))
    above, beside = _render(generator, fine), _render(generator, coarse)
    below = torch.cat([beside[:, None], mixed], dim=1).flatten(0, 1)
    pictures = torch.cat([torch.full_like(above[:1], 255), above, below])
    labels = [["", *(f"seed {seed}" for seed in seeds)] for seeds in (fine_seeds, coarse_seeds)]
    figure, axes, step = _labelled(pictures, *labels, left=1.0, top=0.55)
    axes.set_xlabel(f"fine styles, from {level} × {level} on, from …", fontsize=11, labelpad=4, color=GREY)
    axes.set_ylabel("coarse styles from …", fontsize=11, labelpad=4, color=GREY)
    between = step - GAP / 2 - 0.5
    axes.axvline(between, color=GREY, linewidth=1.2)
    axes.axhline(between, color=GREY, linewidth=1.2)
    return figure


def interpolation_strip(generator, seeds, frames, spaces=("w", "z"), *, truncation_psi=1.0):
    """The way from each seed to the next, a row a space; see `stylenat.sampling.interpolate`.

    Args:
        frames: steps from one seed to the next.
        spaces: "w", straight between styles, and "z", along the sphere between latents; or one of them.

    Raises:
        UserError: another space, fewer than two seeds, or no frame.
    """
    ways = [interpolate(generator, seeds, frames, space=s, truncation_psi=truncation_psi) for s in spaces]
    columns = [f"seed {seeds[i // frames]}" if i % frames == 0 else "" for i in range(len(ways[0]))]
    return _labelled(torch.cat(ways), columns, [f"in {space}" for space in spaces], left=0.45)[0]


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
    """What each part of a level's heads attends to while a picture is made: a row a query, a column a part.

    A key's colour is the mean of its softmax weight over the part's heads; what is left grey has no weight.

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
    picture = render(generator, w)[0].permute(1, 2, 0)
    strongest = max(weights.max().item() for weights in maps.values())
    columns = len(parts) + 1
    side = min(2.4, (WIDTH - 1.1) / columns)
    figure = Figure((columns * side + 1.1, (side + 0.3) * len(queries) + 0.4), layout="constrained")
    panels = figure.subplots(len(queries), columns, squeeze=False)
    for row, (name, query) in zip(panels, queries.items(), strict=True):
        _panel(row[0], picture, query, level)
        row[0].set_ylabel(name, fontsize=11)
        for axes, weights in zip(row[1:], maps[name], strict=True):
            shown = _panel(axes, _grey(picture), query, level, weights.numpy(), strongest)
            axes.set_xlabel(f"largest weight {weights.max():.2g}", fontsize=10, color=GREY)
    panels[0][0].set_title(f"seed {seed}, level {level} × {level}\nblock {block + 1}", fontsize=11)
    for axes, part in zip(panels[0][1:], parts, strict=True):
        axes.set_title(part.title.replace(": ", "\n"), fontsize=11)
    bar = figure.colorbar(shown, ax=panels, aspect=30, pad=0.02)
    bar.set_label("attention weight (grey: none)", fontsize=10)
    return figure


def _grey(picture):
    """A picture `(R, R, 3)` in pale grey, on which colours can be told."""
    luma = picture.float() @ torch.tensor([0.299, 0.587, 0.114]) / 255  # ITU-R BT.601
    return (0.55 + 0.4 * luma)[..., None].expand(-1, -1, 3)


def _panel(axes, picture, query, level, weights=None, strongest=None):
    """A picture on the level's grid, weights `(level, level)` over it where there are any, and the query."""
    extent = (0, level, level, 0)
    shown = axes.imshow(picture.numpy(), extent=extent)
    if weights is not None:
        shown = axes.imshow(
            weights, extent=extent, cmap="YlOrRd", vmin=0, vmax=strongest,
            interpolation="nearest", alpha=(weights > 1e-25) * 1.0,  # masks of windows leave e⁻¹⁰⁰
        )  # fmt: skip
    margin = 0.006 * level  # keeps the query's own colour free
    axes.add_patch(
        Rectangle(
            (query[1] - margin, query[0] - margin), 1 + 2 * margin, 1 + 2 * margin, fill=False, clip_on=False,
            linewidth=1.0, path_effects=[withStroke(linewidth=2.4, foreground="white")],
        )
    )  # fmt: skip
    axes.set(xticks=[], yticks=[], xlim=(0, level), ylim=(level, 0))
    axes.spines[:].set_visible(False)
    return shown


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
    axes.plot([low, corner, high], [low * bandwidth, product, product], color=GREY)
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
