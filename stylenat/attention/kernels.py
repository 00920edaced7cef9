"""The fused backend's loops, compiled by Numba for the CPU at hand; `fused.py` alone imports this module.

The tokens of one residue on both axes are a *group*: a grid of its own, on which the neighborhood has no
dilation. A call works through groups (or bands of rows of a large one), query row by query row, with the k
key rows of its windows in a small buffer: `slots` of them, a power of two, row r in slot r mod `slots`. The
buffer stays in the caches and holds keys and values in the two orders that vectors need:

    by slot      [column][channel][slot]    a vector is the slots of a column: k columns give the k × k logits
                                            of a query, by one product a channel and column
    by channel   [column][slot][channel]    a vector is the channels of a key: for weighted sums

The innermost steps are written in LLVM's own terms, with vectors and the unrolling that plain loops would not
get. They are compiled for a kernel size and for channels in multiples of `CHANNELS`, which they read from the
lengths of two tuples: Numba compiles for types, and the length is part of one.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

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
# 2^x for |x| ≤ 1/2, by powers of x from the last to the first: least squares; relative error, rounding
# included, below 1e-7.
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
    """Make w the softmax weights, by a factor, and grad, theirs, that of the logits; add it to bias."""

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


class Memory(NamedTuple):
    """A tensor `(B, H, W, heads, c)` as the loops see it.

    Attributes:
        data: its memory from its first entry on: float32 or, for bfloat16, uint16.
        steps: entries from one image, row, column and head to the next; channels are next to each other.
    """

    data: Any
    steps: Any


class Grid(NamedTuple):
    """Sizes of a call.

    Attributes:
        height: tokens of a column.
        width: tokens of a row.
        channels: of a head.
    """

    height: int
    width: int
    channels: int


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


class _Rows(NamedTuple):
    """A share's keys and queries while they are worked on; by slot and by channel as in the module's text.

    Attributes:
        keys_by_slot: keys.
        values_by_slot: values; for gradients alone.
        keys: by channel; for gradients alone.
        values: by channel; for outputs alone.
        key_sums: gradients of the keys, by channel.
        value_sums: of the values.
        queries: a row of queries [column][channel], times scale and in powers of two.
        grads: a row of the output's gradient.
        results: a row of outputs, or of the queries' gradients.
        window: a query's weights [column][slot].
        grad_window: their gradients.
        bias_sums: gradients of a query row's bias [column offset][slot].
    """

    keys_by_slot: Any
    values_by_slot: Any
    keys: Any
    values: Any
    key_sums: Any
    value_sums: Any
    queries: Any
    grads: Any
    results: Any
    window: Any
    grad_window: Any
    bias_sums: Any


@njit(inline="always")
def _slots(size: int) -> int:
    """As `slots_of`."""
    slots = 4
    while slots < size:
        slots *= 2
    return slots


@njit
def _rows(kernel: Any, channels: Any, width: int, gradients: bool) -> Any:
    """Memory for any share of a grid of that width."""
    size = len(kernel)
    padded = CHANNELS * len(channels)
    entries = (width + _COLUMNS) * padded * _slots(size)
    for_outputs = 0 if gradients else entries
    for_gradients = entries if gradients else 0
    return _Rows(
        np.zeros(entries, np.float32),
        np.zeros(for_gradients, np.float32),
        np.zeros(for_gradients, np.float32),
        np.zeros(for_outputs, np.float32),
        np.zeros(for_gradients, np.float32),
        np.zeros(for_gradients, np.float32),
        np.zeros(width * padded, np.float32),
        np.zeros(width * padded, np.float32),
        np.zeros(width * padded, np.float32),
        np.zeros(size * _slots(size), np.float32),
        np.zeros(size * _slots(size), np.float32),
        np.zeros((2 * size - 1) * _slots(size), np.float32),
    )


@njit(inline="always")
def _start(place: int, length: int, size: int) -> int:
    """First key of a query's window on an axis of `length` members: shifted inward at the border."""
    return min(max(place - size // 2, 0), length - size)


@njit(inline="always")
def _members(tokens: int, residue: int, dilation: int) -> int:
    """Members of a group on an axis."""
    return (tokens - residue + dilation - 1) // dilation


@njit(inline="always")
def _at(x: Any, share: Any, row: int, side: int) -> int:
    """Where a group's row begins in a tensor's memory."""
    y = share.residue + row * share.dilation
    return (
        share.image * x.steps[0] + y * x.steps[1] + (share.side + side) * x.steps[2] + share.head * x.steps[3]
    )


@njit
def _spread_bias(kernel: Any, table: Any, t0: int, share: Any) -> Any:
    """Of the share's query rows the bias, in powers of two: [row][column offset][slot].

    It is -1e30 in the slots whose keys the row does not see.
    """
    size = len(kernel)
    slots = _slots(size)
    wide = 2 * size - 1
    spread = np.full((share.last - share.first) * wide * slots, np.float32(_NEVER), np.float32)
    for query in range(share.first, share.last):
        start = _start(query, share.rows, size)
        for row in range(start, start + size):
            entry = t0 + (row - query + size - 1) * wide
            place = (query - share.first) * wide * slots + row % slots
            for j in range(wide):
                spread[place + j * slots] = table[entry + j] * np.float32(1 / _LN2)
    return spread


@njit
def _gather_bias(kernel: Any, spread: Any, share: Any, query: int, grad: Any) -> None:
    """Add a query row's [column offset][slot] to the table's gradient, and empty it."""
    size = len(kernel)
    slots = _slots(size)
    wide = 2 * size - 1
    start = _start(query, share.rows, size)
    for row in range(start, start + size):
        entry = (row - query + size - 1) * wide
        for j in range(wide):
            grad[entry + j] += spread[j * slots + row % slots]
    spread[:] = 0


@njit
def _load_by_slot(kernel: Any, channels: Any, x: Any, share: Any, row: int, grid: Any, to: Any) -> None:
    """A row of keys or values of all groups into the buffer [column][channel][slot]."""
    slots = _slots(len(kernel))
    entries = CHANNELS * len(channels) * slots
    step = share.dilation * x.steps[2]
    for side in range(share.sides):
        first = _at(x, share, row, side)
        target = side * share.most * entries + row % slots
        for column in range(_members(grid.width, share.side + side, share.dilation)):
            source = first + column * step
            _move_to_slot(kernel, channels, x.data, source, to, target + column * entries, grid.channels)


@njit
def _load_by_channel(kernel: Any, channels: Any, x: Any, share: Any, row: int, grid: Any, to: Any) -> None:
    """A row of keys or values of all groups into the buffer [column][slot][channel]."""
    slots = _slots(len(kernel))
    padded = CHANNELS * len(channels)
    step = share.dilation * x.steps[2]
    one = np.float32(1)
    for side in range(share.sides):
        first = _at(x, share, row, side)
        target = (side * share.most * slots + row % slots) * padded
        for column in range(_members(grid.width, share.side + side, share.dilation)):
            source = first + column * step
            place = target + column * slots * padded
            _move(kernel, channels, x.data, source, to, place, grid.channels, one)


@njit
def _flush(
    kernel: Any, channels: Any, sums: Any, share: Any, row: int, grid: Any, to: Any, factor: Any
) -> None:
    """Add a row of all groups of the buffer [column][slot][channel] to a gradient, and empty it."""
    slots = _slots(len(kernel))
    padded = CHANNELS * len(channels)
    step = share.dilation * to.steps[2]
    for side in range(share.sides):
        first = _at(to, share, row, side)
        source = (side * share.most * slots + row % slots) * padded
        for column in range(_members(grid.width, share.side + side, share.dilation)):
            place = source + column * slots * padded
            target = first + column * step
            _move_sums(kernel, channels, sums, place, to.data, target, grid.channels, factor)


@njit
def _load_queries(
    kernel: Any, channels: Any, x: Any, first: int, step: int, columns: int, to: Any, factor: Any, count: int
) -> None:
    """A row of queries, times a factor: [column][channel]."""
    padded = CHANNELS * len(channels)
    for column in range(columns):
        _move(kernel, channels, x, first + column * step, to, column * padded, count, factor)


@njit
def _store_queries(
    kernel: Any, channels: Any, row: Any, columns: int, to: Any, first: int, step: int, count: int
) -> None:
    """A row [column][channel] into a tensor."""
    padded = CHANNELS * len(channels)
    for column in range(columns):
        _move(kernel, channels, row, column * padded, to, first + column * step, count, np.float32(1))


# --- The two passes. Rows that come next are brought into the caches while others are worked on.


@njit
def _attend_row(
    kernel: Any,
    channels: Any,
    grid: Any,
    share: Any,
    side: int,
    row: int,
    ahead: int,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    bias: Any,
    factor: Any,
    rows: Any,
) -> None:
    """The outputs of a query row of one group; key row `ahead` comes next."""
    size = len(kernel)
    padded = CHANNELS * len(channels)
    slots = _slots(size)
    columns = _members(grid.width, share.side + side, share.dilation)
    start = _start(row, share.rows, size)
    buffer = side * share.most * padded * slots
    b0 = ((row - share.first) * (2 * size - 1) + size - 1) * slots
    q_step = share.dilation * q.steps[2]
    out_step = share.dilation * out.steps[2]
    first_out = _at(out, share, row, side)
    next_q = _at(q, share, row + 1, side)
    next_k = _at(k, share, ahead, side)
    next_v = _at(v, share, ahead, side)
    _load_queries(
        kernel,
        channels,
        q.data,
        _at(q, share, row, side),
        q_step,
        columns,
        rows.queries,
        factor,
        grid.channels,
    )
    for column in range(columns):
        _prefetch(channels, q.data, next_q + column * q_step)
        _prefetch(channels, k.data, next_k + column * share.dilation * k.steps[2])
        _prefetch(channels, v.data, next_v + column * share.dilation * v.steps[2])
        _prefetch(channels, out.data, first_out + column * out_step)
        left = _start(column, columns, size)
        own = column * padded
        key = buffer + left * padded * slots
        _products(kernel, channels, rows.queries, own, rows.keys_by_slot, key, rows.window)
        total = _softmax(kernel, channels, rows.window, bias, b0 + (left - column) * slots)
        one_by = np.float32(1) / total
        _mix(kernel, channels, rows.window, start, rows.values, key, one_by, rows.results, own)
    _store_queries(kernel, channels, rows.results, columns, out.data, first_out, out_step, grid.channels)


@njit
def _attend_share(
    kernel: Any,
    channels: Any,
    grid: Any,
    share: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    bias: Any,
    factor: Any,
    rows: Any,
) -> None:
    """The outputs of a share."""
    size = len(kernel)
    loaded = _start(share.first, share.rows, size)
    for row in range(share.first, share.last):
        start = _start(row, share.rows, size)
        while loaded < start + size:
            _load_by_slot(kernel, channels, k, share, loaded, grid, rows.keys_by_slot)
            _load_by_channel(kernel, channels, v, share, loaded, grid, rows.values)
            loaded += 1
        for side in range(share.sides):
            _attend_row(kernel, channels, grid, share, side, row, loaded, q, k, v, out, bias, factor, rows)


@njit
def _share(grid: Any, item: Any, dilation: int, side: int) -> Any:
    """An item's groups from a residue of the columns on."""
    image, head, residue, first, last = item
    most = _members(grid.width, 0, dilation)
    sides = min(max(1, _COLUMNS // most), dilation - side)
    rows = _members(grid.height, residue, dilation)
    return _Share(image, head, residue, dilation, rows, first, last, side, sides, most)


@njit(nogil=True, error_model="numpy")
def _forward(
    kernel: Any,
    channels: Any,
    items: Any,
    heads: Any,
    grid: Any,
    q: Any,
    k: Any,
    v: Any,
    bias: Any,
    out: Any,
    scale: Any,
) -> None:
    """The outputs of some items.

    Args:
        kernel: a tuple of kernel_size entries.
        channels: a tuple of an entry for each `CHANNELS` channels of a head, the last ones padding.
        items: int64 `(N, 5)`: image, head, residue of the rows, and of that group the first query row and the
            one after the last.
        heads: int64 `(heads, 2)`: dilation, and where the head's table begins in `bias`.
        grid: a `Grid`.
        q: a `Memory`.
        k: a `Memory`.
        v: a `Memory`.
        bias: all tables, float32.
        out: a `Memory`; written.
        scale: factor on q.
    """
    rows = _rows(kernel, channels, grid.width, False)
    factor = np.float32(scale / _LN2)
    for i in range(len(items)):
        item = (items[i, 0], items[i, 1], items[i, 2], items[i, 3], items[i, 4])
        dilation, table = heads[items[i, 1]]
        share = _share(grid, item, dilation, 0)
        spread = _spread_bias(kernel, bias, table, share)
        side = 0
        while side < dilation:
            share = _share(grid, item, dilation, side)
            _attend_share(kernel, channels, grid, share, q, k, v, out, spread, factor, rows)
            side += share.sides


@njit
def _differentiate_row(
    kernel: Any,
    channels: Any,
    grid: Any,
    share: Any,
    side: int,
    row: int,
    ahead: int,
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    grads: Any,
    bias: Any,
    scale: Any,
    rows: Any,
) -> None:
    """The gradients that a query row of one group gives; key row `ahead` comes next."""
    size = len(kernel)
    padded = CHANNELS * len(channels)
    slots = _slots(size)
    columns = _members(grid.width, share.side + side, share.dilation)
    start = _start(row, share.rows, size)
    buffer = side * share.most * padded * slots
    b0 = (row - share.first) * (2 * size - 1) * slots
    grad_q, grad_k, grad_v = grads
    grad_step = share.dilation * grad.steps[2]
    q_step = share.dilation * q.steps[2]
    out_step = share.dilation * grad_q.steps[2]
    first_out = _at(grad_q, share, row, side)
    next_grad = _at(grad, share, row + 1, side)
    next_q = _at(q, share, row + 1, side)
    next_k = _at(k, share, ahead, side)
    next_v = _at(v, share, ahead, side)
    flushed = _at(grad_k, share, start, side)  # next
    one = np.float32(1)
    base = np.float32(scale / _LN2)
    count = grid.channels
    first = _at(q, share, row, side)
    _load_queries(kernel, channels, q.data, first, q_step, columns, rows.queries, base, count)
    first = _at(grad, share, row, side)
    _load_queries(kernel, channels, grad.data, first, grad_step, columns, rows.grads, one, count)
    for column in range(columns):
        _prefetch(channels, grad.data, next_grad + column * grad_step)
        _prefetch(channels, q.data, next_q + column * q_step)
        _prefetch(channels, k.data, next_k + column * share.dilation * k.steps[2])
        _prefetch(channels, v.data, next_v + column * share.dilation * v.steps[2])
        _prefetch(channels, grad_q.data, first_out + column * out_step)
        _prefetch(channels, grad_k.data, flushed + column * out_step)
        _prefetch(channels, grad_v.data, flushed + column * out_step)
        left = _start(column, columns, size)
        own = column * padded
        key = buffer + left * padded * slots
        entry = (left - column + size - 1) * slots
        window = rows.window
        grad_window = rows.grad_window
        _products(kernel, channels, rows.queries, own, rows.keys_by_slot, key, window)
        _products(kernel, channels, rows.grads, own, rows.values_by_slot, key, grad_window)
        total = _softmax(kernel, channels, window, bias, b0 + entry)
        _slopes(kernel, channels, window, one / total, grad_window, rows.bias_sums, entry)
        _mix(kernel, channels, grad_window, start, rows.keys, key, np.float32(scale), rows.results, own)
        _add(kernel, channels, grad_window, start, rows.queries, own, rows.key_sums, key)
        _add(kernel, channels, window, start, rows.grads, own, rows.value_sums, key)
    _store_queries(kernel, channels, rows.results, columns, grad_q.data, first_out, out_step, count)


@njit
def _flush_rows(
    kernel: Any, channels: Any, grid: Any, share: Any, first: int, last: int, grads: Any, rows: Any
) -> None:
    """Add the sums of key rows that no query row will see again to the gradients of keys and values."""
    _, grad_k, grad_v = grads
    for row in range(first, last):
        _flush(kernel, channels, rows.key_sums, share, row, grid, grad_k, np.float32(_LN2))
        _flush(kernel, channels, rows.value_sums, share, row, grid, grad_v, np.float32(1))


@njit
def _differentiate_share(
    kernel: Any,
    channels: Any,
    grid: Any,
    share: Any,
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    grads: Any,
    bias: Any,
    grad_bias: Any,
    scale: Any,
    rows: Any,
) -> None:
    """The gradients that a share gives."""
    size = len(kernel)
    loaded = _start(share.first, share.rows, size)
    flushed = loaded
    for row in range(share.first, share.last):
        start = _start(row, share.rows, size)
        _flush_rows(kernel, channels, grid, share, flushed, start, grads, rows)
        flushed = start
        while loaded < start + size:
            _load_by_slot(kernel, channels, k, share, loaded, grid, rows.keys_by_slot)
            _load_by_channel(kernel, channels, k, share, loaded, grid, rows.keys)
            _load_by_slot(kernel, channels, v, share, loaded, grid, rows.values_by_slot)
            loaded += 1
        for side in range(share.sides):
            _differentiate_row(
                kernel, channels, grid, share, side, row, loaded, grad, q, k, v, grads, bias, scale, rows
            )
        _gather_bias(kernel, rows.bias_sums, share, row, grad_bias)
    _flush_rows(kernel, channels, grid, share, flushed, loaded, grads, rows)


@njit(nogil=True, error_model="numpy")
def _backward(
    kernel: Any,
    channels: Any,
    items: Any,
    heads: Any,
    grid: Any,
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    bias: Any,
    grads: Any,
    grad_bias: Any,
    scale: Any,
) -> None:
    """The gradients of some items, which share no key.

    Args:
        kernel: as of `_forward`.
        channels: likewise.
        items: likewise.
        heads: likewise.
        grid: likewise.
        grad: the output's gradient, a `Memory`.
        q: likewise.
        k: likewise.
        v: likewise.
        bias: all tables, float32.
        grads: of q, which is written, of k and of v, which are added to and float32: three of `Memory`.
        grad_bias: float32 `(N, (2k-1)²)`: each item's part of the gradient of its head's table; added to.
        scale: factor on q.
    """
    rows = _rows(kernel, channels, grid.width, True)
    for i in range(len(items)):
        item = (items[i, 0], items[i, 1], items[i, 2], items[i, 3], items[i, 4])
        dilation, table = heads[items[i, 1]]
        share = _share(grid, item, dilation, 0)
        spread = _spread_bias(kernel, bias, table, share)
        side = 0
        while side < dilation:
            share = _share(grid, item, dilation, side)
            _differentiate_share(
                kernel, channels, grid, share, grad, q, k, v, grads, spread, grad_bias[i], scale, rows
            )
            side += share.sides


def _kept(function: Any) -> Any:
    """The function, to be kept on disk when it is compiled, where there is a folder to write to."""
    with contextlib.suppress(RuntimeError):  # neither beside the package nor in the user's cache folder
        function.enable_caching()
    return function


forward = _kept(_forward)
backward = _kept(_backward)
