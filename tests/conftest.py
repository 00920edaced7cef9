"""Fixtures that tests of several rooms share."""

import shutil

import pytest
from helpers import ROOT
from PIL import Image

from stylenat.data.dataset import open_dataset


@pytest.fixture
def empty_workspace(tmp_path, monkeypatch):
    """An empty workspace that holds the published numbers only."""
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "results" / "paper.csv", tmp_path / "results")
    return tmp_path


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """200 portraits in a folder, 80 and 40 a side: enough to order scores, seconds to score."""
    folder = tmp_path_factory.mktemp("portraits")
    source = open_dataset("noto-faces", 32)
    for i in range(0, 800, 4):
        Image.fromarray(source[i].permute(1, 2, 0).numpy()).save(folder / source.names[i])
    return open_dataset(folder, 32)
