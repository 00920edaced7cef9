"""Hydra neighborhood attention (paper, section 3.2) as a function of q, k and v, by any backend."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from stylenat.attention.dispatch import BACKENDS, choose
from stylenat.attention.partitions import (
    HeadPartition,
    check_fits,
    check_partitions,
    count_heads,
    format_partitions,
)
from stylenat.attention.transforms import sizes, transformed
from stylenat.errors import UserError


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    partitions: Sequence[HeadPartition],
    bias: Iterable[Tensor | None] | None = None,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Each partition's heads attend to their own dilated k × k neighborhood of every query.

    Args:
        q: queries `(B, H, W, heads, head_dim)`, heads in the partitions' order.
        k: keys, of the same shape.
        v: values, of the same shape.
        partitions: with `heads` heads together.
        bias: for each partition a relative position table `(heads_p, 2k-1, 2k-1)` or None; None for no bias.
        scale: factor on q; `head_dim ** -0.5` unless given.
        backend: "tiled" (any device), "fused" (CPUs, needs Numba), "reference" (slow), "flex"
            (FlexAttention; trains on GPUs only), "triton" (GPUs; never run on one so far), "natten" (without
            bias), or "auto": "fused" where it agrees with "tiled", else the fastest one here that does.

    Returns:
        `(B, H, W, heads, head_dim)`.

    Raises:
        UserError: unknown backend, shapes that disagree with the partitions, a window larger than the grid, a
            backend that has no such rules under `torch.func` or forward-mode differentiation.
    """
    if backend not in ("auto", *BACKENDS):
        raise UserError(f"attention backend {backend!r} is unknown: take one of auto, {', '.join(BACKENDS)}")
    check_partitions(partitions)
    parts = tuple(partitions)
    tables = [None] * len(parts) if bias is None else list(bias)
    _check_kinds(q, k, v, tables)
    _check_shapes(q, k, v, parts, tables)
    check_fits(parts, *sizes(q)[1:3])
    factor = sizes(q)[-1] ** -0.5 if scale is None else scale
    name = choose(q, k, v, parts, tables, factor) if backend == "auto" else backend
    if transformed() and not BACKENDS[name].transforms:
        raise UserError(
            f"attention backend {name!r} knows neither torch.func nor forward-mode differentiation: take "
            "auto, tiled or reference"
        )
    return BACKENDS[name].attend(q, k, v, parts, tables, factor)


def _check_kinds(q: Tensor, k: Tensor, v: Tensor, bias: Sequence[Tensor | None]) -> None:
    tables = [table for table in bias if table is not None]
    for x in (q, k, v, *tables):
        if not isinstance(x, Tensor):
            raise UserError(f"attention of {type(x).__name__}: give tensors q, k, v and bias")
        if not x.is_floating_point():
            raise UserError(f"attention of {x.dtype}: give tensors of a floating type, such as q.float()")
        if x.device != q.device:
            raise UserError(f"attention of tensors on {q.device} and {x.device}: move all to one device")
    if not q.dtype == k.dtype == v.dtype:
        raise UserError(f"q, k, v of {q.dtype}, {k.dtype} and {v.dtype}: give all three of one type")


def _check_shapes(
    q: Tensor, k: Tensor, v: Tensor, partitions: Sequence[HeadPartition], bias: Sequence[Tensor | None]
) -> None:
    shapes = [sizes(x) for x in (q, k, v)]
    if shapes != [shapes[0]] * 3 or q.ndim != 5:  # no set: an exported batch has no number yet, nor a hash
        given = ", ".join(map(str, shapes))
        raise UserError(f"q, k, v of shapes {given}: give all three as one (B, H, W, heads, head_dim)")
    heads = count_heads(partitions)
    text = format_partitions(partitions)
    if shapes[0][3] != heads:
        raise UserError(
            f"q of shape {shapes[0]} has {shapes[0][3]} heads, "
            f"partitions {text} have {heads}: make them equal"
        )
    if len(bias) != len(partitions):
        raise UserError(
            f"{len(bias)} bias tables for {len(partitions)} partitions {text}: give one, or None, for each"
        )
    for table, part in zip(bias, partitions, strict=True):
        expected = part.table_shape
        if table is not None and sizes(table) != expected:
            raise UserError(
                f"bias table of shape {sizes(table)} for partition {part}: give one of {expected}"
            )
