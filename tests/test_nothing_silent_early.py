"""What can be known before the work begins is refused before it: nothing is trained, drawn or written."""

import itertools
import shutil
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import torch
from helpers import ROOT, Painter, empty_blocks, make_record, refusal, small_network
from test_commands import refused, write_images

from stylenat.benchmark import throughput
from stylenat.checkpoints.convert import convert
from stylenat.checkpoints.run import BEST, Run
from stylenat.data.dataset import open_dataset
from stylenat.device import check_bfloat16, check_compile
from stylenat.evaluation.evaluate import check_evaluation, evaluate, nearest_training_images, open_reference
from stylenat.evaluation.metrics import Score, ScoreValue
from stylenat.experiments.grid import load_grid
from stylenat.experiments.prepare import check_sampling, open_scored
from stylenat.experiments.record import score_run
from stylenat.experiments.runs import check_cells, run_cell, run_grid
from stylenat.features.networks import NETWORKS
from stylenat.models.build import build_generator
from stylenat.paths import check_writable
from stylenat.presets import get_config
from stylenat.reporting.records import write_record
from stylenat.sampling import projection
from stylenat.training import loop
from stylenat.training.loop import check_training, train
from stylenat.training.trainer import Trainer

TINY = {
    "nimg": 8, "snapshot": 4, "batch_size": 4, "widths": (8, 8, 8, 8), "discriminator_widths": (8, 8, 8),
    "head_dim": 4, "latent_dim": 8, "mapping_depth": 1,
}  # fmt: skip
WORDS = [f"{name}={value}" for name, value in TINY.items()]


@pytest.fixture
def no_steps(monkeypatch):
    """A step would raise TypeError."""
    monkeypatch.setattr(Trainer, "step", None)


@pytest.fixture
def no_images(monkeypatch):
    """So would an image of a generator, and a feature."""
    monkeypatch.setattr("stylenat.sampling.sample.render", None)
    monkeypatch.setattr("stylenat.features.networks.FeatureNetwork._features", None)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """60 images: enough to train on, too few to score."""
    return write_images(tmp_path_factory.mktemp("few") / "faces", 60)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(get_config("smoke", **TINY), tmp_path_factory.mktemp("trained"), "cpu")


def everything(folder):
    return sorted(folder.rglob("*"))


# --- training


def check_refused(capsys, tmp_path, message, *words):
    """The command is refused with this message and writes nothing."""
    before = everything(tmp_path)
    replaced = {str(word).split("=")[0] for word in words}
    settings = [word for word in WORDS if word.split("=")[0] not in replaced]
    command = ["train", "smoke", "--device", "cpu", "--out", tmp_path / "out", "--set"]
    found = refused(capsys, *command, *settings, *words)
    assert message in found
    assert everything(tmp_path) == before


def test_images_too_few_to_score(capsys, tmp_path, few, no_steps):
    message = "has 60 images, 12 of them held out; a score needs at least 20 on each side: give 100"
    check_refused(capsys, tmp_path, message, f"data={few}", "--score-every", 4)


def test_a_scoring_network_that_is_missing(capsys, tmp_path, monkeypatch, no_steps):
    def missing():
        raise loop.UserError("FD-lite0 needs a package")

    network = replace(NETWORKS["lite0"], build=missing)
    monkeypatch.setitem(NETWORKS, "lite0", network)
    check_refused(capsys, tmp_path, "FD-lite0 needs a package", "--score-every", 4)


def test_a_batch_of_more_images_than_there_are(capsys, tmp_path, few, no_steps):
    message = "batch_size=64 is more than the 48 training images of"
    check_refused(capsys, tmp_path, message, f"data={few}", "batch_size=64")


def test_a_folder_that_lost_its_configuration(capsys, tmp_path, trained, no_steps):
    run = Run(shutil.copytree(trained.path, tmp_path / "out" / trained.id))
    (run.path / "config.json").unlink()
    check_refused(capsys, tmp_path, "holds snapshots, but not their config.json: restore it")


def test_a_folder_of_another_run(capsys, tmp_path, trained, no_steps):
    run = Run(shutil.copytree(trained.path, tmp_path / "out" / trained.id))
    (run.path / "config.json").write_text("{}")
    check_refused(capsys, tmp_path, "holds a run of another configuration")


@pytest.mark.parametrize("name", ["generators", "samples", "state"])
def test_a_folder_that_snapshots_can_not_be_written_to(capsys, tmp_path, name, no_steps):
    folder = tmp_path / "out" / loop.run_id(get_config("smoke", **TINY))
    folder.mkdir(parents=True)
    (folder / name).touch()
    check_refused(capsys, tmp_path, f"can't write to {folder / name}")


def test_a_disk_without_room_for_a_snapshot(capsys, tmp_path, monkeypatch, no_steps):
    monkeypatch.setattr(loop, "free_space", lambda path: 50_000)
    check_refused(capsys, tmp_path, "MB are free; make room or train with another --out")


def test_the_room_that_is_asked_for_is_a_snapshot_s(trained, monkeypatch, tmp_path):
    files = [trained.generator_path(8), *trained.state_path().iterdir()]
    size = sum(path.stat().st_size for path in files)
    config = get_config("smoke", **TINY)
    monkeypatch.setattr(loop, "free_space", lambda path: 0.5 * size)
    assert "are free" in refusal(check_training, config, tmp_path, "cpu")
    monkeypatch.setattr(loop, "free_space", lambda path: size)
    check_training(config, tmp_path, "cpu")


def test_a_machine_that_can_not_compile(capsys, tmp_path, monkeypatch, no_steps):
    def broken(function):
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", broken)
    check_refused(capsys, tmp_path, "torch.compile does not work here (no C++ compiler)", "compile=True")
    assert "leave it out" in refusal(check_compile, torch.device("cpu"))


def test_a_gpu_without_bfloat16(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "An old GPU")
    message = "An old GPU does not compute in bfloat16"
    assert message in refusal(check_bfloat16, torch.device("cuda"))
    for module in (loop, throughput):
        monkeypatch.setattr(module, "pick_device", lambda device: torch.device("cuda"))
    assert message in refusal(check_training, get_config("smoke", **TINY), tmp_path)
    protocol = replace(throughput.PROTOCOLS["ours"], dtype="bfloat16")
    assert message in refusal(throughput.measure, None, protocol, "x")
    assert not everything(tmp_path)


def test_intervals_need_not_fit_each_other(tmp_path, few, monkeypatch):
    """Snapshots and scores come with the first step that reaches them: 8 by 8 past 12, 20 and the end."""
    monkeypatch.setattr(loop, "check_evaluation", lambda dataset: None)
    scored = []
    score = Score({BEST: ScoreValue(0.0, 0.0, 0.0, 0.0)}, {})
    monkeypatch.setattr(loop, "evaluate", lambda ema, dataset, **options: scored.append(1) or score)
    config = get_config("smoke", **TINY | {"batch_size": 8, "snapshot": 12, "nimg": 36, "data": str(few)})
    run = train(config, tmp_path, "cpu", score_every=20)
    assert run.snapshots() == [16, 24, 40] and [line["nimg"] for line in run.scores()] == [24, 40]


# --- scores


SMALL = NETWORKS | {key: small_network(key) for key in ("lite0", "inception-legacy")}


def statistics(tmp_path):
    path = tmp_path / "x_legacy_pytorch_y.npz"
    np.savez(path, mu=np.zeros(12), sigma=np.eye(12))
    return open_reference(path, 32)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("fidd", "unknown metric 'fidd', did you mean 'fid'?"),
        ("fid,kid", "holds no features, only their mean and covariance: fid alone takes it"),
        ("fd-lite0", "fd-lite0 needs real images, not x_legacy_pytorch_y: give their folder"),
        ("fid-clean", "not of 2048 of inception-clean"),
    ],
)
def test_statistics_that_a_metric_can_not_take(tmp_path, metric, message, no_images):
    reference = statistics(tmp_path)
    assert message in refusal(evaluate, Painter(), reference, metric, networks=SMALL)
    assert message in refusal(check_evaluation, reference, metric, networks=SMALL)


@pytest.mark.parametrize(("metric", "count"), [("fid", None), ("pr", None), ("fid", 5)])
def test_sets_that_are_too_small(tmp_path, metric, count, no_images):
    real = open_dataset(write_images(tmp_path / "faces", 19 if count is None else 30), 32)
    message = "faces has too few images to score" if count is None else "5 generated images are too few"
    assert message in refusal(evaluate, Painter(), real, metric, count=count, networks=SMALL)


def test_weights_that_are_missing(tmp_path, no_images, monkeypatch):
    monkeypatch.setenv("STYLENAT_WEIGHTS", str(tmp_path))
    real = open_dataset("noto-faces", 32)
    message = refusal(evaluate, Painter(), real, "fd-lite0,fid")
    assert "pt_inception-2015-12-05-6726825d.pth" in message and "is not at" in message


@pytest.mark.parametrize("words", [["--metric", "fidd"], ["--json", "DIR"], ["--json", "FILE/x"]])
def test_words_of_evaluate_are_checked_before_anything_is_opened(capsys, tmp_path, words):
    (tmp_path / "file").touch()
    places = {"DIR": str(tmp_path), "FILE/x": str(tmp_path / "file" / "x.json")}
    words = [places.get(word, word) for word in words]
    for source in ("gone", "noto-faces"):
        message = refused(capsys, "evaluate", source, "--data", "gone-too", *words)
        assert "unknown metric" in message or "can't write to" in message


def test_a_run_is_looked_through_before_it_is_scored(tmp_path, trained, empty_workspace, no_images):
    def damaged(name, harm, as_name=trained.id):
        run = Run(shutil.copytree(trained.path, tmp_path / str(next(numbers)) / as_name))
        harm(run.path / name)
        return refusal(score_run, run, "cpu")

    numbers = itertools.count()
    assert "000000004.safetensors" in damaged("generators/000000004.safetensors", cut)
    assert "info.json is damaged" in damaged("state/000000008/info.json", cut)
    assert "run id 'Mine!'" in damaged(".", lambda path: None, "Mine!")
    (empty_workspace / "results" / "runs").touch()
    assert "can't write to" in damaged(".", lambda path: None)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def test_a_run_of_few_images_is_not_scored(tmp_path, few, empty_workspace, no_images):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "stylenat.checkpoints.run.sample_sheet", lambda ema: torch.zeros(3, 8, 8, dtype=torch.uint8)
        )
        run = train(get_config("smoke", **TINY, data=str(few)), tmp_path, "cpu")
    assert "a score needs at least 20 on each side" in refusal(score_run, run, "cpu")
    assert not (empty_workspace / "results" / "runs").exists()


def test_copies_are_looked_for_among_as_many_as_were_given(tmp_path):
    samples = open_dataset(write_images(tmp_path / "faces", 25), 32)
    real = open_dataset("noto-faces", 32)
    networks = {"lite0": small_network("lite0")}
    assert nearest_training_images(samples, real, networks=networks)[1].shape == (25, 3, 32, 32)


# --- ablations


def cells(**overrides):
    grid = load_grid("smoke")
    return [grid.cell(name, seed=0, overrides=TINY | overrides) for name in ("na", "hydra-2")]


def test_no_cell_is_trained_where_another_can_not_be(empty_workspace, no_steps):
    given = cells(data="noto-faces")
    check_cells(given, "cpu")
    assert not (empty_workspace / "runs").exists()
    other = empty_workspace / "runs" / given[1].run_id
    other.mkdir(parents=True)
    (other / "config.json").write_text("{}")
    before = everything(empty_workspace)
    assert f"{other} holds a run of another configuration" in refusal(check_cells, given, "cpu")
    grid = replace(load_grid("smoke"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(grid), "cells", lambda self: given)
        assert f"{other} holds a run of another" in refusal(run_grid, grid, 1, "cpu")
    assert everything(empty_workspace) == before


def test_a_cell_of_images_too_few_to_score(empty_workspace, few, no_steps):
    for call in (check_cells, lambda given, device: run_cell(given[0], device)):
        assert "a score needs at least 20 on each side" in refusal(call, cells(data=str(few)), "cpu")
    assert not (empty_workspace / "runs").exists()


# --- samples, projection, convert, throughput


def test_a_place_for_samples_that_can_not_be_written_to(capsys, tmp_path, trained, no_images):
    (tmp_path / "file").touch()
    message = refused(capsys, "sample", trained.path, "--device", "cpu", "--out", tmp_path / "file" / "x")
    assert f"can't write to {tmp_path / 'file' / 'x'}" in message


def test_a_projection_without_its_network(monkeypatch):
    def missing():
        raise projection.UserError("needs the package")

    monkeypatch.setattr(projection, "lite0", missing)
    monkeypatch.setattr(projection, "mean_style", None)
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    assert "needs the package" in refusal(projection.project, Painter(), image)


@pytest.mark.parametrize("name", ["model", "model.pt"])
def test_a_place_for_a_model_that_can_not_be_written_to(tmp_path, trained, monkeypatch, name):
    (tmp_path / "file").touch()
    monkeypatch.setattr("stylenat.checkpoints.convert.build_from", None)
    assert f"can't write to {tmp_path / 'file'}" in refusal(convert, trained.path, tmp_path / "file" / name)


def test_a_place_for_a_table_that_can_not_be_written_to(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "measure", None)
    assert "can't write to" in refused(capsys, "throughput", "smoke", "--csv", tmp_path)


# --- tables and figures


def harmed_record(workspace):
    write_record(make_record("a"))
    write_record(make_record("b"))
    path = workspace / "results" / "runs" / "b" / "result.json"
    path.write_text(path.read_text()[:-5])
    (workspace / "README.md").write_text(empty_blocks())


@pytest.mark.parametrize("name", ["tables", "figures"])
def test_nothing_is_built_where_a_record_is_broken(capsys, empty_workspace, name):
    harmed_record(empty_workspace)
    before = everything(empty_workspace)
    assert "results/runs/b/result.json is no valid JSON" in refused(capsys, name)
    assert everything(empty_workspace) == before


def test_no_table_is_written_where_the_readme_has_no_place(capsys, empty_workspace):
    write_record(make_record("a"))
    (empty_workspace / "README.md").write_text("nothing")
    before = everything(empty_workspace)
    assert "README.md: the page needs" in refused(capsys, "tables")
    assert everything(empty_workspace) == before


def test_no_figure_is_written_where_one_can_not_be_made(capsys, empty_workspace):
    path = write_record(make_record("a"))
    (path.parent / "log.csv").write_text("no,log\n1,2\n")
    (empty_workspace / "README.md").touch()
    before = everything(empty_workspace)
    refused(capsys, "figures")
    assert everything(empty_workspace) == before


# --- places


def test_a_place_is_checked_without_a_trace(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c.json")
    assert not everything(tmp_path)
    (tmp_path / "there.json").write_text("old")
    check_writable(tmp_path / "there.json")
    assert (tmp_path / "there.json").read_text() == "old"
    for place in (tmp_path, tmp_path / "there.json" / "x", tmp_path / ("x" * 300), "a\0b"):
        assert "can't write to" in refusal(check_writable, place)


# --- notebooks


CHECKS = {
    "train": "check_training(",
    "evaluate": "open_scored(",
    "ablation": "check_cells(",
    "sample": "check_sampling(",
    "throughput": "pick_device(",
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_second_cell_checks_what_the_others_need(name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    second = [cell.source for cell in notebook.cells if cell.cell_type == "code"][1]
    assert CHECKS[name] in second.split("check_parameters()\n")[1]


SHOWN = {"mix_level": 16, "level": 16, "queries": [[7, 5]], "frames": 4, "out": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 1, 2]}, "seeds=[0, 1, 2]: give four or more"),
        ({"seeds": [0, 1, 2, -1]}, "seed -1 is out of range"),
        ({"mix_level": 12}, "level 12 is none of this generator's"),
        ({"level": 64}, "level 64 is none of this generator's"),
        ({"queries": [[7, 16]]}, "query (7, 16)"),
        ({"queries": [[7]]}, "queries=[[7]]: give [row, column] each"),
        ({"frames": 0}, "frames=0: give one or more"),
        ({"out": "FILE/x"}, "can't write to"),
    ],
)
def test_parameters_of_the_sample_notebook(tmp_path, changes, message, no_images):
    generator = build_generator("smoke")
    (tmp_path / "file").touch()
    given = {"seeds": [0, 1, 2, 3]} | SHOWN | changes
    if given["out"]:
        given["out"] = str(tmp_path / "file" / "x")
    assert message in refusal(check_sampling, generator, **given)
    check_sampling(generator, [0, 1, 2, 3], **SHOWN)


def test_what_the_notebook_of_scores_compares(tmp_path, few, trained, no_images):
    scored, reference = open_scored(str(few), "noto-faces", "fd-lite0")
    assert (len(scored), len(reference)) == (60, 987)
    scored, reference = open_scored(str(trained.path), "", "fd-lite0")
    assert scored is None and reference.name == "noto-faces"
    assert open_scored("smoke", "", "fd-lite0")[1].name == "noto-faces"
    for arguments, message in (
        (("smoke", "", "fidd"), "unknown metric 'fidd'"),
        ((str(few), str(few), "fd-lite0"), "a score needs at least 20 on each side"),
        (("gone", "", "fd-lite0"), "run 'gone' not found"),
    ):
        assert message in refusal(open_scored, *arguments)


def test_a_protocol_that_is_not_there():
    assert "unknown protocol 'paperr', did you mean 'paper'?" in refusal(throughput.get_protocol, "paperr")
    assert "rounds=0: give whole numbers above 0" in refusal(throughput.get_protocol, "ours", rounds=0)


@pytest.mark.parametrize(
    ("name", "content"), [("log.csv", "nimg\n1\n"), ("log.csv", ""), ("samples.png", "x")]
)
def test_damaged_files_beside_a_record_are_named(capsys, empty_workspace, name, content):
    path = write_record(make_record("a")).with_name(name)
    path.write_text(content)
    message = refused(capsys, "figures")
    assert str(path) in message and "restore it from git" in message
    assert not (empty_workspace / "figures").exists()
