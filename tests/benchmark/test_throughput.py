"""Products are counted as by hand, the floor times the dense ones, and every row says how it was made."""

import csv
import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stylenat import neighborhood_attention
from stylenat.attention.partitions import parse_partitions
from stylenat.benchmark import matmul as floor
from stylenat.benchmark import throughput
from stylenat.benchmark.matmul import Floor, Recorder, Shape, generator_products, macs
from stylenat.benchmark.throughput import PROTOCOLS, Protocol, measure, measure_levels, roofs, table, told
from stylenat.cli import main
from stylenat.errors import UserError
from stylenat.figures.speed import roofline
from stylenat.models.build import build_discriminator, build_generator

QUICK = Protocol("quick", (1, 2), rounds=2, warmup=1, tf32=False)
CIRCUMSTANCES = {"device", "dtype", "tf32", "backend", "threads", "torch", "stylenat", "protocol", "rounds"}


@pytest.fixture(scope="module")
def generator():
    return build_generator("smoke")


# --- counting


def by_hand(generator, batch):
    """Multiply-accumulates of the dense products and of attention, from the widths alone."""
    widths = [level.blocks[0].mlp.fc1.in_features for level in generator.layers]
    latent, sides = generator.latent_dim, [4 * 2**i for i in range(len(widths))]
    dense, attention = len(generator.style[1:]) * latent**2, 0
    for i, (width, side) in enumerate(zip(widths, sides, strict=True)):
        upper = widths[i + 1] if i + 1 < len(widths) else None
        dense += 2 * (
            side**2 * 12 * width**2 + 2 * latent * 2 * width
        )  # qkv 3, projection 1, MLP 8; two AdaIN
        dense += 4 * side**2 * width * upper if upper else 0
        dense += 3 * (upper or width) * side**2 * (4 if upper else 1)  # to RGB
        keys = side**2
        if side > 4:
            heads = sum(part.heads for part in generator.partitions[i])
            keys = sum(part.heads * part.kernel_size**2 for part in generator.partitions[i]) / heads
        attention += 2 * 2 * side**2 * width * keys
    return batch * dense, batch * attention


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
    layer, x = torch.nn.Linear(5, 7, device="meta"), torch.empty(3, 5, device="meta", requires_grad=True)
    with Recorder() as recorder:
        layer(x).sum().backward()
    assert sum(recorder.products.values()) == 3
    assert macs(recorder.products) == (3 * 3 * 5 * 7, 0)


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


def test_pytorch_s_flop_counter_knows_the_attention():
    partitions = parse_partitions("1x3@1,2x5@2")
    q, k, v = torch.empty(3, 2, 12, 13, 3, 8, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = neighborhood_attention(q, k, v, partitions)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == 2 * 2 * (2 * 12 * 13) * 8 * (1 * 9 + 2 * 25)
    assert counter.get_total_flops() == 3.5 * forward


# --- timing


def test_the_floor_times_every_dense_product_once(generator, monkeypatch):
    products, called = generator_products(generator, 2), []

    def second(call, device):
        called.append(call())
        return 1.0

    monkeypatch.setattr(floor, "timed", second)
    dense = [product for product in products if product.dense]
    assert Floor(products, "cpu")() == sum(products[product] for product in dense)
    shapes = {(product.operator, product.arguments) for product in dense}
    assert len(called) == len(shapes) and all(result.isfinite().all() for result in called)


def test_rows_say_what_was_measured_and_how(generator):
    rows = measure(generator, QUICK, "smoke", "cpu")
    assert [row["batch"] for row in rows] == [1, 2]
    for row in rows:
        assert row.keys() > CIRCUMSTANCES and row["backend"] == "tiled" and not row["tf32"]
        assert row["latency_ms_low"] <= row["latency_ms"] <= row["latency_ms_high"]
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"] and row["floor_ms"] > 0
        assert row["images_per_second"] == pytest.approx(1e3 * row["batch"] / row["latency_ms"], rel=0.5)
        assert row["peak_memory_mib"] > 50
    assert rows[1]["dense_gmac"] == 2 * rows[0]["dense_gmac"]
    shown = table(rows)
    assert list(shown["batch"]) == [1, 2] and f"{rows[0]['ratio']:.2f} (" in shown["times the floor"][0]
    assert told(rows[0]).endswith("float32, attention by tiled; protocol quick: 2 rounds after 1")


def test_the_paper_s_protocol():
    paper = PROTOCOLS["paper"]
    assert (paper.batches, paper.rounds, paper.warmup, paper.tf32) == ((1,), 500, 10, True)


def test_precision_is_the_protocol_s_for_as_long_as_it_measures():
    def flags():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()

    before = flags()
    with pytest.raises(KeyError), throughput._precision(PROTOCOLS["paper"], torch.device("cpu")):
        assert flags() == (True, True, False)
        assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype == torch.float32
        raise KeyError
    assert flags() == before
    low = dataclasses.replace(QUICK, dtype="bfloat16")
    with throughput._precision(low, torch.device("cpu")):
        assert not torch.backends.cuda.matmul.allow_tf32
        assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rounds": 0}, "rounds=0: give whole numbers above 0"),
        ({"batches": (1, -1)}, r"batches=\(1, -1\): give whole"),
        ({"batches": ()}, r"batches=\(\)"),
        ({"dtype": "half"}, "dtype 'half' is unknown: take float32 or bfloat16"),
    ],
)
def test_errors_of_a_protocol(changes, text):
    with pytest.raises(UserError, match=text):
        dataclasses.replace(QUICK, **changes)


def test_levels_and_their_image(generator):
    hooks = [len(module._forward_hooks) for module in generator.modules()]
    levels = measure_levels(generator, "cpu", rounds=1)
    assert [len(module._forward_hooks) for module in generator.modules()] == hooks
    assert [level["level"] for level in levels] == [4, 8, 16, 32]
    dense, attention = macs(generator_products(generator, 1))
    mapping = len(generator.style[1:]) * generator.latent_dim**2
    assert sum(level["dense_gmac"] for level in levels) * 1e9 == pytest.approx(dense - mapping)
    assert sum(level["attention_gmac"] for level in levels) * 1e9 == pytest.approx(attention)
    for level in levels:
        operations = 2e9 * (level["dense_gmac"] + level["attention_gmac"])
        assert level["gflops"] * level["seconds"] * 1e9 == pytest.approx(operations)
    (axes,) = roofline(levels, (100.0, 10.0)).axes
    points = [collection.get_offsets()[0].tolist() for collection in axes.collections]
    assert points == [[level["intensity"], level["gflops"]] for level in levels]
    slope, flat = axes.lines[0].get_xydata()[:2], axes.lines[0].get_xydata()[1:]
    assert slope[0, 1] == pytest.approx(10 * slope[0, 0]) and set(flat[:, 1]) == {100.0}


def test_roofs_are_those_of_a_machine():
    product, copy = roofs("cpu")
    assert 0.1 < product < 1e6 and 0.1 < copy < 1e5


def test_the_command_writes_the_rows(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    assert main(["throughput", "smoke", "--batches", "1,3", "--rounds", "1", "--csv", str(path)]) == 0
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["batch"] for row in rows] == ["1", "3"] and rows[0].keys() > CIRCUMSTANCES
    assert "times the floor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--batches", "1,x"], "batches '1,x': write numbers with commas between"),
        (["--rounds", "0"], "rounds=0: give whole numbers above 0"),
        (["--device", "cuda:99"], "device 'cuda:99' is not to be had here"),
    ],
)
def test_mistakes_are_one_line(arguments, text, capsys):
    assert main(["throughput", "smoke", *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu(generator, dtype):
    (row,) = measure(generator, dataclasses.replace(QUICK, batches=(2,), dtype=dtype), "smoke", "cuda")
    assert row["images_per_second"] > 0 and row["floor_ms"] > 0
