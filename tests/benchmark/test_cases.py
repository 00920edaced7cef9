"""The cases of scripts/bench.py: prepared as they say, measured in any package, their jobs in turn."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from stylenat.attention import dispatch
from stylenat.attention.partitions import parse_partitions
from stylenat.benchmark import cases
from stylenat.benchmark.cases import CASES, COMPARISONS, Case, Job, jobs, measure, measured_package, prepare
from stylenat.benchmark.matmul import generator_products, macs
from stylenat.models import mlp, stylenat
from stylenat.models.build import build_generator
from stylenat.presets import get_config
from stylenat.training.trainer import Trainer

TINY = Case("tiny", "tiny", "sample", 32, 2, rounds=2, preset="smoke")


@pytest.fixture
def tiny(monkeypatch):
    """A case a kind, of the smallest networks."""
    for kind in ("sample", "generator", "step"):
        monkeypatch.setitem(CASES, f"tiny-{kind}", dataclasses.replace(TINY, kind=kind))


def test_sampling_is_made_of_the_generator_s_products(tiny):
    prepared = prepare(CASES["tiny-sample"])
    expected = generator_products(build_generator("smoke"), 2)
    assert macs(prepared.products) == macs(expected) and prepared.products.total() == expected.total()
    images = prepared.call()
    assert images.shape == (2, 3, 32, 32)
    assert not images.requires_grad


def test_a_backward_pass_has_twice_the_products_of_the_forward(tiny):
    forward = macs(prepare(CASES["tiny-sample"]).products).weights
    both = macs(prepare(CASES["tiny-generator"]).products).weights
    assert 2.9 * forward < both <= 3 * forward  # the first layers need no gradient of their input


def test_a_step_trains_and_counts_no_r1(tiny):
    prepared = prepare(CASES["tiny-step"])
    assert prepared.warm
    assert "r1" not in prepared.call()  # the first step, with R1, was made
    config = get_config("smoke")
    trainer = Trainer(config, "meta")
    with cases.Recorder() as recorder:
        losses = trainer.step(torch.zeros(config.batch_size, 3, 32, 32, dtype=torch.uint8))
    assert "r1" in losses
    assert macs(prepared.products)[0] < macs(recorder.products)[0]


@pytest.mark.parametrize("name", ["tiny-sample", "tiny-generator", "tiny-step"])
def test_a_measurement_s_numbers_agree(tiny, name):
    found = measure(name)
    assert found.rounds == 2
    assert 0 < found.ratio_low <= found.ratio <= found.ratio_high
    assert found.matmul_seconds * found.ratio == pytest.approx(found.seconds)
    assert found.macs == sum(macs(prepare(CASES[name]).products))
    assert found.peak_bytes > 50 * 2**20


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_every_case_has_a_configuration_of_today(case):
    config = cases.case_config(case, measured_package())
    assert (config.resolution, len(config.widths)) == (case.resolution, case.resolution.bit_length() - 2)
    assert case.kind != "step" or config.batch_size == case.batch
    assert f"batch {case.batch}" in case.title or case.batch == 1
    if not case.preset:
        published = get_config("ffhq-1024")
        assert config.widths == published.widths[: len(config.widths)]
    with torch.device("meta"):
        assert build_generator(config).resolution == case.resolution


def test_checkpointing_is_asked_for(tiny, monkeypatch):
    seen = []
    package = measured_package()

    def watched(config, device):
        seen.append((device, config.checkpoint_levels))
        return package.trainer(config, device)

    monkeypatch.setattr(cases, "measured_package", lambda: package._replace(trainer=watched))
    prepare(CASES["tiny-step"], checkpointed=True)
    assert seen == [("meta", ()), ("cpu", (16, 32))]


def test_the_mlp_s_slices_can_be_undone(monkeypatch):
    monkeypatch.setattr(stylenat, "mlp", mlp.mlp)
    cases.undo("mlp")
    assert stylenat.mlp is mlp.plain_mlp


OLD_TILED = """
def attend(q, k, v, partition, bias):
    return q + 10 * partition.heads + bias
"""


def test_an_older_attention_takes_the_place_of_today_s(tmp_path, monkeypatch):
    for name in ("tiled", "fused"):
        monkeypatch.setitem(dispatch.BACKENDS, name, dispatch.BACKENDS[name])
    folder = tmp_path / "stylenat" / "attention"
    folder.mkdir(parents=True)
    (folder / "tiled.py").write_text(OLD_TILED)
    cases.undo("attention", tmp_path)
    assert not dispatch.BACKENDS["fused"].suits(torch.zeros(1), [], False), "it would be taken instead"
    q = torch.ones(1, 1, 1, 3, 1)
    partitions = parse_partitions("1x3@1,2x5@1")
    out = dispatch.BACKENDS["tiled"].attend(q, q, q, partitions, (0.25, 0.5), 2.0)
    assert out.flatten().tolist() == [12.25, 22.5, 22.5]  # scaled, a partition at a time


def test_attention_of_today_s_kind_is_no_older_one_and_is_not_run(monkeypatch):
    monkeypatch.setattr(cases, "_load", None)  # a second run would register its operators anew
    with pytest.raises(SystemExit, match="give a base up to commit"):
        cases.undo("attention", ROOT)


def test_errors_of_something_exact_are_small_and_of_something_wrong_are_not():
    x = torch.linspace(1, 2, 8, dtype=torch.float64, requires_grad=True)
    output, gradient = cases.relative_errors(torch.exp, torch.exp, [x])
    assert 0 < output < 1e-6 and 0 < gradient < 1e-6
    (output,) = cases.relative_errors(lambda x: 1.01 * x.exp(), torch.exp, [x], gradients=False)
    assert output == pytest.approx(0.01, rel=1e-3)


def test_jobs_measure_before_and_now_in_turn():
    assert list(jobs(["step-64"], with_base=True, everything=False)) == [
        Job("measure", "before", "step-64"),
        Job("measure", "now", "step-64"),
        Job("measure", "checkpointed", "step-64", {"checkpointed": True}),
    ]
    assert list(jobs(["sample-256"], with_base=False, everything=False)) == [
        Job("measure", "now", "sample-256")
    ]


def test_all_jobs_are_what_the_page_needs():
    names = [*CASES, *COMPARISONS]
    every = [(job.task, job.case, job.state) for job in jobs(names, with_base=True, everything=True)]
    assert len(set(every)) == len(every) == 2 * len(CASES) + 4 + 2 * (1 + 3) + len(COMPARISONS) + 4
    without_base = [job.state for job in jobs(["sample-256"], with_base=False, everything=True)]
    states = ["now", "with all changes", "without allocator", "without mlp", "now", "now", "now"]
    assert without_base == states


OLD_PACKAGE = {
    "__init__.py": "",
    "presets.py": """
class Config:
    def build_generator(self):
        return "old generator"
def get_config(preset, **overrides):
    return Config()
""",
    "training.py": "def Trainer(config, device):\n    return 'old trainer'\n",
}


@pytest.mark.parametrize("keeping", [False, True])
def test_a_package_without_rooms_is_measured_by_this_clone_s_benchmark(tmp_path, keeping):
    package = tmp_path / "stylenat"
    package.mkdir()
    for name, text in OLD_PACKAGE.items():
        (package / name).write_text(text)
    if keeping:
        (package / "device.py").write_text("")
    code = f"""
import sys, json
sys.path.insert(0, {str(ROOT / "scripts")!r})
import bench
bench.use_this_benchmark()
from stylenat.benchmark import cases
package = cases.measured_package()
config = package.get_config("any")
made = [package.build_generator(config), package.trainer(config, "cpu")]
print(json.dumps([cases.__file__, *made, package.keeps_freed_memory]))
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    file, *found = json.loads(done.stdout)
    assert Path(file) == ROOT / "stylenat" / "benchmark" / "cases.py"
    assert found == ["old generator", "old trainer", keeping]
