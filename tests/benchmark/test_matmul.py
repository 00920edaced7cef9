"""Products are counted as by hand, and the matmul time is that of the dense ones."""

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stylenat import neighborhood_attention
from stylenat.attention.partitions import parse_partitions
from stylenat.benchmark import matmul
from stylenat.benchmark.matmul import MatmulTime, Recorder, Shape, generator_products, macs
from stylenat.models.build import build_discriminator, build_generator


@pytest.fixture(scope="module")
def generator():
    return build_generator("smoke")


def by_hand(generator, batch):
    """Multiply-accumulates of the dense products and of attention, from the widths alone."""
    widths = [level.blocks[0].mlp.fc1.in_features for level in generator.layers]
    sides = [4 * 2**i for i in range(len(widths))]
    latent = generator.latent_dim
    dense = len(generator.style[1:]) * latent**2
    attention = 0
    for i, (width, side) in enumerate(zip(widths, sides, strict=True)):
        upper = widths[i + 1] if i + 1 < len(widths) else None
        dense += 2 * side**2 * 12 * width**2  # two blocks: qkv 3, projection 1, MLP 8
        dense += 2 * 2 * latent * 2 * width  # two AdaIN a block
        dense += 4 * side**2 * width * upper if upper else 0
        dense += 3 * (upper or width) * side**2 * (4 if upper else 1)  # to RGB
        keys = side**2
        if side > 4:
            heads = sum(part.heads for part in generator.partitions[i])
            keys = sum(part.heads * part.kernel_size**2 for part in generator.partitions[i]) / heads
        attention += 2 * 2 * side**2 * width * keys
    return batch * dense, batch * attention, 0


@pytest.mark.parametrize("batch", [1, 3])
def test_multiply_accumulates_are_those_by_hand(generator, batch):
    assert macs(generator_products(generator, batch)) == by_hand(generator, batch)


def test_published_ffhq_256_takes_95_billion():
    with torch.device("meta"):
        generator = build_generator("ffhq-256")
    found = macs(generator_products(generator, 1))
    assert found == by_hand(generator, 1) and round(sum(found) / 1e9) == 95


def test_every_product_but_the_mapping_s_belongs_to_a_level(generator):
    products = generator_products(generator, 1)
    levels = {product.level for product in products}
    assert levels == {None, 4, 8, 16, 32}
    outside = sum(n * product.macs for product, n in products.items() if product.level is None)
    assert outside == len(generator.style[1:]) * generator.latent_dim**2


def test_a_backward_pass_has_two_products_a_linear_layer():
    layer = torch.nn.Linear(5, 7, device="meta")
    x = torch.empty(3, 5, device="meta", requires_grad=True)
    with Recorder() as recorder:
        layer(x).sum().backward()
    assert sum(recorder.products.values()) == 3
    assert macs(recorder.products) == (3 * 3 * 5 * 7, 0, 0)


def test_filters_are_no_dense_products():
    with torch.device("meta"):
        discriminator = build_discriminator("smoke")
        with Recorder() as recorder:
            discriminator(torch.empty(4, 3, 32, 32, requires_grad=True)).sum().backward()
    convolutions = [p for p in recorder.products if "convolution" in str(p.operator)]
    assert {p.dense for p in convolutions} == {True, False}
    for product in convolutions:
        x = [entry.size for entry in product.arguments if isinstance(entry, Shape)]
        weight = x[-1] if "backward" in str(product.operator) else x[1]
        assert product.dense != (weight[1:] == (1, 4, 4))


def test_convolutions_of_an_image_a_group_are_dense():
    """StyleGAN2's modulated convolutions, forward and backward."""
    images = torch.empty(1, 2 * 5, 8, 8, device="meta", requires_grad=True)
    weight = torch.empty(2 * 7, 5, 3, 3, device="meta", requires_grad=True)
    with Recorder() as recorder:
        torch.nn.functional.conv2d(images, weight, padding=1, groups=2).sum().backward()
    assert [product.dense for product in recorder.products] == [True, True]


def test_pytorch_s_flop_counter_knows_the_attention():
    partitions = parse_partitions("1x3@1,2x5@2")
    q, k, v = torch.empty(3, 2, 12, 13, 3, 8, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = neighborhood_attention(q, k, v, partitions)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == 2 * 2 * (2 * 12 * 13) * 8 * (1 * 9 + 2 * 25)
    assert counter.get_total_flops() == 3.5 * forward


def test_every_dense_product_is_timed_once_and_counted_as_often_as_it_is_called(generator, monkeypatch):
    products = generator_products(generator, 2)
    results = []

    def one_second(call, device):
        results.append(call())
        return 1.0

    monkeypatch.setattr(matmul, "timed", one_second)
    dense = [product for product in products if product.dense]
    assert MatmulTime(products, "cpu")() == sum(products[product] for product in dense)
    kinds = {(product.operator, product.arguments) for product in dense}
    assert len(results) == len(kinds)
    assert all(result.isfinite().all() for result in results)


def test_timing_takes_the_call_s_own_time():
    assert 0.02 <= matmul.timed(lambda: time.sleep(0.02), torch.device("cpu")) < 1
