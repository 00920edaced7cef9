"""Kills, signals, full disks and damage, counted: what is resumed equals an unbroken run, file by file."""

import collections
import errno
import json
import os
import random
import re
import shutil
import signal
import time

import pytest
from lives import Lives, until
from test_commands import refused

from stylenat import paths
from stylenat.checkpoints.run import Run
from stylenat.cli import main

TINY = {
    "nimg": 160, "snapshot": 16, "batch_size": 4, "widths": (8, 8, 8, 8), "discriminator_widths": (8, 8, 8),
    "head_dim": 4, "latent_dim": 8, "mapping_depth": 1,
}  # fmt: skip
MEASURED = (
    "seconds",
    "peak_memory_bytes",
    "provenance",
    "attention",
    "sha256",
)  # by a clock or of the machine


def command(folder, *extra, score=True, **settings):
    words = [f"{name}={value}" for name, value in (TINY | settings).items()]
    scores = ["--score-every", "12"] if score else []
    return ["train", "smoke", "--device", "cpu", "--out", folder, *scores, "--set", *words, *extra]


def only_run(folder):
    (path,) = folder.iterdir()
    return Run(path)


def without_measured(entries):
    kept = {name: value for name, value in entries.items() if name not in MEASURED}
    return {name: without_measured(part) if isinstance(part, dict) else part for name, part in kept.items()}


def content(run):
    """Every file of a run by name: bytes, or JSON without what a clock measured."""
    files = {}
    for path in sorted(run.path.rglob("*")):
        name = path.relative_to(run.path).as_posix()
        if path.is_dir():
            continue
        if path.name == "log.jsonl":
            files[name] = [without_measured(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name == "info.json":
            files[name] = without_measured(json.loads(path.read_text()))
        else:
            files[name] = path.read_bytes()
    return files


def differences(run, unbroken):
    """Names of the files that are missing, left over or other than in an unbroken run."""
    ours = content(run)
    theirs = content(unbroken)
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    server = Lives(tmp_path_factory.mktemp("lives"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def unbroken(lives, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert lives.run(*command(folder)) == (0, "")
    return only_run(folder)


# --- SIGKILL


def what_a_kill_left(run):
    """What was being written, as far as the disk shows it."""
    found = collections.Counter()
    temporary = [path for path in run.path.rglob(".stylenat-*.tmp") if path.parent.parent.name != "state"]
    for path in temporary:
        found["partial snapshot" if path.is_dir() else f"partial file in {path.parent.name or '.'}"] += 1
    generators = [int(path.stem) for path in (run.path / "generators").glob("0*")]
    if generators and max(generators) > run.newest():
        found["generator without its state"] += 1
    if (run.path / "log.jsonl").is_file():
        text = (run.path / "log.jsonl").read_text()
        found["torn line"] += bool(text) and not text.endswith("\n")
        lines = [json.loads(line)["nimg"] for line in text.splitlines()]
        found["log ahead of its snapshot"] += bool(lines) and max(lines) > run.newest()
    return +found


def kill_often(lives, tmp_path, count, **settings):
    """SIGKILL `count` trainings of one run at random moments; what is left over and what the kills hit."""
    rng = random.Random(0)
    hit = collections.Counter()
    killed = rounds = 0
    while killed < count:
        rounds += 1
        folder = tmp_path / f"round {rounds}"
        words = command(folder, seed=rounds, **settings)
        assert lives.run(*command(tmp_path / f"unbroken {rounds}", seed=rounds, **settings)) == (0, "")
        unbroken = only_run(tmp_path / f"unbroken {rounds}")
        log = folder / unbroken.id / "log.jsonl"
        ended = False
        while killed < count and not ended:
            before = log.read_bytes() if log.is_file() else b""
            pid = lives.start(*words)
            if rng.random() < 0.7:  # in the steps and writes after some line of the log; else while it starts
                lines = before.count(b"\n") + rng.randrange(1, 8)
                end = time.monotonic() + 2
                while time.monotonic() < end and not (
                    log.is_file() and log.read_bytes().count(b"\n") >= lines
                ):
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.15))
            else:
                time.sleep(rng.uniform(0, 0.5))
            os.kill(pid, signal.SIGKILL)  # where it has ended it waits for `wait`
            code, _ = lives.wait(pid)
            ended = code == 0
            if not ended:
                assert code == -signal.SIGKILL
                killed += 1
                hit += what_a_kill_left(Run(folder / unbroken.id)) if (folder / unbroken.id).is_dir() else {}
        assert lives.run(*words) == (0, "")
        assert differences(only_run(folder), unbroken) == []
    return killed, rounds, hit


def test_a_few_kills_leave_no_trace(lives, tmp_path):
    killed, _, _ = kill_often(lives, tmp_path, 3, nimg=64)
    assert killed == 3


@pytest.mark.slow
def test_many_kills_leave_no_trace(lives, tmp_path, capsys):
    killed, rounds, hit = kill_often(lives, tmp_path, 80, nimg=640)
    with capsys.disabled():
        print(f"\n{killed} kills in {rounds} runs, all files as unbroken; of the kills hit: {dict(hit)}")
    assert killed >= 60 and sum(hit.values()) >= 20


# --- SIGINT and SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(lives, unbroken, tmp_path, number):
    words = command(tmp_path)
    pid = lives.start(*words)
    until(lambda: (tmp_path / unbroken.id / "generators" / "000000032.safetensors").exists())
    os.kill(pid, number)
    code, error = lives.wait(pid)
    assert code == 128 + number
    said = re.fullmatch(
        r"stylenat: stopped and saved at nimg=(\d+); the same command goes on from there\n", error
    )
    nimg = int(said[1])
    run = only_run(tmp_path)
    assert run.newest() == nimg == run.last_snapshot() and run.without_sheet() == []
    assert not list(run.path.rglob(".*"))
    assert lives.run(*words) == (0, "")
    assert differences(run, unbroken) == []


def test_a_second_signal_stops_at_once_and_loses_nothing(lives, unbroken, tmp_path):
    pid = lives.start(*command(tmp_path))
    until(lambda: (tmp_path / unbroken.id / "log.jsonl").exists())
    for _ in range(40):
        os.kill(pid, signal.SIGINT)
    code, error = lives.wait(pid)
    assert code == 130 and error.count("\n") == 1 and "go" in error and "Traceback" not in error
    assert lives.run(*command(tmp_path)) == (0, "")
    assert differences(only_run(tmp_path), unbroken) == []


# --- a full disk


def fail_at(monkeypatch, position):
    """A disk that is full at one of the writes: half of it gets there. The list of all writes so far."""
    writes = []
    write = paths._write

    def failing(path, data, mode="wb"):
        writes.append(path)
        if len(writes) - 1 == position:
            write(path, data[: len(data) // 2], mode)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data, mode)

    monkeypatch.setattr(paths, "_write", failing)
    return writes


SHORT = {"nimg": 16, "snapshot": 8}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A short run that nothing interrupted, and the number of its writes."""
    folder = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        writes = fail_at(patch, None)
        assert main([str(word) for word in command(folder, score=False, **SHORT)]) == 0
    return only_run(folder), len(writes)


def check_full_disk(capsys, monkeypatch, tmp_path, unbroken, position):
    words = [str(word) for word in command(tmp_path, score=False, **SHORT)]
    with monkeypatch.context() as patch:
        writes = fail_at(patch, position)
        message = refused(capsys, *words)
    assert "No space left on device" in message and str(tmp_path) in message and ".tmp" not in message
    assert len(writes) == position + 1
    assert not list(tmp_path.rglob(".*")), "what was half written is removed"
    assert main(words) == 0
    assert differences(only_run(tmp_path), unbroken) == []


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.9])
def test_a_disk_that_is_full_at_some_write(capsys, monkeypatch, tmp_path, short, share):
    check_full_disk(capsys, monkeypatch, tmp_path, short[0], int(share * short[1]))


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_write(capsys, monkeypatch, tmp_path, short):
    unbroken, count = short
    for position in range(count):
        check_full_disk(capsys, monkeypatch, tmp_path / str(position), unbroken, position)


def test_files_that_may_not_grow(lives, unbroken, tmp_path):
    size = (unbroken.path / "state" / "000000160" / "adam_generator.safetensors").stat().st_size
    code, error = lives.run(*command(tmp_path), limit=size - 1)
    assert code == 2 and error.count("\n") == 1
    assert "adam_generator.safetensors: File too large; fix that and run the same command again" in error
    assert lives.run(*command(tmp_path)) == (0, "")
    assert differences(only_run(tmp_path), unbroken) == []


# --- files cut short, and with one bit flipped


def cut(share):
    def harm(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return harm


def flip(share):
    def harm(path):
        content = bytearray(path.read_bytes())
        content[int((len(content) - 1) * share)] ^= 4
        path.write_bytes(content)

    return harm


def cut_end(path):
    path.write_bytes(path.read_bytes()[:-2])  # the last one may be a line's end, which nobody misses


HARMS = {"empty": cut(0), "half": cut(0.5), "end": cut_end}
HARMS |= {f"bit at {share:.0%}": flip(share) for share in (0, 0.02, 0.3, 0.7, 1)}
STATE = ("generator", "discriminator", "ema", "adam_generator", "adam_discriminator")


def damaged(short, tmp_path, file, harm):
    run, _ = short
    copy = Run(shutil.copytree(run.path, tmp_path / run.id))
    HARMS[harm](copy.path / file)
    return copy


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", [*(f"{name}.safetensors" for name in STATE), "info.json"])
def test_a_damaged_state_is_named_and_can_be_deleted(capsys, short, tmp_path, file, harm):
    copy = damaged(short, tmp_path, f"state/000000016/{file}", harm)
    words = command(tmp_path, score=False, **SHORT)
    message = refused(capsys, *words)
    assert str(copy.path / "state" / "000000016" / file) in message
    assert f"delete {copy.path / 'state' / '000000016'}" in message
    if harm == "half":
        shutil.rmtree(copy.path / "state" / "000000016")
        assert main([str(word) for word in words]) == 0
        assert differences(copy, short[0]) == []


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_generator_is_named_and_written_again(capsys, short, tmp_path, monkeypatch, harm):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path / "workspace"))
    copy = damaged(short, tmp_path, "generators/000000016.safetensors", harm)
    path = copy.generator_path(16)
    assert f"{path} " in refused(capsys, "evaluate", copy.path, "--device", "cpu")
    assert f"{path} " in refused(capsys, "sample", path, "--device", "cpu", "--out", tmp_path / "samples")
    path.unlink()
    assert main([str(word) for word in command(tmp_path, score=False, **SHORT)]) == 0
    assert differences(copy, short[0]) == []


@pytest.mark.parametrize("harm", [*HARMS, "gone"])
def test_damaged_samples_are_made_again(short, tmp_path, monkeypatch, harm):
    monkeypatch.setitem(HARMS, "gone", os.unlink)
    for nimg in (8, 16):
        copy = damaged(short, tmp_path / str(nimg), f"samples/{nimg:09d}.png", harm)
        assert main([str(word) for word in command(copy.path.parent, score=False, **SHORT)]) == 0
        assert differences(copy, short[0]) == []


@pytest.mark.parametrize("cut_off", [1, 2, 30, -2])
@pytest.mark.parametrize("file", ["log.jsonl", "scores.jsonl"])
def test_a_torn_last_line_comes_back(lives, unbroken, tmp_path, file, cut_off):
    """`cut_off` characters of the file's last line are missing, all but two of them where it is negative."""
    copy = Run(shutil.copytree(unbroken.path, tmp_path / unbroken.id))
    *lines, last = (copy.path / file).read_text().splitlines(keepends=True)
    kept = last[:2] if cut_off < 0 else last[:-cut_off]
    (copy.path / file).write_text("".join([*lines, kept]))
    assert lives.run(*command(tmp_path)) == (0, "")
    assert differences(copy, unbroken) == []


def test_a_log_that_lost_more_than_its_last_line_is_named(capsys, short, tmp_path):
    copy = Run(shutil.copytree(short[0].path, tmp_path / short[0].id))
    text = (copy.path / "log.jsonl").read_text()
    (copy.path / "log.jsonl").write_text(text[: len(text) // 3])
    message = refused(capsys, *command(tmp_path, score=False, **SHORT))
    assert f"{copy.path / 'log.jsonl'} has no line of nimg=8: restore the file" in message


def test_a_changed_configuration_is_seen(capsys, short, tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path / "workspace"))
    copy = Run(shutil.copytree(short[0].path, tmp_path / short[0].id))
    path = copy.path / "config.json"
    path.write_text(path.read_text().replace('"r1_gamma": 0.1', '"r1_gamma": 0.5'))
    message = refused(capsys, "evaluate", copy.path, "--device", "cpu")
    assert f"{path} was changed since the run was trained: restore it" in message


# --- leftovers


def test_leftovers_of_dead_processes_go_and_those_of_live_ones_stay(short, tmp_path):
    copy = Run(shutil.copytree(short[0].path, tmp_path / short[0].id))
    host = paths._host()
    dead = 2**22 + 1  # beyond the largest number of a process
    leftovers = [f".stylenat-{host}-{dead}-0123abcd-0.tmp", f".stylenat-{host}-{os.getpid()}-0123abcd-0.tmp"]
    leftovers += [f".x.json.{dead}.tmp", f".000000008.{dead}"]
    alive = [f".stylenat-{host}-{os.getppid()}-0123abcd-0.tmp", f".stylenat-elsewhere-{dead}-0123abcd-0.tmp"]
    alive += [f".x.json.{os.getppid()}.tmp", ".mine", "notes.txt"]
    for folder in (copy.path, copy.path / "state", copy.path / "samples"):
        for name in leftovers + alive:
            (folder / name).write_text("part")
    folder = copy.path / "state" / leftovers[0].replace("-0.tmp", "-1.tmp")
    folder.mkdir()
    (folder / "ema.safetensors").write_text("part")
    assert main([str(word) for word in command(tmp_path, score=False, **SHORT)]) == 0
    for folder in (copy.path, copy.path / "state", copy.path / "samples"):
        assert sorted(path.name for path in folder.glob(".*")) == sorted(alive[:-1])
    old = time.time() - 2 * 24 * 3600
    os.utime(copy.path / alive[1], (old, old))
    paths.sweep(copy.path)
    assert not (copy.path / alive[1]).exists(), "another machine's, days old"
