"""Configurations: what names them, and what is refused."""

import pytest

from stylenat.config import parse_overrides
from stylenat.errors import UserError
from stylenat.presets import PRESETS, get_config, run_id


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_states_its_cost_and_keeps_its_name(preset):
    config = get_config(preset)
    assert config.cost and run_id(config) == preset
    assert len(config.partitions) == len(config.widths)


def test_published_partitions_are_the_papers():
    levels = get_config("ffhq-1024").partitions
    assert [[part.dilation for part in level] for level in levels[1:]] == [
        [1], [1, 2], [1, 4], [1, 8], [1, 16], [1, 32], [1, 64], [1, 128],
    ]  # fmt: skip
    assert {part.kernel_size for level in levels[1:] for part in level} == {7}
    assert [sum(part.heads for part in level) for level in levels] == [16, 16, 16, 16, 16, 8, 4, 4, 4]


def test_the_proposed_church_partitions_share_the_heads_as_proposed():
    levels = get_config("church-256").partitions
    assert [[part.heads for part in level] for level in levels[2:]] == [
        [8, 8], [5, 5, 6], [4, 4, 4, 4], [1, 1, 2, 2, 2], [1, 1, 1, 1, 2, 2],
    ]  # fmt: skip


def test_an_override_makes_another_run():
    config = get_config("smoke", seed=1)
    assert run_id(config).startswith("smoke-") and run_id(config) == run_id(get_config("smoke", seed=1))
    assert run_id(config) != run_id(get_config("smoke", seed=2))
    assert run_id(get_config("smoke", seed=0)) == "smoke"
    assert get_config("smoke", generator_lr=1) == get_config("smoke", generator_lr=1.0)


def test_overrides_are_read_as_typed():
    text = ["nimg=100", "widths=(8,8,8,8)", "partitions=1x3@1/1x3@1/1x3@1", "diffaugment=False"]
    assert parse_overrides(text) == {
        "nimg": 100, "widths": (8, 8, 8, 8), "partitions": "1x3@1/1x3@1/1x3@1", "diffaugment": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    "preset, overrides, message",
    [
        ("noto-23", {}, "unknown preset 'noto-23', did you mean 'noto-32'"),
        ("smoke", {"nimgs": 5}, "unknown override 'nimgs', did you mean 'nimg'"),
        ("smoke", {"cost": "free"}, "unknown override 'cost'"),
        ("smoke", {"nimg": "many"}, "nimg='many' is str, expected int"),
        ("smoke", {"nimg": 0}, "nimg=0"),
        ("smoke", {"seed": 1.5}, "seed=1.5 is float, expected int"),
        ("smoke", {"partitions": "2x7"}, "partitions '2x7'.*2x7@1"),
        ("smoke", {"partitions": "2x3@1"}, "describes 1 levels, expected 3"),
        ("smoke", {"partitions": "2x3@1/3x3@1/2x3@1"}, "level 16 hold 3 heads, expected 2"),
        ("smoke", {"widths": (8, 8)}, "2 widths make 8 pixels, not resolution=32"),
        ("smoke", {"discriminator_widths": (8, 8)}, "has 2 entries, expected 3"),
        ("smoke", {"batch_size": 6}, "batch_size=6"),
        ("smoke", {"head_dim": 0}, "head_dim=0 must be above 0"),
        ("smoke", {"widths": ("a", 8, 8, 8)}, "widths=.* must be whole numbers above 0"),
        ("smoke", {"seed": -1}, "seed=-1 must be from 0"),
        ("smoke", {"generator_lr": -1}, r"generator_lr=-1\.0 must be above 0"),
        ("smoke", {"decay_start": 2}, r"decay_start=2\.0 must be from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(preset, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        get_config(preset, **overrides)
    assert "\n" not in str(caught.value)


def test_an_override_without_a_value_is_refused():
    with pytest.raises(UserError, match="'nimg' has no '='"):
        parse_overrides(["nimg"])
