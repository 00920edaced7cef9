"""The pipeline's plan: its runs, their commands, what is recorded, and what the paper's grid may cost."""

import dataclasses
import json

import pytest
import torch
import yaml
from helpers import ROOT, refusal

from stylenat.benchmark.matmul import Recorder, generator_products, macs
from stylenat.config import parse_overrides
from stylenat.experiments.grid import load_grid
from stylenat.experiments.pipeline import Job, load_pipeline, overrides
from stylenat.models.build import build_discriminator, build_generator
from stylenat.presets import PRESETS, get_config, run_id

YAML = yaml.safe_load((ROOT / "workflow" / "pipeline.yaml").read_text())
COSTS = YAML["costs"]


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(YAML)


def plan(**targets):
    return load_pipeline({"targets": targets, "costs": COSTS})


def test_every_run_of_a_grid_is_a_job_and_reproduce_is_the_default(pipeline):
    assert next(iter(pipeline.targets)) == "reproduce"
    assert [job.run_id for job in pipeline.targets["reproduce"].jobs] == ["noto-32"]
    cells = load_grid("ffhq-256").cells()
    assert {cell.run_id for cell in cells} < {job.run_id for job in pipeline.targets["paper"].jobs}
    assert len(pipeline.targets["paper"].jobs) == len(cells) + 5


def test_the_words_of_a_training_name_exactly_that_run(pipeline):
    for job in pipeline.jobs.values():
        command, preset, *rest = job.train_words()
        assert command == "train" and (not rest or rest[0] == "--set")
        assert run_id(get_config(preset, **parse_overrides(rest[1:]))) == job.run_id


def test_a_run_is_scored_by_the_command_that_records_it(pipeline):
    cell = load_grid("smoke").cells()[0]
    assert Job(cell.config, cell).record_words() == ["ablation", "smoke", "--run", cell.run_id]
    assert pipeline.jobs["noto-32"].record_words() == ["evaluate", "noto-32", "--replace"]
    assert Job(PRESETS["noto-32"]).record_words() == ["evaluate", "noto-32"]


def test_notebooks_are_there(pipeline):
    for target in pipeline.targets.values():
        assert all((ROOT / "notebooks" / f"{name}.ipynb").is_file() for name in target.notebooks)


def test_a_record_counts_while_its_configuration_is_the_presets(empty_workspace, monkeypatch):
    job = Job(get_config("smoke", seed=3))
    path = empty_workspace / job.record
    assert not job.is_recorded()
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"config": job.config.to_dict()}))
    assert job.is_recorded() and not dataclasses.replace(job, again=True).is_recorded()
    path.write_text(json.dumps({"config": job.config.to_dict() | {"r1_gamma": 9.0}}))
    assert not job.is_recorded()
    path.write_text("damaged")
    assert job.is_recorded(), "`tables` names it"
    changed = dataclasses.replace(PRESETS["smoke"], r1_gamma=9.0)
    before = Job(PRESETS["smoke"])
    names = (before.run_id, before.digest)
    monkeypatch.setitem(PRESETS, "smoke", changed)
    assert Job(changed).run_id == names[0] and Job(changed).digest != names[1]


def test_a_cell_counts_with_both_of_its_records(empty_workspace):
    cell = load_grid("smoke").cells()[0]
    job = Job(cell.config, cell)
    for path in (job.record, f"results/runs/{job.run_id}/result.json"):
        assert not job.is_recorded()
        (empty_workspace / path).parent.mkdir(parents=True)
        (empty_workspace / path).write_text(json.dumps({"config": cell.config.to_dict()}))
    assert job.is_recorded()


@pytest.mark.slow
def test_work_is_what_the_networks_multiply():
    """4 passes through G, one of them for D; 15 through D: of two batches and bCR's two, of G's step, R1."""

    def work(name):
        config = PRESETS[name]
        with torch.device("meta"):
            generator = build_generator(config)
            discriminator = build_discriminator(config)
        with Recorder() as recorder, torch.no_grad():
            discriminator(torch.empty(4, 3, config.resolution, config.resolution, device="meta"))
        return 4 * sum(macs(generator_products(generator, 1))) + 15 * sum(macs(recorder.products)) / 4

    whole = work("ffhq-256")
    for name, value in COSTS["work"].items():
        assert value == pytest.approx(work(name) / whole, abs=6e-4), name


def test_estimates_follow_from_the_published_run(pipeline):
    costs = pipeline.costs
    assert costs.gpu_hours == 14 * 24 * 8
    assert costs.training(PRESETS["ffhq-256"]).gpu_hours == 2688
    half = costs.training(PRESETS["styleswin-256"])
    assert half.gpu_hours == pytest.approx(2688 * 1.005 / 2) and "32,000,000 images" in half.source
    small = costs.training(PRESETS["noto-32"])
    assert small.gpu_hours is None and str(small) == PRESETS["noto-32"].cost
    cell = load_grid("ffhq-256").cells()[0]
    scoring = costs.scoring(Job(cell.config, cell))
    assert scoring.gpu_hours == pytest.approx(6 * 5000 / 32.56 / 3600)
    assert costs.scoring(Job(PRESETS["ffhq-256"])).gpu_hours == pytest.approx(64 * 70_000 / 32.56 / 3600)
    assert "63 of 63 runs" in pipeline.targets["paper"].summary(costs)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"a": {"run": []}}, "unknown entry of target a 'run', did you mean 'runs'?"),
        ({"a": {"runs": [{"preset": "nope"}]}}, "unknown preset 'nope'"),
        ({"a": {"runs": [{"preset": "smoke", "sets": {}}]}}, "'sets', did you mean 'set'?"),
        ({"a": {"grids": ["nope"]}}, "unknown grid 'nope'"),
        ({"smoke": {"runs": [{"preset": "smoke"}]}}, "target 'smoke' is named as a run"),
        (
            {"a": {"runs": [{"preset": "smoke"}]}, "b": {"runs": [{"preset": "smoke"}], "gpus": 2}},
            "target b asks for run smoke in another way",
        ),
    ],
)
def test_a_wrong_plan_is_named(targets, message):
    assert message in refusal(plan, **targets)


def test_settings_that_can_not_be_written_are_refused():
    config = get_config("smoke", data="1")  # `--set data=1` would be a number
    assert "data=1 is int" in refusal(overrides, config)
