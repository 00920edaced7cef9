"""Exact neighborhood attention out of standard torch operations, for any device; the default backend.

Dilation cuts an axis into groups (the tokens of one residue) that never see each other. A group is cut into
tiles of queries; a tile's keys reach from the first query's window to the last one's, a halo around the tile:

    . . . . . . . . . . . .      part of a group, kernel 5
    . . . . . . . . . . . .
    . . k k k k k k k k . .      q: a tile, 4 × 4 queries
    . . k k k k k k k k . .      k: its halo; k and q together are its 8 × 8 keys
    . . k k Q q q q k k . .
    . . k k q q q q k k . .      Q sees the 5 × 5 keys around it;
    . . k k q q q q k k . .      the mask hides the rest of the 8 × 8 from it
    . . k k q q q q k k . .
    . . k k k k k k k k . .      at the border, windows move inward, and a tile
    . . k k k k k k k k . .      has less of a halo; tiles whose windows are alike
    . . . . . . . . . . . .      share a mask
    . . . . . . . . . . . .

A tile then is a dense product of matrices, masked down to each query's own window. A CPU works on a few tiles
at a time, so that all of this stays in its caches; the backward pass computes the weights again, so that
nothing of their size is ever kept.

In comments, N counts tiles (of all images), Q the queries of a tile, K its keys, h a partition's heads.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stylenat.attention.operators import Operators, split_tables
from stylenat.attention.partitions import HeadPartition

_TILE = 4  # queries a side: larger tiles waste products on masked keys, smaller ones copy more halo
_WHOLE = 16  # a group up to this long is one tile: the halo's copies would cost more than they save
_COLUMNS = 16  # a CPU multiplies by a matrix of fewer at half the speed
_CHUNK = 2**19  # logits that a CPU computes at once: more would leave its caches


# How an axis is cut


@dataclass(frozen=True)
class TileRun:
    """Tiles next to each other along an axis whose windows are alike; the same in `groups` groups.

    Positions count the members of a group.

    Attributes:
        dilation: tokens from one member of a group to the next.
        group: the first group.
        groups: number of groups.
        length: members of a group.
        count: tiles in each group.
        query: first query of the first tile.
        tile: queries of a tile.
        key: first key of the first tile.
        span: keys of a tile.
    """

    dilation: int
    group: int
    groups: int
    length: int
    count: int
    query: int
    tile: int
    key: int
    span: int

    def split(self, units: int) -> Iterator["TileRun"]:
        """The run in parts, in order.

        Args:
            units: tiles of a part at most, those of all its groups counted.
        """
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

    def windows(self, kernel_size: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Windows of the first tile, which are those of every other.

        Args:
            kernel_size: k, keys of a window.
            device: of the result.

        Returns:
            Which keys each query sees, bool `(tile, span)`, and key minus query, counted in the group, of the
            same shape.
        """
        query = torch.arange(self.query, self.query + self.tile, device=device)[:, None]  # (tile, 1)
        key = torch.arange(self.key, self.key + self.span, device=device)  # (span,)
        start = (query - kernel_size // 2).clamp(0, self.length - kernel_size)  # (tile, 1)
        return (key >= start) & (key < start + kernel_size), key - query


@functools.cache
def axis_runs(n: int, kernel_size: int, dilation: int) -> tuple[TileRun, ...]:
    """How an axis is cut: runs of tiles, which hold each token once.

    Args:
        n: tokens of the axis.
        kernel_size: k, keys of a window.
        dilation: tokens from one key to the next.
    """
    short = n // dilation  # members of a group
    longer = n % dilation  # the first groups have one member more
    runs = []
    for group, groups, length in ((0, longer, short + 1), (longer, dilation - longer, short)):
        if groups:
            for tiles in _cut_group(length, kernel_size):
                runs.append(TileRun(dilation, group, groups, length, *tiles))
    return tuple(runs)


def _cut_group(length: int, kernel_size: int) -> list[tuple[int, int, int, int, int]]:
    """The tiles of a group: `(count, query, tile, key, span)` of those that are alike."""
    tile = length if length <= max(_WHOLE, _TILE + kernel_size - 1) else _TILE
    starts = []  # of each query's window
    for query in range(length):
        starts.append(min(max(query - kernel_size // 2, 0), length - kernel_size))
    first_query: dict[tuple[int, ...], int] = {}  # by where the windows of a tile's queries start
    counts: dict[tuple[int, ...], int] = {}
    for query in range(0, length, tile):
        windows = tuple(start - query for start in starts[query : query + tile])
        first_query.setdefault(windows, query)
        counts[windows] = counts.get(windows, 0) + 1
    tiles = []
    for windows, query in first_query.items():
        span = windows[-1] - windows[0] + kernel_size
        tiles.append((counts[windows], query, len(windows), starts[query], span))
    return tiles


# The two passes


def _attend_tiled(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, partitions: Sequence[HeadPartition], scale: float
) -> Tensor:
    out = q.new_empty(q.shape)  # (B, H, W, heads, c)
    first = 0
    for part, table in zip(partitions, split_tables(bias, partitions), strict=True):
        heads = slice(first, first + part.heads)
        first += part.heads
        own_q = q[:, :, :, heads]  # (B, H, W, h, c)
        own_k = k[:, :, :, heads]  # (B, H, W, h, c)
        own_v = v[:, :, :, heads]  # (B, H, W, h, c)
        own_out = out[:, :, :, heads]  # (B, H, W, h, c)
        for rows, columns, pattern in _patterns(part, q):
            mask = _mask(table, pattern)  # (h, Q, K)
            for piece in _pieces(own_q, rows, columns):
                result = _attend(
                    _gather_queries(own_q, piece),  # (N, h, Q, c)
                    _gather_keys(own_k, piece),  # (N, h, K, c)
                    _gather_keys(own_v, piece),  # (N, h, K, c)
                    mask,
                    scale,
                )  # (N, h, Q, c)
                _write_queries(own_out, piece, result)
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention of tiles: q `(N, h, Q, c)`, k and v `(N, h, K, c)`, mask `(h, Q, K)` → `(N, h, Q, c)`.

    On a CPU by plain products, for they stay in its caches and are faster there.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype)[None], scale=scale)
    return _product(_weights(q * scale, k, mask).to(v.dtype), v)


def _weights(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """Softmax weights `(N, h, Q, K)` in the mask's type; q is scaled."""
    return (q @ k.mT).to(mask.dtype).add_(mask).softmax(-1)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """`x @ y`, the way that is faster on a CPU."""
    if y.shape[-1] < _COLUMNS:
        return (y.mT @ x.mT).mT
    return x @ y


def _gradients(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    partitions: Sequence[HeadPartition],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_q = torch.zeros_like(q)  # (B, H, W, heads, c)
    grad_k = torch.zeros_like(k)  # (B, H, W, heads, c)
    grad_v = torch.zeros_like(v)  # (B, H, W, heads, c)
    grad_bias = torch.zeros_like(bias)  # of all tables
    tables = split_tables(bias, partitions)
    grad_tables = split_tables(grad_bias, partitions)
    first = 0
    for part, table, grad_table in zip(partitions, tables, grad_tables, strict=True):
        heads = slice(first, first + part.heads)
        first += part.heads
        inputs = [x[:, :, :, heads] for x in (grad, q, k, v)]
        outputs = [x[:, :, :, heads] for x in (grad_q, grad_k, grad_v)]
        for rows, columns, pattern in _patterns(part, q):
            mask = _mask(table, pattern)  # (h, Q, K)
            grad_mask = torch.zeros_like(mask)  # (h, Q, K)
            for piece in _pieces(inputs[1], rows, columns):
                _backward_piece(piece, inputs, outputs, mask, grad_mask, scale)
            grad_table += _sum_by_offset(grad_mask, pattern).to(table.dtype)
    return grad_q, grad_k, grad_v, grad_bias


def _backward_piece(
    piece: "Piece",
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    mask: Tensor,
    grad_mask: Tensor,
    scale: float,
) -> None:
    """Add the gradients of some tiles to `outputs` (of q, k and v) and to `grad_mask` `(h, Q, K)`.

    `inputs` are the output's gradient, q, k and v; all are `(B, H, W, h, c)`.
    """
    grad_out, q, k, v = inputs
    grad_q, grad_k, grad_v = outputs
    tile_grad = _gather_queries(grad_out, piece)  # (N, h, Q, c)
    tile_q = _gather_queries(q, piece) * scale  # (N, h, Q, c)
    tile_k = _gather_keys(k, piece)  # (N, h, K, c)
    tile_v = _gather_keys(v, piece)  # (N, h, K, c)
    weights = _weights(tile_q, tile_k, mask)  # (N, h, Q, K)
    grad_weights = (tile_grad @ tile_v.mT).to(mask.dtype)  # (N, h, Q, K)
    grad_logits = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, mask.dtype)  # (N, h, Q, K)
    grad_mask.add_(grad_logits.sum(0))
    low_logits = grad_logits.to(q.dtype)  # (N, h, Q, K)
    low_weights = weights.to(q.dtype)  # (N, h, Q, K)
    _write_queries(grad_q, piece, _product(low_logits, tile_k).mul_(scale))
    _add_keys(grad_k, piece, _product(low_logits.mT, tile_q))
    _add_keys(grad_v, piece, _product(low_weights.mT, tile_grad))


# Masks


class _Pattern(NamedTuple):
    """What the tiles of two runs have in common. Q and K are rows times columns of a tile and of its keys.

    Attributes:
        seen: which keys a query sees: bool `(Q, K)`.
        entry: index into the flat table, of every query and key: `(Q · K,)`.
        down: bool `(2k-1, rows of a tile · rows of its keys)`: where rows are at each offset.
        across: the columns, likewise.
        shape: rows and columns of a tile, rows and columns of its keys.
    """

    seen: Tensor
    entry: Tensor
    down: Tensor
    across: Tensor
    shape: tuple[int, ...]


def _patterns(part: HeadPartition, q: Tensor) -> Iterator[tuple[TileRun, TileRun, _Pattern]]:
    """Every pair of a run of rows and a run of columns."""
    _, height, width, _, _ = q.shape
    for rows in axis_runs(height, part.kernel_size, part.dilation):
        for columns in axis_runs(width, part.kernel_size, part.dilation):
            yield rows, columns, _pattern(rows, columns, part.kernel_size, q.device)


@functools.lru_cache(maxsize=1024)
def _pattern(rows: TileRun, columns: TileRun, size: int, device: torch.device) -> _Pattern:
    seen_down, offset_down = rows.windows(size, device)  # (tile, span) each
    seen_across, offset_across = columns.windows(size, device)  # (tile, span) each
    seen = seen_down[:, None, :, None] & seen_across[None, :, None, :]  # (tile, tile, span, span)
    down = (offset_down + size - 1).clamp(0, 2 * size - 2)  # (tile, span)
    across = (offset_across + size - 1).clamp(0, 2 * size - 2)  # (tile, span)
    entry = down[:, None, :, None] * (2 * size - 1) + across[None, :, None, :]  # (tile, tile, span, span)
    offset = torch.arange(2 * size - 1, device=device)[:, None]  # (2k-1, 1)
    return _Pattern(
        seen=seen.flatten(2).flatten(0, 1),
        entry=entry.flatten(),
        down=offset == down.flatten(),
        across=offset == across.flatten(),
        shape=tuple(seen.shape),
    )


def _mask(table: Tensor, pattern: _Pattern) -> Tensor:
    """What is added to the logits of a tile: the bias `(h, 2k-1, 2k-1)` spread to `(h, Q, K)`, or -inf.

    It is float32 at least, for its gradient is a sum over all tiles.
    """
    exact = table.to(torch.promote_types(table.dtype, torch.float32)).flatten(1)  # (h, (2k-1)²)
    entries = exact.index_select(1, pattern.entry).view(-1, *pattern.seen.shape)  # (h, Q, K)
    return torch.where(pattern.seen, entries, float("-inf"))


def _sum_by_offset(grad_mask: Tensor, pattern: _Pattern) -> Tensor:
    """The table's gradient `(h, 2k-1, 2k-1)`: the sum of the mask's where offsets agree, in a fixed order."""
    tiles = grad_mask.view(-1, *pattern.shape)  # (h, tile, tile, span, span)
    by_axis = tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (h, rows · rows, columns · columns)
    return pattern.down.to(by_axis) @ by_axis @ pattern.across.to(by_axis).T


# Tiles in and out of images


class Piece(NamedTuple):
    """Tiles that are worked on at once.

    Attributes:
        images: of the batch.
        rows: the tiles' rows.
        columns: the tiles' columns.
    """

    images: slice
    rows: TileRun
    columns: TileRun


def _pieces(q: Tensor, rows: TileRun, columns: TileRun) -> Iterator[Piece]:
    """All tiles of two runs in pieces: on a CPU so small that their logits stay in its caches."""
    if q.device.type != "cpu":
        yield Piece(slice(None), rows, columns)
        return
    batch, _, _, heads, _ = q.shape
    logits = heads * rows.tile * columns.tile * rows.span * columns.span  # of one tile
    for some_columns in columns.split(max(1, _CHUNK // logits)):
        across = logits * some_columns.groups * some_columns.count
        for some_rows in rows.split(max(1, _CHUNK // across)):
            images = max(1, _CHUNK // (across * some_rows.groups * some_rows.count))
            for i in range(0, batch, images):
                yield Piece(slice(i, i + images), some_rows, some_columns)


def _tiles(x: Tensor, piece: Piece, keys: bool) -> Tensor:
    """The tiles' queries, or their keys, of `(B, H, W, h, c)`, as a view.

    `(B, row groups, column groups, row tiles, column tiles, h, rows of a tile, columns of a tile, c)`;
    the keys of neighbors overlap.
    """
    some = x[piece.images]
    batch, _, _, heads, channels = some.shape
    per_image, per_row, per_column, per_head, per_channel = some.stride()
    start = some.storage_offset()
    groups = []  # (size, stride) of rows and of columns, as the next two
    tiles = []
    tokens = []
    for run, stride in ((piece.rows, per_row), (piece.columns, per_column)):
        member = run.dilation * stride
        first = run.key if keys else run.query
        groups.append((run.groups, stride))
        tiles.append((run.count, run.tile * member))
        tokens.append((run.span if keys else run.tile, member))
        start += run.group * stride + first * member
    axes = ((batch, per_image), *groups, *tiles, (heads, per_head), *tokens, (channels, per_channel))
    sizes = [size for size, _ in axes]
    strides = [stride for _, stride in axes]
    return some.as_strided(sizes, strides, start)


def _gather_queries(x: Tensor, piece: Piece) -> Tensor:
    """Copies of the tiles' queries: `(N, h, Q, c)`."""
    return _tiles(x, piece, keys=False).flatten(6, 7).flatten(0, 4)


def _gather_keys(x: Tensor, piece: Piece) -> Tensor:
    """Copies of the tiles' keys: `(N, h, K, c)`."""
    return _tiles(x, piece, keys=True).flatten(6, 7).flatten(0, 4)


def _write_queries(x: Tensor, piece: Piece, values: Tensor) -> None:
    """Put the queries' `(N, h, Q, c)` in their places in `x` `(B, H, W, h, c)`."""
    target = _tiles(x, piece, keys=False)
    target.copy_(values.reshape(target.shape))


def _add_keys(x: Tensor, piece: Piece, values: Tensor) -> None:
    """Add the keys' `(N, h, K, c)` to those in `x` `(B, H, W, h, c)`."""
    target = _tiles(x, piece, keys=True)
    shaped = values.reshape(target.shape)
    for place in _disjoint_places(piece):
        target[place] += shaped[place]


def _disjoint_places(piece: Piece) -> Iterator[tuple[slice, ...]]:
    """Indices of `_tiles`' axes that take all tiles in turn, at once only some that share no key."""
    row_steps = _overlapping(piece.rows)
    column_steps = _overlapping(piece.columns)
    for i in range(row_steps):
        for j in range(column_steps):
            # Axes 3 and 4 count the tiles of a row and of a column.
            yield (*3 * (slice(None),), slice(i, None, row_steps), slice(j, None, column_steps))


def _overlapping(run: TileRun) -> int:
    """Neighboring tiles of a run whose keys overlap."""
    return min(run.count, -(-run.span // run.tile))


_operators = Operators("tiled", _attend_tiled, _gradients)
attend = _operators.attend
