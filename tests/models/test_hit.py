"""HiT: its published size, level by level, and each part against loops that share nothing with it."""

import math
import re

import pytest
import torch
from helpers import refusal, relative_error
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import stylenat
from stylenat.models import hit
from stylenat.models.base import count_parameters
from stylenat.presets import get_config

SMALL = {"widths": (16, 16, 8), "stages": ((1, 4, 4), (1, 2, 4), (1, 2, 0)), "latent_dim": 6}


def small_generator():
    """All of its parameters are large, so that each counts; running statistics are not 0 and 1."""
    torch.manual_seed(0)
    generator = stylenat.build_generator("hit-32", **SMALL).double()
    for parameter in generator.parameters():
        nn.init.normal_(parameter, std=0.4)
    for name, buffer in generator.named_buffers():
        buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_()
    return generator


def published(preset):
    with torch.device("meta"):
        return stylenat.build_generator(preset)


# The public code's counts, and those of the one simple configuration that has HiT-L's size.
@pytest.mark.parametrize(
    ("preset", "total", "entry", "memory", "levels"),
    [
        ("hit-b", 46_217_670, 16_809_984, 4_211_712,
         [8_078_528, 8_242_304, 2_376_448, 1_071_488, 1_141_283, 4_285_923]),
        ("hit-l", 97_462_214, 33_619_968, 8_423_424,
         [32_081_792, 8_307_840, 2_441_984, 1_106_368, 2_596_803, 8_884_035]),
    ],
)  # fmt: skip
def test_parameters_are_the_published_ones(preset, total, entry, memory, levels):
    generator = published(preset)
    found = [sum(map(count_parameters, stage.modules)) for stage in generator.stages()]
    found[0] -= count_parameters(generator.input)
    assert found == levels
    assert count_parameters(generator.input) == entry and count_parameters(generator.memory) == memory
    assert count_parameters(generator) == total


def test_levels_are_the_published_ones():
    generator = published("hit-b")
    assert generator.resolutions == (8, 16, 32, 64, 128, 256) and generator.num_styles == 6
    attentions = [level.units[0][0].attn if len(level.units[0]) > 1 else None for level in generator.levels]
    assert [attn and (attn.patch, attn.heads) for attn in attentions] == [
        (4, 16), (4, 8), (8, 4), (8, 4), None, None,
    ]  # fmt: skip
    assert [level.cross.attn.heads for level in generator.levels] == [16, 8, 4, 4, 4, 4]
    assert len(generator.to_rgbs) == 2 and "inferred" in get_config("hit-l").cost


# The parts


def slow_attention(q, k, v):
    """One query `(d,)`, keys and values `(S, d)` → `(d,)`."""
    weights = [math.exp(sum(a * b for a, b in zip(q, key, strict=True)) / math.sqrt(len(q))) for key in k]
    return sum(weight * value for weight, value in zip(weights, v, strict=True)) / sum(weights)


def test_multi_axis_attention_is_that_of_loops():
    torch.manual_seed(0)
    height, width, heads, patch = 4, 6, 4, 2
    layer = hit.MultiAxisAttention(8, heads, patch).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, height, width, 8, dtype=torch.float64)
    with torch.no_grad():
        q = (x @ layer.q.weight.T + layer.q.bias).view(2, height, width, heads, 2)
        k = x @ layer.k.weight.T + layer.k.bias
        v = x @ layer.v.weight.T + layer.v.bias
        out = torch.zeros_like(q)
        grid = [(row, column) for row in range(height) for column in range(width)]
        for image in range(2):
            for row, column in grid:
                inside = [
                    (r, c) for r, c in grid if (r // patch, c // patch) == (row // patch, column // patch)
                ]
                across = [(r, c) for r, c in grid if (r % patch, c % patch) == (row % patch, column % patch)]
                for head in range(heads):
                    seen = inside if head < heads // 2 else across
                    keys = torch.stack([k[image, r, c] for r, c in seen])
                    values = torch.stack([v[image, r, c] for r, c in seen])
                    query = q[image, row, column, head]
                    out[image, row, column, head] = slow_attention(query, keys, values)
        expected = out.flatten(3) @ layer.proj.weight.T + layer.proj.bias
        assert relative_error(layer(x), expected) < 1e-12


def test_cross_attention_is_that_of_loops():
    torch.manual_seed(0)
    layer = hit.CrossAttention(6, 5, 3).double()
    x = torch.randn(2, 2, 3, 6, dtype=torch.float64)
    memory = torch.randn(2, 16, 5, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    with torch.no_grad():
        q = (x @ layer.q.weight.T + layer.q.bias).view(2, 6, 3, 2)
        k = memory @ layer.k.weight.T + layer.k.bias
        v = memory @ layer.v.weight.T + layer.v.bias
        out = torch.zeros_like(q)
        for image in range(2):
            for token in range(6):
                for head in range(3):
                    out[image, token, head] = slow_attention(q[image, token, head], k[image], v[image])
        expected = out.flatten(2) @ layer.proj.weight.T + layer.proj.bias
        assert relative_error(layer(x, memory), expected.view_as(x)) < 1e-12


def test_patches_go_row_by_row_and_back():
    x = torch.arange(2 * 4 * 6).view(2, 4, 6)
    patches = hit.to_patches(x[..., None], 2)[..., 0]
    assert patches[0, 1].tolist() == [2, 3, 8, 9] and patches[0, 3].tolist() == [12, 13, 18, 19]
    assert torch.equal(hit.from_patches(patches[..., None], 2, 4, 6)[..., 0], x)


def test_pixel_shuffle_takes_row_column_and_channel_in_this_order():
    x = torch.arange(1 * 2 * 3 * 8).view(1, 2, 3, 8)
    out = hit.pixel_shuffle(x)
    assert out.shape == (1, 4, 6, 2)
    for row in range(4):
        for column in range(6):
            for channel in range(2):
                depth = ((row % 2) * 2 + column % 2) * 2 + channel
                assert out[0, row, column, channel] == x[0, row // 2, column // 2, depth]


def test_a_way_up_of_equal_width_has_no_weights():
    assert count_parameters(hit.Upsample(8, 2)) == 0
    assert count_parameters(hit.Upsample(8, 4)) == 2 * 4 + 4


def test_colors_are_added_to_repeated_ones():
    to_rgb = hit.ToRGB(4).double().eval()
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64)
    skip = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    added = to_rgb(x, skip) - to_rgb(x, None)
    torch.testing.assert_close(added[0, :, 2:, :2], skip[0, :, 1:, :1].expand(3, 2, 2))


@torch.no_grad()
def test_batch_norm_is_pytorch_s_in_both_modes():
    """All but Bessel's correction of the average: it is of the variance that is divided by."""
    torch.manual_seed(0)
    ours = hit.BatchNorm(5).double()
    theirs = nn.BatchNorm1d(5, eps=1e-3, momentum=0.01).double()
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        other.copy_(nn.init.normal_(parameter))
    for i in range(3):
        x = torch.randn(4, 3, 5, dtype=torch.float64) * (i + 1) + i
        torch.testing.assert_close(ours(x), theirs(x.flatten(0, 1)).view_as(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var - 0.99**3, (theirs.running_var - 0.99**3) * 11 / 12)
    theirs.running_var.copy_(ours.running_var)
    before = ours.running_mean.clone()
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x.flatten(0, 1)).view_as(x))
    assert torch.equal(ours.running_mean, before)


# The generator


@torch.no_grad()
def test_the_generator_is_its_parts_in_a_row():
    """Written out once more from the specification, with the layers' own weights."""
    generator = small_generator().eval()
    z = torch.randn(2, 6, dtype=torch.float64)
    x = generator.input(z).view(2, 8, 8, 16)
    memory = generator.memory.linear(z).view(2, 16, 16) + generator.memory.position
    memory = generator.memory.norm(memory)
    for i, level in enumerate(generator.levels):
        x = x + level.position
        x = x + level.cross.attn(level.cross.norm(x), memory)
        x = x + level.cross_mlp.mlp(level.cross_mlp.norm(x))
        (unit,) = level.units
        if i < 2:
            x = x + unit[0].attn(unit[0].norm(x))
        x = x + unit[-1].mlp(unit[-1].norm(x))
        if i < 2:
            x = generator.upsamples[i](x)
    (to_rgb,) = generator.to_rgbs
    expected = (to_rgb.norm(x) @ to_rgb.linear.weight.T + to_rgb.linear.bias).permute(0, 3, 1, 2)
    assert relative_error(generator(z), expected) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_equal_styles_are_one_style(training):
    generator = small_generator().train(training)
    z = torch.randn(3, 6, dtype=torch.float64)
    one = generator.synthesis(z)
    plus = z[:, None].repeat(1, 3, 1)
    torch.testing.assert_close(generator.synthesis(plus), one)
    for i in range(3):
        changed = plus.clone()
        changed[:, i] += 1
        assert not torch.allclose(generator.synthesis(changed), one)


def test_there_is_no_truncation():
    generator = small_generator().eval()
    assert generator.mapping(torch.ones(1, 6)).equal(torch.ones(1, 6)) and not generator.has_style_space
    message = refusal(stylenat.sample_images, generator, [0], truncation_psi=0.7)
    assert message == "psi 0.7: HiT has no learned styles to truncate, take psi 1"


def test_gradients_are_those_of_differences_and_so_are_second_ones():
    generator = small_generator().eval().requires_grad_(False)
    weight = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    z = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)

    def score(z):
        return (generator(z) * weight).sum()

    assert torch.autograd.gradcheck(score, z) and torch.autograd.gradgradcheck(score, z)
    generator.train()  # what the batch's statistics depend on is part of the gradient
    pair = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    norm = hit.BatchNorm(6).double()
    assert torch.autograd.gradgradcheck(lambda x: norm(x).sin(), pair)
    assert torch.autograd.gradcheck(lambda x: (generator(x) * weight).sum(), pair)


def test_every_parameter_has_a_gradient():
    generator = small_generator()
    generator(torch.randn(2, 6, dtype=torch.float64)).square().sum().backward()
    for name, parameter in generator.named_parameters():
        # What is normalized over the batch forgets a constant that was added before.
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_torch_func_in_training_mode_is_refused():
    generator = small_generator()
    z = torch.randn(2, 6, dtype=torch.float64)
    message = refusal(torch.func.grad(lambda z: generator(z).sum()), z)
    assert message.startswith("batch norm moves its averages")
    generator.eval()
    expected = torch.autograd.functional.jacobian(lambda z: generator(z).sum((1, 2, 3)).sum(), z)
    torch.testing.assert_close(torch.func.grad(lambda z: generator(z).sum())(z), expected)


def test_it_is_made_on_any_device():
    with torch.device("meta"):
        generator = stylenat.build_generator("hit-b")
        images = generator(torch.randn(2, 512))
        images.sum().backward()
    assert images.shape == (2, 3, 256, 256)
    assert all(parameter.grad is not None for parameter in generator.parameters())
    shapes = {name: value.shape for name, value in generator.eval().state_dict().items()}
    with FakeTensorMode():
        state = {name: torch.empty(shape, device="cuda") for name, shape in shapes.items()}
        images = torch.func.functional_call(generator, state, torch.randn(2, 512, device="cuda"))
    assert images.device.type == "cuda" and images.shape == (2, 3, 256, 256)


@torch.no_grad()
def test_statistics_stay_in_float32_under_autocast():
    generator = small_generator().float()
    norms = [module for module in generator.modules() if isinstance(module, hit.BatchNorm)]
    z = torch.randn(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        images = generator(z)
    assert images.isfinite().all() and {norm.running_var.dtype for norm in norms} == {torch.float32}
    exact = generator.eval()(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_error(generator(z).float(), exact) < 0.05


def test_weights_are_normal_of_deviation_002_cut_off_at_two():
    torch.manual_seed(0)
    generator = stylenat.build_generator("hit-32")
    weights = [generator.input.weight, generator.memory.position, generator.levels[1].position]
    for weight in weights:
        assert weight.abs().max() <= 0.04 and weight.std().item() == pytest.approx(0.0176, rel=0.05)
    assert not generator.levels[0].cross.attn.q.bias.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ((1, 4, 4), (1, 2, 0))}, "3 widths and 2 stages"),
        ({"stages": ((1, 3, 4), (1, 2, 4), (1, 2, 0))}, "level 8: width 16 does not split into 3 heads"),
        ({"stages": ((1, 4, 3), (1, 2, 4), (1, 2, 0))}, "level 8: patch=3 must divide 8"),
        ({"stages": ((1, 1, 4), (1, 2, 4), (1, 2, 0))}, "heads=1 be even"),
        ({"stages": ((1, 4, 0), (1, 2, 4), (1, 2, 0))}, "levels with patches must come first"),
        ({"stages": ((1, 4, 4), (1, 2, 4), (1, 2, 4))}, "the last level must be without"),
        ({"stages": ((1, 4), (1, 2, 4), (1, 2, 0))}, r"stages: \(1, 4\) must be the whole numbers \(units"),
        ({"stages": ((1, 0, 4), (1, 2, 4), (1, 2, 0))}, "heads above 0"),
        ({"widths": (16, 6, 8)}, "level 16: width 6 must be a multiple of 4"),
        ({"resolution": 64}, "3 stages make 32 pixels, not resolution=64"),
        ({"checkpoint_levels": (8,)}, "checkpoint_levels=.* means nothing to generator 'hit'"),
        ({"partitions": "1x3@1"}, "partitions='1x3@1' means nothing to generator 'hit'"),
        ({"mapping_depth": 2}, "mapping_depth=2 means nothing"),
        ({"generator": "gan"}, "generator='gan' must be one of stylenat, hit, stylegan-xl"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    text = refusal(get_config, "hit-32", **SMALL | changes)
    assert re.search(message, text), text
