"""The four generators trained alike: what they share, how they run, what is said of their scores."""

import dataclasses
import math

import numpy as np
import pytest
from helpers import empty_blocks, needs_wheels, refusal
from PIL import Image
from scipy import stats

from stylenat.evaluation.intervals import mean_interval, welch
from stylenat.experiments import generators, pages, runs
from stylenat.experiments.analysis import analyze_scores
from stylenat.experiments.grid import GENERATORS, Scoring, Variant, grid_names, load_grid
from stylenat.experiments.runs import run_cell
from stylenat.experiments.scoring import CellScores, read_scores
from stylenat.experiments.views import read_views
from stylenat.figures.style import save_all
from stylenat.models.base import count_parameters
from stylenat.models.build import build_discriminator, build_generator
from stylenat.presets import PRESETS
from stylenat.reporting.records import read_record, record_path

ARMS = ["stylenat", "styleswin", "hit", "stylegan-xl"]
OWN = {"preset", "generator", "widths", "stages", "partitions", "head_dim", "min_heads", "latent_dim"}
OWN |= {"style_dim", "mapping_depth", "variant", "cost"}
TINY = {
    "stylenat": {"widths": (8, 8, 8, 8), "latent_dim": 8, "mapping_depth": 1},
    "styleswin": {"widths": (8, 8, 8, 8), "latent_dim": 8, "mapping_depth": 1},
    "hit": {"widths": (8, 8, 8), "stages": ((1, 2, 4), (1, 2, 4), (1, 2, 0)), "latent_dim": 8},
    "stylegan-xl": {"widths": (8, 4), "latent_dim": 8, "style_dim": 8, "mapping_depth": 1},
}


@pytest.fixture(scope="module")
def grid():
    return load_grid("generators-32")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The same arms with networks of a few thousand parameters, on 100 flat images."""
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    (tmp_path / "drawn").mkdir()
    rng = np.random.default_rng(0)
    for i in range(100):
        flat = np.full((32, 32, 3), rng.integers(256, size=3), np.uint8)
        Image.fromarray(flat).save(tmp_path / "drawn" / f"{i:03}.png")
    settings = {"data": str(tmp_path / "drawn"), "nimg": 8, "snapshot": 8, "batch_size": 4}
    settings |= {"discriminator_widths": (8, 8, 8)}
    grid = load_grid("generators-smoke")
    arms = [dataclasses.replace(arm, settings=TINY[arm.name]) for arm in grid.variants]
    scoring = Scoring(images=20, sample_seeds=1, snapshots=1)
    return dataclasses.replace(grid, settings=settings, variants=tuple(arms), scoring=scoring)


def test_twelve_runs_of_four_presets(grid):
    assert [variant.name for variant in grid.variants] == ARMS
    cells = grid.cells()
    assert len(cells) == len({cell.run_id for cell in cells}) == 12
    assert [cell.variant for cell in cells] == 3 * ARMS and {cell.seed for cell in cells} == {0, 1, 2}
    presets = {cell.variant: cell.config.preset for cell in cells}
    assert list(presets.values()) == ["noto-32", "styleswin-32", "hit-32", "stylegan-xl-32"]
    assert set(presets.values()) <= set(PRESETS)


def test_all_but_the_generator_is_the_same(grid):
    cells = [grid.cell(name) for name in ARMS]
    plain = dataclasses.asdict(cells[0].config)
    for cell in cells[1:]:
        fields = dataclasses.asdict(cell.config)
        assert {name for name in fields if fields[name] != plain[name]} <= OWN
        assert cell.scoring == cells[0].scoring and not cell.config.paired
    assert len({count_parameters(build_discriminator(cell.config)) for cell in cells}) == 1
    counts = [count_parameters(build_generator(cell.config)) for cell in cells]
    assert all(250_000 < count < 500_000 for count in counts)


def test_plans_are_apart():
    assert "generators-32" in grid_names(GENERATORS) and "generators-32" not in grid_names()
    grid = load_grid("generators-32")
    assert refusal(grid.cell, dilation=2) == (
        "the arms of generators-32 are generators: give a variant, not dilation=2"
    )
    assert refusal(grid.cell, "hydra-2").startswith("unknown variant 'hydra-2'")
    assert refusal(load_grid("avatars-32").cell, "hit").startswith("unknown variant 'hit'")
    assert "did you mean 'generators-32'" in refusal(load_grid, "generators-23")


@needs_wheels
def test_an_arm_without_attention_is_run_and_recorded(tiny, monkeypatch):
    cell = tiny.cell("hit")
    record, scores = run_cell(cell)
    assert record.variant == "hit" and record.config["generator"] == "hit" and scores.protocol["n_fake"] == 20
    assert read_views(cell) is None
    monkeypatch.setattr(runs, "train", None)  # a call would raise
    assert run_cell(cell)[1] == scores


@needs_wheels
@pytest.mark.slow
def test_the_whole_grid_runs_and_shows(tiny, tmp_path, monkeypatch):
    for cell in tiny.cells():
        run_cell(cell)
    assert all(read_scores(cell) and read_record(record_path(cell.run_id)) for cell in tiny.cells())
    assert read_views(tiny.cell("styleswin")) and not read_views(tiny.cell("stylegan-xl"))
    monkeypatch.setattr(generators, "load_grid", lambda name: dataclasses.replace(tiny, name=name))
    monkeypatch.setattr(generators, "GRID", "generators-smoke")
    text = generators.readme_block("generators-smoke")
    assert "no difference is shown" in text and "(figures/generators-smoke-samples.png)" in text
    paths = save_all(generators.draw_figures("generators-smoke"))
    assert [path.name for path in paths] == ["generators-smoke-scores.png", "generators-smoke-samples.png"]


# What is said


def scored(grid, values):
    """The analysis of a grid whose runs have these scores, by arm."""
    cells = []
    for name, scores in values.items():
        for seed, score in enumerate(scores):
            cell = grid.cell(name, seed=seed)
            row = {"nimg": 1, "sample_seed": 0, "fd-lite0": score, "kid-lite0": score / 100}
            protocol = {"n_fake": 5000}
            cells.append(CellScores(cell.run_id, name, seed, protocol, (row,), score, 1.0))
    return analyze_scores(grid, cells)


SCORES = {
    "stylenat": (100, 110, 120),
    "styleswin": (105, 112, 125),
    "hit": (200, 205, 220),
    "stylegan-xl": (50, 51, 55),
}


def test_intervals_are_students_and_welchs():
    first, second = SCORES["stylenat"], SCORES["hit"]
    expected = stats.t.interval(0.95, 2, np.mean(first), stats.sem(first))
    assert mean_interval(first) == pytest.approx(expected)
    found = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert welch(first, second) == pytest.approx((110 - 625 / 3, found.low, found.high))
    assert all(map(math.isnan, mean_interval([1.0])))
    assert all(map(math.isnan, welch([1.0], second)[1:]))
    assert welch([1.0, 1.0], [3.0, 3.0]) == (-2, -2, -2)


def test_the_conclusion_goes_by_the_intervals(grid):
    said = generators.conclusion(scored(grid, SCORES))
    assert "After 24,000 images of avatars at 32 pixels a run: " in said
    assert "stylenat − hit: FD-lite0@128 −98.33 (−" in said and "), stylenat is better." in said
    assert "stylenat − stylegan-xl: FD-lite0@128 +58 (+" in said and "), stylegan-xl is better." in said
    assert said.count("no difference is shown") == 1 and "stylenat − styleswin: FD-lite0@128 −4 (−" in said
    close = SCORES | {"hit": (101, 111, 121)}
    assert generators.conclusion(scored(grid, close)).count("no difference is shown") == 2


def test_nothing_is_concluded_before_all_runs_are_there(grid):
    some = {**SCORES, "hit": (200, 205)}
    assert generators.conclusion(scored(grid, some)) == (
        "11 of 12 runs are recorded: a conclusion waits for all."
    )
    table = generators.arm_table(scored(grid, {"stylenat": (100,), "hit": (200, 210)}))
    assert table["FD-lite0@128 ↓"].tolist() == ["100 (– to –)", "–", "205 (141.5 to 268.5)", "–"]
    assert table["stylenat minus it"].tolist() == ["–", "–", "−105 (– to –)", "–"]


def test_without_results_it_says_what_makes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    (tmp_path / "README.md").write_text(empty_blocks())
    pages.update_pages()
    text = (tmp_path / "README.md").read_text()
    assert "None recorded yet: `python -m stylenat ablation generators-32 --jobs 2`" in text
    assert "What this can't tell" in text and not generators.draw_figures()


def test_the_figure_shows_every_run_and_interval(grid, monkeypatch):
    figure = generators.scores_figure(scored(grid, SCORES))
    axes = figure.axes[0]
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert [tuple(own) for own in dots] == list(SCORES.values())
    assert [label.get_text() for label in axes.get_yticklabels()] == ARMS


def test_an_arm_has_a_rule_or_a_preset():
    assert Variant("x", preset="hit-32").rule is None
    for name in grid_names(GENERATORS):
        assert all(arm.preset in PRESETS and arm.rule is None for arm in load_grid(name).variants)
