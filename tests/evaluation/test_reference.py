from collections import OrderedDict

import numpy as np
import pytest
import torch
from helpers import counting_network, quarter_means, refusal, small_network
from torch import nn

from stylenat.data.dataset import open_dataset
from stylenat.evaluation import reference as module
from stylenat.evaluation.distances import Moments, frechet_distance
from stylenat.evaluation.metrics import METRICS
from stylenat.evaluation.reference import RealFeatures, RealImages, Statistics, as_reference
from stylenat.features.networks import NETWORKS

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch):
    monkeypatch.setattr(module, "_cache", OrderedDict())


def features(images):
    return quarter_means(nn.Identity(), images).flatten(1)


def statistics(name="faces_clean_32", dims=12):
    return Statistics(name, "ab12", torch.zeros(dims).double(), torch.eye(dims).double())


# Real images


def test_real_images_whichever_split_was_opened(portraits):
    for split in ("all", "train", "heldout"):
        reference = as_reference(portraits.with_split(split))
        assert isinstance(reference, RealImages) and reference.resolution == 32
        assert [reference.size(part) for part in reference.splits] == [80, 40, 200]
        assert reference.identity() == {"name": portraits.name, "manifest": portraits.manifest}
        assert reference.is_larger(199) and not reference.is_larger(200)


def test_the_small_protocol_takes_no_more_than_its_most(portraits, monkeypatch):
    monkeypatch.setattr(module, "MOST", 30)
    reference = RealImages(portraits)
    assert [reference.size(part) for part in reference.splits] == [30, 30, 200]
    found = reference.features("train", small_network("lite0"), CPU, moments=False)
    assert len(found.features) == len(found.other_real) == len(found.noise) == 30


def test_features_of_the_small_protocol(portraits):
    """The train reference, its baseline and the held-out reference share no image; noise is uniform."""
    reference = RealImages(portraits)
    network = small_network("lite0")
    train, heldout = (
        reference.features(split, network, CPU, moments=False) for split in ("train", "heldout")
    )
    images = portraits.with_split("train")
    order = np.random.default_rng(0).permutation(160)
    torch.testing.assert_close(train.features, features(images.stack(order[:80])))
    torch.testing.assert_close(train.other_real, features(images.stack(order[80:])))
    torch.testing.assert_close(heldout.other_real, train.features[:40])
    own = features(portraits.with_split("heldout").stack())
    torch.testing.assert_close(heldout.features.sum(0), own.sum(0))  # in another order
    assert torch.equal(heldout.noise, train.noise[:40]) and train.noise.shape == (80, 12)
    assert train.noise.mean().item() == pytest.approx(12.75, abs=0.1) and train.noise.std() > 0.1


def test_features_of_every_image_or_their_moments(portraits):
    reference = RealImages(portraits.with_split("heldout"))
    network = small_network("dinov2")
    direct = reference.features("all", network, CPU, moments=False)
    moments = reference.features("all", network, CPU, moments=True)
    torch.testing.assert_close(direct.features, features(portraits.stack()))
    assert isinstance(moments.features, Moments) and moments.features.count == 200
    torch.testing.assert_close(moments.features.covariance, direct.features.T.double().cov())
    assert direct.limits(METRICS["fid"]) == {}


def test_the_protocol_names_the_split_and_how_it_is_chosen(portraits):
    reference = RealImages(portraits)
    assert [reference.protocol(split) for split in reference.splits] == [
        {"split": "train", "chosen": "fixed random half", "n_real": 80},
        {"split": "heldout", "chosen": "fixed random order", "n_real": 40},
        {"split": "all", "n_real": 200},
    ]


def test_real_features_are_remembered_by_everything_they_depend_on(portraits):
    network, seen = counting_network("lite0")

    def computed(dataset, split, used=network, moments=False):
        seen.clear()
        RealImages(dataset).features(split, used, CPU, moments)
        return bool(seen)

    assert computed(portraits, "train")
    assert not computed(portraits, "heldout")  # of the same computation
    assert not computed(open_dataset(portraits.source, 32), "train")
    assert computed(open_dataset(portraits.source, 16), "train")
    assert computed(portraits, "all")
    assert computed(portraits, "all", moments=True)
    assert not computed(portraits, "all")
    assert not computed(portraits, "train")
    assert len(module._cache) == module.CACHED


def test_the_least_recently_used_features_are_dropped():
    made = []
    for key in (1, 2, 3, 4, 1, 5, 1, 2):
        assert module._cached((key,), lambda key=key: made.append(key) or key) == key
    assert made == [1, 2, 3, 4, 5, 2] and len(module._cache) == 4


# Limits


def test_limits_are_the_statistic_of_other_real_images_and_of_noise(monkeypatch):
    sets = torch.randn(3, 30, 4, generator=torch.Generator().manual_seed(0))
    real = RealFeatures(*sets)
    limits = real.limits(METRICS["fd-lite0"])
    assert limits == {
        "real_vs_real": {"fd": frechet_distance(sets[0], sets[1])},
        "noise": {"fd": frechet_distance(sets[0], sets[2])},
    }
    assert set(real.limits(METRICS["pr-lite0"])["noise"]) == {"precision", "recall", "density", "coverage"}
    real.other_real = real.noise = None
    assert real.limits(METRICS["fd-lite0"]) == limits  # computed once
    assert real.limits(METRICS["kid-lite0"]) == {}


# Published moments


def test_published_moments_are_a_reference_of_their_own():
    reference = statistics()
    assert as_reference(reference) is reference
    assert reference.resolution is None and reference.splits == ("all",) and reference.is_larger(10**9)
    assert reference.identity() == {"name": "faces_clean_32", "manifest": "ab12"}
    assert reference.protocol("all") == {
        "split": "faces_clean_32",
        "n_real": None,
        "statistics_sha256": "ab12",
    }
    found = reference.features("all", small_network("inception-clean"), CPU, moments=True)
    assert found.features is reference and found.limits(METRICS["fid"]) == {}
    assert "does not say of how many images it is" in refusal(reference.size, "all")


def test_published_moments_serve_their_own_network_only():
    for name, message in (
        ("faces_clean_32", None),
        ("faces_32", None),  # its name says nothing
        ("faces_legacy_pytorch_32", "of inception-legacy, not of 12 of inception-clean"),
    ):
        given = ("all", small_network("inception-clean"), CPU)
        if message is None:
            assert statistics(name).features(*given, moments=True)
        else:
            assert message in refusal(statistics(name).features, *given, moments=True)
    message = refusal(statistics().features, "all", NETWORKS["inception-clean"], CPU, moments=True)
    assert "is of 12 features of inception-clean, not of 2048" in message
    message = refusal(statistics().features, "all", small_network("inception-clean"), CPU, moments=False)
    assert "holds no features, only their mean and covariance" in message
