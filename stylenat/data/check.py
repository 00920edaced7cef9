"""Datasets: the images of a source at one resolution as uint8 `(3, R, R)`, their splits and batches."""

from collections import Counter
from dataclasses import dataclass

from stylenat.data.dataset import _check_size, _positions
from stylenat.data.sources import BUNDLED, bar, open_source
from stylenat.errors import UserError


@dataclass(frozen=True)
class Report:
    """What `check` found; `str()` tells it on one line."""

    source: str
    count: int
    sizes: dict  # (width, height) → images
    modes: dict  # Pillow mode → images
    manifest: str
    largest_resolution: int
    splits: dict  # split → images
    ignored: tuple  # names of sidecars

    def __str__(self):
        sizes = [f"{width}x{height} ({count})" for (width, height), count in list(self.sizes.items())[:3]]
        more = f" and {len(self.sizes) - 3} others" if len(self.sizes) > 3 else ""
        modes = ", ".join(f"{mode} ({count})" for mode, count in self.modes.items())
        splits = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        ignored = f" Ignored: {', '.join(self.ignored)}." if self.ignored else ""
        return (
            f"{self.source}: {self.count} images, all of them decode. Sizes {', '.join(sizes)}{more}; "
            f"modes {modes}. Largest resolution {self.largest_resolution}. Splits: {splits}. Manifest sha256 "
            f"{self.manifest}.{ignored}"
        )


def check(source, resolution=None):
    """Decode every image of `source`, at `resolution` where given, and tell what is there as a `Report`.

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
            files.image(index, resolution or min(size))
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
