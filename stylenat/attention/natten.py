"""Neighborhood attention by NATTEN's fused kernels.

They know no relative position bias and no second derivative. Before version 0.21.7 their gradient of v could
be NaN, where tiles are cut off at a border (SHI-Labs/NATTEN, pull request 341), so older ones are refused.
"""

import importlib.util
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from stylenat.attention.partitions import HeadPartition
from stylenat.attention.reference import partition_shares
from stylenat.errors import UserError

_OLDEST = (0, 21, 7)


def installed() -> bool:
    """Whether the package is there, of whichever version; importing it takes seconds."""
    return importlib.util.find_spec("natten") is not None


def installed_version() -> str:
    """The package's version, such as 0.21.7+torch2130cu130; empty where it has none."""
    try:
        return version("natten")
    except PackageNotFoundError:
        return ""


def is_too_old(text: str) -> bool:
    """Whether a version is older than the oldest whose gradients can be trusted."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return numbers is None or tuple(map(int, numbers.groups())) < _OLDEST


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
        UserError: a bias table, no NATTEN, or one that is too old.
    """
    if any(table is not None for table in bias):
        raise UserError("attention backend 'natten' has no relative position bias: take flex or tiled")
    if not installed():
        raise UserError("attention backend 'natten' needs NATTEN: see README, \"On a GPU\", or take tiled")
    found = installed_version()
    if is_too_old(found):
        oldest = ".".join(map(str, _OLDEST))
        raise UserError(
            f"attention backend 'natten' needs NATTEN {oldest} or later, and {found or 'none'} is installed: "
            "its gradient of v could be NaN; update it, or take tiled"
        )
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
