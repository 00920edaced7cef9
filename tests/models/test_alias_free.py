"""StyleGAN-XL's plan against published tables, filters against SciPy, filtering against its definition."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import relative_error
from torch.utils.flop_counter import FlopCounterMode

from stylenat.models.alias_free import (
    FilteredActivation,
    LayerPlan,
    Signal,
    downsample,
    kaiser_lowpass,
    plan_layers,
    upsample,
)
from stylenat.presets import get_config
from stylenat.stages import SynthesisStage


def plan(preset):
    config = get_config(preset)
    return plan_layers([SynthesisStage(*stage) for stage in config.stages], *config.widths)


def flat(*runs):
    """`(times, value)` pairs, written out."""
    return [value for times, value in runs for _ in range(times)]


# Samples a side and channels of every layer's output, as the specification has them.
LAYERS_A = flat((6, (36, 512)), (2, (52, 512)), (2, (84, 512)), (2, (148, 486)), (1, (276, 249)),
                (1, (276, 128)), (1, (256, 128)), (1, (256, 3)))  # fmt: skip
LAYERS_B = [
    *flat((9, (36, 512)), (5, (52, 512)), (5, (84, 512))),
    (148, 512), (148, 431), (148, 362), (148, 304), (148, 304), (276, 256), (276, 215), (276, 181),
    (276, 152), (276, 128), (256, 128), (256, 3),
]  # fmt: skip


@pytest.mark.parametrize(("preset", "expected"), [("stylegan-xl-a", LAYERS_A), ("stylegan-xl-b", LAYERS_B)])
def test_sizes_and_channels_are_the_published_ones(preset, expected):
    layers = plan(preset)
    assert [(layer.outputs.size, layer.outputs.channels) for layer in layers] == expected
    assert layers[0].inputs == layers[0].outputs
    for before, after in pairwise(layers):
        assert after.inputs == before.outputs
    assert [layer.to_rgb for layer in layers] == [False] * (len(layers) - 1) + [True]


def test_the_largest_has_two_more_layers_at_the_stem():
    sizes = [[layer.outputs.size for layer in plan(f"stylegan-xl-{letter}")] for letter in "bc"]
    assert sizes[1] == [36, 36, *sizes[0]]


def test_cutoffs_and_rates_are_the_published_ones():
    layers = plan("stylegan-xl-a")
    cutoffs = [2, 2.639, 3.482, 4.595, 6.063, 6.063, 9.849, 9.849, 17.753, 17.753, 33.708, 33.708, 65.685,
               128, 128, 128]  # fmt: skip
    assert [layer.outputs.cutoff for layer in layers] == pytest.approx(cutoffs, rel=1e-4)
    assert [layer.outputs.rate for layer in layers] == flat((6, 16), (2, 32), (2, 64), (2, 128), (4, 256))
    starts = {}
    for layer in plan("stylegan-xl-b"):
        starts.setdefault(layer.resolution, layer.inputs.cutoff)
    assert starts == pytest.approx({16: 2, 32: 6.727, 64: 13.454, 128: 26.909, 256: 53.817}, rel=1e-4)


def test_stopbands_rise_from_stage_to_stage():
    """By hand for the last kept layers of B, of its stem (7 of 8 steps) and its next stage (4 of 5)."""
    layers = plan("stylegan-xl-b")
    stem = 2**2.1 * (8 * 2**0.3 / 2**2.1) ** (7 / 8)
    stage = stem * (16 * 2**0.3 / stem) ** (4 / 5)
    for layer, stopband in ((layers[7], stem), (layers[12], stage), (layers[-1], 128 * 2**0.3)):
        assert layer.outputs.cutoff + layer.outputs.half_width == pytest.approx(stopband, rel=1e-12)


@pytest.mark.parametrize("preset", ["stylegan-xl-a", "stylegan-xl-c", "stylegan-xl-e", "stylegan-xl-32"])
def test_every_layer_keeps_to_its_band(preset):
    """The stopband begins at half the rate or above it in critical layers alone; the rate never falls."""
    for layer in plan(preset)[:-1]:
        for signal in (layer.inputs, layer.outputs):
            assert signal.cutoff <= signal.rate / 2 and signal.half_width > 0
            assert signal.cutoff + signal.half_width >= signal.rate / 2
        assert layer.outputs.rate >= layer.inputs.rate
        assert (layer.inputs.rate * layer.up, layer.outputs.rate * layer.down) == (layer.rate, layer.rate)
        # No output sees further than the zeros around the map, which `upsample` counts on.
        assert layer.padding[0] < 6 * layer.up and layer.padding[1] <= 5 * layer.up


@pytest.mark.parametrize("layer", plan("stylegan-xl-a")[:-1])
def test_filters_are_those_of_scipy(layer):
    signal = pytest.importorskip("scipy.signal")
    for factor, band in ((layer.up, layer.inputs), (layer.down, layer.outputs)):
        expected = signal.firwin(6 * factor, cutoff=band.cutoff, width=2 * band.half_width, fs=layer.rate)
        found = kaiser_lowpass(6 * factor, band.cutoff, band.half_width, layer.rate)
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("half_width", [0.01, 1.0, 2.5, 6.0])
def test_filters_of_any_steepness_are_those_of_scipy(half_width):
    """A rectangle, and both of Kaiser's formulas."""
    signal = pytest.importorskip("scipy.signal")
    expected = signal.firwin(24, cutoff=3.0, width=2 * half_width, fs=32)
    np.testing.assert_allclose(kaiser_lowpass(24, 3.0, half_width, 32), expected, atol=1e-12)


def slow_filter(x, taps, stuffed, padding, kept):
    """Zeros between samples and around, a sum for every `kept`-th output; on both axes of `(H, W)`."""
    for axis in (0, 1):
        x = np.moveaxis(x, axis, -1)
        zeros = np.zeros((*x.shape[:-1], x.shape[-1] * stuffed))
        zeros[..., ::stuffed] = x
        before, after = (max(amount, 0) for amount in padding)
        zeros = np.pad(zeros, ((0, 0), (before, after)))
        zeros = zeros[..., max(-padding[0], 0) : zeros.shape[-1] - max(-padding[1], 0)]
        columns = []
        for i in range(0, zeros.shape[-1] - len(taps) + 1, kept):
            columns.append(sum(taps[j] * zeros[..., i + j] for j in range(len(taps))))
        x = np.moveaxis(np.stack(columns, axis=-1), -1, axis)
    return x


def make_layer(inputs, outputs, kernel_size=3):
    """A layer between signals `(size, rate, cutoff, half_width)`."""
    return LayerPlan(16, Signal(*inputs, 2), Signal(*outputs, 2), kernel_size)


@pytest.mark.parametrize(
    "layer",
    [
        make_layer((12, 16, 2.0, 6.0), (12, 16, 3.0, 5.0)),
        make_layer((12, 16, 2.0, 6.0), (18, 32, 5.0, 11.0)),
        make_layer((14, 16, 3.0, 5.0), (9, 16, 8.0, 1.8)),
        make_layer((12, 16, 2.0, 6.0), (12, 16, 3.0, 5.0), kernel_size=1),
    ],
)
def test_filtered_activation_is_that_by_zeros_between_samples(layer):
    torch.manual_seed(0)
    module = FilteredActivation(layer).double()
    for name, factor, band in (("up", layer.up, layer.inputs), ("down", layer.down, layer.outputs)):
        taps = kaiser_lowpass(6 * factor, band.cutoff, band.half_width, layer.rate)
        setattr(module, f"{name}_taps", torch.from_numpy(taps))
    size = layer.inputs.size + layer.kernel_size - 1
    x = 300 * torch.randn(1, 2, size, size, dtype=torch.float64)  # some of it beyond the clamp
    out = module(x)
    assert out.shape == (1, 2, layer.outputs.size, layer.outputs.size)
    for channel in range(2):
        raised = slow_filter(x[0, channel].numpy(), module.up_taps.numpy(), layer.up, layer.padding, 1)
        raised = raised * layer.up**2
        active = np.clip(np.where(raised < 0, 0.2 * raised, raised) * math.sqrt(2), -256, 256)
        assert (np.abs(active) == 256).any()
        expected = slow_filter(active, module.down_taps.numpy(), 1, (0, 0), layer.down)
        assert relative_error(out[0, channel], torch.from_numpy(expected)) < 1e-13


def test_zeros_between_samples_are_not_computed():
    """Six multiplications for each output and axis, whatever the factor; and a constant stays what it is."""
    x = torch.ones(1, 5, 20, 20, dtype=torch.float64)
    for factor in (2, 4):
        taps = torch.from_numpy(kaiser_lowpass(6 * factor, 2.0, 6.0, 16 * factor))
        with FlopCounterMode(display=False) as counter:
            raised = upsample(x, taps, factor, (6 * factor - 1, 5 * factor))
        first, second = 20 * 6 * factor * 20, (20 + 5) * factor * 20 * 6 * factor
        assert counter.get_total_flops() == 2 * 5 * (first + second)
        middle = raised[..., 6 * factor : -6 * factor, 6 * factor : -6 * factor]
        torch.testing.assert_close(middle, torch.ones_like(middle), atol=2e-2, rtol=0)
        lowered = downsample(torch.ones(1, 5, 50, 50, dtype=torch.float64), taps, factor)
        torch.testing.assert_close(lowered, torch.ones_like(lowered))
