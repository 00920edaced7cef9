"""StyleSwin's double attention: half the heads in windows, half in windows shifted by half of one.

Source: StyleSwin (Zhang et al. 2022), section 3.2.
"""

import torch
from torch import Tensor, nn

from stylenat.attention.layers import Attention, position_table
from stylenat.attention.partitions import ShiftedWindows, check_fits
from stylenat.attention.transforms import sizes, softmax


def cut_windows(x: Tensor, size: int) -> Tensor:
    """`(B, H, W, heads, c)` → windows `(B, windows, heads, size², c)`."""
    grid = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (B, H/size, size, W/size, size, heads, c)
    windows = grid.permute(0, 1, 3, 5, 2, 4, 6)  # (B, H/size, W/size, heads, size, size, c)
    return windows.flatten(4, 5).flatten(1, 2)


def join_windows(x: Tensor, size: int, height: int) -> Tensor:
    """Undo `cut_windows`: `(B, windows, heads, size², c)` → `(B, height, W, heads, c)`."""
    windows = x.unflatten(3, (size, size)).unflatten(1, (height // size, -1))
    grid = windows.permute(0, 1, 4, 2, 5, 3, 6)  # (B, H/size, size, W/size, size, heads, c)
    return grid.flatten(3, 4).flatten(1, 2)


def relative_position_index(size: int, device: torch.device | None = None) -> Tensor:
    """Row of a window's bias table for each `(query, key)`, by query minus key: `(size², size²)`."""
    position = torch.arange(size, device=device)
    offset = position[:, None] - position + size - 1  # (queries, keys), of one axis
    index = offset[:, None, :, None] * (2 * size - 1) + offset[None, :, None, :]  # (size, size, size, size)
    return index.reshape(size**2, size**2)


def shift_mask(height: int, width: int, size: int, device: torch.device | None = None) -> Tensor:
    """Bias of shifted windows: -100 where rolling joined tokens that are no neighbors.

    Args:
        height: tokens of a column, a multiple of the size.
        width: tokens of a row, a multiple of the size.
        size: tokens a side of a window.
        device: of the result.

    Returns:
        `(windows, size², size²)`, for each query and key of each window.
    """

    def region(n: int) -> Tensor:
        """0, 1 or 2 for each token of an axis, `(n / size, size)`: unequal ones are no neighbors."""
        position = torch.arange(n, device=device)
        return ((position >= n - size).int() + (position >= n - size // 2)).view(-1, size)

    rows = region(height)[:, None, :, None] * 3  # (H/size, 1, size, 1)
    columns = region(width)[None, :, None, :]  # (1, W/size, 1, size)
    tokens = (rows + columns).flatten(2).flatten(0, 1)  # (windows, size²)
    return -100.0 * (tokens[:, :, None] != tokens[:, None, :])


class ShiftedWindowAttention(Attention):
    """Double attention over `(B, H, W, dim)`, H and W multiples of the window's size.

    A window as large as the grid is not shifted: both halves then attend to everything.

    Args:
        dim: channels, a multiple of the heads.
        windows: heads and window size.
        bias: whether there are relative position tables.

    Attributes:
        windows: as given.
        tables: relative position bias of either half, `((2 · size - 1)², heads / 2)`, row first, or
            None.

    Raises:
        UserError: dim that the heads do not divide, or an input that windows do not fill.
    """

    tables: nn.ParameterList | None

    def __init__(self, dim: int, windows: ShiftedWindows, *, bias: bool = True) -> None:
        super().__init__(dim, (windows,))
        self.windows = windows
        shape = ((2 * windows.window_size - 1) ** 2, windows.heads // 2)
        self.tables = nn.ParameterList(position_table(*shape) for _ in range(2)) if bias else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q, k, v `(B, H, W, heads, head_dim)` in windows, the second half in shifted ones."""
        height, width = q.shape[1:3]
        size = self.windows.window_size
        check_fits(self.partitions, *sizes(q)[1:3])
        one_window = (height, width) == (size, size)
        scaled = q * sizes(q)[-1] ** -0.5  # (B, H, W, heads, head_dim)
        outputs = []
        for half, qkv in enumerate(zip(scaled.chunk(2, 3), k.chunk(2, 3), v.chunk(2, 3), strict=True)):
            shift = size // 2 if half == 1 and not one_window else 0
            bias = self._bias(half)  # (heads/2, size², size²), or 0
            if shift:
                bias = bias + shift_mask(height, width, size, q.device)[:, None]  # (windows, heads/2 or 1, …)
            cut_q, cut_k, cut_v = (cut_windows(x.roll((-shift, -shift), (1, 2)), size) for x in qkv)
            windows = _attend(cut_q, cut_k, cut_v, bias)  # (B, windows, heads/2, size², head_dim)
            out = join_windows(windows, size, height)  # (B, H, W, heads/2, head_dim)
            outputs.append(out.roll((shift, shift), (1, 2)))
        return torch.cat(outputs, dim=3)

    def _bias(self, half: int) -> Tensor:
        """A half's table spread over queries and keys: `(heads/2, size², size²)`; a 0 without tables."""
        if self.tables is None:
            return self.qkv.weight.new_zeros(())
        size = self.windows.window_size
        table = self.tables[half]
        index = relative_position_index(size, table.device).flatten()  # (size⁴,)
        return table.T.gather(1, index.expand(table.shape[1], -1)).view(-1, size**2, size**2)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention in windows.

    q (scaled), k, v `(B, windows, heads, size², c)` → the same; bias `([windows,] heads, size², size²)` or 0.
    """
    weights = softmax(q @ k.transpose(-2, -1) + bias).to(v.dtype)  # (B, windows, heads, size², size²)
    return weights @ v
