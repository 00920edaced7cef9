"""Hydra neighborhood attention (paper, section 3.2): the function, its layer; full attention for 4 × 4."""

from stylenat.attention.dispatch import BACKENDS, choose
from stylenat.attention.partitions import check_fits, format_partitions
from stylenat.errors import UserError


def neighborhood_attention(q, k, v, partitions, bias=None, *, scale=None, backend="auto"):
    """Each partition's heads attend to their own dilated k × k neighborhood of every query.

    Args:
        q, k, v: `(B, H, W, heads, head_dim)`, heads in the partitions' order.
        partitions: a sequence of `HeadPartition` with `heads` heads together.
        bias: for each partition a relative position table `(heads_p, 2k-1, 2k-1)` or None; None for no bias.
        scale: factor on q; `head_dim ** -0.5` unless given.
        backend: "tiled" (any device), "reference" (slow), "flex" (FlexAttention; trains on GPUs only),
            "natten" (without bias), or "auto": the fastest one here that agrees with "tiled".

    Returns:
        `(B, H, W, heads, head_dim)`.

    Raises:
        UserError: unknown backend, shapes that disagree with the partitions, a window larger than the grid.
    """
    if backend not in ("auto", *BACKENDS):
        raise UserError(f"attention backend {backend!r} is unknown: take one of auto, {', '.join(BACKENDS)}")
    partitions = tuple(partitions)
    bias = [None] * len(partitions) if bias is None else list(bias)
    _check_shapes(q, k, v, partitions, bias)
    check_fits(partitions, q.shape[1], q.shape[2])
    call = q, k, v, partitions, bias, q.shape[-1] ** -0.5 if scale is None else scale
    return BACKENDS[choose(*call) if backend == "auto" else backend].attend(*call)


def _check_shapes(q, k, v, partitions, bias):
    shapes = [tuple(x.shape) for x in (q, k, v)]
    if len(set(shapes)) > 1 or q.ndim != 5:
        text = ", ".join(map(str, shapes))
        raise UserError(f"q, k, v of shapes {text}: give all three as one (B, H, W, heads, head_dim)")
    heads, text = sum(part.heads for part in partitions), format_partitions(partitions)
    if q.shape[3] != heads:
        raise UserError(
            f"q of shape {shapes[0]} has {q.shape[3]} heads, partitions {text} have {heads}: make them equal"
        )
    if len(bias) != len(partitions):
        raise UserError(
            f"{len(bias)} bias tables for {len(partitions)} partitions {text}: give one, or None, for each"
        )
    for table, part in zip(bias, partitions, strict=True):
        shape = _table_shape(part)
        if table is not None and tuple(table.shape) != shape:
            raise UserError(
                f"bias table of shape {tuple(table.shape)} for partition {part}: give one of {shape}"
            )


def _table_shape(part):
    return part.heads, 2 * part.kernel_size - 1, 2 * part.kernel_size - 1
