"""How far an attention backend is from the definition in float64, over random shapes of every kind."""

import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.partitions import HeadPartition, count_heads

SHAPES = 200
_KERNELS = (3, 5, 7)  # each is compiled, for one or two numbers of channels


class RandomCase(NamedTuple):
    """A layer's attention.

    Attributes:
        partitions: of any number of heads each, so that most are uneven.
        height: tokens of a column, of any residue modulo the dilations.
        width: tokens of a row, likewise.
        batch: images.
        channels: of a head.
        layout: how q, k and v lie in memory; a key of `_LAYOUTS`.
    """

    partitions: tuple[HeadPartition, ...]
    height: int
    width: int
    batch: int
    channels: int
    layout: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of q, k and v: `(B, H, W, heads, c)`."""
        return self.batch, self.height, self.width, count_heads(self.partitions), self.channels


def _plain(shape: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for _ in range(3)]


def _packed(shape: tuple[int, ...]) -> list[Tensor]:
    """As a layer projects them."""
    *tokens, heads, channels = shape
    return list(torch.randn(*tokens, 3, heads, channels, dtype=torch.float64).unbind(3))


def _transposed(shape: tuple[int, ...]) -> list[Tensor]:
    batch, height, width, heads, channels = shape
    return [x.permute(0, 3, 2, 1, 4) for x in _plain((batch, heads, width, height, channels))]


def _expanded(shape: tuple[int, ...]) -> list[Tensor]:
    """One image for all of the batch, one head for all."""
    _, height, width, _, channels = shape
    return [x.expand(shape) for x in _plain((1, height, width, 1, channels))]


_LAYOUTS = {"plain": _plain, "packed": _packed, "transposed": _transposed, "expanded": _expanded}


def random_cases(count: int = SHAPES) -> Iterator[RandomCase]:
    """The same cases every time; no grid is square, and half of them are long on one axis."""
    draw = random.Random(0)
    layouts = list(_LAYOUTS)
    for i in range(count):
        partitions = []
        for _ in range(draw.randint(1, 3)):
            partitions.append(HeadPartition(draw.randint(1, 3), draw.choice(_KERNELS), draw.randint(1, 5)))
        least = max(part.kernel_size * part.dilation for part in partitions)
        height, width = (max(least, draw.randint(3, 14)) for _ in range(2))
        long = max(least, draw.randint(20, 150))
        if i % 4 == 0:
            height = long
        elif i % 4 == 1:
            width = long
        if height == width:
            width += draw.randint(1, 3)
        yield RandomCase(
            tuple(partitions), height, width, draw.randint(1, 2), draw.choice((1, 3, 8)), draw.choice(layouts)
        )


def random_error(case: RandomCase, backend: str) -> float:
    """The largest relative error of a backend in float32: of the output and of every gradient.

    Args:
        case: its shapes; the numbers are drawn from the global random state.
        backend: its name, as of `neighborhood_attention`.
    """
    inputs = _LAYOUTS[case.layout](case.shape)
    for part in case.partitions:
        inputs.append(torch.randn(part.table_shape, dtype=torch.float64))
    weights = torch.randn(case.shape, dtype=torch.float64)

    def results(dtype: torch.dtype, name: str) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        q, k, v, *bias = leaves
        out = neighborhood_attention(q, k, v, case.partitions, bias, backend=name)
        return [out, *torch.autograd.grad(out, leaves, weights.to(dtype))]

    worst = 0.0
    for x, y in zip(results(torch.float32, backend), results(torch.float64, "reference"), strict=True):
        worst = max(worst, ((x - y).norm() / y.norm()).item())
    return worst


def worst_error(backend: str, count: int = SHAPES) -> float:
    """The largest relative error over random cases; see `random_error`."""
    torch.manual_seed(0)
    return max(random_error(case, backend) for case in random_cases(count))
