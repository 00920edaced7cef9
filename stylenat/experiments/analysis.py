"""The ablation's statistics: paired differences, their intervals and p-values, and what moves a score."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from stylenat.errors import UserError
from stylenat.experiments.grid import Contrast, Grid
from stylenat.experiments.scoring import SCORED, CellScores, recorded_scores

LEVEL = 0.95  # of intervals
ALPHA = 0.05
POWER = 0.8  # of the smallest detectable difference
RESAMPLES = 9999
STEPS = 4000  # of an integral
MOST_PAIRS = 20  # whose 2ⁿ signs are enumerated
Scores = dict[str, dict[int, float]]  # a run's score, by variant and seed


def paired_differences(scores: Scores, treatment: str, control: str) -> dict[int, float]:
    """Treatment minus control of every seed that both have."""
    first = scores.get(treatment, {})
    second = scores.get(control, {})
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def bca_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean by the bias-corrected and accelerated bootstrap (Efron 1987).

    Returns:
        Both ends; NaN for fewer than three values; the value itself where all are equal.
    """
    sample = np.asarray(values, float)
    if len(sample) < 3:
        return math.nan, math.nan
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    found = stats.bootstrap(
        (sample,),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Exact two-sided p-value of a mean difference of 0: the share of all 2ⁿ signs with as large a mean.

    Exact where each difference is as likely with either sign; the least is 2 / 2ⁿ.

    Raises:
        UserError: no difference, or more than `MOST_PAIRS`.
    """
    sample = np.asarray(differences, float)
    if not 1 <= len(sample) <= MOST_PAIRS:
        raise UserError(f"{len(sample)} pairs: an exact sign-flip test takes 1 to {MOST_PAIRS}")
    signs = np.array(list(itertools.product((1, -1), repeat=len(sample))))  # (2ⁿ, n)
    means = np.abs(signs @ sample)
    # Sums of the same numbers in another order differ in the last bit.
    return float((means >= abs(sample.sum()) * (1 - 1e-12)).mean())


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of a family by Holm's step-down method (1979), in the given order."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    order = sorted(p_values, key=lambda name: p_values[name])
    for rank, name in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def paired_power(effect: float, pairs: int) -> float:
    """Power of the two-sided paired t-test at `ALPHA`.

    Args:
        effect: mean difference by the differences' standard deviation.
        pairs: two or more.
    """
    freedom = pairs - 1
    critical = stats.t.ppf(1 - ALPHA / 2, freedom)
    shift = effect * pairs**0.5
    # Given the deviation's estimate t is normal; its mean over the estimate's distribution, in equal shares.
    # (SciPy's noncentral t is NaN at some values.)
    shares = (np.arange(STEPS) + 0.5) / STEPS
    deviations = np.sqrt(stats.chi2.ppf(shares, freedom) / freedom)
    found = stats.norm.sf(critical * deviations - shift) + stats.norm.cdf(-critical * deviations - shift)
    return float(found.mean())


def detectable_difference(deviation: float, pairs: int) -> float:
    """The smallest mean difference that a paired design finds in 80 % of cases.

    By the t-test's power, which the sign-flip test comes close to; with fewer than six pairs the latter's p
    can't be below 0.05 at all, and the answer is infinity.

    Args:
        deviation: standard deviation of the paired differences.
        pairs: how many.
    """
    if 2 / 2**pairs > ALPHA:
        return math.inf
    effect = optimize.brentq(lambda d: paired_power(d, pairs) - POWER, 0.01, 10)
    return float(effect) * deviation


@dataclass(frozen=True)
class Comparison:
    """What one contrast came to.

    Attributes:
        contrast: what is compared.
        metric: a key of `METRICS`.
        differences: by seed, treatment minus control; below 0 the treatment is better.
        mean: of them.
        low: lower end of the 95 % interval of the mean.
        high: upper end of it.
        p: exact, two-sided; NaN without pairs.
        adjusted: Holm's within the secondary family; of other contrasts p itself.
        detectable: smallest difference that this design finds with a power of 80 %.
        control_mean: mean score of the control, for proportions.
    """

    contrast: Contrast
    metric: str
    differences: dict[int, float]
    mean: float
    low: float
    high: float
    p: float
    adjusted: float
    detectable: float
    control_mean: float

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted p-value is at most 0.05."""
        return self.adjusted <= ALPHA


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a score, pooled over arms.

    Attributes:
        retraining: between training seeds of an arm, without what resampling adds.
        resampling: between sample seeds of a run: other latents, the same weights.
        snapshots: between the last snapshots of a run.
        relative: retraining's, by the mean score.
    """

    retraining: float
    resampling: float
    snapshots: float
    relative: float

    @property
    def ratio(self) -> float:
        """Retraining's by resampling's."""
        return self.retraining / self.resampling if self.resampling else math.inf


@dataclass(frozen=True)
class Analysis:
    """Everything that a grid's recorded runs say.

    Attributes:
        grid: the grid.
        recorded: runs that are recorded.
        planned: runs that the grid has.
        scores: of each metric each run's score.
        primary: the primary contrast; None where the grid has none or no pair of it is recorded.
        secondary: the other contrasts that are tested, on the grid's metric.
        exploratory: those that are not, and the primary one on the other metric.
        spread: of the grid's metric; None where there are too few runs.
        images: generated images of a score.
    """

    grid: Grid
    recorded: int
    planned: int
    scores: dict[str, Scores]
    primary: Comparison | None
    secondary: tuple[Comparison, ...]
    exploratory: tuple[Comparison, ...]
    spread: Spread | None
    images: int

    @property
    def is_complete(self) -> bool:
        """Whether every run of the grid is recorded."""
        return self.recorded == self.planned

    def is_decided(self, *contrasts: Contrast) -> bool:
        """Whether every run that some contrasts compare is recorded."""
        scores = self.scores[self.grid.scoring.metric]
        return all(cell.seed in scores.get(cell.variant, {}) for cell in self.grid.cells_of(contrasts))


def analyze(grid: Grid) -> Analysis:
    """Analyze what is recorded of a grid.

    Raises:
        UserError: as of `recorded_scores`.
    """
    return analyze_scores(grid, recorded_scores(grid))


def analyze_scores(grid: Grid, cells: Sequence[CellScores]) -> Analysis:
    """Analyze given scores of a grid's cells.

    Args:
        grid: whose cells.
        cells: recorded ones, of one protocol.
    """
    metric = grid.scoring.metric
    other = next(name for name in SCORED if name != metric)
    scores: dict[str, Scores] = {}
    for name in SCORED:
        scores[name] = {}
        for cell in cells:
            scores[name].setdefault(cell.variant, {})[cell.seed] = cell.mean(name)
    primary = None
    if grid.primary is not None:
        primary = _compare(grid.primary, metric, scores[metric])
    secondary = [_compare(contrast, metric, scores[metric]) for contrast in grid.secondary]
    exploratory = [_compare(contrast, metric, scores[metric]) for contrast in grid.exploratory]
    if grid.primary is not None:
        exploratory.append(_compare(grid.primary, other, scores[other]))
    return Analysis(
        grid=grid,
        recorded=len(cells),
        planned=len(grid.cells()),
        scores=scores,
        primary=primary,
        secondary=_adjust([found for found in secondary if found]),
        exploratory=tuple(found for found in exploratory if found),
        spread=measure_spread(cells, metric),
        images=cells[0].protocol["n_fake"] if cells else 0,
    )


def _compare(contrast: Contrast, metric: str, scores: Scores) -> Comparison | None:
    """A contrast, its p not yet adjusted; None without pairs."""
    differences = paired_differences(scores, contrast.treatment, contrast.control)
    if not differences:
        return None
    values = list(differences.values())
    low, high = bca_interval(values)
    p = sign_flip_p(values)
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    control = [scores[contrast.control][seed] for seed in differences]
    return Comparison(
        contrast=contrast,
        metric=metric,
        differences=differences,
        mean=float(np.mean(values)),
        low=low,
        high=high,
        p=p,
        adjusted=p,
        detectable=detectable_difference(deviation, len(values)),
        control_mean=float(np.mean(control)),
    )


def _adjust(family: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The secondary family with Holm's p-values."""
    adjusted = holm({str(index): each.p for index, each in enumerate(family)})
    found = []
    for index, each in enumerate(family):
        found.append(Comparison(**{**vars(each), "adjusted": adjusted[str(index)]}))
    return tuple(found)


def measure_spread(cells: Sequence[CellScores], metric: str) -> Spread | None:
    """Where the spread of a score comes from: retraining, resampling, or the choice of the snapshot.

    A run's score is the mean of s sample seeds, so its variance between training seeds holds 1 / s of
    resampling's, which is taken off. (One-way random effects; at 0 where that leaves less.)

    Returns:
        None where no arm has two runs, or runs have one sample seed.
    """
    by_variant: dict[str, list[float]] = {}
    resampling: list[float] = []
    snapshots: list[float] = []
    for cell in cells:
        by_variant.setdefault(cell.variant, []).append(cell.mean(metric))
        if len(samples := cell.by_sample_seed(metric)) > 1:
            resampling.append(np.var(samples, ddof=1).item() / len(samples))
        if len(taken := cell.by_snapshot(metric)) > 1:
            snapshots.append(np.var(taken, ddof=1).item())
    between = [(np.var(runs, ddof=1).item(), len(runs) - 1) for runs in by_variant.values() if len(runs) > 1]
    if not between or not resampling:
        return None
    freedom = sum(degrees for _, degrees in between)
    total = sum(variance * degrees for variance, degrees in between) / freedom
    of_mean = float(np.mean(resampling))  # variance that resampling adds to a run's score
    count = len(cells[0].by_sample_seed(metric))
    retraining = max(0.0, total - of_mean) ** 0.5
    mean = float(np.mean([cell.mean(metric) for cell in cells]))
    return Spread(
        retraining=retraining,
        resampling=(of_mean * count) ** 0.5,
        snapshots=float(np.mean(snapshots)) ** 0.5 if snapshots else math.nan,
        relative=retraining / mean if mean else math.nan,
    )
