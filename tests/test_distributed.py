"""Several processes train as one: same images, latents, augmentations and groups, gradients averaged."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from typing import ClassVar

import pytest
import torch
from helpers import ROOT, refusal, small_network
from lives import until
from ranks import Ranks

from stylenat.checkpoints.run import Run
from stylenat.checkpoints.tensors import load_tensors
from stylenat.data.dataset import open_dataset
from stylenat.data.loader import batches
from stylenat.distributed import ALONE, GROUP, Processes
from stylenat.evaluation.distances import Moments
from stylenat.evaluation.samples import as_samples, sample_features
from stylenat.models.discriminator import minibatch_deviation
from stylenat.training.augment import augment

STEPS = 12
BATCH = 16
TINY = {
    "batch_size": BATCH, "nimg": STEPS * BATCH, "snapshot": 4 * BATCH, "r1_interval": 4, "accumulate": 1,
    "diffaugment": False, "bcr_weight": 10.0, "latent_dim": 8, "mapping_depth": 1,
    "widths": (8, 8, 8, 8), "discriminator_widths": (8, 8, 8), "head_dim": 8, "min_heads": 2,
    "partitions": "1x3@1,1x3@2/1x3@1,1x3@4/1x3@1,1x3@8",
}  # fmt: skip


# --- the shares


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_shares_make_up_the_batch_and_keep_the_groups_whole(size, accumulate):
    ranks = [Processes(rank, size) for rank in range(size)]
    rows = [each.rows(32, accumulate) for each in ranks]
    assert sorted(itertools.chain(*rows)) == list(range(32))
    features = torch.randn(32 // accumulate, 3, 4, 4)
    whole = minibatch_deviation(features, GROUP)
    for each in ranks:
        assert torch.equal(minibatch_deviation(each.share(features)), each.share(whole))
    assert torch.equal(minibatch_deviation(features), whole)  # its own group size is the one that is kept


def test_alone_nothing_changes():
    batch = torch.arange(6)  # not even a multiple of a group
    assert ALONE.rows(6) == batch.tolist() and ALONE.share(batch) is batch and ALONE.span(7, 4) == (0, 7)


def test_processes_augment_as_one():
    images = torch.rand(16, 3, 16, 16)
    torch.manual_seed(0)
    whole = augment(images)
    for rank in range(2):
        each = Processes(rank, 2)
        torch.manual_seed(0)
        assert torch.equal(augment(each.share(images), processes=each), each.share(whole))


@pytest.mark.parametrize(
    "size, batch_size, accumulate, able",
    [
        (3, 64, 1, "1, 2, 4, 8, 16"),
        (32, 64, 1, "1, 2, 4, 8, 16"),
        (2, 8, 2, "1"),
        (2, 4, 1, "1"),
        (2, 2, 1, "1"),
    ],
)
def test_a_batch_that_can_not_be_shared(size, batch_size, accumulate, able):
    message = refusal(Processes(0, size).check_batch, batch_size, accumulate)
    assert f"start {able} processes" in message and f"batch_size={batch_size}" in message
    for number in map(int, able.split(", ")):
        Processes(0, number).check_batch(batch_size, accumulate)


def test_the_processes_images_are_those_of_one(monkeypatch, tmp_path):
    dataset = open_dataset("noto-faces", 32, "train")
    whole = batches(dataset, 16, seed=3, start=5)
    shares = [Processes(rank, 4) for rank in range(4)]
    streams = [batches(dataset, 16, seed=3, start=5, rows=each.rows(16)) for each in shares]
    for _ in range(3):
        batch = next(whole)
        for each, stream in zip(shares, streams, strict=True):
            assert torch.equal(next(stream), each.share(batch))


# --- the trainings


def command(folder, **settings):
    words = [f"{name}={value}" for name, value in (TINY | settings).items()]
    return ["train", "smoke", "--device", "cpu", "--out", folder, "--score-every", "64", "--set", *words]


def only_run(folder):
    (path,) = folder.iterdir()
    return Run(path)


def difference(run, other):
    """The largest of any tensor of the newest state, and of any logged or scored number."""
    largest = 0.0
    for path in other.state_path().glob("*.safetensors"):
        ours, theirs = load_tensors(run.state_path() / path.name), load_tensors(path)
        assert ours.keys() == theirs.keys()
        largest = max(largest, *((ours[name] - theirs[name]).abs().max().item() for name in theirs))
    for name in ("log.jsonl", "scores.jsonl"):
        lines = [[json.loads(line) for line in (each.path / name).open()] for each in (run, other)]
        assert len(lines[0]) == len(lines[1]) > 2
        for ours, theirs in zip(*lines, strict=True):
            assert ours.keys() == theirs.keys() and ours["nimg"] == theirs["nimg"]
            for loss in ours.keys() & {"loss_d", "loss_g", "r1", "kid-lite0"}:
                largest = max(largest, abs(ours[loss] - theirs[loss]))
    return largest


@pytest.fixture(scope="module")
def ranks():
    server = Ranks()
    yield server
    server.close()


@pytest.fixture(scope="module")
def alone(ranks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert ranks.run([command(folder)], folder, double=True) == ([0], "")
    return only_run(folder)


def test_two_processes_train_as_one_and_four_go_on(ranks, alone, tmp_path):
    """In float64, where two orders of the same sums differ by 1e-15: what is off by more is another sum."""
    words = command(tmp_path)
    pids = ranks.start([words] * 2, tmp_path, double=True)
    until(lambda: list(tmp_path.glob("*/state/*64")))
    for pid in pids:  # as torchrun does
        os.kill(pid, signal.SIGTERM)
    codes, error = ranks.wait(pids)
    assert codes == [143, 143]
    assert re.fullmatch(r"stylenat: stopped and saved at nimg=\d+; the same command .*\n", error)
    run = only_run(tmp_path)
    assert 4 * BATCH <= run.newest() < STEPS * BATCH and run.info()["provenance"]["device"].startswith("2 × ")
    assert ranks.run([words] * 4, tmp_path, double=True) == ([0] * 4, "")
    assert run.info()["provenance"]["device"].startswith("4 × ")
    assert difference(run, alone) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(
    "size, settings",
    [
        (2, {}),
        (4, {}),
        (2, {"accumulate": 2}),
        (2, {"diffaugment": True, "bcr_weight": 0.0}),
        (2, {"checkpoint_levels": (16, 32)}),
    ],
)
def test_processes_train_as_one(ranks, tmp_path, capsys, size, settings, double):
    """In float32 rounding grows: Adam without momentum makes a step of its rate of any gradient."""
    runs = []
    for name, count in (("alone", 1), ("together", size)):
        words = command(tmp_path / name, nimg=20 * BATCH, **settings)
        assert ranks.run([words] * count, tmp_path / name, double) == ([0] * count, "")
        runs.append(only_run(tmp_path / name))
    found = difference(*runs)
    with capsys.disabled():
        bits = 64 if double else 32
        print(f"\n{size} processes, {settings}, float{bits}: {found:.1e} after 20 steps")
    assert found < (1e-12 if double else 0.05)


def test_one_process_that_fails_ends_all_with_one_line(ranks, tmp_path):
    words = [command(tmp_path / "runs"), command(tmp_path / "runs", data=tmp_path / "nowhere")]
    codes, error = ranks.run(words, tmp_path / "runs")
    assert codes == [2, 2] and error.count("\n") == 1 and "nowhere" in error
    codes, error = ranks.run(words[1:] * 3, tmp_path / "runs")
    assert codes == [2, 2, 2] and error.count("\n") == 1 and "3 processes can't share batch_size=16" in error


def test_a_process_that_is_killed_ends_the_others_with_one_line(ranks, tmp_path):
    pids = ranks.start([command(tmp_path, nimg=10**6)] * 2, tmp_path)
    until(lambda: list(tmp_path.glob("*/log.jsonl")))
    os.kill(pids[1], signal.SIGKILL)
    codes, error = ranks.wait(pids)
    assert codes == [2, -9] and error.count("\n") == 1 and "another process of this training ended" in error


def test_processes_with_other_images_are_refused(ranks, tmp_path):
    words = [command(tmp_path), command(tmp_path, data="noto-faces-by-design")]
    codes, error = ranks.run(words, tmp_path)
    assert codes == [2, 2] and error.count("\n") == 1
    assert "process 1 of 2 has other training images than process 0" in error


def test_other_commands_are_for_one_process(ranks, tmp_path):
    codes, error = ranks.run([["presets"]] * 2, tmp_path)
    assert codes == [2, 2] and error == "stylenat: presets is for one process: run it without torchrun\n"


# --- torchrun itself


def launched(folder, *words, size=2, module="stylenat.distributed", **settings):
    line = [
        sys.executable,
        "-m",
        module,
        "--nproc-per-node",
        str(size),
        "-m",
        "stylenat",
        *command(folder, **settings),
    ]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*map(str, line), *words], env=variables, text=True, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_torchrun_saves_and_says_how_to_go_on(tmp_path, number):
    process = launched(tmp_path, nimg=10**6)
    until(lambda: list(tmp_path.glob("*/log.jsonl")))
    process.send_signal(number)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + number
    said = re.fullmatch(r"stylenat: stopped and saved at nimg=(\d+); the same command .*\n", error)
    assert only_run(tmp_path).newest() == int(said[1])


@pytest.mark.slow
@pytest.mark.parametrize("module, code", [("stylenat.distributed", 2), ("torch.distributed.run", 1)])
def test_torchrun_ends_with_the_line_of_the_process_that_failed(tmp_path, module, code):
    process = launched(tmp_path, "seed=-1", module=module)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == code and error.count("stylenat: seed=-1 must be") == 1
    assert "Traceback" not in error or module != "stylenat.distributed"


# --- scores


class Threads(Processes):
    """Processes that are threads of this one."""

    shared: ClassVar = []
    barrier = threading.Barrier(3)

    def add(self, tensor):
        self.barrier.wait()
        self.shared.append(tensor.clone())
        self.barrier.wait()
        tensor.copy_(sum(self.shared))
        if self.barrier.wait() == 0:
            self.shared.clear()
        self.barrier.wait()


def test_processes_share_the_images_of_a_score():
    images = torch.randint(0, 256, (420, 3, 8, 8), dtype=torch.uint8)
    networks = {"rows": small_network("dinov2"), "moments": small_network("lite0")}
    results = {}

    def measure(processes):
        found = sample_features(as_samples(images), 420, networks, {"moments"}, processes)
        results[processes.rank, processes.size] = found

    measure(ALONE)
    threads = [threading.Thread(target=measure, args=[Threads(rank, 3)]) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    expected = results[0, 1]
    for rank in range(3):
        found = results[rank, 3]
        assert torch.equal(found["rows"], expected["rows"])
        for part, other in zip(found["moments"], expected["moments"], strict=True):
            assert isinstance(part, Moments) and part.count == other.count
            torch.testing.assert_close(part.mean, other.mean, rtol=1e-12, atol=0)
            torch.testing.assert_close(part.scatter, other.scatter, rtol=1e-10, atol=1e-6)
