"""Tables: the same bytes every time, and no column for scores that do not compare."""

import copy
import io
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from helpers import ROOT, empty_blocks, make_record, make_score

from stylenat.errors import UserError
from stylenat.evaluation.memorization import CopyShare
from stylenat.evaluation.metrics import Score, ScoreKey, ScoreValue
from stylenat.reporting.records import DatasetInfo, write_record
from stylenat.reporting.tables import build_tables, side_by_side, update_readme

PAPER = ROOT / "results" / "paper.csv"


def own(score):
    """What a protocol says of one metric alone."""
    return score.protocol["metrics"]["kid-lite0"]


def tables(empty_workspace):
    return {
        path.name: path.read_bytes() for path in sorted((empty_workspace / "results" / "tables").iterdir())
    }


def fill(order):
    other_device = make_score(411.98765)
    other_device.protocol["device"] = "cuda:0"
    smoke = DatasetInfo("noto-faces", 16, "ab12")
    dense = {"variant": "dense", "partitions": "4x7@1/4x7@1"}
    dilated = {"variant": "dilated", "partitions": "4x7@1/2x7@1,2x7@2"}
    made = [
        make_record("noto-32"),
        make_record("noto-32-b", seed=1, score=other_device),
        make_record("smoke-aaaaaa", nimg=20_000, config=dense),
        make_record("smoke-bbbbbb", nimg=20_000, config=dilated),
        make_record("smoke", nimg=64, preset="smoke-16", dataset=smoke),
    ]
    for record in order(made):
        write_record(record)


def test_tables_are_the_same_bytes_every_time(empty_workspace):
    fill(list)
    build_tables()
    first = tables(empty_workspace)
    assert sorted(first) == [
        f"{n}.{e}" for n in ("ablation", "claims", "generators", "published", "runs") for e in ("csv", "md")
    ]
    build_tables()
    assert tables(empty_workspace) == first
    shutil.rmtree(empty_workspace / "results" / "runs")
    fill(lambda made: list(made)[::-1])
    build_tables()
    assert tables(empty_workspace) == first


def test_csv_is_raw_and_markdown_is_rounded(empty_workspace):
    fill(list)
    text = build_tables()["runs"]
    frame = pd.read_csv(empty_workspace / "results" / "tables" / "runs.csv").set_index("run")
    assert list(frame.index) == ["noto-32", "noto-32-b", "smoke"]  # the ablation has a table of its own
    assert frame.loc["noto-32", "fd_lite0_128_train"] == 321.123456
    assert frame.loc["noto-32", "fd_lite0_128_train_real_vs_real"] == 74.13579
    assert frame.loc["noto-32", ["nimg", "threads", "parameters_generator"]].tolist() == [200_000, 1, 912_345]
    assert (
        "| `noto-32` | 200,000 | 15.2 | a CPU, 1 thread | 912,345 | 321.1 ± 7.5 (74.14 – 993) | 353.2 ±"
        in text
    )
    assert "FD-lite0@128, held-out ↓" in text and "NOT FID" in text


def test_short_runs_are_marked(empty_workspace):
    fill(list)
    built = build_tables()
    assert "| `smoke` (a smoke test, no result) | 64 |" in built["runs"]
    assert "Short runs of 20,000 images" in built["ablation"]
    assert "| variant | preset | partitions 8 | partitions 16 | seed | images shown |" in built["ablation"]
    assert "| dilated | noto-32 | 4x7@1 | 2x7@1,2x7@2 | 0 | 20,000 |" in built["ablation"]
    assert "| dense |" in built["ablation"]


def test_without_runs_the_tables_say_so(empty_workspace):
    built = build_tables()
    assert "None recorded yet" in built["runs"] and "None recorded yet" in built["ablation"]
    assert pd.read_csv(empty_workspace / "results" / "tables" / "runs.csv").empty


def test_a_run_without_a_score_gets_dashes(empty_workspace):
    write_record(make_record("a"))
    write_record(make_record("b", score=None))
    assert "| `b` | 200,000 | 15.2 | a CPU, 1 thread | 912,345 | – | – | – |" in build_tables()["runs"]


def test_memorization_stands_beside_what_to_expect(empty_workspace):
    write_record(make_record(memorization=CopyShare(share=0.081, expected=0.045, error=0.0214)))
    assert "| 8.1% | 4.5% ± 2.1% |" in build_tables()["runs"]
    assert pd.read_csv(empty_workspace / "results" / "tables" / "runs.csv").loc[0, "memorized_share"] == 0.081


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
        (lambda score: score.protocol.update(truncation_psi=0.7), "truncation_psi"),
        (lambda score: own(score).update(generated="seeds 5 to 9"), "generated"),
        (lambda score: score.protocol.update(seed=1), "seed"),
        (lambda score: score.protocol.update(flips=True), "flips"),
        (lambda score: score.protocol.update(dtype="bfloat16", instructions="AMX-BF16"), "dtype"),
        (lambda score: score.protocol.update(dataset={"manifest": "cd34"}), "dataset.manifest"),
    ],
)
def test_scores_of_different_protocols_share_no_column(empty_workspace, change, field):
    other = make_record("two", score=copy.deepcopy(make_score(300.0)))
    change(other.score)
    write_record(make_record("one"))
    write_record(other)
    with pytest.raises(
        UserError, match=f"^(fd|kid)-lite0 of runs one and two cannot share a column: {field} "
    ):
        build_tables()
    write_record(replace(other, dataset=DatasetInfo("noto-faces", 64, "ab12")))  # another table
    assert build_tables()["runs"].count("### Runs: noto-faces") == 2


def test_scores_on_other_images_or_of_other_metrics(empty_workspace):
    write_record(make_record("one"))
    write_record(make_record("two", dataset=DatasetInfo("noto-faces", 32, "cd34")))
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
    value = ScoreValue(12.3456, error=0.05, low=12.2, high=12.5)
    score = Score({ScoreKey("fid", "fid", "all"): value}, {"device": "cuda", "metrics": fid})
    write_record(make_record("two", score=score))
    text = build_tables()["runs"]
    assert "| FD-lite0@128, held-out ↓ | KID-lite0@128, train ↓ | FID ↓ |" in text
    assert "a CPU, 1 thread | 912,345 | – | – | – | 12.35 ± 0.05 |" in text
    assert "a note. Inception; real and generated images: all 9 and 8; seeds 0 to 7." in text


def test_published_and_measured_stand_side_by_side_in_columns_apart(empty_workspace):
    fill(list)
    table = side_by_side()
    assert table.loc["StyleNAT", ("published", "FFHQ-256 FID")] == 2.046
    ours = ("measured here: noto-faces, 32 × 32", "FD-lite0@128, train ↓")
    assert table.loc["noto-32", ours] == "321.1 ± 7.5 (74.14 – 993)"
    assert set(table.loc["noto-32", "published"]) == {"–"} and table.loc["StyleNAT", ours] == "–"
    assert set(table.columns.get_level_values(0)) == {
        "published", ours[0], "measured here: noto-faces, 16 × 16",
    }  # fmt: skip
    assert not [run for run in table.index if run.startswith("smoke-")]


def test_the_published_numbers_are_the_papers(empty_workspace):
    table = pd.read_csv(io.StringIO(PAPER.read_text()), keep_default_na=False)
    found = {}
    for row in table[table["resolution"] != ""].itertuples():
        found[row.system, row.quantity, row.dataset, int(row.resolution)] = float(row.value)
    expected = {
        "StyleNAT": (2.046, None, 4.174, 3.400, 48.92, 49.45, 32.56),
        "StyleSwin": (2.81, None, 5.07, 2.95, 48.9, 40.86, 30.20),
        "StyleGAN-XL": (2.19, 2.23, 2.02, None, 67.7, None, 14.28),
        "HiT-S": (3.06, None, None, None, None, None, None),
        "HiT-B": (2.95, None, 6.37, None, None, None, None),
        "HiT-L": (2.58, None, None, None, 97.6, None, 20.68),
        "Projected GAN": (None, None, None, 1.59, None, None, None),
        "StyleSAN-XL": (1.68, 1.77, 1.61, None, None, None, None),
        "R3GAN": (2.75, None, None, None, None, None, None),
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


def test_the_readme_gets_the_tables_between_its_markers(empty_workspace):
    path = empty_workspace / "README.md"
    old = "before\n<!-- results:begin -->\nstale\n<!-- results:end -->\nbetween\n"
    path.write_text(f"{old}<!-- claims:begin -->\nstale\n<!-- claims:end -->\n{empty_blocks(['generators'])}")
    write_record(make_record())
    update_readme()
    text = path.read_text()
    assert text.startswith("before\n<!-- results:begin -->\n\n### Runs") and text.endswith(
        "<!-- generators:end -->\n"
    )
    claims = text.split("<!-- results:end -->\nbetween\n<!-- claims:begin -->\n\n")[1]
    assert claims.startswith("| the abstract says |")
    assert "None recorded yet: `python -m stylenat compare --record`" in text
    assert "stale" not in text and "`noto-32`" in text and "### Published numbers" in text
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
def test_a_readme_without_markers_is_left_alone(empty_workspace, text):
    (empty_workspace / "README.md").write_text(text)
    with pytest.raises(UserError, match=r"README.md: the page needs <!-- results:begin -->"):
        update_readme()
    assert (empty_workspace / "README.md").read_text() == text


def test_a_record_with_more_metrics_stands_beside_one_with_fewer(empty_workspace):
    """Both have FD-lite0 by one protocol; FID has no baseline and is the first record's alone."""
    both = make_score(100.0)
    value = ScoreValue(12.3456, error=0.05, low=12.2, high=12.5)
    both.values[ScoreKey("fid", "fid", "all")] = value
    references = {"all": {"split": "all", "n_real": 9, "n_fake": 8}}
    both.protocol["metrics"]["fid"] = {
        "note": "a note", "network": "Inception", "generated": "seeds 0 to 7", "references": references,
    }  # fmt: skip
    write_record(make_record("a", score=both))
    write_record(make_record("b"))
    text = build_tables()["runs"]
    assert "| 12.35 ± 0.05 | – | – |" in text and "KID-lite0@128, train ↓ | FID ↓ |" in text
    frame = pd.read_csv(empty_workspace / "results" / "tables" / "runs.csv").set_index("run")
    assert frame.loc["a", "fid_legacy_pytorch"] == 12.3456 and pd.isna(frame.loc["b", "fid_legacy_pytorch"])


def test_committed_tables_equal_a_rebuild(empty_workspace):
    shutil.copytree(ROOT / "results" / "runs", empty_workspace / "results" / "runs", ignore=ignore_smoke)
    shutil.copy(ROOT / "results" / "generators.json", empty_workspace / "results")
    shutil.copy(ROOT / "README.md", empty_workspace)
    update_readme()
    for path in (ROOT / "results" / "tables").iterdir():
        assert (empty_workspace / "results" / "tables" / path.name).read_bytes() == path.read_bytes()
    assert (empty_workspace / "README.md").read_bytes() == (ROOT / "README.md").read_bytes()


def ignore_smoke(folder, names):
    """Runs that git ignores: those of whoever tried the notebooks here."""
    return [name for name in names if name.startswith("smoke")]
