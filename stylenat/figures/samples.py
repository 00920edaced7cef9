"""Figures of what a generator makes: samples, truncation, neighbors, mixing, interpolation."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from stylenat.data.dataset import ImageDataset
from stylenat.errors import UserError
from stylenat.evaluation.memorization import Memorization
from stylenat.figures.style import DPI, GRAY, WIDTH
from stylenat.images import check_images, enlarge, image_grid
from stylenat.models.base import Generator
from stylenat.sampling.sample import Seeds, check_seeds, interpolate, mix_styles, render, styles

GAP = 8  # dots between images


class _Sheet(NamedTuple):
    """Images side by side in a figure."""

    figure: Figure
    axes: Axes
    step: int  # dots from one image to the next


def sample_grid(images: Tensor, columns: int = 8) -> Figure:
    """Images side by side, enlarged by a whole factor so that no pixel is blurred.

    Args:
        images: uint8 `(N, 3, R, R)`.
        columns: images in a row.
    """
    return _draw_sheet(images, columns).figure


def _draw_sheet(images: Tensor, columns: int, left: float = 0.0, top: float = 0.0) -> _Sheet:
    """A figure of images, with margins in inches."""
    check_images(images)
    if not isinstance(columns, int) or columns < 1:
        raise UserError(f"columns={columns!r}: give the images of a row, 1 or more")
    side = images.shape[-1]
    room = round((WIDTH - left) * DPI) - (columns - 1) * GAP
    scale = max(1, room // (columns * side))
    sheet = image_grid(enlarge(images, scale), columns, GAP)  # (3, H, W)
    width = min(WIDTH - left, sheet.shape[2] / DPI)  # large images are made smaller, and filtered
    height = width * sheet.shape[1] / sheet.shape[2]
    figure = Figure((left + width, top + height))
    place = (left / (left + width), 0, width / (left + width), height / (top + height))
    axes = figure.add_axes(place, frame_on=False)
    interpolation = "nearest" if scale > 1 else None  # matplotlib's default filters what it makes smaller
    axes.imshow(sheet.permute(1, 2, 0).numpy(), aspect="auto", interpolation=interpolation)
    axes.set(xticks=[], yticks=[])
    return _Sheet(figure, axes, scale * side + GAP)


def _draw_labeled(
    images: Tensor,
    column_labels: Sequence[str],
    row_labels: Sequence[str],
    left: float = 0.75,
    top: float = 0.3,
) -> _Sheet:
    """A sheet with a label above each column and beside each row."""
    sheet = _draw_sheet(images, len(column_labels), left, top)
    center = (sheet.step - GAP) / 2 - 0.5
    axes = sheet.axes
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks([center + i * sheet.step for i in range(len(column_labels))], column_labels)
    axes.set_yticks([center + i * sheet.step for i in range(len(row_labels))], row_labels)
    axes.tick_params(length=0, labelsize=11)
    return sheet


def labeled_sheet(
    images: Tensor, column_labels: Sequence[str], row_labels: Sequence[str], *, left: float, top: float
) -> Figure:
    """Images row by row with labels.

    Args:
        images: uint8 `(rows · columns, 3, R, R)`.
        column_labels: one above each column.
        row_labels: one beside each row.
        left: inches for those.
        top: inches for the columns' labels.
    """
    return _draw_labeled(images, column_labels, row_labels, left, top).figure


def _seed_labels(seeds: Seeds) -> list[str]:
    return [f"seed {seed}" for seed in check_seeds(seeds)]


def _styles(generator: Generator, seeds: Seeds, truncation_psi: float) -> Tensor:
    """Styles one by one, `(len(seeds), style_dim)`: a seed's is the same everywhere, to the last bit."""
    return torch.cat([styles(generator, [seed], truncation_psi) for seed in check_seeds(seeds)])


def _render(generator: Generator, w: Tensor) -> Tensor:
    """Images one by one: none depends on its neighbors, and large ones need little memory."""
    return torch.cat([render(generator, one) for one in w.split(1)])


def truncation_sweep(
    generator: Generator,
    seeds: Seeds,
    psis: Sequence[float] = (0, 0.25, 0.5, 0.7, 0.85, 1, 1.5),
) -> Figure:
    """The same seeds under growing truncation_psi: a row a seed, a column a psi.

    0 is the mean style, the same in every row; 1 the style as it was drawn; above 1 is what is rarer still.

    Args:
        generator: any generator.
        seeds: one a row.
        psis: one a column.

    Raises:
        UserError: no psi.
    """
    if not len(psis):
        raise UserError("no psi is given: give one or more, such as 0.7")
    w = torch.stack([_styles(generator, seeds, psi) for psi in psis], dim=1)  # (seeds, psis, style_dim)
    columns = [f"ψ = {psi:g}" for psi in psis]
    return _draw_labeled(_render(generator, w.flatten(0, 1)), columns, _seed_labels(seeds)).figure


def neighbors_figure(images: Tensor, found: Memorization, train: ImageDataset, rows: int = 6) -> Figure:
    """The samples that are nearest to the training set, a row each, and their nearest training images.

    Args:
        images: samples, uint8 `(N, 3, R, R)`.
        found: their nearest training images.
        train: the training split.
        rows: how many samples are shown.
    """
    order = found.distances[:, 0].argsort()[:rows]
    neighbors = found.indices.shape[1]
    near = train.stack(found.indices[order].flatten().tolist())  # (rows · neighbors, 3, R, R)
    near = near.unflatten(0, (-1, neighbors))
    sheet = torch.cat([images[order][:, None], near], dim=1).flatten(0, 1)
    columns = ["sample", *(f"training image {i + 1}" for i in range(neighbors))]
    distances = [f"{distance:.1f}" for distance in found.distances[order, 0]]
    drawn = _draw_labeled(sheet, columns, distances)
    drawn.axes.set_ylabel("distance to the nearest, in features")
    return drawn.figure


def mixing_grid(
    generator: Generator,
    coarse_seeds: Seeds,
    fine_seeds: Seeds,
    level: int,
    *,
    truncation_psi: float = 1.0,
) -> Figure:
    """Style mixing (StyleGAN, figure 3): the styles below `level` of a row's seed, the others of a column's.

    Args:
        generator: any generator.
        coarse_seeds: the rows' seeds, whose own images are on the left.
        fine_seeds: the columns' seeds, whose own images are on top.
        level: resolution from which on the fine styles hold, one of the generator's.
        truncation_psi: 1 for none.

    Raises:
        UserError: there is no such level.
    """
    coarse = _styles(generator, coarse_seeds, truncation_psi)
    fine = _styles(generator, fine_seeds, truncation_psi)
    rows = len(coarse)
    columns = len(fine)
    mixes = mix_styles(generator, coarse.repeat_interleave(columns, 0), fine.repeat(rows, 1), level)
    mixed = _render(generator, mixes).unflatten(0, (rows, columns))  # (rows, columns, 3, R, R)
    above = _render(generator, fine)
    beside = _render(generator, coarse)
    below = torch.cat([beside[:, None], mixed], dim=1).flatten(0, 1)
    corner = torch.full_like(above[:1], 255)
    sheet = _draw_labeled(
        torch.cat([corner, above, below]),
        ["", *_seed_labels(fine_seeds)],
        ["", *_seed_labels(coarse_seeds)],
        left=1.0,
        top=0.55,
    )
    axes = sheet.axes
    axes.set_xlabel(f"fine styles, from {level} × {level} on, from …", fontsize=11, labelpad=4, color=GRAY)
    axes.set_ylabel("coarse styles from …", fontsize=11, labelpad=4, color=GRAY)
    between = sheet.step - GAP / 2 - 0.5
    axes.axvline(between, color=GRAY, linewidth=1.2)
    axes.axhline(between, color=GRAY, linewidth=1.2)
    return sheet.figure


def interpolation_strip(
    generator: Generator,
    seeds: Seeds,
    frames: int,
    spaces: Sequence[str] = ("w", "z"),
    *,
    truncation_psi: float = 1.0,
) -> Figure:
    """The way from each seed to the next, a row a space; see `stylenat.sampling.sample.interpolate`.

    Args:
        generator: any generator.
        seeds: two or more.
        frames: steps from one seed to the next.
        spaces: "w", straight between styles, and "z", along the sphere between latents; or one of them.
        truncation_psi: 1 for none.

    Raises:
        UserError: no space or another one, fewer than two seeds, or no frame.
    """
    if not spaces:
        raise UserError("no space is given: take 'w' or 'z', or both")
    ways = []
    for space in spaces:
        ways.append(interpolate(generator, seeds, frames, space=space, truncation_psi=truncation_psi))
    columns = ["" for _ in ways[0]]
    for index, label in enumerate(_seed_labels(seeds)):
        columns[index * frames] = label
    return _draw_labeled(torch.cat(ways), columns, [f"in {space}" for space in spaces], left=0.45).figure
