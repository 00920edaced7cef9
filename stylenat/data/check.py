"""What is in a dataset: every image decoded, sizes and modes counted."""

from collections import Counter
from dataclasses import dataclass

from stylenat.data.catalog import open_source
from stylenat.data.dataset import check_resolution_value, split_positions
from stylenat.data.sources import with_progress
from stylenat.errors import UserError


@dataclass(frozen=True)
class Report:
    """What `check` found; `str()` puts it on one line.

    Attributes:
        source: as given.
        count: images.
        sizes: images by (width, height), the most frequent first.
        modes: images by Pillow mode, the most frequent first.
        manifest: sha256 of names and files.
        largest_resolution: that every image serves.
        splits: images by split.
        ignored: names of sidecars.
    """

    source: str
    count: int
    sizes: dict[tuple[int, int], int]
    modes: dict[str, int]
    manifest: str
    largest_resolution: int
    splits: dict[str, int]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
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


def check(source: str, resolution: int | None = None) -> Report:
    """Decode every image of a dataset.

    Args:
        source: the name of a set, or the path of a folder or zip.
        resolution: that every image must serve; default: its own size.

    Returns:
        What is there.

    Raises:
        UserError: one line that counts the files which can't be used and says why for the first five.
    """
    files = open_source(source)
    if resolution is not None:
        check_resolution_value(resolution)
        files.check_resolution_offered(resolution)
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    faults = []
    count = len(files.names)
    for index in with_progress(range(count), "checking"):
        try:
            size, mode = files.header(index)
            files.image(index, resolution or min(size))
        except UserError as error:
            faults.append(str(error))
            continue
        sizes[size] += 1
        modes[mode] += 1
    if faults:
        raise UserError(f"{len(faults)} of {count} files in {source} can't be used: {' '.join(faults[:5])}")
    return Report(
        source=files.source,
        count=count,
        sizes=dict(sizes.most_common()),
        modes=dict(modes.most_common()),
        manifest=files.manifest,
        largest_resolution=min(map(min, sizes)),
        splits={split: len(split_positions(files, split)) for split in ("train", "heldout")},
        ignored=files.ignored,
    )
