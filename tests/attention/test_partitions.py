"""Partitions: what they hold, how they are written, and each of their error messages."""

import dataclasses

import pytest

from stylenat.attention.partitions import (
    Full,
    HeadPartition,
    ShiftedWindows,
    check_fits,
    dilated_levels,
    far_levels,
    format_levels,
    format_partitions,
    full_levels,
    head_counts,
    kernel_levels,
    local_levels,
    octave_levels,
    parse_levels,
    parse_partitions,
    published_levels,
    published_partitions,
    pyramid_levels,
    repeated_levels,
    resolutions,
    split_heads,
    styleswin_levels,
    two_view_levels,
    window_levels,
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


# Full attention


def test_full_attention_as_text_and_back():
    assert str(Full(4)) == "4xfull"
    assert parse_partitions(" 4 x full ") == (Full(4),)


@pytest.mark.parametrize("heads", [0, 2.0, True])
def test_full_attention_needs_a_head(heads):
    assert message(Full, heads) == f"heads {heads!r} of full attention: give an int of at least 1"


@pytest.mark.parametrize("text", ["2xfull,2x3@1", "4xfull@1", "xfull"])
def test_full_attention_takes_all_heads(text):
    assert message(parse_partitions, text).startswith(f"partitions {text!r}: write each as heads x kernel")


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ((ShiftedWindows(2, 6),), "level 8: windows of 6 × 6 do not fill 8 × 8 tokens: give multiples of 6"),
        ((HeadPartition(1, 3), Full(1)), "level 8: partitions '1x3@1,1xfull': give one or more of heads x"),
        ((), "level 8: partitions '': give one or more of heads x kernel @ dilation"),
    ],
)
def test_what_does_not_fit_a_level_of_8(level, expected):
    assert message(check_fits, level, 8, 8, 8).startswith(expected)


# Rules


def test_levels_double_from_4_on():
    assert resolutions(0) == () and resolutions(5) == (4, 8, 16, 32, 64)


def test_heads_follow_the_channels_down_to_a_least_number():
    assert head_counts((512, 256, 64), head_dim=32, min_heads=4) == (16, 8, 4)


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        (published_levels((16, 16, 8, 4)), "16xfull/16x7@1/4x7@1,4x7@2/2x7@1,2x7@4"),
        (styleswin_levels((16, 8, 4)), "16xswin4/8xswin8/4xswin8"),
        (pyramid_levels((4, 4, 5), [[1], [1, 2, 4]], kernel_size=3), "4xfull/4x3@1/1x3@1,2x3@2,2x3@4"),
        (dilated_levels((4, 4, 3, 2), 4), "4xfull/2x3@1,2x3@2/1x3@1,2x3@4/1x3@1,1x3@4"),
        (dilated_levels((4, 4, 2), 3, kernel_size=5), "4xfull/2x5@1,2x5@1/1x5@1,1x5@3"),
    ],
)
def test_rules_make_these_levels(levels, text):
    assert "/".join(map(format_partitions, levels)) == text


def test_a_dilation_over_the_finest_level_is_refused():
    expected = "dilation 6 with kernel size 3 does not fit 16 × 16 tokens: give 1 to 5"
    assert message(dilated_levels, (2, 2, 2), 6) == expected


# Levels as text

HEADS = (4, 4, 2, 2)


@pytest.mark.parametrize(
    "text",
    ["", "swin", "4x3@1/1x3@1,1x3@2/2x3@1", "4xswin8/2x3@1/2xswin16", "4xswin4/4x3@1/2x3@1/2x3@1"],
)
def test_levels_as_text_and_back(text):
    assert format_levels(parse_levels(text, HEADS)) == text


def test_4_by_4_is_full_where_the_text_begins_at_8():
    levels = parse_levels("4x3@1/2x3@1/2x3@1", HEADS)
    assert levels[0] == (Full(4),)
    assert parse_levels("4xfull/4x3@1/2x3@1/2x3@1", HEADS) == levels


def test_rules_are_written_by_their_names():
    assert format_levels(published_levels(HEADS)) == ""
    assert format_levels(styleswin_levels(HEADS)) == "swin"
    assert parse_levels("", HEADS) == published_levels(HEADS)
    assert parse_levels("swin", HEADS) == styleswin_levels(HEADS)


def test_a_head_alone_fits_no_named_rule_but_has_text():
    assert format_levels(parse_levels("1x3@1/1x3@2", (1, 1, 1))) == "1x3@1/1x3@2"


@pytest.mark.parametrize("text", ["4x3@1/2x3@1", "4xfull/4x3@1/2x3@1/2x3@1/2x3@1"])
def test_text_of_another_number_of_levels(text):
    count = text.count("/") + 1
    assert message(parse_levels, text, HEADS) == (
        f"partitions={text!r} describes {count} levels, expected 3: one for each of 8 … 32, "
        "with '/' between them"
    )


# Rules of the ablation

FOURS = (4, 4, 4, 4)


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        (local_levels(FOURS, 3), "4xfull/4x3@1/4x3@1/4x3@1"),
        (two_view_levels(FOURS, 3), "4xfull/2x3@1,2x3@2/2x3@1,2x3@4/2x3@1,2x3@8"),
        (octave_levels(FOURS, 3), "4xfull/2x3@1,2x3@2/1x3@1,1x3@2,2x3@4/1x3@1,1x3@2,1x3@4,1x3@8"),
        (far_levels(FOURS, 3), "4xfull/4x3@2/4x3@4/4x3@8"),
        (kernel_levels(FOURS, (3, 5, 7)), "4xfull/1x3@1,1x5@1,2x7@1/1x3@1,1x5@1,2x7@1/1x3@1,1x5@1,2x7@1"),
        (window_levels(FOURS, 4), "4xfull/4xswin4/4xswin4/4xswin4"),
        (full_levels(FOURS), "4xfull/4xfull/4xfull/4xfull"),
        (
            repeated_levels(FOURS, (HeadPartition(2, 3), HeadPartition(2, 3, 4))),
            "4xfull/2x3@1,2x3@2/2x3@1,2x3@4/2x3@1,2x3@4",
        ),
    ],
)
def test_rules_of_the_ablation(levels, text):
    assert "/".join(map(format_partitions, levels)) == text
    for side, level in zip(resolutions(4), levels, strict=True):
        check_fits(level, side, side)


def test_two_views_are_the_published_partitions_at_their_kernel():
    heads = (16, 16, 16, 16, 16, 8, 4)
    assert two_view_levels(heads, 7) == published_levels(heads)


def test_a_pyramid_keeps_the_local_view_and_the_three_farthest():
    finest = octave_levels((4,) * 7, 7)[-1]  # 256 × 256: dilations 1, 2, 4, 8, 16, 32
    assert [part.dilation for part in finest] == [1, 8, 16, 32]


def test_what_the_rules_of_the_ablation_refuse():
    level = parse_partitions("2x3@1,2x3@11")
    assert message(repeated_levels, FOURS, level).startswith("level 32: kernel k=3 with dilation d=11")
    assert message(repeated_levels, (2, 2, 2, 2), parse_partitions("4x3@1")) == (
        "partitions '4x3@1' hold 4 heads, level 8 has 2: make them equal"
    )
    assert message(far_levels, FOURS, 9) == "kernel size 9 does not fit 8 × 8 tokens: give at most 7"
    assert message(check_fits, (Full(4),), 8, 6) == (
        "full attention got 8 × 6 tokens: give a square, or use HydraNeighborhoodAttention"
    )
