"""Figures show the numbers they were given, and come out the same to the byte."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_record, make_score
from matplotlib.colors import to_rgb
from PIL import Image

from stylenat.attention.partitions import parse_partitions
from stylenat.evaluation.metrics import ScoreKey, ScoreValue, keys_of
from stylenat.figures import build, results, style
from stylenat.figures.samples import sample_grid
from stylenat.figures.study import human_study
from stylenat.images import image_grid, save_png
from stylenat.models.stylenat import StyleNAT
from stylenat.reporting.records import HistoryEntry, write_record
from stylenat.reporting.study import Difference, Group

GROUPS = [Group("StyleNAT", 25, 0.3, 0.02), Group("A", 24, 0.2, 0.01), Group("B", 23, 0.29, 0.03)]
DIFFERENCES = [Difference("B", 0.01, -0.06, 0.08, 0.8), Difference("A", 0.1, 0.06, 0.14, 0.001)]
PARTITIONS = parse_partitions("3x3@1,2x5@2")


def make_samples(seed=0, count=6, side=8):
    return torch.randint(
        256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def make_curves():
    nimg = np.arange(100, 2001, 100)
    log = pd.DataFrame({"nimg": nimg, "seconds": nimg / 10, "loss_d": 1 + 1 / nimg, "loss_g": 2 - 1 / nimg})
    history = [HistoryEntry(n, n / 10, make_score(1e6 / n).values) for n in (1000, 2000)]
    return log, history


def make_ablation(empty_workspace):
    made = []
    for i, name in enumerate(("dense", "dilated", "dense-seed1")):
        variant = name.split("-")[0]
        record = make_record(f"ablation-{name}", 300 + 50 * i, config={"variant": variant})
        path = write_record(record)
        save_png(path.with_name("samples.png"), image_grid(make_samples(i), 3))
        made.append(record)
    return made


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(style.to_png(figure))).convert("RGB"))


def test_the_same_data_give_the_same_bytes(empty_workspace):
    records = make_ablation(empty_workspace)
    makers = [
        lambda: sample_grid(make_samples(), columns=3),
        lambda: results.training_curves(*make_curves()),
        results.bubble_chart,
        lambda: results.receptive_fields(PARTITIONS, 12, 12, {"middle": (6, 6)}),
        lambda: results.ablation_comparison(records),
        lambda: human_study(GROUPS, DIFFERENCES),
    ]
    for make in makers:
        first = style.to_png(make())
        assert first == style.to_png(make())
        assert b"Matplotlib" not in first
        width, _ = Image.open(io.BytesIO(first)).size
        assert 1200 <= width <= 1600


def test_a_sample_grid_shows_every_pixel_as_it_is():
    samples = make_samples(count=5)
    image = pixels(sample_grid(samples, columns=3))
    scale = 1600 // (3 * 8)
    for i, sample in enumerate(samples.permute(0, 2, 3, 1).numpy()):
        y, x = (i // 3) * (8 * scale + 8), (i % 3) * (8 * scale + 8)
        shown = image[y : y + 8 * scale, x : x + 8 * scale]
        assert np.array_equal(shown, sample.repeat(scale, 0).repeat(scale, 1))
    assert (image[8 * scale + 8 :, 2 * (8 * scale + 8) :] == 255).all()  # the empty sixth place


def test_training_curves_show_the_history_with_its_limits():
    log, history = make_curves()
    left, right = results.training_curves(log, history).axes
    raw = left.lines[0]
    assert np.array_equal(raw.get_ydata(), log["loss_g"]) and np.array_equal(raw.get_xdata(), log["nimg"])
    assert [line.get_label() for line in left.lines[1::2]] == ["generator", "discriminator"]
    train, real_vs_real, noise, held_out = (right.lines[i].get_ydata() for i in (0, 1, 2, 3))
    assert list(train) == [1000, 500] and np.allclose(held_out, [1100, 550])
    assert set(real_vs_real) == {74.13579} and set(noise) == {993.0}
    band = right.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band} >= {(1000, 985), (1000, 1015), (2000, 485), (2000, 515)}
    assert "not FID" in right.get_title(loc="left")


def test_the_bubble_chart_shows_the_published_numbers():
    axes = results.bubble_chart().axes[0]
    shown = [(*c.get_offsets()[0].tolist(), c.get_sizes()[0]) for c in axes.collections[:4]]
    expected = [(32.56, 2.046, 48.92), (30.20, 2.81, 48.9), (14.28, 2.19, 67.7), (20.68, 2.58, 97.6)]
    assert [point[:2] for point in shown] == [point[:2] for point in expected]
    per_million = [area / point[2] for (_, _, area), point in zip(shown, expected, strict=True)]
    assert np.allclose(per_million, per_million[0])
    keys = [c.get_sizes()[0] / per_million[0] for c in axes.collections[4:]]
    assert np.allclose(keys, [25, 50, 100])
    texts = " ".join(text.get_text() for text in axes.texts)
    assert all(name in texts for name in ("StyleNAT", "StyleSwin", "StyleGAN-XL", "HiT-L", "better", "100 M"))


def test_receptive_fields_color_each_partitions_keys():
    figure = results.receptive_fields(PARTITIONS, 12, 12, {"middle": (6, 6), "corner": (0, 0)})
    panels = [axes.collections[0].get_array().reshape(12, 12) for axes in figure.axes]
    assert len(panels) == 6  # two queries; two partitions and all heads
    for row in (panels[:3], panels[3:]):
        assert (row[0] == 1).sum() == 9 and (row[1] == 2).sum() == 25
        assert np.array_equal(row[2] > 0, (row[0] > 0) | (row[1] > 0))
    assert panels[0][5:8, 5:8].all() and panels[3][:3, :3].all() and panels[4][:10:2, :10:2].all()
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["heads 1–3: 3 × 3, dilation 1", "heads 4–5: 5 × 5, dilation 2", "all heads together"]


def test_the_ablation_shows_every_run_and_the_baseline(empty_workspace):
    figure = results.ablation_comparison(make_ablation(empty_workspace))
    grids, panels = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title() for axes in grids] == ["dense", "dilated"]
    assert all(len(axes.images) == 1 for axes in grids)
    assert len(panels) == 3  # the three scores of the records
    dense, dilated, baseline = (line.get_ydata() for line in panels[0].lines)
    assert (list(dense), list(dilated), set(baseline)) == ([300, 400], [350], {74.13579})


def test_the_human_study_shows_rates_and_differences_in_the_rows_of_their_models():
    left, right = human_study(GROUPS, DIFFERENCES).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["StyleNAT (25)", "A (24)", "B (23)"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in left.lines] == [
        (0.3, 0),
        (0.2, 1),
        (0.29, 2),
    ]
    points = [(line.get_xdata()[0], line.get_ydata()[0], line.get_color()) for line in right.lines[:2]]
    assert points == [(0.01, 2, style.GRAY), (0.1, 1, style.COLORS[0])]  # gray: the interval holds 0
    bars = [bar.get_segments()[0][:, 0].tolist() for bar in right.collections]
    assert bars == [[-0.06, 0.08], [0.06, 0.14]]


def test_an_ablation_run_may_have_more_scores_than_the_others(empty_workspace):
    """A FID, which has no baseline and only one of the runs: it gets a panel without a line."""
    records = make_ablation(empty_workspace)
    records[0].values[ScoreKey("fid", "fid", "all")] = ScoreValue(12.0, error=0.1, low=11.8, high=12.2)
    panel = results.ablation_comparison(records).axes[-1]
    assert panel.get_title(loc="left") == "FID ↓"
    assert [list(line.get_ydata()) for line in panel.lines] == [[12.0], []]


def test_an_ablation_of_many_scores_wraps_its_panels(empty_workspace):
    """All columns of precision and recall beside the distances: no panel may shrink to nothing."""
    records = make_ablation(empty_workspace)
    for key in keys_of(["pr-lite0", "pr"]):
        records[0].values[key] = ScoreValue(0.5, error=0.1, low=0.4, high=0.6)
    figure = results.ablation_comparison(records)
    figure.draw_without_rendering()
    panels = figure.axes[2:]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert len(panels) == 3 + 12 and "recall-lite0@128 ↑\nheld-out" in titles
    widths = [axes.get_window_extent().width / figure.bbox.width for axes in panels]
    assert min(widths) > 0.15


def test_the_bundled_model_adds_its_figures(empty_workspace, monkeypatch):
    model = empty_workspace / "results" / "runs" / "noto-32-long" / "model"
    monkeypatch.setattr(build, "load_generator", lambda path: {model: small_generator()}[path])
    assert "truncation.png" not in {path.name for path in build.build_figures()}
    model.mkdir(parents=True)
    assert {path.name for path in build.build_figures()} == {
        "avatars.png", "bubble_chart.png", "human_study.png", "receptive_fields.png", "neighbors.png",
        "truncation.png", "attention_maps.png",
    }  # fmt: skip


def small_generator():
    partitions = tuple(map(parse_partitions, ("2xfull", "1x3@1,1x3@2", "1x3@1,1x3@4", "1x3@1,1x3@8")))
    return StyleNAT((8, 8, 8, 8), partitions, latent_dim=8, mapping_depth=1).eval()


def test_all_figures_come_from_results_alone(empty_workspace):
    assert {path.name for path in build.build_figures()} == {
        "avatars.png", "bubble_chart.png", "human_study.png", "receptive_fields.png",
    }  # fmt: skip
    log, history = make_curves()
    path = write_record(make_record(history=tuple(history)))
    log.to_csv(path.with_name("log.csv"), index=False)
    save_png(path.with_name("samples.png"), image_grid(make_samples(), 3))
    sheet = np.asarray(Image.open(path.with_name("samples.png")))
    make_ablation(empty_workspace)
    first = {path.name: path.read_bytes() for path in build.build_figures()}
    assert sorted(first) == [
        "avatars.png",
        "bubble_chart.png",
        "curves-noto-32.png",
        "human_study.png",
        "receptive_fields.png",
        "samples-noto-32.png",
    ]
    assert {path.name: path.read_bytes() for path in build.build_figures()} == first
    assert {path.name for path in (empty_workspace / "figures").iterdir()} == set(first)
    scale = 1600 // sheet.shape[1]
    shown = np.asarray(Image.open(empty_workspace / "figures" / "samples-noto-32.png").convert("RGB"))
    assert np.array_equal(shown, sheet.repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize("sight", [(0.367, 0.861, -0.228, 0.280, 0.673, 0.047, -0.012, 0.043, 0.969)])
def test_colors_stay_apart_for_a_deuteranope(sight):
    """Machado et al. 2009, deuteranopia, applied to linear RGB."""
    linear = np.array([[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
                       for color in style.COLORS])  # fmt: skip
    seen = linear @ np.array(sight).reshape(3, 3).T
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(len(seen))
    assert apart.min() > 0.1


def test_no_image_depends_on_pyplots_global_state():
    for path in Path(style.__file__).parent.glob("*.py"):
        assert "pyplot" not in path.read_text()
