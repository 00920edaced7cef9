"""Datasets: the images of a source at one resolution as uint8 `(3, R, R)`, their splits and batches."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from stylenat.data.sources import bar, open_source
from stylenat.errors import UserError

SPLITS = ("all", "train", "heldout")
HOLD_OUT_EVERY = 5  # positions 4, 9, 14, … in name order are held out
DECODED_AT_ONCE = 2**28  # bytes; up to this size a set is decoded when opened, beyond it image by image


def _positions(count, split):
    """Which of `count` images in name order a split holds."""
    held_out = range(count)[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY]
    train = [i for i in range(count) if i not in held_out]
    return {"all": range(count), "train": train, "heldout": held_out}[split]


class ImageDataset:
    """Images of one source at one resolution and split; `[i]` is uint8 `(3, R, R)`, RGB.

    Attributes: `source` as given, `name`, `resolution`, `split`, `names` (relative, sorted) and `manifest`,
    a sha256 of the names and files of the whole source, the same for every split, resolution and packing.
    """

    def __init__(self, files, resolution, split, decoded=None):
        if split not in SPLITS:
            raise UserError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}.")
        kept = _positions(len(files.names), split)
        if not kept:
            raise UserError(
                f"{files.source} has {len(files.names)} images and split 'heldout' takes every fifth: it "
                f"is empty; give {HOLD_OUT_EVERY} images or more."
            )
        self._files, self._positions, self._decoded = files, np.array(kept), decoded
        self.source, self.name, self.resolution, self.split = files.source, files.name, resolution, split
        self.names = [files.names[i] for i in kept]

    @property
    def manifest(self):
        return self._files.manifest

    def with_split(self, split):
        """The same source at the same resolution, another split; nothing is read again."""
        return ImageDataset(self._files, self.resolution, split, self._decoded)

    def __len__(self):
        return len(self._positions)

    def __getitem__(self, index):
        position = self._positions[index]
        if self._decoded is not None:
            return self._decoded[position]
        image = self._files.image(position, self.resolution)
        return torch.from_numpy(image.transpose(2, 0, 1).copy())

    def stack(self, indices=None):
        """uint8 `(N, 3, R, R)` of all images, or of those at `indices`, in memory."""
        indices = range(len(self)) if indices is None else indices
        if self._decoded is not None:
            return self._decoded[self._positions[np.asarray(indices)]]
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(bar(pool.map(self.__getitem__, indices), "decoding", len(indices))))


def open_dataset(source, resolution, split="all"):
    """Open `"noto-faces"` (at 32 or 64) or the path of a folder or zip of images as an `ImageDataset`.

    Every file's size is checked here. A set of at most 256 MB at this resolution is decoded here, too, so
    that a bad file shows at once; a larger one is decoded image by image, and `check` finds its bad
    files beforehand.

    Raises: UserError naming the path or file at fault, or a resolution or split that isn't there.
    """
    _check_size(resolution)
    files = open_source(source)
    files.check_resolution(resolution)
    dataset = ImageDataset(files, resolution, "all")
    if len(dataset) * 3 * resolution**2 <= DECODED_AT_ONCE:
        dataset._decoded = dataset.stack()
    return dataset.with_split(split)


def open_samples(source):
    """Open a folder or zip of generated images, square and all of one size, as an `ImageDataset`.

    Raises: UserError as of `open_dataset`, or naming the first image of another size.
    """
    files = open_source(source)
    sizes = {name: files.header(index)[0] for index, name in enumerate(files.names)}
    usual = Counter(sizes.values()).most_common(1)[0][0]
    for name, (width, height) in sizes.items():
        if (width, height) != usual or width != height:
            raise UserError(
                f"{name} in {source} is {width}x{height}, but samples are square and of one size, here "
                f"{usual[0]}x{usual[1]}: move it elsewhere"
            )
    return open_dataset(source, usual[0])


def _check_size(resolution):
    if not isinstance(resolution, int) or resolution < 1:
        raise UserError(f"resolution {resolution!r} is no size in pixels; give a whole number such as 64.")
