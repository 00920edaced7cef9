"""Runs of a grid scored, recorded and resumed; what heads did; pages and figures of what is recorded."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ROOT, Plain, empty_blocks, needs_wheels, refusal
from PIL import Image

from stylenat.attention.partitions import parse_levels
from stylenat.cli import main
from stylenat.evaluation.distances import frechet_distance
from stylenat.experiments import pages, report, runs, scoring
from stylenat.experiments.grid import Scoring, load_grid
from stylenat.experiments.runs import run_cell, run_grid
from stylenat.experiments.scoring import (
    compact,
    components_distance,
    principal_components,
    read_moments,
    read_scores,
    scores_path,
)
from stylenat.experiments.verdict import number
from stylenat.experiments.views import (
    attention_statistics,
    effective_receptive_field,
    generator_views,
    read_views,
)
from stylenat.figures.style import save_all
from stylenat.models.stylenat import StyleNAT
from stylenat.paths import workspace

TINY = {"widths": (8, 8, 8, 8), "discriminator_widths": (8, 8, 8), "latent_dim": 8, "mapping_depth": 1}
TINY |= {"batch_size": 4, "nimg": 8, "snapshot": 4, "min_heads": 4}
SCORING = Scoring(images=20, sample_seeds=2, snapshots=2)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """A workspace with 100 flat images, and README with its markers."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "drawn").mkdir()
    rng = np.random.default_rng(0)
    for i in range(100):
        flat = np.full((32, 32, 3), rng.integers(256, size=3), np.uint8)
        Image.fromarray(flat).save(folder / "drawn" / f"{i:03}.png")
    (folder / "README.md").write_text(f"a\n{empty_blocks()}z\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLENAT_WORKSPACE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def grid(space):
    """The smoke test's grid with tiny networks, under another grid's name so that its results are shown."""
    settings = TINY | {"data": str(space / "drawn")}
    return replace(load_grid("smoke"), name="avatars-64", settings=settings, scoring=SCORING)


@pytest.fixture(scope="module")
def cells(grid):
    found = grid.cells()
    for cell in found:
        run_cell(cell)
    return found


# Scores


@needs_wheels
def test_a_cell_is_scored_by_snapshot_and_sample_seed(cells):
    scores = read_scores(cells[0])
    places = [(row["nimg"], row["sample_seed"]) for row in scores.scores]
    assert places == [(4, 2), (8, 0), (8, 1)]
    assert len({row["fd-lite0"] for row in scores.scores}) == 3
    assert (scores.variant, scores.seed, scores.run_id) == ("na", 0, cells[0].run_id)
    assert scores.protocol["n_real"] == scores.protocol["n_fake"] == 20
    assert scores.protocol == read_scores(cells[1]).protocol


@needs_wheels
def test_scores_are_of_the_same_latents_in_every_arm(cells, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "stylenat.experiments.scoring.as_samples", lambda generator, seed: seen.append(seed) or 1 / 0
    )
    path = workspace("runs", cells[0].run_id, scoring.SCORES)
    text = path.read_text()
    path.unlink()
    for cell in cells:
        workspace("runs", cell.run_id, scoring.SCORES).unlink(missing_ok=True)
        with pytest.raises(ZeroDivisionError):
            scoring.score_cell(cell, runs.train(cell.config))
    assert seen == [0, 0]
    path.write_text(text)


@needs_wheels
def test_a_finished_cell_is_not_run_again_and_scoring_goes_on(cells, monkeypatch):
    cell = cells[0]
    before = scores_path(cell).read_text()
    monkeypatch.setattr(runs, "train", None)  # a call would raise
    run_cell(cell)
    monkeypatch.undo()
    path = workspace("runs", cell.run_id, scoring.SCORES)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:2]) + "\n")  # interrupted before the last score
    scores_path(cell).unlink()
    scored = []
    original = scoring.as_samples
    monkeypatch.setattr(scoring, "as_samples", lambda *a: scored.append(a[1]) or original(*a))
    run_cell(cell)
    assert scored == [2]
    again = json.loads(scores_path(cell).read_text())
    assert again | {"seconds": 0} == json.loads(before) | {"seconds": 0}


@needs_wheels
def test_cells_of_other_protocols_share_no_analysis(grid, cells):
    path = scores_path(cells[1])
    text = path.read_text()
    path.write_text(text.replace('"n_fake": 20', '"n_fake": 19'))
    assert "were scored by different protocols" in refusal(scoring.recorded_scores, grid)
    path.write_text("{")
    assert refusal(scoring.recorded_scores, grid).startswith(
        f"results/ablation/{grid.name}/{cells[1].run_id}.json"
    )
    path.write_text(text)


def test_too_few_held_out_images_are_refused_before_training(grid, space, monkeypatch):
    (space / "few").mkdir(exist_ok=True)
    for i in range(50):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(space / "few" / f"{i}.png")
    cell = grid.cell("na", overrides={"data": str(space / "few")})
    monkeypatch.setattr(runs, "train", None)
    assert "10 of them held out; a score needs at least 20 on each side" in refusal(run_cell, cell)


# Moments


def test_moments_give_the_distance_within_the_components():
    torch.manual_seed(0)
    real = torch.randn(300, 12) * torch.linspace(3, 0.1, 12)
    fake = torch.randn(200, 12) * torch.linspace(2, 0.3, 12) + 0.5
    components = principal_components(real, 5)
    torch.testing.assert_close(components @ components.T, torch.eye(5), atol=1e-6, rtol=0)
    expected = frechet_distance(real @ components.T, fake @ components.T)
    found = components_distance(compact(real, components), compact(fake, components))
    assert found == pytest.approx(expected, rel=1e-5)
    every = principal_components(real, 12)
    whole = components_distance(compact(real, every), compact(fake, every))
    assert whole == pytest.approx(frechet_distance(real, fake), rel=1e-5) and found < whole


@needs_wheels
def test_the_recorded_moments_give_the_recorded_distance(grid, cells):
    for cell in cells:
        found = components_distance(read_moments(grid.name), read_moments(cell))
        assert found == pytest.approx(read_scores(cell).fd_components, rel=1e-6)
    assert scores_path(cells[0]).with_suffix(".npz").stat().st_size < 50_000
    assert "is missing: restore it" in refusal(read_moments, grid.cell("full"))


# Views


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    levels = parse_levels("2x3@1,2x3@2/2x3@1,2x3@4", (4, 4, 4))
    return StyleNAT((16, 16, 16), levels, 8, 1).eval().requires_grad_(False)


def test_the_receptive_field_is_a_plain_gradient(generator):
    w = generator.mapping(torch.randn(3, 8))
    field = effective_receptive_field(generator, w, 16)
    layer = generator.layers[2]
    features = []
    hook = layer.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    generator.synthesis(w)
    hook.remove()
    x = features[0].clone().requires_grad_()
    out = generator.to_rgbs[2].conv(layer(x, [w, w]).permute(0, 3, 1, 2))
    out[:, :, 7:9, 7:9].sum().backward()
    plain = x.grad.abs().sum(3).mean(0)
    torch.testing.assert_close(field, plain / plain.sum())


def test_attention_statistics_of_heads_that_attend_evenly(generator):
    w = generator.mapping(torch.randn(2, 8))
    attention = generator.attention(16, 0)
    for parameter in (attention.qkv.weight, *attention.rpb):
        parameter.zero_()
    entropy, distance, far = attention_statistics(generator, w, 16, 0)
    torch.testing.assert_close(entropy, torch.full((4,), np.log(9), dtype=torch.float64))
    # Queries 2, 6, 10 and 14 of an axis: no local neighborhood meets a border, (4 + 4√2) / 9 tokens away.
    torch.testing.assert_close(distance[:2], torch.full((2,), (4 + 4 * 2**0.5) / 9, dtype=torch.float64))
    assert (distance[2:] > 3).all() and far[:2].tolist() == [0, 0] and (far[2:] > 0.3).all()


def test_views_need_attention_and_cover_every_level(generator):
    views = generator_views(generator, range(2))
    assert {level: own.field.shape for level, own in views.items()} == {4: (4, 4), 8: (8, 8), 16: (16, 16)}
    assert all(own.entropy.shape == (2, 4) for own in views.values())
    assert "has no attention to show" in refusal(generator_views, Plain(), range(1))


@needs_wheels
def test_views_are_recorded(cells):
    views = read_views(cells[1])
    assert list(views) == [4, 8, 16, 32] and views[32].field.sum() == pytest.approx(1, rel=1e-4)
    assert views[32].distance[:, 2:].mean() > 4 * views[32].distance[:, :2].mean()


# Pages and figures


@needs_wheels
def test_pages_and_figures_of_what_is_recorded(grid, cells, space, monkeypatch):
    monkeypatch.setattr(report, "load_grid", lambda name: grid if name == grid.name else load_grid(name))
    (space / "docs").mkdir(exist_ok=True)
    page = space / "docs" / "ablation.md"
    blocks = ("arms", "pilot", "results")
    page.write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in blocks))
    pages.update_pages()
    once = (space / "README.md").read_text(), page.read_text()
    pages.update_pages()
    assert once == ((space / "README.md").read_text(), page.read_text())
    assert "![Scores and paired differences of avatars-64](figures/ablation-avatars-64-ladder.png)" in once[0]
    assert "With 1 pair no difference could have been" in once[0]
    assert "| hydra-2 − na | FD-lite0@128 | 1 |" in once[1] and "| na | 1 |" in once[1]
    paths = save_all(report.draw_ablation_figures())
    kinds = ["ladder", "views", "samples"]
    assert [path.name for path in paths] == [f"ablation-avatars-64-{kind}.png" for kind in kinds]
    assert report.cell_table(cells)["arm"].tolist() == ["na", "hydra-2"]
    assert "\nNot recorded.\n" in once[1]


@needs_wheels
def test_the_pilot_is_shown_by_snapshot(grid, cells):
    table = report.pilot_table(grid)
    assert table["images shown"].tolist() == ["4", "8"]
    scores = read_scores(cells[0])
    earlier, last = table["na, FD-lite0@128"]
    assert earlier == number(scores.by_snapshot("fd-lite0")[0]) and " ± " not in earlier
    assert last.startswith(f"{number(scores.by_snapshot('fd-lite0')[1])} ± ")
    assert report.pilot_table(replace(grid, name="ffhq-256", first_seed=5)) is None


def test_without_results_the_pages_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    (tmp_path / "README.md").write_text(empty_blocks())
    pages.update_pages()
    assert "No grid is recorded yet." in (tmp_path / "README.md").read_text()
    assert report.page_block([]) == "No run of a grid is recorded yet." and not report.draw_ablation_figures()


def test_the_committed_pages_equal_a_rebuild(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    shutil.copytree(ROOT / "results", tmp_path / "results")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    pages.update_pages()
    for name in ("README.md", "docs/ablation.md"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), (
            f"run `make results`: {name} is old"
        )


def test_windows_seen_from_the_middle():
    plain, shifted = report.seen_keys(parse_levels("4xswin4", (4, 4))[1], 8)
    assert np.argwhere(plain).min(0).tolist() == [4, 4] and np.argwhere(plain).max(0).tolist() == [7, 7]
    assert np.argwhere(shifted).min(0).tolist() == [2, 2] and np.argwhere(shifted).max(0).tolist() == [5, 5]


# The grid's runs


def test_a_grid_runs_what_is_missing_and_goes_on_after_a_failure(grid, monkeypatch, capsys):
    class Now:
        """An executor that runs at once, in this process."""

        def __init__(self, *_, **__):
            pass

        def submit(self, call, *arguments):
            future = runs.Future()
            try:
                future.set_result(call(*arguments))
            except Exception as error:
                future.set_exception(error)
            return future

        def shutdown(self, **_):
            pass

    done = []

    def run(cell, device):
        done.append(cell.variant)
        if cell.variant == "na":
            raise runs.UserError("loss_d is nan")
        return f"{cell.variant}, seed 0: fine"

    monkeypatch.setattr(runs, "ProcessPoolExecutor", Now)
    monkeypatch.setattr(runs, "run_one", run)
    fresh = replace(grid, name="fresh")
    assert refusal(run_grid, fresh) == "1 of 2 cells failed; na, seed 0: loss_d is nan"
    assert sorted(done) == ["hydra-2", "na"] and "hydra-2, seed 0: fine" in capsys.readouterr().out
    assert refusal(run_grid, fresh, 0) == "jobs=0: give 1 or more cells at once"
    assert "nowhere" in refusal(run_grid, fresh, 1, "nowhere")


def test_a_single_run_of_a_grid_by_its_id(monkeypatch, capsys):
    monkeypatch.setattr(runs, "run_one", lambda cell, device: f"{cell.variant} on {device}")
    cell = load_grid("smoke").cells()[1]
    assert main(["ablation", "smoke", "--run", cell.run_id, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{cell.variant} on cpu\n"
    assert main(["ablation", "smoke", "--run", "smoke-d5eeff"]) == 2
    assert "unknown run of grid smoke 'smoke-d5eeff', did you mean" in capsys.readouterr().err
    assert main(["ablation", "smoke", "--run", cell.run_id, "--costs"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_workers_have_one_thread_and_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with runs._workers(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
    assert runs.os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in runs.os.environ
