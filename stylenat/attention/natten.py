"""Neighborhood attention by NATTEN's fused kernels (0.20 or later), which know no relative position bias."""

import importlib.util

import torch

from stylenat.errors import UserError


def installed():
    """Whether the package is there; importing it takes seconds."""
    return importlib.util.find_spec("natten") is not None


def attend(q, k, v, partitions, bias, scale):
    """Attention of all partitions without bias; see `neighborhood_attention`.

    Raises:
        UserError: a bias table, or no NATTEN.
    """
    if any(table is not None for table in bias):
        raise UserError("attention backend 'natten' has no relative position bias: take flex or tiled")
    if not installed():
        raise UserError("attention backend 'natten' needs NATTEN: see README, \"On a GPU\", or take tiled")
    from natten import na2d

    heads = [part.heads for part in partitions]
    shares = zip(*(x.split(heads, 3) for x in (q, k, v)), partitions, strict=True)
    outputs = []
    for *qkv, part in shares:
        q, k, v = (x.contiguous() for x in qkv)
        outputs.append(na2d(q, k, v, kernel_size=part.kernel_size, dilation=part.dilation, scale=scale))
    return torch.cat(outputs, 3)
