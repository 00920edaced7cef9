"""Neighborhood attention by PyTorch's FlexAttention: one fused kernel on GPUs, learned bias included.

Tokens are put in the order of their dilation group, then of their tile, so that those that see each other lie
together, and whole blocks of the attention matrix can be left out. On a CPU it has no backward pass, and
without compilation it takes memory quadratic in the number of tokens.
"""

import functools

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from stylenat.attention.reference import axis_window

_TILE = 8
_BLOCK = 128  # tokens of a block of the mask: FlexAttention's own


@functools.cache
def _compiled():
    return torch.compile(flex_attention, dynamic=False)


def attend(q, k, v, partitions, bias, scale):
    """Attention of all partitions; see `neighborhood_attention`."""
    heads = [part.heads for part in partitions]
    q, k, v = (x.split(heads, 3) for x in (q, k, v))
    return torch.cat([_attend(*share, scale) for share in zip(q, k, v, partitions, bias, strict=True)], 3)


def _attend(q, k, v, part, table, scale):
    _, height, width, _, _ = q.shape
    order, back, mask, offsets = _plan(height, width, part, q.device)

    def biased(score, batch, head, query, key):
        return score + table[head, offsets(0, query, key), offsets(1, query, key)]

    kernel = flex_attention if q.device.type == "cpu" else _compiled()
    q, k, v = (x.flatten(1, 2)[:, order].transpose(1, 2) for x in (q, k, v))  # (B, heads, tokens, head_dim)
    out = kernel(q, k, v, score_mod=None if table is None else biased, block_mask=mask, scale=scale)
    return out.transpose(1, 2)[:, back].unflatten(1, (height, width))


@functools.lru_cache(maxsize=64)
def _plan(height, width, part, device):
    """The tokens' order and its inverse, `(H · W,)`; which blocks see which; offsets in the bias table."""
    size, dilation = part.kernel_size, part.dilation
    position = [torch.arange(n, device=device) for n in (height, width)]
    # Of each axis: group, tile, place in the tile.
    group, tile, place = zip(
        *((p % dilation, p // dilation // _TILE, p // dilation % _TILE) for p in position), strict=True
    )
    order = torch.zeros(height, width, dtype=torch.long, device=device)
    for down, across in (group, tile, place):
        order = (order * (int(down.max()) + 1) + down[:, None]) * (int(across.max()) + 1) + across
    order = order.flatten().argsort()
    back = order.argsort()
    token = order // width, order % width  # row and column, in the new order
    windows = [axis_window(n, size, dilation, device)[0] for n in (height, width)]
    first = [window[:, 0][at] for window, at in zip(windows, token, strict=True)]

    def seen(batch, head, query, key):
        down, across = (at[key] - start[query] for at, start in zip(token, first, strict=True))
        reach = size * dilation
        inside = (down >= 0) & (down < reach) & (across >= 0) & (across < reach)
        return inside & (down % dilation == 0) & (across % dilation == 0)

    def offsets(axis, query, key):
        offset = (token[axis][key] - token[axis][query]) // dilation + size - 1
        return offset.clamp(0, 2 * size - 2)

    rows, columns = (window[at] for window, at in zip(windows, token, strict=True))
    keys = back[rows[:, :, None] * width + columns[:, None, :]].flatten(1)  # (tokens, k²), in the new order
    blocks = -(-len(order) // _BLOCK)
    linked = torch.zeros(blocks, blocks, dtype=torch.bool, device=device)
    linked[torch.arange(len(order), device=device)[:, None] // _BLOCK, keys // _BLOCK] = True
    count = linked.sum(1, dtype=torch.int32)[None, None]
    index = linked.int().argsort(dim=1, descending=True, stable=True).int()[None, None]
    mask = BlockMask.from_kv_blocks(
        count, index, BLOCK_SIZE=_BLOCK, mask_mod=seen, seq_lengths=(len(order), len(order))
    )
    return order, back, mask, offsets
