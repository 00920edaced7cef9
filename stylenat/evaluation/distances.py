"""Distances of sets of features `(N, D)`, tensors or arrays, in float64 on their device; and intervals.

Every function raises UserError for other shapes, different dimensions, features not finite, sets too small.
"""

from dataclasses import dataclass

import numpy as np
import torch

from stylenat.errors import UserError

BLOCK = 512  # rows of a pair-by-pair matrix in memory at once: 200 MB against 50,000 images


def _tensor(x):
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x  # as_tensor might move to another device


def _matrix(features):
    features = _tensor(features).double()
    if features.ndim != 2:
        raise UserError(f"features have shape {tuple(features.shape)}; give (images, dimensions).")
    if bad := int((~features.isfinite()).any(1).sum()):
        raise UserError(
            f"{bad} of {len(features)} features hold NaN or infinity; check images and precision."
        )
    return features


def _same_dimensions(*sizes):
    if len(set(sizes)) > 1:
        raise UserError(f"features of {sizes} dimensions don't compare; take all from the same network.")


def _is_summed(x):  # Moments, or published statistics
    return hasattr(x, "covariance")


def _at_least(least, *counts):
    if min(counts) < least:
        raise UserError(f"a set of {min(counts)} is too small here; give {least} or more.")


def _matrices(least, *sets):
    sets = [_matrix(features) for features in sets]
    _same_dimensions(*(features.shape[1] for features in sets))
    _at_least(least, *map(len, sets))
    return sets


@dataclass(eq=False)
class Moments:
    """Mean and covariance of features that come in batches, or from several processes: moments add up.

    `count` features, float64 `mean` `(D,)` and `scatter` `(D, D)`, the sum of (x - mean)(x - mean)ᵀ. On the
    CPU `np.savez(path, **vars(moments))` saves them, and `Moments(**np.load(path))` takes them back.
    """

    count: int = 0
    mean: torch.Tensor | None = None
    scatter: torch.Tensor | None = None

    def __post_init__(self):
        self.count, self.mean, self.scatter = int(self.count), _tensor(self.mean), _tensor(self.scatter)

    @property
    def covariance(self):
        """Unbiased covariance `(D, D)`; UserError below two features."""
        _at_least(2, self.count)
        return self.scatter / (self.count - 1)

    def update(self, features):
        """Takes in features by one matrix product (Chan et al. 1983: stable) and returns itself."""
        batch = _matrix(features)
        if not len(batch):
            return self
        if self.mean is None:
            self.mean, self.scatter = batch.new_zeros(batch.shape[1]), batch.new_zeros(2 * batch.shape[1:])
        _same_dimensions(len(self.mean), batch.shape[1])
        mean, total = batch.mean(0), self.count + len(batch)
        shift = mean - self.mean
        # The means' distance is one more row of the product.
        rows = torch.cat([batch - mean, shift[None] * (self.count * len(batch) / total) ** 0.5])
        self.scatter = torch.addmm(self.scatter, rows.T, rows)
        self.mean = self.mean + shift * (len(batch) / total)
        self.count = total
        return self

    def __add__(self, other):
        if not (self.count and other.count):
            return Moments(**vars(self if self.count else other))
        _same_dimensions(len(self.mean), len(other.mean))
        total, shift = self.count + other.count, other.mean - self.mean
        scatter = (self.scatter + other.scatter).addr_(shift, shift, alpha=self.count * other.count / total)
        return Moments(total, self.mean + shift * (other.count / total), scatter)


def frechet_distance(a, b):
    """Fréchet distance of two Gaussians, |m_a - m_b|² + tr S_a + tr S_b - 2 tr (S_a S_b)^½.

    Heusel et al. 2017, eq. 6. Exact though covariances be singular. With fewer features than dimensions the
    last trace is the nuclear norm of A Bᵀ, A and B the centerd features over √(N-1), which is quicker.

    Args:
        a, b: features, or `Moments` (anything with `count`, `mean`, `covariance`); two or more.
    """
    if not (_is_summed(a) or _is_summed(b)):
        a, b = _matrices(2, a, b)
        if min(len(a), len(b)) < a.shape[1]:
            return _frechet_of_few(a, b)
    a, b = (x if _is_summed(x) else Moments().update(x) for x in (a, b))
    _at_least(2, a.count, b.count)
    _same_dimensions(len(a.mean), len(b.mean))
    if a.count > b.count:
        a, b = b, a  # the null space, if there is one, is a's
    first, second = a.covariance, b.covariance
    values, vectors = torch.linalg.eigh(first)
    # Directions without variance hold rounding alone, and its square root would add up.
    seen = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    root = vectors[:, seen] * values[seen].sqrt()
    cross = torch.linalg.eigvalsh(root.T @ second @ root).clamp(min=0).sqrt().sum()
    return ((a.mean - b.mean).square().sum() + first.trace() + second.trace() - 2 * cross).item()


def _frechet_of_few(a, b):
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = (a - mean_a) / (len(a) - 1) ** 0.5, (b - mean_b) / (len(b) - 1) ** 0.5
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return ((mean_a - mean_b).square().sum() + a.square().sum() + b.square().sum() - 2 * cross).item()


def kernel_distance(a, b):
    """Unbiased squared MMD of two sets of features, kernel (x·y / D + 1)³ (Bińkowski et al. 2018).

    Over the full sets, not times 1000. Unbiased: about 0 for equal distributions, at times below.
    """
    a, b = _matrices(2, a, b)

    def total(x, y):
        return sum(((rows @ y.T / x.shape[1] + 1) ** 3).sum() for rows in x.split(BLOCK))

    def mean_of_pairs(x):
        with_itself = ((x.square().sum(1) / x.shape[1] + 1) ** 3).sum()
        return (total(x, x) - with_itself) / (len(x) * (len(x) - 1))

    return (mean_of_pairs(a) + mean_of_pairs(b) - 2 * total(a, b) / (len(a) * len(b))).item()


def _part(x, order):
    return [x[i] for i in order] if isinstance(x, list) else x[_tensor(order).to(x.device)]


def kernel_distance_subsets(a, b, subsets=100, subset_size=1000, seed=0):
    """KID as published: mean and standard error of `kernel_distance` over random subsets, without copies.

    Bińkowski et al. 2018. The error is that of choosing subsets of these features, 0 for `subset_size` = N =
    M; what other features would give is for `interval`. UserError for a `subset_size` beyond either set.
    """
    a, b = _matrices(2, a, b)
    most = min(len(a), len(b))
    if subsets < 2 or not 2 <= subset_size <= most:
        raise UserError(f"{subsets} subsets of {subset_size} can't be drawn; give 2 or more, of 2 to {most}.")
    rng = np.random.default_rng(seed)
    values = [
        kernel_distance(*(_part(x, rng.permutation(len(x))[:subset_size]) for x in (a, b)))
        for _ in range(subsets)
    ]
    return np.mean(values).item(), (np.std(values, ddof=1) / subsets**0.5).item()


def _squared_distances(x, y):
    squares = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)
    return squares.add_(x.square().sum(1, keepdim=True)).clamp_(min=0)


def _nearest(x, y, k, block, skip_self=False):
    """Squared distances and indices `(N, k)` of the k features in y nearest to each in x, nearest first."""
    found = []
    for start in range(0, len(x), block):
        squares = _squared_distances(x[start : start + block], y)
        if skip_self:
            squares.diagonal(start).fill_(torch.inf)
        found.append(squares.topk(k, largest=False))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def precision_recall(real, fake, k=3, block=BLOCK):
    """Precision, recall, density and coverage of fakes `(M, D)` against reals `(N, D)`, as a dict.

    A feature's ball reaches to its k-th nearest neighbor in its own set, edge included. Precision: share of
    fakes in some real's ball; recall: of reals in some fake's (Kynkäänniemi et al. 2019, eq. 2). Density:
    number of real balls around a fake, over k; coverage: share of reals with a fake in their ball (Naeem et
    al. 2020, eq. 3–4). `block` rows of distances are in memory at once. UserError unless 1 ≤ k < N, M.
    """
    if k < 1:
        raise UserError(f"k is {k}; give the number of neighbors, 1 or more.")
    real, fake = _matrices(k + 1, real, fake)
    center = real.mean(0)  # the shorter the vectors, the less their products cancel
    real, fake = real - center, fake - center
    # Copies lie exactly on edges: rounding must not decide there.
    slack = 1e-12 * torch.cat([real, fake]).square().sum(1).max()
    reach_real, reach_fake = (_nearest(x, x, k, block, True)[0][:, -1] + slack for x in (real, fake))
    around = torch.zeros(len(fake), dtype=torch.long, device=fake.device)
    recalled = covered = 0
    for rows, reach in zip(real.split(block), reach_real.split(block), strict=True):
        squares = _squared_distances(rows, fake)
        inside = squares <= reach[:, None]
        around += inside.sum(0)
        covered += inside.any(1).sum().item()
        recalled += (squares <= reach_fake).any(1).sum().item()
    shares = {"precision": (around > 0).double().mean().item(), "recall": recalled / len(real)}
    return shares | {"density": around.sum().item() / (k * len(fake)), "coverage": covered / len(real)}
