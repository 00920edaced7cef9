"""Distances of sets of features `(N, D)`, tensors or arrays, in float64 on their device; and intervals.

Every function raises UserError for other shapes, different dimensions, features not finite, sets too small.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from stylenat.evaluation.distances import Moments, _at_least, _is_summed, _matrix, _part


@dataclass(frozen=True)
class Interval:
    """A statistic, its standard error and its 95 % interval from `low` to `high`."""

    value: float
    error: float
    low: float
    high: float


def interval(statistic, real, fake, splits=20, seed=0):
    """95 % interval of a statistic of (real, fake) by split halves: an `Interval`, or a dict of them.

    It covers other draws of as many fakes and reals, or of the fakes alone where the reals are one `Moments`;
    neither other training runs nor the bias that a Fréchet distance has at these counts. `statistic` gives a
    float or a dict of floats; a set is features, or a list of `Moments` of equal counts, 8 or more.

    Two halves of both sets are independent, so (difference)² / 4, averaged over splits, is half the variance
    at half the counts: the full counts' variance, if that falls with 1/N. Measured over FD, KID and PR, 16 to
    1280 dimensions, 100 to 395 a side: error 0.75 to 1.3 times the true deviation (1.2 to 1.45 for FD and KID
    of equal distributions), true mean covered 86 to 100 %. Bootstrap copies shift FD by up to 23 deviations.
    """
    rng = np.random.default_rng(seed)
    sets = [x if isinstance(x, list) or _is_summed(x) else _matrix(x) for x in (real, fake)]
    parts = [1 if _is_summed(x) else len(x) for x in sets]
    _at_least(8, *parts[_is_summed(real) :])

    def halves(x):
        if _is_summed(x):
            return x, x
        return [_part(x, order) for order in np.split(rng.permutation(len(x))[: len(x) // 2 * 2], 2)]

    def values(*sets):
        result = statistic(*(sum(x, Moments()) if isinstance(x, list) else x for x in sets))
        return result if isinstance(result, dict) else {None: result}

    pairs = [[values(*half) for half in zip(*map(halves, sets), strict=True)] for _ in range(splits)]
    reach, found = _student(min(splits, *(n - 1 for n in parts if n > 1))), {}
    for name, value in values(*sets).items():
        error = np.mean([(one[name] - other[name]) ** 2 for one, other in pairs]).item() ** 0.5 / 2
        found[name] = Interval(value, error, value - reach * error, value + reach * error)
    return found.get(None, found)


def _student(freedom):
    """97.5 % quantile of Student's t by Cornish and Fisher's series: 0.4 % low at 7 degrees, 0.02 % at 20."""
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
