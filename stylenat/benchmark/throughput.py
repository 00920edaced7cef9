"""How fast a generator is on this machine, next to the matmul time: that of its matrix products alone."""

import contextlib
import functools
import importlib.metadata
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from stylenat.attention.dispatch import choices, count_call
from stylenat.benchmark.matmul import (
    MatmulTime,
    Product,
    generator_products,
    macs,
    timed,
)
from stylenat.device import DTYPES, Precision, keep_freed_memory, peak_memory, pick_device, pick_precision
from stylenat.errors import UserError, unknown
from stylenat.models.base import Generator
from stylenat.models.precision import cast
from stylenat.progress import progress
from stylenat.provenance import describe_device

MOST = 2**16  # rounds, and images of a batch
Name = TypeVar("Name", int, str)  # of a group of modules
_RATIOS = 7  # times at most that some calls and the products alone are timed next to each other


@dataclass(frozen=True)
class Protocol:
    """How images a second are measured.

    Attributes:
        name: of the protocol.
        batches: batch sizes; each makes a row.
        rounds: calls that are timed, one by one.
        warmup: calls before those.
        tf32: whether a GPU may round the operands of float32 products to TF32.
        dtype: of large products, see `pick_precision`.
    """

    name: str
    batches: tuple[int, ...]
    rounds: int
    warmup: int
    tf32: bool
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("batches", "rounds", "warmup"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or not all(type(number) is int and 0 < number <= MOST for number in numbers):
                raise UserError(f"{name}={value}: give whole numbers above 0, at most {MOST:,}")
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)


PROTOCOLS = {
    # As src/throughput.py of SHI-Labs/StyleNAT, which is younger than the published number.
    "paper": Protocol("paper", (1,), rounds=500, warmup=10, tf32=True),
    "ours": Protocol("ours", (1, 2, 4), rounds=7, warmup=2, tf32=False),
}


def get_protocol(name: str, **changes: Any) -> Protocol:
    """The protocol of a name with fields replaced.

    Raises:
        UserError: there is none, or a value is out of its range.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return replace(PROTOCOLS[name], **changes)


@dataclass(frozen=True)
class ThroughputRow:
    """What `measure` found at one batch size; its fields are the columns of the CSV.

    Attributes:
        model: name of the model.
        batch: images a call.
        images_per_second: over all timed calls.
        latency_ms: median milliseconds of a call.
        latency_ms_low: least.
        latency_ms_high: greatest.
        peak_memory_mib: of a GPU by tensors, on a CPU of the whole process.
        dense_gmac: 10⁹ multiply-accumulates of a call by learned weights.
        attention_gmac: 10⁹ multiply-accumulates of a call in attention, a query with each of its keys.
        filters_gmac: 10⁹ multiply-accumulates of a call by fixed filters, StyleGAN-XL's and of upsampling.
        matmul_ms: median milliseconds of the dense products alone.
        times_matmul: median of a call's time by the matmul time next to it.
        times_matmul_low: least.
        times_matmul_high: greatest.
        protocol: name of the protocol.
        rounds: calls that were timed.
        warmup: calls before those.
        dtype: of large products.
        dtype_reason: what computes in it, or why it is not bfloat16; empty where float32 was asked for.
        tf32: whether the GPU rounded operands to TF32.
        backend: attention backends that were used.
        device: name of the hardware.
        threads: of PyTorch on the CPU.
        torch: version.
        stylenat: version.
    """

    model: str
    batch: int
    images_per_second: float
    latency_ms: float
    latency_ms_low: float
    latency_ms_high: float
    peak_memory_mib: float
    dense_gmac: float
    attention_gmac: float
    filters_gmac: float
    matmul_ms: float
    times_matmul: float
    times_matmul_low: float
    times_matmul_high: float
    protocol: str
    rounds: int
    warmup: int
    dtype: str
    dtype_reason: str
    tf32: bool
    backend: str
    device: str
    threads: int
    torch: str
    stylenat: str


@dataclass(frozen=True)
class LevelTime:
    """Where the time of one image goes: one level of a generator.

    Attributes:
        level: its resolution.
        seconds: median of the rounds.
        dense_gmac: 10⁹ multiply-accumulates by learned weights.
        attention_gmac: 10⁹ multiply-accumulates in attention.
        filters_gmac: 10⁹ multiply-accumulates by fixed filters.
        gflops: achieved, in GFLOP/s.
        intensity: FLOP per byte that the products read and write.
    """

    level: int
    seconds: float
    dense_gmac: float
    attention_gmac: float
    filters_gmac: float
    gflops: float
    intensity: float


@contextlib.contextmanager
def timing_flags(protocol: Protocol) -> Iterator[None]:
    """The protocol's TF32 on GPUs, and no gradients; afterwards all is as it was."""
    cudnn = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark)
    cudnn.allow_tf32 = protocol.tf32
    matmul.allow_tf32 = protocol.tf32
    cudnn.benchmark = True
    try:
        with torch.inference_mode():
            yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


def measure(
    generator: Generator, protocol: Protocol, name: str, device: str | None = None
) -> list[ThroughputRow]:
    """Images a second, latency, memory, and the ratio to the matmul time.

    Args:
        generator: it is moved to the device.
        protocol: such as `PROTOCOLS["ours"]`.
        name: of the model, for the rows.
        device: default: the GPU where there is one.

    Returns:
        A row a batch size.

    Raises:
        UserError: there is no such device, or it lacks the protocol's dtype.
    """
    keep_freed_memory()
    torch_device = pick_device(device)
    precision = pick_precision(protocol.dtype, torch_device)
    model = cast(generator.to(torch_device).eval(), precision.name)
    rows = []
    with progress(total=len(protocol.batches) * protocol.rounds, unit="call", desc=name) as bar:
        for batch in protocol.batches:
            products = generator_products(model, batch)
            with timing_flags(protocol):
                rows.append(_measure(model, protocol, precision, name, batch, products, bar))
    return rows


def _measure(
    generator: Generator,
    protocol: Protocol,
    precision: Precision,
    name: str,
    batch: int,
    products: Counter[Product],
    bar: tqdm,
) -> ThroughputRow:
    device = generator.device
    first_call = count_call()
    z = torch.randn(batch, generator.latent_dim, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(protocol.warmup):
        generator(z)
    memory = peak_memory(device)
    matmul_time = MatmulTime(products, device, precision.dtype)
    calls_a_ratio = math.ceil(protocol.rounds / _RATIOS)
    calls: list[float] = []
    matmuls: list[float] = []
    ratios: list[float] = []
    while len(calls) < protocol.rounds:
        now = []
        for _ in range(min(calls_a_ratio, protocol.rounds - len(calls))):
            now.append(timed(lambda: generator(z), device))
            bar.update()
        calls += now
        matmuls.append(matmul_time())
        ratios.append(statistics.median(now) / matmuls[-1])
    counts = macs(products)
    return ThroughputRow(
        model=name,
        batch=batch,
        images_per_second=batch * len(calls) / sum(calls),
        latency_ms=1e3 * statistics.median(calls),
        latency_ms_low=1e3 * min(calls),
        latency_ms_high=1e3 * max(calls),
        peak_memory_mib=memory / 2**20,
        dense_gmac=counts.weights / 1e9,
        attention_gmac=counts.attention / 1e9,
        filters_gmac=counts.filters / 1e9,
        matmul_ms=1e3 * statistics.median(matmuls),
        times_matmul=statistics.median(ratios),
        times_matmul_low=min(ratios),
        times_matmul_high=max(ratios),
        protocol=protocol.name,
        rounds=protocol.rounds,
        warmup=protocol.warmup,
        dtype=precision.name,
        dtype_reason=precision.reason,
        tf32=protocol.tf32 and device.type == "cuda",
        backend="+".join(sorted({choice.backend for choice in choices(first_call)})) or "none",
        device=describe_device(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        stylenat=importlib.metadata.version("stylenat"),
    )


def to_csv(rows: Sequence[ThroughputRow]) -> str:
    """Rows of `measure` as CSV, with all that is known of them and nothing rounded."""
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def table(rows: Sequence[ThroughputRow]) -> pd.DataFrame:
    """Rows of `measure` as a table to read: what differs between batches, rounded."""
    return pd.DataFrame(
        {
            "model": row.model,
            "batch": row.batch,
            "imgs/s": f"{row.images_per_second:.4g}",
            "latency, ms": _spread(row.latency_ms, row.latency_ms_low, row.latency_ms_high, 1),
            "peak memory, MiB": f"{row.peak_memory_mib:,.0f}",
            "GMAC by weights": f"{row.dense_gmac:.4g}",
            "GMAC in attention": f"{row.attention_gmac:.3g}",
            "GMAC by filters": f"{row.filters_gmac:.3g}",
            "matmul time, ms": f"{row.matmul_ms:,.1f}",
            "times matmul": _spread(row.times_matmul, row.times_matmul_low, row.times_matmul_high, 2),
        }
        for row in rows
    )


def _spread(median: float, low: float, high: float, digits: int) -> str:
    return f"{median:,.{digits}f} ({low:,.{digits}f} – {high:,.{digits}f})"


def describe(row: ThroughputRow) -> str:
    """The circumstances of a row of `measure`, in a line."""
    tf32 = ", TF32" if row.tf32 else ""
    dtype = Precision(getattr(torch, row.dtype), row.dtype_reason)
    return (
        f"{row.device}, {row.threads} threads, torch {row.torch}, {dtype}{tf32}, attention by "
        f"{row.backend}; protocol {row.protocol}: {row.rounds} rounds after {row.warmup}"
    )


def measure_levels(generator: Generator, device: str | None = None, rounds: int = 5) -> list[LevelTime]:
    """Where the time of one image goes, in float32.

    Args:
        generator: it is moved to the device.
        device: default: the GPU where there is one.
        rounds: timed calls, after one that is not.

    Returns:
        A `LevelTime` a level, from 4 on.
    """
    torch_device = pick_device(device)
    model = generator.to(torch_device).eval()
    products = generator_products(model, 1)
    z = torch.randn(1, model.latent_dim, device=torch_device)
    with timing_flags(PROTOCOLS["ours"]):
        groups = {stage.resolution: stage.modules for stage in model.stages()}
        calls = [module_seconds(model, z, groups) for _ in range(rounds + 1)][1:]
    rows = []
    for level in calls[0]:
        own = Counter({product: n for product, n in products.items() if product.level == level})
        counts = macs(own)
        seconds = statistics.median(call[level] for call in calls)
        flop = 2 * sum(counts)
        rows.append(
            LevelTime(
                level=level,
                seconds=seconds,
                dense_gmac=counts.weights / 1e9,
                attention_gmac=counts.attention / 1e9,
                filters_gmac=counts.filters / 1e9,
                gflops=flop / 1e9 / seconds,
                intensity=flop / sum(n * product.bytes for product, n in own.items()),
            )
        )
    return rows


def module_seconds(
    generator: Generator, z: torch.Tensor, groups: Mapping[Name, Iterable[nn.Module]]
) -> dict[Name, float]:
    """Seconds of some modules in one call; a GPU is waited for before and after each of them.

    Args:
        generator: is called.
        z: latents `(B, latent_dim)`.
        groups: modules by name of the group; none may hold another one.

    Returns:
        Seconds by name of the group.
    """
    seconds: dict[Name, float] = dict.fromkeys(groups, 0.0)
    handles = []
    started = 0.0

    def now() -> float:
        if z.device.type == "cuda":
            torch.cuda.synchronize(z.device)
        return time.perf_counter()

    def start(*_: Any) -> None:
        nonlocal started
        started = now()

    def stop(name: Name, *_: Any) -> None:
        seconds[name] += now() - started

    for name, modules in groups.items():
        for module in modules:
            handles.append(module.register_forward_pre_hook(start))
            handles.append(module.register_forward_hook(functools.partial(stop, name)))
    try:
        generator(z)
    finally:
        for handle in handles:
            handle.remove()
    return seconds


def roofs(device: str | None = None) -> tuple[float, float]:
    """What the machine can do in float32, best of six: GFLOP/s of a matrix product, GB/s of a copy."""
    torch_device = pick_device(device)
    x = torch.rand(2048, 2048, device=torch_device)
    y = torch.rand(64 * 2**20, device=torch_device)  # 256 MiB, larger than any cache
    target = torch.empty_like(y)
    with timing_flags(PROTOCOLS["ours"]):
        product = min(timed(lambda: x @ x, torch_device) for _ in range(6))
        copy = min(timed(lambda: target.copy_(y), torch_device) for _ in range(6))
    return 2 * 2048**3 / 1e9 / product, 2 * y.numel() * 4 / 1e9 / copy
