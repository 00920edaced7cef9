"""Neighborhood attention on CPUs in one pass: each query reads its own k × k keys, and nothing else is kept.

The loops are in `kernels.py`, compiled by Numba for the CPU at hand at the first call: that takes seconds,
and the result is kept on disk, beside the package or, where that may not be written, in the user's cache
folder (`NUMBA_CACHE_DIR` names another). Sums are in float32, whatever the inputs.

Work is cut into *items* by shapes alone, never by the number of threads, and what several of them add to is
added in a fixed order: gradients, too, come out the same, bit for bit, every time.
"""

import functools
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylenat.attention.operators import Operators
from stylenat.attention.partitions import HeadPartition
from stylenat.errors import UserError
from stylenat.progress import progress

_BAND = 32  # query rows of an item, at least
_SHARES = 4  # that each thread takes of a call, one after the other
_TYPES = (torch.float32, torch.bfloat16)


@functools.cache
def installed() -> bool:
    """Whether Numba is there."""
    return find_spec("numba") is not None


def supports(q: Tensor) -> bool:
    """Whether such tensors can be computed here: float32 or bfloat16, on a CPU or of shapes alone."""
    return q.device.type in ("cpu", "meta") and q.dtype in _TYPES


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    partitions: Sequence[HeadPartition],
    bias: Sequence[Tensor | None],
    scale: float,
) -> Tensor:
    """Attention of all partitions; see `neighborhood_attention`.

    Raises:
        UserError: Numba is missing; tensors of another type, or on another device.
    """
    if not installed():
        raise UserError("attention backend 'fused' needs Numba: pip install 'stylenat[fused]', or take tiled")
    if not supports(q):
        dtype = str(q.dtype).removeprefix("torch.")
        raise UserError(
            f"attention backend 'fused' got {dtype} on {q.device.type}: take auto or tiled, or give "
            "float32 or bfloat16 on a CPU"
        )
    return _operators.attend(q, k, v, partitions, bias, scale)


# How work is cut


class _Work(NamedTuple):
    """Items of one kernel size that can be computed at once: no two of them share a key.

    Attributes:
        kernel: tuple of as many entries as the kernel size.
        items: int64 `(N, 5)`, sorted by head; see `kernels.forward`.
        heads: the heads that they are of.
        starts: first item of each of these heads.
        tables: of each of these heads, where its table is in the vector of all.
    """

    kernel: tuple[int, ...]
    items: np.ndarray
    heads: list[int]
    starts: list[int]
    tables: list[slice]


@functools.lru_cache(maxsize=256)
def _plan(
    batch: int, height: int, partitions: tuple[HeadPartition, ...]
) -> tuple[np.ndarray, tuple[_Work, ...]]:
    """Dilation and table of each head `(heads, 2)`, and the work, to be done in this order."""
    heads: list[tuple[int, int]] = []  # dilation, first entry of the table
    found: dict[tuple[int, int], dict[int, list]] = {}  # kernel size, turn → head → items
    table = 0
    for part in partitions:
        for _ in range(part.heads):
            for turn, items in enumerate(_head_items(batch, height, part, len(heads))):
                if items:
                    found.setdefault((part.kernel_size, turn), {})[len(heads)] = items
            heads.append((part.dilation, table))
            table += (2 * part.kernel_size - 1) ** 2
    work = []
    for (size, _), by_head in sorted(found.items()):
        counts = [len(items) for items in by_head.values()]
        work.append(
            _Work(
                kernel=(0,) * size,
                items=np.array(list(itertools.chain.from_iterable(by_head.values())), np.int64),
                heads=list(by_head),
                starts=[0, *itertools.accumulate(counts[:-1])],
                tables=[slice(heads[i][1], heads[i][1] + (2 * size - 1) ** 2) for i in by_head],
            )
        )
    return np.array(heads, np.int64), tuple(work)


def _head_items(batch: int, height: int, part: HeadPartition, head: int) -> tuple[list, list]:
    """A head's items in two turns: bands next to each other share keys, every other one does not."""
    turns: tuple[list, list] = ([], [])
    least = max(_BAND, part.kernel_size)
    for image in range(batch):
        for residue in range(part.dilation):
            rows = -(-(height - residue) // part.dilation)
            bands = max(1, rows // least)
            for i in range(bands):
                item = (image, head, residue, rows * i // bands, rows * (i + 1) // bands)
                turns[i % 2].append(item)
    return turns


# The two passes


def _forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, partitions: Sequence[HeadPartition], scale: float
) -> Tensor:
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)  # (B, H, W, heads, c)
    if not out.numel():
        return out
    batch, height, width, _, channels = q.shape
    heads, work = _plan(batch, height, tuple(partitions))
    grid = _kernels().Grid(height, width, channels)
    lanes = _lanes(channels)
    inputs = [_memory(x) for x in (q, k, v)]
    table = bias.detach().float().contiguous().numpy()
    target = _memory(out)
    for some in work:

        def compute(part: slice, some: _Work = some) -> None:
            items = some.items[part]
            _kernels().forward(some.kernel, lanes, items, heads, grid, *inputs, table, target, float(scale))

        _in_parallel(compute, len(some.items), ("forward", len(some.kernel), channels, q.dtype))
    return out


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    partitions: Sequence[HeadPartition],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)  # (B, H, W, heads, c)
    grad_k = torch.zeros(k.shape, dtype=torch.float32, device=q.device)  # (B, H, W, heads, c)
    grad_v = torch.zeros(v.shape, dtype=torch.float32, device=q.device)  # (B, H, W, heads, c)
    grad_bias = np.zeros(bias.shape, np.float32)  # of all tables
    batch, height, width, _, channels = q.shape
    heads, work = _plan(batch, height, tuple(partitions))
    grid = _kernels().Grid(height, width, channels)
    lanes = _lanes(channels)
    if not q.numel():
        work = ()
    inputs = [_memory(x) for x in (grad, q, k, v)]
    table = bias.detach().float().contiguous().numpy()
    targets = tuple(_memory(x) for x in (grad_q, grad_k, grad_v))
    for some in work:
        shares = np.zeros((len(some.items), (2 * len(some.kernel) - 1) ** 2), np.float32)

        def compute(part: slice, some: _Work = some, shares: np.ndarray = shares) -> None:
            items = some.items[part]
            _kernels().backward(
                some.kernel, lanes, items, heads, grid, *inputs, table, targets, shares[part], float(scale)
            )

        _in_parallel(compute, len(some.items), ("backward", len(some.kernel), channels, q.dtype))
        sums = np.add.reduceat(shares, some.starts, axis=0)
        for own, place in zip(sums, some.tables, strict=True):
            grad_bias[place] += own
    found = torch.from_numpy(grad_bias).to(bias.dtype)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), found


def _memory(x: Tensor) -> Any:
    """A `kernels.Memory` of a tensor, or of a copy where channels are apart."""
    x = x.detach()
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        x = x.contiguous()
    extent = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        extent += (size - 1) * stride
    flat = x.as_strided((max(0, extent),), (1,))
    if x.dtype == torch.bfloat16:
        flat = flat.view(torch.uint16)
    return _kernels().Memory(flat.numpy(), x.stride())


def _lanes(channels: int) -> tuple[int, ...]:
    """Tuple whose length says the channels of a head, padded: 8, or a multiple of 16."""
    step = _kernels().CHANNELS
    padded = step if channels <= step else -(-channels // (2 * step)) * 2 * step
    return (0,) * (padded // step)


# Compiling, and threads


@functools.cache
def _kernels() -> ModuleType:
    """The compiled loops: imported here alone, for Numba takes most of a second."""
    from stylenat.attention import kernels

    return kernels


_ready: set[tuple] = set()


def _in_parallel(compute: Callable[[slice], None], count: int, kind: tuple) -> None:
    """Have `compute` do all of `count` items, a slice a call, on PyTorch's number of threads.

    Numba's own threads are not used: one of its layers ends the process where two threads of Python call it,
    the others must be installed or do not survive a fork.

    Args:
        compute: does a slice of the items; gives up Python's lock meanwhile.
        count: of items.
        kind: what has to be compiled, if it is not yet.
    """
    if kind not in _ready:
        _, size, channels, _ = kind
        description = f"compiling attention for this CPU, kernel {size}, {channels} channels a head"
        with progress(total=1, desc=description, leave=False) as bar:
            compute(slice(0, 0))
            bar.update()
        _ready.add(kind)
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        compute(slice(0, count))
        return
    shares = min(count, _SHARES * threads)
    parts = [slice(count * i // shares, count * (i + 1) // shares) for i in range(shares)]
    list(_pool(os.getpid(), threads).map(compute, parts))


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of a process; one that was forked has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="attention")


_operators = Operators("fused", _forward, _backward)
