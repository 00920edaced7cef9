"""Provenance, records and tables, on records made up here."""

import copy
import io
import json
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, make_record, make_score

from stylenat import provenance as provenance_module
from stylenat.errors import UserError
from stylenat.provenance import provenance
from stylenat.reporting.records import load_runs, record_run
from stylenat.reporting.tables import build_tables, memorized, published, side_by_side, update_readme

PAPER = ROOT / "results" / "paper.csv"


def own(score):
    """What a protocol says of one metric alone."""
    return score["protocol"]["metrics"]["kid-lite0"]


def git(folder, *arguments):
    subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], cwd=folder, check=True)


def test_provenance_tells_the_versions_and_nothing_of_the_host():
    told = provenance()
    assert set(told) == {"commit", "dirty", "versions", "device", "threads", "platform"}
    assert torch.__version__.startswith(told["versions"]["torch"])
    assert told["versions"]["python"] == platform.python_version()
    assert told["threads"] == torch.get_num_threads()
    text = json.dumps(told)
    assert platform.node() not in text and str(Path.home()) not in text


def test_dirty_means_a_changed_source_not_a_result(tmp_path, monkeypatch):
    names = ["stylenat/provenance.py", "results/a.json", "figures/b.png", "README.md"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(provenance_module, "__file__", str(tmp_path / names[0]))
    assert len(provenance()["commit"]) == 40
    (tmp_path / "scratch.txt").write_text("untracked")
    for name in names[1:]:
        (tmp_path / name).write_text("two")
    assert provenance()["dirty"] is False
    (tmp_path / names[0]).write_text("two")
    assert provenance()["dirty"] is True


def test_provenance_works_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance()["commit"] is None and provenance()["dirty"] is None
    monkeypatch.undo()
    # Installed somewhere inside another project's clone: that project's commit is not ours.
    git(tmp_path, "init", "-q")
    monkeypatch.setattr(
        provenance_module, "__file__", str(tmp_path / "site-packages" / "stylenat" / "provenance.py")
    )
    assert provenance()["commit"] is None


def test_a_record_is_written_sorted_rounded_and_whole(room):
    path = record_run("noto-32", make_record(0.1 + 0.2, minutes=np.float32(0.5), nimg=torch.tensor(7)))
    assert path == room / "results" / "runs" / "noto-32" / "result.json"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]  # no temporary file left
    text = path.read_text()
    record = json.loads(text)
    assert list(record) == sorted(record) and record["run_id"] == "noto-32"
    assert record["score"]["values"]["fd_lite0_128_train"]["value"] == 0.3
    assert (record["minutes"], record["nimg"]) == (0.5, 7)
    record_run("noto-32", dict(reversed(record.items())))
    assert path.read_text() == text


@pytest.mark.parametrize("run_id", ["../elsewhere", "Noto 32", "", ".hidden", "a/b"])
def test_a_run_id_names_a_folder(room, run_id):
    with pytest.raises(UserError, match="use lower-case letters"):
        record_run(run_id, make_record())


def test_a_record_that_json_cannot_hold_is_refused(room):
    for value in (float("nan"), object()):
        with pytest.raises(UserError, match="record of run x"):
            record_run("x", make_record(minutes=value))
    incomplete = make_record()
    del incomplete["seed"], incomplete["score"]
    with pytest.raises(UserError, match="record of run x lacks seed, score"):
        record_run("x", incomplete)
    assert load_runs() == []


def test_runs_come_in_the_order_of_their_ids(room):
    for run_id in ("b", "a-2", "a"):
        record_run(run_id, make_record())
    assert [record["run_id"] for record in load_runs()] == ["a", "a-2", "b"]


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"run_id": "b', "results/runs/b/result.json is no valid JSON"),
        ("[]", "results/runs/b/result.json lacks everything"),
        ('{"run_id": "b"}', "results/runs/b/result.json lacks preset, seed"),
        (json.dumps(make_record(run_id="c")), "results/runs/b/result.json says run_id 'c'"),
    ],
)
def test_a_broken_file_is_named_in_one_line(room, text, message):
    record_run("a", make_record())
    (room / "results" / "runs" / "b").mkdir()
    (room / "results" / "runs" / "b" / "result.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_runs()
    assert "\n" not in str(caught.value) and str(room) not in str(caught.value)


def tables(room):
    return {path.name: path.read_bytes() for path in sorted((room / "results" / "tables").iterdir())}


def fill(order):
    made = {
        "noto-32": make_record(),
        "noto-32-b": make_record(411.98765, seed=1, score=make_score(411.98765, device="cuda:0")),
        "ablation-dense": make_record(nimg=20_000, ablation={"partitions": {"16": "4x7@1", "8": "4x7@1"}}),
        "ablation-dilated": make_record(
            nimg=20_000, ablation={"variant": "dilated", "partitions": {"8": "4x7@1", "16": "2x7@1,2x7@2"}}
        ),
        "smoke": make_record(nimg=64, preset="smoke-16", dataset={"name": "noto-faces", "resolution": 16}),
    }
    for run_id in order(made):
        record_run(run_id, made[run_id])


def test_tables_are_the_same_bytes_every_time(room):
    fill(list)
    build_tables()
    first = tables(room)
    assert sorted(first) == [f"{n}.{e}" for n in ("ablation", "published", "runs") for e in ("csv", "md")]
    build_tables()
    assert tables(room) == first
    shutil.rmtree(room / "results" / "runs")
    fill(lambda made: list(made)[::-1])
    build_tables()
    assert tables(room) == first


def test_csv_is_raw_and_markdown_is_rounded(room):
    fill(list)
    text = build_tables()["runs"]
    frame = pd.read_csv(room / "results" / "tables" / "runs.csv").set_index("run")
    assert list(frame.index) == ["noto-32", "noto-32-b", "smoke"]  # the ablation has a table of its own
    assert frame.loc["noto-32", "fd_lite0_128_train"] == 321.123456
    assert frame.loc["noto-32", "fd_lite0_128_train_floor"] == 74.13579
    assert frame.loc["noto-32", ["nimg", "threads", "parameters_generator"]].tolist() == [200_000, 1, 912_345]
    assert (
        "| `noto-32` | 200,000 | 15.2 | a CPU, 1 thread | 912,345 | 321.1 ± 7.5 (74.14 – 993) | 353.2 ±"
        in text
    )
    assert "FD-lite0@128, held-out ↓" in text and "NOT FID" in text


def test_short_runs_are_marked(room):
    fill(list)
    built = build_tables()
    assert "| `smoke` (a smoke test, no result) | 64 |" in built["runs"]
    assert "Short runs of 20,000 images" in built["ablation"]
    assert "| variant | partitions 8 | partitions 16 | seed | images shown |" in built["ablation"]
    assert "| dilated | 4x7@1 | 2x7@1,2x7@2 | 0 | 20,000 |" in built["ablation"]
    assert "| dense |" in built["ablation"]  # named by its run id


def test_without_runs_the_tables_say_so(room):
    built = build_tables()
    assert "None recorded yet" in built["runs"] and "None recorded yet" in built["ablation"]
    assert pd.read_csv(room / "results" / "tables" / "runs.csv").empty


def test_a_run_without_a_score_gets_dashes(room):
    record_run("a", make_record())
    record_run("b", make_record(score=None))
    assert "| `b` | 200,000 | 15.2 | a CPU, 1 thread | 912,345 | – | – | – |" in build_tables()["runs"]


def test_memorization_is_told_beside_what_to_expect(room):
    found = {"share": 0.081, "expected": 0.045, "error": 0.0214}
    record_run("a", make_record(memorization=found))
    assert "| 8.1% | 4.5% ± 2.1% |" in build_tables()["runs"]
    assert pd.read_csv(room / "results" / "tables" / "runs.csv").loc[0, "memorized_share"] == 0.081
    assert "8.1% of samples" in memorized(**found) and "No sign of copies" in memorized(**found)
    assert "look for copies" in memorized(**found | {"share": 0.2})


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda score: own(score).update(network="Inception"), "network"),
        (lambda score: own(score).update(weights_sha256="ab"), "weights_sha256"),
        (lambda score: own(score).update(resize="299x299"), "resize"),
        (lambda score: own(score).update(precision="bfloat16"), "precision"),
        (lambda score: own(score)["references"]["train"].update(n_real=100), "references.train.n_real"),
        (lambda score: own(score)["references"]["heldout"].update(n_fake=9), "references.heldout.n_fake"),
        (
            lambda score: own(score)["references"].update(all={"n_real": 9, "n_fake": 9}),
            "references.all.n_fake",
        ),
        (lambda score: score["protocol"].update(truncation_psi=0.7), "truncation_psi"),
        (lambda score: own(score).update(generated="seeds 5 to 9"), "generated"),
        (lambda score: score["protocol"].update(seed=1), "seed"),
        (lambda score: score["protocol"].update(flips=True), "flips"),
        (lambda score: score["protocol"].update(dataset={"manifest": "cd34"}), "dataset.manifest"),
    ],
)
def test_scores_of_different_protocols_share_no_column(room, change, field):
    other = copy.deepcopy(make_record())
    change(other["score"])
    record_run("one", make_record())
    record_run("two", other)
    with pytest.raises(
        UserError, match=f"^(fd|kid)-lite0 of runs one and two cannot share a column: {field} "
    ):
        build_tables()
    other["dataset"]["resolution"] = 64  # another table: nothing to compare
    record_run("two", other)
    assert build_tables()["runs"].count("### Runs: noto-faces") == 2


def test_scores_on_other_images_or_of_other_metrics(room):
    other = copy.deepcopy(make_record())
    other["dataset"]["manifest"] = "cd34"
    record_run("one", make_record())
    record_run("two", other)
    with pytest.raises(UserError, match="cannot share a column: manifest is 'ab12' and 'cd34'"):
        build_tables()
    # An FID stands in a column of its own, whatever its protocol.
    fid = {
        "fid": {
            "note": "a note",
            "network": "Inception",
            "generated": "seeds 0 to 7",
            "references": {"all": {"n_real": 9, "n_fake": 8}},
        }
    }
    score = {
        "values": {"fid_legacy_pytorch": {"value": 12.3456, "error": 0.05}},
        "protocol": {"device": "cuda", "metrics": fid},
    }
    record_run("two", make_record(score=score))
    text = build_tables()["runs"]
    assert "| FD-lite0@128, held-out ↓ | KID-lite0@128, train ↓ | FID ↓ |" in text
    assert "a CPU, 1 thread | 912,345 | – | – | – | 12.35 ± 0.05 |" in text
    assert "a note. Inception; real and generated images: all 9 and 8; seeds 0 to 7." in text


def test_published_and_measured_stand_side_by_side_in_columns_apart(room):
    fill(list)
    table = side_by_side()
    assert table.loc["StyleNAT", ("published", "FFHQ-256 FID")] == 2.046
    ours = ("measured here: noto-faces, 32 × 32", "FD-lite0@128, train ↓")
    assert table.loc["noto-32", ours] == "321.1 ± 7.5 (74.14 – 993)"
    assert set(table.loc["noto-32", "published"]) == {"–"} and table.loc["StyleNAT", ours] == "–"
    assert set(table.columns.get_level_values(0)) == {
        "published", ours[0], "measured here: noto-faces, 16 × 16",
    }  # fmt: skip
    assert not [run for run in table.index if run.startswith("ablation")]


def test_the_published_numbers_are_the_papers(room):
    table = pd.read_csv(io.StringIO(PAPER.read_text()), keep_default_na=False).query("resolution != ''")
    found = {(r.system, r.quantity, r.dataset, r.resolution): float(r.value) for r in table.itertuples()}
    expected = {
        "StyleNAT": (2.046, None, 4.174, 3.400, 48.92, 49.45, 32.56),
        "StyleSwin": (2.81, None, 5.07, 2.95, 48.9, 40.86, 30.20),
        "StyleGAN-XL": (2.19, 2.23, 2.02, None, 67.7, None, 14.28),
        "HiT-S": (3.06, None, None, None, None, None, None),
        "HiT-B": (2.95, None, 6.37, None, None, None, None),
        "HiT-L": (2.58, None, None, None, 97.6, None, 20.68),
        "Projected GAN": (None, None, None, 1.59, None, None, None),
    }
    places = [("fid", "FFHQ", 256), ("fid", "FFHQ", 512), ("fid", "FFHQ", 1024), ("fid", "LSUN Church", 256)]
    places += [("parameters", "FFHQ", 256), ("parameters", "FFHQ", 1024), ("throughput", "FFHQ", 256)]
    wanted = {
        (s, *p): v for s, row in expected.items() for p, v in zip(places, row, strict=True) if v is not None
    }
    assert {key: value for key, value in found.items() if key[1:] in places} == wanted
    assert all(row.source for row in table.itertuples())
    read_off = table[table["note"].str.contains("read off the figure")]
    assert (read_off["uncertainty"] != "").all() and len(read_off) == 6
    assert (
        "| StyleSwin | 2.81 | – | 5.07 | 2.95 | 48.9 ± 0.5 | 40.86 | 30.20 ± 0.02 |"
        in build_tables()["published"]
    )


def test_the_papers_claims_against_its_numbers():
    table = (
        published()
        .query("resolution == 256 and dataset == 'FFHQ'")
        .set_index(["system", "quantity"])["value"]
    )
    ours, theirs = table["StyleNAT"], table["StyleGAN-XL"]
    assert round(100 * (1 - ours["parameters"] / theirs["parameters"])) == ours["claim_fewer_parameters"]
    assert round(100 * (1 - theirs["throughput"] / ours["throughput"])) == ours["claim_higher_throughput"]
    assert round(100 * (1 - round(ours["fid"], 2) / theirs["fid"]), 1) == ours["claim_better_fid"]
    assert ours["throughput"] / theirs["throughput"] < 2.5 < ours["claim_times_throughput"]


def test_the_readme_gets_the_tables_between_its_markers(room):
    path = room / "README.md"
    path.write_text("before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    record_run("noto-32", make_record())
    update_readme()
    text = path.read_text()
    assert text.startswith("before\n<!-- results:begin -->\n\n### Runs") and text.endswith(
        "<!-- results:end -->\nafter\n"
    )
    assert "old" not in text and "`noto-32`" in text and "### Published numbers" in text
    update_readme(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "none",
        "<!-- results:begin -->",
        "<!-- results:end --> <!-- results:begin -->",
        "<!-- results:begin -->" * 2,
    ],
)
def test_a_readme_without_markers_is_left_alone(room, text):
    (room / "README.md").write_text(text)
    with pytest.raises(UserError, match=r"README.md must hold one <!-- results:begin -->"):
        update_readme()
    assert (room / "README.md").read_text() == text
