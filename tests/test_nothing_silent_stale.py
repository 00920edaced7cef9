"""What is derived goes with what it is derived from: data that change under a run, records of other data."""

import json
import shutil
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_record, refusal, small_network
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from stylenat.attention import dispatch, tiled
from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.partitions import HeadPartition
from stylenat.checkpoints.run import DATASET, Run
from stylenat.checkpoints.samples import check_held_out
from stylenat.cli import main
from stylenat.data.dataset import Contents, open_dataset
from stylenat.evaluation.reference import Statistics
from stylenat.experiments.record import score_run
from stylenat.features.networks import NETWORKS
from stylenat.figures.results import ablation_comparison
from stylenat.presets import get_config
from stylenat.reporting.records import DatasetInfo, write_record
from stylenat.reporting.tables import build_tables, group_records
from stylenat.training import loop
from stylenat.training.loop import train

TINY = {"widths": (16, 16, 16, 16), "discriminator_widths": (16, 16, 16), "latent_dim": 8, "mapping_depth": 2}
TINY |= {"batch_size": 8, "nimg": 16, "snapshot": 8}
NETS = NETWORKS | {"lite0": small_network("lite0")}


def write_image(path, seed):
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of 100 images, and a run that stopped after its first snapshot."""
    place = tmp_path_factory.mktemp("stale")
    (place / "faces").mkdir()
    for i in range(100):
        write_image(place / "faces" / f"{i:03}.png", i)
    save, calls = loop._save_snapshot, []

    def stop(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        save(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "sample_sheet", lambda generator: open_dataset("noto-faces", 32)[0])
        patch.setattr(loop, "_save_snapshot", stop)
        with pytest.raises(KeyboardInterrupt):
            train(get_config("smoke", **TINY, data=str(place / "faces")), place / "runs", "cpu")
    return place


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A copy of it all; the run's data are where it looks for them."""
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    monkeypatch.setattr(loop, "sample_sheet", lambda generator: open_dataset("noto-faces", 32)[0])
    shutil.copytree(trained / "runs", tmp_path / "runs")
    kept = tmp_path / "kept"
    shutil.copytree(trained / "faces", kept)
    yield tmp_path
    shutil.rmtree(trained / "faces")
    shutil.copytree(kept, trained / "faces")


@pytest.fixture
def run(place):
    (folder,) = (place / "runs").iterdir()
    return Run(folder)


@pytest.fixture
def faces(trained):
    return trained / "faces"


def add(faces):
    write_image(faces / "0000.png", 1000)  # first of all: every other one moves


def add_last(faces):
    write_image(faces / "zz.png", 1000)


def remove(faces):
    (faces / "050.png").unlink()


def alter(faces):
    write_image(faces / "050.png", 1000)


def rename(faces):
    (faces / "050.png").rename(faces / "999.png")


def swap(faces):
    (faces / "003.png").rename(faces / "x")
    (faces / "004.png").rename(faces / "003.png")
    (faces / "x").rename(faces / "004.png")


CHANGES = {
    add: "1 added (0000.png)",
    add_last: "1 added (zz.png)",
    remove: "1 removed (050.png)",
    alter: "1 altered (050.png)",
    rename: "1 added (999.png), 1 removed (050.png)",
    swap: "2 altered (003.png, 004.png)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_data_that_changed_are_refused_on_resume_and_score(run, faces, change):
    change(faces)
    expected = f"{faces} has changed since run {run.id} began: {CHANGES[change]}. Which images are held out"
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for call in (
        lambda: train(run.config, run.path.parent, "cpu"),
        lambda: train(run.config, run.path.parent, "cpu", score_every=8),
        lambda: score_run(run, "cpu", networks=NETS),
    ):
        assert refusal(call).startswith(expected)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_commands_say_so_in_one_line(run, faces, place, capsys):
    add(faces)
    settings = [f"{name}={value}" for name, value in TINY.items()]
    for command in (
        ["train", "smoke", "--out", str(run.path.parent), "--set", *settings, f"data={faces}"],
        ["evaluate", run.id],
    ):
        assert main([word.replace(" ", "") for word in command]) == 2
        error = capsys.readouterr().err
        assert f"{faces} has changed since run {run.id} began: 1 added (0000.png)" in error
        assert error.count("\n") == 1
    assert not (place / "results").exists()


def test_data_as_they_were_resume_and_score(run, faces, place):
    """Touched, copied, packed and put back: what counts is names and content."""
    remove(faces)
    refusal(train, run.config, run.path.parent, "cpu")
    shutil.rmtree(faces)
    shutil.copytree(place / "kept", faces)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(run.config, run.path.parent, "cpu").snapshots() == [8, 16]
    with zipfile.ZipFile(place / "faces.zip", "w") as archive:
        for path in faces.iterdir():
            archive.write(path, f"faces/{path.name}")
    run.check_dataset(open_dataset(place / "faces.zip", 32, "heldout"))


def test_the_file_says_what_a_run_is_trained_on(run, faces):
    stored = json.loads((run.path / DATASET).read_text())
    dataset = open_dataset(faces, 32)
    assert stored["name"] == "faces" and stored["manifest"] == dataset.manifest
    assert len(stored["files"]) == 100 and list(stored["files"]) == dataset.names
    assert stored["held_out"] == dataset.with_split("heldout").names
    assert run.contents() == dataset.contents == dataset.with_split("train").contents
    assert list(run.contents().split("heldout")) == dataset.with_split("heldout").names


def test_a_run_of_an_older_version_goes_on_with_a_notice(run, faces):
    (run.path / DATASET).unlink()
    with pytest.warns(UserWarning, match=f"run {run.id} was begun by an older version"):
        score_run(run, "cpu", networks=NETS)
    assert not (run.path / DATASET).exists()
    with pytest.warns(UserWarning, match="was begun by an older version"):
        train(run.config, run.path.parent, "cpu")
    add(faces)  # from now on it is known
    assert "1 added" in refusal(train, run.config, run.path.parent, "cpu")


def test_a_run_that_stopped_before_its_first_image_begins_without_a_notice(run):
    (run.path / DATASET).unlink()
    shutil.rmtree(run.path / "state")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(run.config, run.path.parent, "cpu")
    assert run.contents()


@pytest.mark.parametrize(
    "break_it",
    [
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace("050.png", "051x.png"),
        lambda text: text.replace('"held_out": [', '"held_out": ["none.png",'),
    ],
)
def test_a_damaged_list_of_images_is_named(run, break_it):
    path = run.path / DATASET
    path.write_text(break_it(path.read_text()))
    message = refusal(train, run.config, run.path.parent, "cpu")
    assert f"{path} is damaged" in message and "restore it" in message


def test_changes_in_words():
    began = Contents("a", {f"{i}.png": str(i) for i in range(5)}, ("4.png",))
    now = Contents("b", {f"{i}.png": str(2 * i) for i in range(3, 9)}, ("7.png",))
    assert began.changes(began) == "" and began.changes(replace(began, name="moved")) == ""
    expected = "4 added (5.png, 6.png, 7.png, …), 3 removed (0.png, 1.png, 2.png), 2 altered (3.png, 4.png)"
    assert began.changes(now) == expected
    split = replace(began, held_out=("3.png",))
    assert began.changes(split) == "2 of another split (3.png, 4.png)"


# Scored against other data


def test_held_out_images_that_a_run_was_trained_on(run, faces, place, capsys):
    add(faces)
    now = open_dataset(faces, 32)
    line = f"run {run.id} was trained on 20 of the 20 images that {faces} holds out, such as 003.png"
    snapshot = run.generator_path(8)
    for source in (run.id, run.path, snapshot):
        for metric in ("fd-lite0", "fid,kid-lite0", ["pr-lite0"]):
            assert refusal(check_held_out, source, now, metric).startswith(line)
        check_held_out(source, now, "fid,kid")  # against all images, which is no matter of splits
    command = ["evaluate", str(snapshot), "--data", str(faces), "--json", str(place / "score.json")]
    assert main(command) == 2
    assert line in capsys.readouterr().err and not (place / "score.json").exists()


def test_other_references_are_as_good_as_they_are(run, faces, place):
    check_held_out(run.path, open_dataset(faces, 32), "fd-lite0")
    check_held_out(run.path, open_dataset("noto-faces", 32), "fd-lite0")
    check_held_out(faces, open_dataset(faces, 32), "fd-lite0")  # samples in a folder
    np.savez(place / "s.npz", mu=np.zeros(3), sigma=np.eye(3))
    check_held_out(run.path, Statistics.open(place / "s.npz"), "fid")
    (run.path / DATASET).unlink()
    add(faces)
    check_held_out(run.path, open_dataset(faces, 32), "fd-lite0")


# Tables and figures of records of other data


def test_records_of_other_data_share_no_table(empty_workspace):
    """Of one name and size, with scores or without, whatever scores they have in common."""
    other = DatasetInfo("noto-faces", 32, "cd34")
    for first, second in (
        (make_record("a", score=None), make_record("b", score=None, dataset=other)),
        (make_record("a"), make_record("b", score=None, dataset=other)),
        (make_record("a", score=None), make_record("b", dataset=other)),
    ):
        message = refusal(group_records, [first, second])
        assert "runs a and b cannot share a column: manifest is 'ab12' and 'cd34'" in message
        write_record(first)
        write_record(second)
        assert refusal(build_tables) == message
    group_records([make_record("a", score=None), make_record("b", score=None)])
    unknown = DatasetInfo("noto-faces", 32)
    group_records([make_record("a", score=None, dataset=unknown), make_record("b")])


def only_metric(record, name):
    """The record with the scores of one metric alone."""
    score = record.score
    values = {key: value for key, value in score.values.items() if key.metric == name}
    metrics = {name: score.protocol["metrics"][name]}
    return replace(
        record, score=replace(score, values=values, protocol=score.protocol | {"metrics": metrics})
    )


def test_every_two_records_of_a_column_are_compared():
    """The first record need not have the metric that the others have in common."""
    first = only_metric(make_record("a"), "kid-lite0")
    second, third = (only_metric(make_record(name), "fd-lite0") for name in "bc")
    group_records([first, second, third])
    third.score.protocol["metrics"]["fd-lite0"]["resize"] = "bilinear"
    message = refusal(group_records, [first, second, third])
    assert "fd-lite0 of runs b and c cannot share a column: resize is None and 'bilinear'" in message


def test_an_ablation_figure_is_of_one_data_set():
    config = {"variant": "dilation 1"}
    records = [make_record("a", config=config), make_record("b", config=config)]
    ablation_comparison(records)
    records[1] = replace(records[1], dataset=DatasetInfo("others", 32, "ef56"))
    message = refusal(ablation_comparison, records)
    assert message.startswith("runs a and b were trained on noto-faces, 32 and others, 32")


# Choices of backends


@pytest.fixture
def no_choices(monkeypatch):
    monkeypatch.setattr(dispatch, "_choices", {})


def attend(kernel_size=3, **options):
    q, k, v = torch.randn(3, 1, 8, 8, 2, 4, **options)
    return neighborhood_attention(q, k, v, (HeadPartition(2, kernel_size, 1),))


def test_choices_are_of_one_kind_of_call_and_precision(no_choices, monkeypatch):
    for precision, count in (("highest", 1), ("high", 2), ("highest", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "get_float32_matmul_precision", lambda precision=precision: precision)
            attend()
        assert len(dispatch._choices) == count
    for options in ({"dtype": torch.float64}, {"requires_grad": True}, {"kernel_size": 5}):
        attend(**options)
    assert len(dispatch.choices()) == 5


def test_choices_for_other_networks_are_left_out(no_choices):
    attend()
    since = dispatch.count_call()
    assert dispatch.choices(since) == []
    attend(5)
    (own,) = dispatch.choices(since)
    assert "2x5@1" in own.call and len(dispatch.choices()) == 2
    attend()  # one that is known already
    assert len(dispatch.choices(since)) == 2


def test_a_run_records_its_own_choices(no_choices, place):
    partitions = "/".join(["1x3@1,1x3@2"] * 3)
    for seed, levels in enumerate(("/".join(["2x3@1"] * 3), partitions)):
        config = get_config("smoke", **TINY | {"nimg": 8}, seed=seed, partitions=levels)
        found = train(config, place / "others", "cpu").info()["attention"]
        assert found and all((", 2x3@1," in line) == (seed == 0) for line in found)


def test_tables_that_are_kept_serve_every_mode():
    """Kept from a call in inference mode, of meta or fake tensors, they serve derivatives of any order."""
    tiled._pattern.cache_clear()
    with torch.inference_mode():
        attend()
    attend(device="meta")
    with FakeTensorMode():
        attend()
    q, k, v = torch.randn(3, 1, 8, 8, 2, 4, dtype=torch.float64).requires_grad_()
    bias = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
    out = neighborhood_attention(q, k, v, (HeadPartition(2, 3, 1),), [bias])
    first = torch.autograd.grad(out.square().sum(), (q, bias), create_graph=True)
    second = torch.autograd.grad(sum(x.square().sum() for x in first), (k, bias))
    assert all(x.isfinite().all() and x.any() for x in second)
