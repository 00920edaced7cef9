"""The published constants, as literals: of the paper, of StyleNAT's code and of StyleSwin's.

Outputs of the published code, in test_golden.py, show the rest, but no epsilon, no start value and no setting
of the training.
"""

import dataclasses
import math

import pytest
import torch
from torch import nn

from stylenat.config import Config
from stylenat.images import denormalize, normalize
from stylenat.models.build import build_discriminator, build_generator
from stylenat.models.discriminator import Discriminator, SpectralLinear, minibatch_deviation
from stylenat.models.layers import AdaIN, BiasActivation, MappingLayer, PixelNorm
from stylenat.models.stylenat import ConstantInput, Upsample
from stylenat.presets import get_config
from stylenat.training.trainer import Trainer

# By level, 4 × 4 first; FFHQ-256 has the first seven of FFHQ-1024.
CHANNELS = [512, 512, 512, 512, 512, 256, 128, 64, 32]
HEADS = [16, 16, 16, 16, 16, 8, 4, 4, 4]  # max(channels / 32, 4)
DILATIONS = [None, [1], [1, 2], [1, 4], [1, 8], [1, 16], [1, 32], [1, 64], [1, 128]]
LEVELS = {"ffhq-256": 7, "ffhq-1024": 9}
# By level from 4 × 4 up to R/2: the features at R/2 have the generator's channels at R.
DISCRIMINATOR_CHANNELS = {
    "ffhq-256": [512, 512, 512, 512, 512, 128],
    "ffhq-1024": [512, 512, 512, 512, 512, 256, 128, 32],
}
# Objective and schedule of the FFHQ-256 run: 1 M steps of 8 images on each of 8 GPUs.
SCHEDULE = {
    "batch_size": 64,
    "nimg": 64_000_000,
    "generator_lr": 5e-5,
    "discriminator_lr": 2e-4,
    "adam_beta2": 0.99,
    "decay_start": 0.775,
    "r1_gamma": 10.0,
    "r1_interval": 16,
    "bcr_weight": 10.0,
    "diffaugment": False,
    "clip_norm": 5.0,
    "latent_dim": 512,
    "mapping_depth": 8,
}


# Generator: channels, heads, partitions, tables


@pytest.mark.parametrize("preset", LEVELS)
def test_channels_heads_and_dilations_of_the_levels(preset):
    count = LEVELS[preset]
    config = get_config(preset)
    assert list(config.widths) == CHANNELS[:count]
    assert list(config.level_heads) == HEADS[:count]
    assert list(config.discriminator_widths) == DISCRIMINATOR_CHANNELS[preset]
    for level, dilations in zip(config.partitions[1:], DILATIONS[1:count], strict=True):
        assert [part.dilation for part in level] == dilations
        assert {part.kernel_size for part in level} == {7}


@pytest.mark.parametrize("preset", LEVELS)
def test_shapes_of_the_generator(preset):
    with torch.device("meta"):
        shapes = {name: list(value.shape) for name, value in build_generator(preset).state_dict().items()}
    assert shapes["input.input"] == [1, 512, 4, 4]
    mapping = [name for name in shapes if name.startswith("style.") and name.endswith("weight")]
    assert [shapes[name] for name in mapping] == [[512, 512]] * 8
    for i in range(LEVELS[preset]):
        channels = CHANNELS[i]
        assert sum(name.startswith(f"layers.{i}.") and "qkv.weight" in name for name in shapes) == 2
        assert shapes[f"layers.{i}.blocks.1.attn.qkv.weight"] == [3 * channels, channels]
        assert shapes[f"layers.{i}.blocks.1.mlp.fc1.weight"] == [4 * channels, channels]
        assert shapes[f"layers.{i}.blocks.1.norm2.style.weight"] == [2 * channels, 512]
        tables = [shape for name, shape in shapes.items() if name.startswith(f"layers.{i}.blocks.0.attn.rpb")]
        if i == 0:
            assert tables == [[16, 7, 7]]  # full attention: 2 · 4 - 1 on each axis
        else:
            each = HEADS[i] // len(DILATIONS[i])
            assert tables == [[each, 13, 13]] * len(DILATIONS[i])  # 2 · 7 - 1


# Epsilons: at a variance as large as the epsilon, the output is smaller by √2


def test_pixel_norm_adds_1e_8():
    z = torch.full((1, 4), 1e-4, dtype=torch.float64)
    torch.testing.assert_close(PixelNorm()(z), torch.full_like(z, math.sqrt(0.5)))


def test_minibatch_deviation_adds_1e_8():
    x = torch.tensor([1e-4, -1e-4, 1e-4, -1e-4], dtype=torch.float64).view(4, 1, 1, 1)
    deviation = minibatch_deviation(x)[:, 1]
    torch.testing.assert_close(deviation, torch.full_like(deviation, math.sqrt(2) * 1e-4))


def test_adain_adds_1e_5():
    adain = AdaIN(1, 1).double()
    adain.style.weight.data.zero_()
    adain.style.bias.data = torch.tensor([1.0, 0.0], dtype=torch.float64)  # gamma, beta
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).view(1, 2, 2, 1)
    out = adain(signs * math.sqrt(1e-5), torch.zeros(1, 1, dtype=torch.float64))
    torch.testing.assert_close(out, signs * math.sqrt(0.5))


def test_layer_norm_adds_1e_5():
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    upsample = Upsample(4, 4).double()
    torch.testing.assert_close(upsample.norm(signs * math.sqrt(1e-5)), signs * math.sqrt(0.5))


# Activations, the mapping's multiplier, groups


def test_activations_are_leaky_by_a_fifth_and_gain_root_two():
    x = torch.tensor([[1.0], [-1.0]])
    expected = torch.tensor([[math.sqrt(2)], [-0.2 * math.sqrt(2)]])
    torch.testing.assert_close(BiasActivation(1)(x), expected)
    layer = MappingLayer(1)
    layer.weight.data.fill_(100)
    torch.testing.assert_close(layer(x), expected)


def test_the_mapping_learns_at_a_hundredth():
    torch.manual_seed(0)
    layer = MappingLayer(512)
    assert layer.weight.std().item() == pytest.approx(100, rel=0.01)
    layer.weight.data.fill_(1)
    layer.bias.data.fill_(1)
    expected = (0.01 / math.sqrt(512) * 512 + 0.01) * math.sqrt(2)
    torch.testing.assert_close(layer(torch.ones(1, 512)), torch.full((1, 512), expected))


@pytest.mark.parametrize(("batch", "group"), [(2, 2), (3, 3), (4, 4), (8, 4), (12, 4)])
def test_minibatch_deviation_takes_groups_of_four(batch, group):
    """Image i belongs to group i mod (batch / group)."""
    torch.manual_seed(0)
    x = torch.randn(batch, 2, 3, 3)
    deviation = minibatch_deviation(x)[:, 2, 0, 0]
    for i in range(batch):
        own = x[i % (batch // group) :: batch // group]
        assert len(own) == group
        assert deviation[i].item() == pytest.approx(own.std(0, correction=0).mean().item(), rel=1e-4)


# Spectral norm and start values


def normalized(vector):
    return vector / vector.norm()


def test_spectral_norm_takes_one_power_iteration_in_training_and_none_in_eval():
    torch.manual_seed(0)
    layer = SpectralLinear(5, 4)
    weight = layer.weight_orig.detach()
    left = layer.weight_u.clone()
    layer(torch.zeros(1, 5))
    right = normalized(weight.T @ left)
    left = normalized(weight @ right)
    torch.testing.assert_close(layer.weight_v, right)
    torch.testing.assert_close(layer.weight_u, left)
    torch.testing.assert_close(layer.eval().normalized_weight(), weight / (left @ weight @ right))
    torch.testing.assert_close(layer.weight_u, left)


def test_the_discriminator_starts_as_torch_s_layers_do():
    """Uniform up to 1/√inputs (He et al. 2015 with a = √5); the biases of activations are 0."""
    torch.manual_seed(0)
    discriminator = Discriminator((64, 64))
    for name, value in discriminator.named_parameters():
        if name.endswith("weight_orig"):
            bound = 1 / math.sqrt(value[0].numel())
            assert 0.95 * bound < value.abs().max().item() <= bound, name
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15), name
        elif name not in ("final_linear.0.bias", "final_linear.2.bias"):
            assert not value.any(), name


def test_the_discriminator_has_spectral_norm_everywhere():
    with torch.device("meta"):
        discriminator = build_discriminator("ffhq-256")
    layers = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    # from_rgb at 6 levels, 2 convolutions at the 5 above 4 × 4, then one and two linears.
    assert len(layers) == 6 + 2 * 5 + 3
    assert all(hasattr(layer, "weight_orig") for layer in layers)
    assert [layer.bias is not None for layer in layers] == [False] * 17 + [True] * 2


def test_the_constant_input_starts_normal():
    torch.manual_seed(0)
    constant = ConstantInput(512).input
    assert constant.mean().item() == pytest.approx(0, abs=0.05)
    assert constant.std().item() == pytest.approx(1, rel=0.05)


# Images


@pytest.mark.parametrize(("color", "mean", "std"), [(0, 0.485, 0.229), (1, 0.456, 0.224), (2, 0.406, 0.225)])
def test_images_are_normalized_as_imagenet(color, mean, std):
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 1, 1)
    expected = (torch.tensor([0.0, 0.2, 1.0]) - mean) / std
    torch.testing.assert_close(normalize(images)[:, color].flatten(), expected)
    torch.testing.assert_close(denormalize(torch.ones(1, 3, 1, 1))[0, color].item(), 255 * (mean + std))


# Objective and schedule


@pytest.mark.parametrize("preset", ["ffhq-256", "ffhq-1024", "church-256"])
def test_the_published_schedule(preset):
    config = get_config(preset)
    assert {name: getattr(config, name) for name in SCHEDULE} == SCHEDULE
    # The decay of a step of 64 images; 0.5^(32 / 10,000) in StyleSwin's code, whatever the batch.
    assert 0.5 ** (64 / config.ema_half_life) == pytest.approx(0.5 ** (32 / 10_000))


def test_the_defaults_are_the_published_settings():
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    expected = SCHEDULE | {"head_dim": 32, "min_heads": 4}
    del expected["nimg"]  # has no default
    assert {name: defaults[name] for name in expected} == expected


def test_the_published_optimizers():
    small = {"widths": (32, 32), "discriminator_widths": (8,), "resolution": 8}
    trainer = Trainer(get_config("ffhq-256", **small, latent_dim=8), "cpu")
    (generator,) = trainer.optimizers["generator"].param_groups
    (discriminator,) = trainer.optimizers["discriminator"].param_groups
    assert generator["lr"] == 5e-5 and generator["betas"] == (0.0, 0.99)
    assert discriminator["lr"] == pytest.approx(2e-4 * 16 / 17, rel=1e-12)
    assert discriminator["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17), rel=1e-12))
    for group in (generator, discriminator):
        assert group["eps"] == 1e-8 and group["weight_decay"] == 0
