"""Attention maps: the softmax's own weights, for every kind of attention, against slow loops."""

import copy
import itertools

import pytest
import torch
from helpers import make_window_layer, slow_window_weights

from stylenat.attention.layers import FullAttention, HydraNeighborhoodAttention
from stylenat.attention.partitions import parse_partitions
from stylenat.attention.reference import receptive_field
from stylenat.errors import UserError
from stylenat.models.build import build_generator
from stylenat.presets import get_config
from stylenat.sampling.attention_maps import attention_maps, attention_weights, by_partition
from stylenat.sampling.sample import mix_styles, styles

MIXED = parse_partitions("1x3@1,2x5@2,1x3@4")
QUERIES = [(0, 0), (0, 6), (5, 5), (11, 12), (3, 12)]


def randomized(layer):
    torch.manual_seed(0)
    layer = layer.double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def hydra_by_hand(layer, x, query):
    """Softmax weights `(heads, H, W)` of one query, key by key over the receptive field."""
    height, width = x.shape[1:3]
    size = x.shape[3] // layer.heads
    projected = (x @ layer.qkv.weight.T + layer.qkv.bias)[0].view(height, width, 3, layer.heads, size)
    weights, first = x.new_zeros(layer.heads, height, width), 0
    for part, table in zip(layer.partitions, layer.rpb, strict=True):
        field = receptive_field(part, height, width, query).tolist()
        keys = [(i, j) for i, j in itertools.product(range(height), range(width)) if field[i][j]]
        for own in range(part.heads):
            head = first + own
            logits = []
            for key in keys:
                steps = [
                    (b - a) // part.dilation + part.kernel_size - 1 for a, b in zip(query, key, strict=True)
                ]
                q, k = projected[query][0, head], projected[key][1, head]
                logits.append(q @ k / size**0.5 + table[own, steps[0], steps[1]])
            for key, weight in zip(keys, torch.stack(logits).softmax(0), strict=True):
                weights[head][key] = weight
        first += part.heads
    return weights


@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize("query", QUERIES)
def test_weights_of_hydra_attention(query, backend):
    layer = randomized(HydraNeighborhoodAttention(8, MIXED))
    layer.backend = backend
    x = torch.randn(2, 12, 13, 8, dtype=torch.float64)
    found = attention_weights(layer, x, query)
    assert found.shape == (2, 4, 12, 13)
    for image, own in zip(x.split(1), found, strict=True):
        torch.testing.assert_close(own, hydra_by_hand(layer, image, query), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.sum((2, 3)), torch.ones(2, 4, dtype=torch.float64))
    for share, part in zip(found.split([p.heads for p in MIXED], 1), MIXED, strict=True):
        field = receptive_field(part, 12, 13, query)
        assert (share[..., ~field] == 0).all() and (share[..., field] > 0).all()


def test_weights_of_full_attention():
    layer = randomized(FullAttention(8, 2))
    x = torch.randn(1, 4, 4, 8, dtype=torch.float64)
    q, k, _ = layer.project(x)
    for query in ((0, 3), (2, 1)):
        logits = torch.einsum("nc,hwnc->nhw", q[0][query], k[0]) / 2
        for i, j in itertools.product(range(4), range(4)):
            logits[:, i, j] += layer.rpb[:, i - query[0] + 3, j - query[1] + 3]
        expected = logits.flatten(1).softmax(1).view(1, 2, 4, 4)
        torch.testing.assert_close(attention_weights(layer, x, query), expected)


@pytest.mark.parametrize("query", [(0, 0), (3, 4), (7, 11), (1, 10)])
def test_weights_of_windows(query):
    layer, x = make_window_layer(), torch.randn(1, 8, 12, 8, dtype=torch.float64)
    found = attention_weights(layer, x, query)[0]
    expected = slow_window_weights(layer, x, query)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert (found[expected == 0] < 1e-30).all()  # the mask's -100 leaves next to nothing
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(4, dtype=torch.float64))


# In a generator


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    generator = build_generator(get_config("smoke", latent_dim=8, mapping_depth=1))
    for parameter in generator.requires_grad_(False).eval().parameters():
        parameter.normal_(std=0.3)
    return generator


@pytest.mark.parametrize("block", [0, 1])
def test_maps_are_those_of_the_layers_own_input(generator, block):
    w = styles(generator, [0, 1])
    attention, inputs = generator.layers[2].blocks[block].attn, []
    with torch.no_grad(), attention.register_forward_pre_hook(lambda _, x: inputs.append(x[0])):
        generator.synthesis(w)
    found = attention_maps(generator, w, 16, (3, 15), block=block)
    heads, shape = attention.heads, inputs[0].shape
    assert found.shape == (2, heads, *shape[1:3])
    torch.testing.assert_close(found, attention_weights(attention, inputs[0], (3, 15)))
    torch.testing.assert_close(found.sum((2, 3)), torch.ones(2, heads))
    plus = mix_styles(generator, w, w, 8)
    torch.testing.assert_close(attention_maps(generator, plus, 16, (3, 15), block=block), found)


def _stop(*_):
    raise RuntimeError("halfway")


def test_nothing_is_left_behind_in_the_generator(generator):
    generator = copy.deepcopy(generator).requires_grad_()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    w = styles(generator, [0])
    assert not attention_maps(generator, w, 8, (1, 1)).requires_grad
    with pytest.raises(UserError):
        attention_maps(generator, w, 8, (8, 0))
    last = generator.to_rgbs[-1].register_forward_pre_hook(_stop)
    with pytest.raises(RuntimeError, match="halfway"):  # an error on the way, after the last block
        attention_maps(generator, w, 8, (1, 1))
    last.remove()
    with torch.no_grad():
        attention_maps(generator, w, 8, (1, 1))
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert not any(module._forward_pre_hooks for module in generator.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in generator.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())


def test_partitions_average_their_heads():
    weights = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    means = by_partition(weights, MIXED)
    assert means.shape == (1, 3, 2, 2) and means[0, :, 0, 0].tolist() == [0, 1.5, 3]


def test_queries_levels_and_blocks_that_are_not_there(generator):
    w = styles(generator, [0])

    def refusal(*args, **kwargs):
        with pytest.raises(UserError) as caught:
            attention_maps(generator, w, *args, **kwargs)
        return str(caught.value)

    for query in ((16, 0), (0, -1)):
        assert refusal(16, query) == (
            f"query {query} is outside of 16 × 16 tokens: give a row in 0…15 and a column in 0…15"
        )
    assert refusal(12, (0, 0)) == "level 12 is none of this generator's: take one of 4, 8, 16, 32"
    assert refusal(16, (0, 0), block=2) == "block 2 of level 16 is not there: take 0 or 1"
