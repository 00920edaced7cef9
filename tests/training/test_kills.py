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
from stylenat.checkpoints.lock import hold
from stylenat.checkpoints.run import Run
from stylenat.cli import main
from stylenat.training.trainer import Trainer

TINY = {
    "nimg": 64, "snapshot": 16, "batch_size": 4, "widths": (8, 8, 8, 8), "discriminator_widths": (8, 8, 8),
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


def what_a_kill_hit(run, since):
    """What was being written when a process that began at `since` died, as far as the disk shows it."""
    found = collections.Counter()
    if not run.path.is_dir():
        return found
    for path in run.path.rglob("*"):
        if path.stat().st_mtime < since:
            continue
        if path.suffix == ".tmp" and path.parent.suffix != ".tmp":
            found["a partial snapshot" if path.is_dir() else f"a file in {path.parent.name}"] += 1
        elif path.parent.name == "generators" and path.stem.isdigit() and int(path.stem) > run.newest():
            found["between a generator and its state"] += 1
    text = (run.path / "log.jsonl").read_text() if (run.path / "log.jsonl").is_file() else ""
    found["a line of the log"] += bool(text) and not text.endswith("\n")
    if (run.path / "state").is_dir() and len(run._states()) > 2:
        found["old states being removed"] += 1
    return +found


def wait_for_a_moment(rng, path):
    """A random moment: while a process starts, after some line of its log, or as it writes a snapshot."""
    log = path / "log.jsonl"
    lines = (log.read_bytes().count(b"\n") if log.is_file() else 0) + rng.randrange(1, 8)
    end = time.monotonic() + 5
    kind = rng.choice(["start", "line", "snapshot", "snapshot"])
    if kind == "start":
        time.sleep(rng.uniform(0, 0.5))
    elif kind == "line":
        while time.monotonic() < end and not (log.is_file() and log.read_bytes().count(b"\n") >= lines):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.15))
    else:
        before = set((path / "state").glob(".*"))
        while time.monotonic() < end and not set((path / "state").glob(".*")) - before:
            time.sleep(0.0002)
        time.sleep(rng.uniform(0, 0.01))


def kill_often(lives, tmp_path, count, **settings):
    """SIGKILL `count` trainings at random moments, compare what they end as; runs, and what the kills hit."""
    rng = random.Random(0)
    hit = collections.Counter()
    killed = runs = 0
    while killed < count:
        runs += 1
        assert lives.run(*command(tmp_path / f"unbroken {runs}", seed=runs, **settings)) == (0, "")
        unbroken = only_run(tmp_path / f"unbroken {runs}")
        run = Run(tmp_path / str(runs) / unbroken.id)
        words = command(run.path.parent, seed=runs, **settings)
        code = None
        while killed < count and code != 0:
            began = time.time()
            pid = lives.start(*words)
            wait_for_a_moment(rng, run.path)
            os.kill(pid, signal.SIGKILL)  # where it has ended it waits for `wait`
            code, _ = lives.wait(pid)
            if code != 0:
                assert code == -signal.SIGKILL
                killed += 1
                hit += what_a_kill_hit(run, began)
        assert lives.run(*words) == (0, "")
        assert differences(run, unbroken) == []
    return runs, hit


def test_a_few_kills_leave_no_trace(lives, tmp_path):
    kill_often(lives, tmp_path, 2)


@pytest.mark.slow
def test_many_kills_leave_no_trace(lives, tmp_path, capsys):
    runs, hit = kill_often(lives, tmp_path, 100, nimg=640)
    with capsys.disabled():
        print(f"\n100 kills, {runs} runs, every file as unbroken; while it wrote {dict(hit)}")
    assert sum(hit.values()) >= 10


# --- SIGINT and SIGTERM


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
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


@pytest.fixture
def interruptible():
    """SIGINT is not ignored, as it is in what a script starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_between_two_lines_of_the_log_leaves_no_trace_in_it(
    tmp_path, monkeypatch, capsys, interruptible
):
    settings = {"nimg": 48, "snapshot": 160}  # a line every second step
    words = [str(word) for word in command(tmp_path / "stopped", score=False, **settings)]
    step = Trainer.step

    def stopping(self, images):
        if self.nimg == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopping)
        assert main(words) == 130
    assert "stopped and saved at nimg=12;" in capsys.readouterr().err
    assert [line["nimg"] for line in only_run(tmp_path / "stopped").log()] == [8]
    assert main(words) == 0
    assert main([str(word) for word in command(tmp_path / "unbroken", score=False, **settings)]) == 0
    assert differences(only_run(tmp_path / "stopped"), only_run(tmp_path / "unbroken")) == []


@pytest.mark.slow
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


def fail_at(monkeypatch, position, number=errno.ENOSPC):
    """A disk that is full, or fails otherwise, at a write: half of it gets there. The list of all writes."""
    writes = []
    write = paths._write

    def failing(path, data, mode="wb"):
        writes.append(path)
        if len(writes) - 1 == position:
            write(path, data[: len(data) // 2], mode)
            raise OSError(number, os.strerror(number))
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


def check_full_disk(capsys, monkeypatch, tmp_path, unbroken, position, number=errno.ENOSPC):
    words = [str(word) for word in command(tmp_path, score=False, **SHORT)]
    with monkeypatch.context() as patch:
        writes = fail_at(patch, position, number)
        message = refused(capsys, *words)
    assert os.strerror(number) in message and str(tmp_path) in message and ".tmp" not in message
    assert len(writes) == position + 1
    assert not list(tmp_path.rglob(".*")), "what was half written is removed"
    assert main(words) == 0
    assert differences(only_run(tmp_path), unbroken) == []


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_disk_that_is_full_at_some_write(capsys, monkeypatch, tmp_path, short, share):
    check_full_disk(capsys, monkeypatch, tmp_path, short[0], int(share * short[1]))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EDQUOT])
def test_a_disk_that_turns_read_only_or_fails_at_some_write(capsys, monkeypatch, tmp_path, short, number):
    check_full_disk(capsys, monkeypatch, tmp_path, short[0], int(0.6 * short[1]), number)


def test_a_folder_that_is_read_only_is_refused_before_the_first_step(capsys, monkeypatch, tmp_path):
    fail_at(monkeypatch, 0, errno.EROFS)
    monkeypatch.setattr(Trainer, "step", None)
    message = refused(capsys, *command(tmp_path, score=False, **SHORT))
    assert f"can't write to {tmp_path}" in message and "(Read-only file system)" in message
    assert "give a place you may write to" in message and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_write(capsys, monkeypatch, tmp_path, short):
    unbroken, count = short
    for position in range(count):
        check_full_disk(capsys, monkeypatch, tmp_path / str(position), unbroken, position)


@pytest.mark.slow
def test_files_that_may_not_grow(lives, unbroken, tmp_path):
    size = (unbroken.path / "state" / "000000064" / "adam_generator.safetensors").stat().st_size
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
HARMS |= {f"bit at {share:.0%}": flip(share) for share in (0, 0.02, 0.5, 1)}
QUICK = ("half", "bit at 50%")
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in HARMS]
STATE = ("generator", "discriminator", "ema", "adam_generator", "adam_discriminator")


def damaged(short, tmp_path, file, harm):
    run, _ = short
    copy = Run(shutil.copytree(run.path, tmp_path / run.id))
    HARMS[harm](copy.path / file)
    return copy


@pytest.mark.parametrize("harm", EVERY)
@pytest.mark.parametrize("file", [*(f"{name}.safetensors" for name in STATE), "info.json"])
def test_a_damaged_state_is_named_and_an_older_one_is_taken_when_asked_for(
    capsys, short, tmp_path, file, harm
):
    copy = damaged(short, tmp_path, f"state/000000016/{file}", harm)
    words = command(tmp_path, score=False, **SHORT)
    message = refused(capsys, *words)
    assert str(copy.path / "state" / "000000016" / file) in message
    assert message.endswith("go on from the snapshot before with --from 8")
    assert copy.newest() == 16
    if harm == "half":
        assert main([str(word) for word in [*words, "--from", 8]]) == 0
        assert differences(copy, short[0]) == []


def test_going_back_makes_the_same_run_again(short, tmp_path, capsys):
    copy = Run(shutil.copytree(short[0].path, tmp_path / short[0].id))
    before = content(copy)
    words = command(tmp_path, score=False, **SHORT)
    assert "has no training state of nimg=12 in" in refused(capsys, *words, "--from", 12)
    assert "there are those of 8, 16, older ones are not kept" in refused(capsys, *words, "--from", 24)
    assert "from 0 is out of range" in refused(capsys, *words, "--from", 0)
    assert content(copy) == before
    (copy.path / "state" / "000000008" / "ema.safetensors").write_bytes(b"")
    message = refused(capsys, *words, "--from", 8)
    assert "ema.safetensors can't be read" in message and "no older snapshot is there" in message
    assert copy.newest() == 16, "nothing is removed for a snapshot that is damaged"
    shutil.copytree(short[0].path, copy.path, dirs_exist_ok=True)
    assert main([str(word) for word in [*words, "--from", 8]]) == 0
    assert differences(copy, short[0]) == []
    assert [line["nimg"] for line in copy.log()] == [line["nimg"] for line in short[0].log()]


def test_going_back_of_a_run_that_is_being_trained_is_refused(short, tmp_path, capsys):
    copy = Run(shutil.copytree(short[0].path, tmp_path / short[0].id))
    with hold(copy.path):
        message = refused(capsys, *command(tmp_path, score=False, **SHORT), "--from", 8)
    assert f"is in use by process {os.getpid()} on " in message and copy.newest() == 16


@pytest.mark.parametrize("harm", EVERY)
def test_a_damaged_generator_is_named_and_written_again(capsys, short, tmp_path, monkeypatch, harm):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path / "workspace"))
    copy = damaged(short, tmp_path, "generators/000000016.safetensors", harm)
    path = copy.generator_path(16)
    assert f"{path} " in refused(capsys, "evaluate", copy.path, "--device", "cpu")
    assert f"{path} " in refused(capsys, "sample", path, "--device", "cpu", "--out", tmp_path / "samples")
    path.unlink()
    assert main([str(word) for word in command(tmp_path, score=False, **SHORT)]) == 0
    assert differences(copy, short[0]) == []


@pytest.mark.parametrize("harm", [*EVERY, "gone"])
def test_damaged_samples_are_made_again(short, tmp_path, monkeypatch, harm):
    monkeypatch.setitem(HARMS, "gone", os.unlink)
    for nimg in (8, 16):
        copy = damaged(short, tmp_path / str(nimg), f"samples/{nimg:09d}.png", harm)
        assert main([str(word) for word in command(copy.path.parent, score=False, **SHORT)]) == 0
        assert differences(copy, short[0]) == []


@pytest.mark.parametrize("cut_off", [1, 30, -2])
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
