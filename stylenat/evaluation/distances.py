"""Distances of sets of features `(N, D)`, tensors or arrays, in float64 on the features' device.

Every function raises UserError for other shapes, different dimensions, features that are not finite, and sets
that are too small.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stylenat.errors import UserError

LARGEST = 1e30  # a feature's size: sixth powers of it are finite
BLOCK = 512  # rows of a pair-by-pair matrix in memory at once: 200 MB against 50,000 images
Features = Tensor | np.ndarray  # (N, D)


class Gaussian(Protocol):
    """What a Fréchet distance needs of a set: `Moments`, or published statistics."""

    @property
    def count(self) -> float:
        """Features that it sums up; infinite where it is not known."""

    @property
    def mean(self) -> Tensor:
        """float64 `(D,)`."""

    @property
    def covariance(self) -> Tensor:
        """float64 `(D, D)`."""


def as_tensor(x: Features) -> Tensor:
    """Features as a tensor, on the device where they are."""
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x  # torch.as_tensor might move it


def as_matrix(features: Features) -> Tensor:
    """Features as float64 `(N, D)`.

    Raises:
        UserError: another shape, or features that are not finite or so large that distances would not be.
    """
    if not isinstance(features, Features):
        raise UserError(
            f"features are {type(features).__name__} {features!r}: give a tensor or array (images, "
            "dimensions)"
        )
    matrix = as_tensor(features).double()
    if matrix.ndim != 2:
        raise UserError(f"features have shape {tuple(matrix.shape)}; give (images, dimensions).")
    usable = (matrix.abs() <= LARGEST).all(1)  # (N,), not of NaN
    if bad := int((~usable).sum()):
        first = int((~usable).int().argmax())
        what = "numbers too large for distances" if matrix.isfinite().all() else "NaN or infinity"
        raise UserError(
            f"{bad} of {len(matrix)} features hold {what}, the first is of image {first}; check images and "
            "precision."
        )
    return matrix


def as_matrices(least: int, *sets: Features) -> list[Tensor]:
    """Sets of features as float64 `(N, D)`.

    Args:
        least: features that every set holds at the least.
        sets: of one D.

    Raises:
        UserError: as of `as_matrix`, different dimensions, or a set that is too small.
    """
    matrices = [as_matrix(features) for features in sets]
    _check_dimensions(*(matrix.shape[1] for matrix in matrices))
    check_counts(least, *map(len, matrices))
    return matrices


def check_counts(least: int, *counts: float) -> None:
    """Check that sets are large enough.

    Raises:
        UserError: one of the counts is below `least`.
    """
    if min(counts) < least:
        raise UserError(f"a set of {min(counts)} is too small here; give {least} or more.")


def _check_dimensions(*sizes: int) -> None:
    if len(set(sizes)) > 1:
        raise UserError(f"features of {sizes} dimensions don't compare; take all from the same network.")


def _no_features() -> Tensor:
    return torch.zeros(0, dtype=torch.float64, device="cpu")


@dataclass(eq=False)
class Moments:
    """Mean and covariance of features that come in batches, or from several processes: moments add up.

    On the CPU `np.savez(path, **vars(moments))` saves them, and `Moments(**np.load(path))` takes them back.

    Attributes:
        count: features taken in.
        mean: float64 `(D,)`; empty before the first.
        scatter: float64 `(D, D)`, the sum of (x - mean)(x - mean)ᵀ; empty before the first.
    """

    count: int = 0
    mean: Tensor = field(default_factory=_no_features)
    scatter: Tensor = field(default_factory=_no_features)

    def __post_init__(self) -> None:
        for name in ("mean", "scatter"):
            array = getattr(self, name)
            if isinstance(array, np.ndarray) and not np.isfinite(array).all():  # read from a file
                raise UserError(f"{name} of moments holds NaN or infinity; compute them again")
        self.count = int(self.count)
        self.mean = as_tensor(self.mean)
        self.scatter = as_tensor(self.scatter)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance `(D, D)`.

        Raises:
            UserError: fewer than two features.
        """
        check_counts(2, self.count)
        return self.scatter / (self.count - 1)

    def update(self, features: Features) -> "Moments":
        """Take in features by one matrix product (Chan et al. 1983: stable) and return itself.

        Args:
            features: `(N, D)`.

        Raises:
            UserError: as of `as_matrix`, or another D.
        """
        batch = as_matrix(features)
        if not len(batch):
            return self
        if not self.count:
            self.mean = batch.new_zeros(batch.shape[1])
            self.scatter = batch.new_zeros(2 * batch.shape[1:])
        _check_dimensions(len(self.mean), batch.shape[1])
        mean = batch.mean(0)
        total = self.count + len(batch)
        shift = mean - self.mean
        # The means' distance is one more row of the product.
        weight = (self.count * len(batch) / total) ** 0.5
        rows = torch.cat([batch - mean, shift[None] * weight])  # (N + 1, D)
        self.scatter = torch.addmm(self.scatter, rows.T, rows)
        self.mean = self.mean + shift * (len(batch) / total)
        self.count = total
        return self

    def __add__(self, other: "Moments") -> "Moments":
        if not (self.count and other.count):
            return Moments(**vars(self if self.count else other))
        _check_dimensions(len(self.mean), len(other.mean))
        total = self.count + other.count
        shift = other.mean - self.mean
        weight = self.count * other.count / total
        scatter = (self.scatter + other.scatter).addr_(shift, shift, alpha=weight)
        return Moments(total, self.mean + shift * (other.count / total), scatter)


def frechet_distance(a: Features | Gaussian, b: Features | Gaussian) -> float:
    """Fréchet distance of two Gaussians, |m_a - m_b|² + tr S_a + tr S_b - 2 tr (S_a S_b)^½.

    Heusel et al. 2017, eq. 6. Exact though covariances be singular. With fewer features than dimensions the
    last trace is the nuclear norm of A Bᵀ, A and B the centered features over √(N-1), which is quicker.

    Args:
        a: features `(N, D)`, or their mean and covariance; of two or more.
        b: of the same D.

    Raises:
        UserError: as of every function here.
    """
    if isinstance(a, Features) and isinstance(b, Features):
        first_set, second_set = as_matrices(2, a, b)
        if min(len(first_set), len(second_set)) < first_set.shape[1]:
            return _frechet_of_few(first_set, second_set)
    first = _as_gaussian(a)
    second = _as_gaussian(b)
    check_counts(2, first.count, second.count)
    _check_dimensions(len(first.mean), len(second.mean))
    if first.count > second.count:
        return _frechet_of_gaussians(second, first)
    return _frechet_of_gaussians(first, second)


def _as_gaussian(x: Features | Gaussian) -> Gaussian:
    """Mean and covariance of features; of anything else its own."""
    is_gaussian = not isinstance(x, Features) and hasattr(x, "covariance")
    return x if is_gaussian else Moments().update(x)  # type: ignore[arg-type,return-value]


def _frechet_of_gaussians(a: Gaussian, b: Gaussian) -> float:
    """Of two Gaussians; where only one has a null space, it has to be a's."""
    covariance_a = a.covariance
    covariance_b = b.covariance
    values, vectors = torch.linalg.eigh(covariance_a)
    # Directions without variance hold rounding alone, and its square root would add up.
    seen = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    root = vectors[:, seen] * values[seen].sqrt()  # (D, rank): root @ root.T is the covariance
    cross = torch.linalg.eigvalsh(root.T @ covariance_b @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean - b.mean).square().sum()
    return (shift + covariance_a.trace() + covariance_b.trace() - 2 * cross).item()


def _frechet_of_few(a: Tensor, b: Tensor) -> float:
    mean_a = a.mean(0)
    mean_b = b.mean(0)
    centered_a = (a - mean_a) / (len(a) - 1) ** 0.5
    centered_b = (b - mean_b) / (len(b) - 1) ** 0.5
    cross = torch.linalg.svdvals(centered_a @ centered_b.T).sum()
    shift = (mean_a - mean_b).square().sum()
    return (shift + centered_a.square().sum() + centered_b.square().sum() - 2 * cross).item()


def kernel_distance(a: Features, b: Features) -> float:
    """Unbiased squared MMD of two sets of features, kernel (x·y / D + 1)³ (Bińkowski et al. 2018).

    Over the full sets, not times 1000. Unbiased: about 0 for equal distributions, at times below.

    Args:
        a: `(N, D)`, two or more.
        b: `(M, D)`, two or more.

    Raises:
        UserError: as of every function here.
    """
    first, second = as_matrices(2, a, b)
    across = _kernel_sum(first, second) / (len(first) * len(second))
    return (_kernel_mean_within(first) + _kernel_mean_within(second) - 2 * across).item()


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """The kernel summed over all pairs of a row of x and one of y."""
    total = x.new_zeros(())
    for rows in x.split(BLOCK):
        total = total + ((rows @ y.T / x.shape[1] + 1) ** 3).sum()
    return total


def _kernel_mean_within(x: Tensor) -> Tensor:
    """The kernel's mean over pairs of different rows."""
    with_itself = ((x.square().sum(1) / x.shape[1] + 1) ** 3).sum()
    return (_kernel_sum(x, x) - with_itself) / (len(x) * (len(x) - 1))


def kernel_distance_subsets(
    a: Features, b: Features, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID as published: `kernel_distance` over random subsets without copies (Bińkowski et al. 2018).

    Args:
        a: `(N, D)`.
        b: `(M, D)`.
        subsets: how many, two or more.
        subset_size: features of each set in a subset.
        seed: of the draws.

    Returns:
        The mean and its standard error: that of choosing subsets of these features, 0 for `subset_size` = N =
        M. What other features would give is for `intervals.intervals`.

    Raises:
        UserError: a `subset_size` beyond either set, and as of every function here.
    """
    first, second = as_matrices(2, a, b)
    most = min(len(first), len(second))
    if subsets < 2 or not 2 <= subset_size <= most:
        raise UserError(f"{subsets} subsets of {subset_size} can't be drawn; give 2 or more, of 2 to {most}.")
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        part_a = take(first, rng.permutation(len(first))[:subset_size])
        part_b = take(second, rng.permutation(len(second))[:subset_size])
        values.append(kernel_distance(part_a, part_b))
    return np.mean(values).item(), (np.std(values, ddof=1) / subsets**0.5).item()


def take(features: Tensor, order: np.ndarray) -> Tensor:
    """The rows at these indices."""
    return features[as_tensor(order).to(features.device)]


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    squares = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)
    return squares.add_(x.square().sum(1, keepdim=True)).clamp_(min=0)  # (N, M)


def nearest(x: Tensor, y: Tensor, k: int, block: int, skip_self: bool = False) -> tuple[Tensor, Tensor]:
    """The k features in y nearest to each in x.

    Args:
        x: `(N, D)`.
        y: `(M, D)`.
        k: neighbors.
        block: rows of distances in memory at once.
        skip_self: x is y, and no feature is its own neighbor.

    Returns:
        Squared distances and indices `(N, k)`, nearest first.
    """
    distances = []
    indices = []
    for start in range(0, len(x), block):
        squares = _squared_distances(x[start : start + block], y)  # (block, M)
        if skip_self:
            squares.diagonal(start).fill_(torch.inf)
        found = squares.topk(k, largest=False)
        distances.append(found.values)
        indices.append(found.indices)
    return torch.cat(distances), torch.cat(indices)


def precision_recall(real: Features, fake: Features, k: int = 3, block: int = BLOCK) -> dict[str, float]:
    """Precision, recall, density and coverage of generated images' features against real ones.

    A feature's ball reaches to its k-th nearest neighbor in its own set, edge included. Precision: share of
    fakes in some real's ball; recall: of reals in some fake's (Kynkäänniemi et al. 2019, eq. 2). Density:
    number of real balls around a fake, over k; coverage: share of reals with a fake in their ball (Naeem et
    al. 2020, eq. 3–4).

    Args:
        real: `(N, D)`.
        fake: `(M, D)`.
        k: neighbors, 1 ≤ k < N, M.
        block: rows of distances in memory at once.

    Returns:
        "precision", "recall", "density" and "coverage".

    Raises:
        UserError: another k, and as of every function here.
    """
    if not isinstance(k, int) or k < 1:
        raise UserError(f"k is {k}; give the number of neighbors, 1 or more.")
    reals, fakes = as_matrices(k + 1, real, fake)
    center = reals.mean(0)  # the shorter the vectors, the less their products cancel
    reals = reals - center
    fakes = fakes - center
    # Copies lie exactly on edges: rounding must not decide there.
    slack = 1e-12 * torch.cat([reals, fakes]).square().sum(1).max()
    reach_real = nearest(reals, reals, k, block, skip_self=True)[0][:, -1] + slack  # (N,)
    reach_fake = nearest(fakes, fakes, k, block, skip_self=True)[0][:, -1] + slack  # (M,)
    around = torch.zeros(len(fakes), dtype=torch.long, device=fakes.device)
    recalled = 0
    covered = 0
    for rows, reach in zip(reals.split(block), reach_real.split(block), strict=True):
        squares = _squared_distances(rows, fakes)  # (block, M)
        inside = squares <= reach[:, None]
        around += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((squares <= reach_fake).any(1).sum())
    return {
        "precision": (around > 0).double().mean().item(),
        "recall": recalled / len(reals),
        "density": around.sum().item() / (k * len(fakes)),
        "coverage": covered / len(reals),
    }
