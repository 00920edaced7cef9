"""The doctor: what is right is found right, what is made wrong on purpose wrong, and a report reads back."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, refusal
from torch._subclasses.fake_tensor import FakeTensorMode

from stylenat.attention import dispatch, tiled
from stylenat.cli import main
from stylenat.doctor import checks, examine, machine
from stylenat.doctor.verdict import LEFT_OUT, MISSING, OK, WRONG, Report, Verdict
from stylenat.errors import UserError
from stylenat.paths import from_json
from stylenat.presets import get_config
from stylenat.training.loop import train
from stylenat.training.trainer import Trainer

CPU = torch.device("cpu")


def only(name, dtype=torch.float32):
    label = f"{name}, {str(dtype).removeprefix('torch.')}"
    return checks.guarded("attention", label, lambda: checks._check_backend(name, dtype, CPU, label))


def put(monkeypatch, attend, name="tiled"):
    monkeypatch.setitem(dispatch.BACKENDS, name, replace(dispatch.BACKENDS[name], attend=attend))


# --- attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_right_backend_is_right(dtype):
    verdict = only("tiled", dtype)
    assert verdict.status == OK and len(verdict.values["errors"]) == 6, "output, q, k, v and two tables"
    assert max(verdict.values["errors"].values()) <= verdict.values["allowed"]


def wrong_scale(q, k, v, partitions, bias, scale):
    return tiled.attend(q, k, v, partitions, bias, 1.1 * scale)


def wrong_gradient(q, k, v, partitions, bias, scale):
    k = k.detach() + 1.1 * (k - k.detach())
    return tiled.attend(q, k, v, partitions, bias, scale)


def wrong_table(q, k, v, partitions, bias, scale):
    flipped = bias and [table.flip(2) if table.shape[2] == 5 else table for table in bias]
    return tiled.attend(q, k, v, partitions, flipped, scale)


def not_a_number(*call):
    return tiled.attend(*call) * torch.tensor(float("nan"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attend", [wrong_scale, wrong_gradient, wrong_table, not_a_number])
def test_a_backend_that_is_wrong_is_found(monkeypatch, attend, dtype):
    put(monkeypatch, attend)
    assert only("tiled", dtype).status == WRONG


def test_what_a_driver_raises_is_a_verdict_of_one_line(monkeypatch):
    def broken(*call):
        raise RuntimeError("no kernel image is available\nfor execution on the device")

    put(monkeypatch, broken)
    verdict = only("tiled")
    assert verdict.status == WRONG and verdict.text == "RuntimeError: no kernel image is available"


def test_a_backend_that_is_not_here_is_left_out_with_its_reason(monkeypatch):
    def absent(*call):
        raise UserError("it needs a package")

    put(monkeypatch, absent)
    assert (only("tiled").status, only("tiled").text) == (LEFT_OUT, "it needs a package")


def test_a_backend_without_gradients_or_bias_says_so(monkeypatch):
    def forward_only(q, k, v, partitions, bias, scale):
        if q.requires_grad:
            raise NotImplementedError("no backward")
        if any(table is not None for table in bias):
            raise UserError("it knows no bias")
        return tiled.attend(q, k, v, partitions, bias, scale)

    put(monkeypatch, forward_only)
    put(monkeypatch, forward_only, "natten")
    for name in ("tiled", "natten"):
        verdict = only(name)
        assert verdict.status == OK and list(verdict.values["errors"]) == ["output"]
        assert verdict.text.startswith("output alone, it has no gradients here")


@pytest.mark.parametrize("name", ["tiled", "reference"])
def test_the_gpus_case_has_the_right_shapes_and_devices(name):
    """As far as it goes without one: fake tensors have no gradients there, meta tensors no GPU."""
    meta = checks._attend(name, torch.bfloat16, torch.device("meta"), tables=True)
    assert all(tensor.device.type == "meta" for tensor in meta.values()) and len(meta) == 6
    with FakeTensorMode(), torch.no_grad():
        device = torch.device("cuda")
        partitions, head_dim = checks._case(device)
        inputs, weights = checks._inputs(partitions, head_dim, torch.bfloat16, device, tables=True)
        out = checks._call(name, inputs, partitions)
        assert out.device.type == "cuda" and out.dtype == torch.bfloat16 and out.shape == weights.shape


# --- training


@pytest.fixture(scope="module")
def step():
    return checks.training_step(checks.small_config(), CPU)


def test_a_step_is_the_same_twice_and_draws_leave_the_device(step):
    again = checks.training_step(checks.small_config(), CPU)
    assert {"loss_d", "loss_g", "r1", "gradient of generator", "gradient of discriminator"} == set(step)
    assert all(torch.equal(again[part], tensor) for part, tensor in step.items())
    assert checks.compare_steps(again, step).status == OK
    elsewhere = checks.training_step(checks.small_config(), "meta")
    assert {part: tensor.shape for part, tensor in elsewhere.items()} == {
        part: tensor.shape for part, tensor in step.items()
    }
    assert all(tensor.device.type == "meta" for tensor in elsewhere.values())


def test_draws_are_the_cpus():
    torch.manual_seed(0)
    expected = [torch.randn(3), torch.empty(3).uniform_(2, 3), torch.randint(0, 9, (3,))]
    torch.manual_seed(0)
    with checks.DrawOnCpu():
        found = [torch.randn(3, device="cpu"), torch.empty(3).uniform_(2, 3), torch.randint(0, 9, (3,))]
        assert torch.randn(3, device="meta").device.type == "meta"
    assert all(map(torch.equal, found, expected))


def test_bfloat16_is_within_the_tolerance_of_a_step_and_a_mistake_is_not(step, monkeypatch):
    monkeypatch.setattr(Trainer, "_precision", lambda self: torch.autocast("cpu", torch.bfloat16))
    low = checks.training_step(checks.small_config(), CPU)
    assert checks.compare_steps(low, step).status == OK
    worse = low | {"gradient of generator": 1.2 * low["gradient of generator"]}
    assert "gradient of generator is off by" in checks.compare_steps(worse, step).text
    for value in (1.1 * step["r1"], torch.tensor(float("nan"))):
        verdict = checks.compare_steps(step | {"r1": value}, step)
        assert verdict.status == WRONG
        Report({}, (verdict,), 0.0).to_json()  # a NaN, too


def test_resume_is_bit_for_bit_and_a_forgotten_moment_is_found(monkeypatch):
    right = checks.check_resume(CPU)
    assert right.status == OK and right.values["same"] == right.values["tensors"] > 100
    load = Trainer.load_state

    def forgetful(self, state, nimg):
        load(self, state, nimg)
        self.optimizers["generator"].state.clear()

    monkeypatch.setattr(Trainer, "load_state", forgetful)
    wrong = checks.check_resume(CPU)
    assert wrong.status == WRONG and "none allowed on a CPU" in wrong.text


def test_ranks_are_compared_by_losses_and_weights(monkeypatch):
    monkeypatch.setattr(checks, "_train_in_ranks", lambda config, folder, where: train(config, folder, where))
    right = checks.check_ranks(CPU)
    assert right.status == OK and {"loss_d", "loss_g", "r1"} < set(right.values["errors"])

    def otherwise(config, folder, where):  # every process sees the same half of the batch
        return train(get_config("smoke", **checks.SMALL | {"batch_size": 4}), folder, where)

    monkeypatch.setattr(checks, "_train_in_ranks", otherwise)
    wrong = checks.guarded("training", "ranks", lambda: checks.check_ranks(CPU))
    assert wrong.status == WRONG


def test_ranks_that_fail_say_why_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "SMALL", checks.SMALL | {"nimg": 0})
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    message = refusal(checks._train_in_ranks, get_config("smoke"), tmp_path, "cpu")
    assert message.startswith("stylenat: nimg=0 ")


def test_without_a_gpu_its_checks_are_left_out_and_say_so():
    for verdict in (checks.check_step(CPU), examine._compiles(CPU)):
        assert verdict.status == LEFT_OUT and "no GPU" in verdict.text


def test_a_gpu_is_timed_by_the_authors_protocol():
    preset, protocol = checks.throughput_protocol(torch.device("cuda"))
    assert (preset, protocol.batches, protocol.rounds, protocol.warmup, protocol.tf32) == (
        "ffhq-256", (1,), 500, 10, True,
    )  # fmt: skip


# --- the machine


def by_name(section="machine"):
    return {v.name: v for v in machine.describe_machine() if v.section == section}


def test_the_machine_is_described():
    found = by_name()
    assert {"Python", "PyTorch", "CPU", "NATTEN", "Numba", "memory", "runs/", "results/"} <= set(found)
    assert found["PyTorch"].values["version"] == torch.__version__
    assert found["memory"].values["free_bytes"] > 0 and found["CPU"].values["cores"] >= 1


def test_a_gpu_is_named_and_one_without_bfloat16_is_wrong(monkeypatch):
    facts = SimpleNamespace(name="Made-up 1", total_memory=8 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts)
    for supported, status in ((True, OK), (False, WRONG)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        found = by_name()
        assert found["GPU 1"].status == status and "Made-up 1, 8 GiB" in found["GPU 0"].text


def test_weights_are_looked_for_and_their_hash_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_WEIGHTS", str(tmp_path))
    found = by_name("weights")
    missing = found["inception-legacy"]
    assert missing.status == MISSING and str(tmp_path) in missing.text and "download" in missing.text
    (tmp_path / "pt_inception-2015-12-05-6726825d.pth").write_bytes(b"part")
    wrong = by_name("weights")["inception-legacy"]
    assert wrong.status == WRONG and "incomplete" in wrong.text


def test_a_full_disk_and_a_place_that_takes_no_files_are_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    (tmp_path / "results").write_text("no folder")
    monkeypatch.setattr(machine, "free_space", lambda path: 1000)
    found = by_name()
    assert found["runs/"].status == WRONG and "make room" in found["runs/"].text
    assert found["results/"].status == WRONG and "can't write" in found["results/"].text


# --- the command


def test_the_report_reads_back_and_names_no_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    place = Verdict("weights", "x", MISSING, f"put it at {tmp_path / 'ann' / 'cache'}", {"bytes": 1})
    report = Report({"device": "a CPU"}, (place, Verdict("speed", "y", WRONG, "slow")), 1.25)
    text = report.to_json()
    assert "ann" not in text and "~/cache" in str(place)
    read = Report.from_dict(from_json(text))
    assert read.to_json() == text and [v.name for v in read.wrong] == ["y"]
    assert "no report" in refusal(Report.from_dict, {"verdicts": [{"name": "x"}]})
    assert "status 'fine' is unknown" in refusal(Verdict, "speed", "y", "fine", "")


def test_the_command_prints_a_line_a_verdict_and_fails_where_one_is_wrong(tmp_path, monkeypatch, capsys):
    found = [Verdict("machine", "Python", OK, "new"), Verdict("speed", "throughput", MISSING, "none")]
    monkeypatch.setattr(examine, "_verdicts", lambda device: iter(found))
    path = tmp_path / "report.json"
    assert main(["doctor", "--device", "cpu", "--json", str(path)]) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["machine", "Python"], ["speed", "throughput"]]
    assert summary.startswith("1 ok, 1 missing")
    report = json.loads(path.read_text())
    assert [v["status"] for v in report["verdicts"]] == [OK, MISSING] and "versions" in report["provenance"]
    found.append(Verdict("attention", "tiled", WRONG, "off"))
    assert main(["doctor", "--device", "cpu"]) == 1
    assert "1 wrong" in capsys.readouterr().out


def test_the_command_refuses_a_device_and_a_file_before_it_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(examine, "_verdicts", lambda device: pytest.fail("it began"))
    assert main(["doctor", "--device", "cuda:99"]) == 2
    assert main(["doctor", "--json", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("stylenat: ") == 2
