"""The factors of generated avatars: read off real ones as they were drawn, and counted."""

import numpy as np
import pytest
import torch
from helpers import refusal
from torch.nn.functional import avg_pool2d, pad

from stylenat.data.avatars import FACTORS, draw_factors, factors_of
from stylenat.data.dataset import open_dataset
from stylenat.evaluation.coverage import coverage, read_factors, reading_accuracy

COLUMN = {name: column for column, name in enumerate(FACTORS)}


@pytest.fixture(scope="module")
def held_out():
    return open_dataset("avatars", 32, "heldout")


def blurred_and_noisy(images):
    smooth = avg_pool2d(pad(images.float(), (1, 1, 1, 1), mode="replicate"), 3, 1)
    noise = 12 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return ((images + smooth) / 2 + noise).clamp(0, 255).round().to(torch.uint8)


def test_factors_of_held_out_images_are_read_as_they_were_drawn(held_out):
    images = held_out.stack(range(60))
    read = read_factors(images)
    assert np.array_equal(read.factors, factors_of(held_out.names[:60]))
    assert (read.differences == 0).all()
    assert set(reading_accuracy(images[:5], held_out).values()) == {1.0}


def test_large_factors_survive_blur_and_noise_and_the_difference_shows_them(held_out):
    images = blurred_and_noisy(held_out.stack(range(60)))
    accuracy = reading_accuracy(images, held_out)
    for name in ("ground", "skin", "hair_color", "clothes_color", "rear_hair", "clothes", "hair"):
        assert accuracy[name] > 0.95, name
    assert min(accuracy.values()) > 0.4  # of five values
    assert 10 < read_factors(images[:10]).differences.mean() < 20


@pytest.mark.parametrize("resolution", [64, 128])
def test_larger_images_are_read_too(resolution):
    dataset = open_dataset("avatars", resolution, "heldout")
    accuracy = reading_accuracy(dataset.stack(range(4)), dataset)
    assert set(accuracy.values()) == {1.0}


def test_other_sizes_are_refused():
    message = refusal(read_factors, torch.zeros(2, 3, 48, 48, dtype=torch.uint8))
    assert "images of 48x48 can't be compared with avatars" in message and "32, 64" in message


def test_coverage_of_draws_is_what_chance_gives():
    found = coverage(np.stack([draw_factors(seed) for seed in range(2000)]))
    assert list(found) == list(FACTORS)
    for factor in found.values():
        assert factor.missing == () and abs(sum(factor.shares.values()) - 1) < 1e-12
        assert factor.distance < 2.5 * factor.chance < 0.1


def test_chance_is_the_mean_distance_of_real_images():
    rng = np.random.default_rng(0)
    distances = []
    for _ in range(300):
        drawn = rng.integers(4, size=(200, 11))
        distances.append(coverage(drawn)["hair"].distance)
    assert abs(np.mean(distances) / coverage(drawn)["hair"].chance - 1) < 0.05


def test_coverage_finds_what_is_missing_and_what_is_too_frequent():
    drawn = np.stack([draw_factors(seed) for seed in range(400)])
    drawn[:, COLUMN["hair"]] = np.arange(400) % 2
    drawn[:, COLUMN["beard"]] = 0
    found = coverage(drawn)
    assert found["hair"].missing == ("spiky", "bun") and found["hair"].distance == pytest.approx(0.5)
    assert found["hair"].shares == {"sideComed": 0.5, "undercut": 0.5, "spiky": 0, "bun": 0}
    assert found["beard"].distance == pytest.approx(0.5) and len(found["beard"].missing) == 5
    assert found["beard"].expected["none"] == 0.5
    assert found["eyes"].missing == ()
