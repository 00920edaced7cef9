"""Neighborhood attention straight from its definition: slow, obvious, the oracle of every other backend."""

import torch

from stylenat.attention.partitions import check_fits
from stylenat.errors import UserError


def axis_window(n, kernel_size, dilation, device=None):
    """Keys each query of one axis attends to.

    The tokens of a query's residue modulo the dilation form a group of their own; within it the window is the
    `kernel_size` consecutive members around the query, shifted inward at the border (NATTEN's definition).

    Returns:
        The keys' positions on the axis `(n, k)`, and key minus query, counted in the group `(n, k)`.
    """
    position = torch.arange(n, device=device)
    member, residue = position // dilation, position % dilation
    length = (n - residue + dilation - 1) // dilation  # members of the query's group
    start = (member - kernel_size // 2).clamp(min=0).minimum(length - kernel_size)
    window = start[:, None] + torch.arange(kernel_size, device=device)
    return window * dilation + residue[:, None], window - member[:, None]


def attend(q, k, v, partitions, bias, scale):
    """Attention of all partitions, see `neighborhood_attention`."""
    heads = [part.heads for part in partitions]
    shares = zip(
        (q * scale).split(heads, 3), k.split(heads, 3), v.split(heads, 3), partitions, bias, strict=True
    )
    return torch.cat([_attend(*share) for share in shares], 3)


def _attend(q, k, v, partition, bias):
    """One partition's heads: q (scaled), k, v `(B, H, W, heads, c)`, bias `(heads, 2k-1, 2k-1)` or None."""
    _, height, width, _, _ = q.shape
    size, dilation = partition.kernel_size, partition.dilation
    rows, row_offset = axis_window(height, size, dilation, q.device)  # (H, k)
    columns, column_offset = axis_window(width, size, dilation, q.device)  # (W, k)
    rows, columns = rows[:, None, :, None], columns[None, :, None, :]  # together (H, W, k, k)
    logits = torch.einsum("bhwnc,bhwijnc->bhwnij", q, k[:, rows, columns])
    if bias is not None:
        row_index, column_index = row_offset + size - 1, column_offset + size - 1
        entries = bias[:, row_index[:, None, :, None], column_index[None, :, None, :]]  # (heads, H, W, k, k)
        logits = logits + entries.permute(1, 2, 0, 3, 4)
    weights = logits.flatten(-2).softmax(-1).unflatten(-1, (size, size))
    return torch.einsum("bhwnij,bhwijnc->bhwnc", weights, v[:, rows, columns])


def receptive_field(partition, height, width, query):
    """Bool `(height, width)`: the keys that the query at `(row, column)` attends to, k × k of them.

    Raises:
        UserError: a window larger than the grid, or a query outside of it.
    """
    check_fits((partition,), height, width)
    row, column = query
    if not (0 <= row < height and 0 <= column < width):
        raise UserError(
            f"query {(row, column)} is outside of {height} × {width} tokens: give a row in 0…{height - 1} "
            f"and a column in 0…{width - 1}"
        )
    field = torch.zeros(height, width, dtype=torch.bool)
    rows, columns = (axis_window(n, partition.kernel_size, partition.dilation)[0] for n in (height, width))
    field[rows[row][:, None], columns[column]] = True
    return field
