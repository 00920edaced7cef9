"""The literature's metrics through `evaluate`, with stand-ins where the real weights go; the command."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from helpers import Painter, by_id, interval, needs_wheels, quarter_means, refusal, small_network
from PIL import Image
from torch import nn

from stylenat.cli import main
from stylenat.data.dataset import open_dataset
from stylenat.evaluation import plan
from stylenat.evaluation.distances import (
    Moments,
    frechet_distance,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall,
)
from stylenat.evaluation.evaluate import evaluate, nearest_training_images, open_reference
from stylenat.evaluation.metrics import ScoreKey
from stylenat.evaluation.reference import Statistics
from stylenat.features.networks import NETWORKS
from stylenat.features.weights import INCEPTION_CLEAN
from stylenat.sampling.sample import sample_images

needs_cleanfid = pytest.mark.skipif(not find_spec("cleanfid"), reason="pip install 'stylenat[fid]'")
NETWORKS_HERE = NETWORKS | {
    key: small_network(key) for key in ("inception-legacy", "inception-clean", "dinov2")
}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    source = open_dataset("noto-faces", 32)
    for i in range(0, 900, 5):
        Image.fromarray(source[i].permute(1, 2, 0).numpy()).save(folder / f"{i:04}.png")
    return open_dataset(folder, 32)


def features(images):
    return quarter_means(nn.Identity(), images).flatten(1)


def score(source, reference, metric, **options):
    return evaluate(source, reference, metric, networks=NETWORKS_HERE, **options)


def test_every_metric_at_once_is_the_distance_of_features(real):
    found = by_id(score(Painter(), real, "fid,kid,pr,fid-clean,fd-dinov2", count=60, seed=2))
    theirs = features(real.stack())
    ours = features(sample_images(Painter(), range(2 * 10**6, 2 * 10**6 + 60)))
    distance = frechet_distance(theirs, ours)
    for key in ("fid_legacy_pytorch", "fid_clean", "fd_dinov2"):
        assert found[key]["value"] == pytest.approx(distance, rel=1e-9)
        assert found[key]["low"] < distance < found[key]["high"]
    kid = kernel_distance_subsets(theirs, ours, subset_size=60)[0]
    assert found["kid_legacy_pytorch"]["value"] == pytest.approx(kid, rel=1e-9)
    for column, value in precision_recall(theirs, ours).items():
        assert found[f"{column}_legacy_pytorch"]["value"] == pytest.approx(value)


def test_images_are_made_once_for_all_networks(real, monkeypatch):
    painter, seen = Painter(), []
    monkeypatch.setattr(painter, "mapping", lambda z: seen.append(len(z)) or z)
    score(painter, real, "fid,fid-clean,fd-dinov2", count=60, batch_size=25)
    assert seen == [25, 25, 10]


@pytest.mark.parametrize("count", [100, 170])  # 100 are too few for moments of the samples
def test_streamed_moments_give_the_score_of_all_features(real, monkeypatch, count):
    direct = by_id(score(Painter(), real, "fid", count=count))["fid_legacy_pytorch"]
    monkeypatch.setattr(plan, "MANY", 10)
    summed = score(Painter(), real, "fid", count=count)
    row = by_id(summed)["fid_legacy_pytorch"]
    assert row["value"] == pytest.approx(direct["value"], rel=1e-9)
    assert 0 < row["error"] < row["value"]
    assert summed.protocol["metrics"]["fid"]["interval"] == "95 %, 8 split halves of generated images"
    with_kid = by_id(score(Painter(), real, "kid,fid", count=count))
    assert list(with_kid) == ["kid_legacy_pytorch", "fid_legacy_pytorch"]
    assert with_kid["fid_legacy_pytorch"]["value"] == pytest.approx(direct["value"], rel=1e-9)


def test_features_in_memory_for_another_metric_change_no_interval_of_many_images(real, monkeypatch):
    monkeypatch.setattr(plan, "MANY", 10)
    row = by_id(score(Painter(), real, "kid,fid", count=100))["fid_legacy_pytorch"]
    theirs = Moments().update(features(real.stack()))
    alone = interval(frechet_distance, theirs, features(sample_images(Painter(), range(100))), splits=8)
    assert row["error"] == pytest.approx(alone.error, rel=1e-6)


def test_metrics_of_both_protocols_at_once(real):
    networks = NETWORKS_HERE | {"lite0": small_network("lite0")}
    found = evaluate(Painter(), real, "fid,kid-lite0,pr-lite0", count=60, networks=networks)
    shares = ("precision", "recall", "density", "coverage")
    splits = ("train", "heldout")
    expected = [ScoreKey("kid-lite0", "kid", split) for split in splits]
    expected += [ScoreKey("pr-lite0", column, split) for column in shares for split in splits]
    expected += [ScoreKey("fid", "fid", "all")]
    assert list(found.values) == expected
    assert list(found.protocol["metrics"]) == ["fid", "kid-lite0", "pr-lite0"]  # as they were asked for
    generated = [entry["generated"] for entry in found.protocol["metrics"].values()]
    assert generated == ["seeds 0 to 59", "seeds 0 to 71", "seeds 0 to 71"]
    heldout = real.with_split("heldout").stack()
    kid = kernel_distance(features(heldout), features(sample_images(Painter(), range(36))))
    assert found.values[expected[1]].value == pytest.approx(kid, rel=1e-5)


def test_the_same_images_score_zero(real):
    values = by_id(score(real, real, "fid,kid,pr"))
    assert abs(values["fid_legacy_pytorch"]["value"]) <= 1e-4
    assert values["kid_legacy_pytorch"]["value"] < 1e-6
    assert {values[f"{name}_legacy_pytorch"]["value"] for name in ("precision", "recall", "coverage")} == {1}


def test_the_protocol_names_reference_and_images(real):
    made = score(Painter(), real.with_split("heldout"), "fid", count=64, truncation_psi=0.5, seed=1)
    protocol, own = made.protocol, made.protocol["metrics"]["fid"]
    assert own["references"] == {"all": {"split": "all", "n_real": 180, "n_fake": 64}}
    assert own["generated"] == "seeds 1000000 to 1000063" and protocol["truncation_psi"] == 0.5
    assert protocol["dataset"]["manifest"] == real.manifest and "legacy_pytorch" in own["note"]
    assert (
        own["resize"]
        and own["precision"]
        and own["versions"]
        and "real_vs_real" not in by_id(made)["fid_legacy_pytorch"]
    )
    handed = score(real.with_split("train"), real, "fid").protocol
    assert handed["metrics"]["fid"]["generated"] == f"images of manifest {real.manifest}"
    assert "seed" not in handed and handed["metrics"]["fid"]["references"]["all"]["n_fake"] == 144
    assert "FID " in str(made) and "legacy_pytorch" in str(made) and "–" in str(made)


# Published statistics


@pytest.fixture
def statistics(tmp_path, real):
    rows = features(real.stack()).double().numpy()
    path = tmp_path / "faces_legacy_pytorch_trainval_32.npz"
    np.savez(path, mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    return path


@pytest.mark.parametrize("count", [60, 170])
def test_published_statistics_stand_for_the_images(real, statistics, count):
    reference = open_reference(statistics, 32)
    found, direct = (score(Painter(), one, "fid", count=count) for one in (reference, real))
    values = [by_id(one)["fid_legacy_pytorch"]["value"] for one in (found, direct)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    entry = found.protocol["metrics"]["fid"]["references"]["all"]
    assert entry == {
        "split": "faces_legacy_pytorch_trainval_32",
        "n_real": None,
        "statistics_sha256": reference.manifest,
        "n_fake": count,
    }


def test_statistics_that_do_not_serve(tmp_path, statistics, real):
    reference = Statistics.open(statistics)
    assert "holds no features" in refusal(score, Painter(), reference, "fid,kid", count=60)
    assert "of inception-legacy, not of 12 of inception-clean" in refusal(
        score, Painter(), reference, "fid-clean", count=60
    )
    assert "of inception-legacy, not of 2048 of inception-legacy" in refusal(
        reference.features, "all", NETWORKS["inception-legacy"], "cpu", moments=True
    )
    assert "fd-lite0 needs real images" in refusal(score, Painter(), reference, "fd-lite0")
    assert "can't be read" in refusal(Statistics.open, tmp_path / "none.npz")
    (tmp_path / "junk.npz").write_bytes(b"junk")
    assert "hold no mu and sigma" in refusal(Statistics.open, tmp_path / "junk.npz")
    np.savez(tmp_path / "flat.npz", mu=np.zeros(3), sigma=np.zeros(3))
    assert "mu (3,) and sigma (3,)" in refusal(Statistics.open, tmp_path / "flat.npz")
    np.savez(tmp_path / "object.npz", mu=np.array([{}], dtype=object), sigma=np.zeros((1, 1)))
    assert "hold no mu and sigma" in refusal(Statistics.open, tmp_path / "object.npz")


# Against clean-fid


@needs_cleanfid
def test_the_score_is_cleanfids_own(real, tmp_path):
    """clean-fid's whole path, from a folder and from a generator, around the same network."""
    from cleanfid import fid
    from cleanfid.resize import make_resizer

    folder = tmp_path / "fakes"
    folder.mkdir()
    made = sample_images(Painter(), range(100))
    for i, image in enumerate(made):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:03}.png")
    options = {"mode": "clean", "num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    theirs = fid.compute_fid(
        str(folder),
        real.source,
        custom_feat_extractor=lambda x: features(x).reshape(len(x), -1),
        custom_fn_resize=make_resizer("PIL", False, "bicubic", (32, 32)),
        **options,
    )
    ours = by_id(score(open_dataset(folder, 32), real, "fid-clean"))["fid_clean"]["value"]
    assert ours == pytest.approx(theirs, rel=1e-6)


# Memorization


@needs_wheels
def test_copies_are_found_among_the_training_images(real):
    train, heldout = real.with_split("train"), real.with_split("heldout")
    found, made = nearest_training_images(train, real, count=20)
    assert found.copies.share == 1 and torch.equal(made, train.stack(range(20)))
    assert found.indices[:, 0].tolist() == list(range(20)) and (found.distances[:, 0] < 1e-3).all()
    independent = nearest_training_images(heldout, real)[0]
    assert independent.copies.share <= independent.copies.expected and independent.indices.shape == (36, 3)


# The command


def printed_by(capsys, *arguments):
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def refused_by(capsys, *arguments):
    assert main(list(map(str, arguments))) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    return captured.err


class Scripted(nn.Module):
    """clean-fid's torchscript Inception as to form: `layers` gives 2048 features."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2048))

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def weights(tmp_path):
    import hashlib

    torch.manual_seed(0)
    path = tmp_path / "weights" / INCEPTION_CLEAN.name
    path.parent.mkdir()
    torch.jit.script(Scripted().eval()).save(path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_evaluate_folders_with_weights_given_by_path(capsys, real, weights, tmp_path):
    path, digest = weights
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for i, image in enumerate(sample_images(Painter(), range(40))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(fakes / f"{i:03}.png")
    given = ("evaluate", fakes, "--data", real.source, "--metric", "fid-clean", "--weights", path.parent)
    message = refused_by(capsys, *given)
    assert digest in message and "incomplete" in message
    printed = printed_by(capsys, *given, "--sha256", digest, "--json", tmp_path / "score.json")
    assert "FID (clean)" in printed and "NOT its standard weights" in printed
    record = json.loads((tmp_path / "score.json").read_text())
    assert record["values"]["fid_clean"]["value"] > 0
    assert record["protocol"]["metrics"]["fid-clean"]["weights_sha256"] == digest
    same = printed_by(capsys, "evaluate", real.source, *given[2:], "--sha256", digest)
    value = float(same.splitlines()[-1].split()[2])
    assert abs(value) <= 1e-4


def test_evaluate_says_what_is_missing(capsys, real, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = refused_by(capsys, "evaluate", real.source, "--data", real.source, "--metric", "fid")
    assert "pt_inception-2015-12-05-6726825d.pth" in message and "fd-lite0 needs no such file" in message
    message = refused_by(capsys, "evaluate", real.source, "--metric", "fid")
    assert f"{real.source} is no run: give the real images, such as --data noto-faces" in message
    message = refused_by(capsys, "evaluate", "smoke", "--data", "noto-faces", "--metric", "fidd")
    assert "unknown metric 'fidd'" in message or "not found" in message
    assert not any(tmp_path.rglob("*.pth"))
    Image.new("RGB", (64, 64)).save(tmp_path / "grid.png")
    for i in range(3):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{i}.png")
    message = refused_by(capsys, "evaluate", tmp_path, "--data", "noto-faces")
    assert f"grid.png in {tmp_path} is 64x64" in message and "here 32x32: move it elsewhere" in message
