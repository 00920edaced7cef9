"""Sampling: truncation, mixing and interpolation do what they say, and a seed's image is its own."""

import math

import pytest
import torch
from helpers import refusal
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from stylenat.models.build import build_generator
from stylenat.presets import get_config
from stylenat.sampling.sample import (
    interpolate,
    latents,
    mean_style,
    mix_styles,
    render,
    sample_images,
    slerp,
    styles,
    truncate,
)

TINY = {"widths": (8, 8, 8, 8), "discriminator_widths": (8, 8, 8), "head_dim": 4, "latent_dim": 8}


def build():
    torch.manual_seed(0)
    generator = build_generator(get_config("smoke", **TINY, mapping_depth=2)).requires_grad_(False).eval()
    for parameter in generator.parameters():
        parameter.normal_(std=0.3)
    for layer in generator.style.parameters():
        layer.mul_(100)  # its learning rate's factor, 0.01: styles then differ from seed to seed
    return generator


@pytest.fixture(scope="module")
def generator():
    return build()


# Truncation


def test_the_mean_style_is_that_of_ten_thousand_styles_and_is_estimated_once():
    generator, calls = build(), []
    generator.style.register_forward_hook(lambda module, inputs, out: calls.append(len(out)))
    rows = torch.randn(10_000, 8, generator=torch.Generator().manual_seed(0)).double()
    exact = build().double().mapping(rows).mean(0)
    found = mean_style(generator)
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()
    assert mean_style(generator) is found and calls.count(10_000) == 1
    assert not any("mean_style" in name for name in generator.state_dict())
    assert mean_style(generator.double()).dtype == torch.float64  # is the generator's own
    assert mean_style(generator.to("meta")).device.type == "meta"


def test_truncation_is_linear_from_the_mean_to_the_style(generator):
    w, mean = styles(generator, range(3)), mean_style(generator)
    assert truncate(generator, w, 1) is w
    assert torch.equal(truncate(generator, w, 0), mean.expand(3, -1))
    for psi in (-0.5, 0.3, 0.7, 1.5):
        expected = torch.stack([mean + psi * (one - mean) for one in w])
        torch.testing.assert_close(truncate(generator, w, psi), expected)
        torch.testing.assert_close(styles(generator, range(3), psi), expected)
        plus = mix_styles(generator, w, w.flip(0), 16)
        torch.testing.assert_close(
            truncate(generator, plus, psi), mix_styles(generator, expected, expected.flip(0), 16)
        )


def test_full_truncation_gives_every_seed_the_mean_image(generator):
    images = sample_images(generator, [0, 7], truncation_psi=0, batch_size=1)
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[:1], render(generator, mean_style(generator)[None]))
    free = sample_images(generator, [0, 7])
    assert not torch.equal(free[0], free[1])


# Seeds


def test_a_seeds_latent_is_its_own(generator):
    alone = torch.randn(8, generator=torch.Generator().manual_seed(5))
    assert torch.equal(latents(generator, [3, 5])[1], alone)


def test_a_seeds_image_has_the_same_bits_in_any_order_and_selection(generator):
    all_of_them = sample_images(generator, range(6), batch_size=1)
    assert torch.equal(sample_images(generator, [4, 1, 4], batch_size=1), all_of_them[[4, 1, 4]])
    together = sample_images(generator, range(6), batch_size=4)
    assert together.shape == (6, 3, 32, 32) and together.dtype == torch.uint8
    assert (together.int() - all_of_them.int()).abs().max() <= 1  # rounding


def test_sampling_on_a_gpu_holds_no_tensor_of_the_cpu():
    with torch.device("meta"):
        generator = build_generator(get_config("smoke", **TINY)).requires_grad_(False)
    with FakeTensorMode():
        for module in generator.modules():  # parameters that are fakes of a GPU's
            for name, tensor in module._parameters.items():
                module._parameters[name] = (
                    None if tensor is None else nn.Parameter(torch.empty(tensor.shape, device="cuda"))
                )
            for name, tensor in module._buffers.items():
                module._buffers[name] = None if tensor is None else torch.empty(tensor.shape, device="cuda")
        w = styles(generator, range(2), 0.7)
        mixed = mix_styles(generator, w, w, 16)
        image = generator.synthesis(truncate(generator, mixed, 0.5))
        assert {x.device.type for x in (w, mixed, image, mean_style(generator))} == {"cuda"}
        assert sample_images(generator, range(3), batch_size=2).device.type == "cpu"
        assert interpolate(generator, [0, 1], 2, space="z", truncation_psi=0.7).shape == (3, 3, 32, 32)


# Mixing


@pytest.mark.parametrize(("level", "coarse"), [(4, 0), (8, 2), (16, 4), (32, 6)])
def test_mixing_takes_coarse_styles_below_the_level(generator, level, coarse):
    a, b = torch.zeros(2, 8), torch.ones(2, 8)
    mixed = mix_styles(generator, a, b, level)
    assert mixed.shape == (2, generator.num_styles, 8)
    assert mixed.mean((0, 2)).tolist() == [0] * coarse + [1] * (generator.num_styles - coarse)


def test_mixing_changes_the_image_from_its_level_on(generator):
    """The features below the level are those of the coarse seed, to the bit."""
    a, b = styles(generator, [0]), styles(generator, [1])
    seen = []
    hook = generator.layers[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for w in (a, mix_styles(generator, a, b, 16), mix_styles(generator, a, b, 8)):
        render(generator, w)
    hook.remove()
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_a_style_is_as_good_as_its_repetition(generator):
    a, b = styles(generator, [0, 1]), styles(generator, [2, 3])
    for w in (a[:, None].expand(-1, generator.num_styles, -1), mix_styles(generator, b, a, 4)):
        assert torch.equal(render(generator, w), render(generator, a))


def test_each_style_drives_the_block_of_its_place(generator):
    seen, plus = [], torch.randn(2, generator.num_styles, 8, generator=torch.Generator().manual_seed(0))
    blocks = [block for level in generator.layers for block in level.blocks]
    hooks = [block.register_forward_pre_hook(lambda *call: seen.append(call)) for block in blocks]
    render(generator, plus)
    for hook in hooks:
        hook.remove()
    assert [block for block, _ in seen] == blocks
    assert torch.equal(torch.stack([inputs[1] for _, inputs in seen], 1), plus)


def test_a_level_that_is_not_there(generator):
    w = styles(generator, [0])
    for level in (0, 5, 64, "16"):
        message = refusal(mix_styles, generator, w, w, level)
        assert message == f"level {level!r} is none of this generator's: take one of 4, 8, 16, 32"


# Interpolation


def test_slerp_is_a_rotation_at_even_speed():
    angle = torch.tensor([0.0, 1.2], dtype=torch.float64)
    a, b = torch.stack([angle.cos(), angle.sin()], 1)
    for t in (0, 0.25, 0.5, 1):
        expected = torch.tensor([math.cos(1.2 * t), math.sin(1.2 * t)], dtype=torch.float64)
        torch.testing.assert_close(slerp(a, b, t), expected)
    a, b = torch.randn(2, 5, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(slerp(a, b, 0), a)
    torch.testing.assert_close(slerp(a, b, 1), b)
    # Between normals, halfway has their length and a straight line's middle is shorter.
    lengths = [x.norm(dim=-1).mean().item() for x in (a, slerp(a, b, 0.5), (a + b) / 2)]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.05) and lengths[2] < 0.75 * lengths[0]


def test_slerp_of_one_direction_or_opposite_ones_is_straight():
    a = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)
    torch.testing.assert_close(slerp(a, -a, 0.25), 0.5 * a)
    # Cosines that rounding puts beside 1, on either side.
    a = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)
    assert (slerp(a, -a, 0.25).norm(dim=-1) <= a.norm(dim=-1)).all()


@pytest.mark.parametrize("space", ["w", "z"])
def test_interpolation_passes_through_the_seeds(generator, space):
    seeds = [2, 9, 4]
    film = interpolate(generator, seeds, 3, space=space, truncation_psi=0.7)
    own = sample_images(generator, seeds, truncation_psi=0.7, batch_size=1)
    assert len(film) == 7
    assert (film[::3].int() - own.int()).abs().max() <= 1
    steps = (film[1:].float() - film[:-1].float()).abs().mean((1, 2, 3))
    assert 0 < steps.max() < (own[1:].float() - own[:-1].float()).abs().mean((1, 2, 3)).max()


@pytest.mark.parametrize("space", ["w", "z"])
def test_interpolation_is_straight_in_w_and_along_the_sphere_in_z(generator, space):
    (a, b), seen = latents(generator, [0, 7]), []
    with generator.layers[0].blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1])):
        interpolate(generator, [0, 7], 4, space=space)
    t = torch.arange(5)[:, None] / 4
    if space == "w":
        start, end = styles(generator, [0, 7])
        expected = start + t * (end - start)
    else:
        angle = torch.cosine_similarity(a, b, dim=0).acos()
        expected = generator.mapping((((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin())
    torch.testing.assert_close(torch.cat(seen), expected)


def test_interpolations_that_cannot_be(generator):
    assert refusal(interpolate, generator, [0, 1], 3, space="x") == (
        "space 'x' is unknown: interpolate in 'w' or 'z'"
    )
    for seeds, frames in (([0], 3), ([0, 1], 0)):
        message = refusal(interpolate, generator, seeds, frames)
        assert message == (
            f"{len(seeds)} seeds and {frames} frames: give two seeds or more and one frame or more"
        )
