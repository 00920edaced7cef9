"""Whether generated images copy the training set: their nearest training images."""

from dataclasses import dataclass

from torch import Tensor

from stylenat.errors import UserError
from stylenat.evaluation.distances import BLOCK, Features, as_matrices, check_counts, nearest

RARE = 20  # memorization's threshold: one in 20 held-out images is nearer to a training image


@dataclass(frozen=True)
class CopyShare:
    """How many samples are nearer to a training image than all but 5 % of held-out images are.

    The share is `expected` ± `error` if samples are draws from the held-out images' distribution, and copies
    raise it. A low share proves nothing: bad images are far from everything.

    Attributes:
        share: of the samples.
        expected: the share without copies.
        error: one standard deviation of that.
    """

    share: float
    expected: float
    error: float

    @property
    def is_suspicious(self) -> bool:
        """Whether the share exceeds what chance gives by two standard deviations."""
        return self.share > self.expected + 2 * self.error

    def __str__(self) -> str:
        verdict = (
            "More than chance gives: look for copies among the nearest neighbors."
            if self.is_suspicious
            else "No sign of copies; but poor samples are far from every image, whatever they learned from."
        )
        return (
            f"{self.share:.1%} of samples are nearer to a training image than all but 5 % of held-out "
            f"images are; without copies {self.expected:.1%} ± {self.error:.1%} would be. {verdict}"
        )


@dataclass(frozen=True, eq=False)
class Memorization:
    """Nearest training images of M generated ones.

    Attributes:
        indices: of training images, `(M, neighbors)`, nearest first.
        distances: of their features, `(M, neighbors)`.
        copies: how many of the generated images are suspiciously near.
    """

    indices: Tensor
    distances: Tensor
    copies: CopyShare


def memorization(
    train: Features, heldout: Features, fake: Features, neighbors: int = 3, block: int = BLOCK
) -> Memorization:
    """The `Memorization` of generated images.

    A draw falls below the r-th smallest of h like ones with probability r / (h + 1), of m draws a number that
    is beta-binomial, whatever the distribution. With the median, half the images that are no copies would add
    their noise.

    Args:
        train: features of training images `(N, D)`.
        heldout: of held-out images `(H, D)`, 19 or more.
        fake: of generated images `(M, D)`.
        neighbors: training images to name for each.
        block: rows of distances in memory at once.

    Raises:
        UserError: no neighbors, sets that are too small or don't compare, features that are not finite.
    """
    if not isinstance(neighbors, int) or neighbors < 1:
        raise UserError(f"neighbors {neighbors!r}: give how many to name, 1 or more")
    train_set, heldout_set, fake_set = as_matrices(1, train, heldout, fake)
    check_counts(neighbors, len(train_set))
    check_counts(RARE - 1, len(heldout_set))
    m = len(fake_set)
    h = len(heldout_set)
    rank = (h + 1) // RARE
    center = train_set.mean(0)
    squares, indices = nearest(fake_set - center, train_set - center, neighbors, block)
    usual = nearest(heldout_set - center, train_set - center, 1, block)[0][:, 0]  # (H,)
    share = (squares[:, 0] < usual.kthvalue(rank).values).double().mean().item()
    expected = rank / (h + 1)
    error = (expected * (1 - expected) * (h + 1 + m) / (m * (h + 2))) ** 0.5
    return Memorization(indices, squares.sqrt(), CopyShare(share, expected, error))
