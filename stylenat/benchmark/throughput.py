"""How fast a generator is on this machine, next to the floor: the time of its matrix products alone."""

import contextlib
import importlib.metadata
import math
import statistics
import time
from collections import Counter
from dataclasses import dataclass

import pandas as pd
import torch

from stylenat.attention.dispatch import choices
from stylenat.benchmark.matmul import Floor, generator_products, macs, timed
from stylenat.device import keep_freed_memory, peak_memory, pick_device
from stylenat.errors import UserError
from stylenat.progress import progress
from stylenat.provenance import describe_device

_SITTINGS = 7  # ratios are taken so often, each of calls and a floor next to each other


@dataclass(frozen=True)
class Protocol:
    """How images a second are measured.

    Attributes:
        batches: batch sizes; each makes a row.
        rounds: calls that are timed, one by one.
        warmup: calls before those.
        tf32: whether a GPU may round the operands of float32 products to TF32.
        dtype: "float32", or "bfloat16" for autocast.
    """

    name: str
    batches: tuple[int, ...]
    rounds: int
    warmup: int
    tf32: bool
    dtype: str = "float32"

    def __post_init__(self):
        for name in ("batches", "rounds", "warmup"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or min(numbers) < 1:
                raise UserError(f"{name}={value}: give whole numbers above 0")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype {self.dtype!r} is unknown: take float32 or bfloat16")


PROTOCOLS = {
    # As src/throughput.py of SHI-Labs/StyleNAT, which is younger than the published number.
    "paper": Protocol("paper", (1,), rounds=500, warmup=10, tf32=True),
    "ours": Protocol("ours", (1, 2, 4), rounds=7, warmup=2, tf32=False),
}


@contextlib.contextmanager
def _precision(protocol, device):
    """The protocol's, and no gradients; afterwards all is as it was."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32 = matmul.allow_tf32 = protocol.tf32
    cudnn.benchmark = True
    low = protocol.dtype == "bfloat16"
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=low):
            yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


def measure(generator, protocol, name, device=None):
    """Images a second, latency, memory, and the ratio to the floor: a list of dicts, one a batch size.

    Args:
        generator: a `Generator`; it is moved to the device.
        protocol: a `Protocol`, such as `PROTOCOLS["ours"]`.
        name: of the model, for the rows.
        device: default: the GPU where there is one.

    Raises:
        UserError: no such device.
    """
    keep_freed_memory()
    device = torch.device(pick_device(device))
    generator = generator.to(device).eval()
    rows = []
    with progress(total=len(protocol.batches) * protocol.rounds, unit="call", desc=name) as bar:
        for batch in protocol.batches:
            products = generator_products(generator, batch)
            with _precision(protocol, device):
                numbers = _measure(generator, protocol, batch, products, bar)
            rows.append({"model": name, "batch": batch} | numbers | _circumstances(protocol, device))
    return rows


def _measure(generator, protocol, batch, products, bar):
    device = generator.device
    z = torch.randn(batch, generator.latent_dim, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(protocol.warmup):
        generator(z)
    memory = peak_memory(device)
    floor = Floor(products, device, getattr(torch, protocol.dtype))
    times, floors, ratios = [], [], []
    sitting = math.ceil(protocol.rounds / _SITTINGS)
    while len(times) < protocol.rounds:
        now = []
        for _ in range(min(sitting, protocol.rounds - len(times))):
            now.append(timed(lambda: generator(z), device))
            bar.update()
        times += now
        floors.append(floor())
        ratios.append(statistics.median(now) / floors[-1])
    dense, attention = macs(products)
    return {
        "images_per_second": batch * len(times) / sum(times),
        "latency_ms": 1e3 * statistics.median(times),
        "latency_ms_low": 1e3 * min(times),
        "latency_ms_high": 1e3 * max(times),
        "peak_memory_mib": memory / 2**20,
        "dense_gmac": dense / 1e9,
        "attention_gmac": attention / 1e9,
        "floor_ms": 1e3 * statistics.median(floors),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def _circumstances(protocol, device):
    return {
        "protocol": protocol.name,
        "rounds": protocol.rounds,
        "warmup": protocol.warmup,
        "dtype": protocol.dtype,
        "tf32": protocol.tf32 and device.type == "cuda",
        "backend": "+".join(sorted({choice.backend for choice in choices()})) or "none",
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "stylenat": importlib.metadata.version("stylenat"),
    }


def table(rows):
    """Rows of `measure` as a `DataFrame` to read: what differs between batches, rounded."""

    def spread(row, key, digits):
        low, high = (f"{row[f'{key}_{end}']:,.{digits}f}" for end in ("low", "high"))
        return f"{row[key]:,.{digits}f} ({low} – {high})"

    return pd.DataFrame(
        {
            "model": row["model"],
            "batch": row["batch"],
            "imgs/s": f"{row['images_per_second']:.4g}",
            "latency, ms": spread(row, "latency_ms", 1),
            "peak memory, MiB": f"{row['peak_memory_mib']:,.0f}",
            "GMAC, dense": f"{row['dense_gmac']:.4g}",
            "GMAC, attention": f"{row['attention_gmac']:.3g}",
            "floor, ms": f"{row['floor_ms']:,.1f}",
            "times the floor": spread(row, "ratio", 2),
        }
        for row in rows
    )


def told(row):
    """The circumstances of a row of `measure`, in a line."""
    tf32 = ", TF32" if row["tf32"] else ""
    return (
        f"{row['device']}, {row['threads']} threads, torch {row['torch']}, {row['dtype']}{tf32}, attention "
        f"by {row['backend']}; protocol {row['protocol']}: {row['rounds']} rounds after {row['warmup']}"
    )


def measure_levels(generator, device=None, rounds=5):
    """Where the time of one image goes, float32: a list of dicts, one a level.

    Each holds `level`, `seconds`, `dense_gmac`, `attention_gmac`, and for a roofline `gflops` (achieved, in
    GFLOP/s) and `intensity` (FLOP per byte that the products read and write).
    """
    device = torch.device(pick_device(device))
    generator, products = generator.to(device).eval(), generator_products(generator, 1)
    z = torch.randn(1, generator.latent_dim, device=device)
    rows = []
    with _precision(PROTOCOLS["ours"], device):
        seconds = [_level_seconds(generator, z, device) for _ in range(rounds + 1)][1:]
    for level in seconds[0]:
        own = Counter({p: n for p, n in products.items() if p.level == level})
        dense, attention = macs(own)
        took = statistics.median(each[level] for each in seconds)
        rows.append(
            {
                "level": level,
                "seconds": took,
                "dense_gmac": dense / 1e9,
                "attention_gmac": attention / 1e9,
                "gflops": 2 * (dense + attention) / 1e9 / took,
                "intensity": 2 * (dense + attention) / sum(n * p.bytes for p, n in own.items()),
            }
        )
    return rows


def _level_seconds(generator, z, device):
    """`{level: seconds}` of one call."""
    seconds, handles, clock = Counter(), [], [0.0]

    def now():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def start(*_):
        clock[0] = now()

    for resolution, modules in generator.stages():

        def stop(*_, level=resolution):
            seconds[level] += now() - clock[0]

        for module in modules:
            handles += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    try:
        generator(z)
    finally:
        for handle in handles:
            handle.remove()
    return dict(seconds)


def roofs(device=None):
    """What the machine can do in float32: `(GFLOP/s of a matrix product, GB/s of a copy)`, best of five."""
    device = torch.device(pick_device(device))
    x = torch.rand(2048, 2048, device=device)
    y = torch.rand(64 * 2**20, device=device)  # 256 MiB, larger than any cache
    to = torch.empty_like(y)
    with _precision(PROTOCOLS["ours"], device):
        product, copied = (
            min(timed(call, device) for _ in range(6)) for call in (lambda: x @ x, lambda: to.copy_(y))
        )
    return 2 * 2048**3 / 1e9 / product, 2 * y.numel() * 4 / 1e9 / copied
