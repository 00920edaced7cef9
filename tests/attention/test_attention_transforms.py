"""What the attention function refuses under PyTorch's transforms.

What is right is in tests/models/test_transforms.py.
"""

import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import make_inputs, refusal, relative_error
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

from stylenat.attention import dispatch, flex, natten, reference, tiled
from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.partitions import HeadPartition, parse_partitions

PARTITIONS = parse_partitions("1x3@1,1x3@2")


def inputs(requires_grad=False):
    torch.manual_seed(0)
    return make_inputs(2, 8, 9, PARTITIONS, requires_grad=requires_grad)[:3]


def under_dual_level(f, q):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(q, q))).tangent


WAYS = {
    "vmap": lambda f, q: vmap(f)(q[None]),
    "grad": lambda f, q: grad(lambda x: f(x).sum())(q),
    "jvp": lambda f, q: jvp(f, (q,), (q,))[1],
    "forward_ad": under_dual_level,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", ["flex", "natten"])
def test_fused_backends_refuse_transforms(backend, way):
    q, k, v = inputs()

    def attend(x):
        return neighborhood_attention(x, k, v, PARTITIONS, backend=backend)

    assert refusal(WAYS[way], attend, q) == (
        f"attention backend {backend!r} knows neither torch.func nor forward-mode differentiation: "
        "take auto, tiled or reference"
    )


@pytest.mark.parametrize("way", WAYS)
def test_auto_takes_no_fused_backend_under_transforms(way, monkeypatch):
    """It would be measured, and lose the tangents."""

    def fused(*call):
        raise AssertionError("called")

    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setitem(dispatch.BACKENDS, "fused", dispatch.Backend(fused, lambda q, bias, gradients: True))
    q, k, v = inputs()
    found = WAYS[way](lambda x: neighborhood_attention(x, k, v, PARTITIONS), q)
    expected = WAYS[way](lambda x: reference.attend(x, k, v, PARTITIONS, [None, None], 2**-0.5), q)
    assert relative_error(found, expected) < 1e-14
    assert not dispatch.choices()


@pytest.mark.parametrize("way", ["jvp", "forward_ad"])
def test_the_operators_themselves_never_lose_a_tangent(way):
    q, k, v = inputs()
    bias = torch.zeros(50, dtype=q.dtype)
    for call in (
        lambda x: tiled._operators.forward(x, k, v, bias, [1, 3, 1, 1, 3, 2], 1.0),
        lambda x: tiled._operators.backward(x, q, k, v, bias, [1, 3, 1, 1, 3, 2], 1.0)[0],
    ):
        with pytest.raises(NotImplementedError, match="differentiate the module itself"):
            WAYS[way](call, q)


def test_plans_made_without_gradients_serve_with_them():
    """Tensors of the inference mode cannot be part of a graph, and plans are kept."""
    flex._plan.cache_clear()
    with torch.inference_mode():
        plan = flex._plan(8, 9, HeadPartition(1, 3, 2), torch.device("cpu"))
    assert not plan.order.is_inference() and not plan.mask.kv_indices.is_inference()


def na2d(q, k, v, kernel_size, dilation, scale):
    """NATTEN's function, by the reference."""
    part = HeadPartition(q.shape[3], kernel_size, dilation)
    return reference.attend(q, k, v, (part,), (None,), scale)


def test_natten_is_differentiated_once_alone(monkeypatch):
    """Its kernels' own backward pass has no derivative, and says nothing about it."""
    monkeypatch.setattr(natten, "installed", lambda: True)
    monkeypatch.setattr(natten, "installed_version", lambda: "0.21.7")
    monkeypatch.setitem(sys.modules, "natten", SimpleNamespace(na2d=na2d))
    tensors = inputs(requires_grad=True)
    out = neighborhood_attention(*tensors, PARTITIONS, backend="natten")
    expected = neighborhood_attention(*tensors, PARTITIONS, backend="reference")
    first = torch.autograd.grad(out.square().sum(), tensors, retain_graph=True)
    for x, y in zip(first, torch.autograd.grad(expected.square().sum(), tensors), strict=True):
        assert relative_error(x, y) < 1e-14
    assert refusal(torch.autograd.grad, out.square().sum(), tensors, create_graph=True) == (
        "attention backend 'natten' has no second derivative: take tiled, or differentiate once, "
        "without create_graph"
    )
