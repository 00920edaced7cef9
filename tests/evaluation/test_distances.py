import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import interval, refusal

from stylenat.evaluation import distances
from stylenat.evaluation.distances import (
    Moments,
    frechet_distance,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall,
)
from stylenat.evaluation.intervals import intervals
from stylenat.evaluation.memorization import memorization


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def mixed_pair(n=300, m=200, dim=12):
    a = normal(0, n, dim) @ normal(1, dim, dim)
    return a, normal(2, m, dim) * torch.arange(1, dim + 1) + 0.5


# Moments


def assert_same(moments, other, rtol=1e-12):
    assert moments.count == other.count
    torch.testing.assert_close(moments.mean, other.mean, rtol=rtol, atol=0)
    scale = other.covariance.abs().max()
    torch.testing.assert_close(moments.covariance / scale, other.covariance / scale, rtol=0, atol=rtol)


@pytest.mark.parametrize("sizes", [(300,), (1, 2, 297), (100, 0, 200), (1,) * 300])
def test_moments_are_the_same_in_any_batches_and_order(sizes):
    features = mixed_pair()[0] + 3
    order = np.random.default_rng(0).permutation(300)
    moments = Moments()
    for batch in features[order].split(list(sizes)):
        moments.update(batch)
    assert_same(moments, SimpleNamespace(count=300, mean=features.mean(0), covariance=torch.cov(features.T)))


def test_moments_add_up():
    features = mixed_pair()[0] + 3
    whole = Moments().update(features)
    parts = [Moments().update(part) for part in features.split([7, 200, 93])]
    assert_same(parts[2] + (parts[0] + parts[1]), whole)
    total = sum(parts, Moments())
    assert_same(total, whole)
    assert [part.count for part in parts] == [7, 200, 93]
    sole = sum(parts[:1], Moments()).update(features)
    assert sole.count == 307 and parts[0].count == 7


def test_moments_far_from_zero_lose_no_digits():
    features = normal(0, 500, 4) + 1e7  # E[x²] - E[x]² would keep two digits
    moments = Moments()
    for batch in features.split(50):
        moments.update(batch)
    torch.testing.assert_close(moments.covariance, torch.cov(features.T), rtol=1e-8, atol=1e-8)


def test_moments_of_float32_features_are_float64():
    features = mixed_pair()[0].float()
    assert_same(Moments().update(features), Moments().update(features.double().numpy()))


def test_moments_are_saved_as_they_are(tmp_path):
    moments = Moments().update(mixed_pair()[0])
    np.savez(tmp_path / "moments.npz", **vars(moments))
    with np.load(tmp_path / "moments.npz") as arrays:
        again = Moments(**arrays)
    assert again.count == 300 and torch.equal(again.mean, moments.mean)
    assert torch.equal(again.scatter, moments.scatter)
    assert_same(again.update(mixed_pair()[0]), moments + moments)


# Fréchet


def by_eigh(s, t):
    values, vectors = torch.linalg.eigh(s)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return torch.linalg.eigvalsh(root @ t @ root).clamp(min=0).sqrt().sum()


def by_eigvals(s, t):
    return torch.linalg.eigvals(s @ t).real.clamp(min=0).sqrt().sum()


@pytest.mark.parametrize("trace_of_root", [by_eigh, by_eigvals])
@pytest.mark.parametrize("n, m, rel", [(300, 200, 1e-10), (8, 10, 1e-5), (8, 200, 1e-5), (300, 10, 1e-5)])
def test_formulas_of_the_frechet_distance_agree(trace_of_root, n, m, rel):
    a, b = mixed_pair(n, m)
    s, t = torch.cov(a.T), torch.cov(b.T)
    expected = (a.mean(0) - b.mean(0)).square().sum() + s.trace() + t.trace() - 2 * trace_of_root(s, t)
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=rel)
    moments = [Moments().update(x) for x in (a, b)]
    assert frechet_distance(*moments) == pytest.approx(frechet_distance(a, b), rel=1e-10)
    assert frechet_distance(b, moments[0]) == pytest.approx(frechet_distance(a, b), rel=1e-10)


def test_frechet_distance_of_known_gaussians():
    a = torch.tensor([[-1.0], [0.0], [1.0]])  # mean 0, variance 1
    assert frechet_distance(a, 3 * a + 5) == pytest.approx(25 + (3 - 1) ** 2)
    wide = SimpleNamespace(
        count=9, mean=torch.zeros(2).double(), covariance=torch.diag(torch.tensor([4.0, 9]).double())
    )
    unit = SimpleNamespace(count=5, mean=torch.ones(2).double(), covariance=torch.eye(2).double())
    assert frechet_distance(wide, unit) == pytest.approx(2 + 1 + 4)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_distance_agrees_with_clean_fid():
    fid = pytest.importorskip("cleanfid.fid")
    a, b = mixed_pair(600, 500, 128)
    theirs = fid.frechet_distance(
        a.mean(0).numpy(), np.cov(a.numpy(), rowvar=False), b.mean(0).numpy(), np.cov(b.numpy(), rowvar=False)
    )
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-6)
    assert frechet_distance(*(Moments().update(x) for x in (a, b))) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("n", [20, 300])
def test_identical_features_are_at_distance_zero(n):
    a = normal(0, n, 64).relu() * 30  # with 20, covariances are singular
    assert abs(frechet_distance(a, a.flip(0))) < 1e-9 * n
    assert abs(frechet_distance(Moments().update(a), Moments().update(a.flip(0)))) < 1e-9 * n


# Kernel


def test_kernel_distance_is_the_sum_over_pairs(monkeypatch):
    a, b = normal(0, 7, 4), normal(1, 5, 4) + 0.3

    def kernel(x, y):
        return (x @ y / 4 + 1).item() ** 3

    within = [
        sum(kernel(x, y) for x, y in itertools.permutations(s, 2)) / (len(s) * (len(s) - 1)) for s in (a, b)
    ]
    across = sum(kernel(x, y) for x in a for y in b) / 35
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across)
    monkeypatch.setattr(distances, "BLOCK", 3)
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across)


def test_kernel_distance_is_unbiased():
    draws = [kernel_distance(*normal(seed, 2, 20, 8)) for seed in range(400)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 400**0.5
    assert min(draws) < 0


def test_subsets_of_equal_distributions_are_at_distance_zero_within_their_error():
    a, b = normal(0, 1000, 8), normal(1, 1000, 8)
    mean, error = kernel_distance_subsets(a, b, subset_size=50)
    assert abs(mean) < 3 * error
    shifted, its_error = kernel_distance_subsets(a, b + 0.3, subset_size=50)
    assert shifted > 5 * its_error and abs(shifted - kernel_distance(a, b + 0.3)) < 4 * its_error


def test_subsets_hold_no_copies_and_touch_no_global_state():
    a, b = mixed_pair(30, 40, 4)
    mean, error = kernel_distance_subsets(a, b[:30], subsets=3, subset_size=30)
    assert mean == pytest.approx(kernel_distance(a, b[:30])) and error < 1e-9 * abs(mean)
    state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    draws = [kernel_distance_subsets(a, b, 5, 10, seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert np.array_equal(state[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(state[1], torch.get_rng_state())


# Precision, recall, density, coverage


def by_loops(real, fake, k):
    real, fake = real.numpy(), fake.numpy()

    def reach(x, i):
        return sorted(np.linalg.norm(x[i] - y) for j, y in enumerate(x) if j != i)[k - 1]

    reals, fakes = ([reach(x, i) for i in range(len(x))] for x in (real, fake))
    apart = np.array([[np.linalg.norm(r - f) for f in fake] for r in real])
    in_real, in_fake = apart <= np.array(reals)[:, None], apart <= np.array(fakes)
    return {
        "precision": in_real.any(0).mean(),
        "recall": in_fake.any(1).mean(),
        "density": in_real.sum() / k / len(fake),
        "coverage": in_real.any(1).mean(),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_by_loops_in_blocks_of_any_size(k):
    real, fake = normal(0, 40, 3), normal(1, 30, 3) * 1.2 + 0.3
    expected = by_loops(real, fake, k)
    assert min(expected.values()) > 0 and expected["precision"] < 1
    for block in (1, 7, 40, 512):
        assert precision_recall(real, fake, k, block) == pytest.approx(expected)


@pytest.mark.parametrize("block", [1, 13, 512])
def test_copies_are_inside_whatever_rounding_does(block):
    real = normal(0, 151, 127)
    scores = precision_recall(real, real.flip(0), block=block)
    assert scores == {"precision": 1, "recall": 1, "density": 4 / 3, "coverage": 1}  # itself and 3 neighbors
    some = real[np.random.default_rng(0).permutation(151)[:76]]
    assert precision_recall(real, some, block=block) == pytest.approx(by_loops(real, some, 3), abs=1e-9)


def test_dropped_modes_lower_recall_and_noise_lowers_precision():
    centers = normal(5, 8, 16) * 4
    real = (centers[:, None] + normal(0, 8, 50, 16)).flatten(0, 1)
    fresh = (centers[:, None] + normal(1, 8, 50, 16)).flatten(0, 1)
    half = (centers[:4, None] + normal(2, 4, 100, 16)).flatten(0, 1)
    same, dropped = precision_recall(real, fresh), precision_recall(real, half)
    noisy = precision_recall(real, fresh + 2 * normal(3, 400, 16))
    assert dropped["recall"] < 0.6 < 0.75 < same["recall"] and dropped["coverage"] < 0.6 < same["coverage"]
    assert dropped["precision"] > same["precision"] - 0.05
    assert noisy["precision"] < 0.2 < 0.75 < same["precision"] and noisy["density"] < 0.2 < same["density"]


# Intervals


def precision(real, fake):
    return precision_recall(real, fake)["precision"]


@pytest.mark.parametrize(
    "statistic, spread",
    [(frechet_distance, 1.3), (kernel_distance, 1.3), (precision, 1.0)],
    ids=["frechet", "kernel", "precision"],
)
def test_intervals_cover_the_true_mean(statistic, spread):
    def draw(seed):
        return statistic(normal(seed, 80, 6), normal(10**6 + seed, 100, 6) * spread)

    truth = [draw(seed) for seed in range(300)]
    found = [
        interval(statistic, normal(seed, 80, 6), normal(10**6 + seed, 100, 6) * spread)
        for seed in range(1000, 1040)
    ]
    error = np.mean([i.error**2 for i in found]) ** 0.5
    assert 0.8 < error / np.std(truth) < 1.3
    assert np.mean([i.low < np.mean(truth) < i.high for i in found]) >= 0.85
    assert found[0].value == draw(1000)
    for end in (found[0].value - found[0].low, found[0].high - found[0].value):
        # Student's t, 20 degrees of freedom
        assert end == pytest.approx(2.086 * found[0].error, rel=1e-3)


def test_intervals_of_moments_and_of_features_agree():
    real, fake = normal(0, 400, 6), normal(1, 600, 6) * 1.3 + 0.2
    of_features = interval(frechet_distance, real, fake)
    groups = [[Moments().update(part) for part in x.chunk(20)] for x in (real, fake)]
    of_moments = interval(frechet_distance, *groups)
    assert of_moments.value == pytest.approx(of_features.value)
    assert of_moments.error == pytest.approx(of_features.error, rel=0.35)
    assert of_moments.high - of_moments.value == pytest.approx(2.093 * of_moments.error, rel=1e-3)  # t, 19
    alone = interval(frechet_distance, sum(groups[0], Moments()), groups[1])
    assert alone.value == pytest.approx(of_features.value) and 0 < alone.error < of_moments.error


def test_intervals_repeat_and_keep_names():
    real, fake = normal(0, 50, 3), normal(1, 41, 3)
    scores = intervals(precision_recall, real, fake, seed=1)
    assert {name: i.value for name, i in scores.items()} == precision_recall(real, fake)
    assert scores == intervals(precision_recall, real, fake, seed=1)
    assert scores != intervals(precision_recall, real, fake)
    assert interval(precision, real, fake, seed=1) == scores["precision"]


# Memorization


def test_nearest_training_images_by_loops():
    train, heldout, fake = normal(0, 30, 4), normal(1, 39, 4), normal(2, 25, 4) * 0.8
    found = memorization(train, heldout, fake, neighbors=2, block=7)
    apart = np.linalg.norm(fake.numpy()[:, None] - train.numpy(), axis=2)
    assert np.array_equal(found.indices, apart.argsort(1)[:, :2])
    np.testing.assert_allclose(found.distances, np.sort(apart, 1)[:, :2])
    usual = np.sort(np.linalg.norm(heldout.numpy()[:, None] - train.numpy(), axis=2).min(1))
    assert found.copies.share == (apart.min(1) < usual[1]).mean() and found.copies.expected == 2 / 40


def test_independent_fakes_have_the_expected_share():
    found = [memorization(*normal(seed, 200, 5).split([60, 90, 50])).copies for seed in range(400)]
    shares = np.array([copies.share for copies in found])
    assert found[0].expected == 4 / 91
    assert abs(shares.mean() - found[0].expected) < 4 * found[0].error / 400**0.5
    assert shares.std() == pytest.approx(found[0].error, rel=0.15)


def test_planted_copies_are_found():
    train, heldout, fake = normal(0, 700, 8).split([300, 200, 200])
    planted = torch.cat([fake[:160], train[:40] + 0.01 * normal(1, 40, 8)])
    usual = memorization(train, heldout, fake).copies
    assert abs(usual.share - usual.expected) < 3 * usual.error
    found = memorization(train, heldout, planted)
    assert found.copies.share >= 0.2
    assert found.copies.share > found.copies.expected + 5 * found.copies.error
    assert found.indices[160:, 0].tolist() == list(range(40)) and found.distances[160:, 0].max() < 0.1
    assert memorization(train, heldout, fake + 100).copies.share == 0


# Devices and refusals


def test_nothing_is_put_on_the_default_device():
    train, fake = normal(0, 40, 4), normal(1, 30, 4)
    with torch.device("meta"):  # a tensor made without a device would have no values
        groups = [Moments().update(part) for part in train.numpy().reshape(10, 4, 4)]
        assert frechet_distance(sum(groups, Moments()), fake) == pytest.approx(frechet_distance(train, fake))
        assert kernel_distance_subsets(train, fake, 2, 20)[1] > 0
        assert intervals(precision_recall, train, fake)["recall"].error > 0
        assert memorization(train, fake, fake).distances.isfinite().all()


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, precision_recall])
def test_features_that_do_not_fit_are_refused(distance):
    a, b = mixed_pair(20, 30, 4)
    assert "(4, 3) dimensions" in refusal(distance, a, b[:, :3])
    assert "set of 1 is too small here" in refusal(distance, a[:1], b)
    assert "set of 0 is too small here" in refusal(distance, a, b[:0])
    assert "shape (20,); give (images, dimensions)" in refusal(distance, a[:, 0], b)
    b[3, 1] = torch.nan
    b[5] = torch.inf
    assert "2 of 30 features hold NaN or infinity" in refusal(distance, a, b)


def test_moments_that_do_not_fit_are_refused():
    a, b = mixed_pair(20, 30, 4)
    moments = Moments().update(a)
    assert "(4, 3) dimensions" in refusal(moments.update, b[:, :3])
    assert "(4, 3) dimensions" in refusal(moments.__add__, Moments().update(b[:, :3]))
    assert "(4, 3) dimensions" in refusal(frechet_distance, moments, b[:, :3])
    assert "1 of 1 features hold NaN" in refusal(moments.update, a[:1] / 0)
    assert moments.count == 20
    for few in (Moments(), Moments().update(a[:1])):
        assert "give 2 or more" in refusal(frechet_distance, moments, few)
        assert "give 2 or more" in refusal(getattr, few, "covariance")


def test_counts_that_do_not_fit_are_refused():
    a, b = mixed_pair(20, 30, 4)
    assert "2 subsets of 21 can't be drawn; give 2 or more, of 2 to 20" in refusal(
        kernel_distance_subsets, a, b, 2, 21
    )
    assert "1 subsets of 10" in refusal(kernel_distance_subsets, a, b, 1, 10)
    assert "give 21 or more" in refusal(precision_recall, a, b, 20)
    assert "k is 0" in refusal(precision_recall, a, b, 0)
    assert "a set of 7 is too small here; give 8 or more" in refusal(interval, kernel_distance, a, b[:7])
    moments = Moments().update(a)
    assert "set of 1" in refusal(interval, frechet_distance, moments, moments)
    assert "set of 3" in refusal(interval, frechet_distance, moments, [moments] * 3)
    assert "set of 18 is too small here; give 19" in refusal(memorization, a, b[:18], b)
    assert "set of 2 is too small here; give 3" in refusal(memorization, a[:2], b, b)
