"""The plan: its arms, what they share, its contrasts and cells."""

from dataclasses import replace

import pytest
import torch
from helpers import refusal

from stylenat.attention.partitions import format_levels, published_levels
from stylenat.experiments.grid import Contrast, grid_names, load_grid
from stylenat.models.base import count_parameters
from stylenat.models.build import build_discriminator, build_generator
from stylenat.presets import PRESETS
from stylenat.training.trainer import Trainer

ARMS = [
    "swin",
    "na",
    "hydra-2",
    "hydra-4",
    "dilated",
    "kernels",
    "full",
    "hydra-2-no-bias",
    "hydra-2-no-flips",
]
# The planned networks, narrow and on bundled images, so that a step takes no time.
NARROW = {
    "widths": (16, 16, 16, 16),
    "discriminator_widths": (8, 8, 8),
    "latent_dim": 16,
    "data": "noto-faces",
}
NARROW |= {"batch_size": 4, "head_dim": 4}


@pytest.fixture(scope="module")
def grid():
    return load_grid("avatars-32")


def test_the_arms_and_their_seeds(grid):
    assert [variant.name for variant in grid.variants] == ARMS
    counts = {name: len(grid.seeds_of(name)) for name in ARMS}
    tested = ("swin", "na", "hydra-2", "hydra-4", "hydra-2-no-flips")
    assert counts == {**dict.fromkeys(ARMS, 6), **dict.fromkeys(tested, 8)}
    cells = grid.cells()
    assert len(cells) == 64 and len({cell.run_id for cell in cells}) == 64


def test_the_pilots_seeds_are_not_used_again(grid):
    pilot = {cell.seed for cell in load_grid("avatars-32-pilot").cells()}
    assert pilot and pilot.isdisjoint({cell.seed for cell in grid.cells()})


def test_parameters_of_all_arms_agree_within_a_percent(grid):
    counts = {name: count_parameters(build_generator(grid.cell(name).config)) for name in ARMS}
    for name, count in counts.items():
        assert abs(count / counts["na"] - 1) < 0.01, f"{name} has {count}, na {counts['na']}"


def test_every_level_from_8_on_has_four_heads(grid):
    for name in ARMS:
        for level in grid.cell(name).config.partitions:
            assert sum(part.heads for part in level) == 4


def test_arms_differ_in_what_they_name_and_nothing_else(grid):
    changes = {"hydra-2-no-bias": {"position_bias": False}, "hydra-2-no-flips": {"flips": False}}
    base = grid.cell("na").config
    for name in ARMS:
        config = grid.cell(name).config
        assert config == replace(base, partitions=config.partitions, variant=name, **changes.get(name, {}))
        assert config.paired
    assert grid.cell("hydra-2").config.partitions == grid.cell("hydra-2-no-flips").config.partitions


@pytest.mark.parametrize("arm", ARMS)
def test_first_weights_that_arms_share_are_the_same(grid, arm):
    def networks(name):
        trainer = Trainer(grid.cell(name, overrides=NARROW).config, "cpu")
        return trainer.generator.state_dict(), trainer.discriminator.state_dict()

    generator, discriminator = networks("na")
    own, own_discriminator = networks(arm)
    assert all(torch.equal(own_discriminator[name], tensor) for name, tensor in discriminator.items())
    shared = [name for name in own if name in generator and own[name].shape == generator[name].shape]
    tables = [name for name in own if "rpb" in name or "tables" in name]
    assert {name for name in own if name not in tables} <= set(shared)
    assert all(torch.equal(own[name], generator[name]) for name in shared)


def test_seeds_begin_differently_and_unpaired_runs_as_ever(grid):
    config = grid.cell("na", overrides=NARROW).config
    name = "layers.1.blocks.0.attn.qkv.weight"
    first = Trainer(config, "cpu").generator.state_dict()[name]
    assert not torch.equal(first, Trainer(replace(config, seed=1), "cpu").generator.state_dict()[name])
    plain = replace(config, paired=False)
    torch.manual_seed(plain.seed)
    as_ever = build_generator(plain).state_dict()
    assert torch.equal(Trainer(plain, "cpu").generator.state_dict()[name], as_ever[name])


def test_latents_and_augmentations_are_the_same_with_and_without_flips(grid, monkeypatch):
    drawn = {}
    for name in ("hydra-2", "hydra-2-no-flips", "full"):
        trainer = Trainer(grid.cell(name, overrides=NARROW).config, "cpu")
        latents = []
        draw = trainer._latents
        monkeypatch.setattr(
            trainer, "_latents", lambda n, f=draw, kept=latents: kept.append(f(n)) or kept[-1]
        )
        trainer.step(torch.full((4, 3, 32, 32), 128, dtype=torch.uint8))
        drawn[name] = torch.cat(latents)
    assert torch.equal(drawn["hydra-2"], drawn["hydra-2-no-flips"])
    assert torch.equal(drawn["hydra-2"], drawn["full"])


def test_at_the_papers_size_hydra_2_is_the_published_model():
    grid = load_grid("ffhq-256")
    config = grid.cell("hydra-2").config
    assert config.partitions == published_levels(config.level_heads)
    assert replace(config, variant="", paired=False) == PRESETS["ffhq-256"]
    assert [level[0].window_size for level in grid.cell("swin").config.partitions[1:]] == [8] * 6


def test_contrasts_have_the_papers_signs(grid):
    signs = {contrast.name: contrast.sign for contrast in grid.contrasts}
    assert grid.primary.name == "hydra-2 − na"
    assert signs == {
        "hydra-2 − na": -1, "na − swin": -1, "hydra-4 − hydra-2": 1, "hydra-2 − hydra-2-no-flips": -1,
        "hydra-2 − dilated": 0, "hydra-2 − kernels": 0, "hydra-2 − full": 0, "hydra-2 − hydra-2-no-bias": 0,
    }  # fmt: skip
    assert Contrast("a", "b").sign == 0
    assert [contrast.name for contrast in grid.secondary] == [
        "na − swin", "hydra-4 − hydra-2", "hydra-2 − hydra-2-no-flips"
    ]  # fmt: skip


def test_the_primary_contrasts_runs_come_first_and_then_the_secondary_ones(grid):
    order = [(cell.variant, cell.seed) for cell in grid.cells()]
    assert order[:16] == [(name, seed) for seed in range(8) for name in ("na", "hydra-2")]
    assert order[16:19] == [("swin", 0), ("hydra-4", 0), ("hydra-2-no-flips", 0)]
    assert {name for name, _ in order[40:]} == {"dilated", "kernels", "full", "hydra-2-no-bias"}
    assert len(set(order)) == len(order) == 64


@pytest.mark.parametrize(
    "name", ["smoke", "avatars-32-pilot", "avatars-32", "noto-faces-32", "avatars-64", "ffhq-256"]
)
def test_every_grid_makes_configurations_that_fit(name):
    grid = load_grid(name)
    assert name in grid_names() and grid.cells() and grid.primary
    for cell in grid.cells():
        assert cell.config.variant == cell.variant and cell.grid == name


@pytest.mark.parametrize(
    ("given", "name", "text"),
    [
        ({"dilation": 8}, "dilation 8", "2x3@1,2x3@2/2x3@1,2x3@5/2x3@1,2x3@8"),
        ({"partitions": "2x3@1,2x3@4"}, "partitions 2x3@1,2x3@4", "2x3@1,2x3@2/2x3@1,2x3@4/2x3@1,2x3@4"),
        (
            {"variant": "hydra-4", "seed": 3},
            "hydra-4",
            "2x3@1,2x3@2/1x3@1,1x3@2,2x3@4/1x3@1,1x3@2,1x3@4,1x3@8",
        ),
    ],
)
def test_a_cell_changes_one_thing(given, name, text):
    cell = load_grid("smoke").cell(**given)
    assert cell.variant == name and cell.seed == given.get("seed", 0)
    assert format_levels(cell.config.partitions) == text


def test_a_preset_is_a_grid_of_its_own_settings():
    cell = load_grid("noto-faces-32").cell("na")
    assert cell.config.data == "noto-faces" and cell.config.level_heads == (4, 4, 4, 4)
    long = load_grid("noto-32-long").cell(dilation=8, overrides={"seed": 1})
    assert long.config.nimg == 160_000 and long.seed == 1 and long.config.level_heads == (4, 4, 2, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a cell changes one thing, and nothing is given: give variant, dilation or partitions"),
        (
            {"variant": "na", "dilation": 2},
            "a cell changes one thing, and variant='na' and dilation=2 is given",
        ),
        ({"variant": "hydra-3"}, "unknown variant 'hydra-3', did you mean"),
        ({"dilation": 11}, "dilation 11 with kernel size 3 does not fit 32 × 32 tokens: give 1 to 10"),
        ({"partitions": "2x3@1"}, "partitions '2x3@1' hold 2 heads, level 8 has 4: make them equal"),
        ({"partitions": "4x3"}, "partitions '4x3': write each as heads x kernel @ dilation"),
    ],
)
def test_cells_that_are_refused(given, message):
    assert refusal(load_grid("smoke").cell, **given).startswith(message)


def test_an_unknown_grid():
    assert refusal(load_grid, "avatars-23").startswith("unknown grid 'avatars-23', did you mean 'avatars-32'")


def test_discriminators_are_the_same_size(grid):
    assert len({count_parameters(build_discriminator(grid.cell(name).config)) for name in ARMS}) == 1
