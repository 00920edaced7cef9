"""A path that a user gives means the same on the command line and in a notebook, wherever they run."""

import json

import numpy as np
import pytest
from helpers import Plain, refusal
from PIL import Image

from stylenat.checkpoints.load import open_checkpoint
from stylenat.checkpoints.run import Run
from stylenat.checkpoints.samples import open_images
from stylenat.checkpoints.tensors import save_tensors
from stylenat.data.dataset import open_dataset
from stylenat.evaluation.evaluate import open_reference
from stylenat.features.weights import INCEPTION_CLEAN, weight_places
from stylenat.paths import expand, find_path, write_atomically


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A workspace with a file and a data set, and another folder as the current one."""
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path / "workspace"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    faces = tmp_path / "workspace" / "datasets" / "faces"
    faces.mkdir(parents=True)
    for i in range(5):
        Image.new("RGB", (16, 16), (50 * i, 0, 0)).save(faces / f"{i}.png")
    return tmp_path


def test_a_relative_path_is_looked_for_here_and_then_in_the_workspace(places):
    in_workspace = places / "workspace" / "datasets" / "faces"
    assert find_path("datasets/faces") == in_workspace
    (places / "here" / "datasets" / "faces").mkdir(parents=True)
    assert find_path("datasets/faces").resolve() == places / "here" / "datasets" / "faces"
    assert find_path(in_workspace) == in_workspace
    assert not find_path("datasets/gone").is_absolute()
    for odd in ("a" * 5000, "a\0b", "", None):
        assert "give" in refusal(find_path, odd)


def test_a_run_s_path_is_looked_for_as_any_other(places):
    run = places / "workspace" / "elsewhere" / "a-run"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    assert Run.open("elsewhere/a-run").path == run


def test_every_input_is_found_in_the_workspace(places):
    faces = places / "workspace" / "datasets" / "faces"
    found = open_dataset("datasets/faces", 16)
    assert found.manifest == open_dataset(faces, 16).manifest
    assert found.source == "datasets/faces"  # what runs are named after stays as given
    assert len(open_images("datasets/faces")) == 5
    save_tensors(places / "workspace" / "x.safetensors", Plain().state_dict())
    assert open_checkpoint("x.safetensors").path == places / "workspace" / "x.safetensors"
    (faces / INCEPTION_CLEAN.name).touch()
    assert weight_places(INCEPTION_CLEAN, "datasets/faces") == [faces / INCEPTION_CLEAN.name]


def test_statistics_are_found_in_the_workspace(places):
    path = places / "workspace" / "STATS.NPZ"
    with path.open("wb") as file:
        np.savez(file, mu=np.zeros(2), sigma=np.eye(2))
    assert open_reference("STATS.NPZ", 32).mean.tolist() == [0, 0]


def test_a_missing_data_set_is_named_where_it_was_looked_for(places):
    assert "'datasets/gone' not found" in refusal(open_dataset, "datasets/gone", 16)


def test_home_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/x") == tmp_path / "x" and expand("x~").name == "x~"
    message = refusal(expand, "~no-such-user/x")
    assert "'~no-such-user/x'" in message and "give the path in full" in message
    assert refusal(open_dataset, "~no-such-user/x", 16) == message


def test_a_name_that_is_no_utf8_is_written_so_that_json_reads_it_back(tmp_path):
    text = json.dumps({"name": "\udcff ä"}, ensure_ascii=False)
    write_atomically(tmp_path / "x.json", text)
    assert json.loads((tmp_path / "x.json").read_bytes()) == {"name": "\udcff ä"}


def test_a_checkpoint_whose_name_is_no_utf8(tmp_path):
    path = tmp_path / "\udcff.pt"
    path.write_bytes(b"x")
    assert "its name is no UTF-8; rename it" in refusal(open_checkpoint, path)
