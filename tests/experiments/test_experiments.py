"""From a run to its record; cells of the ablation."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, refusal
from PIL import Image

from stylenat.attention.partitions import dilated_levels, format_levels, format_partitions
from stylenat.checkpoints.run import Run
from stylenat.data.dataset import open_dataset
from stylenat.errors import UserError
from stylenat.evaluation.evaluate import evaluate
from stylenat.evaluation.metrics import score_key
from stylenat.experiments import record as experiment
from stylenat.experiments.grid import load_grid
from stylenat.experiments.record import score_run
from stylenat.experiments.runs import run_cell
from stylenat.features.networks import NETWORKS
from stylenat.figures.results import ablation_comparison
from stylenat.presets import get_config
from stylenat.reporting.records import load_records, read_record, record_path, write_record
from stylenat.reporting.tables import build_tables
from stylenat.training.loop import train

# Networks of a few thousand parameters on 100 images: the fewest a score takes.
TINY = {"widths": (8, 8, 8, 8), "discriminator_widths": (8, 8, 8), "latent_dim": 8, "mapping_depth": 1}
TINY |= {"batch_size": 4, "nimg": 8, "snapshot": 80, "data": "drawn"}


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """A workspace with a data set of 100 images in it; the ablation at dilations 2 and 1 was run there."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "drawn").mkdir()
    rng = np.random.default_rng(0)
    for i in range(100):
        flat = np.full((32, 32, 3), rng.integers(256, size=3), np.uint8)
        Image.fromarray(flat).save(folder / "drawn" / f"{i:03}.png")
    (folder / "results").mkdir()
    shutil.copy(ROOT / "results" / "paper.csv", folder / "results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLENAT_WORKSPACE", str(folder))
        TINY["data"] = str(folder / "drawn")
        yield folder


def dilated(dilation):
    """A cell of the grid "smoke" with tiny networks."""
    return load_grid("smoke").cell(dilation=dilation, overrides=TINY)


@pytest.fixture(scope="module")
def records(space):
    return {dilation: run_cell(dilated(dilation))[0] for dilation in (2, 1)}


# --- Partitions of the ablation


@pytest.mark.parametrize(
    ("dilation", "texts"),
    [
        (4, ["4xfull", "2x3@1,2x3@2", "1x3@1,1x3@4", "1x3@1,1x3@4"]),
        (10, ["4xfull", "2x3@1,2x3@2", "1x3@1,1x3@5", "1x3@1,1x3@10"]),
        (1, ["4xfull", "2x3@1,2x3@1", "1x3@1,1x3@1", "1x3@1,1x3@1"]),
    ],
)
def test_half_the_heads_are_dilated_as_far_as_the_level_allows(dilation, texts):
    config = get_config("noto-32")
    assert [format_partitions(level) for level in dilated_levels(config.level_heads, dilation)] == texts


@pytest.mark.parametrize("preset", ["smoke", "noto-32", "noto-64", "ffhq-256"])
def test_every_allowed_dilation_makes_a_configuration_that_fits(preset):
    config = get_config(preset)
    for dilation in (1, 2, 5, config.resolution // 3):
        levels = dilated_levels(config.level_heads, dilation)
        assert get_config(preset, partitions=format_levels(levels)).partitions == levels
        assert levels[-1][1].dilation == dilation


def test_an_odd_head_is_a_dilated_one():
    config = get_config("smoke", min_heads=3, partitions="")  # the preset's own partitions share out 2 heads
    assert format_partitions(dilated_levels(config.level_heads, 2)[1]) == "1x3@1,2x3@2"


@pytest.mark.parametrize("dilation", [-1, 11, 1000])
def test_a_dilation_that_does_not_fit_is_refused_before_anything_runs(space, dilation):
    message = rf"^dilation {dilation} with kernel size 3 does not fit 32 × 32 tokens: give 1 to 10$"
    before = sorted(space.rglob("*"))
    with pytest.raises(UserError, match=message):
        dilated(dilation)
    assert sorted(space.rglob("*")) == before


@pytest.mark.parametrize("name", ["partitions", "variant", "paired"])
def test_what_the_ablation_sets_is_no_override(name):
    with pytest.raises(UserError, match=rf"^{name}='x': the ablation sets it; leave it out$"):
        load_grid("smoke").cell("na", overrides={name: "x"})


# --- run_cell


def test_an_ablation_leaves_a_record_with_log_and_samples(space, records):
    record = records[2]
    folder = space / "results" / "runs" / record.run_id
    assert sorted(path.name for path in folder.iterdir()) == ["log.csv", "result.json", "samples.png"]
    stored = json.loads((folder / "result.json").read_text())
    assert stored["preset"] == "smoke" and stored["nimg"] == 8
    assert stored["config"]["partitions"] == "2x3@1,2x3@2/2x3@1,2x3@2/2x3@1,2x3@2"
    assert stored["config"]["variant"] == "dilation 2"
    assert [entry["nimg"] for entry in stored["history"]] == [8]
    assert stored["history"][0]["fd_lite0_128_train"] == stored["score"]["values"]["fd_lite0_128_train"]
    assert pd.read_csv(folder / "log.csv")["nimg"].tolist() == [4, 8]
    assert Image.open(folder / "samples.png").size == (8 * 32, 8 * 32)


def test_ablation_records_differ_from_other_runs_and_from_each_other(records):
    assert records[2].run_id != records[1].run_id
    assert all(record.run_id.startswith("smoke-") for record in records.values())
    assert [records[dilation].variant for dilation in (1, 2)] == ["dilation 1", "dilation 2"]
    tables = build_tables()
    assert "None recorded" in tables["runs"]
    assert "| dilation 2 | smoke | 2x3@1,2x3@2 |" in tables["ablation"]


def test_variants_differ_in_dilation_alone(records):
    near = dict(records[1].config)
    far = dict(records[2].config)
    for name in ("partitions", "variant"):
        assert near.pop(name) != far.pop(name)
    assert near == far
    assert records[1].parameters == records[2].parameters


def test_records_make_the_comparison_without_being_read_again(records):
    assert len(ablation_comparison(list(records.values())).subfigs) == 2
    assert len(ablation_comparison([records[1]]).subfigs) == 2  # dilation 1 against itself


def test_an_ablation_repeated_does_not_train_again(space, records, monkeypatch):
    monkeypatch.setattr("stylenat.training.trainer.Trainer.step", None)  # a step would raise
    again, _ = run_cell(dilated(2))
    assert again == read_record(record_path(records[2].run_id)) and again.seconds == records[2].seconds
    assert len(load_records()) == 2


def test_an_ablation_run_scored_again_keeps_its_variant(space, records):
    score_run(Run.open(records[2].run_id), history=False)
    assert {record.run_id: record.variant for record in load_records()} == {
        records[1].run_id: "dilation 1",
        records[2].run_id: "dilation 2",
    }


# --- score_run


def test_the_recorded_score_is_the_snapshots(space, records):
    run = Run.open(records[2].run_id)
    config = run.config
    score = evaluate(run.generator(), open_dataset(config.data, config.resolution))
    assert score == records[2].score


def test_every_snapshot_is_scored_unless_the_history_is_declined(space, monkeypatch):
    scored = []
    monkeypatch.setattr(experiment, "evaluate", lambda *a, **k: scored.append(k) or evaluate(*a, **k))
    run = train(get_config("smoke", **TINY | {"nimg": 12, "snapshot": 4 * 20, "seed": 3}))
    run.save(4, run.generator(), {}, run.info() | {"nimg": 4})  # an earlier snapshot
    record = score_run(run)
    assert [entry.nimg for entry in record.history] == [4, 12] and len(scored) == 2
    assert record.nimg == 12 and not record.variant
    assert [entry.nimg for entry in score_run(run, history=False).history] == [12] and len(scored) == 3


def test_the_last_snapshot_is_scored_by_more_metrics(space, records):
    run = Run.open(records[2].run_id)
    network = replace(
        NETWORKS["inception-legacy"],
        dims=12,
        file=None,
        build=torch.nn.Identity,
        extract=lambda module, images: torch.nn.functional.adaptive_avg_pool2d(images.float(), 2),
    )
    networks = NETWORKS | {network.key: network}
    record = score_run(run, metrics="fid,pr-lite0,fd-lite0", count=30, networks=networks)
    protocols = record.score.protocol["metrics"]
    assert list(protocols) == ["fd-lite0", "kid-lite0", "fid", "pr-lite0"]
    assert protocols["fid"]["references"]["all"] == {"split": "all", "n_real": 100, "n_fake": 30}
    assert protocols["fid"]["generated"] == "seeds 0 to 29"
    assert protocols["fd-lite0"] == records[2].score.protocol["metrics"]["fd-lite0"]
    for key, value in records[2].values.items():
        assert record.values[key] == value
    assert record.values[score_key("fid_legacy_pytorch")].value > 0
    build_tables()  # beside a run without: the columns that both have are of one protocol
    ablation_comparison(load_records())  # by the scores that both have
    with pytest.raises(UserError, match="did you mean 'fid'"):
        score_run(run, metrics="fidd")
    write_record(records[2])


def test_a_run_without_a_snapshot_is_refused(tmp_path):
    run = Run(tmp_path / "fresh")
    run.begin(get_config("smoke"))
    with pytest.raises(UserError, match="run fresh has no snapshot yet"):
        score_run(run)


# --- recorded twice


@pytest.fixture
def twice(space):
    """A run that is recorded from a training that is gone, as another machine's is, and was trained here."""
    config = get_config("noto-32", **TINY, head_dim=4, partitions="2x3@1/2x3@1/2x3@1")
    recorded = score_run(train(config))
    shutil.rmtree(space / "runs" / recorded.run_id)
    yield train(config), recorded
    shutil.rmtree(recorded.folder())


def test_another_training_of_a_run_is_named_before_the_first_score(twice, monkeypatch):
    run, recorded = twice
    content = record_path(run.id).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "evaluate", None)
        message = refusal(score_run, run)
    assert f"run {run.id} is recorded from another training ({recorded.device}, 8 images, " in message
    assert "give --replace" in message and record_path(run.id).read_bytes() == content
    replaced = score_run(run, replace=True)
    assert replaced.seconds == run.info()["seconds"] != recorded.seconds
    assert score_run(run) == replaced, "the same training may be scored as often as you like"


def test_other_numbers_of_the_same_training_are_named(twice):
    run, _ = twice
    score_run(run, replace=True)
    path = record_path(run.id)
    entries = json.loads(path.read_text())
    entries["score"]["values"]["fd_lite0_128_train"]["value"] = 12.5
    path.write_text(json.dumps(entries))
    words = rf"^results/runs/{run.id}/result.json held other numbers: FD-lite0@128, train 12.5, now [\d.]+$"
    with pytest.warns(UserWarning, match=words):
        score_run(run)


def test_a_damaged_record_is_made_again(twice):
    run, _ = twice
    record_path(run.id).write_text("{")
    score_run(run)
    assert read_record(record_path(run.id)).run_id == run.id


def test_tables_of_merged_records_are_those_of_one_machine(space, records, tmp_path, monkeypatch):
    """Two machines' folders copied together, in either order, make the same tables, byte for byte."""
    expected = build_tables()
    folders = sorted((space / "results" / "runs").iterdir())
    assert len(folders) > 1
    for name, order in (("a", folders), ("b", folders[::-1])):
        merged = tmp_path / name
        (merged / "results").mkdir(parents=True)
        shutil.copy(space / "results" / "paper.csv", merged / "results")
        for folder in order:
            shutil.copytree(folder, merged / "results" / "runs" / folder.name)
        monkeypatch.setenv("STYLENAT_WORKSPACE", str(merged))
        assert build_tables() == expected
