"""Which factors generated avatars have, and whether every value of each comes up as often as it should.

The factors of an image of `avatars` are read off its pixels: of all avatars that could be drawn, the one with
the least squared difference is sought. The search begins at the nearest training image (at 8 × 8 pixels) and
changes one factor at a time for as long as that helps.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from stylenat.data.avatars import AVATARS, FACTORS, RESOLUTIONS, compose, factors_of, value_shares
from stylenat.data.dataset import ImageDataset, open_dataset
from stylenat.errors import UserError
from stylenat.progress import progress

COMPARED_AT = 64  # pixels a side, at most: larger images are averaged
START_AT = 8  # pixels a side, for the nearest training image
TOGETHER = 500  # images, for memory
RARE = 0.1  # a value is missing whose share is below this part of what it should be


@dataclass(frozen=True, eq=False)
class Reading:
    """The avatars that are nearest to N images.

    Attributes:
        factors: numbers of their values, uint8 `(N, 11)`, in the order of `FACTORS`.
        differences: to the images, root mean square of pixels of 0 to 255, `(N,)`; 0 where an image is
            an avatar to the last bit.
    """

    factors: np.ndarray
    differences: np.ndarray


@dataclass(frozen=True)
class FactorCoverage:
    """How often the values of one factor come up.

    Attributes:
        shares: of the images, by value.
        expected: shares that the values were drawn with.
        distance: between the two, half the sum of absolute differences; 0 to 1.
        chance: the distance that as many real images have on average.
        missing: values whose share is below a tenth of what it should be.
    """

    shares: dict[str, float]
    expected: dict[str, float]
    distance: float
    chance: float
    missing: tuple[str, ...]


def read_factors(images: Tensor) -> Reading:
    """The factors of images as the nearest avatars have them; about 10 ms an image at 32 pixels, 40 at 64.

    Args:
        images: uint8 `(N, 3, R, R)`, R one of `RESOLUTIONS`.

    Raises:
        UserError: another resolution.
    """
    side = images.shape[-1]
    if side not in RESOLUTIONS or images.shape[-2] != side:
        raise UserError(
            f"images of {images.shape[-2]}x{side} can't be compared with {AVATARS}, which come at "
            f"{', '.join(map(str, RESOLUTIONS))}: give images of such a size"
        )
    if side > COMPARED_AT:
        images = avg_pool2d(images.float(), side // COMPARED_AT).round().to(torch.uint8)
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    factors = _nearest_training_factors(images)
    read = [
        _fit(pixels[first : first + TOGETHER], factors[first : first + TOGETHER])
        for first in progress(range(0, len(images), TOGETHER), desc="reading factors", unit="batch")
    ]
    return Reading(
        np.concatenate([factors for factors, _ in read]), np.concatenate([error for _, error in read])
    )


def _nearest_training_factors(images: Tensor) -> np.ndarray:
    """Factors of the training images that are nearest in small, uint8 `(N, 11)`."""
    factors, references = _training_set()
    nearest = [torch.cdist(batch, references).argmin(1) for batch in _in_small(images).split(TOGETHER)]
    return factors[torch.cat(nearest).numpy()]


@cache
def _training_set() -> tuple[np.ndarray, Tensor]:
    """Factors of all training images, and the images in small; 15 MB."""
    train = open_dataset(AVATARS, min(RESOLUTIONS), "train")
    return factors_of(train.names), _in_small(train.stack())


def _in_small(images: Tensor) -> Tensor:
    return avg_pool2d(images.float(), images.shape[-1] // START_AT).flatten(1)


def _fit(pixels: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Change one factor at a time while that brings an avatar nearer to its image.

    Args:
        pixels: uint8 `(N, R, R, 3)`.
        start: factors to begin with, `(N, 11)`.

    Returns:
        Factors `(N, 11)`, and root mean square differences `(N,)`.
    """
    factors = start.copy()
    errors = _squared_differences(factors, pixels)
    active = np.arange(len(pixels))  # images that the last round changed
    while len(active):
        before = factors[active]
        for column, values in enumerate(FACTORS.values()):
            for number in range(len(values)):
                candidates = factors[active]
                candidates[:, column] = number
                found = _squared_differences(candidates, pixels[active])
                better = found < errors[active]
                factors[active[better], column] = number
                errors[active[better]] = found[better]
        active = active[(factors[active] != before).any(1)]
    return factors, np.sqrt(errors / pixels[0].size)


def _squared_differences(factors: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Sums of squared differences of avatars `(N, 11)` and images `(N, R, R, 3)`: `(N,)`, whole numbers."""
    drawn = compose(factors, pixels.shape[1]).astype(np.int16)
    difference = (drawn - pixels).reshape(len(pixels), -1).astype(np.float64)
    return np.einsum("ij,ij->i", difference, difference)


def coverage(factors: np.ndarray) -> dict[str, FactorCoverage]:
    """How often each factor's values come up among images.

    Args:
        factors: as read off them, `(N, 11)`, N above 0.

    Returns:
        By factor.
    """
    count = len(factors)
    covered = {}
    for column, (name, values) in enumerate(FACTORS.items()):
        found = np.bincount(factors[:, column], minlength=len(values)) / count
        shares = dict(zip(values, found.tolist(), strict=True))
        expected = value_shares(name)
        covered[name] = FactorCoverage(
            shares,
            expected,
            distance=sum(abs(shares[value] - expected[value]) for value in values) / 2,
            # Half the sum of the mean absolute deviations of shares among that many draws.
            chance=sum(math.sqrt(2 * p * (1 - p) / (math.pi * count)) for p in expected.values()) / 2,
            missing=tuple(value for value in values if shares[value] < RARE * expected[value]),
        )
    return covered


def reading_accuracy(images: Tensor, dataset: ImageDataset) -> dict[str, float]:
    """How often each factor is read as it was drawn.

    Args:
        images: those of the dataset, one for one, or what became of them, uint8 `(N, 3, R, R)`.
        dataset: of `avatars`; its first N images are meant.

    Returns:
        Shares of right readings, by factor.
    """
    drawn = factors_of(dataset.names[: len(images)])
    right = (read_factors(images).factors == drawn).mean(0)
    return dict(zip(FACTORS, right.tolist(), strict=True))
