"""The fused backend for CPUs against the reference. Where Numba is missing, only what it says then."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from helpers import ROOT, make_inputs, refusal, relative_error

from stylenat.attention import dispatch, fused
from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.layers import HydraNeighborhoodAttention
from stylenat.attention.partitions import HeadPartition, parse_partitions
from stylenat.benchmark.exactness import random_cases, worst_error

needs_numba = pytest.mark.skipif(not find_spec("numba"), reason="needs Numba: pip install 'stylenat[fused]'")


def results(inputs, partitions, backend, weights):
    """The output, then the gradients of q, k, v and of every bias table."""
    q, k, v, bias = inputs
    out = neighborhood_attention(q, k, v, partitions, bias, backend=backend)
    return [out, *torch.autograd.grad(out, [q, k, v, *bias], weights.to(out.dtype))]


def lower(inputs, dtype=torch.float32):
    q, k, v, bias = inputs
    low = [x.detach().to(dtype).requires_grad_() for x in (q, k, v, *bias)]
    return (*low[:3], low[3:])


def error(inputs, partitions, weights, dtype=torch.float32):
    expected = results(inputs, partitions, "reference", weights)
    actual = results(lower(inputs, dtype), partitions, "fused", weights)
    return max(relative_error(x, y) for x, y in zip(actual, expected, strict=True))


@needs_numba
def test_fused_equals_reference_on_random_cases():
    """200 of them; the page of numbers shows the same error."""
    assert (
        sum(case.height // min(part.dilation for part in case.partitions) >= 64 for case in random_cases())
        > 9
    )
    worst = worst_error("fused")
    print(f"worst relative error of 200 cases: {worst:.1e}")
    assert worst < 1e-6


@needs_numba
@pytest.mark.parametrize("channels", [16, 20, 32])
def test_channels_of_whole_vectors_and_of_others(channels):
    torch.manual_seed(0)
    partitions = parse_partitions("1x3@1,1x3@2")
    inputs = make_inputs(2, 17, 15, partitions, head_dim=channels)
    assert error(inputs, partitions, torch.randn_like(inputs[0])) < 2e-6


@needs_numba
def test_any_strides():
    """As a layer packs q, k and v; transposed; expanded; channels apart; not from the memory's start on."""
    torch.manual_seed(0)
    partitions = parse_partitions("1x3@1,1x3@2")
    shape = (2, 9, 11, 2, 8)
    packed = torch.randn(2, 9, 11, 3 * 16).unflatten(-1, (3, 2, 8)).unbind(3)
    ways = {
        "packed": packed,
        "transposed": [torch.randn(2, 11, 9, 2, 8).transpose(1, 2) for _ in range(3)],
        "heads first": [torch.randn(2, 2, 9, 11, 8).permute(0, 2, 3, 1, 4) for _ in range(3)],
        "expanded": [torch.randn(1, 9, 1, 2, 8).expand(shape) for _ in range(3)],
        "one number": [torch.randn(()).expand(shape) for _ in range(3)],
        "channels apart": [torch.randn(2, 9, 11, 8, 2).transpose(3, 4) for _ in range(3)],
        "inside": [torch.randn(3, 10, 12, 3, 9)[1:, 1:, 1:, 1:, 1:] for _ in range(3)],
    }
    for name, tensors in ways.items():
        q, k, v = tensors
        for weights in (torch.randn(shape), torch.ones(()).expand(shape)):
            leaves = [x.detach().requires_grad_() for x in (q, k, v)]
            exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
            out = neighborhood_attention(*leaves, partitions, backend="fused")
            expected = neighborhood_attention(*exact, partitions, backend="reference")
            assert relative_error(out, expected) < 1e-6, name
            found = torch.autograd.grad(out, leaves, weights)
            wanted = torch.autograd.grad(expected, exact, weights.double())
            for x, y in zip(found, wanted, strict=True):
                assert (x - y).norm() < 1e-5 * max(1, y.norm()), name


@needs_numba
def test_bfloat16_is_rounded_once():
    """Sums are in float32: what comes out is the exact result's nearest bfloat16, or next to it."""
    torch.manual_seed(0)
    partitions = parse_partitions("1x3@1,1x3@4")
    low = lower(make_inputs(4, 32, 32, partitions, head_dim=16), torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in (*low[:3], *low[3])]
    weights = torch.randn(low[0].shape, dtype=torch.float64).bfloat16()
    actual = results(low, partitions, "fused", weights)
    expected = results((*exact[:3], exact[3:]), partitions, "reference", weights)
    assert {x.dtype for x in actual} == {torch.bfloat16}
    for x, y in zip(actual, expected, strict=True):
        nearest = relative_error(y.bfloat16(), y)
        assert relative_error(x, y) < 1.01 * nearest + 1e-6


@needs_numba
def test_what_is_not_finite_reaches_those_that_see_it_and_no_others():
    partitions = parse_partitions("1x3@1,1x3@2")
    for name in range(3):
        for value in (float("nan"), float("inf")):
            torch.manual_seed(0)
            inputs = list(make_inputs(1, 9, 9, partitions, dtype=torch.float32, requires_grad=False)[:3])
            inputs[name][0, 4, 4] = value
            found = neighborhood_attention(*inputs, partitions, backend="fused").isfinite()
            assert torch.equal(
                found, neighborhood_attention(*inputs, partitions, backend="reference").isfinite()
            )


@needs_numba
def test_large_logits_and_small_ones():
    torch.manual_seed(0)
    partitions = parse_partitions("1x3@1")
    for factor in (1e-3, 30.0, 1e3):
        q, k, v, bias = make_inputs(1, 8, 8, partitions, head_dim=8, requires_grad=False)
        expected = neighborhood_attention(factor * q, k, v, partitions, bias, backend="reference")
        single = [x.float() for x in (factor * q, k, v)]
        found = neighborhood_attention(*single, partitions, [bias[0].float()], backend="fused")
        assert relative_error(found, expected) < 1e-6 * max(1, factor)


@needs_numba
def test_gradients_repeat_bit_for_bit_whatever_the_number_of_threads():
    torch.manual_seed(0)
    partitions = parse_partitions("1x7@1,2x7@2,1x3@5")
    inputs = lower(make_inputs(2, 131, 40, partitions, head_dim=8))
    weights = torch.randn_like(inputs[0])
    threads = torch.get_num_threads()
    first = None
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            found = results(inputs, partitions, "fused", weights)
            first = first or found
            assert all(map(torch.equal, found, first))
    finally:
        torch.set_num_threads(threads)


def test_items_hold_every_query_row_once_and_share_no_key_within_a_turn():
    partitions = parse_partitions("1x7@1,1x3@3,1x35@1")
    heads, work = fused._plan(2, 150, partitions)
    assert heads[:, 0].tolist() == [1, 3, 1] and len(work) > 3
    rows = {}
    for some in work:
        size = some.size
        seen = set()
        for image, head, residue, first, last in some.items.tolist():
            length = -(-(150 - residue) // heads[head, 0])
            start = min(max(first - size // 2, 0), length - size)
            end = min(max(last - 1 - size // 2, 0), length - size) + size
            for row in range(start, end):
                assert (image, head, residue, row) not in seen
                seen.add((image, head, residue, row))
            for row in range(first, last):
                query = (image, head, residue + row * int(heads[head, 0]))
                rows[query] = rows.get(query, 0) + 1
    assert set(rows.values()) == {1} and len(rows) == 2 * 3 * 150


@needs_numba
def test_auto_takes_it_on_a_cpu_in_float32_and_bfloat16(monkeypatch):
    monkeypatch.setattr(dispatch, "_choices", {})
    layer = HydraNeighborhoodAttention(16, parse_partitions("1x3@1,1x3@2"))
    layer(torch.randn(1, 9, 8, 16))
    with torch.no_grad():
        layer(torch.randn(1, 9, 8, 16))
        layer.bfloat16()(torch.randn(1, 9, 8, 16, dtype=torch.bfloat16))
        layer.double()(torch.randn(1, 9, 8, 16, dtype=torch.float64))
    found = [str(choice) for choice in dispatch.choices()]
    preferred = "fused (preferred where it is right)"
    assert [text.split(": ")[1] for text in found] == 3 * [preferred] + ["tiled (the only candidate)"]


@needs_numba
def test_other_types_and_devices_are_refused():
    partitions = parse_partitions("1x3@1")
    q, k, v, _ = make_inputs(1, 8, 8, partitions)
    assert refusal(neighborhood_attention, q, k, v, partitions, backend="fused") == (
        "attention backend 'fused' got float64 on cpu: take auto or tiled, or give float32 or bfloat16 "
        "on a CPU"
    )


def test_without_numba_it_says_so_and_auto_takes_tiled(monkeypatch):
    monkeypatch.setattr(fused, "installed", lambda: False)
    monkeypatch.setattr(dispatch, "_choices", {})
    partitions = parse_partitions("1x3@1")
    q, k, v, _ = make_inputs(1, 8, 8, partitions, dtype=torch.float32)
    assert refusal(neighborhood_attention, q, k, v, partitions, backend="fused") == (
        "attention backend 'fused' needs Numba: pip install 'stylenat[fused]', or take tiled"
    )
    neighborhood_attention(q, k, v, partitions)
    assert [choice.backend for choice in dispatch.choices()] == ["tiled"]


@needs_numba
def test_an_empty_batch():
    partitions = parse_partitions("1x3@1")
    q, k, v, bias = make_inputs(0, 8, 8, partitions, dtype=torch.float32)
    out = neighborhood_attention(q, k, v, partitions, bias, backend="fused")
    out.sum().backward()
    assert out.shape == q.shape and q.grad.shape == q.shape and not bias[0].grad.any()


# PyTorch's ways.


@needs_numba
def test_derivatives_of_second_order_and_forward_mode():
    torch.manual_seed(0)
    partitions = parse_partitions("1x3@1,1x3@2")
    inputs = lower(make_inputs(1, 7, 6, partitions, head_dim=2))
    exact = lower(inputs, torch.float64)

    def penalty(inputs, backend):
        q, k, v, bias = inputs
        out = neighborhood_attention(q, k, v, partitions, bias, backend=backend)
        first = torch.autograd.grad(out.square().sum(), [q, k, v, *bias], create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), [q, k, v, *bias])

    for x, y in zip(penalty(inputs, "fused"), penalty(exact, "reference"), strict=True):
        assert relative_error(x, y) < 1e-5

    def tangent(inputs, backend):
        q, k, v, bias = (
            x.detach() if isinstance(x, torch.Tensor) else [y.detach() for y in x] for x in inputs
        )
        attend = lambda x: neighborhood_attention(x, k, v, partitions, bias, backend=backend)  # noqa: E731
        return torch.func.jvp(attend, (q,), (torch.ones_like(q),))[1]

    assert relative_error(tangent(inputs, "fused"), tangent(exact, "reference")) < 1e-5


@needs_numba
def test_vmap_and_shapes_alone():
    torch.manual_seed(0)
    partitions = parse_partitions("1x3@1,1x3@2")
    q = torch.randn(3, 2, 7, 6, 2, 4)
    _, k, v, bias = make_inputs(2, 7, 6, partitions, head_dim=4, dtype=torch.float32, requires_grad=False)

    def attend(q, k=k, v=v, bias=bias):
        return neighborhood_attention(q, k, v, partitions, bias, backend="fused")

    expected = torch.stack([attend(x) for x in q])
    assert relative_error(torch.vmap(attend)(q), expected) < 1e-6
    meta = [x.to("meta").requires_grad_() for x in (q[0], k, v)]
    out = attend(*meta, [x.to("meta") for x in bias])
    out.sum().backward()
    assert out.shape == q[0].shape and meta[1].grad.shape == k.shape


@needs_numba
def test_a_compiled_layer_is_the_same():
    layer = HydraNeighborhoodAttention(8, parse_partitions("1x3@1"))
    layer.backend = "fused"
    x = torch.randn(1, 5, 6, 8)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert relative_error(compiled(x), layer(x)) < 1e-6


# Numba itself.


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


CALL = """
import torch
from stylenat import neighborhood_attention, parse_partitions
q = torch.randn(1, 8, 8, 1, 4)
neighborhood_attention(q, q, q, parse_partitions("1x3@1"), backend="fused")
"""


def test_the_package_does_not_import_numba():
    run(
        "import sys, stylenat.cli, stylenat.attention.dispatch, stylenat.attention.layers\n"
        "assert 'numba' not in sys.modules and 'llvmlite' not in sys.modules\n"
        "assert 'stylenat.attention.triton_kernels' not in sys.modules"
    )


@needs_numba
def test_the_outer_loops_are_compiled_once_for_every_kind_of_call():
    from stylenat.attention import kernels

    for size, channels, dtype in ((3, 8, torch.float32), (5, 8, torch.bfloat16), (3, 3, torch.float32)):
        partitions = (HeadPartition(1, size, 1),)
        results(
            lower(make_inputs(1, 8, 8, partitions, head_dim=channels), dtype),
            partitions,
            "fused",
            torch.ones(1, 8, 8, 1, channels),
        )
    assert len(kernels.forward.signatures) == len(kernels.backward.signatures) == 1


@needs_numba
@pytest.mark.slow
def test_what_is_compiled_is_kept_on_disk(tmp_path):
    run(CALL, NUMBA_CACHE_DIR=str(tmp_path))
    files = sorted(tmp_path.rglob("*.nbc"))
    assert files
    times = [file.stat().st_mtime_ns for file in files]
    code = (
        CALL + "from stylenat.attention import kernels\nprint(sum(kernels.forward.stats.cache_hits.values()))"
    )
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path)).stdout.split() == ["1"]
    assert [file.stat().st_mtime_ns for file in files] == times


@needs_numba
@pytest.mark.slow
def test_where_nothing_may_be_kept_it_is_compiled_all_the_same():
    code = """
from numba.core.caching import CacheImpl
CacheImpl._locator_classes = []
"""
    run(code + CALL)
