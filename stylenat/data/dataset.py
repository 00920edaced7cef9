"""Datasets: the images of a source at one resolution and split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylenat.data.catalog import open_source
from stylenat.data.sources import HOLD_OUT_EVERY, Source, manifest_sha256
from stylenat.errors import UserError

SPLITS = ("all", "train", "heldout")
DECODED_AT_ONCE = 2**28  # bytes; up to this size a set is decoded when opened, beyond it image by image


def split_positions(files: Source, split: str) -> Sequence[int]:
    """Which of a set's images, in name order, a split holds."""
    positions = range(len(files.names))
    if split == "heldout":
        return files.held_out
    if split == "train":
        held_out = set(files.held_out)
        return [position for position in positions if position not in held_out]
    return positions


@dataclass(frozen=True)
class Contents:
    """What a data set held at a time, to compare with what it holds at another.

    Attributes:
        name: of the folder or zip.
        files: sha256 by name, of all images in name order.
        held_out: names of the held-out images, in name order.
    """

    name: str
    files: dict[str, str]
    held_out: tuple[str, ...]

    def split(self, split: str) -> dict[str, str]:
        """The files of "all", "train" or "heldout"."""
        if split == "all":
            return self.files
        held_out = set(self.held_out)
        wanted = split == "heldout"
        return {name: digest for name, digest in self.files.items() if (name in held_out) == wanted}

    def changes(self, now: "Contents") -> str:
        """What is different now, in words; empty where nothing is."""
        added = [name for name in now.files if name not in self.files]
        removed = [name for name in self.files if name not in now.files]
        kept = self.files.keys() & now.files.keys()
        altered = sorted(name for name in kept if self.files[name] != now.files[name])
        moved = sorted(kept & (set(self.held_out) ^ set(now.held_out)))
        differences = [("added", added), ("removed", removed), ("altered", altered)]
        if not added and not removed:  # else the split moves by itself
            differences.append(("of another split", moved))
        found = []
        for what, names in differences:
            if names:
                found.append(f"{len(names)} {what} ({', '.join(names[:3])}{', …' * (len(names) > 3)})")
        return ", ".join(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "name": self.name,
            "manifest": manifest_sha256(self.files),
            "files": self.files,
            "held_out": list(self.held_out),
        }

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "Contents":
        """Undo `to_dict`.

        Raises:
            ValueError: entries that do not fit each other.
        """
        found = cls(entries["name"], entries["files"], tuple(entries["held_out"]))
        if found.to_dict() != entries or not found.files.keys() >= set(found.held_out):
            raise ValueError("its entries do not fit each other")
        return found


class ImageDataset:
    """Images of one source at one resolution and split; `[i]` is uint8 `(3, R, R)`, RGB.

    Args:
        files: the source, every image of which serves the resolution.
        resolution: pixels a side, R.
        split: "all", "train" or "heldout".
        decoded: all images of the source, uint8 `(N, 3, R, R)`; None: each is decoded when it is asked for.

    Attributes:
        source: as given.
        name: of the folder or zip.
        resolution: pixels a side, R.
        split: "all", "train" or "heldout".
        names: of the images, relative, sorted.

    Raises:
        UserError: an unknown split, or one that is empty.
    """

    def __init__(self, files: Source, resolution: int, split: str, decoded: Tensor | None = None) -> None:
        if split not in SPLITS:
            raise UserError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}.")
        kept = split_positions(files, split)
        if not kept:
            raise UserError(
                f"{files.source} has {len(files.names)} images and split 'heldout' takes every fifth: it "
                f"is empty; give {HOLD_OUT_EVERY} images or more."
            )
        self._files = files
        self._positions = np.array(kept)
        self._decoded = decoded
        self.source = files.source
        self.name = files.name
        self.resolution = resolution
        self.split = split
        self.names = [files.names[position] for position in kept]

    @property
    def manifest(self) -> str:
        """sha256 of names and files of the whole source, the same for every split, resolution and packing."""
        return self._files.manifest

    @property
    def contents(self) -> Contents:
        """What the whole source holds, file by file."""
        held_out = tuple(self._files.names[position] for position in self._files.held_out)
        return Contents(self.name, self._files.files, held_out)

    @property
    def is_decoded(self) -> bool:
        """Whether all images are in memory."""
        return self._decoded is not None

    def with_split(self, split: str) -> "ImageDataset":
        """The same source at the same resolution, another split; nothing is read again."""
        return ImageDataset(self._files, self.resolution, split, self._decoded)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Tensor:
        position = self._positions[index]
        if self._decoded is not None:
            return self._decoded[position]
        image = self._files.image(position, self.resolution)
        return torch.from_numpy(image.transpose(2, 0, 1).copy())

    def stack(self, indices: Sequence[int] | np.ndarray | None = None) -> Tensor:
        """uint8 `(N, 3, R, R)` of all images, or of those at `indices`, in memory.

        Raises:
            UserError: a file that can't be decoded.
        """
        chosen = range(len(self)) if indices is None else indices
        if self._decoded is not None:
            return self._decoded[self._positions[np.asarray(chosen)]]
        images = self._files.images(self._positions[np.asarray(chosen)], self.resolution)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def open_dataset(source: str | Path, resolution: int, split: str = "all") -> ImageDataset:
    """Open a dataset at a resolution.

    Every file's size is checked here. A set of at most 256 MB at this resolution is decoded here, too, so
    that a bad file shows at once; a larger one is decoded image by image, and `check` finds its bad
    files beforehand.

    Args:
        source: the name of a set (see `catalog.NAMED`), or the path of a folder or zip of images.
        resolution: pixels a side.
        split: "all", "train" or "heldout".

    Raises:
        UserError: names the path or file at fault, or a resolution or split that isn't there.
    """
    check_resolution_value(resolution)
    return _at_resolution(open_source(source), resolution).with_split(split)


def open_samples(source: str | Path) -> ImageDataset:
    """Open a folder or zip of generated images, square and all of one size.

    Raises:
        UserError: as of `open_dataset`, or naming the first image of another size.
    """
    files = open_source(source)
    sizes = [files.header(index).size for index in range(len(files.names))]
    usual = Counter(sizes).most_common(1)[0][0]
    for name, (width, height) in zip(files.names, sizes, strict=True):
        if (width, height) != usual or width != height:
            raise UserError(
                f"{name} in {source} is {width}x{height}, but samples are square and of one size, here "
                f"{usual[0]}x{usual[1]}: move it elsewhere"
            )
    return _at_resolution(files, usual[0])


def _at_resolution(files: Source, resolution: int) -> ImageDataset:
    files.check_resolution(resolution)
    dataset = ImageDataset(files, resolution, "all")
    if len(dataset) * 3 * resolution**2 > DECODED_AT_ONCE:
        return dataset
    return ImageDataset(files, resolution, "all", decoded=dataset.stack())


def check_resolution_value(resolution: int) -> None:
    """Check that a resolution is a size in pixels.

    Raises:
        UserError: it is not.
    """
    if not isinstance(resolution, int) or isinstance(resolution, bool) or resolution < 1:
        raise UserError(f"resolution {resolution!r} is no size in pixels; give a whole number such as 64.")
