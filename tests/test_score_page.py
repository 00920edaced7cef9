"""docs/scores.md is made of results/scores.json alone."""

import json
import shutil

import pytest
import score_page
from helpers import ROOT, without_blocks

NUMBERS = ROOT / "results" / "scores.json"


@pytest.fixture
def found():
    return json.loads(NUMBERS.read_text())


def test_the_committed_page_is_rebuilt_from_the_committed_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").mkdir()
    shutil.copy(NUMBERS, tmp_path / "results")
    committed = (ROOT / "docs" / "scores.md").read_text()
    emptied = without_blocks(committed)
    assert len(emptied) < len(committed) / 2
    (tmp_path / "docs" / "scores.md").write_text(emptied)
    score_page.write_page()
    assert (tmp_path / "docs" / "scores.md").read_text() == committed


def test_the_page_follows_the_numbers(found):
    before = score_page.page_blocks(found)
    found["doses"]["25 % fakes"]["fd_lite0_128_train"]["value"] = 12.345
    found["limits"]["kid_lite0_128_heldout"]["noise"] = 9.876
    found["resize"][1]["here_ms"] = found["resize"][1]["clean_fid_ms"] / 7
    found["clean_fid"]["here"]["seconds"] = found["clean_fid"]["clean_fid"]["seconds"] / 4
    after = score_page.page_blocks(found)
    assert {name for name in before if before[name] != after[name]} == {
        "doses",
        "limits",
        "resize",
        "clean-fid",
    }
    assert "| 25 % fakes | 12.35 ±" in after["doses"]
    assert after["limits"].endswith("| 9.876 |")
    assert after["resize"].splitlines()[3].endswith("| 7.0 |")
    assert "4.0 times faster" in after["clean-fid"]


def test_the_order_of_the_sets_shows_in_the_committed_scores(found):
    for key in score_page.TITLES:
        doses = [values[key]["value"] for values in found["doses"].values()]
        assert doses == sorted(doses)
        assert found["limits"][key]["real_vs_real"] < found["limits"][key]["noise"]
    copy = found["degraded"]["a copy of the train reference"]
    assert abs(copy["fd_lite0_128_train"]["value"]) < 1e-6 < copy["fd_lite0_128_heldout"]["value"]
