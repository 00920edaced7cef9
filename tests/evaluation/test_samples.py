import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers import Painter, counting_network, quarter_means, refusal, small_network
from PIL import Image
from torch import nn

from stylenat.checkpoints.samples import open_images
from stylenat.data import sources
from stylenat.data.dataset import open_samples
from stylenat.evaluation.distances import Moments
from stylenat.evaluation.evaluate import evaluate
from stylenat.evaluation.samples import PARTS, as_samples, sample_features
from stylenat.features.networks import FEATURE_BATCH
from stylenat.models.build import build_generator
from stylenat.models.precision import cast
from stylenat.sampling.sample import sample_images


@pytest.fixture(scope="module")
def images():
    return sample_images(Painter(), range(40))


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "samples.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    return path


def first_images(samples, count):
    return torch.cat(list(samples.batches(count)))


def assert_facts(samples, available, protocol):
    assert (samples.resolution, samples.device) == (32, torch.device("cpu"))
    assert (samples.available, samples.protocol()) == (available, protocol)


def test_samples_of_a_generator_are_made_by_seed():
    painter = Painter()
    samples = as_samples(painter, seed=3, truncation_psi=0.5, batch_size=7)
    assert_facts(samples, None, {"seed": 3, "truncation_psi": 0.5})
    expected = sample_images(painter, range(3 * 10**6, 3 * 10**6 + 20), truncation_psi=0.5)
    assert torch.equal(first_images(samples, 20), expected)
    assert [len(batch) for batch in samples.batches(20)] == [7, 7, 6]
    assert samples.description(20) == "seeds 3000000 to 3000019"
    samples.check(10**6, 32)
    assert "the generator's resolution 32 is not the dataset's 64" in refusal(samples.check, 20, 64)


def test_samples_whose_products_are_rounded_say_so(monkeypatch):
    generator = build_generator("smoke").eval()
    drawn = {"seed": 0, "truncation_psi": 1.0}
    assert as_samples(generator).protocol() == drawn
    monkeypatch.setattr("stylenat.evaluation.samples.bfloat16_instructions", lambda device: "AMX-BF16")
    expected = drawn | {"dtype": "bfloat16", "instructions": "AMX-BF16"}
    assert as_samples(cast(generator, "bfloat16")).protocol() == expected
    monkeypatch.setattr("stylenat.evaluation.samples.bfloat16_instructions", lambda device: "")
    half = as_samples(build_generator("smoke").double()).protocol()
    assert half == drawn | {"dtype": "float64", "instructions": "none of its own"}


@pytest.mark.parametrize("kind", ["folder", "packed"])
def test_samples_of_a_folder_or_zip_come_in_name_order(kind, images, request):
    dataset = open_samples(request.getfixturevalue(kind))
    samples = as_samples(dataset, seed=3)
    assert_facts(samples, 40, {})
    assert torch.equal(first_images(samples, 33), images[:33])
    assert samples.description(33) == f"images of manifest {dataset.manifest}"
    samples.check(40, 32)
    assert "has 40 images and the score takes 41: give more" in refusal(samples.check, 41, 32)
    assert "the samples' resolution 32 is not the dataset's 64" in refusal(samples.check, 20, 64)


def test_samples_in_a_tensor(images):
    samples = as_samples(images, seed=3)
    assert_facts(samples, 40, {})
    assert torch.equal(first_images(samples, 33), images[:33])
    assert samples.description(33) == "images handed in"
    samples.check(40, 32)
    for wrong, count, resolution in ((images, 41, 32), (images, 40, 64), (images.float(), 40, 32)):
        message = refusal(as_samples(wrong).check, count, resolution)
        assert f"{wrong.dtype} (40, 3, 32, 32)" in message
        assert f"torch.uint8 ({count} or more, 3, {resolution}, {resolution})" in message


def test_features_of_samples_are_kept_or_summed_up_in_independent_moments():
    count = PARTS * FEATURE_BATCH + 20
    images = torch.randint(256, (count, 3, 8, 8)).to(torch.uint8)
    networks = {"a": small_network("dinov2"), "b": small_network("inception-clean")}
    found = sample_features(as_samples(images), count, networks, moments={"b"})
    expected = quarter_means(nn.Identity(), images).flatten(1)
    torch.testing.assert_close(found["a"], expected)
    assert [part.count for part in found["b"]] == [32, 20] + [16] * (PARTS - 2)
    total = sum(found["b"], Moments())
    torch.testing.assert_close(total.covariance, expected.T.double().cov())


def test_few_samples_are_kept_though_moments_would_do(images):
    found = sample_features(as_samples(images), 40, {"a": small_network("dinov2")}, moments={"a"})
    assert found["a"].shape == (40, 12)


def test_samples_are_read_only_as_fast_as_networks_take_them(images, monkeypatch):
    """Memory is bounded: no network runs ahead of another, and batches don't pile up."""
    drawn, waiting = [], []
    network, seen = counting_network("dinov2")
    samples = as_samples(images)

    def batches(count, first=0):
        for batch in images.split(FEATURE_BATCH):
            drawn.append(len(batch))
            waiting.append(sum(drawn) * 2 - sum(seen))
            yield batch

    monkeypatch.setattr(samples, "batches", batches)
    sample_features(samples, 40, {"a": network, "b": network}, moments=set())
    assert sum(seen) == 80 and drawn == [16, 16, 8]
    assert max(waiting) <= 2 * FEATURE_BATCH


@pytest.mark.parametrize("kind", ["folder", "packed"])
def test_samples_are_listed_and_their_headers_read_once_on_the_way_to_a_score(
    kind, portraits, request, monkeypatch
):
    """Pillow opens each file twice, for its header and for its pixels."""
    path = request.getfixturevalue(kind)
    listed = []
    opened = Counter()
    with_image = sources._Files._with_image

    def counted(files, index, action):
        opened[files.names[index]] += files.source == str(path)
        return with_image(files, index, action)

    monkeypatch.setattr(sources._Files, "_with_image", counted)
    walk = sources.os.walk
    monkeypatch.setattr(sources.os, "walk", lambda top, **more: listed.append(Path(top)) or walk(top, **more))
    zip_file = zipfile.ZipFile
    monkeypatch.setattr(
        sources.zipfile, "ZipFile", lambda file, *more: listed.append(Path(file)) or zip_file(file, *more)
    )
    scored = open_images(path)
    score = evaluate(
        scored, portraits, "fid,kid", networks={"inception-legacy": small_network("inception-legacy")}
    )
    assert len(score.values) == 2
    assert listed == [path]
    assert opened == {f"{i:02}.png": 2 for i in range(40)}
