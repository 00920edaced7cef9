"""StyleSwin's windows against plain loops over queries and keys."""

import itertools

import pytest
import torch
from helpers import make_window_layer, refusal, slow_window_weights

from stylenat.attention.layers import FullAttention, HydraNeighborhoodAttention
from stylenat.attention.partitions import ShiftedWindows, format_partitions, parse_partitions
from stylenat.attention.shifted_windows import ShiftedWindowAttention
from stylenat.models.build import build_generator
from stylenat.presets import get_config
from stylenat.training.trainer import Trainer


def slow_forward(layer, x):
    height, width = x.shape[1:3]
    v = (x @ layer.qkv.weight.T + layer.qkv.bias)[0].view(height, width, 3, layer.heads, -1)[:, :, 2]
    rows = []
    for query in itertools.product(range(height), range(width)):
        weights = slow_window_weights(layer, x, query)
        rows.append(torch.einsum("nhw,hwnc->nc", weights, v).flatten())
    return (torch.stack(rows).view(1, height, width, -1)) @ layer.proj.weight.T + layer.proj.bias


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 8), (12, 4), (4, 4)])
def test_windows_are_the_definition(height, width):
    layer, x = make_window_layer(), torch.randn(1, height, width, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), slow_forward(layer, x), rtol=1e-9, atol=1e-9)


def test_gradients_are_the_definitions():
    layer, x = make_window_layer(heads=2, size=2, dim=4), torch.randn(1, 4, 4, 4, dtype=torch.float64)
    x.requires_grad_()
    weights = torch.randn(1, 4, 4, 4, dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    found, expected = (
        torch.autograd.grad((out * weights).sum(), inputs) for out in (layer(x), slow_forward(layer, x))
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_a_batch_is_its_images_one_by_one():
    layer, x = make_window_layer(), torch.randn(3, 8, 12, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), torch.cat([layer(one) for one in x.split(1)]))


def test_moving_an_image_by_a_window_moves_the_plain_half_alone():
    layer = make_window_layer()
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64)
    q, k, v = layer.project(x)
    plain, shifted = layer.attend(q, k, v).chunk(2, dim=3)
    rolled = layer.attend(*(part.roll((4, 4), (1, 2)) for part in (q, k, v)))
    plain_rolled, shifted_rolled = rolled.roll((-4, -4), (1, 2)).chunk(2, dim=3)
    torch.testing.assert_close(plain_rolled, plain)
    assert not torch.allclose(shifted_rolled, shifted)  # borders cut its windows


def test_a_window_as_large_as_the_grid_sees_everything():
    layer = make_window_layer()
    v = torch.zeros(1, 4, 4, 4, 2, dtype=torch.float64, requires_grad=True)
    q, k = torch.randn(2, 1, 4, 4, 4, 2, dtype=torch.float64)
    layer.attend(q, k, v)[0, 0, 0].sum().backward()
    assert (v.grad > 0).all()


# Refusals


def test_inputs_that_do_not_fit():
    message = refusal(ShiftedWindowAttention, 10, ShiftedWindows(4, 4))
    assert message == "dim 10 does not split into 4 heads: take heads that divide dim"
    message = refusal(make_window_layer(), torch.zeros(1, 8, 6, 8, dtype=torch.float64))
    assert message == "windows of 4 × 4 do not fill 8 × 6 tokens: give multiples of 4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3xswin8", "heads 3 of shifted windows: give an even int of at least 2"),
        ("0xswin8", "heads 0 of shifted windows: give an even int of at least 2"),
        ("4xswin7", "window_size 7 of shifted windows: give an even int of at least 2"),
        ("2x7@1,2xswin8", "partitions '2x7@1,2xswin8': write each as heads x kernel @ dilation"),
        ("2xswin8,2xswin8", "partitions '2xswin8,2xswin8': write each as heads x kernel @ dilation"),
    ],
)
def test_texts_that_are_no_windows(text, message):
    assert refusal(parse_partitions, text).startswith(message)


# Configurations


def test_windows_as_text_and_back():
    assert parse_partitions(" 4 x swin 8 ") == (ShiftedWindows(4, 8),)
    assert format_partitions((ShiftedWindows(16, 8),)) == "16xswin8"


def test_levels_of_both_kinds_train_together():
    """A whole training step on the meta device."""
    config = get_config("smoke", partitions="2xswin4/1x3@1,1x3@4/2xswin8", batch_size=4)
    trainer = Trainer(config, "meta")
    kinds = [type(level.blocks[0].attn) for level in trainer.generator.layers]
    assert kinds == [
        FullAttention,
        ShiftedWindowAttention,
        HydraNeighborhoodAttention,
        ShiftedWindowAttention,
    ]
    losses = trainer.step(torch.zeros(4, 3, 32, 32, dtype=torch.uint8, device="meta"))
    assert losses and all(loss.device.type == "meta" for loss in losses.values())
    for level in trainer.generator.layers:
        assert all(parameter.grad is not None for parameter in level.blocks[0].attn.parameters())


def test_the_name_swin_means_windows_at_every_level():
    levels = get_config("smoke", partitions="swin").partitions
    assert list(map(format_partitions, levels)) == ["2xswin4", *["2xswin8"] * 3]


@pytest.mark.parametrize(("preset", "count"), [("styleswin-256", 48_929_512), ("styleswin-1024", 40_862_990)])
def test_parameters_of_styleswin(preset, count):
    with torch.device("meta"):
        generator = build_generator(get_config(preset))
    assert sum(parameter.numel() for parameter in generator.parameters()) == count
