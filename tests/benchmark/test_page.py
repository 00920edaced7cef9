"""docs/performance.md is made of results/performance.json alone, and every number says where it is from."""

import dataclasses
import json
import re
import shutil
import subprocess

import pytest
from helpers import ROOT, refusal, without_blocks

from stylenat.benchmark import page, results
from stylenat.benchmark.cases import CASES, COMPARISONS, jobs
from stylenat.benchmark.results import NOT_RECORDED, Stamp

NUMBERS = ROOT / "results" / "performance.json"
PLACE = "AMD EPYC, 2 threads"
HERE = Stamp("a" * 40, False, "a" * 40, "a CPU", 2, "2.14")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A workspace with the committed page and numbers."""
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "docs" / "performance.md", tmp_path / "docs")
    shutil.copy(NUMBERS, tmp_path / "results")
    return tmp_path


@pytest.fixture
def numbers():
    return results.read(NUMBERS)


def test_the_committed_page_is_rebuilt_from_the_committed_numbers(clone):
    path = clone / "docs" / "performance.md"
    committed = path.read_text()
    path.write_text(without_blocks(committed))
    assert path.stat().st_size < len(committed.encode()) / 2
    page.write_page()
    assert path.read_text() == committed
    assert (clone / "figures" / "performance.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_follows_the_numbers(numbers):
    before = page.page_blocks(numbers)
    entry = numbers.entry("sample-256", "now", PLACE)
    measurement = dataclasses.replace(entry.measurement, ratio=8.76)
    numbers.cases["sample-256"]["now"][PLACE] = results.Entry(measurement, entry.stamp)
    after = page.page_blocks(numbers)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"sampling", "scaling"}
    assert all("8.76" in after[name] for name in changed)


def test_another_machine_s_numbers_stand_beside(numbers):
    """In rows of their own, which name the machine, with – for what was not measured there."""
    old = dataclasses.asdict(numbers.entry("sample-256", "now", PLACE).measurement)
    stamp = dataclasses.replace(HERE, device="Xeon", threads=1)
    numbers.add("measure", "now", "sample-256", old | {"seconds": 1.25}, stamp)
    assert numbers.places("sample-256", "now") == [PLACE, "Xeon, 1 thread"]
    assert numbers.entry("sample-256", "now", PLACE).measurement.seconds != 1.25
    blocks = page.page_blocks(numbers)
    (row,) = [line for line in blocks["scaling"].splitlines() if line.startswith("| sample, 256 × 256; Xeon")]
    assert "1.25 s" in row and row.endswith("| – | – |")
    assert "now; Xeon, 1 thread" in blocks["sampling"]
    assert "at commit aaaaaaa, machine: Xeon, 1 thread, torch 2.14" in blocks["scaling"]


def test_a_comparison_is_a_row_of_multiples(clone, numbers):
    ours = {"name": "fused", "seconds": 0.5, "ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0, "rounds": 7}
    tiled = ours | {"name": "tiled", "seconds": 1.5, "ratio": 3.0, "ratio_low": 2.5, "ratio_high": 4.0}
    once = tiled | {"name": "natten-mps", "ratio": 30.0, "rounds": 1}
    found = [
        {"title": "8 × 8", "direction": "forward", "ways": [ours, tiled, once]},
        {
            "title": "16 × 16",
            "direction": "forward",
            "ways": [ours | {"seconds": 2.5}, tiled | {"name": "flex"}],
        },
    ]
    numbers.compared = {}
    for name in COMPARISONS:
        numbers.add("compare", "now", name, found, HERE)
    results.write(numbers)
    block = page.page_blocks(results.read())["peers"]
    assert "| 8 × 8 | forward | 500 ms | 3 × (2.5 – 4) | 30 × (one call) | – |" in block
    assert "| 16 × 16 | forward | 2.5 s | – | – | 3 × (2.5 – 4) |" in block
    assert "Measured at commit aaaaaaa, machine: a CPU, 2 threads" in block


def test_reading_and_writing_keeps_every_byte(clone, numbers):
    results.write(numbers)
    assert (clone / "results" / "performance.json").read_bytes() == NUMBERS.read_bytes()


def test_nothing_measured_yet(tmp_path):
    numbers = results.read(tmp_path / "none.json")
    assert numbers == results.Performance()
    with pytest.raises(KeyError):
        page.page_blocks(numbers)


def test_every_number_has_a_stamp_and_every_case_was_measured(numbers):
    found = []
    for states in numbers.cases.values():
        for places in states.values():
            assert all(entry.stamp.place == place for place, entry in places.items())
            found += [entry.stamp for entry in places.values()]
    for places in numbers.compared.values():
        assert all(compared.stamp.place == place for place, compared in places.items())
        found += [compared.stamp for compared in places.values()]
    found += [profile.stamp for profile in numbers.profiles.values()] + [numbers.equality.stamp]
    found.append(numbers.low_precision.stamp)
    for stamp in found:
        assert re.fullmatch("[0-9a-f]{40}", stamp.commit) and re.fullmatch("[0-9a-f]{40}", stamp.benchmark)
        assert stamp.dirty is False and stamp.device and stamp.threads and stamp.torch
    for job in jobs(list(CASES), with_base=True, everything=True):
        if job.task == "measure":
            for place in numbers.places(job.case, job.state):
                own = numbers.entry(job.case, job.state, place)
                assert own.measurement.rounds >= 3
                assert (own.stamp.commit == numbers.base) == (job.state == "before")
    for seen in (*numbers.by_hand, *numbers.predictions.values()):
        assert re.fullmatch("[0-9a-f]{40}", seen.stamp.commit) and seen.stamp.device is None


def test_what_was_found_by_hand_is_in_the_commit_that_is_named(numbers):
    text = {}
    for seen in numbers.by_hand:
        commit = seen.stamp.commit
        shown = subprocess.run(
            ["git", "show", f"{commit}:scripts/bench_page.py"], cwd=ROOT, capture_output=True, text=True
        )
        if shown.returncode:
            pytest.skip("a clone without the history")
        text[commit] = " ".join(shown.stdout.split())
    for seen in numbers.by_hand:
        for number in re.findall(r"\d[\d.e-]*(?: %)?", seen.effect):
            assert number.rstrip(".") in text[seen.stamp.commit]


def test_a_new_number_takes_the_stamp_of_the_moment(numbers):
    old = dataclasses.asdict(numbers.entry("sample-64", "now", PLACE).measurement)
    numbers.add("measure", "now", "sample-64", old | {"seconds": 1.5}, HERE)
    numbers.add("measure", "before", "sample-64", old, HERE)
    numbers.add("profile", "before", "", [["aten::mm", 2.0, 3]] * 10, HERE)
    numbers.add("equality", "now", "", {"errors": {"x": [1e-7]}, "choices": ["tiled"]}, HERE)
    low = {"instructions": "AMX-BF16", "times": {}, "errors": [], "scores": {}}
    numbers.add("low_precision", "now", "", low, HERE)
    now = numbers.entry("sample-64", "now", HERE.place)
    assert (now.measurement.seconds, now.stamp) == (1.5, HERE)
    of_base = dataclasses.replace(HERE, commit=numbers.base)
    assert numbers.entry("sample-64", "before", HERE.place).stamp == of_base
    assert numbers.profiles["before"].stamp == of_base
    assert numbers.equality.stamp == numbers.low_precision.stamp == HERE
    blocks = page.page_blocks(numbers)
    assert "sample, 64 × 64 now at commit aaaaaaa, machine: a CPU, 2 threads, torch 2.14" in blocks["scaling"]
    assert "aaaaaaa" not in blocks["generators"]
    assert "Measured at commit aaaaaaa" in blocks["equality"]


def test_a_stamp_says_what_is_not_recorded():
    assert str(Stamp(None)) == f"commit {NOT_RECORDED}, machine: {NOT_RECORDED}"
    assert dataclasses.replace(HERE, dirty=True).code == "commit aaaaaaa with changes"
    assert HERE.of_base("b" * 40).code == "commit bbbbbbb (by the benchmark of aaaaaaa)"


def test_this_clone_s_stamp_is_its_provenance():
    stamp = Stamp.here()
    found = results.provenance()
    assert (stamp.commit, stamp.benchmark, stamp.dirty) == (found["commit"], found["commit"], found["dirty"])
    assert (stamp.device, stamp.threads) == (found["device"], found["threads"])
    assert json.loads(results.to_text(results.Performance()))["base"] == ""


def test_a_page_without_a_marker_is_left_alone(clone):
    path = clone / "docs" / "performance.md"
    path.write_text(path.read_text().replace("<!-- steps:end -->", ""))
    broken = path.read_text()
    assert "<!-- steps:begin --> and <!-- steps:end -->" in refusal(page.write_page)
    assert path.read_text() == broken


def test_the_block_on_bfloat16_compares_by_seed(numbers):
    found = numbers.low_precision
    assert set(found.times) == {"sample-256", "step-noto-32"}
    scores = {"FD, train": {"float32": [100.0, 102.0, 104.0], "bfloat16": [101.0, 101.0, 108.0]}}
    times = {"sample-256": {"bfloat16": [1.23456, 0.654, 0.6, 0.7]}}
    errors = [[0.7, 16, 52.34, 41.26, 0.25, 9]]
    numbers.low_precision = results.LowPrecision("AMX-BF16", times, errors, scores, HERE)
    block = page.page_blocks(numbers)["bfloat16"]
    assert "| one image, 256 × 256: bfloat16 | 1.23 s | 0.65 (0.60 – 0.70) |" in block
    assert "| 0.7 | 16 | 52.3 dB | 41.3 dB | 0.25 | 9 |" in block
    assert "| FD, train | 102 | 2 | +1.3 | 4 |" in block
    assert block.endswith("By AMX-BF16. Measured at commit aaaaaaa, machine: a CPU, 2 threads, torch 2.14.")
