import torch
from helpers import refusal

from stylenat.evaluation import plan as module
from stylenat.evaluation.metrics import COLUMNS, METRICS, SCORE_KEYS, parse_metrics, score_key
from stylenat.evaluation.plan import Comparison, make_plan
from stylenat.evaluation.reference import RealImages, Statistics
from stylenat.features.networks import NETWORKS


def test_the_small_protocol_comes_first_and_shares_its_images(portraits):
    plan = make_plan(["fid", "fd-lite0", "kid", "pr-lite0"], RealImages(portraits), 60)
    assert plan == [
        Comparison("fd-lite0", "train", 80, 80, False),
        Comparison("fd-lite0", "heldout", 80, 40, False),
        Comparison("pr-lite0", "train", 80, 80, False),
        Comparison("pr-lite0", "heldout", 80, 40, False),
        Comparison("fid", "all", 60, 60, False),
        Comparison("kid", "all", 60, 60, False),
    ]
    assert [each.network for each in plan] == ["lite0"] * 4 + ["inception-legacy"] * 2
    assert [each.halvings for each in plan] == [20] * 4 + [8] * 2


def test_many_images_of_either_side_enter_frechet_distances_as_moments(portraits, monkeypatch):
    def moments(count):
        return [each.moments for each in make_plan(["fid", "kid", "fd-lite0"], RealImages(portraits), count)]

    monkeypatch.setattr(module, "MANY", 200)
    assert moments(200) == [False] * 4
    assert moments(201) == [False, False, True, False]  # fd-lite0 twice, fid, kid
    monkeypatch.setattr(module, "MANY", 199)
    assert moments(20) == [False, False, True, False]


def test_published_moments_are_compared_as_moments():
    reference = Statistics("faces", "", torch.zeros(2).double(), torch.eye(2).double())
    assert make_plan(["fid"], reference, 20) == [Comparison("fid", "all", 20, 20, True)]
    assert "fd-lite0 needs real images, not faces" in refusal(make_plan, ["fid", "fd-lite0"], reference, 60)


def test_too_few_generated_images(portraits):
    message = refusal(make_plan, ["fid"], RealImages(portraits), 19)
    assert "19 generated images are too few to score: give 20 or more" in message
    assert make_plan(["fd-lite0"], RealImages(portraits), 19)  # its number is its own


def test_metrics_name_networks_columns_and_splits_that_exist():
    for metric in METRICS.values():
        assert metric.network in NETWORKS and set(metric.columns) <= set(COLUMNS)
        assert metric.splits in (("all",), ("train", "heldout")) and metric.small == (len(metric.splits) == 2)
    assert len({key.id for key in SCORE_KEYS}) == len({key.title for key in SCORE_KEYS}) == len(SCORE_KEYS)


def test_ids_and_titles_of_scores():
    expected = {
        "fd_lite0_128_train": "FD-lite0@128, train",
        "kid_lite0_128_heldout": "KID-lite0@128, held-out",
        "precision_lite0_128_train": "precision-lite0@128, train",
        "fid_legacy_pytorch": "FID",
        "recall_legacy_pytorch": "recall",
        "kid_clean": "KID (clean)",
        "fd_dinov2": "FD-DINOv2",
    }
    assert {name: score_key(name).title for name in expected} == expected
    assert [score_key(name).arrow for name in expected] == ["↓", "↓", "↑", "↓", "↑", "↓", "↓"]


def test_metrics_are_given_as_text_or_names():
    assert list(parse_metrics("kid, fid")) == list(parse_metrics(["kid", "fid"])) == ["kid", "fid"]


def test_a_metric_gives_its_values_by_column():
    real, fake = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0))
    for metric in METRICS.values():
        assert tuple(metric.compute(real, fake)) == metric.columns
