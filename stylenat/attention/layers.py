"""Hydra neighborhood attention (paper, section 3.2): the function, its layer; full attention for 4 × 4."""

import torch
from torch import nn

from stylenat.attention.functional import _table_shape, neighborhood_attention
from stylenat.attention.partitions import check_fits, format_partitions
from stylenat.errors import UserError


def position_table(*shape):
    """A freshly drawn relative position table."""
    return nn.init.trunc_normal_(nn.Parameter(torch.empty(shape)), std=0.02)


class Attention(nn.Module):
    """The two linears around an attention of `heads` heads, and how they are initialized."""

    def __init__(self, dim, heads):
        super().__init__()
        if heads < 1 or dim % heads:
            raise UserError(f"dim {dim} does not split into {heads} heads: take heads that divide dim")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        for linear in (self.qkv, self.proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x):
        """`(B, H, W, C)` → the same."""
        return self.proj(self.attend(*self.project(x)).flatten(3))

    def project(self, x):
        """q, k, v of `(B, H, W, C)`: `(B, H, W, heads, head_dim)` each."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(3)


class HydraNeighborhoodAttention(Attention):
    """Hydra neighborhood attention over `(B, H, W, dim)`, every partition with its own kernel and dilation.

    Args:
        dim: channels, a multiple of the partitions' heads.
        partitions: a sequence of `HeadPartition`.
        level: the resolution it is meant for, if known: checked against the partitions, and named in errors.

    Attributes:
        backend: see `neighborhood_attention`; may be set at any time.

    Raises:
        UserError: dim that the heads do not divide; a window larger than the level or, later, than the input.
    """

    def __init__(self, dim, partitions, *, level=None):
        super().__init__(dim, sum(part.heads for part in partitions))
        if level is not None:
            check_fits(partitions, level, level, level)
        self.partitions = tuple(partitions)
        self.level = level
        self.backend = "auto"
        self.rpb = nn.ParameterList(position_table(*_table_shape(part)) for part in partitions)

    def attend(self, q, k, v):
        check_fits(self.partitions, q.shape[1], q.shape[2], self.level)
        return neighborhood_attention(q, k, v, self.partitions, self.rpb, backend=self.backend)

    def extra_repr(self):
        return format_partitions(self.partitions)


class FullAttention(Attention):
    """Self-attention over the 16 tokens of `(B, 4, 4, dim)`, with a relative position table `(heads, 7, 7)`.

    Raises:
        UserError: dim that the heads do not divide, or an input that is not 4 × 4.
    """

    def __init__(self, dim, heads):
        super().__init__(dim, heads)
        self.rpb = position_table(heads, 7, 7)

    def attend(self, q, k, v):
        if q.shape[1:3] != (4, 4):
            raise UserError(
                f"full attention got {q.shape[1]} × {q.shape[2]} tokens: give 4 × 4, "
                "or use HydraNeighborhoodAttention"
            )
        position = torch.arange(4, device=q.device)
        index = position - position[:, None] + 3  # (query, key) of one axis
        index = index[:, None, :, None] * 7 + index[None, :, None, :]
        # Not by indexing: see `tiled`.
        bias = self.rpb.flatten(1).gather(1, index.flatten().expand(self.heads, -1)).view(-1, 16, 16)
        q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))  # (B, heads, 16, head_dim)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        return (logits.softmax(-1).to(v.dtype) @ v).transpose(1, 2).unflatten(1, (4, 4))
