"""Layers against their definitions; the networks' interfaces, devices and initialization."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

import stylenat
from stylenat.attention.partitions import Full, HeadPartition
from stylenat.errors import UserError
from stylenat.images import image_grid, normalize, to_uint8
from stylenat.models import layers
from stylenat.models.discriminator import minibatch_deviation
from stylenat.models.mlp import mlp
from stylenat.models.stylenat import StyleNAT
from stylenat.sampling.sample import latents, sample_images


def upfirdn(image, kernel, up=1, down=1, pad=(0, 0)):
    """Zero insertion, padding, true convolution, decimation: the definition, one pixel at a time."""
    channels, height, width = image.shape
    inserted = np.zeros((channels, height * up, width * up))
    inserted[:, ::up, ::up] = image
    padded = np.pad(inserted, ((0, 0), pad, pad))
    size, flipped = len(kernel), kernel[::-1, ::-1]
    rows, columns = (n - size + 1 for n in padded.shape[1:])
    out = np.zeros((channels, rows, columns))
    for y in range(rows):
        for x in range(columns):
            out[:, y, x] = (padded[:, y : y + size, x : x + size] * flipped).sum((1, 2))
    return out[:, ::down, ::down]


TAPS = np.array([1.0, 3.0, 3.0, 1.0]) / 8
FIR = np.outer(TAPS, TAPS)


@pytest.mark.parametrize(
    "ours, kernel, options",
    [
        (layers.fir_upsample, FIR * 4, {"up": 2, "pad": (2, 1)}),
        (layers.fir_downsample, FIR, {"down": 2, "pad": (1, 1)}),
        (layers.Blur(), FIR, {"pad": (2, 2)}),
    ],
)
def test_fir_filters_are_their_definition(ours, kernel, options):
    image = np.random.default_rng(0).standard_normal((3, 6, 8))
    expected = upfirdn(image, kernel, **options)
    np.testing.assert_allclose(ours(torch.from_numpy(image)[None])[0].numpy(), expected, atol=1e-12)


def test_haar_bands_are_their_definition():
    image = np.random.default_rng(0).standard_normal((3, 6, 8))
    low, high = np.array([[1.0, 1.0]]) / math.sqrt(2), np.array([[-1.0, 1.0]]) / math.sqrt(2)
    kernels = {"ll": low.T @ low, "lh": high.T @ low, "hl": low.T @ high, "hh": high.T @ high}
    expected = np.concatenate([upfirdn(image, kernel, down=2) for kernel in kernels.values()])
    bands = layers.haar(torch.from_numpy(image)[None])
    np.testing.assert_allclose(bands[0].numpy(), expected, atol=1e-12)


def test_adain_gives_each_channel_the_style_s_mean_and_scale():
    adain = layers.AdaIN(5, 7).double()
    x, style = torch.randn(2, 6, 4, 5).double() * 3 + 1, torch.randn(2, 7).double()
    gamma, beta = (style @ adain.style.weight.T / math.sqrt(7) + adain.style.bias).chunk(2, dim=1)
    expected = (
        F.instance_norm(x.permute(0, 3, 1, 2), eps=1e-5) * gamma[..., None, None] + beta[..., None, None]
    )
    torch.testing.assert_close(adain(x, style), expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("tokens", [7, 2048, 5000])
def test_mlp_in_slices_is_the_whole_one(tokens):
    torch.manual_seed(0)
    shapes = (1, tokens, 6), (24, 6), (24,), (5, 24), (5,)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    x, weight1, bias1, weight2, bias2 = inputs
    expected = F.gelu(x @ weight1.T + bias1) @ weight2.T + bias2
    weights = torch.randn_like(expected)
    torch.testing.assert_close(mlp(*inputs), expected)
    found, gradients = (torch.autograd.grad(out, inputs, weights) for out in (mlp(*inputs), expected))
    torch.testing.assert_close(found, gradients)
    with torch.no_grad():
        torch.testing.assert_close(mlp(*inputs), expected)


def test_mlp_has_derivatives_of_second_order():
    inputs = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3), (4, 3), (4,), (3, 4), (3,))
    ]
    assert torch.autograd.gradcheck(mlp, inputs) and torch.autograd.gradgradcheck(mlp, inputs)


def test_position_embedding_counts_from_one_and_encodes_x_first():
    embedding = layers.position_embedding(16, 6)
    frequencies = np.exp(-math.log(10000) / 3 * np.arange(4))
    for y, x in ((0, 0), (2, 5)):
        axes = [np.concatenate([np.sin(p * frequencies), np.cos(p * frequencies)]) for p in (x + 1, y + 1)]
        np.testing.assert_allclose(embedding[y, x].numpy(), np.concatenate(axes), atol=1e-6)


def test_minibatch_deviation_groups_by_remainder():
    x = torch.randn(8, 3, 4, 4)
    out = minibatch_deviation(x)
    for i in range(8):
        deviation = (x[i % 2 :: 2].var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(out[i, -1], deviation.expand(4, 4))
    with pytest.raises(UserError, match=r"batch of 6 .* multiple of 4"):
        minibatch_deviation(torch.randn(6, 3, 4, 4))


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return stylenat.build_generator("smoke").eval()


def test_w_plus_of_equal_styles_is_w(generator):
    with torch.no_grad():
        w = generator.mapping(torch.randn(2, generator.latent_dim))
        plus = w[:, None].repeat(1, generator.num_styles, 1)
        torch.testing.assert_close(generator.synthesis(plus), generator.synthesis(w))
        plus[:, -1] += 1
        assert not torch.allclose(generator.synthesis(plus), generator.synthesis(w))


def test_a_seed_is_one_image_whatever_the_batch(generator):
    together = sample_images(generator, range(5), batch_size=5)
    assert together.dtype == torch.uint8 and together.shape == (5, 3, 32, 32)
    alone = sample_images(generator, [3], batch_size=1)
    assert (together[3:4].int() - alone.int()).abs().max() <= 1  # one rounding of the last bit
    assert torch.equal(latents(generator, [3])[0], latents(generator, range(5))[3])


def test_initialization_follows_the_paper():
    torch.manual_seed(0)
    generator = stylenat.build_generator(
        "ffhq-256", widths=(512, 512, 256, 64), resolution=32, discriminator_widths=(8, 8, 8)
    )
    std = {
        "style.3.weight": 100,
        "layers.0.blocks.0.norm1.style.weight": 1,
        "layers.1.blocks.1.mlp.fc1.weight": 0.02,
        "layers.1.blocks.1.attn.qkv.weight": 0.02,
        "layers.2.blocks.0.attn.rpb.1": 0.02,
        "layers.0.upsample.reduction.weight": 0.02,
        "to_rgbs.0.conv.weight": 0.02 * math.sqrt(2 / 515),
    }
    state = generator.state_dict()
    for name, expected in std.items():
        assert state[name].std().item() == pytest.approx(expected, rel=0.1), name
    for name, value in state.items():
        if name.endswith(("bias", "alpha")):
            assert not value.any(), name


def test_networks_run_where_no_data_is():
    """Forward and backward on `meta`, forward on a fake GPU: no tensor is made on another device."""
    with torch.device("meta"):
        networks = stylenat.build_generator("ffhq-256"), stylenat.build_discriminator("ffhq-256")
        images = networks[0](torch.randn(4, 512))
        networks[1](images).sum().backward()
    assert images.shape == (4, 3, 256, 256)
    assert all(parameter.grad is not None for network in networks for parameter in network.parameters())
    shapes = [{name: value.shape for name, value in n.eval().state_dict().items()} for n in networks]
    with FakeTensorMode():
        x = torch.randn(4, 512, device="cuda")
        for network, names in zip(networks, shapes, strict=True):
            state = {name: torch.empty(shape, device="cuda") for name, shape in names.items()}
            x = torch.func.functional_call(network, state, x)
    assert x.device.type == "cuda" and x.shape == (4, 1)


def test_levels_are_checked():
    with pytest.raises(UserError, match="3 widths and 2 partitions"):
        StyleNAT((16, 16, 16), [(Full(1),)] * 2)
    with pytest.raises(ValueError, match=r"level 8.*k=7.*d=2.*n=8"):
        StyleNAT((16, 16), [(Full(1),), (HeadPartition(1, 7, 2),)])


def test_images_survive_the_image_space():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    normalized = normalize(images)
    assert torch.equal(to_uint8(normalized), images)
    assert normalized[0, 0].std() == pytest.approx((torch.arange(256) / 255).std().item() / 0.229, rel=1e-3)
    assert torch.equal(
        to_uint8(torch.full((1, 3, 1, 1), 99.0)), torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    )


def test_image_grid_reads_row_by_row():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2)
    assert image_grid(images, 3)[0, ::2, ::2].tolist() == [[0, 1, 2], [3, 4, 5]]


# --- autocast: what has to stay in float32


def test_statistics_stay_in_float32_under_autocast(generator):
    seen = []
    for module in generator.modules():
        if isinstance(module, layers.AdaIN):
            module.register_forward_hook(lambda m, inputs, out: seen.append((inputs[0].dtype, out.dtype)))
    z = torch.randn(2, generator.latent_dim)
    with torch.no_grad():
        exact = generator(z)
        with torch.autocast("cpu", torch.bfloat16):
            rough = generator(z)
    assert set(seen) == {(torch.float32, torch.float32)}
    assert 1e-5 < ((rough - exact).norm() / exact.norm()).item() < 0.05


def test_spectral_norm_and_deviation_stay_in_float32_under_autocast():
    def final(enabled):
        torch.manual_seed(0)
        discriminator = stylenat.build_discriminator("smoke")
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = discriminator(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
        logits.sum().backward()
        weights = [m.eval().normalized_weight() for m in discriminator.modules() if hasattr(m, "weight_orig")]
        return weights, {name: b.clone() for name, b in discriminator.named_buffers()}, logits

    (exact, buffers, logits), (weights, others, rough) = final(False), final(True)
    assert rough.dtype == torch.bfloat16 and (rough.float() - logits).norm() < 0.05 * logits.norm()
    assert all(map(torch.equal, exact, weights))
    assert all(torch.equal(buffers[name], others[name]) for name in buffers)
    x = torch.randn(4, 3, 8, 8)
    deviation = minibatch_deviation(x.bfloat16().float())[:, -1]
    assert torch.equal(minibatch_deviation(x.bfloat16())[:, -1], deviation.bfloat16())
