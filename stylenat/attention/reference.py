"""Neighborhood attention straight from its definition: slow, obvious, the oracle of every other backend."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stylenat.attention.partitions import HeadPartition, check_fits
from stylenat.attention.transforms import softmax
from stylenat.errors import UserError


def axis_window(
    n: int, kernel_size: int, dilation: int, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Keys that each query of one axis attends to.

    The tokens of a query's residue modulo the dilation form a group of their own; within it the window is the
    `kernel_size` consecutive members around the query, shifted inward at the border (NATTEN's definition).

    Args:
        n: tokens of the axis.
        kernel_size: k, keys of a window.
        dilation: tokens from one key to the next.
        device: of the result.

    Returns:
        The keys' positions on the axis `(n, k)`, and key minus query, counted in the group `(n, k)`.
    """
    position = torch.arange(n, device=device)  # (n,)
    member = position // dilation  # (n,), place in the query's group
    residue = position % dilation  # (n,), which group
    length = (n - residue + dilation - 1) // dilation  # (n,), members of the group
    start = (member - kernel_size // 2).clamp(min=0).minimum(length - kernel_size)  # (n,)
    window = start[:, None] + torch.arange(kernel_size, device=device)  # (n, k), members
    return window * dilation + residue[:, None], window - member[:, None]


def partition_shares(
    q: Tensor, k: Tensor, v: Tensor, partitions: Sequence[HeadPartition]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each partition the queries, keys and values of its heads, `(B, H, W, heads_p, c)` each."""
    heads = [part.heads for part in partitions]
    return list(zip(q.split(heads, 3), k.split(heads, 3), v.split(heads, 3), strict=True))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    partitions: Sequence[HeadPartition],
    bias: Sequence[Tensor | None],
    scale: float,
) -> Tensor:
    """Attention of all partitions; see `neighborhood_attention`."""
    outputs = []
    for share, part, table in zip(
        partition_shares(q * scale, k, v, partitions), partitions, bias, strict=True
    ):
        outputs.append(_attend(*share, part, table))
    return torch.cat(outputs, 3)


def _attend(q: Tensor, k: Tensor, v: Tensor, partition: HeadPartition, bias: Tensor | None) -> Tensor:
    """One partition's heads: q (scaled), k, v `(B, H, W, heads, c)`, bias `(heads, 2k-1, 2k-1)` or None."""
    _, height, width, _, _ = q.shape
    size = partition.kernel_size
    rows, row_offset = axis_window(height, size, partition.dilation, q.device)  # (H, k)
    columns, column_offset = axis_window(width, size, partition.dilation, q.device)  # (W, k)
    rows = rows[:, None, :, None]  # (H, 1, k, 1)
    columns = columns[None, :, None, :]  # (1, W, 1, k)
    logits = torch.einsum("bhwnc,bhwijnc->bhwnij", q, k[:, rows, columns])  # (B, H, W, heads, k, k)
    if bias is not None:
        row_index = (row_offset + size - 1)[:, None, :, None]  # (H, 1, k, 1)
        column_index = (column_offset + size - 1)[None, :, None, :]  # (1, W, 1, k)
        entries = bias[:, row_index, column_index]  # (heads, H, W, k, k)
        logits = logits + entries.permute(1, 2, 0, 3, 4)
    weights = softmax(logits.flatten(-2)).unflatten(-1, (size, size))  # (B, H, W, heads, k, k)
    return torch.einsum("bhwnij,bhwijnc->bhwnc", weights, v[:, rows, columns])  # (B, H, W, heads, c)


def check_query(query: tuple[int, int], height: int, width: int) -> None:
    """Check that a query is on a grid of tokens.

    Args:
        query: (row, column).
        height: tokens of a column.
        width: tokens of a row.

    Raises:
        UserError: it is outside of it.
    """
    if len(query) != 2 or not all(isinstance(place, int) for place in query):
        raise UserError(f"query {query!r} is no token: give its row and its column, two whole numbers")
    row, column = query
    if not (0 <= row < height and 0 <= column < width):
        raise UserError(
            f"query {(row, column)} is outside of {height} × {width} tokens: give a row in 0…{height - 1} "
            f"and a column in 0…{width - 1}"
        )


def receptive_field(partition: HeadPartition, height: int, width: int, query: tuple[int, int]) -> Tensor:
    """The keys that a query attends to, k × k of them.

    Args:
        partition: whose neighborhood.
        height: tokens of a column.
        width: tokens of a row.
        query: (row, column).

    Returns:
        Bool `(height, width)`.

    Raises:
        UserError: a window larger than the grid, or a query outside of it.
    """
    check_fits((partition,), height, width)
    check_query(query, height, width)
    row, column = query
    rows, _ = axis_window(height, partition.kernel_size, partition.dilation)  # (H, k)
    columns, _ = axis_window(width, partition.kernel_size, partition.dilation)  # (W, k)
    field = torch.zeros(height, width, dtype=torch.bool)
    field[rows[row][:, None], columns[column]] = True
    return field
