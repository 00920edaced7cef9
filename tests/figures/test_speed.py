"""Figures of speed show the numbers they were given."""

from typing import NamedTuple

import pytest

from stylenat.figures.speed import performance, roofline


class Level(NamedTuple):
    level: int
    seconds: float
    gflops: float
    intensity: float


def test_the_roofline_shows_every_level_under_the_roofs():
    levels = [Level(4, 0.1, 2.0, 1.0), Level(8, 0.3, 30.0, 40.0)]
    (axes,) = roofline(levels, (100.0, 10.0)).axes
    points = [collection.get_offsets()[0].tolist() for collection in axes.collections]
    assert points == [[1.0, 2.0], [40.0, 30.0]]
    areas = [collection.get_sizes()[0] for collection in axes.collections]
    assert areas[1] == pytest.approx(3 * areas[0])
    line = axes.lines[0].get_xydata()
    assert line[0, 1] == pytest.approx(10 * line[0, 0])
    assert line[1].tolist() == [10.0, 100.0]
    assert line[2, 1] == 100.0


def test_performance_shows_every_ratio_and_its_spread():
    ratios = {
        "one": {"before": (2.0, 1.5, 2.5), "now": (1.2, 1.1, 1.3)},
        "two": {"before": (4.0, 3.0, 5.0), "now": (3.5, 3.0, 6.0)},
    }
    (axes,) = performance(ratios).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    before_lines, before, now_lines, now = axes.collections
    assert before.get_offsets()[:, 0].tolist() == [2.0, 4.0]
    assert now.get_offsets()[:, 0].tolist() == [1.2, 3.5]
    assert [segment[:, 0].tolist() for segment in before_lines.get_segments()] == [[1.5, 2.5], [3.0, 5.0]]
    assert [segment[:, 0].tolist() for segment in now_lines.get_segments()] == [[1.1, 1.3], [3.0, 6.0]]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["before", "now", "matmul time"]
