"""The generators timed side by side: the record, its tables and the chart; measured and published apart."""

import dataclasses
import json

import pytest
from helpers import make_comparison, refusal

from stylenat.figures.results import measured_bubble_chart
from stylenat.reporting import claims
from stylenat.reporting.claims import RATED, SETTINGS, Verdict
from stylenat.reporting.generators import COMPARED, comparison_frame, comparison_table, comparison_text
from stylenat.reporting.paper import published_numbers
from stylenat.reporting.rates import read_comparisons, record_comparison, recorded_comparison
from stylenat.reporting.tables import build_tables

# Seconds of an image in two rounds.
SECONDS = {"ffhq-256": (2.0, 2.0), "stylegan-xl-a": (5.0, 5.0), "stylegan-xl-e": (8.0, 12.0)}


def test_a_record_is_read_as_it_was_written(empty_workspace):
    assert read_comparisons() == [] and recorded_comparison() is None
    one = make_comparison(SECONDS)
    two = dataclasses.replace(one, threads=2)
    record_comparison(one)
    record_comparison(two)
    assert read_comparisons() == [two, one] and recorded_comparison() == two
    again = dataclasses.replace(one, rounds=9)
    record_comparison(again)
    assert read_comparisons() == [two, again]  # in the place of that of the same machine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-9], "is damaged"),
        (lambda text: text.replace('"batch"', '"bunch"'), "is damaged"),
        (lambda text: text.replace("2.0", '"2.0"', 1), "is damaged"),
        (lambda text: text.replace("2.0", "-2.0", 1), "not above 0"),
        (lambda text: text.replace("2.0", "1.0, 2.0", 1), "lacks times of its rounds"),
    ],
)
def test_a_damaged_record_is_one_line(empty_workspace, change, message):
    record_comparison(make_comparison(SECONDS))
    path = empty_workspace / "results" / "generators.json"
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text
    for call in (read_comparisons, build_tables):
        found = refusal(call)
        assert message in found and found.startswith("results/generators.json is damaged")


def test_rates_are_medians_with_their_spread():
    comparison = make_comparison({"stylegan-xl-e": (8.0, 10.0, 16.0)}, batches=(1, 2))
    first, second = comparison.of("stylegan-xl-e")
    assert first.images_per_second == (1 / 10, 1 / 16, 1 / 8) and first.latency == (10, 8, 16)
    assert second.images_per_second == (1 / 10, 1 / 16, 1 / 8)  # twice the time for twice the images
    assert first.times_matmul == (2, 2, 2)
    assert comparison.best("stylegan-xl-e") == first
    faster = dataclasses.replace(second, seconds=(15.0, 15.0, 15.0))
    assert dataclasses.replace(comparison, rates=(first, faster)).best("stylegan-xl-e") == faster


def test_no_column_holds_measured_and_published_numbers(empty_workspace):
    numbers = published_numbers()
    table = comparison_table(make_comparison(SECONDS), numbers).set_index("generator")
    published = [column for column in table if column.startswith("published")]
    assert published == ["published parameters (M)", "published imgs/s"]
    assert table.loc["ffhq-256", published].tolist() == ["48.92", "32.56"]
    assert table.loc["ffhq-256", "imgs/s, batch 1"] == "0.5 (0.5 – 0.5)"
    assert table.loc["stylegan-xl-e", "imgs/s, batch 1"] == "0.104 (0.0833 – 0.125)"
    changed = comparison_table(make_comparison(SECONDS | {"ffhq-256": (1.0, 1.0)}), numbers)
    assert changed.set_index("generator")[published].equals(table[published])
    frame = comparison_frame([make_comparison(SECONDS)], numbers)
    assert frame["images_per_second_median"].tolist() == pytest.approx([0.5, 0.2, (1 / 8 + 1 / 12) / 2])
    assert frame["published_throughput"].tolist() == [32.56, 14.28, 14.28]


def test_the_text_says_what_the_filters_cost_and_how_it_was_measured(empty_workspace):
    text = comparison_text([make_comparison(SECONDS)], published_numbers())
    assert "stylegan-xl-a's filtered activations take 40% of its time; were they free, it would make" in text
    assert "make 0.333 images a second instead of 0.2." in text
    assert "Measured on AMD EPYC, 1 thread, float32, torch 2.14.1, 2 rounds, commit abcdefa." in text
    assert "ffhq-256's filtered" not in text and "float16 on a GPU" in text
    assert "filtered activations" not in comparison_text([make_comparison({"hit-b": (1.0, 1.0)})], {})
    assert comparison_text([], {}).startswith("None recorded yet: `python -m stylenat compare --record`")


def test_compared_presets_are_those_of_the_claims():
    systems = {setting.preset: setting.key.system for setting in SETTINGS}
    assert {preset: systems[preset] for preset in COMPARED} == COMPARED
    assert {setting.preset for setting in RATED} < set(COMPARED)


def test_claims_have_measured_rates_beside_the_published_ones(empty_workspace):
    def checked():
        found = {one.claim.name: one for one in claims.check_claims(published_numbers())}
        return found["throughput"], found["times-throughput"]

    assert all(one.counted_text == "" for one in checked())
    record_comparison(make_comparison(SECONDS))
    share, times = checked()
    assert list(map(float, share.counted.values())) == pytest.approx([60, 100 * (0.5 - 5 / 48) / 0.5])
    assert list(map(float, times.counted.values())) == pytest.approx([2.5, 4.8])
    assert times.counted_text.startswith("AMD EPYC, 1 thread, float32: stylegan-xl-a: 2.5 × (its README's")
    assert "; stylegan-xl-e: 4.80 × (inferred" in times.counted_text
    assert share.verdict is Verdict.PUBLISHED and times.verdict is Verdict.CONTRADICTED  # by published rates
    record_comparison(make_comparison(SECONDS | {"ffhq-256": (1.0, 1.0)}))
    assert float(checked()[1].counted["stylegan-xl-a"]) == pytest.approx(5)
    assert "stylegan-xl-a: 5 ×" in build_tables()["readme-claims"]


def test_the_measured_chart_shows_measured_rates_and_published_fids(empty_workspace):
    comparison = make_comparison({**SECONDS, "smoke": (0.1, 0.1)})
    axes = measured_bubble_chart(comparison, published_numbers()).axes[0]
    points = [tuple(points.get_offsets()[0]) for points in axes.collections if len(points.get_offsets()) == 1]
    bubbles = [point for point in points if point != (0, 0)]
    assert bubbles == [(0.5, 2.046), (0.2, 2.19), (pytest.approx((1 / 8 + 1 / 12) / 2), 2.19)]
    title = axes.get_title(loc="left")
    assert "measured here (AMD EPYC, 1 thread)" in title and "FIDs as published" in title


def test_the_committed_record_is_whole():
    for comparison in read_comparisons():
        assert (
            comparison.presets == list(COMPARED) and len(json.dumps(dataclasses.asdict(comparison))) < 10**5
        )
