"""Neighborhood attention by PyTorch's FlexAttention: one fused kernel on GPUs, learned bias included.

Tokens are put in the order of their dilation group, then of their tile, so that those that see each other are
next to each other, and whole blocks of the attention matrix can be left out. On a CPU it has no backward
pass, and without compilation it takes memory quadratic in the number of tokens.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from stylenat.attention.partitions import HeadPartition
from stylenat.attention.reference import axis_window, partition_shares

_TILE = 8
_BLOCK = 128  # tokens of a block of the mask: FlexAttention's own


@functools.cache
def _compiled() -> Callable:
    return torch.compile(flex_attention, dynamic=False)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    partitions: Sequence[HeadPartition],
    bias: Sequence[Tensor | None],
    scale: float,
) -> Tensor:
    """Attention of all partitions; see `neighborhood_attention`."""
    outputs = []
    for share, part, table in zip(partition_shares(q, k, v, partitions), partitions, bias, strict=True):
        outputs.append(_attend(*share, part, table, scale))
    return torch.cat(outputs, 3)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, part: HeadPartition, table: Tensor | None, scale: float
) -> Tensor:
    """One partition's heads: q, k, v `(B, H, W, heads, c)`, table `(heads, 2k-1, 2k-1)` or None."""
    _, height, width, _, _ = q.shape
    plan = _plan(height, width, part, q.device)
    score_mod = None if table is None else _add_bias(table, plan)
    kernel: Any = flex_attention if q.device.type == "cpu" else _compiled()
    ordered = [x.flatten(1, 2)[:, plan.order].transpose(1, 2) for x in (q, k, v)]  # (B, heads, H · W, c) each
    out = kernel(*ordered, score_mod=score_mod, block_mask=plan.mask, scale=scale)  # (B, heads, H · W, c)
    return out.transpose(1, 2)[:, plan.back].unflatten(1, (height, width))


def _add_bias(table: Tensor, plan: "_Plan") -> Callable:
    """FlexAttention's `score_mod` for a table `(heads, 2k-1, 2k-1)`."""

    def add(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + table[head, plan.offset(0, query, key), plan.offset(1, query, key)]

    return add


class _Plan(NamedTuple):
    """How the tokens of a grid are ordered, and what sees what in that order.

    Attributes:
        order: the tokens in their new order `(H · W,)`, counted row by row.
        back: its inverse `(H · W,)`.
        mask: which blocks of tokens see which.
        offset: `(axis, query, key)` → the pair's index on an axis of the bias table.
    """

    order: Tensor
    back: Tensor
    mask: BlockMask
    offset: Callable


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept may be part of training later
def _plan(height: int, width: int, part: HeadPartition, device: torch.device) -> _Plan:
    size = part.kernel_size
    dilation = part.dilation
    order = _token_order(height, width, dilation, device)  # (H · W,)
    back = order.argsort()  # (H · W,)
    token = (order // width, order % width)  # row and column of each place in the new order
    row_windows, _ = axis_window(height, size, dilation, device)  # (H, k)
    column_windows, _ = axis_window(width, size, dilation, device)  # (W, k)
    rows = row_windows[token[0]]  # (H · W, k), keys of each query
    columns = column_windows[token[1]]  # (H · W, k)
    first_row = rows[:, 0]
    first_column = columns[:, 0]

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        down = token[0][key] - first_row[query]
        across = token[1][key] - first_column[query]
        reach = size * dilation
        inside = (down >= 0) & (down < reach) & (across >= 0) & (across < reach)
        return inside & (down % dilation == 0) & (across % dilation == 0)

    def offset(axis: int, query: Tensor, key: Tensor) -> Tensor:
        steps = (token[axis][key] - token[axis][query]) // dilation + size - 1
        return steps.clamp(0, 2 * size - 2)

    keys = back[rows[:, :, None] * width + columns[:, None, :]].flatten(1)  # (H · W, k²), in the new order
    mask = _block_mask(keys, seen)
    return _Plan(order, back, mask, offset)


def _token_order(height: int, width: int, dilation: int, device: torch.device) -> Tensor:
    """The tokens `(H · W,)` by dilation group, then by tile, then by place in it; rows before columns."""
    down = torch.arange(height, device=device)  # (H,)
    across = torch.arange(width, device=device)  # (W,)
    key = torch.zeros(height, width, dtype=torch.long, device=device)
    for row, column in (
        (down % dilation, across % dilation),  # group
        (down // dilation // _TILE, across // dilation // _TILE),  # tile
        (down // dilation % _TILE, across // dilation % _TILE),  # place in the tile
    ):
        key = key * (int(row.max()) + 1) + row[:, None]  # (H, W)
        key = key * (int(column.max()) + 1) + column
    return key.flatten().argsort()


def _block_mask(keys: Tensor, seen: Callable) -> BlockMask:
    """The mask of queries that see the keys `(tokens, k²)`: blocks without any of them are left out."""
    tokens = len(keys)
    blocks = -(-tokens // _BLOCK)
    linked = torch.zeros(blocks, blocks, dtype=torch.bool, device=keys.device)
    query_blocks = torch.arange(tokens, device=keys.device)[:, None] // _BLOCK  # (tokens, 1)
    linked[query_blocks, keys // _BLOCK] = True
    count = linked.sum(1, dtype=torch.int32)[None, None]  # (1, 1, blocks)
    index = linked.int().argsort(dim=1, descending=True, stable=True).int()  # (blocks, blocks)
    return BlockMask.from_kv_blocks(
        count, index[None, None], BLOCK_SIZE=_BLOCK, mask_mod=seen, seq_lengths=(tokens, tokens)
    )
