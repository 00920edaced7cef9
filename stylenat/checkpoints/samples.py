"""Generated images the way a score takes them, wherever they come from."""

from pathlib import Path

from stylenat.checkpoints.load import CARD, load_generator
from stylenat.data.dataset import open_samples


def open_images(path, device="cpu"):
    """Samples in a folder or zip, as an `ImageDataset`; or the generator of a checkpoint."""
    source = Path(path).expanduser()
    model = any((source / name).is_file() for name in (CARD, "config.json"))
    if source.suffix == ".zip" or (source.is_dir() and not model):
        return open_samples(source)
    return load_generator(path).to(device)
