"""The same work by others' code, timed in turn in one process: attention alone, and whole generators.

natten-mps (PyPI, MIT) has neighborhood attention with relative position bias for Apple's GPUs and for CPUs.
It is no backend of the package: on a CPU it is slower than every one that there is.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stylenat.attention import dispatch, fused
from stylenat.attention.layers import HydraNeighborhoodAttention
from stylenat.attention.partitions import (
    HeadPartition,
    Level,
    count_heads,
    format_partitions,
    resolutions,
)
from stylenat.attention.reference import partition_shares
from stylenat.benchmark.matmul import MatmulTime, generator_products
from stylenat.models.build import build_generator
from stylenat.presets import get_config

_ROUNDS = 7
_LEAST = 0.2  # seconds of a round: what is quicker is called several times
_SLOW = 5.0  # seconds: what takes longer, and four times as long as the first way, is timed once
_TIMES = 4.0
_MOST_LOGITS = 2**28  # that FlexAttention may hold on a CPU, where it fills the whole attention matrix
_FORWARD = "forward"
_BOTH = "forward + backward"
Timer = Callable[[], float]


@dataclass(frozen=True)
class Way:
    """One way to do the work.

    Attributes:
        name: what it is called.
        seconds: median.
        ratio: median of its time by that of the first way in the same round.
        ratio_low: least.
        ratio_high: greatest.
        rounds: how often it was timed; 1 where a call takes over 5 seconds and
            four times as long as that of the first way.
    """

    name: str
    seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int


@dataclass(frozen=True)
class Comparison:
    """Several ways to do one thing.

    Attributes:
        title: what is done, such as "64 × 64 × 512, 8x7@1,8x7@8".
        direction: "forward", or "forward + backward".
        ways: in the order of the table; the first is what the others are compared with.
    """

    title: str
    direction: str
    ways: list[Way]


def natten_mps_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    partitions: Sequence[HeadPartition],
    bias: Sequence[Tensor | None],
    scale: float,
) -> Tensor:
    """Attention of all partitions by natten-mps; see `neighborhood_attention`."""
    from natten_mps.extras.allin1 import na2d_av_fused, na2d_qk_rpb

    outputs = []
    for share, part, table in zip(partition_shares(q, k, v, partitions), partitions, bias, strict=True):
        own_q, own_k, own_v = share  # (B, H, W, heads_p, c) each
        size = part.kernel_size
        logits = na2d_qk_rpb(own_q, own_k, table, size, part.dilation, scale=scale)  # (B, H, W, heads_p, k²)
        outputs.append(na2d_av_fused(logits.softmax(-1), own_v, size, part.dilation))
    return torch.cat(outputs, 3)


# --- Timing in turn


def stopwatch(call: Callable[[], Any]) -> Timer:
    """A function that makes the call and returns its seconds."""

    def timed() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return timed


def compare(title: str, direction: str, timers: Mapping[str, Timer], rounds: int = 0) -> Comparison:
    """Time several ways in turn, so that all meet the same states of the machine.

    Args:
        title: of the comparison.
        direction: of the comparison.
        timers: by name functions that do the work and return its seconds; the first is the measure.
        rounds: how often, after one call to warm up; default: 7 times.
    """
    first, *_ = timers
    rounds = rounds or _ROUNDS
    times: dict[str, list[float]] = {name: [] for name in timers}
    warm = {name: timer() for name, timer in timers.items()}
    slow = {name: seconds for name, seconds in warm.items() if seconds > max(_SLOW, _TIMES * warm[first])}
    for _ in range(rounds):
        for name, timer in timers.items():
            if name not in slow:
                times[name].append(_mean(timer))
    ways = []
    for name, found_times in times.items():
        if name in slow:
            ratio = slow[name] / statistics.median(times[first])
            ways.append(Way(name, slow[name], ratio, ratio, ratio, 1))
            continue
        ratios = [mine / its for mine, its in zip(found_times, times[first], strict=True)]
        median = statistics.median(found_times)
        ways.append(Way(name, median, statistics.median(ratios), min(ratios), max(ratios), rounds))
    return Comparison(title, direction, ways)


def _mean(timer: Timer) -> float:
    """Seconds of a call, the mean of as many as fill `_LEAST`."""
    total = 0.0
    calls = 0
    while total < _LEAST:
        total += timer()
        calls += 1
    return total / calls


# --- Attention alone


def attention_levels(preset: str) -> list[tuple[int, int, Level]]:
    """Side, channels and partitions of each level of a preset that has neighborhood attention."""
    config = get_config(preset)
    found = []
    sides = resolutions(len(config.widths))
    for side, channels, level in zip(sides, config.widths, config.partitions, strict=True):
        if all(isinstance(part, HeadPartition) for part in level):
            found.append((side, channels, level))
    return found


def attention_comparisons(preset: str, batch: int, least: int = 0) -> Iterator[Comparison]:
    """The attention of each level of a preset, both directions.

    Args:
        preset: whose shapes.
        batch: images.
        least: tokens a side of the smallest level to compare.
    """
    for side, channels, level in attention_levels(preset):
        if side >= least:
            for direction in (_FORWARD, _BOTH):
                yield _compare_attention(batch, side, channels, level, direction)


def _compare_attention(batch: int, side: int, channels: int, level: Level, direction: str) -> Comparison:
    partitions = tuple(part for part in level if isinstance(part, HeadPartition))
    heads = count_heads(partitions)
    torch.manual_seed(0)
    gradients = direction == _BOTH
    packed = torch.randn(batch, side, side, 3, heads, channels // heads)
    q, k, v = (x.requires_grad_(gradients) for x in packed.unbind(3))
    bias = [torch.randn(part.table_shape, requires_grad=gradients) for part in partitions]
    scale = (channels // heads) ** -0.5

    def timer(attend: Callable[..., Tensor]) -> Timer:
        def call() -> None:
            with torch.set_grad_enabled(gradients):
                out = attend(q, k, v, partitions, bias, scale)
                if gradients:
                    torch.autograd.grad(out, [q, k, v, *bias], torch.ones_like(out))

        return stopwatch(call)

    timers = {}
    for name, attend in _attentions(batch, side, partitions, gradients).items():
        timers[name] = timer(attend)
    title = f"{batch} × {side} × {side} × {channels}, {format_partitions(partitions)}"
    return compare(title, direction, timers)


def _attentions(
    batch: int, side: int, partitions: Sequence[HeadPartition], gradients: bool
) -> dict[str, Callable[..., Tensor]]:
    """Every way that there is on this machine, `auto`'s choice on a CPU first."""
    names = ["fused", "tiled"] if fused.installed() else ["tiled"]
    logits = batch * max(part.heads for part in partitions) * side**4
    if not gradients and logits <= _MOST_LOGITS:  # FlexAttention has no backward pass on a CPU
        names.append("flex")
    found: dict[str, Callable[..., Tensor]] = {name: dispatch.BACKENDS[name].attend for name in names}
    found["natten-mps"] = natten_mps_attend
    return found


# --- Whole generators


def generator_comparisons(ours: str = "ffhq-256", theirs: str = "styleswin-256") -> Iterator[Comparison]:
    """Our generator next to its matrix products, itself with natten-mps's attention, and StyleSwin's.

    Args:
        ours: a preset with neighborhood attention.
        theirs: a preset of StyleSwin's.
    """
    torch.manual_seed(0)
    generator = build_generator(get_config(ours)).eval()
    other = build_generator(get_config(theirs)).eval()
    z = torch.randn(1, generator.latent_dim)

    def sample(module: torch.nn.Module, backend: str = "auto") -> Timer:
        def call() -> None:
            _set_backend(module, backend)
            with torch.no_grad():
                module(z)

        return stopwatch(call)

    def train(module: torch.nn.Module) -> Timer:
        def call() -> None:
            _set_backend(module, "auto")
            module.zero_grad(set_to_none=True)
            module(z).sum().backward()

        return stopwatch(call)

    dispatch.BACKENDS["natten-mps"] = dispatch.Backend(natten_mps_attend)
    timers: dict[str, Timer] = {
        "StyleNAT": sample(generator),
        "its matrix products": MatmulTime(generator_products(generator, 1), "cpu"),
        "StyleNAT by natten-mps": sample(generator, "natten-mps"),
        "StyleSwin": sample(other),
        "StyleSwin's matrix products": MatmulTime(generator_products(other, 1), "cpu"),
    }
    try:
        yield compare(f"{ours}, batch 1", _FORWARD, timers)
    finally:
        del dispatch.BACKENDS["natten-mps"]
    yield compare(f"{ours}, batch 1", _BOTH, {"StyleNAT": train(generator), "StyleSwin": train(other)})


def _set_backend(module: torch.nn.Module, backend: str) -> None:
    for layer in module.modules():
        if isinstance(layer, HydraNeighborhoodAttention):
            layer.backend = backend


COMPARISONS: dict[str, Callable[[], Iterator[Comparison]]] = {
    "peers-256": generator_comparisons,
    "attention-noto-32": lambda: attention_comparisons("noto-32", 16),
    "attention-ffhq-256": lambda: attention_comparisons("ffhq-256", 1),
    "attention-ffhq-1024": lambda: attention_comparisons("ffhq-1024", 1, least=512),
}


def run_comparison(name: str) -> list[Comparison]:
    """All of a comparison, in this process."""
    return list(COMPARISONS[name]())
