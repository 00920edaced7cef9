"""Which backend a layer takes: of those that give the right answer here, the fastest, measured here."""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch._subclasses.fake_tensor import FakeTensor

from stylenat.attention import flex, natten, reference, tiled
from stylenat.attention.partitions import format_partitions

_log = logging.getLogger(__name__)
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}  # relative; half precision 0.03; TF32 rounds to 1e-3
_ROUNDS = 5


@dataclass(frozen=True)
class Backend:
    """A way to compute attention.

    Attributes:
        attend: `(q, k, v, partitions, bias, scale)` → the output.
        suits: whether `auto` should try it, given q, bias and whether gradients are needed.
        deterministic: whether its gradients, too, come out the same every time; given bias.
    """

    attend: Callable
    suits: Callable = lambda q, bias, gradients: False
    deterministic: Callable = lambda bias: True


def _on_gpu(q, bias, gradients):
    return q.device.type == "cuda"


def _natten_suits(q, bias, gradients):
    return q.device.type == "cuda" and natten.installed() and all(table is None for table in bias)


BACKENDS = {
    "tiled": Backend(tiled.attend),
    "reference": Backend(reference.attend),
    "flex": Backend(flex.attend, _on_gpu, lambda bias: all(table is None for table in bias)),
    "natten": Backend(natten.attend, _natten_suits, lambda bias: False),
}


@dataclass
class Choice:
    """What was chosen for one kind of call, and why: times of the right candidates, faults of the others."""

    call: str
    backend: str = "tiled"
    milliseconds: dict = field(default_factory=dict)
    left_out: dict = field(default_factory=dict)

    def __str__(self):
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in self.milliseconds.items())
        faults = "".join(f"; {name} left out: {fault}" for name, fault in self.left_out.items())
        return f"{self.call}: {self.backend} ({times or 'the only candidate'}{faults})"


_choices = {}


def choices():
    """All choices of this process, each a `Choice` whose text tells it all, sorted."""
    return sorted(_choices.values(), key=str)


def choose(q, k, v, partitions, bias, scale):
    """Name of the backend for such a call: measured at the first one of its kind, then remembered."""
    # Nothing to measure: shapes alone, or code being compiled.
    if q.device.type == "meta" or isinstance(q, FakeTensor) or torch.compiler.is_compiling():
        return "tiled"
    tensors = [x for x in (q, k, v, *bias) if x is not None]
    gradients = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    deterministic = torch.are_deterministic_algorithms_enabled()
    names = [
        name
        for name, backend in BACKENDS.items()
        if backend.suits(q, bias, gradients) and (backend.deterministic(bias) or not deterministic)
    ]
    biased = tuple(table is not None for table in bias)
    key = (q.device, q.dtype, q.shape, partitions, biased, gradients, *names)
    if key not in _choices:
        kind = f"{q.device.type} {str(q.dtype).removeprefix('torch.')}, {' × '.join(map(str, q.shape))}"
        call = f"{kind}, {format_partitions(partitions)}, {'training' if gradients else 'inference'}"
        _choices[key] = _measure(Choice(call), names, q, partitions, bias, scale, gradients)
        _log.info("%s", _choices[key])
        for name, fault in _choices[key].left_out.items():
            _log.warning("attention backend %s left out for %s: %s", name, call, fault)
    return _choices[key].backend


def _measure(choice, names, q, partitions, bias, scale, gradients):
    right = ["tiled"]
    for name in names:
        fault = _fault(name, q, partitions, bias, scale, gradients)
        if fault:
            choice.left_out[name] = fault
        else:
            right.append(name)
    if len(right) > 1:
        inputs = _random_inputs(q.shape, q, bias, gradients)
        for name in right:
            try:
                choice.milliseconds[name] = _time(name, inputs, partitions, scale, gradients)
            except Exception as error:  # such as too little memory
                choice.left_out[name] = _line(error)
        choice.backend = min(choice.milliseconds, key=choice.milliseconds.get, default="tiled")
    return choice


def _fault(name, q, partitions, bias, scale, gradients):
    """What is wrong with a backend's output and gradients on a small grid; None if nothing is."""
    least = max(part.kernel_size * part.dilation for part in partitions)
    height, width = (min(n, least + 8) for n in q.shape[1:3])
    inputs = _random_inputs((2, height, width, *q.shape[3:]), q, bias, gradients)
    try:
        found = _results(name, inputs, partitions, scale, gradients)
    except Exception as error:  # a missing kernel, compiler or driver
        return _line(error)
    exact = [None if x is None else x.detach().float().requires_grad_(gradients) for x in inputs]
    if q.dtype == torch.float64:
        exact = inputs
    expected = _results("tiled", exact, partitions, scale, gradients)
    error = max(((x.to(y.dtype) - y).norm() / y.norm()).item() for x, y in zip(found, expected, strict=True))
    allowed = _TOLERANCE.get(q.dtype, 0.03)
    return None if error <= allowed else f"relative error {error:.1e}, allowed {allowed:.0e}"


def _line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120] if str(error).strip() else ''}"


def _random_inputs(shape, q, bias, gradients):
    """q, k, v and tables, drawn without touching the global random state."""
    draw = torch.Generator(q.device).manual_seed(0)

    def random(shape, dtype):
        x = torch.randn(shape, dtype=dtype, device=q.device, generator=draw)
        return x.requires_grad_(gradients)

    tables = [None if table is None else random(table.shape, table.dtype) for table in bias]
    return [random(shape, q.dtype) for _ in range(3)] + tables


def _results(name, inputs, partitions, scale, gradients):
    """The output, and the gradients where they are needed."""
    q, k, v, *bias = inputs
    with torch.set_grad_enabled(gradients):
        out = BACKENDS[name].attend(q, k, v, partitions, bias, scale)
        if not gradients:
            return [out]
        wanted = [x for x in inputs if x is not None]
        return [out, *torch.autograd.grad(out, wanted, torch.ones_like(out) + out.detach())]


def _time(name, inputs, partitions, scale, gradients):
    """Median milliseconds of a call."""
    device, times = inputs[0].device, []
    for _ in range(_ROUNDS + 2):
        start = time.perf_counter()
        _results(name, inputs, partitions, scale, gradients)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:])
