"""What notebooks open and check before their first long cell."""

from collections.abc import Sequence

from stylenat.attention.reference import check_query
from stylenat.checkpoints.lock import check_free
from stylenat.checkpoints.run import Run
from stylenat.checkpoints.samples import check_held_out, open_images
from stylenat.data.dataset import ImageDataset, open_dataset
from stylenat.device import pick_device
from stylenat.errors import UserError
from stylenat.evaluation.evaluate import check_evaluation, open_reference
from stylenat.evaluation.reference import Statistics
from stylenat.models.base import Generator
from stylenat.paths import check_writable, expand
from stylenat.presets import get_config
from stylenat.sampling.folder import sample_paths
from stylenat.sampling.sample import check_seeds


def open_scored(
    source: str, data: str, metric: str
) -> tuple[Generator | ImageDataset | None, ImageDataset | Statistics]:
    """Open what the notebook of scores compares, and check that it can be.

    Args:
        source: a run; with `data` also a checkpoint, or a folder or zip of samples.
        data: the real images, or statistics of them; empty: those that the run was trained on.
        metric: names with commas between.

    Returns:
        What is scored, None where it is a run's; and what it is compared with.

    Raises:
        UserError: as of `evaluate`, or images too few to look for copies among them.
    """
    scored = None
    reference: ImageDataset | Statistics
    if data:
        scored = open_images(source, pick_device())
        reference = open_reference(data, scored.resolution)
        check_held_out(source, reference, metric)
    else:
        config = get_config("smoke") if source == "smoke" else Run.open(source).config
        reference = open_dataset(config.data, config.resolution)
    check_evaluation(reference, metric)
    if isinstance(reference, ImageDataset):
        check_evaluation(reference)  # looking for copies takes the same images
    return scored, reference


def check_sampling(
    generator: Generator,
    seeds: Sequence[int],
    *,
    mix_level: int,
    level: int,
    queries: Sequence[Sequence[int]],
    frames: int,
    out: str,
) -> None:
    """Check what the notebook of samples needs after its first image.

    Args:
        generator: whose images it shows.
        seeds: four or more.
        mix_level: level from which on fine styles hold.
        level: whose attention is shown.
        queries: [row, column] on the level's grid.
        frames: steps from one seed to the next, one or more.
        out: folder for the images; empty: none.

    Raises:
        UserError: one of them is out of its range, or the folder can't be written or holds other samples.
    """
    if len(check_seeds(seeds)) < 4:
        raise UserError(f"seeds={seeds!r}: give four or more")
    generator.level_index(mix_level)
    if generator.shows_attention:
        generator.attention(level, 0)
        for query in queries:
            if len(query) != 2:
                raise UserError(f"queries={queries!r}: give [row, column] each")
            check_query((query[0], query[1]), level, level)
    if frames < 1:
        raise UserError(f"frames={frames}: give one or more")
    if out:
        check_free(expand(out))
        check_writable(sample_paths(out, seeds)[0])
