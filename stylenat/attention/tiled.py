"""Exact neighborhood attention out of standard torch operations, for any device; the default backend.

Dilation cuts an axis into groups (the tokens of one residue) that never see each other. A group is cut
into tiles of queries; a tile's keys reach from the first query's window to the last one's. A tile then is a
dense product of matrices, masked down to each query's own window, and tiles that lie alike to the border
share a mask. A CPU works on a few tiles at a time, so that all of this stays in its caches; the backward
pass computes the weights anew, so that nothing of their size is ever kept.
"""

import functools
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from stylenat.attention import reference
from stylenat.attention.partitions import HeadPartition

_TILE = 4  # queries a side: larger tiles waste products on masked keys, smaller ones copy more halo
_WHOLE = 16  # a group up to this long is one tile: the halo's copies would cost more than they save
_COLUMNS = 16  # a CPU multiplies by a matrix of fewer at half the speed
_CHUNK = 2**19  # logits that a CPU computes at once: more would leave its caches


@dataclass(frozen=True)
class Run:
    """Tiles next to each other along an axis whose windows lie alike; the same in `groups` groups.

    Positions count the members of a group.
    """

    dilation: int
    group: int  # the first
    groups: int
    length: int  # members of a group
    count: int  # tiles in each
    query: int  # first query of the first tile
    tile: int  # queries of a tile
    key: int  # first key of the first tile
    span: int  # keys of a tile

    def split(self, units):
        """Runs of at most `units` tiles, all groups counted."""
        groups = min(units, self.groups)
        count = min(units // groups, self.count)
        for i in range(0, self.groups, groups):
            for j in range(0, self.count, count):
                yield replace(
                    self,
                    group=self.group + i,
                    groups=min(groups, self.groups - i),
                    count=min(count, self.count - j),
                    query=self.query + j * self.tile,
                    key=self.key + j * self.tile,
                )

    def windows(self, kernel_size, device):
        """Of the first tile: which keys each query sees, and key minus query: `(tile, span)` each."""
        query = torch.arange(self.query, self.query + self.tile, device=device)[:, None]
        key = torch.arange(self.key, self.key + self.span, device=device)
        start = (query - kernel_size // 2).clamp(0, self.length - kernel_size)
        return (key >= start) & (key < start + kernel_size), key - query


@functools.cache
def axis_runs(n, kernel_size, dilation):
    """How an axis of `n` tokens is cut: a tuple of `Run`."""
    runs, longer = [], n % dilation  # the first groups have one member more
    for group, groups, length in ((0, longer, n // dilation + 1), (longer, dilation - longer, n // dilation)):
        if groups:
            runs += (Run(dilation, group, groups, length, *cut) for cut in _cut_group(length, kernel_size))
    return tuple(runs)


def _cut_group(length, kernel_size):
    """The tiles of a group: `[count, query, tile, key, span]` of those next to each other and alike."""
    tile = length if length <= max(_WHOLE, _TILE + kernel_size - 1) else _TILE
    start = [min(max(query - kernel_size // 2, 0), length - kernel_size) for query in range(length)]
    alike = {}
    for query in range(0, length, tile):
        windows = tuple(first - query for first in start[query : query + tile])
        tiles = alike.setdefault(windows, [0, query, len(windows), start[query]])
        tiles[0] += 1
    return [[*tiles, windows[-1] - windows[0] + kernel_size] for windows, tiles in alike.items()]


def attend(q, k, v, partitions, bias, scale):
    """Attention of all partitions, see `neighborhood_attention`; may be differentiated twice."""
    shapes = [(part.heads, *2 * (2 * part.kernel_size - 1,)) for part in partitions]
    bias = [q.new_zeros(s) if table is None else table for s, table in zip(shapes, bias, strict=True)]
    numbers = [number for part in partitions for number in astuple(part)]
    return _forward(q, k, v, bias, numbers, scale)


# An operator each way: compilers take them as they are, and autograd keeps their inputs alone.
@torch.library.custom_op("stylenat::tiled_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Sequence[Tensor], partitions: Sequence[int], scale: float
) -> Tensor:
    out = q.new_empty(q.shape)
    for part, table, (to, *qkv) in _shares(partitions, bias, out, q, k, v):
        for rows, columns, _, mask in _masks(part, table, q):
            for piece in _pieces(qkv[0], rows, columns):
                result = _attend(*(_gather(x, piece, keys=i > 0) for i, x in enumerate(qkv)), mask, scale)
                _write(to, piece, result)
    return out


def _attend(q, k, v, mask, scale):
    """Attention of tiles; on a CPU by plain products, for they stay in its caches and are faster there."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype)[None], scale=scale)
    return _product(_weights(q * scale, k, mask).to(v.dtype), v)


def _weights(q, k, mask):
    return (q @ k.mT).to(mask.dtype).add_(mask).softmax(-1)


def _product(x, y):
    return (y.mT @ x.mT).mT if y.shape[-1] < _COLUMNS else x @ y


@torch.library.custom_op("stylenat::tiled_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Sequence[Tensor], partitions: Sequence[int],
    scale: float,
) -> list[Tensor]:  # fmt: skip
    grads = [torch.zeros_like(x) for x in (q, k, v, *bias)]
    shares = _shares(partitions, bias, *grads[:3], grad, q, k, v)
    for (part, table, (to_q, to_k, to_v, grad, q, k, v)), to_table in zip(shares, grads[3:], strict=True):
        for rows, columns, pattern, mask in _masks(part, table, q):
            to_mask = torch.zeros_like(mask)
            for piece in _pieces(q, rows, columns):
                g, q_, k_, v_ = (_gather(x, piece, keys=x is k or x is v) for x in (grad, q, k, v))
                q_ = q_ * scale
                weights = _weights(q_, k_, mask)
                to_logits = (g @ v_.mT).to(mask.dtype)
                to_logits = torch.ops.aten._softmax_backward_data(to_logits, weights, -1, mask.dtype)
                to_mask += to_logits.sum(0)
                to_logits, weights = to_logits.to(q.dtype), weights.to(q.dtype)
                _write(to_q, piece, _product(to_logits, k_).mul_(scale))
                _add(to_k, piece, _product(to_logits.mT, q_))
                _add(to_v, piece, _product(weights.mT, g))
            to_table += _sum_by_offset(to_mask, pattern).to(table.dtype)
    return grads


def _shares(numbers, bias, *tensors):
    """Each partition, its table, and its heads of every tensor."""
    first = 0
    for i, table in enumerate(bias):
        part = HeadPartition(*numbers[3 * i : 3 * i + 3])
        yield part, table, [x.narrow(3, first, part.heads) for x in tensors]
        first += part.heads


def _masks(part, table, q):
    """Every pair of runs, with its `_Pattern` and its tiles' mask `(heads, queries, keys)`: bias, or -inf.

    The mask is float32 at least, for its gradient is a sum over all tiles.
    """
    table = table.to(torch.promote_types(table.dtype, torch.float32)).flatten(1)
    row_runs, column_runs = (axis_runs(n, part.kernel_size, part.dilation) for n in q.shape[1:3])
    for rows in row_runs:
        for columns in column_runs:
            pattern = _pattern(rows, columns, part.kernel_size, q.device)
            entries = table.index_select(1, pattern.index).view(-1, *pattern.seen.shape)
            yield rows, columns, pattern, torch.where(pattern.seen, entries, float("-inf"))


class _Pattern(NamedTuple):
    """What the tiles of two runs have in common."""

    seen: Tensor  # which keys a query sees: bool (queries, keys)
    index: Tensor  # in the flat table, of every (query, key)
    down: Tensor  # bool (2k-1, tile · span): where rows lie at each offset
    across: Tensor  # the columns, likewise
    shape: tuple[int, ...]  # rows and columns of a tile, rows and columns of its keys


@functools.lru_cache(maxsize=1024)
def _pattern(rows, columns, size, device):
    (by_row, down), (by_column, across) = (run.windows(size, device) for run in (rows, columns))
    seen = by_row[:, None, :, None] & by_column[None, :, None, :]
    down, across = ((offset + size - 1).clamp(0, 2 * size - 2) for offset in (down, across))
    index = down[:, None, :, None] * (2 * size - 1) + across[None, :, None, :]
    entry = torch.arange(2 * size - 1, device=device)[:, None]
    where = (entry == offset.flatten() for offset in (down, across))
    return _Pattern(seen.flatten(2).flatten(0, 1), index.flatten(), *where, tuple(seen.shape))


def _sum_by_offset(to_mask, pattern):
    """The table's gradient: the sum of the mask's where the offset is the same, in a fixed order."""
    by_axis = to_mask.view(-1, *pattern.shape).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return pattern.down.to(by_axis) @ by_axis @ pattern.across.to(by_axis).T


def _pieces(q, rows, columns):
    """Images, rows and columns to work on at once: on a CPU so few that their logits stay in its caches."""
    if q.device.type != "cpu":
        yield slice(None), rows, columns
        return
    logits = q.shape[3] * rows.tile * columns.tile * rows.span * columns.span  # of one tile
    for some_columns in columns.split(max(1, _CHUNK // logits)):
        across = logits * some_columns.groups * some_columns.count
        for some_rows in rows.split(max(1, _CHUNK // across)):
            images = max(1, _CHUNK // (across * some_rows.groups * some_rows.count))
            for i in range(0, len(q), images):
                yield slice(i, i + images), some_rows, some_columns


def _tiles(x, images, rows, columns, keys=False):
    """The tiles' queries, or their keys, of `(B, H, W, heads, c)`, as a view.

    `(B, row groups, column groups, row tiles, column tiles, heads, rows of a tile, columns of a tile, c)`;
    the keys of neighbors overlap.
    """
    x = x[images]
    (batch, *_, heads, channels), (per_image, *along, per_head, per_channel) = x.shape, x.stride()
    groups, tiles, tokens, start = [], [], [], x.storage_offset()
    for run, stride in zip((rows, columns), along, strict=True):
        first, size = (run.key, run.span) if keys else (run.query, run.tile)
        member = run.dilation * stride
        groups.append((run.groups, stride))
        tiles.append((run.count, run.tile * member))
        tokens.append((size, member))
        start += run.group * stride + first * member
    axes = (batch, per_image), *groups, *tiles, (heads, per_head), *tokens, (channels, per_channel)
    return x.as_strided(*zip(*axes, strict=True), start)


def _gather(x, piece, keys):
    """Copies of the tiles: `(N, heads, tokens, c)`."""
    return _tiles(x, *piece, keys=keys).flatten(6, 7).flatten(0, 4)


def _write(x, piece, values):
    """Put the queries' `(N, heads, tokens, c)` in their places in `x`."""
    target = _tiles(x, *piece)
    target.copy_(values.reshape(target.shape))


def _add(x, piece, values):
    """Add the keys' `(N, heads, tokens, c)` to those in `x`."""
    target = _tiles(x, *piece, keys=True)
    values = values.reshape(target.shape)
    # A tile's keys overlap those of its neighbors: of so many, one at a time.
    steps = [min(run.count, -(-run.span // run.tile)) for run in piece[1:]]
    for i in range(steps[0]):
        for j in range(steps[1]):
            place = (..., slice(i, None, steps[0]), slice(j, None, steps[1]), *4 * (slice(None),))
            target[place] += values[place]


def _keep(ctx, inputs, output):
    *tensors, bias, ctx.numbers, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *bias)


def _differentiate(ctx, grad):
    q, k, v, *bias = ctx.saved_tensors
    dq, dk, dv, *to_bias = _backward(grad, q, k, v, bias, ctx.numbers, ctx.scale)
    return dq, dk, dv, to_bias, None, None


def _differentiate_backward(ctx, cotangents):
    """Second order: nothing here needs it fast, so it is the reference's."""
    with torch.enable_grad():
        grad, *inputs = (x.detach().requires_grad_() for x in ctx.saved_tensors)
        q, k, v, *bias = inputs
        parts = [HeadPartition(*ctx.numbers[3 * i : 3 * i + 3]) for i in range(len(bias))]
        first = torch.autograd.grad(
            reference.attend(q, k, v, parts, bias, ctx.scale), inputs, grad, create_graph=True
        )
        dgrad, dq, dk, dv, *to_bias = torch.autograd.grad(first, [grad, *inputs], cotangents)
    return dgrad, dq, dk, dv, to_bias, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)
_forward.register_fake(lambda q, *_: q.new_empty(q.shape))
_backward.register_autograd(_differentiate_backward, setup_context=_keep)
_backward.register_fake(lambda grad, q, k, v, bias, *_: [torch.empty_like(x) for x in (q, k, v, *bias)])


# For PyTorch's flop counter: two products of every query with its own window; five in the backward pass.
@register_flop_formula(torch.ops.stylenat.tiled_attention)
def _flops(q, k, v, bias, partitions, *_, out_shape=None):
    batch, height, width, _, channels = q
    keys = sum(partitions[i] * partitions[i + 1] ** 2 for i in range(0, len(partitions), 3))
    return 2 * 2 * batch * height * width * channels * keys


@register_flop_formula(torch.ops.stylenat.tiled_attention_backward)
def _backward_flops(grad, *inputs, out_shape=None):
    return 5 * _flops(*inputs) // 2
