"""docs/many-gpus.md is made of results/loader.json and the published numbers alone."""

import json
import shutil

import loader_page
from helpers import ROOT, without_blocks

NUMBERS = ROOT / "results" / "loader.json"
PAGE = ROOT / "docs" / "many-gpus.md"


def test_the_committed_page_is_rebuilt_from_the_committed_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").mkdir()
    for name in ("loader.json", "paper.csv"):
        shutil.copy(ROOT / "results" / name, tmp_path / "results")
    committed = PAGE.read_text()
    emptied = without_blocks(committed)
    assert len(emptied) < len(committed) - 1000
    (tmp_path / "docs" / "many-gpus.md").write_text(emptied)
    loader_page.write_page()
    assert (tmp_path / "docs" / "many-gpus.md").read_text() == committed


def test_the_page_follows_the_numbers():
    found = json.loads(NUMBERS.read_text())
    for row in found["speed"]:
        row["milliseconds"] = 50.0  # twenty images a second of a core
    text = loader_page.page_blocks(found)["speed"]
    assert (
        "From files of 256 pixels a core decodes 20 a second: 3 workers for all eight GPUs, 27 workers"
        in text
    )


def test_the_committed_memory_is_flat():
    for row in json.loads(NUMBERS.read_text())["memory"]:
        assert row["images"] == 70_000 and len(row["points"]) == 4
        first, last = (sum(row["points"][i]["workers"]) for i in (0, -1))
        assert last < 1.25 * first
