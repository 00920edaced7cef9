"""The fused backend's loops, compiled by Numba for the CPU at hand; `fused.py` alone imports this module.

The tokens of one residue on both axes are a *group*: a grid of its own, on which the neighborhood has no
dilation. A call works through groups (or bands of rows of a large one), query row by query row, with the k key
rows of its windows in a small buffer: `slots` of them, a power of two, row r in slot r mod `slots`. The buffer
stays in the caches and holds keys and values in the two orders that vectors need:

    by slot      [column][channel][slot]    a vector is the slots of a column: k columns give the k × k logits of
                                            a query, by one product a channel and column
    by channel   [column][slot][channel]    a vector is the channels of a key: for weighted sums

The innermost steps are written in LLVM's own terms, with vectors and the unrolling that plain loops would not
get. They are compiled for a kernel size and for channels in multiples of `CHANNELS`, which they read from the
lengths of two tuples: Numba compiles for types, and the length is part of one.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

CHANNELS = 8  # heads of other sizes are padded with zeros
_LN2 = math.log(2)
_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_SHORT = ir.IntType(16)
_LINE = 64  # bytes that a cache brings in at once
_COLUMNS = 64  # of groups of short rows, some are worked on at once, up to this many columns together
_NEVER = float(np.float32(-1e30))  # logit of a slot that is not in the window
# 2^x for |x| ≤ 1/2, by powers of x from the last to the first; relative error below 1e-7 with float32 rounding.
_POWERS = (
    1.5353362e-04,
    1.3398875e-03,
    9.61843692e-03,
    5.55033237e-02,
    2.40226477e-01,
    6.93147182e-01,
    1.0,
)
_ROUND = 1.5 * 2**23  # added to a float32, it leaves the nearest integer in the lowest bits


# --- Vectors


def slots_of(kernel_size: int) -> int:
    """Slots of the buffer for a kernel size: key rows of a vector."""
    return max(4, 1 << (kernel_size - 1).bit_length())


class _Code:
    """LLVM code of one step: float32 vectors and where they are.

    Args:
        context: Numba's.
        builder: where the code goes.
        kernel: type of the tuple of `kernel_size` entries.
        channels: type of the tuple of channels / CHANNELS entries.
    """

    def __init__(self, context: Any, builder: Any, kernel: Any, channels: Any) -> None:
        self.context = context
        self.builder = builder
        self.size = kernel.count
        self.slots = slots_of(kernel.count)
        self.channels = CHANNELS * channels.count
        self.lanes = 16 if self.channels % 16 == 0 else CHANNELS  # channels of a vector
        self.rows = ir.VectorType(_FLOAT, self.slots)
        self.parts = ir.VectorType(_FLOAT, self.lanes)

    def number(self, value: int) -> Any:
        """A 64-bit constant."""
        return ir.Constant(ir.IntType(64), value)

    def at(self, array: Any, kind: Any, offset: Any) -> Any:
        """Pointer to an entry of a one-dimensional array."""
        data = self.context.make_array(kind)(self.context, self.builder, array).data
        return self.builder.gep(data, [offset])

    def further(self, pointer: Any, entries: int) -> Any:
        """Pointer some entries further on."""
        return self.builder.gep(pointer, [self.number(entries)])

    def load(self, pointer: Any, vector: Any) -> Any:
        """A vector from a pointer to its first float."""
        address = self.builder.bitcast(pointer, vector.as_pointer())
        return self.builder.load(address, align=4)

    def store(self, value: Any, pointer: Any) -> None:
        """A vector to a pointer to its first float."""
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer()), align=4)

    def spread(self, value: Any, vector: Any) -> Any:
        """A vector whose entries are all one float."""
        one = self.builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_INT, 0))
        zeros = ir.Constant(ir.VectorType(_INT, vector.count), [0] * vector.count)
        return self.builder.shuffle_vector(one, one, zeros)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """`a · b + c`, in one instruction where there is one."""
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(a.type, [a.type] * 3),
            f"llvm.fmuladd.v{a.type.count}f32",
        )
        return self.builder.call(function, [a, b, c])

    def all_int(self, value: int, lanes: int) -> Any:
        """A vector whose entries are all one 32-bit integer."""
        return ir.Constant(ir.VectorType(_INT, lanes), [value] * lanes)

    def larger(self, a: Any, b: Any) -> Any:
        """The larger of two vectors, entry by entry."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def across(self, value: Any, step: Callable[[Any, Any], Any]) -> Any:
        """All entries of a vector as one float, halves first."""
        half = value.type.count // 2
        while half:
            order = [(i + half) % value.type.count for i in range(value.type.count)]
            shuffle = ir.Constant(ir.VectorType(_INT, len(order)), order)
            value = step(value, self.builder.shuffle_vector(value, value, shuffle))
            half //= 2
        return self.builder.extract_element(value, ir.Constant(_INT, 0))

    def exp2(self, x: Any) -> Any:
        """2^x for x ≤ 0; 0 below -126, and NaN where x is."""
        builder = self.builder
        vector = x.type

        def all_of(value: float) -> Any:
            return ir.Constant(vector, [value] * vector.count)

        low = builder.fcmp_ordered("<", x, all_of(-126.0))
        inside = builder.select(low, all_of(-126.0), x)
        rounded = builder.fadd(inside, all_of(_ROUND))
        rest = builder.fsub(inside, builder.fsub(rounded, all_of(_ROUND)))
        value = all_of(_POWERS[0])
        for power in _POWERS[1:]:
            value = self.fused(value, rest, all_of(power))
        lanes = vector.count
        bits = builder.bitcast(rounded, ir.VectorType(_INT, lanes))
        bits = builder.add(bits, self.all_int(127, lanes))
        scale = builder.bitcast(builder.shl(bits, self.all_int(23, lanes)), vector)
        return builder.select(low, all_of(0.0), builder.fmul(value, scale))


def _tree(values: list, step: Callable[[Any, Any], Any]) -> Any:
    """All of some values as one, in pairs."""
    while len(values) > 1:
        pairs = []
        for i in range(0, len(values) - 1, 2):
            pairs.append(step(values[i], values[i + 1]))
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


# --- Steps. x is a query's vector of channels, w its window: [k columns][slots].


@intrinsic
def _products(typing: Any, kernel: Any, channels: Any, x: Any, x0: Any, rows: Any, r0: Any, w: Any) -> Any:
    """w[j, s] = Σ_c x[c] · rows[j, c, s]: of the query with every key of its window."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, kernel, channels)
        first_x = code.at(arguments[2], x, arguments[3])
        first_row = code.at(arguments[4], rows, arguments[5])
        sums = []
        for _ in range(code.size):
            sums.append(cgutils.alloca_once_value(builder, ir.Constant(code.rows, [0.0] * code.slots)))
        with cgutils.for_range(builder, code.number(code.channels)) as loop:
            value = code.spread(builder.load(builder.gep(first_x, [loop.index])), code.rows)
            row = builder.gep(first_row, [builder.mul(loop.index, code.number(code.slots))])
            for j in range(code.size):
                keys = code.load(code.further(row, j * code.channels * code.slots), code.rows)
                builder.store(code.fused(keys, value, builder.load(sums[j])), sums[j])
        out = code.at(arguments[6], w, code.number(0))
        for j in range(code.size):
            code.store(builder.load(sums[j]), code.further(out, j * code.slots))
        return context.get_dummy_value()

    return types.none(kernel, channels, x, x0, rows, r0, w), generate


@intrinsic
def _softmax(typing: Any, kernel: Any, channels: Any, w: Any, bias: Any, b0: Any) -> Any:
    """w[j, s] = 2^(w[j, s] + bias[j, s] - greatest); the sum is returned."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, kernel, channels)
        first = code.at(arguments[2], w, code.number(0))
        first_bias = code.at(arguments[3], bias, arguments[4])
        never = ir.Constant(code.rows, [_NEVER] * code.slots)
        logits = []
        for j in range(code.size):
            own = code.load(code.further(first, j * code.slots), code.rows)
            own_bias = code.load(code.further(first_bias, j * code.slots), code.rows)
            seen = builder.fcmp_ordered(">", own_bias, never)
            logits.append(builder.select(seen, builder.fadd(own, own_bias), never))
        greatest = code.spread(code.across(_tree(list(logits), code.larger), code.larger), code.rows)
        powers = []
        for j, logit in enumerate(logits):
            powers.append(code.exp2(builder.fsub(logit, greatest)))
            code.store(powers[j], code.further(first, j * code.slots))
        return code.across(_tree(powers, builder.fadd), builder.fadd)

    return types.float32(kernel, channels, w, bias, b0), generate


@intrinsic
def _slopes(
    typing: Any, kernel: Any, channels: Any, w: Any, factor: Any, grad: Any, bias: Any, b0: Any
) -> Any:
    """w *= factor, the softmax weights; grad, of the weights, becomes that of the logits, added to bias."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, kernel, channels)
        first = code.at(arguments[2], w, code.number(0))
        scale = code.spread(arguments[3], code.rows)
        first_grad = code.at(arguments[4], grad, code.number(0))
        first_bias = code.at(arguments[5], bias, arguments[6])
        nothing = ir.Constant(code.rows, [0.0] * code.slots)
        weights = []
        gradients = []
        products = []
        for j in range(code.size):
            weights.append(builder.fmul(code.load(code.further(first, j * code.slots), code.rows), scale))
            code.store(weights[j], code.further(first, j * code.slots))
            given = code.load(code.further(first_grad, j * code.slots), code.rows)
            seen = builder.fcmp_unordered("!=", weights[j], nothing)
            gradients.append(builder.select(seen, given, nothing))  # where no key is, there may be a NaN
            products.append(builder.fmul(weights[j], gradients[j]))
        mean = code.spread(code.across(_tree(products, builder.fadd), builder.fadd), code.rows)
        for j in range(code.size):
            slope = builder.fmul(weights[j], builder.fsub(gradients[j], mean))
            code.store(slope, code.further(first_grad, j * code.slots))
            place = code.further(first_bias, j * code.slots)
            code.store(builder.fadd(code.load(place, code.rows), slope), place)
        return context.get_dummy_value()

    return types.none(kernel, channels, w, factor, grad, bias, b0), generate


@intrinsic
def _mix(
    typing: Any,
    kernel: Any,
    channels: Any,
    w: Any,
    row: Any,
    keys: Any,
    k0: Any,
    factor: Any,
    out: Any,
    o0: Any,
) -> Any:
    """out[c] = factor · Σ w[j, s] · keys[j, s, c], over the window's rows from `row` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, kernel, channels)
        first = code.at(arguments[2], w, code.number(0))
        first_key = code.at(arguments[4], keys, arguments[5])
        parts = code.channels // code.lanes
        sums = []
        for _ in range(2 * parts):  # two each, so that additions need not wait for each other
            sums.append(cgutils.alloca_once_value(builder, ir.Constant(code.parts, [0.0] * code.lanes)))
        with cgutils.for_range(builder, code.number(code.size)) as loop:
            slot = builder.and_(builder.add(arguments[3], loop.index), code.number(code.slots - 1))
            weight = builder.gep(first, [slot])
            key = builder.gep(first_key, [builder.mul(slot, code.number(code.channels))])
            for j in range(code.size):
                value = code.spread(builder.load(code.further(weight, j * code.slots)), code.parts)
                for i in range(parts):
                    place = sums[i + j % 2 * parts]
                    offset = j * code.slots * code.channels + i * code.lanes
                    part = code.load(code.further(key, offset), code.parts)
                    builder.store(code.fused(part, value, builder.load(place)), place)
        scale = code.spread(arguments[6], code.parts)
        target = code.at(arguments[7], out, arguments[8])
        for i in range(parts):
            total = builder.fadd(builder.load(sums[i]), builder.load(sums[i + parts]))
            code.store(builder.fmul(total, scale), code.further(target, i * code.lanes))
        return context.get_dummy_value()

    return types.none(kernel, channels, w, row, keys, k0, factor, out, o0), generate


@intrinsic
def _add(
    typing: Any, kernel: Any, channels: Any, w: Any, row: Any, x: Any, x0: Any, grad: Any, g0: Any
) -> Any:
    """grad[j, s, c] += w[j, s] · x[c], over the window's rows from `row` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, kernel, channels)
        first = code.at(arguments[2], w, code.number(0))
        first_x = code.at(arguments[4], x, arguments[5])
        first_grad = code.at(arguments[6], grad, arguments[7])
        values = []
        for i in range(code.channels // code.lanes):
            values.append(code.load(code.further(first_x, i * code.lanes), code.parts))
        with cgutils.for_range(builder, code.number(code.size)) as loop:
            slot = builder.and_(builder.add(arguments[3], loop.index), code.number(code.slots - 1))
            weight = builder.gep(first, [slot])
            place = builder.gep(first_grad, [builder.mul(slot, code.number(code.channels))])
            for j in range(code.size):
                factor = code.spread(builder.load(code.further(weight, j * code.slots)), code.parts)
                for i, value in enumerate(values):
                    target = code.further(place, j * code.slots * code.channels + i * code.lanes)
                    code.store(code.fused(value, factor, code.load(target, code.parts)), target)
        return context.get_dummy_value()

    return types.none(kernel, channels, w, row, x, x0, grad, g0), generate


# --- Channels of one token in and out of tensors, whose memory is float32 or, for bfloat16, uint16


def _get(code: _Code, kind: Any, pointer: Any, lanes: int) -> Any:
    """A vector of float32 from a tensor's memory."""
    builder = code.builder
    if kind.dtype == types.float32:
        return code.load(pointer, ir.VectorType(_FLOAT, lanes))
    place = builder.bitcast(pointer, ir.VectorType(_SHORT, lanes).as_pointer())
    bits = builder.zext(builder.load(place, align=2), ir.VectorType(_INT, lanes))
    high = builder.shl(bits, code.all_int(16, lanes))
    return builder.bitcast(high, ir.VectorType(_FLOAT, lanes))


def _put(code: _Code, kind: Any, value: Any, pointer: Any) -> None:
    """A vector of float32 into a tensor's memory, rounded to nearest even where that is bfloat16."""
    if kind.dtype == types.float32:
        code.store(value, pointer)
        return
    builder = code.builder
    lanes = value.type.count
    bits = builder.bitcast(value, ir.VectorType(_INT, lanes))
    odd = builder.and_(builder.lshr(bits, code.all_int(16, lanes)), code.all_int(1, lanes))
    rounded = builder.add(builder.add(bits, odd), code.all_int(0x7FFF, lanes))
    number = builder.fcmp_ordered("==", value, value)  # rounding could make a NaN an infinity
    bits = builder.select(number, rounded, code.all_int(0x7FC00000, lanes))
    short = builder.trunc(builder.lshr(bits, code.all_int(16, lanes)), ir.VectorType(_SHORT, lanes))
    place = builder.bitcast(pointer, short.type.as_pointer())
    builder.store(short, place, align=2)


def _by_vectors(code: _Code, count: Any, step: Callable[[Any, int], None]) -> None:
    """A step on each of `count` channels: on vectors where none is padding, else one by one.

    Args:
        code: where it goes.
        count: channels of a head.
        step: is given a channel and how many to take from it on.
    """
    builder = code.builder
    whole = builder.icmp_signed("==", count, code.number(code.channels))
    with builder.if_else(whole) as (vectors, single):
        with vectors:
            for i in range(0, code.channels, code.lanes):
                step(code.number(i), code.lanes)
        with single, cgutils.for_range(builder, count) as loop:
            step(loop.index, 1)


@intrinsic
def _move(
    typing: Any, kernel: Any, channels: Any, x: Any, i: Any, to: Any, t: Any, count: Any, factor: Any
) -> Any:
    """to[t + c] = factor · x[i + c]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, kernel, channels)
        source = code.at(arguments[2], x, arguments[3])
        target = code.at(arguments[4], to, arguments[5])

        def step(channel: Any, lanes: int) -> None:
            value = _get(code, x, builder.gep(source, [channel]), lanes)
            scaled = builder.fmul(value, code.spread(arguments[7], value.type))
            _put(code, to, scaled, builder.gep(target, [channel]))

        _by_vectors(code, arguments[6], step)
        return context.get_dummy_value()

    return types.none(kernel, channels, x, i, to, t, count, factor), generate


@intrinsic
def _move_to_slot(
    typing: Any, kernel: Any, channels: Any, x: Any, i: Any, to: Any, t: Any, count: Any
) -> Any:
    """to[t + c · slots] = x[i + c]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, kernel, channels)
        source = code.at(arguments[2], x, arguments[3])
        target = code.at(arguments[4], to, arguments[5])

        def step(channel: Any, lanes: int) -> None:
            for lane in range(lanes):
                place = builder.add(channel, code.number(lane))
                value = _get(code, x, builder.gep(source, [place]), 1)
                _put(code, to, value, builder.gep(target, [builder.mul(place, code.number(code.slots))]))

        _by_vectors(code, arguments[6], step)
        return context.get_dummy_value()

    return types.none(kernel, channels, x, i, to, t, count), generate


@intrinsic
def _move_sums(
    typing: Any, kernel: Any, channels: Any, x: Any, i: Any, to: Any, t: Any, count: Any, factor: Any
) -> Any:
    """to[t + c] += factor · x[i + c]; x[i + c] = 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _Code(context, builder, kernel, channels)
        source = code.at(arguments[2], x, arguments[3])
        target = code.at(arguments[4], to, arguments[5])

        def step(channel: Any, lanes: int) -> None:
            own = builder.gep(source, [channel])
            place = builder.gep(target, [channel])
            value = _get(code, x, own, lanes)
            total = code.fused(value, code.spread(arguments[7], value.type), _get(code, to, place, lanes))
            _put(code, to, total, place)
            code.store(ir.Constant(value.type, [0.0] * lanes), own)

        _by_vectors(code, arguments[6], step)
        return context.get_dummy_value()

    return types.none(kernel, channels, x, i, to, t, count, factor), generate


@intrinsic
def _prefetch(typing: Any, channels: Any, array: Any, i: Any) -> Any:
    """Have a head's channels from an entry on brought into the caches."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(array)(context, builder, arguments[1]).data
        first = builder.bitcast(builder.gep(data, [arguments[2]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        size = CHANNELS * channels.count * array.dtype.bitwidth // 8
        for i in range(0, size, _LINE):
            place = builder.gep(first, [ir.Constant(_INT, i)])
            builder.call(function, [place, *(ir.Constant(_INT, flag) for flag in (0, 3, 1))])
        return context.get_dummy_value()

    return types.none(channels, array, types.int64), generate


# --- Rows of groups


@njit(inline="always")
def _slots(size: int) -> int:
    """As `slots_of`."""
    slots = 4
    while slots < size:
        slots *= 2
    return slots


@njit(inline="always")
def _start(place: int, length: int, size: int) -> int:
    """First key of a query's window on an axis of `length` members: shifted inward at the border."""
    return min(max(place - size // 2, 0), length - size)


@njit(inline="always")
def _members(tokens: int, residue: int, dilation: int) -> int:
    """Members of a group on an axis."""
    return (tokens - residue + dilation - 1) // dilation


@njit
def _spread_bias(table: Any, t0: int, layout: Any, rows: int, first: int, last: int) -> Any:
    """Of the query rows from `first` to `last` the bias, in powers of two: [row, column offset, slot].

    It is -1e30 in the slots whose keys the row does not see.
    """
    size, slots, _, _ = layout
    wide = 2 * size - 1
    spread = np.full((last - first) * wide * slots, np.float32(_NEVER), np.float32)
    for query in range(first, last):
        start = _start(query, rows, size)
        for row in range(start, start + size):
            entry = t0 + (row - query + size - 1) * wide
            place = (query - first) * wide * slots + row % slots
            for j in range(wide):
                spread[place + j * slots] = table[entry + j] * np.float32(1 / _LN2)
    return spread


@njit
def _gather_bias(spread: Any, layout: Any, rows: int, query: int, grad: Any, g0: int) -> None:
    """Add a query row's [column offset, slot] to the table's gradient, and empty it."""
    size, slots, _, _ = layout
    wide = 2 * size - 1
    start = _start(query, rows, size)
    for row in range(start, start + size):
        entry = g0 + (row - query + size - 1) * wide
        for j in range(wide):
            grad[entry + j] += spread[j * slots + row % slots]
    spread[:] = 0


@njit
def _load_by_slot(
    kernel: Any, channels: Any, x: Any, x0: int, step: int, columns: int, to: Any, t0: int, slot: int, count: int
) -> None:
    """A row of keys or values into the buffer [column][channel][slot]."""
    slots = _slots(len(kernel))
    entries = CHANNELS * len(channels) * slots
    for column in range(columns):
        _move_to_slot(kernel, channels, x, x0 + column * step, to, t0 + column * entries + slot, count)


@njit
def _load_by_channel(
    kernel: Any, channels: Any, x: Any, x0: int, step: int, columns: int, to: Any, t0: int, slot: int, count: int
) -> None:
    """A row of keys or values into the buffer [column][slot][channel]."""
    slots = _slots(len(kernel))
    padded = CHANNELS * len(channels)
    for column in range(columns):
        target = t0 + (column * slots + slot) * padded
        _move(kernel, channels, x, x0 + column * step, to, target, count, np.float32(1))


@njit
def _load_row(
    kernel: Any, channels: Any, x: Any, x0: int, step: int, columns: int, to: Any, factor: Any, count: int
) -> None:
    """A row of queries, times a factor: [column][channel]."""
    padded = CHANNELS * len(channels)
    for column in range(columns):
        _move(kernel, channels, x, x0 + column * step, to, column * padded, count, factor)


@njit
def _store_row(
    kernel: Any, channels: Any, row: Any, columns: int, to: Any, t0: int, step: int, count: int
) -> None:
    """A row [column][channel] into a tensor."""
    padded = CHANNELS * len(channels)
    for column in range(columns):
        _move(kernel, channels, row, column * padded, to, t0 + column * step, count, np.float32(1))


@njit
def _flush(
    kernel: Any,
    channels: Any,
    sums: Any,
    s0: int,
    slot: int,
    columns: int,
    to: Any,
    t0: int,
    step: int,
    factor: Any,
    count: int,
) -> None:
    """Add a row of the buffer [column][slot][channel] to a gradient, and empty it."""
    slots = _slots(len(kernel))
    padded = CHANNELS * len(channels)
    for column in range(columns):
        source = s0 + (column * slots + slot) * padded
        _move_sums(kernel, channels, sums, source, to, t0 + column * step, count, factor)


# --- The two passes over some items: image, head, residue of the rows, first and last query row of the group.


@njit(cache=True, nogil=True, error_model="numpy")
def forward(
    kernel: Any,
    channels: Any,
    items: Any,
    heads: Any,
    grid: Any,
    q: Any,
    q_steps: Any,
    k: Any,
    k_steps: Any,
    v: Any,
    v_steps: Any,
    bias: Any,
    out: Any,
    out_steps: Any,
    scale: Any,
) -> None:
    """The output of some items.

    Args:
        kernel: a tuple of kernel_size entries.
        channels: a tuple of an entry for each `CHANNELS` channels of a head, the last ones padding.
        items: int64 `(N, 5)`.
        heads: int64 `(heads, 2)`: dilation, and where the head's table begins in `bias`.
        grid: height, width, channels of a head.
        q: float32 or, for bfloat16, uint16: a tensor's memory from its first entry on.
        q_steps: its steps from one image, row, column and head to the next; channels are next to each other.
        k: as q.
        k_steps: as q_steps.
        v: as q.
        v_steps: as q_steps.
        bias: all tables, float32.
        out: as q; written.
        out_steps: as q_steps.
        scale: factor on q.
    """
    height, width, head_dim = grid
    size = len(kernel)
    slots = _slots(size)
    padded = CHANNELS * len(channels)
    layout = (size, slots, head_dim, padded)
    wide = 2 * size - 1
    keys = np.zeros((width + _COLUMNS) * padded * slots, np.float32)
    values = np.zeros((width + _COLUMNS) * padded * slots, np.float32)
    queries = np.zeros(width * padded, np.float32)
    results = np.zeros(width * padded, np.float32)
    window = np.zeros(size * slots, np.float32)
    factor = np.float32(scale / _LN2)
    for item in range(len(items)):
        image, head, residue, first, last = items[item]
        dilation, table = heads[head]
        rows = _members(height, residue, dilation)
        bias_rows = _spread_bias(bias, table, layout, rows, first, last)
        q0 = image * q_steps[0] + head * q_steps[3]
        k0 = image * k_steps[0] + head * k_steps[3]
        v0 = image * v_steps[0] + head * v_steps[3]
        o0 = image * out_steps[0] + head * out_steps[3]
        q_step, k_step, v_step, o_step = (
            dilation * q_steps[2],
            dilation * k_steps[2],
            dilation * v_steps[2],
            dilation * out_steps[2],
        )
        most = _members(width, 0, dilation)
        together = max(1, _COLUMNS // most)
        for side0 in range(0, dilation, together):
            sides = min(together, dilation - side0)
            loaded = _start(first, rows, size)
            for row in range(first, last):
                start = _start(row, rows, size)
                while loaded < start + size:
                    y = residue + loaded * dilation
                    for i in range(sides):
                        side = side0 + i
                        columns = _members(width, side, dilation)
                        to = i * most * padded * slots
                        at = k0 + y * k_steps[1] + side * k_steps[2]
                        _load_by_slot(kernel, channels, k, at, k_step, columns, keys, to, loaded % slots, head_dim)
                        at = v0 + y * v_steps[1] + side * v_steps[2]
                        _load_by_channel(kernel, channels, v, at, v_step, columns, values, to, loaded % slots, head_dim)
                    loaded += 1
                y = residue + row * dilation
                ahead = residue + loaded * dilation
                b0 = ((row - first) * wide + size - 1) * slots
                for i in range(sides):
                    side = side0 + i
                    columns = _members(width, side, dilation)
                    buffer = i * most * padded * slots
                    q_at = q0 + y * q_steps[1] + side * q_steps[2]
                    o_at = o0 + y * out_steps[1] + side * out_steps[2]
                    next_q = q_at + dilation * q_steps[1]
                    next_k = k0 + ahead * k_steps[1] + side * k_steps[2]
                    next_v = v0 + ahead * v_steps[1] + side * v_steps[2]
                    _load_row(kernel, channels, q, q_at, q_step, columns, queries, factor, head_dim)
                    for column in range(columns):
                        _prefetch(channels, q, next_q + column * q_step)
                        _prefetch(channels, k, next_k + column * k_step)
                        _prefetch(channels, v, next_v + column * v_step)
                        _prefetch(channels, out, o_at + column * o_step)
                        left = _start(column, columns, size)
                        key = buffer + left * padded * slots
                        _products(kernel, channels, queries, column * padded, keys, key, window)
                        total = _softmax(kernel, channels, window, bias_rows, b0 + (left - column) * slots)
                        share = np.float32(1) / total
                        _mix(kernel, channels, window, start, values, key, share, results, column * padded)
                    _store_row(kernel, channels, results, columns, out, o_at, o_step, head_dim)


@njit(cache=True, nogil=True, error_model="numpy")
def backward(
    kernel: Any,
    channels: Any,
    items: Any,
    heads: Any,
    grid: Any,
    grad: Any,
    grad_steps: Any,
    q: Any,
    q_steps: Any,
    k: Any,
    k_steps: Any,
    v: Any,
    v_steps: Any,
    bias: Any,
    grad_q: Any,
    grad_k: Any,
    grad_v: Any,
    out_steps: Any,
    grad_bias: Any,
    scale: Any,
) -> None:
    """The gradients of some items, which share no key.

    Args:
        kernel: as of `forward`, and so on.
        channels: likewise.
        items: likewise.
        heads: likewise.
        grid: likewise.
        grad: the output's gradient; as q.
        grad_steps: as q_steps.
        q: as of `forward`.
        q_steps: likewise.
        k: likewise.
        k_steps: likewise.
        v: likewise.
        v_steps: likewise.
        bias: likewise.
        grad_q: of q; as q; written.
        grad_k: of k, float32; added to.
        grad_v: of v, float32; added to.
        out_steps: of these three.
        grad_bias: float32 `(N, (2k-1)²)`: of the table of each item's head, this item's share; added to.
        scale: factor on q.
    """
    height, width, head_dim = grid
    size = len(kernel)
    slots = _slots(size)
    padded = CHANNELS * len(channels)
    layout = (size, slots, head_dim, padded)
    wide = 2 * size - 1
    entries = (width + _COLUMNS) * padded * slots
    keys_by_slot = np.zeros(entries, np.float32)
    keys = np.zeros(entries, np.float32)
    values_by_slot = np.zeros(entries, np.float32)
    key_sums = np.zeros(entries, np.float32)
    value_sums = np.zeros(entries, np.float32)
    queries = np.zeros(width * padded, np.float32)
    slopes = np.zeros(width * padded, np.float32)
    results = np.zeros(width * padded, np.float32)
    window = np.zeros(size * slots, np.float32)
    grad_window = np.zeros(size * slots, np.float32)
    bias_sums = np.zeros(wide * slots, np.float32)
    flat_bias = grad_bias.reshape(-1)
    factor = np.float32(scale / _LN2)
    one = np.float32(1)
    for item in range(len(items)):
        image, head, residue, first, last = items[item]
        dilation, table = heads[head]
        rows = _members(height, residue, dilation)
        bias_rows = _spread_bias(bias, table, layout, rows, first, last)
        g0 = image * grad_steps[0] + head * grad_steps[3]
        q0 = image * q_steps[0] + head * q_steps[3]
        k0 = image * k_steps[0] + head * k_steps[3]
        v0 = image * v_steps[0] + head * v_steps[3]
        o0 = image * out_steps[0] + head * out_steps[3]
        g_step, q_step, k_step, v_step, o_step = (
            dilation * grad_steps[2],
            dilation * q_steps[2],
            dilation * k_steps[2],
            dilation * v_steps[2],
            dilation * out_steps[2],
        )
        most = _members(width, 0, dilation)
        together = max(1, _COLUMNS // most)
        for side0 in range(0, dilation, together):
            sides = min(together, dilation - side0)
            loaded = _start(first, rows, size)
            flushed = loaded
            for row in range(first, last + 1):
                # After the last query row, all rows that are left are flushed.
                start = _start(row, rows, size) if row < last else loaded
                while flushed < start:
                    y = residue + flushed * dilation
                    for i in range(sides):
                        side = side0 + i
                        columns = _members(width, side, dilation)
                        at = o0 + y * out_steps[1] + side * out_steps[2]
                        of = i * most * padded * slots
                        slot = flushed % slots
                        _flush(kernel, channels, key_sums, of, slot, columns, grad_k, at, o_step, np.float32(_LN2), head_dim)
                        _flush(kernel, channels, value_sums, of, slot, columns, grad_v, at, o_step, one, head_dim)
                    flushed += 1
                if row == last:
                    break
                while loaded < start + size:
                    y = residue + loaded * dilation
                    for i in range(sides):
                        side = side0 + i
                        columns = _members(width, side, dilation)
                        to = i * most * padded * slots
                        slot = loaded % slots
                        at = k0 + y * k_steps[1] + side * k_steps[2]
                        _load_by_slot(kernel, channels, k, at, k_step, columns, keys_by_slot, to, slot, head_dim)
                        _load_by_channel(kernel, channels, k, at, k_step, columns, keys, to, slot, head_dim)
                        at = v0 + y * v_steps[1] + side * v_steps[2]
                        _load_by_slot(kernel, channels, v, at, v_step, columns, values_by_slot, to, slot, head_dim)
                    loaded += 1
                y = residue + row * dilation
                ahead = residue + loaded * dilation
                b0 = ((row - first) * wide + size - 1) * slots
                for i in range(sides):
                    side = side0 + i
                    columns = _members(width, side, dilation)
                    buffer = i * most * padded * slots
                    g_at = g0 + y * grad_steps[1] + side * grad_steps[2]
                    q_at = q0 + y * q_steps[1] + side * q_steps[2]
                    o_at = o0 + y * out_steps[1] + side * out_steps[2]
                    next_g = g_at + dilation * grad_steps[1]
                    next_q = q_at + dilation * q_steps[1]
                    next_k = k0 + ahead * k_steps[1] + side * k_steps[2]
                    next_v = v0 + ahead * v_steps[1] + side * v_steps[2]
                    next_o = o0 + (residue + start * dilation) * out_steps[1] + side * out_steps[2]
                    _load_row(kernel, channels, q, q_at, q_step, columns, queries, factor, head_dim)
                    _load_row(kernel, channels, grad, g_at, g_step, columns, slopes, one, head_dim)
                    for column in range(columns):
                        _prefetch(channels, grad, next_g + column * g_step)
                        _prefetch(channels, q, next_q + column * q_step)
                        _prefetch(channels, k, next_k + column * k_step)
                        _prefetch(channels, v, next_v + column * v_step)
                        _prefetch(channels, grad_q, o_at + column * o_step)
                        _prefetch(channels, grad_k, next_o + column * o_step)
                        _prefetch(channels, grad_v, next_o + column * o_step)
                        left = _start(column, columns, size)
                        key = buffer + left * padded * slots
                        own = column * padded
                        _products(kernel, channels, queries, own, keys_by_slot, key, window)
                        _products(kernel, channels, slopes, own, values_by_slot, key, grad_window)
                        b_offset = (left - column) * slots
                        total = _softmax(kernel, channels, window, bias_rows, b0 + b_offset)
                        b_offset += (size - 1) * slots
                        _slopes(kernel, channels, window, one / total, grad_window, bias_sums, b_offset)
                        _mix(
                            kernel, channels, grad_window, start, keys, key, np.float32(scale), results, own
                        )
                        _add(kernel, channels, grad_window, start, queries, own, key_sums, key)
                        _add(kernel, channels, window, start, slopes, own, value_sums, key)
                    _store_row(kernel, channels, results, columns, grad_q, o_at, o_step, head_dim)
                _gather_bias(bias_sums, layout, rows, row, flat_bias, item * wide * wide)
