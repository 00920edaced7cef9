"""Seeds in every form that a user has them in, and folders of samples that hold one call alone."""

import numpy as np
import pytest
import torch
from helpers import Plain, refusal

from stylenat.figures.samples import interpolation_strip, mixing_grid, truncation_sweep
from stylenat.sampling.folder import remove_samples, sample_paths
from stylenat.sampling.sample import check_seeds, interpolate, latents, sample_batches, sample_images, styles

FORMS = [
    [2, 5, 8], (2, 5, 8), range(2, 9, 3), np.array([2, 5, 8]), np.array([2, 5, 8], dtype=np.uint8),
    [np.int64(2), np.int32(5), np.uint64(8)], torch.tensor([2, 5, 8]), list(torch.tensor([2, 5, 8])),
    {2: None, 5: None, 8: None}, iter([2, 5, 8]),
]  # fmt: skip
REFUSED = [
    ([], "no seed"), (range(0), "no seed"),
    (np.array([], dtype=int), "no seed"), (torch.tensor([]), "no seed"),
    ([0, -1], "seed -1 "), (range(-3, 4), "seed -3 "), (range(2, -3, -1), "seed -2 "),
    (np.array([-7]), "seed -7 "), ([2**63], f"seed {2**63} "), (range(2**63, 2**64), f"seed {2**63} "),
    ([10**400], "out of range"), ([1.0], "seed 1.0 "), ([1.5], "seed 1.5 "), (np.array([1.0]), "seed 1.0 "),
    (torch.tensor([0.5]), "seed 0.5 "), ([True], "seed True "), (np.array([True]), "seed True "),
    ([np.True_], "seed "), ([None], "seed None "), (["1"], "seed '1' "), ("0-3", "'0-3'"), (5, "seeds 5 "),
    (np.array(5), "no row"), (torch.zeros(2, 2, dtype=torch.int64), "no row"), (None, "seeds None "),
    (np.zeros((2, 1), dtype=int), "no row"), ([[1]], "seed [1] "),
]  # fmt: skip


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Plain().eval().requires_grad_(False)


@pytest.mark.parametrize("index", range(len(FORMS)))
def test_seeds_in_every_form_are_the_same_seeds(index):
    form = FORMS[index] if index < len(FORMS) - 1 else iter([2, 5, 8])
    found = check_seeds(form)
    assert list(found) == [2, 5, 8] and all(type(seed) is int for seed in found)


def test_seeds_in_other_forms_give_the_same_images(generator):
    expected = sample_images(generator, [2, 5, 8])
    for form in (np.array([2, 5, 8]), torch.tensor([2, 5, 8]), range(2, 9, 3)):
        assert torch.equal(sample_images(generator, form), expected)
        assert torch.equal(latents(generator, form), latents(generator, [2, 5, 8]))
        assert torch.equal(interpolate(generator, form, 2), interpolate(generator, [2, 5, 8], 2))
        assert truncation_sweep(generator, form).axes[0].get_yticklabels()[2].get_text() == "seed 8"
        assert mixing_grid(generator, form, form, 16).axes[0].get_xticklabels()[1].get_text() == "seed 2"
        assert interpolation_strip(generator, form, 2).axes[0].get_xticklabels()[4].get_text() == "seed 8"
    again = sample_images(generator, [5, 5])
    assert torch.equal(again[0], again[1]) and torch.equal(again[0], expected[1])


@pytest.mark.parametrize(("seeds", "message"), REFUSED)
def test_what_is_no_seed_is_refused(generator, seeds, message):
    calls = [
        lambda: latents(generator, seeds),
        lambda: styles(generator, seeds),
        lambda: sample_images(generator, seeds),
        lambda: next(sample_batches(generator, seeds)),
        lambda: interpolate(generator, seeds, 2),
        lambda: truncation_sweep(generator, seeds),
        lambda: mixing_grid(generator, seeds, [1], 16),
        lambda: mixing_grid(generator, [1], seeds, 16),
        lambda: interpolation_strip(generator, seeds, 2),
        lambda: sample_paths("folder", seeds),
    ]
    for call in calls:
        assert message in refusal(call)


def test_a_huge_range_is_not_written_out(generator):
    first = next(sample_batches(generator, range(10**15), batch_size=2))
    assert torch.equal(first, sample_images(generator, [0, 1]))


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_an_image(generator, size):
    assert f"batch_size={size}" in refusal(sample_images, generator, [1], batch_size=size)


# Folders


def test_a_folder_of_samples_holds_one_call(tmp_path):
    paths = sample_paths(tmp_path / "new", [3, 12345])
    assert paths == [tmp_path / "new" / "seed0003.png", tmp_path / "new" / "seed12345.png"]
    assert not (tmp_path / "new").exists()
    for name in ("seed0003.png", "grid.png", "interpolation.gif", "notes.txt"):
        (tmp_path / name).touch()
    remove_samples(sample_paths(tmp_path, [3, 4]))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "seed0003.png").touch()
    message = refusal(sample_paths, tmp_path, [4, 5])
    assert f"{tmp_path} holds images of another call (1, such as seed0003.png)" in message
    assert "seed 4 is given twice" in refusal(sample_paths, tmp_path / "new", [4, 5, 4])
