"""What heads did with their view: effective receptive fields, and attention's entropy and reach."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylenat.checkpoints.run import Run
from stylenat.experiments.grid import Cell
from stylenat.experiments.scoring import scores_path
from stylenat.models.base import Generator
from stylenat.paths import write_atomically
from stylenat.sampling.attention_maps import attention_input, attention_weights
from stylenat.sampling.sample import styles

SEEDS = range(8)  # of the images that views are averaged over
QUERIES = 4  # queries an axis, evenly spread over the grid
BLOCKS = 2


@dataclass(frozen=True, eq=False)
class LevelViews:
    """What a level's heads did with their view, averaged over images.

    Attributes:
        field: effective receptive field `(n, n)`: the share of the middle output pixel's gradient, of sum 1.
        entropy: of attention weights in nats, `(blocks, heads)`, averaged over queries too.
        distance: mean attended distance in tokens, `(blocks, heads)`, likewise.
        far: share of the weights on keys more than a quarter of the grid away, `(blocks, heads)`, likewise.
    """

    field: np.ndarray
    entropy: np.ndarray
    distance: np.ndarray
    far: np.ndarray


Views = dict[int, LevelViews]  # by resolution


def effective_receptive_field(generator: Generator, w: Tensor, level: int) -> Tensor:
    """How much each token of a level's input moves the middle output pixel (Luo et al. 2016).

    The gradient of the pixel's three colors with respect to the features that enter the level, its absolute
    values summed over channels and averaged over images.

    Args:
        generator: in eval mode, whose levels take features `(B, n, n, C)`.
        w: styles `(B, latent_dim)`.
        level: resolution n of the level.

    Returns:
        `(n, n)`, of sum 1.

    Raises:
        UserError: there is no such level.
    """
    stage = generator.stages()[generator.level_index(level)]
    features: list[Tensor] = []

    def watch(_: torch.nn.Module, arguments: tuple) -> tuple:
        features.append(arguments[0].detach().requires_grad_())
        return (features[0], *arguments[1:])

    hook = stage.modules[0].register_forward_pre_hook(watch)
    try:
        with torch.enable_grad():
            images = generator.synthesis(w)  # (B, 3, R, R)
            middle = generator.resolution // 2
            # The four pixels around the middle: one alone would lean to a side.
            pixel = images[:, :, middle - 1 : middle + 1, middle - 1 : middle + 1].sum()
            (gradient,) = torch.autograd.grad(pixel, features[0])  # (B, n, n, C)
    finally:
        hook.remove()
    field = gradient.abs().sum(3).mean(0)  # (n, n)
    return field / field.sum()


def attention_statistics(
    generator: Generator, w: Tensor, level: int, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy, mean distance and far share of each head, averaged over images and `QUERIES`² queries.

    Args:
        generator: in eval mode.
        w: styles `(B, latent_dim)`.
        level: resolution n of the level.
        block: of the level.

    Returns:
        Entropy in nats, distance in tokens (Euclidean, from query to key) and the share of the weights that
        lie more than n/4 away, `(heads,)` each.

    Raises:
        UserError: no such level or block.
    """
    attention, features = attention_input(generator, w, level, block)
    position = torch.arange(level, device=w.device)
    places = ((torch.arange(QUERIES) + 0.5) * level / QUERIES).long().tolist()
    found = []
    for row in places:
        for column in places:
            weights = attention_weights(attention, features, (row, column)).double()  # (B, heads, n, n)
            away = torch.hypot((position - row)[:, None].double(), (position - column).double())  # (n, n)
            entropy = torch.special.entr(weights).sum((2, 3))  # (B, heads)
            distance = (weights * away).sum((2, 3))
            far = (weights * (away > level / 4)).sum((2, 3))
            found.append(torch.stack([entropy, distance, far]).mean(1))  # (3, heads)
    entropy, distance, far = torch.stack(found).mean(0)
    return entropy, distance, far


def generator_views(generator: Generator, seeds: range = SEEDS) -> Views:
    """The views of every level of a generator, averaged over the images of some seeds."""
    w = styles(generator, seeds)
    views = {}
    for level in generator.resolutions:
        blocks = [attention_statistics(generator, w, level, block) for block in range(BLOCKS)]
        entropy, distance, far = (torch.stack(parts).float().numpy() for parts in zip(*blocks, strict=True))
        field = effective_receptive_field(generator, w, level)
        views[level] = LevelViews(field.float().numpy(), entropy, distance, far)
    return views


def _views_path(cell: Cell) -> Path:
    return scores_path(cell).with_name(f"{cell.run_id}-views.npz")


def record_views(cell: Cell, run: Run) -> Views:
    """Compute and record the views of a finished run's last snapshot."""
    views = generator_views(run.generator())
    arrays = {}
    for level, own in views.items():
        for name, array in vars(own).items():
            arrays[f"{name}_{level}"] = array
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(_views_path(cell), buffer.getvalue())
    return views


def read_views(cell: Cell) -> Views | None:
    """What `record_views` recorded of a cell, or None."""
    path = _views_path(cell)
    if not path.is_file():
        return None
    views = {}
    with np.load(path) as stored:
        levels = sorted(int(name.removeprefix("field_")) for name in stored if name.startswith("field_"))
        for level in levels:
            parts = {name: stored[f"{name}_{level}"] for name in ("field", "entropy", "distance", "far")}
            views[level] = LevelViews(**parts)
    return views
