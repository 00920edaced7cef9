"""Datasets: the pictures of a source at one resolution as uint8 `(3, R, R)`, their splits and batches."""

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from stylenat.errors import UserError
from stylenat.sources import BUNDLED, bar, open_source

SPLITS = ("all", "train", "heldout")
HOLD_OUT_EVERY = 5  # positions 4, 9, 14, … in name order are held out
DECODED_AT_ONCE = 2**28  # bytes; up to this size a set is decoded when opened, beyond it picture by picture


def _positions(count, split):
    """Which of `count` pictures in name order a split holds."""
    held_out = range(count)[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY]
    train = [i for i in range(count) if i not in held_out]
    return {"all": range(count), "train": train, "heldout": held_out}[split]


class ImageDataset:
    """Pictures of one source at one resolution and split; `[i]` is uint8 `(3, R, R)`, RGB.

    Attributes: `source` as given, `name`, `resolution`, `split`, `names` (relative, sorted) and `manifest`,
    a sha256 of the names and files of the whole source, the same for every split, resolution and packing.
    """

    def __init__(self, files, resolution, split, decoded=None):
        if split not in SPLITS:
            raise UserError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}.")
        kept = _positions(len(files.names), split)
        if not kept:
            raise UserError(
                f"{files.source} has {len(files.names)} pictures and split 'heldout' takes every fifth: it "
                f"is empty; give {HOLD_OUT_EVERY} pictures or more."
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
        picture = self._files.picture(position, self.resolution)
        return torch.from_numpy(picture.transpose(2, 0, 1).copy())

    def stack(self, indices=None):
        """uint8 `(N, 3, R, R)` of all pictures, or of those at `indices`, in memory."""
        indices = range(len(self)) if indices is None else indices
        if self._decoded is not None:
            return self._decoded[self._positions[np.asarray(indices)]]
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(bar(pool.map(self.__getitem__, indices), "decoding", len(indices))))


def open_dataset(source, resolution, split="all"):
    """Open `"noto-faces"` (at 32 or 64) or the path of a folder or zip of images as an `ImageDataset`.

    Every file's size is checked here. A set of at most 256 MB at this resolution is decoded here, too, so
    that a bad file shows at once; a larger one is decoded picture by picture, and `check` finds its bad
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
    """Open a folder or zip of generated pictures, square and all of one size, as an `ImageDataset`.

    Raises: UserError as of `open_dataset`, or naming the first picture of another size.
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


def _stream(length, seed, start):
    """Endless `(index, mirrored)` from image `start` on; epoch e is a permutation drawn from `(seed, e)`."""
    for epoch in itertools.count(start // length):
        rng = np.random.default_rng((seed, epoch))
        order, mirrored = rng.permutation(length), rng.random(length) < 0.5
        first = max(start - epoch * length, 0)
        yield from zip(order[first:], mirrored[first:], strict=True)


def batches(dataset, batch_size, *, seed, start=0, flips=True):
    """Endless uint8 `(B, 3, R, R)` batches: every picture once an epoch, mirrored at random where `flips`.

    The stream depends on `seed` and the position counted in images alone: `start=n` goes on where a stream of
    the same seed stood after n images, whatever its batch size. Batches run across epochs, so none is short.
    """
    stream = _stream(len(dataset), seed, start)
    while True:
        indices, mirrored = zip(*itertools.islice(stream, batch_size), strict=True)
        pictures = dataset.stack(indices)
        if flips:
            pictures = torch.where(torch.tensor(mirrored).view(-1, 1, 1, 1), pictures.flip(3), pictures)
        yield pictures


@dataclass(frozen=True)
class Report:
    """What `check` found; `str()` tells it on one line."""

    source: str
    count: int
    sizes: dict  # (width, height) → pictures
    modes: dict  # Pillow mode → pictures
    manifest: str
    largest_resolution: int
    splits: dict  # split → pictures
    ignored: tuple  # names of sidecars

    def __str__(self):
        sizes = [f"{width}x{height} ({count})" for (width, height), count in list(self.sizes.items())[:3]]
        more = f" and {len(self.sizes) - 3} others" if len(self.sizes) > 3 else ""
        modes = ", ".join(f"{mode} ({count})" for mode, count in self.modes.items())
        splits = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        ignored = f" Ignored: {', '.join(self.ignored)}." if self.ignored else ""
        return (
            f"{self.source}: {self.count} pictures, all of them decode. Sizes {', '.join(sizes)}{more}; "
            f"modes {modes}. Largest resolution {self.largest_resolution}. Splits: {splits}. Manifest sha256 "
            f"{self.manifest}.{ignored}"
        )


def check(source, resolution=None):
    """Decode every picture of `source`, at `resolution` where given, and tell what is there as a `Report`.

    Raises: UserError, one line that counts the files which can't be used and tells of the first five.
    """
    files = open_source(source)
    sizes, modes, faults = Counter(), Counter(), []
    if resolution is not None:
        _check_size(resolution)
        if files.source == BUNDLED:
            files.check_resolution(resolution)
    count = len(files.names)
    for index in bar(range(count), "checking"):
        try:
            size, mode = files.header(index)
            files.picture(index, resolution or min(size))
            sizes[size] += 1
            modes[mode] += 1
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError(f"{len(faults)} of {count} files in {source} can't be used: {' '.join(faults[:5])}")
    return Report(
        source=files.source,
        count=count,
        sizes=dict(sizes.most_common()),
        modes=dict(modes.most_common()),
        manifest=files.manifest,
        largest_resolution=min(map(min, sizes)),
        splits={split: len(_positions(count, split)) for split in ("train", "heldout")},
        ignored=files.ignored,
    )
