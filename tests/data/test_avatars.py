"""The avatars: their factors, their pixels, their splits, and the file that they are drawn from."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from helpers import ROOT, refusal

from stylenat.data import avatars
from stylenat.data.avatars import COLORS, FACTORS, LAYERS, NONE, Avatars, compose, draw_factors, value_shares
from stylenat.data.check import check
from stylenat.data.dataset import open_dataset
from stylenat.data.loader import batches

COLUMN = {name: column for column, name in enumerate(FACTORS)}


@pytest.fixture(scope="module")
def source():
    return Avatars()


@pytest.fixture(scope="module")
def all_32(source):
    """Every image at 32 pixels, uint8 `(30000, 32, 32, 3)`."""
    return source.images(range(30_000), 32)


def sha256(images):
    return hashlib.sha256(images.tobytes()).hexdigest()


# Factors


def test_factors_are_those_of_the_seed():
    assert draw_factors(0).tolist() == [2, 2, 6, 1, 2, 2, 4, 0, 4, 3, 3]
    digest = hashlib.sha256(b"avatars 1").digest()
    numbers = [int.from_bytes(digest[2 * i : 2 * i + 2], "little") for i in range(11)]
    expected = []
    for number, values in zip(numbers, FACTORS.values(), strict=True):
        if values[0] == NONE:
            expected.append(0 if number % 2 else 1 + number * (len(values) - 1) // 65536)
        else:
            expected.append(number * len(values) // 65536)
    assert draw_factors(1).tolist() == expected


def test_factors_of_names_are_those_in_the_source(source):
    dataset = open_dataset("avatars", 64, "heldout")
    assert np.array_equal(avatars.factors_of(dataset.names[:50]), source.factors[20_000:20_050])
    assert source.factors.shape == (30_000, 11)


def test_values_come_up_as_often_as_they_should_and_independently(source):
    for name, values in FACTORS.items():
        shares = np.bincount(source.factors[:, COLUMN[name]], minlength=len(values)) / 30_000
        assert np.abs(shares - list(value_shares(name).values())).max() < 0.01
    assert np.abs(np.corrcoef(source.factors.T) - np.eye(11)).max() < 0.025  # four deviations


# Splits


def test_splits_are_the_first_20000_and_the_last_10000_seeds(source):
    dataset = open_dataset("avatars", 64)
    train, held_out = dataset.with_split("train"), dataset.with_split("heldout")
    assert (len(dataset), len(train), len(held_out)) == (30_000, 20_000, 10_000)
    assert train.names + held_out.names == dataset.names == sorted(dataset.names)
    assert train.names[-1] == "20000.png" and dataset.names[-1] == "30003.png"  # four were drawn before
    assert train.manifest == held_out.manifest == source.manifest
    assert np.array_equal(held_out[3].permute(1, 2, 0).numpy(), source.image(20_003, 64))


def test_no_two_are_the_same(source, all_32):
    assert len({row.tobytes() for row in source.factors}) == 30_000
    assert len({image.tobytes() for image in all_32}) == 30_000


# Pixels


def test_pixels_are_the_same_bytes_everywhere(source, all_32):
    assert sha256(all_32) == "771f6ddfd7cc4231f333c7197a3fab1f5cbba34a16468a55a4e4b5e41588b436"
    assert source.manifest == "394760721109d757615003f033a6a4aa745882ed014a8aec06563223c0e7db48"
    starts = {64: "b23a0c3ce763dfb0", 128: "5024f912fe15bda8", 256: "8958c19c37fc8f3a"}
    for resolution, start in starts.items():
        assert sha256(source.images(range(64), resolution)).startswith(start)


@pytest.mark.slow
def test_pixels_at_64_are_the_same_bytes_everywhere(source):
    assert sha256(source.images(range(30_000), 64)).startswith("7d67d133bb9d6f2e")


def test_drawn_together_or_one_by_one_is_the_same(source, all_32, monkeypatch):
    monkeypatch.setattr(avatars, "TOGETHER", 7)
    positions = [5, 29_999, 5, *range(100, 120)]
    assert np.array_equal(source.images(positions, 32), all_32[positions])
    for position in positions[:3]:
        assert np.array_equal(source.image(position, 32), all_32[position])


def slow_drawing(row):
    """An avatar at 256 pixels in floating point: layer over layer, each `own + (1 - opacity) * below`."""
    with np.load(avatars.PARTS) as asset:
        parts = dict(zip(asset["names"].tolist(), asset["parts"].astype(float), strict=True))
    values = {name: FACTORS[name][number] for name, number in zip(FACTORS, row, strict=True)}

    def rgb(factor):
        color = COLORS[factor][values[factor]]
        return np.array([color >> 16, color >> 8 & 255, color & 255]).reshape(3, 1, 1)

    image = np.ones((3, 256, 256)) * rgb("ground")
    for layer, colored_by in LAYERS.items():
        value = values.get(layer, layer)
        if value == NONE:
            continue
        *own, opacity, tint = parts[f"{layer}/{value}"]
        color = rgb(colored_by) if colored_by else 0
        image = image * (1 - opacity / 255) + np.stack(own) + tint * color / 255
    return image.transpose(1, 2, 0)


@pytest.mark.parametrize("position", [0, 1, 29_999])
def test_layers_lie_over_each_other(source, position):
    drawn = source.image(position, 256).astype(float)
    assert np.abs(drawn - slow_drawing(source.factors[position].tolist())).max() < len(LAYERS)
    assert (drawn[0, 0] == drawn[0, -1]).all()  # the ground, in both corners


@pytest.mark.parametrize("factor", FACTORS)
def test_every_value_of_a_factor_shows(source, factor):
    rows = np.repeat(draw_factors(0)[None], len(FACTORS[factor]), axis=0)
    rows[:, COLUMN[factor]] = range(len(rows))
    assert len({image.tobytes() for image in compose(rows, 32)}) == len(rows)


# The dataset


def test_training_reads_them_like_any_other_set():
    shown = next(batches(open_dataset("avatars", 32, "train"), 4, seed=0, flips=False))
    assert shown.shape == (4, 3, 32, 32) and shown.dtype == torch.uint8
    large = open_dataset("avatars", 64)  # is drawn when its turn comes
    assert not large.is_decoded and open_dataset("avatars", 32).is_decoded
    assert torch.equal(large.stack([7, 3]), torch.stack([large[7], large[3]]))


def test_a_worker_process_draws_the_same(source):
    assert np.array_equal(pickle.loads(pickle.dumps(source)).image(9, 64), source.image(9, 64))


def test_other_resolutions_are_refused():
    assert "avatars comes at 32, 64, 128, 256, not at 48" in refusal(open_dataset, "avatars", 48)
    assert "not at 512" in refusal(check, "avatars", 512)


# The file of the parts


@pytest.fixture
def parts_file(tmp_path, monkeypatch):
    path = tmp_path / "parts.npz"
    monkeypatch.setattr(avatars, "PARTS", path)
    avatars._load_parts.cache_clear()
    yield path
    avatars._load_parts.cache_clear()


def test_altered_parts_are_refused(parts_file):
    with np.load(ROOT / "stylenat" / "assets" / "avatar_parts.npz") as asset:
        names, parts = asset["names"], asset["parts"]
    parts[3, 0, 128, 128] ^= 1
    np.savez(parts_file, names=names, parts=parts)
    message = refusal(Avatars)
    assert f"{parts_file} is altered" in message and "make_avatar_parts.py" in message


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off"])
def test_parts_that_cannot_be_read_are_named(parts_file, content):
    if content is not None:
        parts_file.write_bytes(content)
    assert f"{parts_file} can't be read" in refusal(Avatars)
