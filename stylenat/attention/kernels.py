"""The fused backend's outer loops, compiled by Numba; `fused.py` alone imports this module.

The tokens of one residue on both axes are a *group*: a grid of its own, on which the neighborhood has no
dilation. A call works through groups (or bands of rows of a large one), query row by query row, with the k
key rows of its windows in a small buffer that stays in the caches: `slots` of them, row r in slot r mod
`slots`. What is done with a row is in `steps.py`, compiled for a kernel size, a head's channels and a type of
tensors; the loops here know these as numbers alone and are compiled once for all of them.
"""

import contextlib
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from stylenat.attention import steps

_FLOAT = 4  # bytes
_LINE = 16  # floats that a cache brings in at once
_LN2 = steps.LN2
_PER_LN2 = np.float32(1 / steps.LN2)
_NEVER = np.float32(steps.NEVER)
_COLUMNS = 64  # of groups of short rows, some are worked on at once, up to this many columns together


class Memory(NamedTuple):
    """A tensor `(B, H, W, heads, c)` as the loops see it.

    Attributes:
        address: of its first entry.
        image: bytes from one image to the next.
        row: from one row to the next.
        column: from one column to the next.
        head: from one head to the next; channels are next to each other.
    """

    address: int
    image: int
    row: int
    column: int
    head: int


class Grid(NamedTuple):
    """Sizes of a call.

    Attributes:
        height: tokens of a column.
        width: tokens of a row.
        size: kernel size.
        slots: of the buffer, `steps.slots_of`.
        channels: of a head, `steps.padded`.
    """

    height: int
    width: int
    size: int
    slots: int
    channels: int


class Space(NamedTuple):
    """What a call needs while it works, all float32, and its addresses; orders as in `steps.py`.

    Attributes:
        bias: of the query rows of an item [row][column offset][slot].
        sums: gradient of a query row's bias [column offset][slot]; zero.
        bias_address: of `bias`.
        sums_address: of `sums`.
        keys_by_slot: address of keys.
        values_by_slot: of values; for gradients alone.
        keys: of keys by channel; for gradients alone.
        values: of values by channel; for outputs alone.
        key_sums: of the keys' gradients by channel; zero.
        value_sums: of the values' gradients by channel; zero.
        queries: of a row of queries [column][channel], times scale and in powers of two.
        grads: of a row of the output's gradient.
        results: of a row of outputs, or of the queries' gradients.
    """

    bias: np.ndarray
    sums: np.ndarray
    bias_address: int
    sums_address: int
    keys_by_slot: int
    values_by_slot: int
    keys: int
    values: int
    key_sums: int
    value_sums: int
    queries: int
    grads: int
    results: int


def space(grid: Grid, rows: int, gradients: bool) -> Space:
    """Space for items of up to `rows` query rows, of outputs or of gradients."""
    wide = 2 * grid.size - 1
    buffer = (grid.width + _COLUMNS) * grid.channels * grid.slots
    buffers = [buffer, buffer, buffer, 0, buffer, buffer] if gradients else [buffer, 0, 0, buffer, 0, 0]
    row = grid.width * grid.channels
    entries = [rows * wide * grid.slots, wide * grid.slots, *buffers, row, row, row]
    ends = np.cumsum([0, *(-(-count // _LINE) * _LINE for count in entries)])
    whole = np.zeros(ends[-1] + _LINE, np.float32)
    memory = whole[-whole.ctypes.data // _FLOAT % _LINE :]  # from where a line of the caches begins
    places = (memory.ctypes.data + _FLOAT * ends[:-1]).tolist()
    bias = memory[: entries[0]].reshape(rows, wide, grid.slots)
    sums = memory[ends[1] :][: entries[1]].reshape(wide, grid.slots)
    return Space(bias, sums, *places)


class _Share(NamedTuple):
    """Some groups of one head: all of one residue of the rows, worked on side by side.

    Attributes:
        image: of the batch.
        head: of all heads.
        residue: of the rows.
        dilation: tokens from one member of a group to the next.
        rows: members of the groups on the vertical axis.
        first: first query row.
        last: the one after the last.
        side: residue of the first group's columns.
        sides: number of groups.
        most: columns of the longest group.
    """

    image: int
    head: int
    residue: int
    dilation: int
    rows: int
    first: int
    last: int
    side: int
    sides: int
    most: int


@intrinsic
def _call(typing: Any, address: Any, arguments: Any) -> Any:
    """Call the step at an address with a tuple of its arguments."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        given = cgutils.unpack_tuple(builder, values[1], len(arguments))
        kinds = [context.get_value_type(kind) for kind in arguments]
        step = builder.inttoptr(values[0], ir.FunctionType(ir.VoidType(), kinds).as_pointer())
        builder.call(step, given)
        return context.get_dummy_value()

    return types.none(address, arguments), generate


_inner = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")


@_inner
def _start(place: int, length: int, size: int) -> int:
    """First key of a query's window on an axis of `length` members: shifted inward at the border."""
    return min(max(place - size // 2, 0), length - size)


@_inner
def _members(tokens: int, residue: int, dilation: int) -> int:
    """Members of a group on an axis."""
    return (tokens - residue + dilation - 1) // dilation


@_inner
def _at(x: Any, share: Any, row: int, side: int) -> int:
    """Address of a group's row in a tensor."""
    y = share.residue + row * share.dilation
    place = share.image * x.image + y * x.row + (share.side + side) * x.column + share.head * x.head
    return x.address + place


@_inner
def _spread_bias(grid: Any, table: Any, t0: int, share: Any, spread: Any) -> None:
    """Of the share's query rows the bias, in powers of two: [row][column offset][slot].

    It is -1e30 in the slots whose keys the row does not see.
    """
    wide = 2 * grid.size - 1
    for query in range(share.first, share.last):
        start = _start(query, share.rows, grid.size)
        for j in range(wide):
            for slot in range(grid.slots):
                spread[query - share.first, j, slot] = _NEVER
            for row in range(start, start + grid.size):
                entry = t0 + (row - query + grid.size - 1) * wide + j
                spread[query - share.first, j, row % grid.slots] = table[entry] * _PER_LN2


@_inner
def _gather_bias(grid: Any, sums: Any, share: Any, query: int, grad: Any, item: int) -> None:
    """Add a query row's [column offset][slot] to the table's gradient, and empty it."""
    wide = 2 * grid.size - 1
    start = _start(query, share.rows, grid.size)
    for row in range(start, start + grid.size):
        for j in range(wide):
            grad[item, (row - query + grid.size - 1) * wide + j] += sums[j, row % grid.slots]
    for j in range(wide):
        for slot in range(grid.slots):
            sums[j, slot] = 0


@_inner
def _load(step: int, grid: Any, share: Any, x: Any, row: int, buffer: int, entries: int) -> None:
    """A row of keys or values of all groups into a buffer, by a step; `entries` from a slot to the next."""
    for side in range(share.sides):
        columns = _members(grid.width, share.side + side, share.dilation)
        entry = side * share.most * grid.channels * grid.slots + row % grid.slots * entries
        to = buffer + _FLOAT * entry
        _call(step, (_at(x, share, row, side), share.dilation * x.column, columns, to))


@_inner
def _flush(step: int, grid: Any, share: Any, sums: int, row: int, to: Any, factor: Any) -> None:
    """Add a row of all groups of a buffer, by channel, to a gradient, and empty it."""
    for side in range(share.sides):
        columns = _members(grid.width, share.side + side, share.dilation)
        entry = (side * share.most * grid.slots + row % grid.slots) * grid.channels
        place = _at(to, share, row, side)
        _call(step, (sums + _FLOAT * entry, columns, place, share.dilation * to.column, factor))


@_inner
def _share(grid: Any, items: Any, i: int, dilation: int, side: int) -> Any:
    """An item's groups from a residue of the columns on."""
    most = _members(grid.width, 0, dilation)
    sides = min(max(1, _COLUMNS // most), dilation - side)
    rows = _members(grid.height, items[i, 2], dilation)
    return _Share(
        items[i, 0], items[i, 1], items[i, 2], dilation, rows, items[i, 3], items[i, 4], side, sides, most
    )


# The two passes. Rows that come next are brought into the caches while others are worked on.


@_inner
def _attend_share(
    steps: Any,
    grid: Any,
    share: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    factor: Any,
    space: Any,
) -> None:
    """The outputs of a share."""
    row_bias = _FLOAT * (2 * grid.size - 1) * grid.slots
    loaded = _start(share.first, share.rows, grid.size)
    for row in range(share.first, share.last):
        start = _start(row, share.rows, grid.size)
        while loaded < start + grid.size:
            _load(steps.load_by_slot, grid, share, k, loaded, space.keys_by_slot, 1)
            _load(steps.load, grid, share, v, loaded, space.values, grid.channels)
            loaded += 1
        for side in range(share.sides):
            buffer = _FLOAT * side * share.most * grid.channels * grid.slots
            _call(
                steps.queries,
                (
                    _members(grid.width, share.side + side, share.dilation),
                    start,
                    _at(q, share, row, side),
                    share.dilation * q.column,
                    _at(q, share, row + 1, side),
                    _at(k, share, loaded, side),
                    share.dilation * k.column,
                    _at(v, share, loaded, side),
                    share.dilation * v.column,
                    _at(out, share, row, side),
                    share.dilation * out.column,
                    space.bias_address + (row - share.first) * row_bias,
                    space.queries,
                    space.results,
                    space.keys_by_slot + buffer,
                    space.values + buffer,
                    factor,
                ),
            )


@njit(nogil=True, error_model="numpy")
def _forward(
    steps: Any,
    grid: Any,
    items: Any,
    heads: Any,
    q: Any,
    k: Any,
    v: Any,
    table: Any,
    out: Any,
    scale: float,
    space: Any,
) -> None:
    """The outputs of some items.

    Args:
        steps: a `steps.Steps`.
        grid: a `Grid`.
        items: int64 `(N, 5)`: image, head, residue of the rows, and of that group the first query row and the
            one after the last.
        heads: int64 `(heads, 2)`: dilation, and where the head's table begins in `table`.
        q: a `Memory`.
        k: a `Memory`.
        v: a `Memory`.
        table: all tables, float32.
        out: a `Memory`; written.
        scale: factor on q.
        space: a `Space`.
    """
    factor = np.float32(scale / _LN2)
    for i in range(len(items)):
        dilation = heads[items[i, 1], 0]
        share = _share(grid, items, i, dilation, 0)
        _spread_bias(grid, table, heads[items[i, 1], 1], share, space.bias)
        side = 0
        while side < dilation:
            share = _share(grid, items, i, dilation, side)
            _attend_share(steps, grid, share, q, k, v, out, factor, space)
            side += share.sides


@_inner
def _flush_rows(steps: Any, grid: Any, share: Any, first: int, last: int, grads: Any, space: Any) -> None:
    """Add the sums of key rows that no query row will see again to the gradients of keys and values."""
    for row in range(first, last):
        _flush(steps.flush, grid, share, space.key_sums, row, grads[1], np.float32(_LN2))
        _flush(steps.flush, grid, share, space.value_sums, row, grads[2], np.float32(1))


@_inner
def _differentiate_share(
    steps: Any,
    grid: Any,
    share: Any,
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    grads: Any,
    grad_bias: Any,
    item: int,
    factor: Any,
    scale: Any,
    space: Any,
) -> None:
    """The gradients that a share gives."""
    row_bias = _FLOAT * (2 * grid.size - 1) * grid.slots
    loaded = _start(share.first, share.rows, grid.size)
    flushed = loaded
    for row in range(share.first, share.last):
        start = _start(row, share.rows, grid.size)
        _flush_rows(steps, grid, share, flushed, start, grads, space)
        flushed = start
        while loaded < start + grid.size:
            _load(steps.load_by_slot, grid, share, k, loaded, space.keys_by_slot, 1)
            _load(steps.load, grid, share, k, loaded, space.keys, grid.channels)
            _load(steps.load_by_slot, grid, share, v, loaded, space.values_by_slot, 1)
            loaded += 1
        for side in range(share.sides):
            buffer = _FLOAT * side * share.most * grid.channels * grid.slots
            _call(
                steps.queries,
                (
                    _members(grid.width, share.side + side, share.dilation),
                    start,
                    _at(grad, share, row, side),
                    share.dilation * grad.column,
                    _at(grad, share, row + 1, side),
                    _at(q, share, row, side),
                    share.dilation * q.column,
                    _at(q, share, row + 1, side),
                    _at(k, share, loaded, side),
                    share.dilation * k.column,
                    _at(v, share, loaded, side),
                    share.dilation * v.column,
                    _at(grads[0], share, row, side),
                    share.dilation * grads[0].column,
                    _at(grads[1], share, start, side),
                    share.dilation * grads[1].column,
                    _at(grads[2], share, start, side),
                    share.dilation * grads[2].column,
                    space.bias_address + (row - share.first) * row_bias,
                    space.queries,
                    space.grads,
                    space.results,
                    space.keys_by_slot + buffer,
                    space.values_by_slot + buffer,
                    space.keys + buffer,
                    space.key_sums + buffer,
                    space.value_sums + buffer,
                    space.sums_address,
                    factor,
                    scale,
                ),
            )
        _gather_bias(grid, space.sums, share, row, grad_bias, item)
    _flush_rows(steps, grid, share, flushed, loaded, grads, space)


@njit(nogil=True, error_model="numpy")
def _backward(
    steps: Any,
    grid: Any,
    items: Any,
    heads: Any,
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    table: Any,
    grads: Any,
    grad_bias: Any,
    scale: float,
    space: Any,
) -> None:
    """The gradients of some items, which share no key.

    Args:
        steps: as of `_forward`.
        grid: likewise.
        items: likewise.
        heads: likewise.
        grad: the output's gradient, a `Memory`.
        q: likewise.
        k: likewise.
        v: likewise.
        table: all tables, float32.
        grads: of q, which is written, of k and of v, which are added to and float32: three of `Memory`.
        grad_bias: float32 `(N, (2k-1)²)`: each item's part of the gradient of its head's table; added to.
        scale: factor on q.
        space: likewise.
    """
    factor = np.float32(scale / _LN2)
    for i in range(len(items)):
        dilation = heads[items[i, 1], 0]
        share = _share(grid, items, i, dilation, 0)
        _spread_bias(grid, table, heads[items[i, 1], 1], share, space.bias)
        side = 0
        while side < dilation:
            share = _share(grid, items, i, dilation, side)
            _differentiate_share(
                steps,
                grid,
                share,
                grad,
                q,
                k,
                v,
                grads,
                grad_bias,
                i,
                factor,
                np.float32(scale),
                space,
            )
            side += share.sides


def _kept(function: Any) -> Any:
    """The function, to be kept on disk when it is compiled, where there is a folder to write to."""
    with contextlib.suppress(RuntimeError):  # neither beside the package nor in the user's cache folder
        function.enable_caching()
    return function


forward = _kept(_forward)
backward = _kept(_backward)
