"""The transformer's perceptron: on a CPU by slices of tokens, whose hidden layer stays in the caches."""

import torch
import torch.nn.functional as F

_HIDDEN = 2**20  # entries of the hidden layer worked on at once: measured best at 16 to 512 channels


def mlp(x, weight1, bias1, weight2, bias2):
    """Linear, exact GELU, linear: `(…, C)` → `(…, C')`, with weights `(hidden, C)` and `(C', hidden)`."""
    tensors = x, weight1, bias1, weight2, bias2
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return _whole(*tensors)
    return _Sliced.apply(*tensors, torch.is_grad_enabled())


def _whole(x, weight1, bias1, weight2, bias2):
    return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)


class _Sliced(torch.autograd.Function):
    """`_whole` by slices of tokens. Of the hidden layer, only the input of GELU is kept, if needed."""

    @staticmethod
    def forward(ctx, x, weight1, bias1, weight2, bias2, keep):
        tokens = x.flatten(0, -2)
        size = max(1, _HIDDEN // len(weight1))
        hidden = x.new_empty(len(tokens) if keep else min(size, len(tokens)), len(weight1))
        out = x.new_empty(len(tokens), len(weight2))
        for i in range(0, len(tokens), size):
            part = tokens[i : i + size]
            h = hidden.narrow(0, i if keep else 0, len(part))
            torch.addmm(bias1, part, weight1.T, out=h)
            torch.addmm(bias2, F.gelu(h), weight2.T, out=out[i : i + size])
        ctx.save_for_backward(x, weight1, bias1, weight2, bias2, hidden)
        return out.view(*x.shape[:-1], len(weight2))

    @staticmethod
    def backward(ctx, grad):
        *inputs, hidden = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for
            return *torch.autograd.grad(_whole(*inputs), inputs, grad, create_graph=True), None
        x, weight1, bias1, weight2, _ = inputs
        tokens, grad = x.flatten(0, -2), grad.flatten(0, -2)
        to_tokens = torch.empty_like(tokens)
        to_weight1, to_bias1, to_weight2 = (torch.zeros_like(w) for w in (weight1, bias1, weight2))
        size = max(1, _HIDDEN // len(weight1))
        for i in range(0, len(tokens), size):
            part, g, h = (t[i : i + size] for t in (tokens, grad, hidden))
            to_weight2.addmm_(g.T, F.gelu(h))
            to_hidden = torch.ops.aten.gelu_backward(g @ weight2, h)
            to_bias1 += to_hidden.sum(0)
            to_weight1.addmm_(to_hidden.T, part)
            torch.mm(to_hidden, weight1, out=to_tokens[i : i + size])
        return to_tokens.view_as(x), to_weight1, to_bias1, to_weight2, grad.sum(0), None
