"""docs/data.md is made of results/factors.json and the factors alone."""

import json
import re
import shutil

import data_page
import factor_checks
import pytest
import torch
from helpers import ROOT, without_blocks

from stylenat.data.dataset import open_dataset

NUMBERS = ROOT / "results" / "factors.json"
PAGE = ROOT / "docs" / "data.md"


def test_the_committed_page_is_rebuilt_from_the_committed_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").mkdir()
    shutil.copy(NUMBERS, tmp_path / "results")
    committed = PAGE.read_text()
    emptied = without_blocks(committed)
    assert len(emptied) < len(committed) - 1000
    (tmp_path / "docs" / "data.md").write_text(emptied)
    data_page.write_page()
    assert (tmp_path / "docs" / "data.md").read_text() == committed


def test_the_page_follows_the_numbers():
    found = json.loads(NUMBERS.read_text())
    found["rows"][0]["accuracy"]["mouth"] = 0.1234
    assert re.search(r"^\| mouth \| 12\.3% \|", data_page.page_blocks(found)["accuracy"], re.MULTILINE)


def test_the_committed_accuracies_are_high_where_nothing_was_changed():
    rows = [row for row in json.loads(NUMBERS.read_text())["rows"] if row["images"] == "as drawn"]
    assert [row["resolution"] for row in rows] == [32, 64]
    assert min(min(row["accuracy"].values()) for row in rows) > 0.99


@pytest.mark.parametrize("name", ["noto-faces", "noto-faces-by-design", "avatars"])
def test_the_page_counts_the_sets_right(name):
    dataset = open_dataset(name, 64)
    splits = ", ".join(f"{len(dataset.with_split(split)):,}" for split in ("train", "heldout"))
    assert f"| `{name}` | {len(dataset):,} | {splits} |" in PAGE.read_text()


def test_images_are_made_worse_as_they_are_called():
    images = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    assert torch.equal(factor_checks.blurred(images), images)
    images[0, :, 5, 5] = 109
    assert factor_checks.blurred(images)[0, 0, 5, 4:7].tolist() == [100, 105, 100]
    noise = factor_checks.noisy(images).double() - images
    assert abs(noise.std() - factor_checks.NOISE) < 1 and abs(noise.mean()) < 1


def test_a_measurement_has_a_row_for_each_size_and_kind():
    found = factor_checks.measure(count=2)
    assert len(found["rows"]) == 8 and found["count"] == 2
    assert set(data_page.page_blocks(found)) == {"factors", "accuracy"}
