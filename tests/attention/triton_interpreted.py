"""The Triton kernels against the reference, interpreted on a CPU.

Triton has to be imported for that with TRITON_INTERPRET=1: `test_triton.py` runs this file so.
"""

import random

import pytest
import torch
from helpers import make_inputs, refusal, relative_error

from stylenat.attention import dispatch
from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.partitions import HeadPartition, parse_partitions


def results(inputs, partitions, backend, weights):
    """The output, then the gradients of q, k, v and of every bias table that there is."""
    q, k, v, bias = inputs
    out = neighborhood_attention(q, k, v, partitions, bias, backend=backend)
    leaves = [x for x in (q, k, v, *(bias or ())) if x is not None]
    return [out, *torch.autograd.grad(out, leaves, weights.to(out.dtype))]


def lower(inputs, dtype=torch.float32):
    q, k, v, bias = inputs
    low = [x.detach().to(dtype).requires_grad_() for x in (q, k, v, *bias)]
    return (*low[:3], low[3:])


def worst_error(inputs, partitions, weights):
    expected = results(inputs, partitions, "reference", weights)
    actual = results(lower(inputs), partitions, "triton", weights)
    return max(relative_error(x, y) for x, y in zip(actual, expected, strict=True))


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("text", "height", "width", "channels"),
    [
        ("1x3@1,2x5@2", 11, 13, 3),  # uneven; groups of different sizes; two tiles on each axis
        pytest.param("1x7@1", 9, 12, 8, marks=slow),  # all windows at a border
        pytest.param("1x3@1", 5, 27, 20, marks=slow),  # four tiles a row; channels padded
        pytest.param("1x15@1", 17, 15, 2, marks=slow),  # more keys than a block in both directions
    ],
)
def test_kernels_equal_the_reference(text, height, width, channels):
    torch.manual_seed(0)
    partitions = parse_partitions(text)
    inputs = make_inputs(1, height, width, partitions, head_dim=channels)
    assert worst_error(inputs, partitions, torch.randn_like(inputs[0])) < 1e-6


@pytest.mark.slow
def test_kernels_equal_the_reference_on_random_cases():
    rng = random.Random(0)
    torch.manual_seed(0)
    worst = 0.0
    for _ in range(8):
        partitions = tuple(
            HeadPartition(rng.randint(1, 2), rng.choice((3, 5, 7)), rng.randint(1, 2))
            for _ in range(rng.randint(1, 3))
        )
        least = max(part.kernel_size * part.dilation for part in partitions)
        height, width = (least + rng.randint(0, 8) for _ in range(2))
        inputs = make_inputs(rng.randint(1, 2), height, width, partitions, head_dim=rng.choice((1, 8, 18)))
        worst = max(worst, worst_error(inputs, partitions, torch.randn_like(inputs[0])))
    print(f"worst relative error: {worst:.1e}")
    assert worst < 2e-6


def test_no_bias_and_any_strides():
    """As a layer packs q, k and v; transposed; expanded; of different strides."""
    torch.manual_seed(0)
    partitions = parse_partitions("2x3@1")
    ways = {
        "packed": torch.randn(1, 6, 7, 3 * 8).unflatten(-1, (3, 2, 4)).unbind(3),
        "transposed": [torch.randn(1, 7, 6, 2, 4).transpose(1, 2) for _ in range(3)],
        "expanded": [torch.randn(1, 6, 1, 2, 4).expand(1, 6, 7, 2, 4) for _ in range(3)],
        "different": [*torch.randn(2, 1, 6, 7, 2, 4), torch.randn(1, 6, 7, 4, 2).transpose(3, 4)],
    }
    weights = torch.randn(1, 6, 7, 2, 4)
    for name, tensors in ways.items():
        leaves = [x.detach().requires_grad_() for x in tensors]
        exact = [x.detach().double().requires_grad_() for x in tensors]
        found = results((*leaves, None), partitions, "triton", weights)
        wanted = results((*exact, None), partitions, "reference", weights)
        assert max(map(relative_error, found, wanted)) < 1e-6, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=slow)])
def test_half_types_sum_in_float32(dtype):
    """What comes out is little farther from the exact result than its nearest number of that type.

    A GPU rounds weights, too, for their product with v; the interpreter, which has no products of bfloat16,
    does not, but it cuts bfloat16 off instead of rounding, which doubles the error.
    """
    torch.manual_seed(0)
    partitions = parse_partitions("1x3@1")
    low = lower(make_inputs(1, 8, 7, partitions, head_dim=16), dtype)
    exact = [x.detach().double().requires_grad_() for x in (*low[:3], *low[3])]
    weights = torch.randn(low[0].shape, dtype=torch.float64).to(dtype)
    actual = results(low, partitions, "triton", weights)
    expected = results((*exact[:3], exact[3:]), partitions, "reference", weights)
    assert {x.dtype for x in actual} == {dtype}
    for x, y in zip(actual, expected, strict=True):
        assert relative_error(x, y) < 2.5 * relative_error(y.to(dtype), y)


def test_an_empty_batch():
    partitions = parse_partitions("1x3@1")
    q, k, v, bias = make_inputs(0, 8, 8, partitions, dtype=torch.float32)
    out = neighborhood_attention(q, k, v, partitions, bias, backend="triton")
    out.sum().backward()
    assert out.shape == q.shape and q.grad.shape == q.shape and not bias[0].grad.any()


def test_a_large_kernel_is_refused():
    partitions = parse_partitions("1x3@1,1x17@1")
    q, k, v, _ = make_inputs(1, 17, 17, partitions, dtype=torch.float32)
    assert refusal(neighborhood_attention, q, k, v, partitions, backend="triton") == (
        "attention backend 'triton' got partitions 1x3@1,1x17@1: take tiled, or kernels of at most 15"
    )


def test_auto_does_not_try_it_on_a_cpu():
    q = torch.empty(1, 8, 8, 1, 4)
    assert not dispatch.BACKENDS["triton"].suits(q, [None], True)
