"""Throughput: every row says what was measured and how; levels add up; mistakes are one line."""

import csv
import dataclasses

import pytest
import torch

from stylenat.attention import fused
from stylenat.benchmark import throughput
from stylenat.benchmark.matmul import generator_products, macs
from stylenat.benchmark.throughput import (
    PROTOCOLS,
    Protocol,
    ThroughputRow,
    describe,
    measure,
    measure_levels,
    roofs,
    table,
)
from stylenat.cli import main
from stylenat.errors import UserError
from stylenat.models.build import build_generator
from stylenat.models.precision import product_dtype

QUICK = Protocol("quick", (1, 2), rounds=2, warmup=1, tf32=False)


@pytest.fixture(scope="module")
def generator():
    return build_generator("smoke")


def test_rows_say_what_was_measured_and_how(generator):
    backend = "fused" if fused.installed() else "tiled"
    rows = measure(generator, QUICK, "smoke", "cpu")
    assert [row.batch for row in rows] == [1, 2]
    for row in rows:
        assert (row.protocol, row.backend, row.tf32) == ("quick", backend, False)
        assert row.latency_ms_low <= row.latency_ms <= row.latency_ms_high
        assert row.times_matmul_low <= row.times_matmul <= row.times_matmul_high and row.matmul_ms > 0
        assert row.images_per_second == pytest.approx(1e3 * row.batch / row.latency_ms, rel=0.5)
        assert row.peak_memory_mib > 50
    assert rows[1].dense_gmac == 2 * rows[0].dense_gmac
    shown = table(rows)
    assert list(shown["batch"]) == [1, 2]
    assert f"{rows[0].times_matmul:.2f} (" in shown["times matmul"][0]
    assert describe(rows[0]).endswith(f"float32, attention by {backend}; protocol quick: 2 rounds after 1")


def test_images_a_second_and_ratios_follow_from_the_times(generator, monkeypatch):
    seconds = iter([0.1, 0.2, 0.4])
    monkeypatch.setattr(throughput, "timed", lambda call, device: next(seconds))
    monkeypatch.setattr(throughput, "MatmulTime", lambda *_: lambda: 0.05)
    protocol = dataclasses.replace(QUICK, batches=(4,), rounds=3)
    (row,) = measure(generator, protocol, "smoke", "cpu")
    assert row.images_per_second == pytest.approx(4 * 3 / 0.7)
    assert (row.latency_ms_low, row.latency_ms, row.latency_ms_high) == pytest.approx((100, 200, 400))
    assert (row.times_matmul_low, row.times_matmul, row.times_matmul_high) == pytest.approx((2, 4, 8))
    assert row.matmul_ms == pytest.approx(50)


def test_the_paper_s_protocol():
    paper = PROTOCOLS["paper"]
    assert (paper.batches, paper.rounds, paper.warmup, paper.tf32) == ((1,), 500, 10, True)


def test_precision_is_the_protocol_s_for_as_long_as_it_measures():
    def flags():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()

    before = flags()
    with pytest.raises(KeyError), throughput.timing_flags(PROTOCOLS["paper"]):
        assert flags() == (True, True, False)
        raise KeyError
    assert flags() == before
    with throughput.timing_flags(QUICK):
        assert not torch.backends.cuda.matmul.allow_tf32


def test_bfloat16_is_that_of_products_and_rows_say_why(generator, monkeypatch):
    seen = []
    timed = throughput.timed
    monkeypatch.setattr(throughput, "timed", lambda call, device: seen.append(call) or timed(call, device))
    monkeypatch.setattr("stylenat.device.bfloat16_instructions", lambda device: "AMX-BF16")
    protocol = dataclasses.replace(QUICK, batches=(1,), dtype="auto")
    (row,) = measure(generator, protocol, "smoke", "cpu")
    assert (row.dtype, row.dtype_reason) == ("bfloat16", "AMX-BF16")
    assert ", bfloat16 (AMX-BF16), attention by" in describe(row)
    called = [cell.cell_contents for cell in seen[0].__closure__]
    (rounded,) = (each for each in called if isinstance(each, torch.nn.Module))
    assert product_dtype(rounded) == torch.bfloat16 and product_dtype(generator) == torch.float32
    monkeypatch.setattr("stylenat.device.bfloat16_instructions", lambda device: "")
    (row,) = measure(generator, protocol, "smoke", "cpu")
    assert (row.dtype, row.dtype_reason) == ("float32", "no instructions for bfloat16 here")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rounds": 0}, "rounds=0: give whole numbers above 0"),
        ({"batches": (1, -1)}, r"batches=\(1, -1\): give whole"),
        ({"batches": ()}, r"batches=\(\)"),
        ({"dtype": "half"}, "unknown dtype 'half'. There are float32, bfloat16, float16, auto"),
    ],
)
def test_errors_of_a_protocol(changes, text):
    with pytest.raises(UserError, match=text):
        dataclasses.replace(QUICK, **changes)


def test_levels_add_up_to_the_generator(generator):
    hooks = [len(module._forward_hooks) for module in generator.modules()]
    levels = measure_levels(generator, "cpu", rounds=1)
    assert [len(module._forward_hooks) for module in generator.modules()] == hooks
    assert [level.level for level in levels] == [4, 8, 16, 32]
    dense, attention, filters = macs(generator_products(generator, 1))
    assert attention > 0 and filters == 0
    mapping = len(generator.style[1:]) * generator.latent_dim**2
    assert sum(level.dense_gmac for level in levels) * 1e9 == pytest.approx(dense - mapping)
    assert sum(level.attention_gmac for level in levels) * 1e9 == pytest.approx(attention)
    for level in levels:
        operations = 2e9 * (level.dense_gmac + level.attention_gmac + level.filters_gmac)
        assert level.gflops * level.seconds * 1e9 == pytest.approx(operations)


def test_roofs_are_those_of_a_machine():
    product, copy = roofs("cpu")
    assert 0.1 < product < 1e6 and 0.1 < copy < 1e5


def test_the_command_writes_the_rows(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    assert main(["throughput", "smoke", "--batches", "1,3", "--rounds", "1", "--csv", str(path)]) == 0
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["batch"] for row in rows] == ["1", "3"]
    assert list(rows[0]) == [field.name for field in dataclasses.fields(ThroughputRow)]
    assert "times matmul" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--batches", "1,x"], "batches '1,x': write numbers with commas between"),
        (["--rounds", "0"], "rounds=0: give whole numbers above 0"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available here"),
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
    assert row.images_per_second > 0 and row.matmul_ms > 0
