"""The processes that decode images: many on one zip, flat memory, and signals that are not for them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import loader_checks
import pytest
import torch
from PIL import Image

from stylenat.data import loader
from stylenat.data.dataset import open_dataset
from stylenat.data.loader import PositionSampler, batches
from stylenat.distributed import Processes

COUNT = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("loader") / "portraits"
    path.mkdir()
    source = open_dataset("noto-faces", 32)
    for i in range(COUNT):
        Image.fromarray(source[i].permute(1, 2, 0).numpy()).save(path / f"{i:03d}.png")
    return path


@pytest.fixture
def four_workers(monkeypatch):
    """Every set is decoded by four processes, however small it is."""
    monkeypatch.setattr("stylenat.data.dataset.DECODED_AT_ONCE", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


@pytest.fixture
def stream(folder, four_workers):
    found = batches(open_dataset(folder, 32), 8, seed=0)
    yield found
    found.close()


def take(found, count):
    return [next(found) for _ in range(count)]


def test_four_workers_read_one_zip(folder, four_workers, tmp_path):
    path = tmp_path / "portraits.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    dataset = open_dataset(path, 32)
    assert not dataset.is_decoded
    found = take(batches(dataset, 12, seed=0), 3 * COUNT // 12)  # three epochs
    expected = iter(PositionSampler(COUNT, 12, seed=0))
    for batch in found:
        for image, (index, mirrored) in zip(batch, next(expected), strict=True):
            assert torch.equal(image, dataset[index].flip(2) if mirrored else dataset[index])


def test_workers_of_several_processes_read_their_rows(folder, four_workers):
    dataset = open_dataset(folder, 32)
    whole = take(batches(dataset, 16, seed=1), 4)
    for each in (Processes(0, 2), Processes(1, 2)):
        rows = take(batches(dataset, 16, seed=1, rows=each.rows(16)), 4)
        assert all(map(torch.equal, rows, map(each.share, whole)))


@pytest.mark.parametrize("processes, expected", [(1, 4), (2, 4), (4, 2), (8, 1), (16, 1)])
def test_processes_of_a_machine_share_its_cores(folder, four_workers, monkeypatch, processes, expected):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    seen = []
    monkeypatch.setattr(loader, "DataLoader", lambda *_, num_workers, **__: seen.append(num_workers) or [])
    assert list(batches(open_dataset(folder, 32), 8, seed=0)) == [] and seen == [expected]


@pytest.mark.skipif(sys.platform != "linux", reason="no sigwaitinfo")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_leaves_the_workers(stream, number):
    """A scheduler sends it, here another process: the step that is then finished needs its images."""
    take(stream, 5)  # every worker is up
    children = multiprocessing.active_children()
    assert len(children) == 4
    subprocess.run(["kill", f"-{number.value}", *(str(child.pid) for child in children)], check=True)
    take(stream, 20)
    assert multiprocessing.active_children() == children or len(multiprocessing.active_children()) == 4
    children[0].terminate()  # as Python does at its end, where nobody closed the stream
    children[0].join(10)
    assert children[0].exitcode == 0


@pytest.mark.slow
def test_memory_of_workers_is_flat(tmp_path, monkeypatch):
    """It grew by 100 kB an image at 256 pixels."""
    monkeypatch.setattr("stylenat.data.dataset.DECODED_AT_ONCE", 0)
    loader_checks.make_many(tmp_path / "many", 500)
    points = loader_checks.measure_memory(open_dataset(tmp_path / "many", 256), 2, 4000)
    assert sum(points[-1]["workers"]) < sum(points[0]["workers"]) + 40


# --- the measurement


def test_a_photograph_weighs_as_much_as_one(tmp_path):
    loader_checks.make_photographs(tmp_path / "photographs", 12, 256)
    files = sorted(Path(tmp_path, "photographs").iterdir())
    assert len({file.read_bytes() for file in files}) == len(files) == 12
    assert 70_000 < sum(file.stat().st_size for file in files) / 12 < 110_000
