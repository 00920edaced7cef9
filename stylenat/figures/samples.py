"""Figures that show a generator at work: samples, truncation, mixing, interpolation, attention."""

import torch
from matplotlib.figure import Figure

from stylenat.figures.style import DPI, GRAY, WIDTH
from stylenat.images import enlarge, image_grid
from stylenat.sampling.sample import interpolate, mix_styles, render, styles

GAP = 8  # dots between images


def sample_grid(images, columns=8):
    """Images side by side, enlarged by a whole factor so that no pixel is blurred.

    Args:
        images: uint8 `(N, 3, R, R)`.
    """
    return _sheet(images, columns)[0]


def _sheet(images, columns, left=0.0, top=0.0):
    """A figure of images with margins in inches, its axes, and dots from one image to the next."""
    side = images.shape[-1]
    room = round((WIDTH - left) * DPI) - (columns - 1) * GAP
    scale = max(1, room // (columns * side))
    sheet = image_grid(enlarge(images, scale), columns, GAP)
    width = min(WIDTH - left, sheet.shape[2] / DPI)  # large images are made smaller, and filtered
    height = width * sheet.shape[1] / sheet.shape[2]
    figure = Figure((left + width, top + height))
    axes = figure.add_axes(
        (left / (left + width), 0, width / (left + width), height / (top + height)), frame_on=False
    )
    crisp = "nearest" if scale > 1 else None  # matplotlib's default filters what it makes smaller
    axes.imshow(sheet.permute(1, 2, 0).numpy(), aspect="auto", interpolation=crisp)
    axes.set(xticks=[], yticks=[])
    return figure, axes, scale * side + GAP


def _labeled(images, column_labels, row_labels, left=0.75, top=0.3):
    """`_sheet` with a label above each column and beside each row."""
    figure, axes, step = _sheet(images, len(column_labels), left, top)
    center = (step - GAP) / 2 - 0.5
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks([center + i * step for i in range(len(column_labels))], column_labels)
    axes.set_yticks([center + i * step for i in range(len(row_labels))], row_labels)
    axes.tick_params(length=0, labelsize=11)
    return figure, axes, step


def _styles(generator, seeds, truncation_psi):
    """Styles one by one: a seed's is the same in every figure, to the last bit."""
    return torch.cat([styles(generator, [seed], truncation_psi) for seed in seeds])


def _render(generator, w):
    """Images one by one: none depends on its neighbors, and large ones need little memory."""
    return torch.cat([render(generator, one) for one in w.split(1)])


def truncation_sweep(generator, seeds, psis=(0, 0.25, 0.5, 0.7, 0.85, 1, 1.5)):
    """The same seeds under growing truncation_psi: a row a seed, a column a psi.

    0 is the mean style, the same in every row; 1 the style as it was drawn; above 1 lies what is rarer still.
    """
    w = torch.stack([_styles(generator, seeds, psi) for psi in psis], dim=1).flatten(0, 1)
    columns = [f"ψ = {psi:g}" for psi in psis]
    return _labeled(_render(generator, w), columns, [f"seed {seed}" for seed in seeds])[0]


def neighbors_figure(images, found, train, rows=6):
    """The samples that are nearest to the training set, a row each, and their nearest training images.

    Args:
        images: samples, uint8 `(N, 3, R, R)`.
        found: their `Memorization`.
        train: the training split, an `ImageDataset`.
    """
    order = found.distances[:, 0].argsort()[:rows]
    neighbors = found.indices.shape[1]
    near = train.stack(found.indices[order].flatten().tolist()).unflatten(0, (-1, neighbors))
    sheet = torch.cat([images[order][:, None], near], dim=1).flatten(0, 1)
    columns = ["sample", *(f"training image {i + 1}" for i in range(neighbors))]
    figure, axes, _ = _labeled(sheet, columns, [f"{d:.1f}" for d in found.distances[order, 0]])
    axes.set_ylabel("distance to the nearest, in features")
    return figure


def mixing_grid(generator, coarse_seeds, fine_seeds, level, *, truncation_psi=1.0):
    """Style mixing (StyleGAN, figure 3): the styles below `level` of a row's seed, the others of a column's.

    Args:
        coarse_seeds: the rows' seeds, whose own images are on the left.
        fine_seeds: the columns' seeds, whose own images are on top.
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
    images = torch.cat([torch.full_like(above[:1], 255), above, below])
    labels = [["", *(f"seed {seed}" for seed in seeds)] for seeds in (fine_seeds, coarse_seeds)]
    figure, axes, step = _labeled(images, *labels, left=1.0, top=0.55)
    axes.set_xlabel(f"fine styles, from {level} × {level} on, from …", fontsize=11, labelpad=4, color=GRAY)
    axes.set_ylabel("coarse styles from …", fontsize=11, labelpad=4, color=GRAY)
    between = step - GAP / 2 - 0.5
    axes.axvline(between, color=GRAY, linewidth=1.2)
    axes.axhline(between, color=GRAY, linewidth=1.2)
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
    return _labeled(torch.cat(ways), columns, [f"in {space}" for space in spaces], left=0.45)[0]
