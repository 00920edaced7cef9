"""What every generator offers, and StyleNAT's own."""

import pytest
import torch
from helpers import Plain, refusal

from stylenat.attention.layers import FullAttention, HydraNeighborhoodAttention
from stylenat.attention.partitions import Full, HeadPartition, ShiftedWindows
from stylenat.attention.shifted_windows import ShiftedWindowAttention
from stylenat.models.base import Generator
from stylenat.models.build import build_generator
from stylenat.models.stylenat import StyleNAT, make_attention
from stylenat.presets import get_config


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return build_generator(get_config("smoke", latent_dim=8, mapping_depth=1)).eval()


def test_a_generator_states_its_levels_and_sizes(generator):
    assert isinstance(generator, Generator)
    assert generator.resolutions == (4, 8, 16, 32) and generator.resolution == 32
    assert generator.widths == (32, 32, 16, 16)
    assert generator.latent_dim == 8 and generator.num_styles == 8
    assert [generator.first_style(side) for side in generator.resolutions] == [0, 2, 4, 6]
    assert generator.mean_style is None and generator.checkpoint_levels == ()


def test_a_generator_is_where_its_parameters_are(generator):
    assert generator.device == torch.device("cpu")
    with torch.device("meta"):
        assert build_generator("smoke").device == torch.device("meta")


def test_what_is_missing_cannot_be_built():
    class Nothing(Generator):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing((4, 8), (8, 8), 8)


def test_levels_that_are_not_there(generator):
    expected = "level 12 is none of this generator's: take one of 4, 8, 16, 32"
    assert refusal(generator.level_index, 12) == expected
    assert refusal(generator.first_style, 12) == expected
    assert refusal(generator.attention, 12, 0) == expected
    assert refusal(generator.attention, 8, 2) == "block 2 of level 8 is not there: take 0 or 1"


def test_a_generator_need_not_have_attention():
    plain = Plain()
    assert refusal(plain.attention, 8, 0).startswith("level 8 of Plain has no attention to show")
    assert refusal(plain.attention, 12, 0).startswith("level 12 is none of this generator's")


def test_stages_hold_every_module_that_works_on_a_level(generator):
    """In their order, and together they hold all parameters but the mapping's and the constant's."""
    stages = generator.stages()
    assert [stage.resolution for stage in stages] == [4, 8, 16, 32]
    modules = [module for stage in stages for module in stage.modules]
    called = []
    hooks = [module.register_forward_hook(lambda module, *_: called.append(module)) for module in modules]
    with torch.no_grad():
        generator(torch.zeros(1, 8))
    for hook in hooks:
        hook.remove()
    assert called == modules
    inside = {id(parameter) for module in modules for parameter in module.parameters()}
    outside = [name for name, parameter in generator.named_parameters() if id(parameter) not in inside]
    assert outside == ["style.1.weight", "style.1.bias", "input.input"]


def test_attention_layers_are_those_of_the_state_dict(generator):
    for i, side in enumerate(generator.resolutions):
        for block in (0, 1):
            weight = generator.attention(side, block).qkv.weight
            assert weight is generator.get_parameter(f"layers.{i}.blocks.{block}.attn.qkv.weight")
    assert [generator.attention(side, 0).partitions for side in generator.resolutions] == list(
        generator.partitions
    )


@pytest.mark.parametrize(
    ("partitions", "kind"),
    [
        ((Full(2),), FullAttention),
        ((ShiftedWindows(2, 4),), ShiftedWindowAttention),
        ((HeadPartition(1, 3), HeadPartition(1, 3)), HydraNeighborhoodAttention),
    ],
)
def test_the_partition_decides_the_kind_of_attention(partitions, kind):
    layer = make_attention(8, partitions, 4)
    assert type(layer) is kind and layer.partitions == partitions and layer.heads == 2
    assert layer(torch.zeros(1, 4, 4, 8)).shape == (1, 4, 4, 8)


@pytest.mark.parametrize(
    ("partitions", "expected"),
    [
        ((ShiftedWindows(2, 16),), "level 8: windows of 16 × 16 do not fill 8 × 8 tokens"),
        ((HeadPartition(2, 3, 3),), "level 8: kernel k=3 with dilation d=3"),
    ],
)
def test_networks_check_their_levels_when_built_directly(partitions, expected):
    assert refusal(StyleNAT, (8, 8), [(Full(2),), partitions], 8, 1).startswith(expected)
