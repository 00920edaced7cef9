"""StyleGAN-XL: published sizes, parts against their definitions, images that move with their input."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from helpers import refusal, relative_error
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import stylenat
from stylenat.models import alias_free
from stylenat.models.base import count_parameters
from stylenat.models.stylegan_xl import FourierInput, SynthesisLayer, normalized
from stylenat.presets import get_config
from stylenat.sampling.sample import mean_style, styles

EMBEDDING = 320_000  # of classes: in the published counts, and without use here
SMALL = {"widths": (12, 6), "stages": ((16, 4, 3, 1), (32, 3, 1, 2)), "latent_dim": 5, "style_dim": 7}


def small_generator():
    torch.manual_seed(0)
    return stylenat.build_generator("stylegan-xl-32", **SMALL).double()


def published(preset):
    with torch.device("meta"):
        return stylenat.build_generator(preset)


# Size


@pytest.mark.parametrize(
    ("preset", "total", "styles"),
    [
        ("stylegan-xl-a", 34_015_675, 17),
        ("stylegan-xl-b", 62_186_010, 32),
        ("stylegan-xl-c", 67_413_566, 34),
        ("stylegan-xl-e", 67_928_945, 18),
    ],
)
def test_parameters_are_the_published_ones(preset, total, styles):
    generator = published(preset)
    assert count_parameters(generator) + EMBEDDING == total
    assert generator.num_styles == styles and generator.resolutions == (16, 32, 64, 128, 256)


def stages(first, layers, kernel_size, width):
    """Stages from `first` pixels to 256, all alike."""
    return [(2**i, layers, kernel_size, width) for i in range(first.bit_length() - 1, 9)]


@pytest.mark.parametrize(
    ("changes", "total"),
    [
        ({"stages": [(16, 8, 3, 2), *stages(32, 7, 3, 2)], "widths": (256, 128)}, 67_958_175),
        ({"stages": [(16, 10, 3, 2), *stages(32, 7, 3, 2)]}, 233_322_598),
        ({"stages": [(64, 7, 3, 1), (256, 4, 3, 1)]}, 19_277_611),
        ({"stages": [(16, 6, 1, 2), (32, 7, 1, 2), *stages(64, 4, 3, 2)]}, 69_098_398),
        ({"stages": [(16, 6, 1, 4), (32, 7, 1, 4), *stages(64, 4, 3, 4)]}, 257_968_771),
    ],
    ids=["D", "default widths", "A2", "E with heads of 7 and 4", "E at default widths"],
)
def test_other_settings_have_their_published_size(changes, total):
    with torch.device("meta"):
        generator = stylenat.build_generator("stylegan-xl-a", **changes)
    assert count_parameters(generator) + EMBEDDING == total


def test_parameters_layer_by_layer():
    generator = published("stylegan-xl-a")
    assert count_parameters(generator.style) == 295_936 and count_parameters(generator.input) == 264_196
    layers = [2_622_464] * 10 + [2_502_630, 2_375_568, 1_338_693, 414_713, 213_248, 66_051]
    assert [count_parameters(layer) for layer in generator.layers] == layers
    tail = [
        2_249_135,
        1_625_663,
        1_176_442,
        988_000,
        856_624,
        626_903,
        460_711,
        340_613,
        253_208,
        213_248,
        66_051,
    ]
    assert [count_parameters(layer) for layer in published("stylegan-xl-b").layers] == [2_622_464] * 20 + tail


def test_the_inferred_variant_says_so():
    assert "inferred" in get_config("stylegan-xl-e").cost


def test_levels_are_the_stages():
    generator = small_generator()
    assert generator.resolutions == (16, 32) and generator.widths == (12, 12)
    assert [plan.kernel_size for plan in generator.plans] == [3, 3, 1, 1, 1, 1]
    assert (generator.first_style(16), generator.first_style(32), generator.num_styles) == (0, 3, 7)
    stages = generator.stages()
    assert stages[0].modules == (generator.input, *generator.layers[:2])
    assert stages[1].modules == tuple(generator.layers[2:])


# The input


def make_input():
    torch.manual_seed(0)
    signal = alias_free.Signal(36, 16, 2.0, 6.0, 10)
    return FourierInput(signal, 7).double()


def turned_and_moved(angle, x, y):
    return torch.tensor([[math.cos(angle), math.sin(angle), x, y]], dtype=torch.float64)


def test_frequencies_are_within_the_band():
    torch.manual_seed(3)
    module = FourierInput(alias_free.Signal(36, 16, 2.0, 6.0, 4000), 7)
    radii = module.frequencies.norm(dim=1)
    assert radii.min() > 0 and 1.99 < radii.max() <= 2
    # Of a normal draw of length r there is 2 exp(-r² / 4), whose mean square is 4 E[exp(-r² / 2)] = 2.
    assert radii.square().mean() == pytest.approx(2, rel=0.05)
    assert module.phases.min() >= -0.5 and module.phases.max() <= 0.5


@torch.no_grad()
def test_features_are_the_learned_mix_of_sines():
    module = make_input()
    style = torch.randn(2, 7, dtype=torch.float64)
    nn.init.normal_(module.affine.weight, std=0.3)
    cosine, sine, x, y = module.affine(style)[1].tolist()
    length = math.hypot(cosine, sine)
    out = module(style)
    assert out.shape == (2, 10, 36, 36)
    for row, column in ((0, 0), (7, 30)):
        across = (column + 0.5) / 16 - 36 / 32 - x
        down = (row + 0.5) / 16 - 36 / 32 - y
        turned = (cosine * across - sine * down, sine * across + cosine * down)
        place = torch.tensor(turned, dtype=torch.float64) / length
        waves = torch.sin(2 * math.pi * (module.frequencies @ place + module.phases))
        torch.testing.assert_close(out[1, :, row, column], module.weight @ waves / math.sqrt(10))


@torch.no_grad()
def test_a_quarter_turn_turns_the_features():
    module = make_input()
    plain = module.waves(turned_and_moved(0, 0, 0))
    torch.testing.assert_close(
        module.waves(turned_and_moved(math.pi / 2, 0, 0)), plain.rot90(1, (2, 3)), atol=1e-9, rtol=0
    )
    torch.testing.assert_close(module.waves(3 * turned_and_moved(0, 0, 0))[:, :, 3], plain[:, :, 3])


@torch.no_grad()
@pytest.mark.parametrize("by_style", [True, False])
def test_a_sample_s_way_moves_the_features_by_a_sample(by_style):
    module = make_input()
    plain = module.waves(turned_and_moved(0, 0, 0))
    if by_style:
        moved = module.waves(turned_and_moved(0, 2 / 16, -1 / 16))
    else:
        module.transform[0, 2], module.transform[1, 2] = -2 / 16, 1 / 16
        moved = module.waves(turned_and_moved(0, 0, 0))
    torch.testing.assert_close(moved[:, :, :-1, 2:], plain[:, :, 1:, :-2], atol=1e-9, rtol=0)


@torch.no_grad()
def test_a_frequency_that_leaves_the_band_fades_out():
    module = make_input()
    module.frequencies[0] = torch.tensor([1.0, 0.0])
    expected = {1: 1, 2: 1, 5: 0.5, 8: 0, 9: 0}
    for factor, amplitude in expected.items():
        module.transform.copy_(torch.diag(torch.tensor([factor, factor, 1.0])))
        peak = module.waves(turned_and_moved(0.3, 0, 0))[0, 0].abs().max().item()
        assert peak == pytest.approx(amplitude, abs=0.02), factor


# A layer


@torch.no_grad()
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_layer_modulates_the_weights_of_each_image(kernel_size):
    """One convolution of scaled maps is a convolution an image, of modulated and demodulated weights."""
    torch.manual_seed(0)
    signal = alias_free.Signal(36, 16, 2.0, 6.0, 4)
    plan = alias_free.LayerPlan(16, signal, signal, kernel_size)
    layer = SynthesisLayer(plan, 7).double()
    nn.init.normal_(layer.bias)
    x = torch.randn(3, 4, 36, 36, dtype=torch.float64)
    style = torch.randn(3, 7, dtype=torch.float64)
    scales = style @ layer.affine.weight.T / math.sqrt(7) + layer.affine.bias
    weight = layer.weight / layer.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
    scales = scales / scales.square().mean().sqrt()
    for i in range(3):
        own = weight * scales[i][:, None, None]
        own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected = F.conv2d(x[i : i + 1], own, padding=kernel_size - 1) + layer.bias[:, None, None]
        assert relative_error(layer(x, style)[i : i + 1], layer.activation(expected)) < 1e-12


@torch.no_grad()
def test_colors_are_a_scaled_sum():
    torch.manual_seed(0)
    signal = alias_free.Signal(32, 32, 16.0, 3.0, 4)
    layer = SynthesisLayer(alias_free.LayerPlan(32, signal, signal, 1, True), 7).double()
    x = torch.randn(2, 4, 32, 32, dtype=torch.float64)
    style = torch.randn(2, 7, dtype=torch.float64)
    scales = (style @ layer.affine.weight.T / math.sqrt(7) + layer.affine.bias) / 2
    expected = torch.einsum("oc,bc,bchw->bohw", layer.weight[:, :, 0, 0], scales, x)
    torch.testing.assert_close(layer(x, style), expected)
    assert layer(1e6 * x, style).abs().max() == 256


@torch.no_grad()
def test_half_precision_normalizes_exactly():
    weight, scales = 1e4 * torch.randn(8, 8, 3, 3), torch.randn(2, 8)
    exact = normalized(weight, scales)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, normalized(weight, scales), exact))
    for half, full in zip(normalized(weight.half(), scales.half()), exact, strict=True):
        assert half.dtype == torch.float32 and relative_error(half, full) < 1e-3


# The generator


def movement_error(generator, w, axis, pixels):
    """PSNR of images of a moved input against moved images, dB, without the border."""
    side = generator.resolution
    still = generator.synthesis(w)
    generator.input.transform[axis, 2] = pixels / side
    moved = generator.synthesis(w).narrow(3 - axis, 0, side - pixels)
    generator.input.transform.copy_(torch.eye(3))
    border = side // 8
    error = (moved - still.narrow(3 - axis, pixels, side - pixels))[..., border:-border, border:-border]
    peak = still.amax() - still.amin()
    return (10 * torch.log10(peak.square() / error.square().mean())).item()


@torch.no_grad()
@pytest.mark.parametrize("axis", [0, 1])
def test_moving_the_input_by_half_a_sample_moves_the_image(axis, monkeypatch):
    """One pixel of the image is half a sample of the 16 × 16 grid. Without the filters, 40 dB are lost."""
    torch.manual_seed(0)
    generator = stylenat.build_generator("stylegan-xl-32").double().eval()
    w = generator.mapping(torch.randn(2, 64, dtype=torch.float64))
    assert movement_error(generator, w, axis, 1) > 90  # measured: 97 and 99
    assert movement_error(generator, w, axis, 3) > 90

    def without_filter(x, taps, factor):
        kept = x[..., len(taps) // 2 - 1 :, len(taps) // 2 - 1 :]
        size = (x.shape[-1] - len(taps)) // factor + 1
        return kept[..., : size * factor : factor, : size * factor : factor] * taps.sum() ** 2

    monkeypatch.setattr(alias_free, "downsample", without_filter)
    assert movement_error(generator, w, axis, 1) < 60


@torch.no_grad()
def test_the_generator_is_its_layers_in_a_row():
    generator = small_generator()
    z = torch.randn(2, 5, dtype=torch.float64)
    w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in generator.style[1:]:
        w = w @ (layer.weight.T / 100 / math.sqrt(w.shape[1])) + layer.bias / 100
        w = torch.where(w < 0, 0.2 * w, w) * math.sqrt(2)
    x = generator.input(w)
    for layer in generator.layers:
        x = layer(x, w)
    torch.testing.assert_close(generator(z), x / 4)


@torch.no_grad()
def test_equal_styles_are_one_style_and_each_counts():
    generator = small_generator()
    nn.init.normal_(generator.input.affine.weight)
    w = generator.mapping(torch.randn(2, 5, dtype=torch.float64))
    assert w.shape == (2, 7)
    one = generator.synthesis(w)
    plus = w[:, None].repeat(1, 7, 1)
    torch.testing.assert_close(generator.synthesis(plus), one)
    for i in range(7):
        changed = plus.clone()
        changed[:, i] += 1
        assert not torch.allclose(generator.synthesis(changed), one)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch():
    generator = small_generator()
    z = torch.randn(4, 5, dtype=torch.float64)
    assert relative_error(generator(z[:1]), generator(z)[:1]) < 1e-9


@torch.no_grad()
def test_truncation_moves_towards_the_mean_style():
    generator = small_generator().float().eval()
    mean = mean_style(generator)
    full = styles(generator, range(3))
    assert mean.shape == (7,) and full.shape == (3, 7)
    torch.testing.assert_close(styles(generator, range(3), 0.5), mean + 0.5 * (full - mean))


def test_gradients_are_those_of_differences_and_so_are_second_ones():
    generator = small_generator().requires_grad_(False)
    nn.init.normal_(generator.input.affine.weight)
    weight = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    z = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: (generator(z) * weight).sum(), z)
    (gradient,) = torch.autograd.grad((generator(z) * weight).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), z)

    def penalty(z):
        (gradient,) = torch.autograd.grad((generator(z) * weight).sum(), z)
        return gradient.square().sum().item()

    direction = torch.randn(1, 5, dtype=torch.float64)
    step = 1e-6 * direction
    difference = (penalty(z + step) - penalty(z - step)) / 2e-6
    assert (second * direction).sum().item() == pytest.approx(difference, rel=1e-4)
    torch.testing.assert_close(torch.func.grad(lambda z: (generator(z) * weight).sum())(z.detach()), gradient)


def test_levels_that_are_computed_again_have_the_same_gradients():
    generator = small_generator()
    z = torch.randn(2, 5, dtype=torch.float64)
    found = []
    calls = []
    for layer in generator.layers:
        layer.register_forward_pre_hook(lambda layer, *_: calls.append(layer))
    for levels, count in (((), 6), ((32,), 10)):
        generator.checkpoint_levels = levels
        calls.clear()
        generator.zero_grad()
        generator(z).square().sum().backward()
        assert len(calls) == count
        found.append([parameter.grad for parameter in generator.parameters()])
    torch.testing.assert_close(*found)


def test_it_is_made_on_any_device():
    with torch.device("meta"):
        generator = stylenat.build_generator("stylegan-xl-a")
        images = generator(torch.randn(2, 64))
        images.sum().backward()
    assert images.shape == (2, 3, 256, 256)
    assert all(parameter.grad is not None for parameter in generator.parameters())
    shapes = {name: value.shape for name, value in generator.state_dict().items()}
    with FakeTensorMode():
        state = {name: torch.empty(shape, device="cuda") for name, shape in shapes.items()}
        images = torch.func.functional_call(generator, state, torch.randn(2, 64, device="cuda"))
    assert images.device.type == "cuda" and images.shape == (2, 3, 256, 256)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_about_the_same_image(dtype):
    torch.manual_seed(0)
    generator = stylenat.build_generator("stylegan-xl-32").eval()
    z = torch.randn(2, 64)
    exact = generator(z)
    with torch.autocast("cpu", dtype):
        assert relative_error(generator(z), exact) < 0.1
    assert relative_error(generator.to(dtype)(z.to(dtype)), exact) < 0.1


def test_scales_begin_at_one_and_the_input_unmoved():
    torch.manual_seed(0)
    generator = stylenat.build_generator("stylegan-xl-32")
    assert all((layer.affine.bias == 1).all() and not layer.bias.any() for layer in generator.layers)
    assert generator.input.affine.bias.tolist() == [1, 0, 0, 0] and not generator.input.affine.weight.any()
    assert generator.style[1].weight.std().item() == pytest.approx(100, rel=0.05)
    assert generator.layers[1].weight.std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ()}, "needs stages, the first of 16"),
        ({"stages": ((8, 4, 3, 1), (32, 4, 3, 1))}, "the first of 16"),
        ({"stages": ((16, 2, 3, 1), (32, 4, 3, 1))}, "stage 16: layers=2 must be 3 or more"),
        ({"stages": ((16, 4, 5, 1), (32, 4, 3, 1))}, "stage 16: kernel_size=5 must be 1 or 3"),
        ({"stages": ((16, 4, 3, 0), (32, 4, 3, 1))}, "width=0 above 0"),
        ({"stages": ((16, 4, 3, 1), (24, 4, 3, 1))}, "stage 24: take a power of two"),
        ({"stages": ((32, 4, 3, 1), (32, 4, 3, 1))}, "stage 32 follows 32"),
        (
            {"stages": ((16, 4, 3), (32, 4, 3, 1))},
            r"must be the whole numbers \(resolution, layers, kernel_size",
        ),
        ({"stages": ((16, 4, 3, 1), (64, 4, 3, 1))}, "2 stages make 64 pixels, not resolution=32"),
        ({"widths": (12, 6, 3)}, "needs two widths"),
        ({"style_dim": 0}, "a style_dim above 0"),
        ({"head_dim": 8}, "head_dim=8 means nothing to generator 'stylegan-xl'"),
        ({"checkpoint_levels": (8,)}, "checkpoint_levels=8 is no level: take of 16, …, 32"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    text = refusal(get_config, "stylegan-xl-32", **SMALL | changes)
    assert re.search(message, text), text
