"""The ablation's statistics against plain definitions and known values; the verdict, however it falls."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import refusal
from scipy import stats

from stylenat.experiments.analysis import (
    analyze_scores,
    bca_interval,
    detectable_difference,
    holm,
    measure_spread,
    paired_differences,
    paired_power,
    sign_flip_p,
)
from stylenat.experiments.grid import load_grid
from stylenat.experiments.scoring import CellScores
from stylenat.experiments.verdict import number, verdict

GRID = load_grid("avatars-32")


def make_cell(variant, seed, values, snapshots=(1, 2)):
    """Scores of one run: a list of one value a sample seed, the same at every snapshot."""
    rows = []
    for nimg in snapshots:
        for sample_seed, value in enumerate(values):
            rows.append(
                {"nimg": nimg, "sample_seed": sample_seed, "fd-lite0": value, "kid-lite0": value / 1000}
            )
    return CellScores(f"{variant}-{seed}", variant, seed, {"n_fake": 5000}, tuple(rows), 0.0, 0.0)


def make_cells(effects, noise=0.5):
    """All runs of the grid: an effect of the arm, of the seed, and of both."""
    rng = np.random.default_rng(3)
    by_seed = rng.normal(300, 5, 8)
    cells = []
    for cell in GRID.cells():
        value = by_seed[cell.seed] + effects.get(cell.variant, 0) + noise * rng.normal()
        cells.append(make_cell(cell.variant, cell.seed, value + rng.normal(0, 0.1, 4)))
    return cells


# Statistics


def test_differences_are_paired_by_seed():
    scores = {"a": {0: 5.0, 1: 7.0, 2: 1.0}, "b": {1: 6.0, 0: 3.0}}
    assert paired_differences(scores, "a", "b") == {0: 2.0, 1: 1.0}
    assert paired_differences(scores, "a", "c") == {}


def plain_bca(sample, draws):
    """Efron's interval of a mean from given resamples, by its definition."""
    mean = sample.mean()
    means = sample[draws].mean(1)
    bias = stats.norm.ppf((means < mean).mean())
    left_out = np.array([np.delete(sample, i).mean() for i in range(len(sample))])
    off = left_out.mean() - left_out
    acceleration = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    ends = []
    for z in stats.norm.ppf([0.025, 0.975]):
        level = stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        ends.append(np.quantile(means, level))
    return ends


def test_the_bca_interval_is_the_plain_definitions():
    sample = np.random.default_rng(0).exponential(size=8)
    draws = np.random.default_rng(1).integers(8, size=(40_000, 8))
    low, high = plain_bca(sample, draws)
    found = bca_interval(sample.tolist())
    assert found == pytest.approx((low, high), abs=0.05 * (high - low))
    assert found == bca_interval(sample.tolist())  # the same every time
    skewed = high - sample.mean() > 1.1 * (sample.mean() - low)
    assert skewed and found[1] - sample.mean() > 1.1 * (sample.mean() - found[0])


def test_the_bca_interval_of_too_few_or_equal_values():
    assert all(map(math.isnan, bca_interval([1.0, 2.0])))
    assert bca_interval([2.0] * 5) == (2.0, 2.0)


@pytest.mark.parametrize(("pairs", "least"), [(5, 0.0625), (6, 0.03125), (8, 0.0078125)])
def test_the_least_p_of_a_sign_flip_test(pairs, least):
    assert sign_flip_p(np.arange(1, pairs + 1)) == least == sign_flip_p(-np.arange(1.0, pairs + 1))


def test_the_sign_flip_test_is_scipys_and_the_plain_definition():
    sample = np.random.default_rng(5).normal(0.5, 1, 7)
    flipped = [abs(np.dot(signs, sample)) for signs in itertools.product((-1, 1), repeat=7)]
    plain = np.mean([value >= abs(sample.sum()) - 1e-12 for value in flipped])
    scipys = stats.permutation_test(
        (sample,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert sign_flip_p(sample) == pytest.approx(plain) == pytest.approx(scipys.pvalue)
    assert sign_flip_p([1.0, -1.0]) == 1.0
    assert "0 pairs" in refusal(sign_flip_p, []) and "21 pairs" in refusal(sign_flip_p, [1.0] * 21)


def test_holm_by_a_known_example():
    # Holm's procedure on .01, .04, .03, .005: 4·.005, 3·.01, 2·.03, then never less.
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(found) == ["a", "b", "c", "d"]
    assert list(found.values()) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_power_of_known_designs_and_by_simulation():
    assert paired_power(0.5, 34) == pytest.approx(0.8078, abs=2e-3)  # Cohen's table; G*Power
    assert paired_power(0, 8) == pytest.approx(0.05, abs=1e-3)
    draws = np.random.default_rng(0).normal(1.1, 1, (20_000, 8))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert paired_power(1.1, 8) == pytest.approx(found.mean(), abs=0.01)


def test_the_detectable_difference_has_a_power_of_80_percent():
    assert detectable_difference(3.0, 8) == pytest.approx(3.0 * 1.155, rel=0.02)
    assert paired_power(detectable_difference(1.0, 6), 6) == pytest.approx(0.8, abs=1e-3)
    assert detectable_difference(3.0, 5) == math.inf


def test_spread_finds_what_was_put_in():
    rng = np.random.default_rng(0)
    cells = []
    for variant, level in (("na", 300), ("full", 100)):
        for seed in range(400):
            values = level + rng.normal(0, 6) + rng.normal(0, 2, 4)
            cells.append(make_cell(variant, seed, values))
    spread = measure_spread(cells, "fd-lite0")
    assert spread.retraining == pytest.approx(6, rel=0.1)  # not what the arms differ by, nor resampling's
    assert spread.resampling == pytest.approx(2, rel=0.1)
    assert spread.ratio == spread.retraining / spread.resampling
    assert spread.snapshots == pytest.approx(0) and spread.relative == pytest.approx(6 / 200, rel=0.1)


def test_spread_of_too_few_runs_is_unknown():
    assert measure_spread([], "fd-lite0") is None
    assert measure_spread([make_cell("na", 0, [1.0, 2.0])], "fd-lite0") is None
    assert measure_spread([make_cell("na", seed, [1.0]) for seed in range(3)], "fd-lite0") is None


def test_a_runs_score_is_the_mean_over_snapshots_and_sample_seeds():
    cell = replace(
        make_cell("na", 0, [1.0]),
        scores=tuple({"nimg": n, "sample_seed": s, "fd-lite0": 10 * n + s} for n in (1, 2) for s in (0, 1)),
    )
    assert cell.mean("fd-lite0") == 15.5
    assert cell.by_sample_seed("fd-lite0") == [15, 16] and cell.by_snapshot("fd-lite0") == [10.5, 20.5]


def test_the_analysis_of_a_grid():
    analysis = analyze_scores(GRID, make_cells({"hydra-2": -10, "hydra-4": -2}))
    assert analysis.is_complete and analysis.primary.p == 0.0078125 == analysis.primary.adjusted
    assert analysis.primary.mean == pytest.approx(-10, abs=1)
    assert analysis.primary.low < analysis.primary.mean < analysis.primary.high < 0
    assert [found.contrast for found in analysis.secondary] == list(GRID.secondary)
    assert [found.contrast for found in analysis.exploratory] == [*GRID.exploratory, GRID.primary]
    assert analysis.exploratory[-1].metric == "kid-lite0"
    family = {str(i): each.p for i, each in enumerate(analysis.secondary)}
    assert [each.adjusted for each in analysis.secondary] == list(holm(family).values())
    assert [len(each.differences) for each in analysis.secondary] == [8] * 3
    assert [len(each.differences) for each in analysis.exploratory] == [6] * 4 + [8]
    assert all(each.adjusted == each.p for each in analysis.exploratory)


# The verdict


def text_of(effects, **options):
    return verdict(analyze_scores(GRID, make_cells(effects, **options)))


def test_nothing_recorded_and_half_recorded():
    assert verdict(analyze_scores(GRID, [])) == "No run of avatars-32 is recorded yet: nothing is known."
    text = verdict(analyze_scores(GRID, make_cells({"hydra-2": -50})[:15]))
    assert text.startswith("15 of 64 runs of avatars-32 are recorded.") and "decides nothing" in text
    assert "better" not in text


def test_a_family_is_judged_when_all_its_runs_are_recorded():
    cells = make_cells({"hydra-2": -50})
    primary = verdict(analyze_scores(GRID, cells[:16]))
    assert "16 of 64 runs" in primary and "hydra-2 scores better than na" in primary
    assert "na − swin" not in primary and "hydra-2 − dilated" not in primary
    almost = [cell for cell in cells[:40] if (cell.variant, cell.seed) != ("hydra-4", 7)]
    assert "na − swin" not in verdict(analyze_scores(GRID, almost))
    tested = verdict(analyze_scores(GRID, cells[:40]))
    assert "na − swin" in tested and "hydra-4 − hydra-2" in tested
    assert "hydra-2 − dilated" not in tested
    assert "Exploratory, hydra-2 − dilated" in verdict(analyze_scores(GRID, cells))


def test_the_papers_sign_is_found():
    text = text_of({"hydra-2": -10})
    assert text.startswith("Primary contrast, hydra-2 − na, FD-lite0@128 −")
    assert (
        "p = 0.0078, 8 pairs): hydra-2 scores better than na. That is the paper's sign (2.24 against 2.74)."
        in text
    )


def test_the_opposite_sign_is_found():
    text = text_of({"hydra-2": 10})
    assert "hydra-2 scores worse than na. The paper's sign is the opposite (2.24 against 2.74)" in text


def test_no_difference_is_shown():
    text = text_of({}, noise=5.0)
    assert "): no difference is shown. The design finds " in text
    assert "no evidence for or against the paper's sign" in text and "scores better" not in text


def test_too_few_pairs_to_show_anything():
    few = replace(GRID, seeds=4, tested_seeds=4)
    cells = [cell for cell in make_cells({"hydra-2": -10}) if cell.seed < 4]
    text = verdict(analyze_scores(few, cells))
    assert "With 4 pairs no difference could have been: the exact p is at least 0.12." in text


def test_secondary_contrasts_after_holm():
    text = text_of({"hydra-2": -10})
    assert "na − swin, FD-lite0@128 " in text and "not shown (the paper: 2.74 against 2.81)." in text
    assert "could have been shown" not in text
    text = text_of({"hydra-4": 10, "full": -10})
    assert (
        "0.023 after Holm, 8 pairs): hydra-4 is worse. That is the paper's sign (2.55 against 2.24)." in text
    )
    few = replace(GRID, seeds=6, tested_seeds=6)
    cells = [cell for cell in make_cells({"hydra-4": 10}) if cell.seed < 6]
    text = verdict(analyze_scores(few, cells))  # 3 · 2/64 = 0.094
    assert "No secondary contrast could have been shown, whatever its size: with 3 of them" in text
    assert "at most 6 pairs Holm's first p is 0.094 or more." in text


def test_exploratory_contrasts_are_read_by_their_intervals():
    text = text_of({"full": -10})
    assert "Exploratory, hydra-2 − full, FD-lite0@128 +" in text
    assert "6 pairs): hydra-2 scored worse." in text and "6 pairs): the interval holds 0." in text


def test_the_spread_and_the_limits_are_stated():
    text = text_of({"hydra-2": -10})
    assert "Retraining moves a score by a standard deviation of" in text
    assert text.endswith("this tests the sign of its mechanism on avatars at 32 pixels, not its FID.")


def test_numbers():
    assert number(-0.012346) == "−0.01235" and number(12345.6, signed=True) == "+12,350"
    assert number(math.nan) == "–" and number(math.inf) == "∞" and number(3.0) == "3"
