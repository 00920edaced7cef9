"""The device to compute on, and its memory."""

import ctypes
import functools
import resource
import sys

import torch

from stylenat.errors import UserError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt


@functools.cache
def keep_freed_memory() -> None:
    """Let freed memory serve the next tensor instead of going back to the system (glibc only, else nothing).

    A CPU network frees and takes hundreds of MB many times a step. glibc returns blocks of 32 MB and more
    at once, and the system then maps and clears every page of the next one anew, which costs as much as
    the arithmetic of a normalization or an activation.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # musl has none
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)


def pick_device(device=None):
    """The device of that name; by default the GPU where there is one, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros((), device=device).item()  # the one question that every kind of device answers
    except (AssertionError, ImportError, RuntimeError):  # no such name, driver or number
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise UserError(f"device {str(device)!r} is not to be had here: take {' or '.join(here)}") from None
    return torch.device(device)


def peak_memory(device="cpu"):
    """Most bytes ever taken: of a GPU by tensors, of the main memory by this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
