"""Neighborhood attention on GPUs by Triton kernels: all partitions of a layer in one launch, bias included.

Never run on a GPU: tests compare it with the reference under Triton's interpreter on a CPU, and compile it
for NVIDIA GPUs. `auto` tries it on GPUs only and takes it where it agrees with `tiled` and is faster.

The kernels are in `triton_kernels.py`. Sums are in float32, whatever the inputs. The tables' gradient is made
of partial sums, a table a tile of queries, which PyTorch adds in a fixed order; keys gather theirs from the
queries that see them. So gradients, too, come out the same every time.
"""

import functools
import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from stylenat.attention.operators import Operators
from stylenat.attention.partitions import HeadPartition, format_partitions
from stylenat.errors import UserError

_TILE = 8  # queries, or keys, a side of a program's tile
_ROWS = 4  # of the blocks that it goes through
_COLUMNS = 16
_LEAST = 16  # of each side of a product
_LARGEST_KERNEL = 15  # keys a side: the tables' gradient is 32 × 32 numbers a tile
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def installed() -> bool:
    """Whether Triton is there: PyTorch's wheels for NVIDIA and AMD GPUs bring it."""
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether kernels are interpreted on a CPU, as a check: very slow."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def supports(q: Tensor) -> bool:
    """Whether such tensors can be computed here: float32, bfloat16 or float16, on a GPU."""
    devices = ("cuda", "meta", "cpu") if interpreted() else ("cuda", "meta")
    return q.device.type in devices and q.dtype in _TYPES


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
        UserError: Triton is missing; tensors of another type, or on another device; too large a kernel.
    """
    if not installed():
        raise UserError("attention backend 'triton' needs Triton: pip install triton, or take tiled")
    if not supports(q):
        dtype = str(q.dtype).removeprefix("torch.")
        raise UserError(
            f"attention backend 'triton' got {dtype} on {q.device.type}: take auto or tiled, or give "
            "float32, bfloat16 or float16 on a GPU"
        )
    if max(part.kernel_size for part in partitions) > _LARGEST_KERNEL:
        raise UserError(
            f"attention backend 'triton' got partitions {format_partitions(partitions)}: take tiled, or "
            f"kernels of at most {_LARGEST_KERNEL}"
        )
    return _operators.attend(q, k, v, partitions, bias, scale)


@functools.cache
def _kernels() -> ModuleType:
    """The kernels: imported here alone, for Triton takes most of a second."""
    from stylenat.attention import triton_kernels

    return triton_kernels


# --- The two passes


def _forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, partitions: Sequence[HeadPartition], scale: float
) -> Tensor:
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)  # (B, H, W, heads, c)
    if not out.numel():
        return out
    q, k, v = _alike(q, k, v)
    grid = _grid(q, partitions)
    heads = _heads_table(tuple(partitions), q.device)
    with torch.cuda.device_of(q):
        _kernels().forward[grid](q, k, v, bias, heads, out, *_sizes(q, scale), **_constants(q))
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
    grad_q, grad_k, grad_v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    if not q.numel():
        return grad_q, grad_k, grad_v, torch.zeros_like(bias)
    q, k, v = _alike(q, k, v)
    grad = grad.contiguous()
    grid = _grid(q, partitions)
    heads = _heads_table(tuple(partitions), q.device)
    sizes = _sizes(q, scale)
    constants = _constants(q)
    offsets = _power_of_two(max(part.table_shape[1] for part in partitions))
    norms, deltas = torch.empty(
        (2, *q.shape[:4]), dtype=torch.float32, device=q.device
    )  # (B, H, W, heads) each
    tiles, _, batch = grid
    shape = (batch, tiles, q.shape[3], offsets, offsets)
    partial = torch.zeros(shape, dtype=torch.float32, device=q.device)
    inputs = (grad, q, k, v, bias, heads)
    with torch.cuda.device_of(q):
        _kernels().backward_queries[grid](
            *inputs, grad_q, norms, deltas, partial, *sizes, OFFSETS=offsets, **constants
        )
        _kernels().backward_keys[grid](*inputs, norms, deltas, grad_k, grad_v, *sizes, **constants)
    return grad_q, grad_k, grad_v, _sum_tables(partial, partitions).to(bias.dtype)


def _sum_tables(partial: Tensor, partitions: Sequence[HeadPartition]) -> Tensor:
    """The tables' gradient as one vector, of partial sums `(B, tiles, heads, offsets, offsets)`."""
    sums = partial.flatten(0, 1).sum(0)  # (heads, offsets, offsets)
    found = []
    first = 0
    for part in partitions:
        _, offsets, _ = part.table_shape
        found.append(sums[first : first + part.heads, :offsets, :offsets].flatten())
        first += part.heads
    return torch.cat(found)


# --- What the kernels are given


def _alike(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """q, k and v as they are where they have the same strides, as in a layer; else copies that do."""
    alike = q.stride() == k.stride() == v.stride()
    if alike and q.stride(-1) == 1:
        return q, k, v
    return q.contiguous(), k.contiguous(), v.contiguous()


def _grid(q: Tensor, partitions: Sequence[HeadPartition]) -> tuple[int, int, int]:
    """Programs: tiles of the head that has most of them, heads, images."""
    batch, height, width, heads, _ = q.shape
    tiles = 0
    for part in partitions:
        down, across = (math.ceil(math.ceil(n / part.dilation) / _TILE) for n in (height, width))
        tiles = max(tiles, part.dilation**2 * down * across)
    return tiles, heads, batch


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)  # what is kept may be part of training later
def _heads_table(partitions: tuple[HeadPartition, ...], device: torch.device) -> Tensor:
    """Kernel size, dilation and first entry of the table of each head: int32 `(heads, 3)`."""
    rows = []
    entry = 0
    for part in partitions:
        for _ in range(part.heads):
            rows.append((part.kernel_size, part.dilation, entry))
            entry += math.prod(part.table_shape[1:])
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _sizes(q: Tensor, scale: float) -> tuple[float, ...]:
    """What the three kernels take next: strides, sizes and the factor on q."""
    _, height, width, _, channels = q.shape
    return (*q.stride()[:4], height, width, channels, scale)


def _constants(q: Tensor) -> dict[str, Any]:
    """What the kernels are compiled for."""
    import triton.language as tl

    types = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    # The interpreter has no products of bfloat16.
    operand = tl.float32 if interpreted() else types[q.dtype]
    tf32 = torch.get_float32_matmul_precision() != "highest"
    return {
        "TILE": _TILE,
        "ROWS": _ROWS,
        "COLUMNS": _COLUMNS,
        "CHANNELS": _power_of_two(q.shape[-1]),
        "OPERAND": operand,
        "PRECISION": "tf32" if tf32 else "ieee",
        # Blocks are few: keeping several in flight costs more of the shared memory than it can bring.
        "num_stages": 1,
        "num_warps": 4,
    }


def _power_of_two(size: int) -> int:
    """The next power of two, as the sides of products are."""
    return max(_LEAST, 1 << (size - 1).bit_length())


_operators = Operators("triton", _forward, _backward)
