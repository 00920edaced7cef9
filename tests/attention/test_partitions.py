"""Partitions: what they hold, how they are written, and each of their error messages."""

import dataclasses

import pytest

from stylenat.attention.partitions import (
    HeadPartition,
    check_fits,
    format_partitions,
    parse_partitions,
    published_partitions,
    split_heads,
)
from stylenat.errors import UserError


def message(call, *args):
    """The one line of the UserError that `call` raises."""
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_text_and_back():
    partitions = (HeadPartition(2, 7, 1), HeadPartition(2, 7, 8), HeadPartition(1, 13, 128))
    assert format_partitions(partitions) == "2x7@1,2x7@8,1x13@128"
    assert parse_partitions("2x7@1,2x7@8,1x13@128") == partitions
    assert parse_partitions(" 2 x 7 @ 1 , 2x7@8,1x13@128 ") == partitions


@pytest.mark.parametrize(
    "text", ["", "2x7", "2x7@1,", "2*7@1", "2x7@1;2x7@8", "-2x7@1", "2x7.0@1", "x7@1", "٢x7@1"]
)
def test_text_of_another_form(text):
    assert message(parse_partitions, text) == (
        f"partitions {text!r}: write each as heads x kernel @ dilation, with commas between, "
        'such as "2x7@1,2x7@8", or "4xswin8" for StyleSwin\'s windows'
    )


def test_a_partition_is_frozen_data():
    partition = HeadPartition(2, 7, 4)
    assert partition == HeadPartition(heads=2, kernel_size=7, dilation=4) and len({partition, partition}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        partition.heads = 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 7, 1), "heads 0 of a head partition: give an int of at least 1"),
        ((2.0, 7, 1), "heads 2.0 of a head partition: give an int of at least 1"),
        ((True, 7, 1), "heads True of a head partition: give an int of at least 1"),
        ((2, 1, 1), "kernel_size 1 of a head partition: give an int of at least 3"),
        ((2, "7", 1), "kernel_size '7' of a head partition: give an int of at least 3"),
        ((2, 7, 0), "dilation 0 of a head partition: give an int of at least 1"),
        ((2, 6, 1), "kernel_size 6 is even: a neighborhood has its query in the middle; give 5 or 7"),
    ],
)
def test_a_partition_is_checked(values, expected):
    assert message(HeadPartition, *values) == expected
    if all(type(value) is int for value in values):
        assert message(parse_partitions, "{}x{}@{}".format(*values)) == expected


@pytest.mark.parametrize(
    ("heads", "parts", "shares"),
    [
        (16, 3, (5, 5, 6)),
        (8, 5, (1, 1, 2, 2, 2)),
        (8, 6, (1, 1, 1, 1, 2, 2)),
        (4, 4, (1, 1, 1, 1)),
        (7, 1, (7,)),
    ],
)
def test_the_last_partitions_get_the_heads_left_over(heads, parts, shares):
    assert split_heads(heads, parts) == shares


@pytest.mark.parametrize(("heads", "parts"), [(2, 3), (4, 0)])
def test_every_partition_needs_a_head(heads, parts):
    text = f"{heads} heads in {parts} partitions: give from 1 to {heads} partitions, a head for each"
    assert message(split_heads, heads, parts) == text


def test_a_window_may_span_the_whole_axis_but_no_more():
    check_fits(parse_partitions("2x7@1,2x7@2"), 14, 15, 16)
    assert message(check_fits, parse_partitions("2x7@1,2x7@2"), 20, 13, 16) == (
        "level 16: kernel k=7 with dilation d=2 spans k*d=14 tokens, over n=13: take d of at most 1"
    )
    assert message(check_fits, parse_partitions("1x9@1"), 8, 32) == (
        "kernel k=9 with dilation d=1 spans k*d=9 tokens, over n=8: take a smaller kernel or a larger level"
    )


def test_published_partitions():
    assert [format_partitions(published_partitions(16, 8 * 2**i)) for i in range(8)] == [
        "16x7@1",
        "8x7@1,8x7@2",
        "8x7@1,8x7@4",
        "8x7@1,8x7@8",
        "8x7@1,8x7@16",
        "8x7@1,8x7@32",
        "8x7@1,8x7@64",
        "8x7@1,8x7@128",
    ]
    for resolution in (8, 64, 1024):
        check_fits(published_partitions(4, resolution), resolution, resolution, resolution)
    assert message(published_partitions, 1, 16).startswith("1 heads in 2 partitions")


@pytest.mark.parametrize("resolution", [0, 4, 24])
def test_no_published_partitions(resolution):
    expected = f"resolution {resolution} has no published partitions: give a power of two, 8 or more"
    assert message(published_partitions, 4, resolution) == expected
