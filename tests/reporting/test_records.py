"""Records: written sorted, rounded and whole; read with the name of what is wrong; old ones still read."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ROOT, make_record, refusal

from stylenat.errors import UserError
from stylenat.evaluation.memorization import CopyShare
from stylenat.evaluation.metrics import ScoreKey
from stylenat.reporting.records import RunRecord, load_records, read_record, write_record
from stylenat.reporting.tables import build_tables

FD_TRAIN = ScoreKey("fd-lite0", "fd", "train")
OLD = ROOT / "tests" / "reporting" / "record_of_version_0_1.json"


def test_a_record_is_written_sorted_rounded_and_whole(empty_workspace):
    path = write_record(make_record(value=0.1 + 0.2, minutes=np.float32(0.5), nimg=torch.tensor(7)))
    assert path == empty_workspace / "results" / "runs" / "noto-32" / "result.json"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]  # no temporary file left
    text = path.read_text()
    entries = json.loads(text)
    assert list(entries) == sorted(entries) and entries["run_id"] == "noto-32"
    assert entries["score"]["values"]["fd_lite0_128_train"]["value"] == 0.3
    assert (entries["minutes"], entries["nimg"]) == (0.5, 7)


def test_what_is_written_is_read(empty_workspace):
    record = make_record(
        memorization=CopyShare(0.01, 0.05, 0.02), attention=("a choice",), config={"variant": "dilation 2"}
    )
    assert read_record(write_record(record)) == record
    assert record.variant == "dilation 2" and make_record().variant == ""
    unscored = make_record(score=None)
    assert read_record(write_record(unscored)) == unscored and unscored.values == {}


@pytest.mark.parametrize("run_id", ["noto-32", "noto-32-long"])
def test_committed_records_are_written_as_they_are(run_id):
    path = ROOT / "results" / "runs" / run_id / "result.json"
    entries = json.loads(path.read_text())
    record = RunRecord.from_dict(entries)
    assert record.to_dict() == entries
    assert record.history[-1].values == record.values and len(record.history) > 5


def test_a_record_of_version_0_1_is_still_read():
    """Spelled "memorisation", "pictures", "floor" and "ceiling", with its variant beside the config."""
    entries = json.loads(OLD.read_text())
    record = RunRecord.from_dict(entries)
    assert record.variant == "dilation 2" and record.config["nimg"] == 8
    old = entries["score"]["values"]["fd_lite0_128_train"]
    new = record.values[FD_TRAIN]
    assert (new.value, new.real_vs_real, new.noise) == (old["value"], old["floor"], old["ceiling"])
    assert record.memorization.share == entries["memorisation"]["share"]
    intervals = {own["interval"] for own in record.score.protocol["metrics"].values()}
    assert intervals == {"95 %, 20 split halves of real and generated images"}


@pytest.mark.parametrize("run_id", ["../elsewhere", "Noto 32", "", ".hidden", "a/b"])
def test_a_run_id_names_a_folder(empty_workspace, run_id):
    assert "use lower-case letters" in refusal(write_record, make_record(run_id))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_a_record_that_json_cannot_hold_is_refused(empty_workspace, value):
    assert "record of run x" in refusal(write_record, make_record("x", minutes=value))
    assert load_records() == []


def test_records_come_in_the_order_of_their_ids(empty_workspace):
    for run_id in ("b", "a-2", "a"):
        write_record(make_record(run_id))
    assert [record.run_id for record in load_records()] == ["a", "a-2", "b"]


def broken(**changes):
    return json.dumps(make_record("b").to_dict() | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"run_id": "b', "is no valid JSON"),
        ("[]", "is no JSON object"),
        ('{"run_id": "b"}', "lacks preset, seed"),
        (broken(run_id="c"), "says run_id 'c'"),
        (broken(dataset="noto-faces"), "has entries of another form"),
        (broken(parameters={"generator": 1}), "has entries of another form"),
        (broken(later=1), "entry 'later' is unknown"),
        (broken(score={"values": {"fdi": {}}, "protocol": {}}), "unknown score 'fdi'"),
    ],
)
def test_a_broken_file_is_named_in_one_line(empty_workspace, text, message):
    write_record(make_record("a"))
    folder = empty_workspace / "results" / "runs" / "b"
    folder.mkdir()
    (folder / "result.json").write_text(text)
    line = refusal(load_records)
    assert line.startswith("results/runs/b/result.json") and message in line
    assert str(empty_workspace) not in line


def test_copies_are_called_suspicious_beyond_two_deviations():
    usual = CopyShare(share=0.081, expected=0.045, error=0.0214)
    assert "8.1% of samples" in str(usual) and "No sign of copies" in str(usual)
    assert "look for copies" in str(replace(usual, share=0.2))


# --- broken in any way


def places(entries, above=()):
    """The way to every entry of nested dicts and lists."""
    items = entries.items() if isinstance(entries, dict) else enumerate(entries)
    for name, part in items:
        yield (*above, name)
        if isinstance(part, dict | list):
            yield from places(part, (*above, name))


def broken(entries, place, value):
    """A copy with another value at a place; None: without the entry."""
    copy = json.loads(json.dumps(entries))
    *above, name = place
    part = copy
    for step in above:
        part = part[step]
    if value is None:
        del part[name]
    else:
        part[name] = value
    return copy


RECORD = ROOT / "results" / "runs" / "noto-32" / "result.json"


@pytest.mark.parametrize("value", [None, "text", [], {}, True, [{}], -1])
def test_a_record_that_is_broken_anywhere_is_named_or_read(empty_workspace, value):
    """Of each kind of entry one place: no other error than the one line that names the file."""
    entries = json.loads(RECORD.read_text())
    entries["history"] = entries["history"][:1]
    entries["attention"] = entries.get("attention", ["x"])[:1]
    path = empty_workspace / "results" / "runs" / "noto-32" / "result.json"
    path.parent.mkdir(parents=True)
    refusals = 0
    for place in places(entries):
        path.write_text(json.dumps(broken(entries, place, value)))
        try:
            build_tables()
        except UserError as error:
            assert str(error).startswith("results/runs/noto-32/result.json"), (place, error)
            refusals += 1
    assert refusals > 10


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"1", b'{"run_id": "noto-32"}', b"null"])
def test_a_file_that_is_no_record_is_named(empty_workspace, content):
    path = empty_workspace / "results" / "runs" / "noto-32" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert refusal(build_tables).startswith("results/runs/noto-32/result.json")


def test_a_record_that_is_cut_short_is_named(empty_workspace):
    content = RECORD.read_bytes()
    path = empty_workspace / "results" / "runs" / "noto-32" / "result.json"
    path.parent.mkdir(parents=True)
    for length in range(0, len(content) - 2, len(content) // 50):
        path.write_bytes(content[:length])
        assert refusal(build_tables).startswith("results/runs/noto-32/result.json")
