"""What heads attend to: the true softmax weights of a query, on the grid of its keys."""

import torch

from stylenat.errors import UserError
from stylenat.sampling.sample import check_level


def attention_weights(attention, x, query):
    """Weights with which each head of a layer attends to every token, from one query.

    An attention's output is a weighted sum of v, so the weights are its derivative by any channel of v:
    exact for every kind of attention and every backend, bias, border and dilation included.

    Args:
        attention: an attention layer of the generator.
        x: its input `(B, H, W, C)`.
        query: (row, column).

    Returns:
        `(B, heads, H, W)`, each map of sum 1 and zero outside of the query's neighborhood.

    Raises:
        UserError: a query outside of the grid.
    """
    row, column = query
    height, width = x.shape[1:3]
    if not (0 <= row < height and 0 <= column < width):
        raise UserError(
            f"query {(row, column)} is outside of {height} × {width} tokens: give a row in 0…{height - 1} "
            f"and a column in 0…{width - 1}"
        )
    with torch.enable_grad():
        q, k, v = (part.detach() for part in attention.project(x))
        v.requires_grad_()
        out = attention.attend(q, k, v)[:, row, column, :, 0].sum()
        (weights,) = torch.autograd.grad(out, v)
    return weights[..., 0].permute(0, 3, 1, 2)


def attention_maps(generator, w, level, query, *, block=0):
    """Attention weights at a level of the generator while it makes the images of the styles w.

    Args:
        w: styles `(B, latent_dim)` or w+ `(B, num_styles, latent_dim)`.
        level: resolution of the level, one of 4, 8, …, R.
        query: (row, column) on the level's grid.
        block: 0 or 1, the level's first or second block.

    Returns:
        Head weights `(B, heads, H, W)`; `by_partition` averages them.

    Raises:
        UserError: no such level or block, or a query outside of the grid.
    """
    blocks = generator.layers[check_level(generator, level)].blocks
    if block not in range(len(blocks)):
        raise UserError(f"block {block!r} of level {level} is not there: take 0 or {len(blocks) - 1}")
    attention, inputs = blocks[block].attn, []
    hook = attention.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        with torch.no_grad():
            generator.synthesis(w)
    finally:
        hook.remove()
    return attention_weights(attention, inputs[0], query)


def by_partition(weights, partitions):
    """Head weights `(B, heads, H, W)` → the mean map of each partition's heads, `(B, partitions, H, W)`."""
    shares = weights.split([part.heads for part in partitions], dim=1)
    return torch.stack([share.mean(1) for share in shares], dim=1)
