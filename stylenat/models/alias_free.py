"""What keeps StyleGAN-XL free of aliasing: the plan of its layers, the filters, the filtered activation.

Feature maps are samples of continuous signals (StyleGAN3, section 2). Each layer states the band that its
signal keeps to, raises the rate before the activation, which makes new frequencies, and filters them away
before it lowers the rate again. Frequencies and rates are per image width, margins in samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylenat.attention.transforms import sizes
from stylenat.stages import SynthesisStage, check_stylegan_xl

MARGIN = 10  # samples around the image that every map has, but at the end
FIRST_CUTOFF = 2.0  # of the Fourier features
FIRST_STOPBAND = 2**2.1
LAST_STOPBAND = 2**0.3  # times the last cutoff
CRITICAL = 2  # last layers of a stage, which filter at the very limit of their rate
TAPS = 6  # of a filter, for each sample of the lower rate
LARGEST = 256.0  # absolute value of an activation


@dataclass(frozen=True)
class Signal:
    """A feature map as samples of a signal.

    Attributes:
        size: samples a side, margins included.
        rate: samples per image width.
        cutoff: frequency up to which it keeps all.
        half_width: half of the band over which the filter falls off.
        channels: of the map.
    """

    size: int
    rate: int
    cutoff: float
    half_width: float
    channels: int


@dataclass(frozen=True)
class LayerPlan:
    """One layer: from which signal to which.

    Attributes:
        resolution: of the stage that it belongs to.
        inputs: what it takes.
        outputs: what it gives.
        kernel_size: of its convolution.
        to_rgb: whether it makes the colors, linear and without filters.
    """

    resolution: int
    inputs: Signal
    outputs: Signal
    kernel_size: int
    to_rgb: bool = False

    @property
    def rate(self) -> int:
        """Of the signal under the activation: twice that of the finer side."""
        return 2 * max(self.inputs.rate, self.outputs.rate)

    @property
    def up(self) -> int:
        """Factor from the input's rate to that."""
        return self.rate // self.inputs.rate

    @property
    def down(self) -> int:
        """Factor from there to the output's rate."""
        return self.rate // self.outputs.rate

    @property
    def padding(self) -> tuple[int, int]:
        """Samples of the raised rate that are added before and after; negative ones are cut off."""
        convolved = self.inputs.size + self.kernel_size - 1
        taps = TAPS * (self.up + self.down)
        total = (self.outputs.size - 1) * self.down + 1 - convolved * self.up + taps - 2
        before = (total + self.up) // 2
        return before, total - before


def plan_layers(stages: Sequence[SynthesisStage], most: int, last: int) -> tuple[LayerPlan, ...]:
    """The layers of StyleGAN-XL in their order, that to colors at the end.

    Every stage of super-resolution takes the place of the three last layers of the one before, and goes on
    from what is left.

    Args:
        stages: the stem, then the stages of super-resolution.
        most: channels at most, times a stage's width.
        last: channels of the last convolution, times its stage's width; a layer of half the cutoff has twice
            as many.

    Raises:
        UserError: as of `check_stylegan_xl`.
    """
    check_stylegan_xl(stages)
    budget = last * stages[-1].resolution / 2  # channels times cutoff
    layers: list[LayerPlan] = []
    for stage in stages:
        kept = None
        if layers:
            del layers[-CRITICAL - 1 :]
            kept = layers[-1].outputs
        signals = _stage_signals(stage, kept, most * stage.width, budget * stage.width)
        before = signals[0]
        for i, signal in enumerate(signals):
            is_last = i == stage.layers
            kernel_size = 1 if is_last else stage.kernel_size
            layers.append(LayerPlan(stage.resolution, before, signal, kernel_size, is_last))
            before = signal
    return tuple(layers)


def _stage_signals(stage: SynthesisStage, kept: Signal | None, most: int, budget: float) -> list[Signal]:
    """What each layer of a stage gives, that to colors included.

    Args:
        stage: the stage.
        kept: what the layers below give; None: it is the stem.
        most: channels at most.
        budget: channels times cutoff.
    """
    first_cutoff, first_stopband = FIRST_CUTOFF, FIRST_STOPBAND
    if kept:
        first_cutoff, first_stopband = kept.cutoff, kept.cutoff + kept.half_width
    last_cutoff = stage.resolution / 2
    signals = []
    for i in range(stage.layers + 1):
        step = min(i / (stage.layers - CRITICAL), 1)  # cutoffs rise geometrically, to the critical layers
        cutoff = first_cutoff * (last_cutoff / first_cutoff) ** step
        stopband = first_stopband * (last_cutoff * LAST_STOPBAND / first_stopband) ** step
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, stage.resolution)))
        channels = round(min(budget / cutoff, most))
        signal = Signal(rate + 2 * MARGIN, rate, cutoff, max(stopband, rate / 2) - cutoff, channels)
        signals.append(signal)
    if kept:
        signals[0] = kept
    signals[-2] = replace(signals[-2], size=stage.resolution)
    signals[-1] = replace(signals[-1], size=stage.resolution, channels=3)
    return signals


def kaiser_lowpass(taps: int, cutoff: float, half_width: float, rate: float) -> np.ndarray:
    """A low-pass filter by Kaiser's window (Kaiser 1974), as SciPy's `firwin` designs it.

    Args:
        taps: its length.
        cutoff: frequency at which it has fallen to one half.
        half_width: half of the band over which it falls.
        rate: samples per unit of these frequencies.

    Returns:
        `(taps,)`, float64; symmetric, of sum 1.
    """
    nyquist = rate / 2
    attenuation = 2.285 * (taps - 1) * math.pi * 2 * half_width / nyquist + 7.95  # dB
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    places = np.arange(taps) - (taps - 1) / 2
    ideal = np.sinc(cutoff / nyquist * places)
    filtered = ideal * np.kaiser(taps, beta)
    return filtered / filtered.sum()


def upsample(x: Tensor, taps: Tensor, factor: int, padding: tuple[int, int]) -> Tensor:
    """Raise the rate of `(B, C, H, W)` on both axes by a filter.

    The definition puts zeros between the samples, `padding` zeros around all, and filters. Here, phase by
    phase, only the samples are visited: a strided transposed convolution.

    Args:
        x: the samples.
        taps: a symmetric filter of sum 1.
        factor: how many times the rate.
        padding: samples of the new rate before and after, at most as many as the filter reaches over the
            border; negative ones are cut off.

    Returns:
        `(B, C, H', W')`, n samples becoming `n · factor + sum(padding) - len(taps) + 1`.
    """
    channels = sizes(x)[1]
    count = len(taps)
    start = count - 1 - padding[0]
    kernel = (taps * factor).to(x.dtype)
    for axis in (2, 3):
        shape = (count, 1) if axis == 2 else (1, count)
        stride = (factor, 1) if axis == 2 else (1, factor)
        length = sizes(x)[axis] * factor + sum(padding) - count + 1
        weight = kernel.view(1, 1, *shape).expand(channels, -1, -1, -1)
        x = F.conv_transpose2d(x, weight, stride=stride, groups=channels).narrow(axis, start, length)
    return x


def downsample(x: Tensor, taps: Tensor, factor: int) -> Tensor:
    """Filter `(B, C, H, W)` on both axes and keep each `factor`-th sample.

    Args:
        x: the samples.
        taps: a symmetric filter of sum 1.
        factor: by which the rate is lowered.

    Returns:
        `(B, C, H', W')`, n samples becoming `(n - len(taps)) // factor + 1`.
    """
    channels = sizes(x)[1]
    kernel = taps.to(x.dtype)
    for shape, stride in (((-1, 1), (factor, 1)), ((1, -1), (1, factor))):
        weight = kernel.view(1, 1, *shape).expand(channels, -1, -1, -1)
        x = F.conv2d(x, weight, stride=stride, groups=channels)
    return x


class FilteredActivation(nn.Module):
    """LeakyReLU(0.2) times √2 between an upsampling and a downsampling filter (StyleGAN3, section 3.2).

    Args:
        plan: of the layer.

    Attributes:
        up_taps: the filter of the input's band, six taps a sample.
        down_taps: that of the output's band.
    """

    up_taps: Tensor
    down_taps: Tensor

    def __init__(self, plan: LayerPlan) -> None:
        super().__init__()
        self.up = plan.up
        self.down = plan.down
        self.padding = plan.padding
        for name, factor, signal in (("up", plan.up, plan.inputs), ("down", plan.down, plan.outputs)):
            taps = kaiser_lowpass(TAPS * factor, signal.cutoff, signal.half_width, plan.rate)
            self.register_buffer(f"{name}_taps", torch.tensor(taps, dtype=torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, n, n)`, as the convolution gives it, → `(B, C, size, size)` of the layer's output."""
        raised = upsample(x, self.up_taps, self.up, self.padding)
        # √2 is left to the filter, for the map is largest here.
        largest = LARGEST / math.sqrt(2)
        active = F.leaky_relu(raised, 0.2).clamp(-largest, largest)
        return downsample(active, self.down_taps * 2**0.25, self.down)  # on each of two axes
