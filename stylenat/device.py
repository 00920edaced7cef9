"""The device to compute on, and its memory."""

import ctypes
import functools
import resource
import sys

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from stylenat.errors import UserError

# Parameters of glibc's mallopt.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_MMAP_MAX = -4


@functools.cache
def keep_freed_memory() -> None:
    """Let freed memory serve the next tensor instead of going back to the system (glibc only, else nothing).

    A CPU network frees and takes hundreds of MB many times a step. glibc returns blocks of 32 MB and more
    at once, and the system then maps and clears every page of the next one again, which costs as much as
    the arithmetic of a normalization or an activation.
    """
    _set_allocator({_MMAP_MAX: 0, _TRIM_THRESHOLD: -1})


def return_freed_memory() -> None:
    """Let freed blocks of 1 MB and more go back to the system, and undo `keep_freed_memory` (glibc only).

    A process that decodes images takes and frees one batch after another. In glibc's heap small blocks come
    to lie between them, and it grows by a batch again and again.
    """
    _set_allocator({_MMAP_MAX: 2**16, _MMAP_THRESHOLD: 2**20, _TRIM_THRESHOLD: 2**20})


def _set_allocator(parameters: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # musl has none
        for parameter, value in parameters.items():
            mallopt(parameter, value)


def pick_device(device: torch.device | str | None = None) -> torch.device:
    """The device of a name, once a tensor could be put there.

    Args:
        device: the name or device; default: the GPU where there is one, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros((), device=chosen).item()  # works on every kind of device that is there
    except (AssertionError, ImportError, RuntimeError):  # no such name, driver or number
        available = ["cpu"]
        available += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise UserError(
            f"device {str(chosen)!r} is not available here: take {' or '.join(available)}"
        ) from None
    return torch.device(chosen)


def check_bfloat16(device: torch.device) -> None:
    """Check that a device computes in bfloat16, as autocast asks a GPU to.

    Raises:
        UserError: it does not.
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        name = torch.cuda.get_device_name(device)
        raise UserError(f"{name} does not compute in bfloat16: take a newer GPU, or --device cpu")


def check_compile(device: torch.device) -> None:
    """Check on a function of one operation that `torch.compile` works here; it takes seconds.

    Raises:
        UserError: it does not.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(1, device=device))
    except Exception as error:  # no compiler, or a Python that is too new; each raises its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"compile=True: torch.compile does not work here ({reason}): leave it out, or install g++"
        ) from None


def peak_memory(device: torch.device | str = "cpu") -> int:
    """The most bytes in use so far: on a GPU by tensors, in main memory by this process.

    Args:
        device: whose memory; any other than a GPU means the main memory.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def has_values(x: Tensor) -> bool:
    """Whether a tensor holds numbers: a meta or fake one is a shape alone."""
    return x.device.type != "meta" and not isinstance(x, FakeTensor)
