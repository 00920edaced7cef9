"""What heads attend to: the true softmax weights of a query, on the grid of its keys."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from stylenat.attention.layers import Attention
from stylenat.attention.reference import check_query
from stylenat.models.base import Generator


class HasHeads(Protocol):
    """A part of a level's heads."""

    @property
    def heads(self) -> int:
        """How many."""


def attention_weights(attention: Attention, x: Tensor, query: tuple[int, int]) -> Tensor:
    """Weights with which each head of a layer attends to every token, from one query.

    An attention's output is a weighted sum of v, so the weights are its derivative by any channel of v:
    exact for every kind of attention and every backend, bias, border and dilation included.

    Args:
        attention: an attention layer of the generator.
        x: its input `(B, H, W, C)`.
        query: (row, column).

    Returns:
        `(B, heads, H, W)`, each map of sum 1 and zero outside of the query's neighborhood.

    Raises:
        UserError: a query outside of the grid.
    """
    check_query(query, *x.shape[1:3])
    row, column = query
    with torch.enable_grad():
        q, k, v = (part.detach() for part in attention.project(x))  # (B, H, W, heads, head_dim) each
        v.requires_grad_()
        out = attention.attend(q, k, v)[:, row, column, :, 0].sum()  # any one channel will do
        (weights,) = torch.autograd.grad(out, v)  # (B, H, W, heads, head_dim)
    return weights[..., 0].permute(0, 3, 1, 2)


def attention_maps(
    generator: Generator, w: Tensor, level: int, query: tuple[int, int], *, block: int = 0
) -> Tensor:
    """Attention weights at a level of the generator while it makes the images of the styles w.

    Args:
        generator: in eval mode.
        w: styles `(B, style_dim)` or w+ `(B, num_styles, style_dim)`.
        level: resolution of the level, one of the generator's.
        query: (row, column) on the level's grid.
        block: which block of the level, from 0.

    Returns:
        Head weights `(B, heads, level, level)`; `by_partition` averages them.

    Raises:
        UserError: no such level or block, or a query outside of the grid.
    """
    return attention_weights(*attention_input(generator, w, level, block), query)


def attention_input(generator: Generator, w: Tensor, level: int, block: int) -> tuple[Attention, Tensor]:
    """The attention layer of a block, and what it is given for styles w: `(B, level, level, channels)`.

    Raises:
        UserError: no such level or block.
    """
    attention = generator.attention(level, block)
    inputs: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        with torch.no_grad():
            generator.synthesis(w)
    finally:
        hook.remove()
    return attention, inputs[0]


def by_partition(weights: Tensor, partitions: Sequence[HasHeads]) -> Tensor:
    """The mean map of each partition's heads.

    Args:
        weights: of all heads, `(B, heads, H, W)`.
        partitions: what the heads are split into, in order.

    Returns:
        `(B, partitions, H, W)`.
    """
    shares = weights.split([part.heads for part in partitions], dim=1)  # (B, heads_p, H, W) each
    return torch.stack([share.mean(1) for share in shares], dim=1)
