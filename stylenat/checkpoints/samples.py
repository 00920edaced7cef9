"""Generated images by the path of what holds them: a folder or zip of samples, or a checkpoint."""

from pathlib import Path

import torch

from stylenat.checkpoints.load import MODEL_FILE, load_generator
from stylenat.checkpoints.run import is_run
from stylenat.data.dataset import ImageDataset, open_samples
from stylenat.models.base import Generator
from stylenat.paths import find_path


def open_images(path: str | Path, device: torch.device | str = "cpu") -> ImageDataset | Generator:
    """Samples in a folder or zip, or the generator of a checkpoint.

    Args:
        path: of either.
        device: for the generator.

    Raises:
        UserError: there is neither at that path.
    """
    source = find_path(path)
    is_checkpoint = (source / MODEL_FILE).is_file() or is_run(source)
    if source.suffix.lower() == ".zip" or (source.is_dir() and not is_checkpoint):
        return open_samples(source)
    return load_generator(path).to(device)
