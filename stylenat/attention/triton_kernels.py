"""The triton backend's kernels; `triton.py` alone imports this module. Never run on a GPU.

The tokens of one residue on both axes are a *group*: a grid of its own, of `rows` × `columns` *members*, on
which the neighborhood has no dilation. A program has a tile of TILE × TILE members of one head's group, and
goes through what it needs around it in blocks of ROWS × COLUMNS members: the keys that its queries see, or
the queries that see its keys. No two programs add to the same number, so results repeat bit for bit.

Within a block all logits are computed, by one product, and those of keys that a query does not see become
-inf. q, k and v are `(B, H, W, heads, c)`, the channels of a head next to each other, the other strides the
same for all three; everything else is contiguous, and statistics are `(B, H, W, heads)`. `heads_table`
`(heads, 3)` holds the kernel size, the dilation and the table's first entry in `bias` of every head. Products
take operands of the type OPERAND and sum in float32.
"""

import triton
import triton.language as tl

_NEVER = tl.constexpr(-1.0e30)  # below every logit, and finite: -inf less -inf would be NaN


# --- Where things are


@triton.jit
def _head(heads_table, head):
    """A head's kernel size, dilation and first entry in the vector of all tables."""
    row = heads_table + 3 * head
    return tl.load(row), tl.load(row + 1), tl.load(row + 2)


@triton.jit
def _tile(program, height, width, dilation, TILE: tl.constexpr):
    """Residues of a program's group, its numbers of rows and of columns, and the first member of its tile."""
    tiles_across = tl.cdiv(tl.cdiv(width, dilation), TILE)
    column_residue = program % dilation
    column = program // dilation % tiles_across * TILE
    rest = program // dilation // tiles_across
    row_residue = rest % dilation
    row = rest // dilation * TILE
    rows = (height - row_residue + dilation - 1) // dilation
    columns = (width - column_residue + dilation - 1) // dilation
    return row_residue, column_residue, rows, columns, row, column


@triton.jit
def _members(row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows and columns of a block's members, counted row by row: `(ROWS · COLUMNS,)` each."""
    member = tl.arange(0, ROWS * COLUMNS)
    return row + member // COLUMNS, column + member % COLUMNS


@triton.jit
def _window_start(query, length, size):
    """First key of a query's window on one axis: around the query, shifted inwards at the borders."""
    return tl.maximum(tl.minimum(query - size // 2, length - size), 0)


@triton.jit
def _window_end(query, length, size):
    """The key after the last one of a query's window."""
    return _window_start(query, length, size) + size


@triton.jit
def _first_query(key, size):
    """First query of an axis that sees a key; near the border all windows begin there."""
    return tl.where(key < size, 0, key - size // 2)


@triton.jit
def _query_end(key, length, size):
    """The query after the last one of an axis that sees a key."""
    return tl.where(key >= length - size, length, key + size // 2 + 1)


@triton.jit
def _read(
    group,
    row,
    column,
    inside,
    down,
    across,
    channels,
    CHANNELS: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """The channels of some members of a group, `(members, CHANNELS)`; 0 where there is nothing."""
    channel = tl.arange(0, CHANNELS)
    member = row * down + column * across  # int64, as the strides are
    there = inside[:, None] & (channel[None, :] < channels)
    return tl.load(group + member[:, None] + channel[None, :], mask=there, other=0.0).to(OPERAND)


@triton.jit
def _write(
    values,
    group,
    row,
    column,
    inside,
    down,
    across,
    channels,
    CHANNELS: tl.constexpr,
) -> None:
    """Put the channels `(members, CHANNELS)` of some members in their places."""
    channel = tl.arange(0, CHANNELS)
    member = row * down + column * across
    there = inside[:, None] & (channel[None, :] < channels)
    place = group + member[:, None] + channel[None, :]
    tl.store(place, values.to(group.dtype.element_ty), mask=there)


# --- Logits


@triton.jit
def _logits(
    q,
    k,
    query_row,
    query_column,
    key_row,
    key_column,
    inside,
    rows,
    columns,
    size,
    table,
    scale,
    PRECISION: tl.constexpr,
):
    """Logits of a block of queries and one of keys, `(queries, keys)`, bias included; -inf if not seen.

    `inside` are the queries that there are; the keys that they see are all there.
    """
    from_start = key_row[None, :] - _window_start(query_row, rows, size)[:, None]
    from_left = key_column[None, :] - _window_start(query_column, columns, size)[:, None]
    seen = (from_start >= 0) & (from_start < size) & (from_left >= 0) & (from_left < size) & inside[:, None]
    row_offset = key_row[None, :] - query_row[:, None] + size - 1
    column_offset = key_column[None, :] - query_column[:, None] + size - 1
    entry = row_offset * (2 * size - 1) + column_offset
    bias = tl.load(table + entry, mask=seen, other=0.0).to(tl.float32)
    product = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    return tl.where(seen, product * scale + bias, float("-inf"))


# --- The three passes


@triton.jit
def forward(
    q,
    k,
    v,
    bias,
    heads_table,
    out,
    image_stride,
    row_stride,
    column_stride,
    head_stride,
    height,
    width,
    channels,
    scale,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """The output of a tile of queries: a softmax that is corrected block by block."""
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    image = tl.program_id(2).to(tl.int64)
    size, dilation, first_entry = _head(heads_table, head)
    table = bias + first_entry
    row_residue, column_residue, rows, columns, row, column = _tile(
        tl.program_id(0), height, width, dilation, TILE
    )
    if (row >= rows) | (column >= columns):  # a smaller group, or a head of fewer tiles
        return
    step = dilation.to(tl.int64)
    down = step * row_stride
    across = step * column_stride
    group = image * image_stride + row_residue * row_stride + column_residue * column_stride
    group += head * head_stride
    query_row, query_column = _members(row, column, TILE, TILE)
    inside = (query_row < rows) & (query_column < columns)
    own_q = _read(q + group, query_row, query_column, inside, down, across, channels, CHANNELS, OPERAND)

    largest = tl.full((TILE * TILE,), _NEVER, tl.float32)
    total = tl.zeros((TILE * TILE,), tl.float32)
    weighted = tl.zeros((TILE * TILE, CHANNELS), tl.float32)
    row_end = _window_end(tl.minimum(row + TILE, rows) - 1, rows, size)
    column_end = _window_end(tl.minimum(column + TILE, columns) - 1, columns, size)
    for first_row in range(_window_start(row, rows, size), row_end, ROWS):
        for first_column in range(_window_start(column, columns, size), column_end, COLUMNS):
            key_row, key_column = _members(first_row, first_column, ROWS, COLUMNS)
            keys = (key_row < row_end) & (key_column < column_end)
            some_k = _read(k + group, key_row, key_column, keys, down, across, channels, CHANNELS, OPERAND)
            some_v = _read(v + group, key_row, key_column, keys, down, across, channels, CHANNELS, OPERAND)
            logits = _logits(
                own_q, some_k, query_row, query_column, key_row, key_column, inside, rows, columns, size,
                table, scale, PRECISION,
            )  # fmt: skip
            larger = tl.maximum(largest, tl.max(logits, 1))
            correction = tl.exp(largest - larger)
            weights = tl.exp(logits - larger[:, None])
            total = total * correction + tl.sum(weights, 1)
            weighted = weighted * correction[:, None]
            weighted += tl.dot(weights.to(OPERAND), some_v, input_precision=PRECISION)
            largest = larger

    found = weighted / tl.where(inside, total, 1.0)[:, None]
    token = (image * height + row_residue) * width + column_residue
    own = out + (token * heads + head) * channels
    across = step * heads * channels
    _write(found, own, query_row, query_column, inside, across * width, across, channels, CHANNELS)


@triton.jit
def backward_queries(
    grad,
    q,
    k,
    v,
    bias,
    heads_table,
    grad_q,
    norms,
    deltas,
    partial,
    image_stride,
    row_stride,
    column_stride,
    head_stride,
    height,
    width,
    channels,
    scale,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OFFSETS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """What a tile of queries has: q's gradient, its share of the tables' and, of each query, two statistics.

    The statistics, which `backward_keys` reads, are the logarithm of the sum of exp(logit), and the sum of
    weight times weight's gradient. `partial` is `(B, tiles, heads, OFFSETS, OFFSETS)`, by key minus query.
    """
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    image = tl.program_id(2).to(tl.int64)
    size, dilation, first_entry = _head(heads_table, head)
    table = bias + first_entry
    row_residue, column_residue, rows, columns, row, column = _tile(
        tl.program_id(0), height, width, dilation, TILE
    )
    if (row >= rows) | (column >= columns):
        return
    step = dilation.to(tl.int64)
    down = step * row_stride
    across = step * column_stride
    group = image * image_stride + row_residue * row_stride + column_residue * column_stride
    group += head * head_stride
    token = (image * height + row_residue) * width + column_residue
    own = (token * heads + head) * channels
    own_across = step * heads * channels
    own_down = own_across * width
    query_row, query_column = _members(row, column, TILE, TILE)
    inside = (query_row < rows) & (query_column < columns)
    own_q = _read(q + group, query_row, query_column, inside, down, across, channels, CHANNELS, OPERAND)
    own_grad = _read(
        grad + own, query_row, query_column, inside, own_down, own_across, channels, CHANNELS, OPERAND
    )
    row_start = _window_start(row, rows, size)
    column_start = _window_start(column, columns, size)
    row_end = _window_end(tl.minimum(row + TILE, rows) - 1, rows, size)
    column_end = _window_end(tl.minimum(column + TILE, columns) - 1, columns, size)

    largest = tl.full((TILE * TILE,), _NEVER, tl.float32)
    total = tl.zeros((TILE * TILE,), tl.float32)
    weighted = tl.zeros((TILE * TILE,), tl.float32)
    for first_row in range(row_start, row_end, ROWS):
        for first_column in range(column_start, column_end, COLUMNS):
            key_row, key_column = _members(first_row, first_column, ROWS, COLUMNS)
            keys = (key_row < row_end) & (key_column < column_end)
            some_k = _read(k + group, key_row, key_column, keys, down, across, channels, CHANNELS, OPERAND)
            some_v = _read(v + group, key_row, key_column, keys, down, across, channels, CHANNELS, OPERAND)
            logits = _logits(
                own_q, some_k, query_row, query_column, key_row, key_column, inside, rows, columns, size,
                table, scale, PRECISION,
            )  # fmt: skip
            grad_weights = tl.dot(own_grad, tl.trans(some_v), input_precision=PRECISION)
            larger = tl.maximum(largest, tl.max(logits, 1))
            correction = tl.exp(largest - larger)
            weights = tl.exp(logits - larger[:, None])
            total = total * correction + tl.sum(weights, 1)
            weighted = weighted * correction + tl.sum(weights * grad_weights, 1)
            largest = larger
    total = tl.where(inside, total, 1.0)
    norm = largest + tl.log(total)
    delta = weighted / total

    found_q = tl.zeros((TILE * TILE, CHANNELS), tl.float32)
    found_table = tl.zeros((OFFSETS, OFFSETS), tl.float32)
    offset = tl.arange(0, OFFSETS)
    for first_row in range(row_start, row_end, ROWS):
        for first_column in range(column_start, column_end, COLUMNS):
            key_row, key_column = _members(first_row, first_column, ROWS, COLUMNS)
            keys = (key_row < row_end) & (key_column < column_end)
            some_k = _read(k + group, key_row, key_column, keys, down, across, channels, CHANNELS, OPERAND)
            some_v = _read(v + group, key_row, key_column, keys, down, across, channels, CHANNELS, OPERAND)
            logits = _logits(
                own_q, some_k, query_row, query_column, key_row, key_column, inside, rows, columns, size,
                table, scale, PRECISION,
            )  # fmt: skip
            grad_weights = tl.dot(own_grad, tl.trans(some_v), input_precision=PRECISION)
            grad_logits = tl.exp(logits - norm[:, None]) * (grad_weights - delta[:, None])
            found_q += tl.dot(grad_logits.to(OPERAND), some_k, input_precision=PRECISION)
            # Sums over all pairs of one offset: a product with 0 and 1 for the rows, and one for the columns.
            by_axis = tl.reshape(grad_logits, (TILE, TILE, ROWS, COLUMNS))
            by_axis = tl.reshape(tl.permute(by_axis, (0, 2, 1, 3)), (TILE * ROWS, TILE * COLUMNS))
            pair = tl.arange(0, TILE * ROWS)
            row_offset = first_row + pair % ROWS - row - pair // ROWS + size - 1
            pair = tl.arange(0, TILE * COLUMNS)
            column_offset = first_column + pair % COLUMNS - column - pair // COLUMNS + size - 1
            of_row = (offset[:, None] == row_offset[None, :]).to(tl.float32)
            of_column = (column_offset[:, None] == offset[None, :]).to(tl.float32)
            by_row = tl.dot(of_row, by_axis, input_precision="ieee")
            found_table += tl.dot(by_row, of_column, input_precision="ieee")

    found_q *= scale
    _write(found_q, grad_q + own, query_row, query_column, inside, own_down, own_across, channels, CHANNELS)
    statistic = token * heads + head + (query_row * width + query_column) * (step * heads)
    tl.store(norms + statistic, norm, mask=inside)
    tl.store(deltas + statistic, delta, mask=inside)
    slot = (image * tl.num_programs(0) + tl.program_id(0)) * heads + head
    entry = offset[:, None] * OFFSETS + offset[None, :]
    tl.store(partial + slot * OFFSETS * OFFSETS + entry, found_table)


@triton.jit
def backward_keys(
    grad,
    q,
    k,
    v,
    bias,
    heads_table,
    norms,
    deltas,
    grad_k,
    grad_v,
    image_stride,
    row_stride,
    column_stride,
    head_stride,
    height,
    width,
    channels,
    scale,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """The gradients of a tile of keys and values, gathered from all queries that see them."""
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    image = tl.program_id(2).to(tl.int64)
    size, dilation, first_entry = _head(heads_table, head)
    table = bias + first_entry
    row_residue, column_residue, rows, columns, row, column = _tile(
        tl.program_id(0), height, width, dilation, TILE
    )
    if (row >= rows) | (column >= columns):
        return
    step = dilation.to(tl.int64)
    down = step * row_stride
    across = step * column_stride
    group = image * image_stride + row_residue * row_stride + column_residue * column_stride
    group += head * head_stride
    token = (image * height + row_residue) * width + column_residue
    own = (token * heads + head) * channels
    own_across = step * heads * channels
    own_down = own_across * width
    key_row, key_column = _members(row, column, TILE, TILE)
    keys = (key_row < rows) & (key_column < columns)
    own_k = _read(k + group, key_row, key_column, keys, down, across, channels, CHANNELS, OPERAND)
    own_v = _read(v + group, key_row, key_column, keys, down, across, channels, CHANNELS, OPERAND)

    found_k = tl.zeros((TILE * TILE, CHANNELS), tl.float32)
    found_v = tl.zeros((TILE * TILE, CHANNELS), tl.float32)
    row_end = _query_end(tl.minimum(row + TILE, rows) - 1, rows, size)
    column_end = _query_end(tl.minimum(column + TILE, columns) - 1, columns, size)
    for first_row in range(_first_query(row, size), row_end, ROWS):
        for first_column in range(_first_query(column, size), column_end, COLUMNS):
            query_row, query_column = _members(first_row, first_column, ROWS, COLUMNS)
            inside = (query_row < row_end) & (query_column < column_end)
            some_q = _read(
                q + group, query_row, query_column, inside, down, across, channels, CHANNELS, OPERAND
            )
            some_grad = _read(
                grad + own, query_row, query_column, inside, own_down, own_across, channels, CHANNELS, OPERAND
            )
            statistic = token * heads + head + (query_row * width + query_column) * (step * heads)
            norm = tl.load(norms + statistic, mask=inside, other=0.0)
            delta = tl.load(deltas + statistic, mask=inside, other=0.0)
            logits = _logits(
                some_q, own_k, query_row, query_column, key_row, key_column, inside, rows, columns, size,
                table, scale, PRECISION,
            )  # fmt: skip
            weights = tl.exp(logits - norm[:, None])
            grad_weights = tl.dot(some_grad, tl.trans(own_v), input_precision=PRECISION)
            grad_logits = weights * (grad_weights - delta[:, None])
            found_v += tl.dot(tl.trans(weights).to(OPERAND), some_grad, input_precision=PRECISION)
            found_k += tl.dot(tl.trans(grad_logits).to(OPERAND), some_q, input_precision=PRECISION)

    found_k *= scale
    _write(found_k, grad_k + own, key_row, key_column, keys, own_down, own_across, channels, CHANNELS)
    _write(found_v, grad_v + own, key_row, key_column, keys, own_down, own_across, channels, CHANNELS)
