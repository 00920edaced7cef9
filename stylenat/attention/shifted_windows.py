"""StyleSwin's double attention: half the heads in windows, half in windows shifted by half of one.

Source: StyleSwin (Zhang et al. 2022), section 3.2.
"""

import torch
from torch import nn

from stylenat.attention.layers import Attention, position_table
from stylenat.errors import UserError


def _cut(x, size):
    """`(B, H, W, heads, c)` → windows `(B, windows, heads, size², c)`."""
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 2)


def _join(x, size, height):
    """Undo `_cut`."""
    x = x.unflatten(3, (size, size)).unflatten(1, (height // size, -1))
    return x.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)


def relative_position_index(size, device=None):
    """Row of a window's bias table for each `(query, key)`: `(size², size²)`, by query minus key."""
    position = torch.arange(size, device=device)
    offset = position[:, None] - position + size - 1  # of one axis
    index = offset[:, None, :, None] * (2 * size - 1) + offset[None, :, None, :]
    return index.reshape(size**2, size**2)


def shift_mask(height, width, size, device=None):
    """Bias `(windows, size², size²)` of shifted windows: -100 where rolling joined what is no neighbor."""

    def region(n):
        position = torch.arange(n, device=device)
        return ((position >= n - size).int() + (position >= n - size // 2)).view(-1, size)

    rows, columns = region(height)[:, None, :, None] * 3, region(width)[None, :, None, :]
    tokens = (rows + columns).flatten(2).flatten(0, 1)  # (windows, size²)
    return -100.0 * (tokens[:, :, None] != tokens[:, None, :])


class ShiftedWindowAttention(Attention):
    """Double attention over `(B, H, W, dim)`, H and W multiples of the window's size.

    A window as large as the grid is not shifted: both halves then attend to everything.

    Args:
        dim: channels, a multiple of the heads.
        windows: a `ShiftedWindows`.

    Attributes:
        tables: relative position bias of either half, `((2 · size - 1)², heads / 2)`, row first.

    Raises:
        UserError: dim that the heads do not divide, or an input that windows do not fill.
    """

    def __init__(self, dim, windows):
        super().__init__(dim, windows.heads)
        self.windows = windows
        shape = ((2 * windows.window_size - 1) ** 2, windows.heads // 2)
        self.tables = nn.ParameterList(position_table(*shape) for _ in range(2))

    def attend(self, q, k, v):
        size, (height, width) = self.windows.window_size, q.shape[1:3]
        if height % size or width % size:
            raise UserError(
                f"windows of {size} × {size} do not fill {height} × {width} tokens: give multiples of {size}"
            )
        halves = zip(*(x.chunk(2, dim=3) for x in (q * q.shape[-1] ** -0.5, k, v)), self.tables, strict=True)
        index = relative_position_index(size, q.device).flatten()
        outputs = []
        for half, (*qkv, table) in enumerate(halves):
            shift = size // 2 if half and (height, width) != (size, size) else 0
            bias = table.T.gather(1, index.expand(table.shape[1], -1)).view(-1, size**2, size**2)
            if shift:
                bias = bias + shift_mask(height, width, size, q.device)[:, None]  # (windows, heads, …)
            windows = (_cut(x.roll((-shift, -shift), (1, 2)), size) for x in qkv)
            x = _join(_attend(*windows, bias), size, height)
            outputs.append(x.roll((shift, shift), (1, 2)))
        return torch.cat(outputs, dim=3)

    def extra_repr(self):
        return str(self.windows)


def _attend(q, k, v, bias):
    return (q @ k.transpose(-2, -1) + bias).softmax(-1).to(v.dtype) @ v
