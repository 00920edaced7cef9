"""Configurations: what names them, and what is refused."""

import dataclasses
import json

import pytest
import torch
from helpers import refusal

from stylenat.attention.partitions import Full, HeadPartition, ShiftedWindows, parse_levels
from stylenat.config import Config, parse_overrides
from stylenat.errors import UserError
from stylenat.models.build import build_discriminator, build_generator
from stylenat.presets import PRESETS, get_config, run_id


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_states_its_cost_and_keeps_its_name(preset):
    config = get_config(preset)
    assert config.cost and run_id(config) == preset
    assert config.generator != "stylenat" or len(config.partitions) == len(config.widths)


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
        ("smoke", {"partitions": 5}, "partitions=5 is int, expected str"),
        ("smoke", {"partitions": "2x3@1/2x5@4/2x3@1"}, "level 16: kernel k=5 with dilation d=4 spans k.d=20"),
        ("smoke", {"partitions": "2x3@1/2xswin32/2x3@1"}, "level 16: windows of 32 × 32 do not fill 16 × 16"),
        (
            "smoke",
            {"partitions": ((Full(2),),)},
            "partitions describe 1 levels, expected 4: one for each of 4",
        ),
        ("smoke", {"variant": 1}, "variant=1 is int, expected str"),
        ("smoke", {"nimg": -5}, "nimg=-5 must be above 0"),
        ("smoke", {"batch_size": 0}, "batch_size=0 must be above 0"),
        ("smoke", {"min_heads": 0}, "min_heads=0 must be above 0"),
        ("smoke", {"latent_dim": 0}, "latent_dim=0 must be above 0"),
        ("smoke", {"mapping_depth": 0}, "mapping_depth=0 must be above 0"),
        ("smoke", {"r1_interval": 0}, "r1_interval=0 must be above 0"),
        ("smoke", {"ema_half_life": 0}, "ema_half_life=0 must be above 0"),
        ("smoke", {"accumulate": 0}, "accumulate=0 must be above 0"),
        ("smoke", {"snapshot": 0}, "snapshot=0 must be above 0"),
        ("smoke", {"discriminator_lr": 0.0}, r"discriminator_lr=0\.0 must be above 0"),
        ("smoke", {"clip_norm": 0.0}, r"clip_norm=0\.0 must be above 0"),
        (
            "smoke",
            {"discriminator_widths": (0, 8, 8)},
            "discriminator_widths=.* must be whole numbers",
        ),
        ("smoke", {"adam_beta2": 1.0}, r"adam_beta2=1\.0 must be from 0 to below 1"),
        ("smoke", {"r1_gamma": -1.0}, r"r1_gamma=-1\.0 must be 0 or more"),
        ("smoke", {"bcr_weight": -1.0}, r"bcr_weight=-1\.0 must be 0 or more"),
        ("smoke", {"seed": 2**63}, "seed=9223372036854775808 must be from 0 to"),
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


# Identity: names of runs and stored configurations, which must never change


RUN_IDS = [  # with seed 3, so that they hold a hash
    "smoke-3fdc18",
    "noto-32-ead01a",
    "noto-32-long-4abd7a",
    "noto-64-da43f8",
    "avatars-32-5127b4",
    "avatars-64-5b311f",
    "styleswin-32-a5ee55",
    "hit-32-c340e1",
    "stylegan-xl-32-535537",
    "ffhq-256-be160d",
    "ffhq-1024-3424c6",
    "church-256-42343d",
    "styleswin-256-845573",
    "styleswin-1024-b5e577",
    "hit-b-04e645",
    "hit-l-861abb",
    "stylegan-xl-a-74dd9d",
    "stylegan-xl-b-073fb6",
    "stylegan-xl-c-97fccd",
    "stylegan-xl-e-6749bf",
]


def test_run_ids_of_all_presets_with_another_seed():
    assert [run_id(get_config(preset, seed=3)) for preset in PRESETS] == RUN_IDS


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"seed": 3, "partitions": "1x3@1,1x3@2/1x3@1,1x3@4/1x3@1,1x3@8"}, "smoke-3fdc18"),
        ({"seed": 3, "partitions": "2x3@1/1x3@1,1x3@2/1x3@1,1x3@4"}, "smoke-e0ae22"),
        ({"partitions": "swin"}, "smoke-1cd1c6"),
        ({"partitions": "1x3@1,1x3@2/1x3@1,1x3@2/1x3@1,1x3@2"}, "smoke-426320"),
        ({"partitions": ""}, "smoke-84341b"),
        ({"nimg": 640}, "smoke-659220"),
        ({"compile": True, "accumulate": 2}, "smoke-c4f9a4"),
    ],
)
def test_run_ids_of_overrides(overrides, name):
    assert run_id(get_config("smoke", **overrides)) == name


def test_a_configuration_is_stored_as_before():
    assert json.dumps(get_config("smoke").to_dict()) == (
        '{"preset": "smoke", "data": "noto-faces", "resolution": 32, "widths": [32, 32, 16, 16], '
        '"discriminator_widths": [32, 32, 16], "nimg": 320, "batch_size": 16, "head_dim": 16, '
        '"min_heads": 2, "latent_dim": 128, "mapping_depth": 2, '
        '"partitions": "1x3@1,1x3@2/1x3@1,1x3@4/1x3@1,1x3@8", "generator_lr": 0.001, '
        '"discriminator_lr": 0.002, "adam_beta2": 0.99, "decay_start": 1.0, "r1_gamma": 0.1, '
        '"r1_interval": 16, "bcr_weight": 0.0, "diffaugment": true, "clip_norm": 5.0, '
        '"ema_half_life": 5000, "snapshot": 160, "seed": 0}'
    )


def test_the_small_generators_are_trained_alike():
    own = {"preset", "generator", "widths", "stages", "partitions", "head_dim", "min_heads", "latent_dim",
           "style_dim", "mapping_depth"}  # fmt: skip
    plain = get_config("noto-32").to_dict()
    for preset in ("hit-32", "stylegan-xl-32"):
        fields = get_config(preset).to_dict()
        assert {name for name in fields | plain if fields.get(name) != plain.get(name)} <= own
        assert "partitions" not in fields and "head_dim" not in fields
    windows = dataclasses.replace(
        get_config("noto-32"), preset="styleswin-32", partitions="4xswin4/2xswin4/2xswin4"
    )
    assert get_config("styleswin-32") == windows


def test_stages_may_be_lists_and_are_stored():
    config = get_config("hit-32", stages=[[1, 4, 4], [1, 4, 4], [1, 4, 0]])
    assert config.stages == ((1, 4, 4), (1, 4, 4), (1, 4, 0)) and run_id(config) != "hit-32"
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("smoke", {"stages": ((1, 4, 4),)}, "stages=((1, 4, 4),) means nothing to generator 'stylenat'"),
        ("smoke", {"style_dim": 8}, "style_dim=8 means nothing to generator 'stylenat'"),
        ("smoke", {"generator": "hit"}, "means nothing to generator 'hit'"),
        ("hit-32", {"generator": "stylenat"}, "means nothing to generator 'stylenat'"),
        ("hit-32", {"stages": 3}, "stages=3 is int, expected tuple"),
        ("hit-32", {"stages": (1, 2, 3)}, "stages: 1 must be the whole numbers (units, heads, patch)"),
    ],
)
def test_settings_of_another_generator_are_refused(preset, overrides, message):
    assert message in refusal(get_config, preset, **overrides)


# Partitions


@pytest.mark.parametrize(("preset", "sides"), [("avatars-32", 4), ("avatars-64", 5)])
def test_avatars_have_room_for_a_pyramid_at_kernel_3(preset, sides):
    config = get_config(preset)
    assert config.data == "avatars" and config.level_heads == (4,) * sides
    assert {part.kernel_size for level in config.partitions[1:] for part in level} == {3}


@pytest.mark.parametrize("preset", PRESETS)
def test_stored_fields_make_the_same_configuration(preset):
    config = get_config(preset)
    again = Config.from_dict(config.to_dict())
    assert again == config and again.to_dict() == config.to_dict()


def test_a_configuration_holds_partitions_not_text():
    assert get_config("smoke").partitions == (
        (Full(2),),
        (HeadPartition(1, 3, 1), HeadPartition(1, 3, 2)),
        (HeadPartition(1, 3, 1), HeadPartition(1, 3, 4)),
        (HeadPartition(1, 3, 1), HeadPartition(1, 3, 8)),
    )
    assert get_config("styleswin-256").partitions[:2] == ((ShiftedWindows(16, 4),), (ShiftedWindows(16, 8),))


def test_partitions_may_be_given_as_objects():
    text = "2x3@1/1x3@1,1x3@2/1x3@1,1x3@4"
    given = get_config("smoke", partitions=parse_levels(text, (2, 2, 2, 2)))
    assert given == get_config("smoke", partitions=text)
    assert given.to_dict()["partitions"] == text


@pytest.mark.parametrize(("preset", "text"), [("ffhq-256", ""), ("styleswin-256", "swin")])
def test_a_named_rule_holds_for_other_widths(preset, text):
    config = get_config(preset, widths=(64, 64), discriminator_widths=(8,), resolution=8)
    assert config.to_dict()["partitions"] == text
    assert config.partitions == parse_levels(text, config.level_heads)


def test_stored_text_is_parsed_where_the_preset_has_another_rule():
    fields = get_config("ffhq-256").to_dict() | {"partitions": "swin"}
    assert Config.from_dict(fields).partitions == get_config("ffhq-256", partitions="swin").partitions


# Variants


def test_a_variant_is_part_of_the_identity_where_there_is_one():
    plain = get_config("smoke")
    named = get_config("smoke", variant="dilation 2")
    assert "variant" not in plain.to_dict() and named.to_dict()["variant"] == "dilation 2"
    assert run_id(named).startswith("smoke-")
    assert run_id(named) != run_id(get_config("smoke", variant="dilation 4"))
    assert Config.from_dict(named.to_dict()) == named
    assert dataclasses.replace(named, variant="") == plain


@pytest.mark.parametrize(
    "widths, message",
    [
        ((32, 30, 16, 16), "30 at level 8 has no position embedding"),
        ((32, 32, 4, 16), "4 at level 16 has no position embedding"),
    ],
)
def test_widths_that_no_network_has_are_refused(widths, message):
    assert message in refusal(get_config, "smoke", widths=widths)


def test_a_width_that_its_heads_do_not_divide_is_refused_when_it_is_built():
    config = get_config("smoke", widths=(33, 32, 16, 16))
    assert "dim 33 does not split into 2 heads" in refusal(build_generator, config)


@torch.no_grad()
@pytest.mark.parametrize(
    "fields",
    [
        {"latent_dim": 7}, {"latent_dim": 1}, {"discriminator_widths": (5, 7, 3)}, {"widths": (6, 8, 12, 20)},
        {"widths": (32, 36, 16, 16)},
    ],
)  # fmt: skip
def test_odd_sizes_that_are_allowed_do_work(fields):
    config = get_config("smoke", **fields)
    images = build_generator(config)(torch.randn(4, config.latent_dim))
    assert images.shape == (4, 3, 32, 32) and build_discriminator(config)(images).isfinite().all()
