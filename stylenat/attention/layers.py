"""Attention layers: the two linears around an attention; Hydra's (paper, section 3.2), and full attention."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.partitions import (
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
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
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

    Attributes:
        backend: see `neighborhood_attention`; may be set at any time.
        rpb: a relative position table `(heads_p, 2k-1, 2k-1)` for each partition.

    Raises:
        UserError: dim that the heads do not divide; a window larger than the level or, later, than the input.
    """

    partitions: tuple[HeadPartition, ...]

    def __init__(self, dim: int, partitions: Sequence[HeadPartition], *, level: int | None = None) -> None:
        super().__init__(dim, tuple(partitions))
        if level is not None:
            check_fits(partitions, level, level, level)
        self.level = level
        self.backend = "auto"
        self.rpb = nn.ParameterList(position_table(*part.table_shape) for part in partitions)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Neighborhood attention of q, k, v `(B, H, W, heads, head_dim)`."""
        _, height, width, _, _ = sizes(q)
        check_fits(self.partitions, height, width, self.level)
        return neighborhood_attention(q, k, v, self.partitions, self.rpb, backend=self.backend)


class FullAttention(Attention):
    """Self-attention over the 16 tokens of `(B, 4, 4, dim)`.

    Args:
        dim: channels, a multiple of the heads.
        heads: number of heads.

    Attributes:
        rpb: relative position table `(heads, 7, 7)`, by key minus query + 3 on each axis, row first.

    Raises:
        UserError: dim that the heads do not divide, or an input that is not 4 × 4.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, (Full(heads),))
        self.rpb = position_table(heads, 7, 7)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q, k, v `(B, 4, 4, heads, head_dim)`, each token to all 16."""
        check_fits(self.partitions, *sizes(q)[1:3])
        queries = q.flatten(1, 2).transpose(1, 2) * sizes(q)[-1] ** -0.5  # (B, heads, 16, head_dim)
        keys = k.flatten(1, 2).transpose(1, 2)  # (B, heads, 16, head_dim)
        values = v.flatten(1, 2).transpose(1, 2)  # (B, heads, 16, head_dim)
        logits = queries @ keys.transpose(-2, -1) + self._bias()  # (B, heads, 16, 16)
        out = softmax(logits).to(values.dtype) @ values  # (B, heads, 16, head_dim)
        return out.transpose(1, 2).unflatten(1, (4, 4))  # (B, 4, 4, heads, head_dim)

    def _bias(self) -> Tensor:
        """The table's entry of every query and key: `(heads, 16, 16)`."""
        position = torch.arange(4, device=self.rpb.device)
        offset = position - position[:, None] + 3  # (4 queries, 4 keys), of one axis
        index = offset[:, None, :, None] * 7 + offset[None, :, None, :]  # (4, 4, 4, 4)
        # By `gather`: the gradient of plain indexing adds in no fixed order where there are several threads.
        entries = self.rpb.flatten(1).gather(1, index.flatten().expand(self.heads, -1))  # (heads, 256)
        return entries.view(-1, 16, 16)
