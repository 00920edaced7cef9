"""Exact neighborhood attention out of standard torch operations, for any device; the default backend.

Dilation cuts an axis into groups (the tokens of one residue) that never see each other. A group is cut into
tiles of queries; the keys of a tile are the tile and a halo of `kernel_size // 2` on both sides. A tile then is a
dense product of matrices, masked down to each query's own window, and the relative position bias is the same for
every tile. Memory is linear in the number of tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

_TILE = 8  # queries a side, at least: larger tiles waste products on masked keys, smaller ones copy more halo
_WHOLE = 16  # a group up to this long is one tile: the halo's copies would cost more than they save
_CHUNK = (
    2**21
)  # logits a CPU holds at once: beyond it they leave the caches, and malloc maps fresh pages each time


@dataclass(frozen=True)
class Axis:
    """How one axis of `n` tokens is cut: `dilation` groups of `tiles` tiles of `tile` queries.

    The padding that completes the last tile is put at both ends by halves. So the first and the last tile keep
    at least `kernel_size // 2 + 1` real queries (a tile is even and larger than the kernel), and a window that
    the border shifts inward stays within its tile's keys.
    """

    n: int
    kernel_size: int
    dilation: int

    @property
    def length(self):
        """Members of the longest group."""
        return -(-self.n // self.dilation)

    @property
    def even(self):
        """Whether all groups are of one length."""
        return self.n % self.dilation == 0

    @property
    def tile(self):
        tile = max(_TILE, self.kernel_size + 1)
        return self.length if self.length <= max(_WHOLE, tile + self.kernel_size - 1) else tile

    @property
    def tiles(self):
        return -(-self.length // self.tile)

    @property
    def halo(self):
        return self.kernel_size // 2 if self.tiles > 1 else 0

    @property
    def before(self):
        """Members of padding before the first."""
        return (self.tiles * self.tile - self.length + 1) // 2

    def padding(self, for_keys):
        """Tokens to add before and after the axis; the keys get their halo and fill up one more tile."""
        before, tiles = self.before, self.tiles
        if for_keys and self.halo:
            before, tiles = before + self.halo, tiles + 1
        return before * self.dilation, (tiles * self.tile - before) * self.dilation - self.n

    def offset(self, device):
        """Key minus query, counted in the group: `(tile, keys)`, the same for every tile."""
        key = torch.arange(-self.halo, self.tile + self.halo, device=device)
        return key - torch.arange(self.tile, device=device)[:, None]

    def visible(self, device):
        """Which keys are in a query's window: bool `(residues, tiles, tile, keys)`; if `even`, one residue."""
        residue = torch.arange(1 if self.even else self.dilation, device=device)
        length = ((self.n - residue + self.dilation - 1) // self.dilation)[:, None, None]
        query = torch.arange(self.tiles * self.tile, device=device).view(self.tiles, self.tile) - self.before
        start = (query - self.kernel_size // 2).clamp(min=0).minimum(length - self.kernel_size)[..., None]
        key = query[..., None] + self.offset(device)
        return (key >= start) & (key < start + self.kernel_size)


def attend(q, k, v, partition, bias):
    """Attention of one partition's heads.

    Args:
        q: `(B, H, W, heads, head_dim)`, already scaled; k and v likewise.
        partition: the heads' `HeadPartition`.
        bias: `(heads, 2k-1, 2k-1)` or None.

    Returns:
        `(B, H, W, heads, head_dim)`.
    """
    batch, height, width, heads, head_dim = q.shape
    rows = Axis(height, partition.kernel_size, partition.dilation)
    columns = Axis(width, partition.kernel_size, partition.dilation)
    mask = _mask(rows, columns, heads, bias, q)  # (1 or groups, tiles · heads, queries, keys)
    q, k, v = _cut(q, rows, columns), _cut(k, rows, columns, True), _cut(v, rows, columns, True)
    # A mask common to all groups broadcasts over them; otherwise the groups count as heads do.
    inner = len(mask) * mask.shape[1]
    q, k, v = (x.reshape(-1, inner, x.shape[-3] * x.shape[-2], head_dim) for x in (q, k, v))
    out = _masked_attention(q, k, v, mask.flatten(0, 1))
    return _join(out, batch, heads, rows, columns)


def _cut(x, rows, columns, for_keys=False):
    """Cut into tiles, or into the tiles' keys.

    `(B, H, W, heads, c)` → `(B, d, d, row tiles, column tiles, heads, rows of a tile, columns of a tile, c)`.
    """
    padding = (0, 0, 0, 0, *columns.padding(for_keys), *rows.padding(for_keys))
    x = F.pad(x, padding) if any(padding) else x
    x = x.unflatten(2, (-1, columns.tile, columns.dilation)).unflatten(1, (-1, rows.tile, rows.dilation))
    x = x.permute(0, 3, 6, 1, 4, 7, 2, 5, 8)
    for axis, tiles, members in ((rows, 3, 6), (columns, 4, 7)):
        if for_keys and axis.halo:  # a tile's keys: the tile as padded, and the first 2 · halo of the next
            after = x.narrow(tiles, 1, axis.tiles).narrow(members, 0, 2 * axis.halo)
            x = torch.cat([x.narrow(tiles, 0, axis.tiles), after], members)
    return x


def _join(x, batch, heads, rows, columns):
    """Undo `_cut` of the queries: → `(B, H, W, heads, c)`."""
    d = rows.dilation
    x = x.view(batch, d, d, rows.tiles, columns.tiles, heads, rows.tile, columns.tile, -1)
    x = x.permute(0, 3, 6, 1, 4, 7, 2, 5, 8).flatten(4, 6).flatten(1, 3)
    return x.narrow(1, rows.before * d, rows.n).narrow(2, columns.before * d, columns.n)


def _mask(rows, columns, heads, bias, like):
    """Bias for keys in the query's window, -inf elsewhere: `(1 or groups, tiles · heads, queries, keys)`."""
    visible_rows, visible_columns = rows.visible(like.device), columns.visible(like.device)
    if not (rows.even and columns.even):
        visible_rows = visible_rows.expand(rows.dilation, -1, -1, -1)
        visible_columns = visible_columns.expand(columns.dilation, -1, -1, -1)
    visible = (
        visible_rows[:, None, :, None, None, :, None, :, None]
        & visible_columns[None, :, None, :, None, None, :, None, :]
    )  # (d, d, row tiles, column tiles, 1, rows, columns, key rows, key columns)
    if bias is None:
        entries = like.new_zeros(heads, 1, 1, 1, 1)
    else:  # at least float32: the gradient of an entry sums over all queries
        top = 2 * rows.kernel_size - 2
        row, column = (axis.offset(like.device) + axis.kernel_size - 1 for axis in (rows, columns))
        row, column = row.clamp(0, top)[:, None, :, None], column.clamp(0, top)[None, :, None, :]
        entries = bias.to(torch.promote_types(bias.dtype, torch.float32))[:, row, column]
    mask = torch.where(visible, entries, float("-inf"))
    return mask.flatten(7, 8).flatten(5, 6).flatten(2, 4).flatten(0, 1)


def _masked_attention(q, k, v, mask):
    """softmax(q kᵀ + mask) v for q, k, v `(N, M, tokens, c)` and mask `(M, queries, keys)`."""
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, mask))
    if q.device.type != "cpu" or not needs_grad:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None].to(q.dtype), scale=1.0)
    # Torch's fused CPU kernel gives the mask no gradient, and none of second order; this is nearly as fast.
    size = max(1, _CHUNK // mask.numel())
    chunks = zip(q.split(size), k.split(size), v.split(size), strict=True)
    return torch.cat([(q @ k.transpose(-2, -1)).add_(mask).softmax(-1) @ v for q, k, v in chunks])
