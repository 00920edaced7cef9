"""Attention layers: the two linears around an attention; Hydra's (paper, section 3.2), and full attention."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.linear import Linear
from stylenat.attention.partitions import (
    COARSEST,
    Full,
    HeadPartition,
    Level,
    check_fits,
    count_heads,
    format_partitions,
)
from stylenat.attention.transforms import sizes, softmax
from stylenat.errors import UserError


def position_table(*shape: int) -> nn.Parameter:
    """A freshly drawn relative position table of that shape."""
    table = nn.Parameter(torch.empty(shape))
    nn.init.trunc_normal_(table, std=0.02)
    return table


class Attention(nn.Module, ABC):
    """The two linears around an attention of `heads` heads, and how they are initialized.

    Args:
        dim: channels C, a multiple of the heads.
        partitions: what the heads see.

    Attributes:
        partitions: as given, a tuple.
        heads: heads of all partitions together.

    Raises:
        UserError: dim that the heads do not divide.
    """

    def __init__(self, dim: int, partitions: Level) -> None:
        super().__init__()
        heads = count_heads(partitions)
        if heads < 1 or dim % heads:
            raise UserError(f"dim {dim} does not split into {heads} heads: take heads that divide dim")
        self.partitions = partitions
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        for linear in (self.qkv, self.proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, H, W, C)` → the same."""
        if x.ndim != 4 or sizes(x)[3] != self.qkv.in_features:
            raise UserError(f"attention got an input of {sizes(x)}: give (B, H, W, {self.qkv.in_features})")
        q, k, v = self.project(x)  # (B, H, W, heads, head_dim) each
        out = self.attend(q, k, v)  # (B, H, W, heads, head_dim)
        return self.proj(out.flatten(3))  # (B, H, W, C)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k, v of `(B, H, W, C)`: `(B, H, W, heads, head_dim)` each."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(3)

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention itself: q, k, v `(B, H, W, heads, head_dim)` → the same."""

    def extra_repr(self) -> str:
        """The partitions as text."""
        return format_partitions(self.partitions)


class HydraNeighborhoodAttention(Attention):
    """Hydra neighborhood attention over `(B, H, W, dim)`, every partition with its own kernel and dilation.

    Args:
        dim: channels, a multiple of the partitions' heads.
        partitions: what the heads see.
        level: the resolution it is meant for, if known: checked against the partitions, and named in errors.
        bias: whether there are relative position tables.

    Attributes:
        backend: see `neighborhood_attention`; may be set at any time.
        rpb: a relative position table `(heads_p, 2k-1, 2k-1)` for each partition; None without bias.

    Raises:
        UserError: dim that the heads do not divide; a window larger than the level or, later, than the input.
    """

    partitions: tuple[HeadPartition, ...]

    rpb: nn.ParameterList | None

    def __init__(
        self, dim: int, partitions: Sequence[HeadPartition], *, level: int | None = None, bias: bool = True
    ) -> None:
        super().__init__(dim, tuple(partitions))
        if level is not None:
            check_fits(partitions, level, level, level)
        self.level = level
        self.backend = "auto"
        tables = [position_table(*part.table_shape) for part in partitions] if bias else None
        self.rpb = nn.ParameterList(tables) if tables else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Neighborhood attention of q, k, v `(B, H, W, heads, head_dim)`."""
        _, height, width, _, _ = sizes(q)
        check_fits(self.partitions, height, width, self.level)
        return neighborhood_attention(q, k, v, self.partitions, self.rpb, backend=self.backend)


class FullAttention(Attention):
    """Self-attention over all n² tokens of `(B, n, n, dim)`.

    At 4 × 4 the relative position bias is a table of both axes, as published. On larger grids, which no
    published model has, it is the sum of a table for each axis: that of both would have (2n - 1)² entries a
    head, at 32 × 32 more than the rest of a small layer.

    Args:
        dim: channels, a multiple of the heads.
        heads: number of heads.
        side: n.
        bias: whether there are relative position tables.

    Attributes:
        rpb: at 4 × 4 a table `(heads, 7, 7)`, by key minus query + 3 on each axis, row first; else None.
        rpb_rows: on larger grids a table `(heads, 2n - 1)`, by key minus query + n - 1; else None.
        rpb_columns: the same of columns.

    Raises:
        UserError: dim that the heads do not divide, or an input that is not n × n.
    """

    rpb: nn.Parameter | None
    rpb_rows: nn.Parameter | None
    rpb_columns: nn.Parameter | None

    def __init__(self, dim: int, heads: int, side: int = COARSEST, *, bias: bool = True) -> None:
        super().__init__(dim, (Full(heads),))
        self.side = side
        offsets = 2 * side - 1
        joint = bias and side == COARSEST
        separate = bias and side != COARSEST
        self.rpb = position_table(heads, offsets, offsets) if joint else None
        self.rpb_rows = position_table(heads, offsets) if separate else None
        self.rpb_columns = position_table(heads, offsets) if separate else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q, k, v `(B, n, n, heads, head_dim)`, each token to all n²."""
        n = self.side
        height, width = sizes(q)[1:3]
        if (height, width) != (n, n):
            raise UserError(
                f"full attention got {height} × {width} tokens: give {n} × {n}, or use "
                "HydraNeighborhoodAttention"
            )
        queries = q.flatten(1, 2).transpose(1, 2) * sizes(q)[-1] ** -0.5  # (B, heads, n², head_dim)
        keys = k.flatten(1, 2).transpose(1, 2)  # (B, heads, n², head_dim)
        values = v.flatten(1, 2).transpose(1, 2)  # (B, heads, n², head_dim)
        logits = queries @ keys.transpose(-2, -1)  # (B, heads, n², n²)
        bias = self._bias()
        if bias is not None:
            logits = logits + bias
        out = softmax(logits).to(values.dtype) @ values  # (B, heads, n², head_dim)
        return out.transpose(1, 2).unflatten(1, (n, n))  # (B, n, n, heads, head_dim)

    def _bias(self) -> Tensor | None:
        """The tables' entry of every query and key: `(heads, n², n²)`; None without bias."""
        n = self.side
        position = torch.arange(n, device=self.qkv.weight.device)
        offset = position - position[:, None] + n - 1  # (n queries, n keys), of one axis
        # By `gather`: the gradient of plain indexing adds in no fixed order where there are several threads.
        if self.rpb is not None:
            index = offset[:, None, :, None] * (2 * n - 1) + offset[None, :, None, :]  # (n, n, n, n)
            entries = self.rpb.flatten(1).gather(1, index.flatten().expand(self.heads, -1))  # (heads, n⁴)
            return entries.view(-1, n * n, n * n)
        if self.rpb_rows is None or self.rpb_columns is None:
            return None
        index = offset.flatten().expand(self.heads, -1)
        rows = self.rpb_rows.gather(1, index).view(-1, n, 1, n, 1)  # (heads, query row, 1, key row, 1)
        columns = self.rpb_columns.gather(1, index).view(-1, 1, n, 1, n)
        return (rows + columns).flatten(3).flatten(1, 2)  # (heads, n², n²)
