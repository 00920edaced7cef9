"""Generated blocks go between their markers, and the prose around them stays."""

import pytest
from helpers import refusal

from stylenat.reporting.markdown import blocks, replace_block, replace_blocks, rewrite_blocks, table

PAGE = "Prose.\n\n<!-- a:begin -->\nold\n<!-- a:end -->\nMore.\n<!-- b-2:begin --><!-- b-2:end -->\n"


def test_a_table_aligns_text_left_and_numbers_right():
    text = table(["name", "n", "note"], [["x", 1, "good"], ["y", 2.5, ""]], text_columns=(0, 2))
    assert text.splitlines() == [
        "| name | n | note |",
        "| :-- | --: | :-- |",
        "| x | 1 | good |",
        "| y | 2.5 |  |",
    ]


@pytest.mark.parametrize("row", [["x"], ["x", 1, 2]])
def test_a_row_has_as_many_cells_as_the_head(row):
    with pytest.raises(ValueError, match=f"a row has {len(row)} cells, the head 2"):
        table(["name", "n"], [row])


def test_only_the_block_changes():
    page = replace_block(PAGE, "a", "new\nlines\n")
    assert page == PAGE.replace("\nold\n", "\n\nnew\nlines\n\n")
    assert replace_block(page, "a", "new\nlines") == page


def test_a_backslash_or_a_group_in_the_body_is_taken_as_it_is():
    assert r"\1 \g<0>" in replace_block(PAGE, "a", r"\1 \g<0>")


@pytest.mark.parametrize(
    "page",
    [
        "nothing",
        "<!-- a:begin -->",
        "<!-- a:end --> <!-- a:begin -->",
        "<!-- a:begin --> <!-- a:end --> <!-- a:end -->",
        "<!-- a:begin --> <!-- a:begin --> <!-- a:end -->",
    ],
)
def test_markers_stand_once_each_and_in_order(page):
    assert "<!-- a:begin --> and <!-- a:end --> once each" in refusal(replace_block, page, "a", "new")


def test_all_blocks_of_a_page_at_once(tmp_path):
    assert blocks(PAGE) == ["a", "b-2"]
    page = replace_blocks(PAGE, {"a": "first", "b-2": "second"})
    assert page == replace_block(replace_block(PAGE, "a", "first"), "b-2", "second")
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    rewrite_blocks(path, {"a": "first", "b-2": "second"})
    assert path.read_text() == page


def test_no_block_is_left_as_it_was():
    assert "page's block b-2" in refusal(replace_blocks, PAGE, {"a": "first"})
    assert "<!-- c:begin -->" in refusal(replace_blocks, PAGE, {"a": "", "b-2": "", "c": ""})
