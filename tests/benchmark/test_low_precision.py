"""What bfloat16 gains and costs: one small round of it, with its numbers next to each other."""

import dataclasses

import pytest

from stylenat.benchmark import low_precision
from stylenat.benchmark.cases import CASES, Case
from stylenat.benchmark.low_precision import PRODUCTS, image_error
from stylenat.evaluation.metrics import Score
from stylenat.models.build import build_generator
from stylenat.models.precision import product_dtype

KINDS = {PRODUCTS, "float32", "bfloat16"}


@pytest.fixture
def tiny(monkeypatch):
    case = Case("tiny", "tiny", "sample", 32, 2, preset="smoke")
    monkeypatch.setitem(CASES, low_precision.SAMPLE, case)
    monkeypatch.setitem(CASES, low_precision.STEP, dataclasses.replace(case, kind="step"))


def test_times_images_and_scores_come_in_both_types(tiny, monkeypatch):
    seen = []

    def scored(generator, dataset, seed):
        seen.append((product_dtype(generator), seed))
        return Score({}, {})

    monkeypatch.setattr(low_precision, "evaluate", scored)
    found = low_precision.low_precision(rounds=2, images=4, seeds=2)
    assert found["times"].keys() == {"sample-256", "step-noto-32"}
    for times in found["times"].values():
        assert times.keys() == KINDS
        assert all(0 < each.low <= each.ratio <= each.high and each.seconds > 0 for each in times.values())
    assert [error.psi for error in found["errors"]] == [1.0, 0.7]
    assert all(error.psnr >= error.worst > 40 for error in found["errors"])
    assert [(str(dtype), seed) for dtype, seed in seen] == [
        ("torch.float32", 0), ("torch.float32", 1), ("torch.bfloat16", 0), ("torch.bfloat16", 1)
    ]  # fmt: skip


def test_an_error_is_that_of_the_images(monkeypatch):
    generator = build_generator("smoke").eval()
    monkeypatch.setattr(low_precision, "cast", lambda generator, dtype: generator)
    same = image_error(generator, 1.0, 2)
    assert (same.mean, same.most, same.images) == (0, 0, 2) and same.psnr == same.worst == float("inf")
