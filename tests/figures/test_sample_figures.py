"""Figures of a generator show the images and weights that the package computes, and say which is which."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from stylenat.attention.partitions import Full, ShiftedWindows, parse_partitions
from stylenat.data.dataset import open_dataset
from stylenat.errors import UserError
from stylenat.evaluation.memorization import CopyShare, Memorization
from stylenat.figures import attention as parts
from stylenat.figures import samples as sample_figures
from stylenat.figures import style
from stylenat.images import enlarge, image_grid, save_gif, save_png
from stylenat.models.stylenat import StyleNAT
from stylenat.sampling.attention_maps import attention_maps, by_partition
from stylenat.sampling.sample import interpolate, mix_styles, render, sample_images, styles

LEVELS = ("4xfull", "2x3@1,2x3@2", "1x3@1,2x3@4,1x5@2")


@pytest.fixture(scope="module")
def generator():
    """16 × 16 images, with the weights large enough that seeds and keys differ."""
    torch.manual_seed(0)
    made = StyleNAT((16, 16, 16), tuple(map(parse_partitions, LEVELS)), latent_dim=16, mapping_depth=2)
    return _stirred(made)


@pytest.fixture(scope="module")
def swin():
    torch.manual_seed(0)
    partitions = [(ShiftedWindows(4, size),) for size in (4, 4)]
    return _stirred(StyleNAT((16, 16), partitions, latent_dim=16, mapping_depth=2))


def _stirred(generator):
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) if not name.startswith("style") else 0)
    return generator.eval().requires_grad_(False)


def make_images(count, side=8):
    draw = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=draw)


def cells(figure, side, columns):
    """The images `(N, 3, side, side)` that a figure of a sheet shows, read off its axes."""
    sheet = figure.axes[0].images[0].get_array()
    step = (sheet.shape[1] + sample_figures.GAP) // columns
    scale = (step - sample_figures.GAP) // side
    rows = (sheet.shape[0] + sample_figures.GAP) // step
    corners = [(i * step, j * step) for i in range(rows) for j in range(columns)]
    shown = [sheet[y : y + step - sample_figures.GAP, x : x + step - sample_figures.GAP] for y, x in corners]
    shown = torch.tensor(np.stack(shown)).permute(0, 3, 1, 2)
    small = shown[..., ::scale, ::scale]
    assert torch.equal(shown, enlarge(small, scale)), "a pixel is no square of one color"
    return small


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def test_a_grid_has_gaps_and_leaves_empty_places_white():
    images = make_images(5, side=4)
    grid = image_grid(images, 3, gap=2)
    assert grid.shape == (3, 10, 16)
    white = torch.ones(10, 16, dtype=torch.bool)
    for i, image in enumerate(images):
        y, x = (i // 3) * 6, (i % 3) * 6
        assert torch.equal(grid[:, y : y + 4, x : x + 4], image)
        white[y : y + 4, x : x + 4] = False
    assert (grid[:, white] == 255).all()


def test_the_truncation_sweep_shows_each_seed_under_each_psi(generator):
    figure = sample_figures.truncation_sweep(generator, [3, 5], (0, 0.5, 1))
    shown = cells(figure, 16, 3)
    for column, psi in enumerate((0, 0.5, 1)):
        expected = sample_images(generator, [3, 5], truncation_psi=psi, batch_size=1)
        assert torch.equal(shown[column::3], expected)
    assert torch.equal(shown[0], shown[3]) and not torch.equal(shown[2], shown[5])
    assert labels(figure.axes[0].xaxis) == ["ψ = 0", "ψ = 0.5", "ψ = 1"]
    assert labels(figure.axes[0].yaxis) == ["seed 3", "seed 5"]


def test_the_mixing_grid_shows_sources_and_mixes(generator):
    figure = sample_figures.mixing_grid(generator, [1, 2], [7, 8, 9], 8, truncation_psi=0.8)
    shown = cells(figure, 16, 4).unflatten(0, (3, 4))
    assert (shown[0, 0] == 255).all()
    assert torch.equal(shown[0, 1:], sample_images(generator, [7, 8, 9], truncation_psi=0.8, batch_size=1))
    assert torch.equal(shown[1:, 0], sample_images(generator, [1, 2], truncation_psi=0.8, batch_size=1))
    for i, coarse in enumerate((1, 2), start=1):
        for j, fine in enumerate((7, 8, 9), start=1):
            sources = (styles(generator, [seed], 0.8) for seed in (coarse, fine))
            assert torch.equal(shown[i, j], render(generator, mix_styles(generator, *sources, 8))[0])
    axes = figure.axes[0]
    assert labels(axes.xaxis) == ["", "seed 7", "seed 8", "seed 9"]
    assert labels(axes.yaxis) == ["", "seed 1", "seed 2"]
    assert axes.get_xlabel() == "fine styles, from 8 × 8 on, from …"
    assert axes.get_ylabel() == "coarse styles from …"


def test_the_neighbors_figure_shows_the_nearest_pairs_first(tmp_path):
    real, made = make_images(9), make_images(5)
    for i, image in enumerate(real):
        save_png(tmp_path / f"{i}.png", image)
    distances = torch.tensor([[3.0, 4], [1, 2], [5, 6], [2, 3], [4, 4]])
    indices = torch.tensor([[0, 1], [8, 2], [3, 4], [5, 6], [7, 7]])
    found = Memorization(indices, distances, CopyShare(share=0.0, expected=0.05, error=0.1))
    figure = sample_figures.neighbors_figure(made, found, open_dataset(tmp_path, 8), rows=3)
    shown = cells(figure, 8, 3)
    rows = [(1, 8, 2), (3, 5, 6), (0, 0, 1)]
    for row, (sample, *near) in zip(shown.split(3), rows, strict=True):
        assert torch.equal(row, torch.cat([made[sample][None], real[near]]))
    axes = figure.axes[0]
    assert labels(axes.yaxis) == ["1.0", "2.0", "3.0"] and "distance" in axes.get_ylabel()
    assert labels(axes.xaxis) == ["sample", "training image 1", "training image 2"]


def test_the_interpolation_strip_has_a_row_for_each_space(generator):
    figure = sample_figures.interpolation_strip(generator, [1, 2, 3], 2, truncation_psi=0.7)
    shown = cells(figure, 16, 5)
    for row, space in zip((shown[:5], shown[5:]), "wz", strict=True):
        expected = interpolate(generator, [1, 2, 3], 2, space=space, truncation_psi=0.7)
        assert torch.equal(row, expected)
    assert not torch.equal(shown[1], shown[6])
    assert labels(figure.axes[0].xaxis) == ["seed 1", "", "seed 2", "", "seed 3"]
    assert labels(figure.axes[0].yaxis) == ["in w", "in z"]
    with pytest.raises(UserError, match="space 'v'"):
        sample_figures.interpolation_strip(generator, [1, 2], 2, spaces=("v",))


def test_head_parts_name_the_heads_and_what_they_see():
    three = parse_partitions(LEVELS[2])
    assert parts.head_parts(three) == [
        ("head 1: 3 × 3, dilation 1", 1),
        ("heads 2–3: 3 × 3, dilation 4", 2),
        ("head 4: 5 × 5, dilation 2", 1),
    ]
    assert parts.head_parts((Full(4),)) == [("heads 1–4: full attention", 4)]
    assert parts.head_parts((ShiftedWindows(6, 8),)) == [
        ("heads 1–3: 8 × 8 windows", 3),
        ("heads 4–6: 8 × 8 windows, shifted", 3),
    ]


def test_attention_panels_show_the_mean_map_of_each_partition(generator):
    queries = {"middle": (8, 7), "corner": (0, 1)}
    figure = parts.attention_figure(generator, 4, 16, queries, block=1, truncation_psi=0.7)
    panels = np.array(figure.axes[:8]).reshape(2, 4)
    w = styles(generator, [4], 0.7)
    image = render(generator, w)[0].permute(1, 2, 0).numpy()
    limits = set()
    for row, (name, query) in zip(panels, queries.items(), strict=True):
        assert np.array_equal(row[0].images[0].get_array(), image) and row[0].get_ylabel() == name
        maps = by_partition(attention_maps(generator, w, 16, query, block=1), parse_partitions(LEVELS[2]))[
            0
        ].numpy()
        for axes, weights, keys in zip(row[1:], maps, (9, 9, 25), strict=True):
            background, shown = axes.images
            assert np.array_equal(shown.get_array(), weights)
            assert np.array_equal(shown.get_alpha() > 0, weights > 0) and (weights > 0).sum() == keys
            assert background.get_array().std(axis=2).max() < 1e-6  # gray
            assert axes.get_xlabel() == f"largest weight {weights.max():.2g}"
            limits.add(shown.get_clim())
        for axes in row:
            (outline,) = axes.patches
            box = outline.get_bbox()
            assert np.allclose((box.x0 + box.x1, box.y0 + box.y1), (2 * query[1] + 1, 2 * query[0] + 1))
            assert not outline.get_fill() and 1 < box.width < 1.5
    assert len(limits) == 1  # one scale, so that colors compare
    assert [axes.get_title() for axes in panels[0]] == [
        "seed 4, level 16 × 16\nblock 2",
        "head 1\n3 × 3, dilation 1",
        "heads 2–3\n3 × 3, dilation 4",
        "head 4\n5 × 5, dilation 2",
    ]


def test_attention_panels_of_full_attention_and_of_windows(generator, swin):
    full = parts.attention_figure(generator, 0, 4, {"query": (1, 2)})
    weights = attention_maps(generator, styles(generator, [0]), 4, (1, 2))[0].mean(0)
    assert np.array_equal(full.axes[1].images[1].get_array(), weights.numpy())
    windows = parts.attention_figure(swin, 0, 8, {"query": (1, 6)})
    weights = attention_maps(swin, styles(swin, [0]), 8, (1, 6))[0]
    for axes, half in zip(windows.axes[1:3], (weights[:2], weights[2:]), strict=True):
        assert np.array_equal(axes.images[1].get_array(), half.mean(0).numpy())
    plain, shifted = (np.argwhere(axes.images[1].get_alpha() > 0) for axes in windows.axes[1:3])
    assert plain.tolist() == [[row, column] for row in range(4) for column in range(4, 8)]
    assert shifted.tolist() == [[0, 6], [0, 7], [1, 6], [1, 7]]  # nothing from beyond the border
    assert windows.axes[2].get_title() == "heads 3–4\n4 × 4 windows, shifted"


def test_a_mistaken_level_or_query_is_told(generator):
    with pytest.raises(UserError, match="level 32"):
        parts.attention_figure(generator, 0, 32, {"query": (0, 0)})
    with pytest.raises(UserError, match="outside of 8 × 8"):
        parts.attention_figure(generator, 0, 8, {"query": (8, 0)})
    with pytest.raises(UserError, match="level 5"):
        sample_figures.mixing_grid(generator, [0], [1], 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda g: sample_figures.truncation_sweep(g, [0, 1], (0, 1)),
        lambda g: sample_figures.mixing_grid(g, [0], [1, 2], 8),
        lambda g: sample_figures.interpolation_strip(g, [0, 1], 3),
        lambda g: parts.attention_figure(g, 0, 8, {"query": (3, 3)}),
    ],
)
def test_the_same_generator_gives_the_same_bytes_eight_inches_wide(generator, make):
    figure = make(generator)
    assert style.to_png(figure) == style.to_png(make(generator))
    assert 7 < figure.get_size_inches()[0] <= 8


def test_large_images_are_made_smaller():
    figure = sample_figures.sample_grid(make_images(6, side=400), columns=6)
    assert figure.get_size_inches()[0] == 8
    width, height = Image.open(io.BytesIO(style.to_png(figure))).size
    assert (width, round(width / height)) == (1600, 6)


def test_a_gif_holds_every_frame_and_loops_for_ever(tmp_path):
    colors = torch.tensor([[250, 20, 30], [20, 240, 10], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)
    images = colors[:, :, None, None].repeat(1, 1, 6, 4)
    images[:, :, :, 2:] = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None]
    path = tmp_path / "new" / "a.gif"
    save_gif(path, images, frame_ms=70, scale=3)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (4, (12, 18), 0)
        for i, image in enumerate(images):
            gif.seek(i)
            assert gif.info["duration"] == 70
            shown = np.asarray(gif.convert("RGB"))
            assert np.abs(shown.astype(int) - enlarge(image, 3).permute(1, 2, 0).numpy()).max() <= 2
    assert [file.name for file in path.parent.iterdir()] == ["a.gif"]


def test_a_gifs_frames_share_a_palette_so_that_nothing_still_flickers(tmp_path):
    still, moving = make_images(1, side=16).repeat(6, 1, 1, 1), make_images(6, side=16)
    save_gif(tmp_path / "a.gif", torch.cat([still, moving], dim=3))
    with Image.open(tmp_path / "a.gif") as gif:
        frames = []
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("RGB")))
    assert len(frames) == 6
    assert all(np.array_equal(frame[:, :16], frames[0][:, :16]) for frame in frames)
    assert np.abs(np.stack(frames)[:, :, :16].astype(int) - still.permute(0, 2, 3, 1).numpy()).mean() < 20
