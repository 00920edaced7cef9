"""Which backend `auto` takes: of those that give the right answer on this machine, the fastest one."""

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from stylenat.attention import flex, fused, natten, reference, tiled, triton
from stylenat.attention.partitions import HeadPartition, format_partitions
from stylenat.attention.transforms import plain_only
from stylenat.device import has_values

_log = logging.getLogger(__name__)
# Relative. TF32 rounds to 1e-3.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}
_TOLERANCE_HALF = 0.03
_ROUNDS = 5
_WARMUP = 2

Bias = Sequence[Tensor | None]  # a table for each partition


def _never(q: Tensor, bias: Bias, gradients: bool) -> bool:
    return False


def _on_gpu(q: Tensor, bias: Bias, gradients: bool) -> bool:
    return q.device.type == "cuda"


def _natten_suits(q: Tensor, bias: Bias, gradients: bool) -> bool:
    return _on_gpu(q, bias, gradients) and natten.installed() and _without_tables(bias)


def _fused_suits(q: Tensor, bias: Bias, gradients: bool) -> bool:
    return q.device.type == "cpu" and fused.supports(q) and fused.installed()


def _triton_suits(q: Tensor, bias: Bias, gradients: bool) -> bool:
    return _on_gpu(q, bias, gradients) and triton.supports(q) and triton.installed()


def _without_tables(bias: Bias) -> bool:
    return all(table is None for table in bias)


@dataclass(frozen=True)
class Backend:
    """A way to compute attention.

    Attributes:
        attend: `(q, k, v, partitions, bias, scale)` → the output.
        suits: whether `auto` should try it, by q, bias and whether gradients are needed.
        deterministic: whether its gradients, too, come out the same every time, by bias.
        transforms: whether `torch.func` and forward-mode differentiation get through it.
        preferred: whether `auto` takes it wherever it is right, without measuring: times vary, and a run that
            goes on is to compute what it would have computed.
    """

    attend: Callable[[Tensor, Tensor, Tensor, Sequence[HeadPartition], Bias, float], Tensor]
    suits: Callable[[Tensor, Bias, bool], bool] = _never
    deterministic: Callable[[Bias], bool] = lambda bias: True
    transforms: bool = False
    preferred: bool = False


BACKENDS = {
    "tiled": Backend(tiled.attend, transforms=True),
    "fused": Backend(fused.attend, _fused_suits, transforms=True, preferred=True),
    "reference": Backend(reference.attend, transforms=True),
    "flex": Backend(flex.attend, _on_gpu, _without_tables),
    "triton": Backend(triton.attend, _triton_suits, transforms=True),
    "natten": Backend(natten.attend, _natten_suits, lambda bias: False),
}


@dataclass
class Choice:
    """What was chosen for one kind of call, and why; its text says it all.

    Attributes:
        call: the kind: device, type, shape, partitions, training or inference.
        backend: the one that was chosen.
        milliseconds: of every candidate that is right; empty where there is but one, or one is preferred.
        left_out: of every other candidate, what is wrong with it.
        last_call: number of the last call that it was taken for, among all of this process.
    """

    call: str
    backend: str = "tiled"
    milliseconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    last_call: int = 0

    def __str__(self) -> str:
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in self.milliseconds.items())
        faults = "".join(f"; {name} left out: {fault}" for name, fault in self.left_out.items())
        reason = "preferred where it is right" if BACKENDS[self.backend].preferred else "the only candidate"
        return f"{self.call}: {self.backend} ({times or reason}{faults})"


_choices: dict[tuple, Choice] = {}
_calls = itertools.count(1)


def count_call() -> int:
    """A number larger than that of every call so far."""
    return next(_calls)


def choices(since: int = 0) -> list[Choice]:
    """The choices that calls have taken, sorted by their text.

    Args:
        since: of `count_call`: only what was taken after it; default: in this process.
    """
    return sorted((choice for choice in _choices.values() if choice.last_call >= since), key=str)


def choose(
    q: Tensor, k: Tensor, v: Tensor, partitions: tuple[HeadPartition, ...], bias: Bias, scale: float
) -> str:
    """Name of the backend for such a call: measured at the first one of its kind, then remembered.

    Args:
        q: `(B, H, W, heads, head_dim)`.
        k: of the same shape.
        v: of the same shape.
        partitions: of the heads.
        bias: a table `(heads_p, 2k-1, 2k-1)`, or None, for each.
        scale: factor on q.
    """
    # Nothing to measure: shapes alone, code being compiled or traced, or what fused kernels do not know.
    if not has_values(q):
        return "tiled"
    if plain_only():
        return "tiled"
    tensors = [x for x in (q, k, v, *bias) if x is not None]
    gradients = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    names = _candidates(q, bias, gradients)
    has_table = tuple(table is not None for table in bias)
    # A backend that was right with TF32 need not have been without.
    precision = torch.get_float32_matmul_precision()
    key = (q.device, q.dtype, q.shape, partitions, has_table, gradients, precision, *names)
    if key not in _choices:
        # Activation checkpointing counts the tensors that are saved: those of a trial are none of its own.
        with torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
            _choices[key] = _measure(names, q, partitions, bias, scale, gradients)
        _report(_choices[key])
    _choices[key].last_call = count_call()
    return _choices[key].backend


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _candidates(q: Tensor, bias: Bias, gradients: bool) -> list[str]:
    """Names of the backends to try, beside tiled."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    names = []
    for name, backend in BACKENDS.items():
        allowed = backend.deterministic(bias) or not deterministic
        if allowed and backend.suits(q, bias, gradients):
            names.append(name)
    return names


def _report(choice: Choice) -> None:
    _log.info("%s", choice)
    for name, fault in choice.left_out.items():
        _log.warning("attention backend %s left out for %s: %s", name, choice.call, fault)


def _measure(
    names: list[str],
    q: Tensor,
    partitions: tuple[HeadPartition, ...],
    bias: Bias,
    scale: float,
    gradients: bool,
) -> Choice:
    """Check the candidates, time those that are right, and choose."""
    shape = " × ".join(map(str, q.shape))
    dtype = str(q.dtype).removeprefix("torch.")
    mode = "training" if gradients else "inference"
    choice = Choice(f"{q.device.type} {dtype}, {shape}, {format_partitions(partitions)}, {mode}")
    right = ["tiled"]
    for name in names:
        fault = _fault(name, q, partitions, bias, scale, gradients)
        if fault:
            choice.left_out[name] = fault
        else:
            right.append(name)
    preferred = [name for name in right if BACKENDS[name].preferred]
    if preferred or len(right) == 1:
        choice.backend = (preferred or right)[0]
        return choice
    inputs = _random_inputs(q.shape, q, bias, gradients)
    for name in right:
        try:
            choice.milliseconds[name] = _time(name, inputs, partitions, scale, gradients)
        except Exception as error:  # such as too little memory
            choice.left_out[name] = _line(error)
    if choice.milliseconds:
        choice.backend = min(choice.milliseconds, key=lambda name: choice.milliseconds[name])
    return choice


def _fault(
    name: str,
    q: Tensor,
    partitions: tuple[HeadPartition, ...],
    bias: Bias,
    scale: float,
    gradients: bool,
) -> str | None:
    """What is wrong with a backend's output and gradients on a small grid; None if nothing is."""
    if q.device.type == "cpu":  # a grid of full size takes seconds there
        partitions = tuple(replace(part, dilation=min(part.dilation, 2)) for part in partitions)
    least = max(part.kernel_size * part.dilation for part in partitions)
    height, width = (min(n, least + 8) for n in q.shape[1:3])
    inputs = _random_inputs((2, height, width, *q.shape[3:]), q, bias, gradients)
    try:
        found = _results(name, inputs, partitions, scale, gradients)
    except Exception as error:  # a missing kernel, compiler or driver
        return _line(error)
    expected = _results("tiled", _exact(inputs, gradients), partitions, scale, gradients)
    allowed = _TOLERANCE.get(q.dtype, _TOLERANCE_HALF)
    for x, y in zip(found, expected, strict=True):
        off = _relative_error(x, y)
        if not off <= allowed:  # so that NaN is a fault
            return f"relative error {off:.1e}, allowed {allowed:.0e}"
    return None


def _exact(inputs: "_Inputs", gradients: bool) -> "_Inputs":
    """The same inputs in float32; in float64 where they are."""
    if inputs.q.dtype == torch.float64:
        return inputs
    q, k, v = (x.detach().float().requires_grad_(gradients) for x in (inputs.q, inputs.k, inputs.v))
    bias = []
    for table in inputs.bias:
        bias.append(None if table is None else table.detach().float().requires_grad_(gradients))
    return _Inputs(q, k, v, bias)


def _relative_error(x: Tensor, y: Tensor) -> float:
    return ((x.to(y.dtype) - y).norm() / y.norm()).item()


def _line(error: Exception) -> str:
    """An exception as one line of moderate length."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


class _Inputs(NamedTuple):
    """What a backend is tried on: q, k, v `(B, H, W, heads, head_dim)` and tables."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Bias


def _random_inputs(shape: Sequence[int], q: Tensor, bias: Bias, gradients: bool) -> _Inputs:
    """q, k, v of a shape, and tables, drawn without touching the global random state."""
    draw = torch.Generator(q.device).manual_seed(0)

    def random(size: Sequence[int], dtype: torch.dtype) -> Tensor:
        x = torch.randn(size, dtype=dtype, device=q.device, generator=draw)
        return x.requires_grad_(gradients)

    tables = [None if table is None else random(table.shape, table.dtype) for table in bias]
    return _Inputs(random(shape, q.dtype), random(shape, q.dtype), random(shape, q.dtype), tables)


def _results(
    name: str,
    inputs: _Inputs,
    partitions: tuple[HeadPartition, ...],
    scale: float,
    gradients: bool,
) -> list[Tensor]:
    """The output, and the gradients where they are needed."""
    q, k, v, bias = inputs
    with torch.set_grad_enabled(gradients):
        out = BACKENDS[name].attend(q, k, v, partitions, bias, scale)
        if not gradients:
            return [out]
        wanted = [q, k, v, *(table for table in bias if table is not None)]
        return [out, *torch.autograd.grad(out, wanted, torch.ones_like(out) + out.detach())]


def _time(
    name: str,
    inputs: _Inputs,
    partitions: tuple[HeadPartition, ...],
    scale: float,
    gradients: bool,
) -> float:
    """Median milliseconds of a call."""
    device = inputs.q.device
    times = []
    for _ in range(_WARMUP + _ROUNDS):
        start = time.perf_counter()
        _results(name, inputs, partitions, scale, gradients)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[_WARMUP:])
