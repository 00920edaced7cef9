"""Neighborhood attention: the reference against plain loops, every other backend against the reference."""

import math
import random
from importlib.util import find_spec

import pytest
import torch
from helpers import make_inputs, refusal, relative_error
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from stylenat.attention import tiled
from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.layers import FullAttention, HydraNeighborhoodAttention
from stylenat.attention.partitions import (
    HeadPartition,
    ShiftedWindows,
    parse_partitions,
    published_partitions,
)
from stylenat.attention.reference import axis_window, receptive_field
from stylenat.attention.shifted_windows import ShiftedWindowAttention
from stylenat.benchmark.peers import natten_mps_attend

BACKENDS = ("reference", "tiled")


def output_and_gradients(inputs, partitions, backend, weights):
    """The output, then the gradients of q, k, v and of every bias table."""
    q, k, v, bias = inputs
    out = neighborhood_attention(q, k, v, partitions, bias, backend=backend)
    return [out, *torch.autograd.grad(out, [q, k, v, *bias], weights.to(out.dtype))]


# The reference against loops over single numbers.


def window_by_search(n, query, kernel_size, dilation):
    """Of all runs of `kernel_size` tokens of the query's residue, the one whose middle is nearest to it."""
    group = list(range(query % dilation, n, dilation))
    runs = [group[i : i + kernel_size] for i in range(len(group) - kernel_size + 1)]
    return min(runs, key=lambda run: abs(run[kernel_size // 2] - query))


def attend_by_loops(q, k, v, bias, part):
    """Attention of one image and head, token by token: q, k, v `(H, W, c)`, bias `(2k-1, 2k-1)`."""
    (height, width, _), size, d = q.shape, part.kernel_size, part.dilation
    out = torch.zeros_like(v)
    for y in range(height):
        for x in range(width):
            rows, columns = window_by_search(height, y, size, d), window_by_search(width, x, size, d)
            keys = [(row, column) for row in rows for column in columns]
            logits = [
                (q[y, x].dot(k[row, column]) / math.sqrt(q.shape[-1])).item()
                + bias[(row - y) // d + size - 1, (column - x) // d + size - 1].item()
                for row, column in keys
            ]
            weights = [math.exp(logit - max(logits)) for logit in logits]
            out[y, x] = sum(w / sum(weights) * v[key] for w, key in zip(weights, keys, strict=True))
    return out


@pytest.mark.parametrize(
    ("height", "width", "text"), [(3, 5, "2x3@1"), (7, 8, "1x3@2,1x5@1"), (11, 7, "1x3@2"), (10, 13, "1x3@3")]
)
def test_reference_is_the_definition(height, width, text):
    torch.manual_seed(0)
    partitions = parse_partitions(text)
    q, k, v, bias = make_inputs(2, height, width, partitions, requires_grad=False)
    expected = torch.empty_like(v)
    heads = [(part, table) for part, tables in zip(partitions, bias, strict=True) for table in tables]
    for image in range(2):
        for head, (part, table) in enumerate(heads):
            one = (x[image, :, :, head] for x in (q, k, v))
            expected[image, :, :, head] = attend_by_loops(*one, table, part)
    actual = neighborhood_attention(q, k, v, partitions, bias, backend="reference")
    assert relative_error(actual, expected) < 1e-13


@pytest.mark.parametrize(("n", "kernel_size", "dilation"), [(7, 7, 1), (20, 7, 1), (23, 5, 3), (16, 3, 5)])
def test_every_query_sees_k_by_k_keys_of_its_residue(n, kernel_size, dilation):
    part = HeadPartition(1, kernel_size, dilation)
    for row in range(n):
        for column in range(n):
            field = receptive_field(part, n, n, (row, column))
            assert field.shape == (n, n) and field.dtype == torch.bool
            assert field.sum() == kernel_size**2 and field[row, column]
            for keys, query in zip(field.nonzero().T, (row, column), strict=True):
                assert (keys % dilation == query % dilation).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("query", [(0, 0), (5, 8), (10, 17), (3, 16)])
def test_receptive_field_is_where_v_has_gradient(query, backend):
    part = HeadPartition(1, 3, 2)
    q, k, v, bias = make_inputs(1, 11, 18, (part,))
    out = neighborhood_attention(q, k, v, (part,), bias, backend=backend)
    (gradient,) = torch.autograd.grad(out[0, query[0], query[1]].sum(), v)
    assert torch.equal(gradient[0, :, :, 0, 0] != 0, receptive_field(part, 11, 18, query))


# The tiled backend against the reference.


def random_case(rng):
    """Partitions and a grid they fit, of any residue modulo the dilations; half of the grids are long."""
    partitions = tuple(
        HeadPartition(rng.randint(1, 3), rng.choice((3, 5, 7, 9)), rng.randint(1, 5))
        for _ in range(rng.randint(1, 3))
    )
    least = max(part.kernel_size * part.dilation for part in partitions)
    grid = [max(least, rng.randint(3, 14)), max(least, rng.randint(3, 14))]
    if rng.random() < 1 / 2:
        grid[rng.randrange(2)] = max(least, rng.randint(20, 45))
    return partitions, *grid


def test_tiled_equals_reference_on_random_cases():
    rng, worst, cut, ragged = random.Random(0), 0.0, 0, 0
    torch.manual_seed(0)
    cases = [random_case(rng) for _ in range(200)]
    cases += [
        (parse_partitions(text), 40, 33) for text in ("2x7@1,1x7@2", "1x3@1,2x5@2", "1x9@1", "1x3@2,1x9@3")
    ]
    for partitions, height, width in cases:
        inputs = make_inputs(rng.randint(1, 2), height, width, partitions)
        weights = torch.randn_like(inputs[0])
        expected = output_and_gradients(inputs, partitions, "reference", weights)
        actual = output_and_gradients(inputs, partitions, "tiled", weights)
        with torch.no_grad():  # this takes torch's fused kernel
            actual.append(neighborhood_attention(*inputs[:3], partitions, inputs[3], backend="tiled"))
        worst = max(worst, *map(relative_error, actual, [*expected, expected[0]]))
        axes = [tiled.axis_runs(n, p.kernel_size, p.dilation) for p in partitions for n in (height, width)]
        cut += any(run.tile < run.length for runs in axes for run in runs)
        ragged += any(run.tile < run.length and run.groups < run.dilation for runs in axes for run in runs)
    print(f"worst relative error of {len(cases)} cases: {worst:.1e} ({cut} cut into tiles, {ragged} ragged)")
    assert worst < 1e-10
    assert cut >= 50 and ragged >= 10


@pytest.mark.skipif(not find_spec("natten_mps"), reason="pip install 'stylenat[test]'")
@pytest.mark.parametrize(
    ("text", "height", "width"),
    [("1x3@1", 5, 8), ("2x7@1,1x5@3", 17, 22), ("1x3@4,2x5@1", 14, 13), ("1x9@2", 19, 18)],
)
def test_another_implementation_agrees(text, height, width):
    """natten-mps, by its CPU backend, with bias: a third opinion on windows, borders and gradients."""
    torch.manual_seed(0)
    partitions = parse_partitions(text)
    inputs = make_inputs(2, height, width, partitions, head_dim=4)
    weights = torch.randn_like(inputs[0])
    q, k, v, bias = inputs
    out = natten_mps_attend(q, k, v, partitions, bias, 0.5)
    theirs = [out, *torch.autograd.grad(out, [q, k, v, *bias], weights)]
    for backend in BACKENDS:
        ours = output_and_gradients(inputs, partitions, backend, weights)
        assert max(map(relative_error, ours, theirs)) < 1e-13, backend


@pytest.mark.parametrize("length", range(17, 60))
@pytest.mark.parametrize("kernel_size", [3, 7, 9, 15])
def test_tiles_hold_every_query_once_and_all_of_its_window(length, kernel_size):
    for n, dilation in ((length, 1), (2 * length - 1, 2), (2 * length, 2)):
        keys, _ = axis_window(n, kernel_size, dilation)
        queries = []
        for run in tiled.axis_runs(n, kernel_size, dilation):
            for part in run.split(1):  # one tile of one group
                seen, offset = part.windows(kernel_size, "cpu")
                assert (part.count, part.groups) == (1, 1) and seen.shape == (part.tile, part.span)
                key = part.key + torch.arange(part.span)
                assert part.key >= 0 and part.key + part.span <= part.length
                for i in range(part.tile):
                    queries.append((part.query + i) * dilation + part.group)
                    assert (key[seen[i]] * dilation + part.group).equal(keys[queries[-1]])
                    assert (key - offset[i]).eq(part.query + i).all()
        assert sorted(queries) == list(range(n))


@pytest.mark.parametrize(("kernel_size", "dilation"), [(7, 1), (15, 1), (5, 2)])
def test_tiles_whose_gradients_are_added_at_once_share_no_key(kernel_size, dilation):
    """Two threads would add to one number at once, and one of the two sums would be lost."""
    tokens = torch.arange(2 * 61 * 57).view(2, 61, 57, 1, 1)
    shared = 0
    for rows in tiled.axis_runs(61, kernel_size, dilation):
        for columns in tiled.axis_runs(57, kernel_size, dilation):
            piece = tiled.Piece(slice(None), rows, columns)
            keys = tiled._tiles(tokens, piece, keys=True)
            added = [keys[place].flatten() for place in tiled._disjoint_places(piece)]
            assert all(len(part) == len(part.unique()) for part in added)
            assert torch.cat(added).sort()[0].equal(keys.flatten().sort()[0])
            shared += len(added) > 1
    assert shared > 0


@pytest.mark.parametrize("limits", [{"_CHUNK": 1}, {"_CHUNK": 60_000}, {"_CHUNK": 2**40}])
def test_chunks_change_nothing(limits, monkeypatch):
    torch.manual_seed(0)
    partitions = parse_partitions("2x7@1,1x3@2")
    inputs = make_inputs(3, 20, 23, partitions)
    weights = torch.randn_like(inputs[0])
    expected = output_and_gradients(inputs, partitions, "reference", weights)
    for name, limit in limits.items():
        monkeypatch.setattr(tiled, name, limit)
    actual = output_and_gradients(inputs, partitions, "tiled", weights)
    with torch.no_grad():
        actual.append(neighborhood_attention(*inputs[:3], partitions, inputs[3]))
    assert max(map(relative_error, actual, [*expected, expected[0]])) < 1e-10


@pytest.mark.parametrize("backend", BACKENDS)
def test_bias_may_be_left_out(backend):
    torch.manual_seed(0)
    partitions = parse_partitions("1x3@1,2x3@2")
    q, k, v, bias = make_inputs(1, 18, 7, partitions)
    zeros = [torch.zeros_like(table) for table in bias]
    none = neighborhood_attention(q, k, v, partitions, backend=backend)
    assert relative_error(none, neighborhood_attention(q, k, v, partitions, zeros, backend=backend)) < 1e-13
    some = neighborhood_attention(q, k, v, partitions, [None, bias[1]], backend=backend)
    whole = neighborhood_attention(q, k, v, partitions, [zeros[0], bias[1]], backend=backend)
    assert relative_error(some, whole) < 1e-13
    assert relative_error(some, none) > 1e-2


@pytest.mark.parametrize("backend", BACKENDS)
def test_scale_multiplies_q(backend):
    torch.manual_seed(0)
    partitions = parse_partitions("1x3@1")
    q, k, v, bias = make_inputs(1, 5, 6, partitions, head_dim=4)
    default = neighborhood_attention(q, k, v, partitions, bias, backend=backend)
    assert torch.equal(default, neighborhood_attention(q, k, v, partitions, bias, scale=0.5, backend=backend))
    other = neighborhood_attention(q, k, v, partitions, bias, scale=2.0, backend=backend)
    assert (
        relative_error(other, neighborhood_attention(4 * q, k, v, partitions, bias, backend=backend)) < 1e-13
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_of_first_and_second_order(backend, monkeypatch, request):
    torch.manual_seed(0)
    monkeypatch.setattr(tiled, "_TILE", 4)
    monkeypatch.setattr(tiled, "_WHOLE", 4)
    tiled.axis_runs.cache_clear()
    request.addfinalizer(tiled.axis_runs.cache_clear)
    assert len(tiled.axis_runs(7, 3, 1)) == 2
    partitions = parse_partitions("1x3@1,1x3@2")
    q, k, v, bias = make_inputs(1, 7, 6, partitions, head_dim=1)

    def attention(q, k, v, *bias):
        return neighborhood_attention(q, k, v, partitions, bias, backend=backend)

    assert torch.autograd.gradcheck(attention, (q, k, v, *bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(attention, (q, k, v, *bias), fast_mode=True)


def test_bfloat16_is_near_and_its_bias_gradient_sums_in_float32():
    torch.manual_seed(0)
    partitions = parse_partitions("1x7@1,1x7@4")
    low = make_inputs(8, 32, 32, partitions, head_dim=16, dtype=torch.bfloat16)
    high = [x.detach().double().requires_grad_() for x in (*low[:3], *low[3])]
    weights = torch.randn_like(low[0])
    actual = output_and_gradients(low, partitions, "tiled", weights)
    expected = output_and_gradients((*high[:3], high[3:]), partitions, "reference", weights)
    assert {x.dtype for x in actual} == {torch.bfloat16}
    assert max(map(relative_error, actual, expected)) < 0.02
    assert max(map(relative_error, actual[4:], expected[4:])) < 0.007  # sums in bfloat16 would be 0.009 off
    with torch.no_grad():
        inference = neighborhood_attention(*low[:3], partitions, low[3])
    assert inference.dtype == torch.bfloat16 and relative_error(inference, expected[0]) < 0.02


# Other devices: shapes alone where there is no such hardware.

DEVICE_CASE = parse_partitions("1x7@1,2x5@3"), 40, 33


def check_shapes_on(device, backward):
    partitions, height, width = DEVICE_CASE
    inputs = make_inputs(2, height, width, partitions, device=device, dtype=torch.float32)
    tensors = [neighborhood_attention(*inputs[:3], partitions, inputs[3], backend="tiled")]
    if backward:
        tensors = output_and_gradients(inputs, partitions, "tiled", torch.empty_like(inputs[0]))
    expected = [inputs[0].shape, *(x.shape for x in (*inputs[:3], *inputs[3]))]
    assert [x.shape for x in tensors] == expected[: len(tensors)]
    with torch.device("meta"):  # initialization draws numbers, which fake tensors don't have
        layers = HydraNeighborhoodAttention(12, partitions), FullAttention(12, 3)
    for layer, grid in zip(layers, ((height, width), (4, 4)), strict=True):
        state = {name: torch.empty(x.shape, device=device) for name, x in layer.named_parameters()}
        tensors.append(functional_call(layer, state, torch.empty(2, *grid, 12, device=device)))
    assert [x.device.type for x in tensors] == [device] * len(tensors)


def test_meta_device():
    check_shapes_on("meta", backward=True)


def test_fake_cuda_tensors_leave_no_trace():
    with FakeTensorMode():
        check_shapes_on("cuda", backward=False)  # autograd's engine wants a real device
    partitions, height, width = DEVICE_CASE
    q, k, v, bias = make_inputs(1, height, width, partitions)
    outputs = [neighborhood_attention(q, k, v, partitions, bias, backend=backend) for backend in BACKENDS]
    assert relative_error(*outputs) < 1e-13


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_equals_reference():
    torch.manual_seed(0)
    partitions, height, width = DEVICE_CASE
    inputs = make_inputs(2, height, width, partitions, head_dim=16)
    weights = torch.randn_like(inputs[0])
    expected = output_and_gradients(inputs, partitions, "reference", weights)
    q, k, v, *bias = (x.detach().float().cuda().requires_grad_() for x in (*inputs[:3], *inputs[3]))
    actual = output_and_gradients((q, k, v, bias), partitions, "tiled", weights.cuda())
    assert max(relative_error(x.cpu(), y) for x, y in zip(actual, expected, strict=True)) < 1e-4


# Layers.


def test_hydra_layer_is_qkv_attention_projection():
    torch.manual_seed(0)
    layer = HydraNeighborhoodAttention(20, parse_partitions("2x3@1,3x5@2"), level=16)
    assert {name: tuple(x.shape) for name, x in layer.state_dict().items()} == {
        "qkv.weight": (60, 20),
        "qkv.bias": (60,),
        "rpb.0": (2, 5, 5),
        "rpb.1": (3, 9, 9),
        "proj.weight": (20, 20),
        "proj.bias": (20,),
    }
    x = torch.randn(2, 16, 18, 20)
    q, k, v = (x @ w.T + b for w, b in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True))
    q, k, v = (y.reshape(2, 16, 18, 5, 4) for y in (q, k, v))
    heads = neighborhood_attention(q, k, v, layer.partitions, list(layer.rpb), backend="reference")
    expected = layer.proj(heads.reshape(2, 16, 18, 20))
    assert layer.backend == "auto"
    for backend in ("auto", *BACKENDS):
        layer.backend = backend
        assert relative_error(layer(x), expected) < 1e-5


def test_full_attention_sees_all_tokens():
    torch.manual_seed(0)
    layer = FullAttention(6, 2).double()
    torch.nn.init.normal_(layer.rpb)
    assert {name: tuple(x.shape) for name, x in layer.state_dict().items()} == {
        "rpb": (2, 7, 7),
        "qkv.weight": (18, 6),
        "qkv.bias": (18,),
        "proj.weight": (6, 6),
        "proj.bias": (6,),
    }
    x = torch.randn(2, 4, 4, 6, dtype=torch.float64)
    q, k, v = layer.qkv(x).reshape(2, 4, 4, 3, 2, 3).unbind(3)
    expected = torch.empty(2, 4, 4, 2, 3, dtype=torch.float64)
    tokens = [(row, column) for row in range(4) for column in range(4)]
    for image, head, (y, x_) in ((i, h, t) for i in range(2) for h in range(2) for t in tokens):
        logits = [
            q[image, y, x_, head].dot(k[image, r, c, head]) / math.sqrt(3)
            + layer.rpb[head, r - y + 3, c - x_ + 3]
            for r, c in tokens
        ]
        weights = torch.stack(logits).softmax(0)
        expected[image, y, x_, head] = weights @ v[image, :, :, head].reshape(16, 3)
    assert relative_error(layer(x), layer.proj(expected.reshape(2, 4, 4, 6))) < 1e-13


@pytest.mark.parametrize(
    "make",
    [lambda: HydraNeighborhoodAttention(128, published_partitions(4, 16)), lambda: FullAttention(128, 4)],
)
def test_initialization(make):
    torch.manual_seed(0)
    layer = make()
    assert not layer.qkv.bias.any() and not layer.proj.bias.any()
    weights = [x for name, x in layer.named_parameters() if not name.endswith("bias")]
    assert len(weights) == (4 if isinstance(layer, HydraNeighborhoodAttention) else 3)
    for weight in weights:
        spread = 0.02 / math.sqrt(2 * weight.numel())  # standard error of a standard deviation
        assert abs(weight.std().item() - 0.02) < 5 * spread
        assert abs(weight.mean().item()) < 5 * 0.02 / math.sqrt(weight.numel())


# Errors, each one line.


def test_errors_of_the_function():
    partitions = parse_partitions("1x3@1,2x3@2")
    q, k, v, bias = make_inputs(1, 8, 9, partitions)

    def call(q=q, k=k, v=v, partitions=partitions, bias=bias, **options):
        return refusal(neighborhood_attention, q, k, v, partitions, bias, **options)

    assert (
        call(backend="cuda") == "attention backend 'cuda' is unknown: take one of auto, tiled, fused, "
        "reference, flex, triton, natten"
    )
    assert call(k=k[:, :7]) == (
        "q, k, v of shapes (1, 8, 9, 3, 2), (1, 7, 9, 3, 2), (1, 8, 9, 3, 2): "
        "give all three as one (B, H, W, heads, head_dim)"
    )
    assert call(q[0], k[0], v[0]).startswith("q, k, v of shapes (8, 9, 3, 2), ")
    assert call(partitions=partitions[:1]) == (
        "q of shape (1, 8, 9, 3, 2) has 3 heads, partitions 1x3@1 have 1: make them equal"
    )
    assert call(bias=bias[:1]) == ("1 bias tables for 2 partitions 1x3@1,2x3@2: give one, or None, for each")
    assert call(bias=bias[::-1]) == "bias table of shape (2, 5, 5) for partition 1x3@1: give one of (1, 5, 5)"
    assert call(partitions=parse_partitions("1x3@1,2x3@3"), bias=None) == (
        "kernel k=3 with dilation d=3 spans k*d=9 tokens, over n=8: take d of at most 2"
    )


def test_errors_of_the_layers():
    partitions = published_partitions(4, 16)
    expected = "level 8: kernel k=7 with dilation d=2 spans k*d=14 tokens, over n=8: take d of at most 1"
    assert refusal(HydraNeighborhoodAttention, 64, partitions, level=8) == expected
    layer = HydraNeighborhoodAttention(64, partitions, level=16)
    assert refusal(layer, torch.zeros(1, 16, 8, 64)) == expected.replace("level 8", "level 16")
    text = "dim 66 does not split into 4 heads: take heads that divide dim"
    assert refusal(HydraNeighborhoodAttention, 66, partitions) == refusal(FullAttention, 66, 4) == text
    assert refusal(FullAttention, 64, 0) == "heads 0 of full attention: give an int of at least 1"
    assert refusal(FullAttention(64, 4), torch.zeros(1, 8, 4, 64)) == (
        "full attention got 8 × 4 tokens: give 4 × 4, or use HydraNeighborhoodAttention"
    )


@pytest.mark.parametrize("query", [(-1, 0), (0, 9), (8, 0)])
def test_errors_of_the_receptive_field(query):
    assert refusal(receptive_field, HeadPartition(1, 3, 2), 8, 9, query) == (
        f"query {query} is outside of 8 × 9 tokens: give a row in 0…7 and a column in 0…8"
    )
    assert "k*d=9" in refusal(receptive_field, HeadPartition(1, 3, 3), 8, 9, query)


def slow_full(layer, x, bias):
    """Full attention token by token; `bias(head, rows, columns)` by key minus query."""
    side = layer.side
    heads = layer.heads
    q, k, v = (part[0].flatten(0, 1) for part in layer.project(x))  # (n², heads, c) each
    tokens = [(row, column) for row in range(side) for column in range(side)]
    out = torch.empty_like(v)
    for i, head in ((i, h) for i in range(len(tokens)) for h in range(heads)):
        logits = k[:, head] @ q[i, head] / q.shape[-1] ** 0.5
        offsets = [(r - tokens[i][0], c - tokens[i][1]) for r, c in tokens]
        logits = logits + torch.stack([bias(head, *offset) for offset in offsets])
        out[i, head] = logits.softmax(0) @ v[:, head]
    return layer.proj(out.view(1, side, side, -1))


def test_full_attention_of_a_larger_grid_has_a_bias_of_rows_and_one_of_columns():
    torch.manual_seed(0)
    layer = FullAttention(6, 2, 5).double()
    for table in (layer.rpb_rows, layer.rpb_columns):
        torch.nn.init.normal_(table)
    assert layer.rpb is None and layer.rpb_rows.shape == layer.rpb_columns.shape == (2, 9)
    x = torch.randn(1, 5, 5, 6, dtype=torch.float64)
    expected = slow_full(
        layer,
        x,
        lambda head, row, column: layer.rpb_rows[head, row + 4] + layer.rpb_columns[head, column + 4],
    )
    assert relative_error(layer(x), expected) < 1e-13
    assert refusal(layer, torch.zeros(1, 4, 4, 6).double()) == (
        "full attention got 4 × 4 tokens: give 5 × 5, or use HydraNeighborhoodAttention"
    )


@pytest.mark.parametrize(
    ("make", "tables"),
    [
        (lambda **how: FullAttention(8, 2, **how), ["rpb"]),
        (lambda **how: FullAttention(8, 2, 8, **how), ["rpb_rows", "rpb_columns"]),
        (lambda **how: HydraNeighborhoodAttention(8, parse_partitions("1x3@1,1x3@2"), **how), ["rpb"]),
        (lambda **how: ShiftedWindowAttention(8, ShiftedWindows(2, 4), **how), ["tables"]),
    ],
)
def test_without_bias_there_is_no_table_and_zero_tables_give_the_same(make, tables):
    torch.manual_seed(0)
    plain = make(bias=False)
    biased = make()
    weights = plain.state_dict()
    assert set(weights) == {"qkv.weight", "qkv.bias", "proj.weight", "proj.bias"}
    biased.load_state_dict(weights, strict=False)
    x = torch.randn(2, getattr(plain, "side", 8), getattr(plain, "side", 8), 8)
    with torch.no_grad():
        for name, parameter in biased.named_parameters():
            if name.split(".")[0] in tables:
                parameter.zero_()
        torch.testing.assert_close(plain(x), biased(x))
