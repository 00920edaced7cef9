"""Distances of sets of features `(N, D)`, tensors or arrays, in float64 on their device; and intervals.

Every function raises UserError for other shapes, different dimensions, features not finite, sets too small.
"""

from dataclasses import dataclass

import torch

from stylenat.evaluation.distances import BLOCK, _at_least, _matrices, _nearest

RARE = 20  # memorization's threshold: one in 20 held-out images is nearer to a training image


@dataclass(frozen=True, eq=False)
class Memorization:
    """Nearest training images of M fakes: `indices`, `distances` `(M, neighbors)`, nearest first.

    `share` of fakes nearer to a training image than the nearest 5 % of held-out images are. If fakes are
    draws from the held-out images' distribution it is `expected` ± `error` (one standard deviation); copies
    raise it. A low share proves nothing: bad fakes are far from everything.
    """

    indices: torch.Tensor
    distances: torch.Tensor
    share: float
    expected: float
    error: float


def memorization(train, heldout, fake, neighbors=3, block=BLOCK):
    """The `Memorization` of fakes, from features of training, of 19 or more held-out and of fake images.

    A draw falls below the r-th smallest of h like ones with probability r / (h + 1), of m draws a number that
    is beta-binomial, whatever the distribution. The median would drown copies in the honest half's noise.
    """
    train, heldout, fake = _matrices(1, train, heldout, fake)
    _at_least(neighbors, len(train))
    _at_least(RARE - 1, len(heldout))
    m, h, rank = len(fake), len(heldout), (len(heldout) + 1) // RARE
    center = train.mean(0)
    squares, indices = _nearest(fake - center, train - center, neighbors, block)
    usual = _nearest(heldout - center, train - center, 1, block)[0][:, 0]
    share = (squares[:, 0] < usual.kthvalue(rank).values).double().mean().item()
    expected = rank / (h + 1)
    error = (expected * (1 - expected) * (h + 1 + m) / (m * (h + 2))) ** 0.5
    return Memorization(indices, squares.sqrt(), share, expected, error)
