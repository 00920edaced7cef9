"""All of the doctor's questions, in order."""

import time
from collections.abc import Callable, Iterator

import torch

from stylenat.device import check_compile, pick_device
from stylenat.doctor.checks import (
    check_backends,
    check_ranks,
    check_resume,
    check_step,
    check_throughput,
    guarded,
)
from stylenat.doctor.machine import describe_machine
from stylenat.doctor.verdict import LEFT_OUT, OK, Report, Verdict
from stylenat.provenance import provenance


def examine(
    device: torch.device | str | None = None, tell: Callable[[Verdict], None] = lambda verdict: None
) -> Report:
    """Look at a machine and try out what it computes; under a minute on a CPU.

    Args:
        device: to check; default: the GPU where there is one.
        tell: called with each verdict as soon as it is known.

    Returns:
        The report.

    Raises:
        UserError: there is no such device.
    """
    began = time.perf_counter()
    chosen = pick_device(device)
    verdicts = []
    for verdict in _verdicts(chosen):
        tell(verdict)
        verdicts.append(verdict)
    return Report(provenance(chosen), tuple(verdicts), time.perf_counter() - began)


def _verdicts(device: torch.device) -> Iterator[Verdict]:
    yield from describe_machine()
    yield from check_backends(device)
    yield guarded("training", "torch.compile", lambda: _compiles(device))
    yield guarded("training", "a step against the CPU's", lambda: check_step(device))
    yield guarded("training", "resumed against unbroken", lambda: check_resume(device))
    yield guarded("training", "two ranks against one", lambda: check_ranks(device))
    yield guarded("speed", "throughput", lambda: check_throughput(device))


def _compiles(device: torch.device) -> Verdict:
    if device.type == "cpu":
        text = "no GPU: compile=True gains nothing on a CPU"
        return Verdict("training", "torch.compile", LEFT_OUT, text)
    check_compile(device)
    return Verdict("training", "torch.compile", OK, "compiles a function of one operation")
