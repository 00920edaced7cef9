"""The transformer's perceptron: on a CPU by slices of tokens, whose hidden layer stays in the caches."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylenat.attention.linear import in_type_of
from stylenat.attention.transforms import differentiated_again, plain_only

# Entries of the hidden layer worked on at once, and tokens at most: measured best at 16 to 512 channels.
_HIDDEN = 2**20
_TOKENS = 2**12


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Linear, exact GELU, linear.

    Args:
        x: `(…, C)`.
        weight1: of the first linear, `(hidden, C)`; where `models.precision.cast` rounded it, both products
            are in its type.
        bias1: `(hidden,)`.
        weight2: of the second linear, `(C', hidden)`.
        bias2: `(C',)`.

    Returns:
        `(…, C')`.
    """
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return plain_mlp(x, weight1, bias1, weight2, bias2)
    if plain_only():
        return plain_mlp(x, weight1, bias1, weight2, bias2)
    if weight1.dtype != x.dtype:
        gradients = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight1, weight2))
        form = plain_mlp if gradients else _rounded_mlp
        return form(x, weight1, bias1, weight2, bias2)
    return _Sliced.apply(x, weight1, bias1, weight2, bias2, torch.is_grad_enabled())


def plain_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """The same as `mlp`, all tokens at once."""
    return F.linear(F.gelu(F.linear(in_type_of(x, weight1), weight1, bias1)), weight2, bias2)


def _rounded_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """`plain_mlp` in the weights' type by slices of tokens, out again in x's; without gradients."""
    tokens = x.flatten(0, -2)  # (T, C)
    size = _slice_size(weight1)
    hidden = weight1.new_empty(min(size, len(tokens)), len(weight1))
    out = x.new_empty(len(tokens), len(weight2))  # (T, C')
    for i in range(0, len(tokens), size):
        part = tokens[i : i + size].to(weight1.dtype)  # (t, C)
        own = hidden[: len(part)]
        torch.addmm(bias1, part, weight1.T, out=own)
        out[i : i + size] = torch.addmm(bias2, F.gelu(own), weight2.T)
    return out.view(*x.shape[:-1], len(weight2))


def _slice_size(weight1: Tensor) -> int:
    """Tokens worked on at once."""
    return max(1, min(_TOKENS, _HIDDEN // len(weight1)))


class _Sliced(torch.autograd.Function):
    """`plain_mlp` by slices of tokens. Of the hidden layer, only the input of GELU is kept, if needed."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, keep: bool
    ) -> Tensor:
        tokens = x.flatten(0, -2)  # (T, C)
        size = _slice_size(weight1)
        rows = len(tokens) if keep else min(size, len(tokens))
        hidden = x.new_empty(rows, len(weight1))  # before GELU
        out = x.new_empty(len(tokens), len(weight2))  # (T, C')
        for i in range(0, len(tokens), size):
            part = tokens[i : i + size]  # (t, C)
            own = hidden.narrow(0, i if keep else 0, len(part))  # (t, hidden)
            torch.addmm(bias1, part, weight1.T, out=own)
            torch.addmm(bias2, F.gelu(own), weight2.T, out=out[i : i + size])
        ctx.save_for_backward(x, weight1, bias1, weight2, bias2, hidden)
        return out.view(*x.shape[:-1], len(weight2))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, bias1, weight2, _, hidden = ctx.saved_tensors
        if differentiated_again(grad):
            return *_plain_gradients(grad, x, weight1, bias1, weight2), None
        tokens = x.flatten(0, -2)  # (T, C)
        grad_out = grad.flatten(0, -2)  # (T, C')
        grad_tokens = torch.empty_like(tokens)
        grad_weight1 = torch.zeros_like(weight1)
        grad_bias1 = torch.zeros_like(bias1)
        grad_weight2 = torch.zeros_like(weight2)
        size = _slice_size(weight1)
        for i in range(0, len(tokens), size):
            part = slice(i, i + size)
            grad_weight2.addmm_(grad_out[part].T, F.gelu(hidden[part]))
            grad_hidden = torch.ops.aten.gelu_backward(grad_out[part] @ weight2, hidden[part])  # (t, hidden)
            grad_bias1 += grad_hidden.sum(0)
            grad_weight1.addmm_(grad_hidden.T, tokens[part])
            torch.mm(grad_hidden, weight1, out=grad_tokens[part])
        return grad_tokens.view_as(x), grad_weight1, grad_bias1, grad_weight2, grad_out.sum(0), None


def _plain_gradients(
    grad: Tensor, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `plain_mlp`'s five inputs, all tokens at once, out of operations that have derivatives."""
    tokens = x.reshape(-1, x.shape[-1])  # (T, C)
    grad_out = grad.reshape(-1, grad.shape[-1])  # (T, C')
    hidden = F.linear(tokens, weight1, bias1)  # (T, hidden)
    grad_hidden = torch.ops.aten.gelu_backward(grad_out @ weight2, hidden)  # (T, hidden)
    grad_x = (grad_hidden @ weight1).reshape(x.shape)  # (…, C)
    grad_weight2 = grad_out.mT @ F.gelu(hidden)  # (C', hidden)
    return grad_x, grad_hidden.mT @ tokens, grad_hidden.sum(0), grad_weight2, grad_out.sum(0)
