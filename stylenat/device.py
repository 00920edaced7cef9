"""The device to compute on, the type to compute in, and the memory."""

import ctypes
import functools
import re
import resource
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from stylenat.errors import UserError, unknown

# Parameters of glibc's mallopt.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_MMAP_MAX = -4
DTYPES = ("float32", "bfloat16", "float16", "auto")  # of large products
# CPU instructions for products in bfloat16, the fastest first, and the function of `torch.cpu` that knows.
_INSTRUCTIONS = {"AMX-BF16": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported"}


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


class Precision(NamedTuple):
    """The type of large products, and why it is that one.

    Attributes:
        dtype: float32, bfloat16 or float16.
        reason: what computes in a lower one here, or what is missing; "" where float32 was asked for.
    """

    dtype: torch.dtype
    reason: str = ""

    @property
    def name(self) -> str:
        """Name of the type."""
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def pick_precision(name: str, device: torch.device | str = "cpu") -> Precision:
    """The type of that name; "auto" is bfloat16 where the device has instructions for it, else float32.

    Args:
        name: one of `DTYPES`.
        device: where the products are computed.

    Raises:
        UserError: an unknown name, float16 on a CPU, or a GPU that does not compute in bfloat16.
    """
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    if name == "float32":
        return Precision(torch.float32)
    if name == "float16":  # as StyleGAN-XL's own code has it
        if torch.device(device).type != "cuda":
            raise UserError("dtype 'float16' is for a GPU: on a CPU take float32 or bfloat16")
        return Precision(torch.float16, "tensor cores")
    found = bfloat16_instructions(device)
    if name == "auto" and not found:
        return Precision(torch.float32, "no instructions for bfloat16 here")
    check_bfloat16(torch.device(device))
    return Precision(torch.bfloat16, found or "without instructions for it")


def bfloat16_instructions(device: torch.device | str = "cpu") -> str:
    """What a device computes products in bfloat16 by; "" where it has nothing for it.

    Args:
        device: a CPU's instructions are those that PyTorch knows of; of a GPU it is "tensor cores".
    """
    kind = torch.device(device).type
    if kind == "cuda":
        found = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "tensor cores" if found else ""
    if kind != "cpu":
        return ""
    for name, function in _INSTRUCTIONS.items():
        is_supported = getattr(torch.cpu, function, None)  # private, so it may go
        if is_supported is not None and is_supported():
            return name
    return ""


def check_bfloat16(device: torch.device) -> None:
    """Check that a device computes in bfloat16.

    Raises:
        UserError: it does not.
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        name = torch.cuda.get_device_name(device)
        raise UserError(
            f"{name} does not compute in bfloat16: take dtype float32, a newer GPU, or --device cpu"
        )


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
    status = Path("/proc/self/status")
    if status.is_file():  # Linux's getrusage begins with what the parent had
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 2**10
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def has_values(x: Tensor) -> bool:
    """Whether a tensor holds numbers: a meta or fake one is a shape alone."""
    return x.device.type != "meta" and not isinstance(x, FakeTensor)
