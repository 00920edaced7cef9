"""Two at once: what would tear is refused with the first one's process id, all else is written whole."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, empty_blocks, make_record, make_score, refusal
from lives import Lives, until
from test_commands import refused

from stylenat import paths
from stylenat.checkpoints import lock
from stylenat.checkpoints.convert import convert
from stylenat.checkpoints.load import MODEL_FILE, load_generator, open_checkpoint
from stylenat.checkpoints.lock import LOCK, check_free, hold
from stylenat.checkpoints.run import Run
from stylenat.checkpoints.tensors import load_tensors
from stylenat.cli import main
from stylenat.evaluation.memorization import CopyShare
from stylenat.experiments import record as experiment
from stylenat.experiments.grid import load_grid
from stylenat.experiments.record import score_run
from stylenat.experiments.runs import run_cell
from stylenat.paths import write_atomically
from stylenat.presets import get_config, run_id
from stylenat.reporting.records import write_record
from stylenat.training.loop import train

HOLDER = r"""
import os, sys, time
from pathlib import Path
from stylenat.checkpoints.lock import hold
with hold(Path(sys.argv[1])):
    if "fork" in sys.argv and os.fork() == 0:
        os.write(1, f"{os.getpid()}\n".encode())
        time.sleep(60)
    os.write(1, b"held\n")
    time.sleep(60)
"""
TINY = {
    "nimg": 8, "snapshot": 4, "batch_size": 4, "widths": (8, 8, 8, 8), "discriminator_widths": (8, 8, 8),
    "head_dim": 4, "latent_dim": 8, "mapping_depth": 1,
}  # fmt: skip


class Holder:
    """Another process that holds a folder until it is killed."""

    def __init__(self, folder, *options):
        words = [sys.executable, "-c", HOLDER, str(folder), *options]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        said = [self.process.stdout.readline().strip() for _ in range(1 + len(options))]
        self.child = int(min(said)) if options else None
        self.pid = self.process.pid

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def holder():
    """Makes holders, and ends them."""
    made = []

    def make(folder, *options):
        made.append(Holder(folder, *options))
        return made[-1]

    yield make
    for each in made:
        each.kill()


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    server = Lives(tmp_path_factory.mktemp("lives"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def config():
    return get_config("smoke", **TINY)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    return train(config, tmp_path_factory.mktemp("trained"), "cpu")


# --- the lock


def test_the_second_is_refused_with_the_number_of_the_first(holder, tmp_path):
    first = holder(tmp_path / "x")
    expected = f"{tmp_path / 'x'} is in use by process {first.pid} on "
    for attempt in (check_free, lambda folder: hold(folder).__enter__()):
        assert refusal(attempt, tmp_path / "x").startswith(expected)
    first.kill()
    assert (tmp_path / "x" / LOCK).is_file()
    check_free(tmp_path / "x")
    with hold(tmp_path / "x"):
        assert f"process {os.getpid()} on " in (tmp_path / "x" / LOCK).read_text()


def test_children_of_a_dead_process_hold_nothing(holder, tmp_path):
    first = holder(tmp_path / "x", "fork")
    assert "is in use" in refusal(check_free, tmp_path / "x")
    first.process.kill()
    first.process.wait()
    try:
        os.kill(first.child, 0)  # it lives
        check_free(tmp_path / "x")
        with hold(tmp_path / "x"):
            pass
    finally:
        os.kill(first.child, signal.SIGKILL)


def test_another_thread_is_refused_as_well(tmp_path):
    with hold(tmp_path / "x"):
        assert f"process {os.getpid()} on" in refusal(check_free, tmp_path / "x")


def test_a_lock_leaves_nothing(tmp_path):
    with hold(tmp_path / "empty"):
        pass
    with hold(tmp_path / "full"):
        (tmp_path / "full" / "x").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "x"]


def test_a_file_that_its_holder_removes_meanwhile_is_not_taken(tmp_path, monkeypatch):
    """Between opening and locking it: who holds a file without a name would keep nobody out."""
    lock_file = lock._lock
    removed = []

    def late(file, kind):
        lock_file(file, kind)
        if not removed:
            removed.append((tmp_path / "x" / LOCK).unlink())

    monkeypatch.setattr(lock, "_lock", late)
    with hold(tmp_path / "x"):
        assert "is in use" in refusal(check_free, tmp_path / "x")


def test_many_threads_take_turns_without_a_race(tmp_path):
    inside = []
    overlaps = []

    def work():
        done = 0
        while done < 5:
            try:
                with hold(tmp_path / "x"):
                    overlaps.extend(inside)
                    inside.append(1)
                    time.sleep(0.001)
                    inside.pop()
                    done += 1
            except ValueError:  # in use
                time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not overlaps and not (tmp_path / "x").exists()


# --- commands


def test_a_second_training_is_refused_and_writes_nothing(capsys, holder, config, tmp_path):
    words = [f"{name}={value}" for name, value in TINY.items()]
    run = tmp_path / run_id(config)
    first = holder(run)
    message = refused(capsys, "train", "smoke", "--device", "cpu", "--out", tmp_path, "--set", *words)
    assert f"{run} is in use by process {first.pid} on" in message
    assert [path.name for path in run.iterdir()] == [LOCK]


def test_a_finished_run_is_not_written_to(trained, config):
    """Two notebooks whose run is there already do not meet."""
    before = {path: path.stat().st_mtime_ns for path in (trained.path, *trained.path.rglob("*"))}
    assert train(config, trained.path.parent, "cpu").snapshots() == [4, 8]
    assert {path: path.stat().st_mtime_ns for path in (trained.path, *trained.path.rglob("*"))} == before


def test_two_trainings_at_once_leave_one_whole_run(lives, tmp_path):
    words = ["train", "smoke", "--device", "cpu", "--out", tmp_path / "out", "--set"]
    words += [f"{name}={value}" for name, value in (TINY | {"nimg": 64, "snapshot": 64}).items()]
    pids = [lives.start(*words) for _ in range(2)]
    ends = {pid: lives.wait(pid) for pid in pids}
    (winner,) = (pid for pid, (code, _) in ends.items() if code == 0)
    for pid, (code, error) in ends.items():
        if pid != winner:
            assert code == 2 and error.count("\n") == 1 and f"in use by process {winner} on" in error
    (run,) = (tmp_path / "out").iterdir()
    assert [line["nimg"] for line in Run(run).log()] == list(range(4, 65, 4))


def test_a_second_scoring_of_a_run_is_refused(capsys, holder, trained, empty_workspace):
    first = holder(empty_workspace / "results" / "runs" / trained.id)
    message = refused(capsys, "evaluate", trained.path, "--device", "cpu")
    assert f"{trained.id} is in use by process {first.pid} on" in message


def test_a_second_ablation_in_one_folder_is_refused(holder, empty_workspace):
    cell = load_grid("smoke").cell("na", overrides=TINY)
    run = empty_workspace / "runs" / cell.run_id
    first = holder(run)
    assert f"in use by process {first.pid} on" in refusal(run_cell, cell, "cpu")
    assert [path.name for path in run.iterdir()] == [LOCK]


def test_two_calls_of_sample_into_one_folder_are_refused(capsys, holder, trained, tmp_path):
    first = holder(tmp_path / "samples")
    message = refused(capsys, "sample", trained.path, "--device", "cpu", "--out", tmp_path / "samples")
    assert f"in use by process {first.pid} on" in message


# --- readers while a training writes


@pytest.fixture
def scored_at_once(monkeypatch):
    """Scores that take no time."""
    found = SimpleNamespace(copies=CopyShare(0.0, 0.05, 0.01))
    monkeypatch.setattr(experiment, "evaluate", lambda *words, **options: make_score(3.0))
    monkeypatch.setattr(experiment, "nearest_training_images", lambda *words: (found, None))


def test_a_run_is_scored_as_it_was_when_scoring_began(
    trained, tmp_path, empty_workspace, scored_at_once, monkeypatch
):
    """A snapshot that comes while the one before is scored: the record is all of one of them."""
    run = Run(shutil.copytree(trained.path, tmp_path / "runs" / trained.id))
    later = run.info() | {"nimg": 12, "seconds": 10**6}

    def meanwhile(*words, **options):
        if run.newest() == 8:
            state, _ = run.restore()
            run.save(12, run.generator(), state, later)
            run.add_to_log({"nimg": 12, "seconds": 1.0, "peak_memory_bytes": 1})
        return make_score(3.0)

    monkeypatch.setattr(experiment, "evaluate", meanwhile)
    record = score_run(run, "cpu", history=False)
    assert run.newest() == 12 and record.nimg == 8 and record.seconds < 10**6
    log = (empty_workspace / "results" / "runs" / run.id / "log.csv").read_text()
    assert [line.split(",")[0] for line in log.splitlines()[1:]] == ["4", "8"]


def test_a_line_that_is_being_written_is_no_damage(trained, tmp_path):
    run = Run(shutil.copytree(trained.path, tmp_path / trained.id))
    whole = run.log()
    with (run.path / "log.jsonl").open("a") as file:
        file.write('{"nimg": 12, "sec')
    assert run.log() == whole


def test_networks_of_a_run_are_of_one_snapshot(trained, tmp_path):
    """Of a newer one there is the state alone; and of one newer still the generator alone."""
    run = Run(shutil.copytree(trained.path, tmp_path / trained.id))
    shutil.copy(run.generator_path(4), run.generator_path(12))
    run.generator_path(8).unlink()
    checkpoint = open_checkpoint(run.path)
    assert checkpoint.facts["nimg"] == 4
    state = load_tensors(run.state_path(4) / "generator.safetensors")
    assert all(torch.equal(checkpoint.tensors("g")[name], tensor) for name, tensor in state.items())


def test_a_record_is_of_one_snapshot(trained, tmp_path, empty_workspace, scored_at_once):
    run = Run(shutil.copytree(trained.path, tmp_path / trained.id))
    run.generator_path(8).unlink()
    record = score_run(run, "cpu", history=False)
    assert record.nimg == 4 and record.seconds == run.info(4)["seconds"]


# --- writers


def test_of_many_writers_one_whole_file_stays(tmp_path):
    path = tmp_path / "table.md"
    contents = [str(i) * 100_000 for i in range(8)]
    seen = []

    def read():
        while threads[0].is_alive():
            if path.is_file():
                seen.append(path.read_text())

    threads = [threading.Thread(target=lambda: [write_atomically(path, text) for text in contents * 5])
               for _ in range(4)]  # fmt: skip
    reader = threading.Thread(target=read)
    for thread in (*threads, reader):
        thread.start()
    for thread in (*threads, reader):
        thread.join()
    assert set(seen) <= set(contents) and path.read_text() in contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.md"]


def test_a_folder_that_is_written_to_is_swept(tmp_path):
    """What a dead process left of a file of any kind, such as a table."""
    left = tmp_path / f".stylenat-{paths._host()}-{2**22 + 1}-0123abcd-0.tmp"
    left.write_text("part")
    write_atomically(tmp_path / "table.md", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tables", "figures"])
def test_tables_and_figures_at_once_leave_whole_files(lives, empty_workspace, name):
    (empty_workspace / "README.md").write_text(empty_blocks())
    write_record(make_record())
    assert main([name]) == 0
    expected = files(empty_workspace)
    pids = [lives.start(name, workspace=empty_workspace) for _ in range(3)]
    assert [lives.wait(pid) for pid in pids] == [(0, "")] * 3
    assert files(empty_workspace) == expected


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_folder_is_replaced_as_a_whole(trained, tmp_path, monkeypatch):
    target = tmp_path / "model"
    convert(trained.path, target)
    (target / "notes.txt").write_text("mine")
    before = files(target)
    with monkeypatch.context() as patch:
        patch.setattr("stylenat.checkpoints.convert.model_card", lambda facts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(trained.generator_path(4), target, compact=True)
    assert files(target) == before and [path.name for path in tmp_path.iterdir()] == ["model"]
    convert(trained.generator_path(4), target, compact=True)
    assert sorted(path.name for path in target.iterdir()) == [
        "README.md", "g_ema.safetensors", MODEL_FILE, "notes.txt",
    ]  # fmt: skip
    assert json.loads((target / MODEL_FILE).read_text())["nimg"] == 4
    assert load_generator(target).resolution == 32
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_signal_ends_other_commands_without_leftovers(lives, tmp_path, trained):
    out = tmp_path / "x"
    pid = lives.start("sample", trained.path, "--seeds", "0-9999", "--device", "cpu", "--out", out)
    until(lambda: (out / "seed0003.png").exists())
    os.kill(pid, signal.SIGTERM)
    code, error = lives.wait(pid)
    assert code == 143 and error.startswith("stylenat: terminated; run the same command again")
    assert error.count("\n") == 1 and not list(out.glob(".*"))
