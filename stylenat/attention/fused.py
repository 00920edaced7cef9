"""Neighborhood attention on CPUs in one pass: each query reads its own k × k keys, and nothing else is kept.

The loops are in `kernels.py`, compiled by Numba for the CPU at hand at the first call: that takes seconds,
and the result is kept on disk, beside the package or, where that may not be written, in the user's cache
folder (`NUMBA_CACHE_DIR` names another). What they call for a kernel size, a number of channels and a type is
in `steps.py` and compiled in each process. Sums are in float32, whatever the inputs.

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
        size: kernel size.
        items: int64 `(N, 5)`, sorted by head; see `kernels.forward`.
        heads: the heads that they are of.
        starts: first item of each of these heads.
        rows: query rows of an item, at most.
        tables: of each of these heads, where its table is in the vector of all.
    """

    size: int
    items: np.ndarray
    heads: list[int]
    starts: list[int]
    rows: int
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
        every = np.array(list(itertools.chain.from_iterable(by_head.values())), np.int64)
        work.append(
            _Work(
                size=size,
                items=every,
                heads=list(by_head),
                starts=[0, *itertools.accumulate(counts[:-1])],
                rows=int((every[:, 4] - every[:, 3]).max()),
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
    heads, work = _plan(q.shape[0], q.shape[1], tuple(partitions))
    inputs = [_readable(x) for x in (q, k, v)]
    memory = [_memory(x) for x in inputs]
    table = bias.detach().float().contiguous().numpy()
    target = _memory(out)
    for some in work:
        grid, steps = _compiled(q, some.size, gradients=False)

        def compute(part: slice, some: _Work = some, grid: Any = grid, steps: Any = steps) -> None:
            space = _kernels().space(grid, some.rows, gradients=False)
            _kernels().forward(
                steps, grid, some.items[part], heads, *memory, table, target, float(scale), space
            )

        _in_parallel(compute, len(some.items), "forward")
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
    heads, work = _plan(q.shape[0], q.shape[1], tuple(partitions))
    if not q.numel():
        work = ()
    inputs = [_readable(x) for x in (grad, q, k, v)]
    memory = [_memory(x) for x in inputs]
    table = bias.detach().float().contiguous().numpy()
    targets = tuple(_memory(x) for x in (grad_q, grad_k, grad_v))
    for some in work:
        grid, steps = _compiled(q, some.size, gradients=True)
        shares = np.zeros((len(some.items), (2 * some.size - 1) ** 2), np.float32)

        def compute(
            part: slice, some: _Work = some, shares: np.ndarray = shares, grid: Any = grid, steps: Any = steps
        ) -> None:
            space = _kernels().space(grid, some.rows, gradients=True)
            _kernels().backward(
                steps,
                grid,
                some.items[part],
                heads,
                *memory,
                table,
                targets,
                shares[part],
                float(scale),
                space,
            )

        _in_parallel(compute, len(some.items), "backward")
        sums = np.add.reduceat(shares, some.starts, axis=0)
        for own, place in zip(sums, some.tables, strict=True):
            grad_bias[place] += own
    found = torch.from_numpy(grad_bias).to(bias.dtype)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), found


def _compiled(q: Tensor, size: int, gradients: bool) -> tuple[Any, Any]:
    """The `kernels.Grid` and the `steps.Steps` of a kernel size."""
    from stylenat.attention import steps

    _, height, width, _, channels = q.shape
    grid = _kernels().Grid(height, width, size, steps.slots_of(size), steps.padded(channels))
    return grid, steps.compiled(steps.Kind(size, channels, q.dtype == torch.bfloat16, gradients))


def _readable(x: Tensor) -> Tensor:
    """A tensor, or a copy where channels are apart."""
    x = x.detach()
    return x.contiguous() if x.stride(-1) != 1 and x.shape[-1] > 1 else x


def _memory(x: Tensor) -> Any:
    """A `kernels.Memory` of a tensor `(B, H, W, heads, c)`, which must be kept meanwhile."""
    width = x.element_size()
    return _kernels().Memory(x.data_ptr(), *(width * stride for stride in x.stride()[:-1]))


# Compiling, and threads


@functools.cache
def _kernels() -> ModuleType:
    """The compiled loops: imported here alone, for Numba takes most of a second."""
    from stylenat.attention import kernels

    return kernels


_ready: set[str] = set()


def _in_parallel(compute: Callable[[slice], None], count: int, name: str) -> None:
    """Have `compute` do all of `count` items, a slice a call, on PyTorch's number of threads.

    Numba's own threads are not used: one of its layers ends the process where two threads of Python call it,
    the others must be installed or do not survive a fork.

    Args:
        compute: does a slice of the items; gives up Python's lock meanwhile.
        count: of items.
        name: of the loops, which have to be compiled, if they are not yet.
    """
    if name not in _ready:
        with progress(total=1, desc=f"compiling attention for this CPU, {name}", leave=False) as bar:
            compute(slice(0, 0))
            bar.update()
        _ready.add(name)
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
