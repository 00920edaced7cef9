"""The human study: Welch's interval from means, bootstrap and permutation from the people's answers."""

import csv

import numpy as np
import pytest
from helpers import refusal
from scipy import stats

from stylenat.reporting import study
from stylenat.reporting.paper import published_numbers
from stylenat.reporting.study import Difference, Group

COLUMNS = ("id", "model", "num_correct", "err_rt", "f_err_rt", "r_err_rt")


@pytest.fixture
def groups(empty_workspace):
    return study.published_groups(published_numbers())


def make_answers(means, people=25, seed=0):
    """Error rates in steps of 1/200 around a mean, by the study's own names."""
    rng = np.random.default_rng(seed)
    return {name: rng.binomial(200, mean, people) / 200 for name, mean in means.items()}


def write_answers(path, answers):
    rows = []
    for name, rates in answers.items():
        for rate in rates:
            rows.append([f"participant_{len(rows)}", name, 200 * (1 - rate), rate, rate, rate])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


def by_model(found):
    return {one.model: one for one in found}


def test_the_published_groups_are_the_studys(groups):
    assert [(group.model, group.people, group.mean, group.error) for group in groups] == [
        ("StyleNAT", 25, 0.2986, 0.0187),
        ("InsGen", 25, 0.2552, 0.0176),
        ("StyleGAN2-ADA", 25, 0.2154, 0.0166),
        ("LDM", 25, 0.1864, 0.0165),
        ("StyleSwin", 25, 0.1796, 0.0119),
        ("Unleashing Transformers", 27, 0.1726, 0.0146),
        ("StyleGAN-XL", 25, 0.1604, 0.0116),
        ("Projected GAN", 25, 0.1204, 0.0124),
        ("Efficient-VDVAE", 25, 0.0884, 0.0097),
    ]


@pytest.mark.parametrize(
    ("model", "low", "high"),
    [
        ("StyleGAN-XL", 0.096, 0.180),
        ("StyleSwin", 0.075, 0.160),
        ("LDM", 0.065, 0.160),
        ("StyleGAN2-ADA", 0.034, 0.130),
        ("InsGen", -0.005, 0.093),
    ],
)
def test_welch_is_near_the_bootstrap_of_the_answers(groups, model, low, high):
    """The bootstrap's intervals were computed from the study's file, which is not in the repository."""
    found = by_model(study.differences(groups))[model]
    assert found.low == pytest.approx(low, abs=0.006) and found.high == pytest.approx(high, abs=0.006)


def test_welch_is_scipys_of_the_same_answers():
    answers = {
        study.MODELS[name]: rates for name, rates in make_answers({"stylenat": 0.3, "ldm": 0.2}).items()
    }
    (found,) = study.differences(study.groups_of(answers))
    expected = stats.ttest_ind(answers["StyleNAT"], answers["LDM"], equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)


def test_what_follows_from_the_published_intervals(groups):
    text = study.conclusion(study.differences(groups))
    assert text.startswith("To people StyleNAT's images look more real than those of the paper's baselines")
    assert "against InsGen the interval holds 0, so the study does not tell them apart" in text
    assert "is behind" not in text and "8 comparisons" in text


def make_difference(model, low, high, p=0.001):
    return Difference(model, (low + high) / 2, low, high, p)


def test_the_sentence_turns_with_the_intervals():
    ahead = make_difference("StyleSwin", 0.1, 0.2)
    open_ = make_difference("StyleGAN-XL", -0.1, 0.2, p=0.4)
    behind = make_difference("LDM", -0.2, -0.1, p=0.04)
    text = study.conclusion([ahead, open_, behind])
    assert "look more real than those of StyleSwin and StyleGAN-XL does not follow" in text
    assert "StyleNAT is ahead of StyleSwin: these intervals lie above 0" in text
    assert "against StyleGAN-XL the interval holds 0" in text
    assert "StyleNAT is behind LDM: these intervals lie below 0" in text
    assert "the 3 comparisons leave a difference to StyleSwin." in text
    assert "stays so" in study.conclusion([ahead])
    assert "People did not see the paper's baselines" in study.conclusion([behind])
    assert "leave a difference to none" in study.conclusion([make_difference("StyleSwin", 0.1, 0.2, p=0.06)])


def test_answers_of_a_file_by_bootstrap_and_permutation(tmp_path, monkeypatch):
    made = make_answers({"stylenat": 0.3, "stylegan-xl": 0.16, "styleswin": 0.3, "someone's": 0.4})
    write_answers(tmp_path / "answers.csv", made)
    monkeypatch.chdir(tmp_path)
    answers = study.read_answers("answers.csv")
    assert list(answers) == ["StyleNAT", "StyleGAN-XL", "StyleSwin", "someone's"]
    assert np.array_equal(answers["StyleGAN-XL"], made["stylegan-xl"])
    found = study.resampled_differences(answers)
    assert found == study.resampled_differences(answers), "the same seed, the same draws"
    assert found != study.resampled_differences(answers, seed=1)
    welch = by_model(study.differences(study.groups_of(answers)))
    for one in found:
        other = welch[one.model]
        assert one.value == pytest.approx(other.value)
        assert one.low == pytest.approx(other.low, abs=0.005)
        assert one.high == pytest.approx(other.high, abs=0.005)
    clear = by_model(found)
    assert clear["StyleGAN-XL"].low > 0 and clear["StyleGAN-XL"].p < 0.001
    assert clear["StyleSwin"].low < 0 < clear["StyleSwin"].high and clear["StyleSwin"].p > 0.05
    assert clear["someone's"].high < 0


def test_bootstrap_and_permutation_by_hand():
    """Both as plain loops over other draws."""
    rng = np.random.default_rng(7)
    ours = np.array([0.3, 0.25, 0.4, 0.2, 0.35, 0.3])
    theirs = np.array([0.2, 0.3, 0.1, 0.25, 0.15])
    (found,) = study.resampled_differences({"StyleNAT": ours, "LDM": theirs})
    drawn = []
    shuffled = []
    for _ in range(4000):
        drawn.append(rng.choice(ours, len(ours)).mean() - rng.choice(theirs, len(theirs)).mean())
        mixed = rng.permutation(np.concatenate([ours, theirs]))
        shuffled.append(mixed[: len(ours)].mean() - mixed[len(ours) :].mean())
    low, high = np.percentile(drawn, (2.5, 97.5))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)
    share = np.mean(np.abs(shuffled) >= found.value - 1e-12)
    assert found.p == pytest.approx(share, abs=0.02)


def test_a_file_is_compared_with_the_published_means(groups, empty_workspace):
    numbers = published_numbers()
    same = study.compare_with_published(groups, numbers)
    assert same == "People, means and standard errors of all 9 models are those of results/paper.csv."
    others = [Group(*vars(group).values()) for group in groups[:-1]]
    others[1] = Group("InsGen", 25, 0.2562, 0.0176)
    others[2] = Group("StyleGAN2-ADA", 24, 0.2154, 0.0166)
    text = study.compare_with_published([*others, Group("X", 3, 0.1, 0.1)], numbers)
    assert text == "Not as in results/paper.csv: InsGen, StyleGAN2-ADA, X and Efficient-VDVAE."


def test_the_table_shows_people_rates_and_differences(groups):
    text = study.study_table(groups, study.differences(groups))
    assert "| StyleNAT | 25 | 0.299 ± 0.019 | – | – |" in text
    assert "| InsGen | 25 | 0.255 ± 0.018 | +0.043 [−0.008, +0.095] | 0.098 |" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no table of answers"),
        ("", "no table of answers"),
        ("id,model\na,b\n", "has no column 'err_rt'"),
        ("id,model,err_rt\na,ldm,0.1\na,ldm,0.2\n", "has 'a' twice: each person saw one model"),
        ("id,model,err_rt\na,ldm,0.1\nb,ldm,1.2\n", "err_rt of 'b' is '1.2', expected 0 to 1"),
        ("id,model,err_rt\na,ldm,0.1\nb,ldm,\n", "err_rt of 'b' is '', expected 0 to 1"),
        ("id,model,err_rt\na,ldm,nan\nb,ldm,0\n", "err_rt of 'a' is 'nan', expected 0 to 1"),
        ("id,model,err_rt\na,ldm,0.1\n", "1 person saw 'ldm', two are needed"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, text, message):
    path = tmp_path / "answers.csv"
    if text is not None:
        path.write_text(text)
    assert message in refusal(study.read_answers, path) and "answers.csv" in refusal(study.read_answers, path)


def test_answers_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "answers.csv").write_bytes(b"\xff\xfe\x00id")
    assert "no table of answers" in refusal(study.read_answers, tmp_path / "answers.csv")
    assert "no table of answers" in refusal(study.read_answers, tmp_path)


@pytest.mark.parametrize(("shown", "missing"), [("ldm", "StyleNAT"), ("stylenat", "another model")])
def test_with_one_model_there_is_nothing_to_compare(tmp_path, shown, missing):
    path = write_answers(tmp_path / "answers.csv", make_answers({shown: 0.2}))
    assert f"no people who saw {missing}: " in refusal(study.groups_of, study.read_answers(path))
