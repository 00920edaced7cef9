"""The fused backend's innermost loops: steps, each for a row of one group of tokens.

They are written in LLVM's own terms, with vectors and the unrolling that plain loops would not get, and
compiled for the CPU at hand, a kernel size, a head's channels and a type of tensors: that takes one to three
tenths of a second. `kernels.py` calls them by address. It keeps the k key rows of a query row's windows in
*slots*, a power of two, row r in slot r mod `slots`, and keys and values in the two orders that vectors need:

    by slot      [column][channel][slot]    a vector is the slots of a column: k columns give the k × k logits
                                            of a query, by one product a channel and column
    by channel   [column][slot][channel]    a vector is the channels of a key: for weighted sums

Channels are padded with zeros to `padded(channels)`. Tensors are float32 or bfloat16 and given by the address
of their first channel and the bytes from one column to the next; all else is float32.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llvmlite import binding, ir
from numba.core import cgutils

LN2 = math.log(2)
NEVER = -1e30  # logit of a slot that is not in the window
_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_LONG = ir.IntType(64)
_SHORT = ir.IntType(16)
_BYTE = ir.IntType(8)
_VECTOR = 8  # channels are padded to it or to a multiple of twice as many
_LINE = 64  # bytes that a cache brings in at once
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


class Kind(NamedTuple):
    """What steps are compiled for.

    Attributes:
        size: kernel size.
        channels: of a head.
        bfloat16: whether the tensors are bfloat16, and not float32.
        gradients: whether for gradients, and not for outputs.
    """

    size: int
    channels: int
    bfloat16: bool
    gradients: bool


class Steps(NamedTuple):
    """Addresses of compiled steps; each one's parameters are stated where it is written.

    Attributes:
        load: a row of a tensor, by channel.
        load_by_slot: a row of a tensor, by slot.
        flush: a row of sums, added to a float32 tensor.
        queries: a row of queries: `_attend` or, for gradients, `_differentiate`.
    """

    load: int
    load_by_slot: int
    flush: int
    queries: int


def slots_of(kernel_size: int) -> int:
    """Slots for a kernel size: key rows of a vector."""
    return max(4, 1 << (kernel_size - 1).bit_length())


def padded(channels: int) -> int:
    """Channels of a head in whole vectors."""
    if channels <= _VECTOR:
        return _VECTOR
    return -(-channels // (2 * _VECTOR)) * 2 * _VECTOR


_engines: list[Any] = []  # LLVM's, which hold compiled code: it is there as long as they are


@functools.cache
def compiled(kind: Kind) -> Steps:
    """The steps of a kind, compiled at its first call."""
    module = ir.Module()
    for step in (_load, _load_by_slot, _flush, _differentiate if kind.gradients else _attend):
        step(_Code(module, kind))
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
    )
    parsed = binding.parse_assembly(str(module))
    options = binding.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = False  # vectors are written out below
    options.slp_vectorization = False
    passes = binding.create_pass_builder(target, options)
    passes.getModulePassManager().run(parsed, passes)
    engine = binding.create_mcjit_compiler(parsed, target)
    engine.finalize_object()
    _engines.append(engine)
    return Steps(*(engine.get_function_address(name) for name in Steps._fields))


# Vectors


class _Code:
    """LLVM code of one step: float32 vectors and where they are.

    Args:
        module: where the step goes.
        kind: what it is for.
    """

    builder: Any

    def __init__(self, module: Any, kind: Kind) -> None:
        self.module = module
        self.kind = kind
        self.size = kind.size
        self.slots = slots_of(kind.size)
        self.channels = padded(kind.channels)
        self.lanes = 2 * _VECTOR if self.channels % (2 * _VECTOR) == 0 else _VECTOR  # channels of a vector
        self.rows = ir.VectorType(_FLOAT, self.slots)
        self.parts = ir.VectorType(_FLOAT, self.lanes)

    @contextlib.contextmanager
    def function(self, name: str, integers: str, floats: str = "") -> Iterator[dict[str, Any]]:
        """Begin the step, end it after the block; its parameters by name, 64-bit integers first."""
        names = [*integers.split(), *floats.split()]
        types = [_LONG] * len(integers.split()) + [_FLOAT] * len(floats.split())
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), types), name)
        self.builder = ir.IRBuilder(function.append_basic_block())
        yield dict(zip(names, function.args, strict=True))
        self.builder.ret_void()

    def each(self, count: Any) -> Any:
        """Context of a loop whose `.index` counts up to, but not including, `count`."""
        return cgutils.for_range(self.builder, count)

    def number(self, value: int) -> Any:
        """A 64-bit constant."""
        return ir.Constant(_LONG, value)

    def times(self, value: Any, factor: int) -> Any:
        """A 64-bit integer times a constant."""
        return self.builder.mul(value, self.number(factor))

    def floats(self, address: Any) -> Any:
        """Pointer to floats at an address."""
        return self.builder.inttoptr(address, _FLOAT.as_pointer())

    def sums(self, count: int, vector: Any) -> list[Any]:
        """Places of vectors, made zero here."""
        zero = ir.Constant(vector, [0.0] * vector.count)
        return [cgutils.alloca_once_value(self.builder, zero) for _ in range(count)]

    def window(self) -> Any:
        """Pointer to a query's weights [k columns][slots], uninitialized."""
        place = cgutils.alloca_once(self.builder, _FLOAT, self.size * self.slots)
        place.align = _LINE
        return place

    def further(self, pointer: Any, entries: Any, each: int = 1) -> Any:
        """Pointer some times `each` entries further on."""
        count = self.number(entries * each) if isinstance(entries, int) else self.times(entries, each)
        return self.builder.gep(pointer, [count])

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
        kind = ir.FunctionType(a.type, [a.type] * 3)
        name = f"llvm.fmuladd.v{a.type.count}f32"
        return self.builder.call(cgutils.get_or_insert_function(self.module, kind, name), [a, b, c])

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


# Tokens of tensors


class _Tensor(NamedTuple):
    """A row of tokens in a tensor's memory.

    Attributes:
        code: the step that uses it.
        address: of its first channel.
        step: bytes from one token to the next.
        bfloat16: its type, else float32.
    """

    code: _Code
    address: Any
    step: Any
    bfloat16: bool

    def at(self, column: Any, channel: Any) -> Any:
        """Pointer to an entry."""
        builder = self.code.builder
        entry = _SHORT if self.bfloat16 else _FLOAT
        first = builder.inttoptr(self.address, _BYTE.as_pointer())
        token = builder.gep(first, [builder.mul(column, self.step)])
        return builder.gep(builder.bitcast(token, entry.as_pointer()), [channel])

    def get(self, column: Any, channel: Any, lanes: int) -> Any:
        """A vector of float32, of the channels from one on."""
        code = self.code
        pointer = self.at(column, channel)
        if not self.bfloat16:
            return code.load(pointer, ir.VectorType(_FLOAT, lanes))
        place = code.builder.bitcast(pointer, ir.VectorType(_SHORT, lanes).as_pointer())
        bits = code.builder.zext(code.builder.load(place, align=2), ir.VectorType(_INT, lanes))
        high = code.builder.shl(bits, code.all_int(16, lanes))
        return code.builder.bitcast(high, ir.VectorType(_FLOAT, lanes))

    def put(self, value: Any, column: Any, channel: Any) -> None:
        """A vector of float32 to the channels from one on: to bfloat16 rounded to nearest even."""
        code = self.code
        builder = code.builder
        pointer = self.at(column, channel)
        if not self.bfloat16:
            code.store(value, pointer)
            return
        lanes = value.type.count
        bits = builder.bitcast(value, ir.VectorType(_INT, lanes))
        odd = builder.and_(builder.lshr(bits, code.all_int(16, lanes)), code.all_int(1, lanes))
        rounded = builder.add(builder.add(bits, odd), code.all_int(0x7FFF, lanes))
        number = builder.fcmp_ordered("==", value, value)  # rounding could make a NaN an infinity
        bits = builder.select(number, rounded, code.all_int(0x7FC00000, lanes))
        short = builder.trunc(builder.lshr(bits, code.all_int(16, lanes)), ir.VectorType(_SHORT, lanes))
        builder.store(short, builder.bitcast(pointer, short.type.as_pointer()), align=2)

    def fetch(self, column: Any) -> None:
        """Have a token brought into the caches; the address need not be the tensor's."""
        code = self.code
        first = code.builder.bitcast(self.at(column, code.number(0)), _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(code.module, kind, "llvm.prefetch.p0")
        flags = [ir.Constant(_INT, flag) for flag in (0, 3, 1)]
        for i in range(0, code.channels * (2 if self.bfloat16 else 4), _LINE):
            code.builder.call(function, [code.further(first, i), *flags])


def _channels(code: _Code, step: Callable[[Any, int], None]) -> None:
    """Code of a step on each channel: on vectors where none is padding, else on one at a time.

    Args:
        code: where it goes.
        step: is given a channel and how many to take from it on.
    """
    if code.kind.channels == code.channels:
        for i in range(0, code.channels, code.lanes):
            step(code.number(i), code.lanes)
    else:
        with code.each(code.number(code.kind.channels)) as loop:
            step(loop.index, 1)


def _load_row(code: _Code, x: _Tensor, columns: Any, to: Any, each: int, factor: Any) -> None:
    """to[column · each + c] = factor · x[column, c]."""
    with code.each(columns) as loop:
        own = code.further(to, loop.index, each)

        def step(channel: Any, lanes: int) -> None:
            value = x.get(loop.index, channel, lanes)
            scaled = code.builder.fmul(value, code.spread(factor, value.type))
            code.store(scaled, code.further(own, channel))

        _channels(code, step)


def _store_row(code: _Code, row: Any, columns: Any, x: _Tensor) -> None:
    """x[column, c] = row[column, c]."""
    with code.each(columns) as loop:
        own = code.further(row, loop.index, code.channels)

        def step(channel: Any, lanes: int) -> None:
            value = code.load(code.further(own, channel), ir.VectorType(_FLOAT, lanes))
            x.put(value, loop.index, channel)

        _channels(code, step)


def _load(code: _Code) -> None:
    """A row of a tensor into one slot, by channel.

    Parameters: `source`, the row's address; `step`, bytes a column; `columns`; `to`, the slot's first entry.
    """
    with code.function("load", "source step columns to") as given:
        x = _Tensor(code, given["source"], given["step"], code.kind.bfloat16)
        each = code.slots * code.channels
        _load_row(code, x, given["columns"], code.floats(given["to"]), each, ir.Constant(_FLOAT, 1.0))


def _load_by_slot(code: _Code) -> None:
    """A row of a tensor into one slot, by slot; parameters as of `_load`."""
    with code.function("load_by_slot", "source step columns to") as given:
        x = _Tensor(code, given["source"], given["step"], code.kind.bfloat16)
        to = code.floats(given["to"])
        with code.each(given["columns"]) as loop:  # so that they come all at once
            x.fetch(loop.index)
        with code.each(given["columns"]) as loop:
            own = code.further(to, loop.index, code.slots * code.channels)

            def step(channel: Any, lanes: int) -> None:
                for lane in range(lanes):
                    place = code.builder.add(channel, code.number(lane))
                    code.store(x.get(loop.index, place, 1), code.further(own, place, code.slots))

            _channels(code, step)


def _flush(code: _Code) -> None:
    """Add `factor` times one slot's row of sums, by channel, to a float32 tensor, and make the sums zero."""
    with code.function("flush", "sums columns to step", "factor") as given:
        x = _Tensor(code, given["to"], given["step"], False)
        sums = code.floats(given["sums"])
        with code.each(given["columns"]) as loop:
            own = code.further(sums, loop.index, code.slots * code.channels)

            def step(channel: Any, lanes: int) -> None:
                place = code.further(own, channel)
                value = code.load(place, ir.VectorType(_FLOAT, lanes))
                factor = code.spread(given["factor"], value.type)
                x.put(code.fused(value, factor, x.get(loop.index, channel, lanes)), loop.index, channel)
                code.store(ir.Constant(value.type, [0.0] * lanes), place)

            _channels(code, step)


# One query: x is its vector of channels, w its window


def _products(code: _Code, x: Any, rows: Any, w: Any) -> None:
    """w[j, s] = Σ_c x[c] · rows[j, c, s]: of the query with every key of its window."""
    sums = code.sums(code.size, code.rows)
    with code.each(code.number(code.channels)) as loop:
        value = code.spread(code.builder.load(code.further(x, loop.index)), code.rows)
        row = code.further(rows, loop.index, code.slots)
        for j, place in enumerate(sums):
            keys = code.load(code.further(row, j * code.channels * code.slots), code.rows)
            code.builder.store(code.fused(keys, value, code.builder.load(place)), place)
    for j, place in enumerate(sums):
        code.store(code.builder.load(place), code.further(w, j * code.slots))


def _softmax(code: _Code, w: Any, bias: Any) -> Any:
    """w[j, s] = 2^(w[j, s] + bias[j, s] - greatest); the sum is returned."""
    builder = code.builder
    never = ir.Constant(code.rows, [NEVER] * code.slots)
    logits = []
    for j in range(code.size):
        own = code.load(code.further(w, j * code.slots), code.rows)
        own_bias = code.load(code.further(bias, j * code.slots), code.rows)
        seen = builder.fcmp_ordered(">", own_bias, never)
        logits.append(builder.select(seen, builder.fadd(own, own_bias), never))
    greatest = code.spread(code.across(_tree(list(logits), code.larger), code.larger), code.rows)
    powers = []
    for j, logit in enumerate(logits):
        powers.append(code.exp2(builder.fsub(logit, greatest)))
        code.store(powers[j], code.further(w, j * code.slots))
    return code.across(_tree(powers, builder.fadd), builder.fadd)


def _slopes(code: _Code, w: Any, factor: Any, grad: Any, bias: Any) -> None:
    """Make w the softmax weights, by a factor, and grad, theirs, that of the logits; add it to bias."""
    builder = code.builder
    scale = code.spread(factor, code.rows)
    nothing = ir.Constant(code.rows, [0.0] * code.slots)
    weights = []
    gradients = []
    products = []
    for j in range(code.size):
        weights.append(builder.fmul(code.load(code.further(w, j * code.slots), code.rows), scale))
        code.store(weights[j], code.further(w, j * code.slots))
        given = code.load(code.further(grad, j * code.slots), code.rows)
        seen = builder.fcmp_unordered("!=", weights[j], nothing)
        gradients.append(builder.select(seen, given, nothing))  # where no key is, there may be a NaN
        products.append(builder.fmul(weights[j], gradients[j]))
    mean = code.spread(code.across(_tree(products, builder.fadd), builder.fadd), code.rows)
    for j in range(code.size):
        slope = builder.fmul(weights[j], builder.fsub(gradients[j], mean))
        code.store(slope, code.further(grad, j * code.slots))
        place = code.further(bias, j * code.slots)
        code.store(builder.fadd(code.load(place, code.rows), slope), place)


def _mix(code: _Code, w: Any, start: Any, keys: Any, factor: Any, out: Any) -> None:
    """out[c] = factor · Σ w[j, s] · keys[j, s, c], over the window's rows from `start` on."""
    builder = code.builder
    parts = code.channels // code.lanes
    sums = code.sums(2 * parts, code.parts)  # two each, so that additions need not wait for each other
    with code.each(code.number(code.size)) as loop:
        slot = builder.and_(builder.add(start, loop.index), code.number(code.slots - 1))
        weight = code.further(w, slot)
        key = code.further(keys, slot, code.channels)
        for j in range(code.size):
            value = code.spread(builder.load(code.further(weight, j * code.slots)), code.parts)
            for i in range(parts):
                place = sums[i + j % 2 * parts]
                offset = j * code.slots * code.channels + i * code.lanes
                part = code.load(code.further(key, offset), code.parts)
                builder.store(code.fused(part, value, builder.load(place)), place)
    scale = code.spread(factor, code.parts)
    for i in range(parts):
        total = builder.fadd(builder.load(sums[i]), builder.load(sums[i + parts]))
        code.store(builder.fmul(total, scale), code.further(out, i * code.lanes))


def _add(code: _Code, w: Any, start: Any, x: Any, grad: Any) -> None:
    """grad[j, s, c] += w[j, s] · x[c], over the window's rows from `start` on."""
    builder = code.builder
    values = []
    for i in range(code.channels // code.lanes):
        values.append(code.load(code.further(x, i * code.lanes), code.parts))
    with code.each(code.number(code.size)) as loop:
        slot = builder.and_(builder.add(start, loop.index), code.number(code.slots - 1))
        weight = code.further(w, slot)
        place = code.further(grad, slot, code.channels)
        for j in range(code.size):
            factor = code.spread(builder.load(code.further(weight, j * code.slots)), code.parts)
            for i, value in enumerate(values):
                target = code.further(place, j * code.slots * code.channels + i * code.lanes)
                code.store(code.fused(value, factor, code.load(target, code.parts)), target)


def _first_column(code: _Code, column: Any, columns: Any) -> Any:
    """First column of a query's window: shifted inward at the border."""
    builder = code.builder
    left = builder.sub(column, code.number(code.size // 2))
    left = builder.select(builder.icmp_signed("<", left, code.number(0)), code.number(0), left)
    last = builder.sub(columns, code.number(code.size))
    return builder.select(builder.icmp_signed(">", left, last), last, left)


# A row of queries


def _attend(code: _Code) -> None:
    """A row of outputs.

    Parameters: `columns` of the row; `start`, the first key row; of the tensors q and out the row's address
    and bytes a column; of q, k and v the address of the row that comes next, to be fetched meanwhile; the
    bias [column offset][slot]; memory for rows, `queries` and `results`; keys by slot; values by channel;
    `factor` on the queries, which makes logits powers of two.
    """
    integers = "columns start q q_step next_q next_k k_step next_v v_step out out_step"
    memory = " bias queries results keys values"
    with code.function("queries", integers + memory, "factor") as given:
        low = code.kind.bfloat16
        columns = given["columns"]
        q = _Tensor(code, given["q"], given["q_step"], low)
        out = _Tensor(code, given["out"], given["out_step"], low)
        fetched = [_Tensor(code, given[f"next_{x}"], given[f"{x}_step"], low) for x in "qkv"]
        queries = code.floats(given["queries"])
        results = code.floats(given["results"])
        keys = code.floats(given["keys"])
        values = code.floats(given["values"])
        bias = code.floats(given["bias"])
        window = code.window()
        _load_row(code, q, columns, queries, code.channels, given["factor"])
        with code.each(columns) as loop:
            column = loop.index
            for tensor in (*fetched, out):
                tensor.fetch(column)
            left = _first_column(code, column, columns)
            first = code.times(left, code.channels * code.slots)
            offset = code.builder.add(code.builder.sub(left, column), code.number(code.size - 1))
            query = code.further(queries, column, code.channels)
            _products(code, query, code.further(keys, first), window)
            total = _softmax(code, window, code.further(bias, offset, code.slots))
            weight = code.builder.fdiv(ir.Constant(_FLOAT, 1.0), total)
            result = code.further(results, column, code.channels)
            _mix(code, window, given["start"], code.further(values, first), weight, result)
        _store_row(code, results, columns, out)


def _differentiate(code: _Code) -> None:
    """The gradients that a row of queries gives.

    Parameters: as of `_attend`, with `grad` the output's gradient and `grad_q` what is written; `flushed_k`
    and `flushed_v` the rows of the keys' and values' gradients, float32, to be fetched; all memory as in
    `kernels.py`; `factor` on the queries, as there, and `scale`, on the queries' gradients.
    """
    integers = (
        "columns start grad grad_step next_grad q q_step next_q next_k k_step next_v v_step "
        "grad_q grad_q_step flushed_k grad_k_step flushed_v grad_v_step"
    )
    memory = " bias queries grads results keys_by_slot values_by_slot keys key_sums value_sums bias_sums"
    with code.function("queries", integers + memory, "factor scale") as given:
        low = code.kind.bfloat16
        columns = given["columns"]
        start = given["start"]
        fetched = [
            _Tensor(code, given[f"next_{x}"], given[f"{x}_step"], low) for x in ("grad", "q", "k", "v")
        ]
        for name in "kv":
            fetched.append(_Tensor(code, given[f"flushed_{name}"], given[f"grad_{name}_step"], False))
        grad_q = _Tensor(code, given["grad_q"], given["grad_q_step"], low)
        at = {name: code.floats(given[name]) for name in memory.split()}
        window = code.window()
        grad_window = code.window()
        for name, to, factor in (
            ("q", "queries", given["factor"]),
            ("grad", "grads", ir.Constant(_FLOAT, 1.0)),
        ):
            x = _Tensor(code, given[name], given[f"{name}_step"], low)
            _load_row(code, x, columns, at[to], code.channels, factor)
        with code.each(columns) as loop:
            column = loop.index
            for tensor in (*fetched, grad_q):
                tensor.fetch(column)
            left = _first_column(code, column, columns)
            key = code.times(left, code.channels * code.slots)
            offset = code.builder.add(code.builder.sub(left, column), code.number(code.size - 1))
            entry = code.times(offset, code.slots)
            query, grad, result = (
                code.further(at[name], column, code.channels) for name in ("queries", "grads", "results")
            )
            _products(code, query, code.further(at["keys_by_slot"], key), window)
            _products(code, grad, code.further(at["values_by_slot"], key), grad_window)
            total = _softmax(code, window, code.further(at["bias"], entry))
            weight = code.builder.fdiv(ir.Constant(_FLOAT, 1.0), total)
            _slopes(code, window, weight, grad_window, code.further(at["bias_sums"], entry))
            _mix(code, grad_window, start, code.further(at["keys"], key), given["scale"], result)
            _add(code, grad_window, start, query, code.further(at["key_sums"], key))
            _add(code, window, start, grad, code.further(at["value_sums"], key))
        _store_row(code, at["results"], columns, grad_q)
