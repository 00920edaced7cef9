"""A public human study of FFHQ-256: whose images people take for real, StyleNAT's or another model's.

Stein et al. 2023: each person judged 100 real and 100 generated images of one model, and nobody saw two
models. A person's error rate is the share judged wrongly; 0.5 means that real and generated look alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from stylenat.errors import UserError
from stylenat.evaluation.intervals import welch_error
from stylenat.paths import find_path
from stylenat.reporting import markdown
from stylenat.reporting.paper import PublishedNumbers

OURS = "StyleNAT"
BASELINES = ("StyleGAN-XL", "StyleSwin")  # of the abstracts; HiT was not in the study
LEVEL = 0.95
RESAMPLES = 9999
MODELS = {  # names in the study's own file
    "stylenat": OURS,
    "insgen": "InsGen",
    "stylegan2-ada": "StyleGAN2-ADA",
    "ldm": "LDM",
    "styleswin": "StyleSwin",
    "unleashing": "Unleashing Transformers",
    "stylegan-xl": "StyleGAN-XL",
    "projected-gan": "Projected GAN",
    "efficient-vdvae": "Efficient-VDVAE",
}
METHOD = (
    "Error rate: share of 100 real and 100 generated images that a person judged wrongly, mean over people ± "
    "standard error; 0.5 would mean that they look alike. Differences: Welch's 95 % interval and p. HiT was "
    "not shown. Published data of Stein et al. 2023 (layer6ai-labs/dgm-eval), not collected by this project."
)
Rates = np.ndarray  # (people,) error rates


@dataclass(frozen=True)
class Group:
    """The people who saw one model.

    Attributes:
        model: whose images they saw.
        people: how many they are.
        mean: of their error rates.
        error: the mean's standard error.
    """

    model: str
    people: int
    mean: float
    error: float


@dataclass(frozen=True)
class Difference:
    """StyleNAT's mean error rate minus another model's.

    Attributes:
        model: the other one.
        value: the difference.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        p: two-sided, of no difference.
    """

    model: str
    value: float
    low: float
    high: float
    p: float


def published_groups(numbers: PublishedNumbers) -> list[Group]:
    """The study's groups as paper.csv has them, the highest error rate first.

    Raises:
        UserError: a model's people, StyleNAT or every other model are missing.
    """
    groups = []
    for key, rate in numbers.items():
        if key.quantity == "study_error_rate":
            people = numbers[key._replace(quantity="study_people")].value
            groups.append(Group(key.system, int(people), float(rate.value), float(rate.uncertainty or "nan")))
    return _sorted_groups(groups)


def _sorted_groups(groups: Sequence[Group]) -> list[Group]:
    models = {group.model for group in groups}
    if OURS not in models or len(models) == 1:
        missing = OURS if OURS not in models else "another model"
        raise UserError(f"the study has no people who saw {missing}: there is nothing to compare")
    return sorted(groups, key=lambda group: -group.mean)


def differences(groups: Sequence[Group]) -> list[Difference]:
    """StyleNAT minus each other model by Welch's test, from means and standard errors alone (Welch 1947)."""
    ours = next(group for group in groups if group.model == OURS)
    return [_welch(ours, group) for group in groups if group.model != OURS]


def _welch(ours: Group, theirs: Group) -> Difference:
    value = ours.mean - theirs.mean
    error, freedom = welch_error(ours.error, ours.people, theirs.error, theirs.people)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(value) / error, freedom))
    return Difference(theirs.model, value, value - reach, value + reach, p)


# From the people's own answers


def read_answers(path: Path | str) -> dict[str, Rates]:
    """Error rates `(people,)` by model from the study's own file, `ffhq256.csv` of layer6ai-labs/dgm-eval.

    Args:
        path: a CSV with columns `id`, `model` and `err_rt` at least, one row a person.

    Raises:
        UserError: no such table, a missing column, a rate that is none, a person who is there twice, or a
            model that fewer than two people saw; names it.
    """
    try:
        table = pd.read_csv(find_path(path), dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no table of answers ({error}): give the study's ffhq256.csv") from None
    missing = [name for name in ("id", "model", "err_rt") if name not in table.columns]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}: give the study's ffhq256.csv")
    twice = table["id"][table["id"].duplicated()]
    if len(twice):
        raise UserError(f"{path} has {twice.iloc[0]!r} twice: each person saw one model, keep one row")
    rates = pd.to_numeric(table["err_rt"], errors="coerce")
    wrong = table[~rates.between(0, 1)]
    if len(wrong):
        first = wrong.iloc[0]
        raise UserError(f"{path}: err_rt of {first['id']!r} is {first['err_rt']!r}, expected 0 to 1")
    answers = {}
    for name, own in rates.groupby(table["model"], sort=False):
        if len(own) < 2:
            raise UserError(f"{path}: {len(own)} person saw {name!r}, two are needed: remove the row")
        answers[MODELS.get(name, name)] = own.to_numpy()
    return answers


def groups_of(answers: Mapping[str, Rates]) -> list[Group]:
    """The groups of a study's answers, the highest error rate first.

    Raises:
        UserError: nobody saw StyleNAT, or nobody another model.
    """
    groups = []
    for model, rates in answers.items():
        error = float(rates.std(ddof=1)) / len(rates) ** 0.5
        groups.append(Group(model, len(rates), float(rates.mean()), error))
    return _sorted_groups(groups)


def resampled_differences(answers: Mapping[str, Rates], seed: int = 0) -> list[Difference]:
    """StyleNAT minus each other model from the people's answers, without a distribution assumed.

    Intervals are of the bootstrap over people (percentiles), p of the permutation test of the difference of
    means, each of 9,999 draws.

    Args:
        answers: as of `read_answers`.
        seed: of the draws.

    Raises:
        UserError: nobody saw StyleNAT, or nobody another model.
    """
    found = []
    for group in groups_of(answers):
        if group.model != OURS:
            pair = (answers[OURS], answers[group.model])
            interval = stats.bootstrap(
                pair, _mean_difference, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile",
                rng=np.random.default_rng(seed),
            ).confidence_interval  # fmt: skip
            test = stats.permutation_test(
                pair, _mean_difference, n_resamples=RESAMPLES, rng=np.random.default_rng(seed)
            )
            value = float(_mean_difference(*pair))
            found.append(
                Difference(group.model, value, float(interval.low), float(interval.high), float(test.pvalue))
            )
    return found


def _mean_difference(ours: Rates, theirs: Rates, axis: int = -1) -> Rates:
    return np.mean(ours, axis=axis) - np.mean(theirs, axis=axis)


def compare_with_published(groups: Sequence[Group], numbers: PublishedNumbers) -> str:
    """Whether people, means and standard errors of a file are those of paper.csv, as a sentence."""
    expected = {group.model: group for group in published_groups(numbers)}
    others = [group.model for group in groups if not _same(group, expected.get(group.model))]
    others += sorted(expected.keys() - {group.model for group in groups})
    if not others:
        return (
            f"People, means and standard errors of all {len(groups)} models are those of results/paper.csv."
        )
    return f"Not as in results/paper.csv: {_listed(others)}."


def _same(group: Group, other: Group | None) -> bool:
    if other is None or group.people != other.people:
        return False
    return max(abs(group.mean - other.mean), abs(group.error - other.error)) < 6e-5  # four printed digits


# In words


def study_table(groups: Sequence[Group], found: Sequence[Difference]) -> str:
    """Error rates and differences in Markdown, the highest error rate first."""
    by_model = {difference.model: difference for difference in found}
    rows = []
    for group in groups:
        cells = [group.model, group.people, f"{group.mean:.3f} ± {group.error:.3f}"]
        difference = by_model.get(group.model)
        if difference:
            interval = f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
            cells += [interval.replace("-", "−"), f"{difference.p:.2g}"]
        else:
            cells += ["–", "–"]
        rows.append(cells)
    return markdown.table(["model", "people", "error rate", f"{OURS} minus it [95 %]", "p"], rows) + "\n"


def conclusion(found: Sequence[Difference]) -> str:
    """What follows from the intervals, in plain words.

    Args:
        found: StyleNAT minus each other model.
    """
    sentences = [_sentence_on_baselines(found)]
    sides: tuple[tuple[str, Callable[[Difference], bool]], ...] = (
        (f"{OURS} is ahead of {{}}: these intervals lie above 0", lambda one: one.low > 0),
        ("against {} the interval holds 0, so the study does not tell them apart", _holds_zero),
        (f"{OURS} is behind {{}}: these intervals lie below 0", lambda one: one.high < 0),
    )
    parts = []
    for text, belongs in sides:
        models = [one.model for one in found if belongs(one)]
        if models:
            parts.append(text.format(_listed(models)))
    sentences.append("; ".join(parts) + ".")
    sentences.append(_sentence_on_many(found))
    return " ".join(sentences)


def _sentence_on_many(found: Sequence[Difference]) -> str:
    """What remains where all comparisons count as one question (Bonferroni)."""
    ends = [one.model for one in found if not _holds_zero(one)]
    strict = [one.model for one in found if one.p < (1 - LEVEL) / len(found)]
    if strict == ends:
        return f"This stays so where the {len(found)} comparisons are counted as one question (Bonferroni)."
    left = _listed(strict) if strict else "none"
    return f"Counted as one question (Bonferroni), the {len(found)} comparisons leave a difference to {left}."


def _holds_zero(one: Difference) -> bool:
    return one.low <= 0 <= one.high


def _sentence_on_baselines(found: Sequence[Difference]) -> str:
    shown = [one for one in found if one.model in BASELINES]
    if not shown:
        return f"People did not see the paper's baselines, {_listed(BASELINES)}."
    names = _listed([one.model for one in shown])
    if all(one.low > 0 for one in shown):
        return f"To people {OURS}'s images look more real than those of the paper's baselines {names}."
    return f"That {OURS}'s images look more real than those of {names} does not follow from this study."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
