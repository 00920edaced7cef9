"""What makes two plain functions, attention and its gradients, an operator that PyTorch knows all about.

Compilers take the operator as it is, autograd keeps its inputs alone, and it has derivatives of every order,
shapes without data, a rule for `vmap` and a count of its arithmetic. `torch.func` and forward-mode
differentiation cannot look into it: but for `vmap` they get the reference's plain operations.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from stylenat.attention import reference
from stylenat.attention.partitions import HeadPartition
from stylenat.attention.transforms import differentiated, forward_mode


def _partitions(numbers: Sequence[int]) -> list[HeadPartition]:
    """The partitions of a call: operators take plain numbers only, three for each."""
    return [HeadPartition(*numbers[i : i + 3]) for i in range(0, len(numbers), 3)]


def _join(tables: Sequence[Tensor]) -> Tensor:
    """All tables as one vector, for PyTorch's fallbacks know no operators on lists of tensors."""
    if len(tables) == 1:
        return tables[0].flatten()
    return torch.cat([table.flatten() for table in tables])


def split_tables(bias: Tensor, partitions: Sequence[HeadPartition]) -> list[Tensor]:
    """The tables of a call: views `(h, 2k-1, 2k-1)` of the vector of all, one for each partition."""
    shapes = [part.table_shape for part in partitions]
    parts = bias.split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class Operators:
    """The operators of a backend, one each way.

    Args:
        name: of the backend.
        forward: `(q, k, v, bias, partitions, scale)` → the output; bias is the vector of all tables.
        backward: `(grad, q, k, v, bias, partitions, scale)` → gradients of q, k, v and bias.

    Attributes:
        forward: the operator `stylenat::NAME_attention`; partitions are plain numbers, three for each.
        backward: the operator `stylenat::NAME_attention_backward`.
    """

    def __init__(
        self,
        name: str,
        forward: Callable[..., Tensor],
        backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]],
    ) -> None:
        def run_forward(
            q: Tensor, k: Tensor, v: Tensor, bias: Tensor, partitions: Sequence[int], scale: float
        ) -> Tensor:
            _refuse_tangents(name)
            return forward(q, k, v, bias, _partitions(partitions), scale)

        def run_backward(
            grad: Tensor,
            q: Tensor,
            k: Tensor,
            v: Tensor,
            bias: Tensor,
            partitions: Sequence[int],
            scale: float,
        ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            _refuse_tangents(name)
            return backward(grad, q, k, v, bias, _partitions(partitions), scale)

        label = f"stylenat::{name}_attention"
        self.forward: Any = torch.library.custom_op(label, run_forward, mutates_args=())
        self.backward: Any = torch.library.custom_op(f"{label}_backward", run_backward, mutates_args=())
        self.forward.register_fake(_fake_forward)
        self.backward.register_fake(_fake_backward)
        self.forward.register_autograd(self._differentiate, setup_context=_keep_inputs)
        self.backward.register_autograd(_differentiate_again, setup_context=_keep_inputs)
        self.forward.register_vmap(self._map_forward)
        self.backward.register_vmap(self._map_backward)
        packets = torch.ops.stylenat
        register_flop_formula(getattr(packets, f"{name}_attention"))(_flops)
        register_flop_formula(getattr(packets, f"{name}_attention_backward"))(_backward_flops)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        partitions: Sequence[HeadPartition],
        bias: Sequence[Tensor | None],
        scale: float,
    ) -> Tensor:
        """Attention of all partitions, see `neighborhood_attention`, with derivatives of every order."""
        if differentiated():
            return reference.attend(q, k, v, partitions, bias, scale)
        tables = []
        numbers: list[int] = []
        for part, table in zip(partitions, bias, strict=True):
            tables.append(q.new_zeros(part.table_shape) if table is None else table)
            numbers += (part.heads, part.kernel_size, part.dilation)
        return self.forward(q, k, v, _join(tables), numbers, scale)

    def _differentiate(self, ctx: Any, grad: Tensor) -> tuple:
        if differentiated():  # such as where the gradient given has a tangent
            gradients = _plain_gradients(ctx, grad, *ctx.saved_tensors)
        else:
            gradients = self.backward(grad, *ctx.saved_tensors, ctx.numbers, ctx.scale)
        return *gradients, None, None

    # `vmap`: one more dimension, in front of the batch; tensors may have it or not.

    def _map_forward(self, info: Any, in_dims: tuple, *inputs: Any) -> tuple[Tensor, int]:
        *_, numbers, scale = inputs
        q, k, v, bias = _in_front(info.batch_size, in_dims, inputs)
        if in_dims[3] is None:
            flat = [x.flatten(0, 1) for x in (q, k, v)]  # (N · B, H, W, heads, c) each
            out = self.forward(*flat, bias[0], numbers, scale)  # (N · B, H, W, heads, c)
            return out.unflatten(0, (info.batch_size, -1)), 0
        outputs = [self.forward(*own, numbers, scale) for own in zip(q, k, v, bias, strict=True)]
        return torch.stack(outputs), 0

    def _map_backward(
        self, info: Any, in_dims: tuple, *inputs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        *_, numbers, scale = inputs
        own_inputs = zip(*_in_front(info.batch_size, in_dims, inputs), strict=True)
        # Each has its own gradient of the bias.
        results = [self.backward(*own, numbers, scale) for own in own_inputs]
        gradients = tuple(map(torch.stack, zip(*results, strict=True)))
        return gradients, (0, 0, 0, 0)


# Derivatives and shapes


def _keep_inputs(ctx: Any, inputs: tuple, output: Any) -> None:
    *tensors, ctx.numbers, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_again(ctx: Any, *cotangents: Tensor) -> tuple:
    """Second order: nothing here needs it fast, so it is the reference's, and itself differentiable."""
    pull_back: Any = torch.func.vjp(functools.partial(_plain_gradients, ctx), *ctx.saved_tensors)[1]
    return *pull_back(cotangents), None, None


def _plain_gradients(ctx: Any, grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The reference's gradients of q, k, v and the tables, out of plain operations."""
    parts = _partitions(ctx.numbers)

    def attend_plainly(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return reference.attend(q, k, v, parts, split_tables(bias, parts), ctx.scale)

    pull_back: Any = torch.func.vjp(attend_plainly, *inputs)[1]
    return pull_back(grad)


def _fake_forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, partitions: list[int], scale: float
) -> Tensor:
    return q.new_empty(q.shape)


def _fake_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    partitions: list[int],
    scale: float,
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in (q, k, v, bias))


def _refuse_tangents(name: str) -> None:
    """An operator would lose them; code that holds operators only, as a trace does, comes here with them."""
    if forward_mode():
        raise NotImplementedError(
            f"a traced or exported graph of {name} attention has no forward-mode derivative: differentiate "
            "the module itself"
        )


def _in_front(size: int, in_dims: tuple, inputs: tuple) -> list[Tensor]:
    """The tensors, the mapped dimension in front; repeated, without a copy, where they had none."""
    moved = []
    for dim, x in zip(in_dims, inputs, strict=True):
        if isinstance(x, Tensor):
            moved.append(x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0))
    return moved


# For PyTorch's flop counter: two products of every query with its own window; five in the backward pass.
def _flops(q: Any, k: Any, v: Any, bias: Any, partitions: list[int], *_: Any, out_shape: Any = None) -> int:
    batch, height, width, _, channels = q
    keys = sum(part.heads * part.kernel_size**2 for part in _partitions(partitions))
    return 2 * 2 * batch * height * width * channels * keys


def _backward_flops(grad: Any, *inputs: Any, out_shape: Any = None) -> int:
    return 5 * _flops(*inputs) // 2
