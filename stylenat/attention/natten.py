"""Neighborhood attention by NATTEN's fused kernels (0.20 or later).

They know no relative position bias and no second derivative.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stylenat.attention.partitions import HeadPartition
from stylenat.attention.reference import partition_shares
from stylenat.errors import UserError


def installed() -> bool:
    """Whether the package is there; importing it takes seconds."""
    return importlib.util.find_spec("natten") is not None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    partitions: Sequence[HeadPartition],
    bias: Sequence[Tensor | None],
    scale: float,
) -> Tensor:
    """Attention of all partitions without bias; see `neighborhood_attention`.

    Raises:
        UserError: a bias table, or no NATTEN.
    """
    if any(table is not None for table in bias):
        raise UserError("attention backend 'natten' has no relative position bias: take flex or tiled")
    if not installed():
        raise UserError("attention backend 'natten' needs NATTEN: see README, \"On a GPU\", or take tiled")
    from natten import na2d

    outputs = []
    for share, part in zip(partition_shares(q, k, v, partitions), partitions, strict=True):
        own = [x.contiguous() for x in share]  # (B, H, W, heads_p, head_dim) each
        outputs.append(na2d(*own, kernel_size=part.kernel_size, dilation=part.dilation, scale=scale))
    return _OnceDifferentiable.apply(torch.cat(outputs, 3))


class _OnceDifferentiable(torch.autograd.Function):
    """Changes nothing, but refuses a backward pass that is to be differentiated itself."""

    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise UserError(
                "attention backend 'natten' has no second derivative: take tiled, or differentiate once, "
                "without create_graph"
            )
        return grad
