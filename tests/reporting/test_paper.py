"""paper.csv: one row a number, every row with a source, and one line where it is damaged."""

import pytest
from helpers import refusal

from stylenat.reporting.paper import Key, PublishedNumber, published, published_numbers


@pytest.fixture
def paper(empty_workspace):
    return empty_workspace / "results" / "paper.csv"


def test_digits_and_uncertainty_are_kept_as_published(paper):
    numbers = published_numbers()
    assert str(numbers[Key("StyleNAT", "fid", "LSUN Church")]) == "3.400"
    assert str(numbers[Key("StyleGAN-XL", "parameters")]) == "67.7 ± 0.5"
    assert all(number.source for number in numbers.values())


def test_what_has_no_primary_source_says_so(paper):
    numbers = published_numbers()
    unverified = {key.quantity for key, number in numbers.items() if number.is_unverified}
    ladder = {key.quantity for key in numbers if key.quantity.startswith("ladder_")}
    assert len(ladder) == 8
    assert unverified == ladder | {
        "throughput_remeasured", "throughput_of_claim", "parameters_of_claim", "parameters_of_recipe",
    }  # fmt: skip


def test_the_floats_are_the_same_numbers(paper):
    values = published()["value"].tolist()
    assert values == [float(number.value) for number in published_numbers().values()]


def test_a_missing_row_is_named(paper):
    numbers = published_numbers()
    assert numbers.get(Key("X", "fid")) is None
    message = refusal(lambda: numbers[Key("X", "fid", "", "")])
    assert message == "results/paper.csv lacks X, fid: restore the row from git"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("StyleNAT,fid,FFHQ,256,2.0,,,somewhere,", "results/paper.csv has StyleNAT fid FFHQ-256 twice"),
        ("X,fid,FFHQ,256,two,,,somewhere,", "results/paper.csv says 'two' for X fid FFHQ-256"),
        ("X,fid,FFHQ,256,nan,,,somewhere,", "results/paper.csv says 'nan' for X fid FFHQ-256"),
        ("X,fid,FFHQ,256,2,,few,somewhere,", "results/paper.csv says '2 ± few' for X fid FFHQ-256"),
    ],
)
def test_a_wrong_row_is_named(paper, row, message):
    paper.write_text(f"{paper.read_text()}{row}\n")
    assert message in refusal(published_numbers)


def test_a_number_reads_as_it_was_printed():
    assert str(PublishedNumber("2.50", "M", "", "somewhere", "")) == "2.50"
