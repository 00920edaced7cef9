"""Generated images by the path of what holds them: a folder or zip of samples, or a checkpoint."""

from collections.abc import Iterable
from pathlib import Path

import torch

from stylenat.checkpoints.load import MODEL_FILE, load_generator
from stylenat.checkpoints.run import Run, is_run
from stylenat.data.dataset import ImageDataset, open_samples
from stylenat.device import pick_precision
from stylenat.errors import UserError
from stylenat.evaluation.metrics import METRICS, parse_metrics
from stylenat.evaluation.reference import Statistics
from stylenat.models.base import Generator
from stylenat.models.precision import cast
from stylenat.paths import find_path, workspace


def open_images(
    path: str | Path, device: torch.device | str = "cpu", dtype: str = "float32"
) -> ImageDataset | Generator:
    """Samples in a folder or zip, or the generator of a checkpoint.

    Args:
        path: of either.
        device: for the generator.
        dtype: of the generator's large products, see `models.precision.cast`.

    Raises:
        UserError: there is neither at that path; a type that the device does not compute in, or that means
            nothing to samples.
    """
    precision = pick_precision(dtype, device)
    source = find_path(path)
    is_checkpoint = (source / MODEL_FILE).is_file() or is_run(source)
    if source.suffix.lower() == ".zip" or (source.is_dir() and not is_checkpoint):
        if dtype != "float32":
            raise UserError(f"{path} holds images: dtype {dtype} means nothing to them, leave it out")
        return open_samples(source)
    return cast(load_generator(path).to(device), precision.name)


def check_held_out(
    path: str | Path, reference: ImageDataset | Statistics, metric: str | Iterable[str]
) -> None:
    """Check that a run was not trained on what a score would call held out.

    Args:
        path: of what is scored; of anything but a run or one of its snapshots nothing is known.
        reference: the real images.
        metric: names of metrics, as of `evaluate`.

    Raises:
        UserError: it was, as where the run's data have changed since it began; names an image.
    """
    run = _run_of(path)
    began = run.contents() if run else None
    compares = any("heldout" in METRICS[name].splits for name in parse_metrics(metric))
    if run is None or began is None or not compares or not isinstance(reference, ImageDataset):
        return
    now = reference.contents
    if now.files == began.files:  # which may hold an image twice
        return
    shown = set(began.split("train").values())
    held_out = now.split("heldout")
    seen = [name for name, digest in held_out.items() if digest in shown]
    if seen:
        raise UserError(
            f"run {run.id} was trained on {len(seen)} of the {len(held_out)} images that {reference.source} "
            f"holds out, such as {seen[0]}: give the data as they were when the run began, or others"
        )


def _run_of(path: str | Path) -> Run | None:
    """The run that a path, an id or a snapshot's path leads to."""
    place = find_path(path)
    folders = [place, workspace("runs", str(path))]
    if place.is_file() and place.parent.name == "generators":
        folders.append(place.parent.parent)
    return next((Run(folder) for folder in folders if is_run(folder)), None)
