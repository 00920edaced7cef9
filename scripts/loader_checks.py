"""Measure how fast images are read and decoded, and write results/loader.json and docs/many-gpus.md.

`python scripts/loader_checks.py`: made-up photographs at 256 and 1024 pixels in a temporary folder (1 GB), as
a folder and as a zip, by one and two workers; then the memory of every process that reads a set of 70,000
images (some ten minutes on two CPU cores).
"""

import dataclasses
import json
import multiprocessing
import os
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import loader_page
import numpy as np
from PIL import Image

from stylenat.benchmark.results import Stamp
from stylenat.data import loader
from stylenat.data.dataset import ImageDataset, open_dataset
from stylenat.paths import workspace, write_atomically

RESOLUTION = 256
PHOTOS = 2000  # at 256 pixels
LARGE_PHOTOS = 200  # at 1024, the size FFHQ comes in
SHIFTS = 10  # photographs from one drawing, each rolled by another distance
FFHQ = 70_000  # images
BATCH = 32
MEMORY_OVER = 20_000  # images
POINTS = (0.1, 0.4, 0.7, 1.0)  # of these, where memory is read


def photograph(seed: int, side: int) -> np.ndarray:
    """Colored noise whose spectrum falls as 1/f, as that of photographs does; uint8 `(side, side, 3)`.

    Its PNG takes some 90 kB at 256 pixels, about what one of FFHQ's does.
    """
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 128.0)
    cells = 4
    while cells <= side:
        gray = rng.normal(size=(cells, cells, 1))
        field = (gray + 0.5 * rng.normal(size=(cells, cells, 3))).astype(np.float32)
        for channel in range(3):
            drawn = Image.fromarray(field[:, :, channel])
            image[:, :, channel] += (
                240 / cells * np.asarray(drawn.resize((side, side), Image.Resampling.BICUBIC))
            )
        cells *= 2
    return image.clip(0, 255).astype(np.uint8)


def make_photographs(folder: Path, count: int, side: int) -> None:
    """Write PNGs of photographs into a new folder."""
    folder.mkdir()
    for number in range(count):
        seed, shift = divmod(number, SHIFTS)
        if not shift:
            drawn = photograph(seed, side)
        rolled = np.roll(drawn, shift * side // SHIFTS, axis=1)
        Image.fromarray(rolled).save(folder / f"{number:05d}.png")


def make_many(folder: Path, count: int) -> None:
    """Write as many small PNGs of 256 pixels into a new folder, most of them links."""
    folder.mkdir()
    ramp = np.arange(RESOLUTION, dtype=np.uint8)
    for number in range(count):
        path = folder / f"{number:05d}.png"
        if number < SHIFTS:
            image = np.broadcast_to(np.roll(ramp, number)[:, None], (RESOLUTION, RESOLUTION))
            Image.fromarray(image.copy()).convert("RGB").save(path)
        else:
            os.link(folder / f"{number % SHIFTS:05d}.png", path)


def make_zip(folder: Path) -> Path:
    """A zip of a folder's files, stored as they are."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{folder.name}/{file.name}")
    return path


def proportional_memory(pid: int) -> float:
    """A process's memory in MB, what it shares divided by how many share it (PSS)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / 1000


def processor_seconds(pid: int) -> float:
    """What a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def workers() -> list[int]:
    """The process ids of the loader's workers."""
    return sorted(child.pid for child in multiprocessing.active_children() if child.pid)


def measure_speed(dataset: ImageDataset, count: int, images: int) -> dict[str, float]:
    """Images a second of a number of workers, and what an image costs them.

    Args:
        dataset: not decoded.
        count: of workers.
        images: to read, after the first two batches of each worker.
    """
    with patch.object(loader, "MOST_WORKERS", count):
        stream = loader.batches(dataset, BATCH, seed=0)
        for _ in range(2 * count):
            next(stream)
        pids = workers()
        computed = sum(map(processor_seconds, pids))
        began = time.perf_counter()
        batches = images // BATCH
        for _ in range(batches):
            next(stream)
        seconds = time.perf_counter() - began
        computed = sum(map(processor_seconds, pids)) - computed
        stream.close()  # type: ignore[attr-defined]
    assert len(pids) == count
    shown = batches * BATCH
    return {"workers": count, "rate": shown / seconds, "milliseconds": 1000 * computed / shown}


def measure_memory(dataset: ImageDataset, count: int, images: int) -> list[dict[str, Any]]:
    """Memory of this process and of the workers at some points of a pass over a number of images."""
    found = []
    with patch.object(loader, "MOST_WORKERS", count):
        stream = loader.batches(dataset, BATCH, seed=0)
        shown = 0
        for point in POINTS:
            while shown < point * images:
                shown += len(next(stream))
            memory = [proportional_memory(pid) for pid in workers()]
            found.append({"images": shown, "main": proportional_memory(os.getpid()), "workers": memory})
        stream.close()  # type: ignore[attr-defined]
    return found


def measure(
    photos: int = PHOTOS, large: int = LARGE_PHOTOS, many: int = FFHQ, memory_over: int = MEMORY_OVER
) -> dict[str, Any]:
    """Everything that docs/many-gpus.md shows, with the commit and the machine it was measured on."""
    speed = []
    memory = []
    with tempfile.TemporaryDirectory() as place, patch("stylenat.data.dataset.DECODED_AT_ONCE", 0):
        for side, count in ((RESOLUTION, photos), (1024, large)):
            folder = Path(place, f"photographs-{side}")
            make_photographs(folder, count, side)
            size = sum(file.stat().st_size for file in folder.iterdir()) / count
            for packing, path in (("folder", folder), ("zip", make_zip(folder))):
                dataset = open_dataset(path, RESOLUTION, "train")
                for number in (1, 2):
                    entry = measure_speed(dataset, number, len(dataset))
                    speed.append({"side": side, "kilobytes": size / 1000, "packing": packing, **entry})
        folder = Path(place, "many")
        make_many(folder, many)
        for packing, path in (("folder", folder), ("zip", make_zip(folder))):
            began = time.perf_counter()
            dataset = open_dataset(path, RESOLUTION, "train")
            opened = time.perf_counter() - began
            points = measure_memory(dataset, 2, memory_over)
            memory.append({"packing": packing, "images": many, "seconds_to_open": opened, "points": points})
    return {"stamp": dataclasses.asdict(Stamp.here()), "speed": speed, "memory": memory}


def main() -> None:
    """The command."""
    write_atomically(workspace("results", "loader.json"), json.dumps(measure(), indent=1) + "\n")
    loader_page.write_page()


if __name__ == "__main__":
    main()
