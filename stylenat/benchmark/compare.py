"""Generators side by side: each round calls every one once at every batch size, next to its products."""

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import torch

from stylenat.attention.dispatch import choices, count_call
from stylenat.benchmark.matmul import MatmulTime, Product, generator_products, macs, timed
from stylenat.benchmark.throughput import Protocol, module_seconds, timing_flags
from stylenat.device import Precision, keep_freed_memory, peak_memory, pick_device, pick_precision
from stylenat.errors import UserError
from stylenat.models.alias_free import FilteredActivation
from stylenat.models.base import Generator, count_parameters
from stylenat.models.build import build_generator
from stylenat.models.precision import cast
from stylenat.presets import get_config
from stylenat.progress import progress
from stylenat.provenance import provenance
from stylenat.reporting.generators import COMPARED
from stylenat.reporting.rates import Comparison, GeneratorRate

INTERLEAVED = Protocol("interleaved", (1, 2), rounds=5, warmup=1, tf32=True)


@dataclass
class _Timed:
    """One generator at one batch size."""

    preset: str
    generator: Generator
    z: torch.Tensor
    products: Counter[Product]
    matmul_time: MatmulTime
    seconds: list[float] = field(default_factory=list)
    matmul_seconds: list[float] = field(default_factory=list)
    backend: str = "none"
    filters_share: float = 0.0

    def warm_up(self, calls: int) -> None:
        """Call it untimed, and measure what part of a call its filters are."""
        first_call = count_call()
        for _ in range(calls):
            self.generator(self.z)
        self.backend = "+".join(sorted({choice.backend for choice in choices(first_call)})) or "none"
        self.filters_share = filters_share(self.generator, self.z)

    def time(self) -> None:
        """One round."""
        self.seconds.append(timed(lambda: self.generator(self.z), self.z.device))
        self.matmul_seconds.append(self.matmul_time())

    def rate(self, peak: int) -> GeneratorRate:
        """What was measured."""
        batch = len(self.z)
        counts = macs(self.products)
        return GeneratorRate(
            preset=self.preset,
            batch=batch,
            parameters=count_parameters(self.generator),
            weights_gmac=counts.weights / batch / 1e9,
            attention_gmac=counts.attention / batch / 1e9,
            filters_gmac=counts.filters / batch / 1e9,
            seconds=tuple(self.seconds),
            matmul_seconds=tuple(self.matmul_seconds),
            filters_share=self.filters_share,
            peak_memory_bytes=peak,
            backend=self.backend,
        )


def compare(
    presets: Sequence[str] = (),
    protocol: Protocol = INTERLEAVED,
    device: str | None = None,
) -> Comparison:
    """Time generators by turns, so that whatever else the machine does falls on all alike.

    Weights are random: they make no difference to time. Memory is that of a process for each generator and
    batch size; on a CPU it holds Python and PyTorch, too.

    Args:
        presets: names; default: those of `COMPARED`.
        protocol: batch sizes, rounds, warm-up and dtype.
        device: default: the GPU where there is one.

    Raises:
        UserError: an unknown preset or one named twice, no such device, or it lacks the protocol's dtype.
    """
    names = list(presets) or list(COMPARED)
    check_presets(names)
    torch_device = pick_device(device)
    precision = pick_precision(protocol.dtype, torch_device)
    cases = [(name, batch) for name in names for batch in protocol.batches]
    # First, while this process is small.
    peaks = []
    for name, batch in progress(cases, unit="case", desc="memory"):
        peaks.append(_peak_apart(name, batch, protocol, torch_device))
    keep_freed_memory()
    torch.manual_seed(0)
    prepared = _prepare(names, protocol, precision, torch_device)
    with timing_flags(protocol):
        for one in progress(prepared, unit="case", desc="warm-up"):
            one.warm_up(protocol.warmup)
        for _ in progress(range(protocol.rounds), unit="round", desc="compare"):
            for one in prepared:
                one.time()
    made = provenance(torch_device)
    return Comparison(
        device=made["device"],
        threads=made["threads"],
        dtype=precision.name,
        tf32=protocol.tf32 and torch_device.type == "cuda",
        rounds=protocol.rounds,
        torch=made["versions"]["torch"],
        commit=made["commit"],
        dirty=made["dirty"],
        rates=tuple(one.rate(peak) for one, peak in zip(prepared, peaks, strict=True)),
    )


def check_presets(names: Sequence[str]) -> None:
    """Check what is to be compared.

    Raises:
        UserError: an unknown preset, or one that is named twice.
    """
    for name in names:
        get_config(name)
        if names.count(name) > 1:
            raise UserError(f"preset {name!r} is named twice: name it once")


def _prepare(
    names: Sequence[str], protocol: Protocol, precision: Precision, device: torch.device
) -> list[_Timed]:
    """Every generator at every batch size, not yet called."""
    prepared = []
    for name in names:
        generator = cast(build_generator(name).to(device).eval(), precision.name)
        for batch in protocol.batches:
            products = generator_products(generator, batch)
            z = torch.randn(batch, generator.latent_dim, device=device)
            matmul_time = MatmulTime(products, device, precision.dtype)
            prepared.append(_Timed(name, generator, z, products, matmul_time))
    return prepared


def filters_share(generator: Generator, z: torch.Tensor) -> float:
    """Share of a call's time in StyleGAN-XL's filtered activations; 0 where a generator has none.

    They are what its authors' fused kernels compute: a filter that raises the rate, LeakyReLU, and a filter
    that lowers the rate, here each a pass over the memory.

    Args:
        generator: is called.
        z: latents `(B, latent_dim)`.
    """
    filters = [module for module in generator.modules() if isinstance(module, FilteredActivation)]
    if not filters:
        return 0.0
    own = 0.0

    def call() -> None:
        nonlocal own
        own = module_seconds(generator, z, {"filters": filters})["filters"]

    whole = timed(call, z.device)
    return own / whole


# Memory


def _peak_apart(name: str, batch: int, protocol: Protocol, device: torch.device) -> int:
    """Bytes at most of a call in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, name, batch, protocol, str(device), torch.get_num_threads()).result()


def _peak(name: str, batch: int, protocol: Protocol, device: str, threads: int) -> int:
    torch.set_num_threads(threads)
    keep_freed_memory()
    generator = cast(build_generator(name).to(device).eval(), protocol.dtype)
    z = torch.randn(batch, generator.latent_dim, device=device)
    with timing_flags(protocol):
        generator(z)
    return peak_memory(device)
