"""Generators side by side: by turns, each in its own memory, next to its own products."""

import dataclasses

import pytest
import torch
from helpers import refusal
from test_commands import refused

from stylenat.benchmark import compare as module
from stylenat.benchmark.compare import INTERLEAVED, compare, filters_share
from stylenat.benchmark.throughput import Protocol, measure
from stylenat.cli import main
from stylenat.device import pick_precision
from stylenat.models.base import count_parameters
from stylenat.models.build import build_generator
from stylenat.reporting.rates import read_comparisons

QUICK = Protocol("quick", (1, 2), rounds=2, warmup=1, tf32=False)
TWO = ("smoke", "stylegan-xl-32")


@pytest.fixture
def light(monkeypatch):
    """Without the processes that measure memory, each of which loads PyTorch."""
    monkeypatch.setattr(module, "_peak_apart", lambda name, batch, *_: 1000 * batch + len(name))


def test_each_round_times_every_generator_once(light, monkeypatch):
    order = []
    timed = module.timed

    def count(call, device):
        order.append(call)
        return timed(call, device)

    monkeypatch.setattr(module, "timed", count)
    monkeypatch.setattr(module, "filters_share", lambda *_: 0.0)
    calls = []
    monkeypatch.setattr(
        module._Timed, "time", lambda self, own=module._Timed.time: (calls.append(self.preset), own(self))
    )
    found = compare(TWO, QUICK, "cpu")
    assert calls == 2 * ["smoke", "smoke", "stylegan-xl-32", "stylegan-xl-32"] and len(order) == 8
    assert found.presets == list(TWO) and found.rounds == 2 and found.dtype == "float32"
    for rate in found.rates:
        assert len(rate.seconds) == len(rate.matmul_seconds) == 2 and min(rate.seconds) > 0
        assert rate.parameters == count_parameters(build_generator(rate.preset))
        assert rate.peak_memory_bytes == 1000 * rate.batch + len(rate.preset)
    one, two = found.of("smoke")
    assert one.weights_gmac == two.weights_gmac > 0  # of an image
    assert one.attention_gmac > 0 == one.filters_gmac
    xl, _ = found.of("stylegan-xl-32")
    assert xl.filters_gmac > 0 == xl.attention_gmac


def test_filters_take_a_share_of_stylegan_xl_s_time_alone():
    z = torch.randn(1, 64)
    with torch.inference_mode():
        assert 0.05 < filters_share(build_generator("stylegan-xl-32").eval(), z) < 1
        assert filters_share(build_generator("hit-32").eval(), z) == 0


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own():
    held = torch.ones(2**28)  # 1 GiB here
    peak = module._peak_apart("smoke", 1, QUICK, torch.device("cpu"))
    assert 100 * 2**20 < peak < held.nbytes
    assert module._peak_apart("smoke", 512, QUICK, torch.device("cpu")) > peak + 50 * 2**20


def test_the_command_prints_and_records(light, empty_workspace, monkeypatch, capsys):
    assert main(["compare", "smoke", "hit-32", "--rounds", "1", "--batches", "1", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "| `smoke` | 198,491 |" in printed and "| `hit-32` | 468,051 |" in printed
    assert not read_comparisons()
    monkeypatch.setattr(module, "COMPARED", {"smoke": "StyleNAT"})
    assert main(["compare", "--rounds", "1", "--batches", "1", "--device", "cpu", "--record"]) == 0
    (found,) = read_comparisons()
    assert found.presets == ["smoke"] and found.rounds == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smkoe"], "unknown preset 'smkoe', did you mean 'smoke'"),
        (["smoke", "smoke"], "preset 'smoke' is named twice: name it once"),
        (["smoke", "--record"], "--record keeps the paper's generators: leave out smoke"),
        (["--rounds", "0"], "rounds=0: give whole numbers above 0"),
        (["--batches", "x"], "batches 'x': write numbers"),
        (["--dtype", "half"], "'half' is not one of 'float32', 'bfloat16', 'float16', 'auto'"),
        (["--dtype", "float16", "--device", "cpu"], "dtype 'float16' is for a GPU: on a CPU take float32"),
        (["--device", "nowhere"], "device 'nowhere' is not available here"),
    ],
)
def test_mistakes_are_one_line(capsys, empty_workspace, words, message):
    before = sorted(empty_workspace.rglob("*"))
    assert message in refused(capsys, "compare", *words)
    assert sorted(empty_workspace.rglob("*")) == before


def test_a_damaged_record_shows_before_anything_is_timed(capsys, empty_workspace):
    (empty_workspace / "results" / "generators.json").write_text("{}")
    assert "results/generators.json is damaged" in refused(capsys, "compare", "--record")


def test_float16_is_refused_on_a_cpu_and_taken_on_a_gpu():
    half = dataclasses.replace(INTERLEAVED, dtype="float16")
    assert "is for a GPU" in refusal(measure, build_generator("smoke"), half, "smoke", "cpu")
    assert "is for a GPU" in refusal(pick_precision, "float16", "cpu")
    assert pick_precision("float16", torch.device("cuda")).dtype == torch.float16
