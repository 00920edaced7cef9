"""The C library's allocator, told to keep what it is given back."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt


def keep_freed_memory():
    """Let freed memory serve the next tensor instead of going back to the system (glibc only, else nothing).

    A CPU network frees and takes hundreds of MB many times a step. glibc returns blocks of 32 MB and more
    at once, and the system then maps and clears every page of the next one anew, which costs as much as
    the arithmetic of a normalisation or an activation.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # musl has none
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
