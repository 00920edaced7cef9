"""Exact neighborhood attention out of standard torch operations, for any device; the default backend.

Dilation cuts an axis into groups (the tokens of one residue) that never see each other. A group is cut
into tiles of queries; the keys of a tile are the tile and a halo of `kernel_size // 2` on both sides. A
tile then is a dense product of matrices, masked down to each query's own window, and the relative
position bias is the same for every tile. Memory is linear in the number of tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

_TILE = 8  # queries a side, at least: larger tiles waste products on masked keys, smaller ones copy more halo
_WHOLE = 16  # a group up to this long is one tile: the halo's copies would cost more than they save
_CHUNK = 2**19  # logits a CPU computes at once: more leave the caches, and malloc maps them anew every time
_GRID = 2**15  # batches, and heads, of one call on a GPU: a CUDA grid holds less than 2**16 of either


@dataclass(frozen=True)
class Axis:
    """How one axis of `n` tokens is cut: `dilation` groups of `tiles` tiles of `tile` queries.

    The padding that completes the last tile is put at both ends by halves. So the first and the last tile
    keep at least `kernel_size // 2 + 1` real queries (a tile is even and larger than the kernel), and a
    window that the border shifts inward stays within its tile's keys.
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
        """Which keys are in a query's window: bool `(1 if even else d, tiles, tile, keys)`."""
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
    rows, columns = (Axis(n, partition.kernel_size, partition.dilation) for n in q.shape[1:3])
    visible = _visible(rows, columns, q.device)
    bias = q.new_zeros(q.shape[3], 1, 1) if bias is None else _entries(bias, rows, columns)
    q, k, v = _cut(q, rows, columns), _cut(k, rows, columns, True), _cut(v, rows, columns, True)
    # Groups that share their masks count as a batch, (B · groups, tiles, heads, tokens, head_dim),
    # others as more tiles, (B, groups · tiles, heads, tokens, head_dim).
    q, k, v = (x.flatten(6, 7) for x in (q, k, v))
    q, k, v = (x.reshape(-1, len(visible), *x.shape[5:]) for x in (q, k, v))
    return _join(_masked_attention(q, k, v, visible, bias), rows, columns)


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


def _join(x, rows, columns):
    """Undo `_cut` of the queries: `(…, tiles, heads, queries, c)` → `(B, H, W, heads, c)`."""
    d, heads = rows.dilation, x.shape[-3]
    x = x.reshape(-1, d, d, rows.tiles, columns.tiles, heads, rows.tile, columns.tile, x.shape[-1])
    x = x.permute(0, 3, 6, 1, 4, 7, 2, 5, 8).flatten(4, 6).flatten(1, 3)
    return x.narrow(1, rows.before * d, rows.n).narrow(2, columns.before * d, columns.n)


def _visible(rows, columns, device):
    """Which keys are in a query's window: bool `(tiles, 1, queries, keys)`, of all groups that differ."""
    by_row, by_column = rows.visible(device), columns.visible(device)
    if not rows.even:
        by_column = by_column.expand(columns.dilation, -1, -1, -1)
    by_row = by_row[:, None, :, None, :, None, :, None]
    by_column = by_column[None, :, None, :, None, :, None, :]
    return (by_row & by_column).flatten(6, 7).flatten(4, 5).flatten(0, 3)[:, None]


def _entries(bias, rows, columns):
    """Table `(heads, 2k-1, 2k-1)` → bias `(heads, queries, keys)` of any tile, arbitrary where masked."""
    top = 2 * rows.kernel_size - 2
    row, column = (
        (axis.offset(bias.device) + axis.kernel_size - 1).clamp(0, top) for axis in (rows, columns)
    )
    # At least float32: the gradient of an entry is a sum over all queries.
    bias = bias.to(torch.promote_types(bias.dtype, torch.float32))
    index = row[:, None, :, None] * bias.shape[2] + column[None, :, None, :]
    # Not by indexing: on a CPU its gradient is added up by threads in any order, and no run repeats.
    entries = bias.flatten(1).gather(1, index.flatten().expand(len(bias), -1))
    return entries.view(len(bias), rows.tile * columns.tile, -1)


def _masked_attention(q, k, v, visible, bias):
    """Attention within each tile and head.

    Args:
        q, k, v: `(N, tiles, heads, tokens, c)`.
        visible: bool `(tiles, 1, queries, keys)`.
        bias: `(heads, queries, keys)`, or what broadcasts to it.

    Returns:
        `(N, tiles, heads, queries, c)`.
    """
    on_cpu, heads = q.device.type == "cpu", q.shape[2]
    # Torch's fused CPU kernel gives the mask no gradient, and nothing of second order; explicit is as fast.
    explicit = on_cpu and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, bias))
    logits = heads * visible[0].numel()  # of one tile
    tiles = min(len(visible), max(1, (_CHUNK // logits) if on_cpu else (_GRID // heads)))
    batch = max(1, _CHUNK // (tiles * logits)) if explicit else _GRID
    outputs = []
    for seen, *qkv in zip(visible.split(tiles), *(x.split(tiles, 1) for x in (q, k, v)), strict=True):
        mask = torch.where(seen, bias, float("-inf")).flatten(0, 1)
        chunks = zip(*(x.flatten(1, 2).split(batch) for x in qkv), strict=True)
        kernel = _explicit if explicit else _fused
        outputs.append(_cat([kernel(*chunk, mask) for chunk in chunks], 0).unflatten(1, (-1, heads)))
    return _cat(outputs, 1)


def _explicit(q, k, v, mask):
    return (q @ k.transpose(-2, -1)).add_(mask).softmax(-1) @ v


def _fused(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None].to(q.dtype), scale=1.0)


def _cat(tensors, dim):
    return torch.cat(tensors, dim) if len(tensors) > 1 else tensors[0]
