"""The command line: what goes wrong is one line and exit code 2, what goes well leaves what it should."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import warnings
from importlib.metadata import EntryPoint, version
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import README_BLOCKS, ROOT, empty_blocks
from PIL import Image

from stylenat import cli, distributed
from stylenat.benchmark.throughput import PROTOCOLS
from stylenat.cli import DTYPE_NAMES, METRIC_NAMES, OFFLINE_NAMES, PROTOCOL_NAMES, commands, main
from stylenat.data import check as check_module
from stylenat.data.dataset import open_dataset
from stylenat.device import DTYPES
from stylenat.errors import UserError
from stylenat.evaluation.metrics import METRICS, OFFLINE
from stylenat.models.build import build_generator
from stylenat.presets import PRESETS, get_config
from stylenat.training import loop
from stylenat.training.trainer import Trainer

TINY = {
    "nimg": 16, "snapshot": 8, "batch_size": 4, "widths": (8, 8, 8, 8), "discriminator_widths": (8, 8, 8),
    "head_dim": 4, "latent_dim": 8, "mapping_depth": 1,
}  # fmt: skip
KEYS = {
    "run_id", "preset", "config", "seed", "nimg", "minutes", "seconds", "peak_memory_bytes", "device",
    "threads", "platform", "commit", "dirty", "versions", "dataset", "score", "parameters", "history",
    "precision",
}  # fmt: skip
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
OTHERS = [name for name in README_BLOCKS if name != "results"]
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def refused(capsys, *arguments):
    """The one line with which a command ends that exits with 2."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert code == 2 and captured.err.startswith("stylenat: ") and captured.err.endswith("\n")
    assert captured.err.count("\n") == 1 and "Traceback" not in captured.err
    return captured.err.removesuffix("\n")


def output_of(capsys, *arguments):
    """What a command that succeeds prints; it complains of nothing."""
    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def write_images(folder, count, side=32):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(open_dataset("noto-faces", side).stack(range(count))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:03}.png")
    return folder


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def last_state(run):
    """Every tensor file of the last training state, as bytes."""
    return {path.name: path.read_bytes() for path in (run / "state" / "000000016").glob("*.safetensors")}


def command(folder, *extra):
    """A tiny training, `--set` given twice."""
    first, *others = (f"{name}={value}" for name, value in TINY.items())
    return ["train", "smoke", "--device", "cpu", "--out", folder, "--set", first, "--set", *others, *extra]


# --- what is refused


def test_a_missing_dataset(capsys, tmp_path):
    for call in (
        ["data", "check", tmp_path / "gone"],
        command(tmp_path / "out", f"data={tmp_path / 'gone'}"),
    ):
        assert "gone' not found" in refused(capsys, *call)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, b"", "is empty: no image in"),
        ("cut.png", "cut", "cut.png is no readable image (OSError"),
        ("two\nlines.png", b"text", "lines.png is no readable image (no image format"),
        ("small.png", 16, "small.png is 16x16, smaller than the asked 32x32"),
    ],
)
def test_a_bad_folder(capsys, tmp_path, name, content, message):
    folder = tmp_path / "images"
    folder.mkdir()
    if isinstance(content, int):
        Image.new("RGB", (content, content)).save(folder / name)
    elif name:
        images = write_images(tmp_path / "good", 1)
        whole = (images / "000.png").read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    assert message in refused(capsys, "data", "check", folder, "--resolution", 32)
    assert message in refused(capsys, *command(tmp_path / "out", f"data={folder}"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("resolution", [0, -8])
def test_no_resolution(capsys, resolution):
    assert f"resolution {resolution} is no size" in refused(
        capsys, "data", "check", "noto-faces", "--resolution", resolution
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smoky"], "unknown preset 'smoky', did you mean 'smoke'?"),
        (["smoke", "--set", "sed=1"], "unknown override 'sed', did you mean 'seed'?"),
        (["smoke", "--set", "seed"], "override 'seed' has no '='"),
        (["smoke", "--set", "seed=one"], "seed='one' is str, expected int"),
        (["smoke", "--set", "nimg=0"], "nimg=0 must be above 0"),
        (["smoke", "--set", "partitions=2x7"], "partitions '2x7': write each as heads x kernel @ dilation"),
        (["smoke", "--set", "partitions=2x3@1"], "describes 1 levels, expected 3"),
        (["smoke", "--device", "banana"], "device 'banana' is not available here: take cpu"),
        (["smoke", "--device", "cuda:99"], "device 'cuda:99' is not available here: take cpu"),
        (["smoke", "--device", "meta"], "device 'meta' is not available here: take cpu"),
        ([], "Missing argument 'PRESET'; `stylenat train --help` shows more"),
        (
            ["smoke", "--sett", "seed=1"],
            "No such option '--sett'. Did you mean '--set'? `stylenat train --help`",
        ),
        (["smoke", "--set"], "Option '--set' requires an argument; `stylenat train --help` shows more"),
        (["smoke", "--set", "--device", "cpu"], "Option '--set' requires an argument"),
        (["smoke", "--device", "--set", "seed=1"], "Option '--device' requires an argument"),
        (["smoke", "--set", "seed=1", "other"], "unexpected extra argument (other)"),
        (["smoke", "--set", "-seed=1"], "unknown override '-seed', did you mean 'seed'?"),
        (["smoke", "--score-every", "often"], "'often' is not a valid integer; `stylenat train --help`"),
    ],
)
def test_bad_arguments_of_train(capsys, tmp_path, arguments, message):
    assert message in refused(capsys, "train", "--out", tmp_path, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "words", [["--count", "0"], ["--count", "-5"], ["--seed", "-1"], ["--seed", str(2**60)]]
)
def test_counts_and_seeds_of_a_score_that_are_out_of_range(capsys, words):
    message = refused(capsys, "evaluate", "noto-faces", "--data", "noto-faces", *words)
    assert f"{words[0][2:]} {words[1]} is out of range" in message


@pytest.mark.parametrize(
    "words", [["--rounds", "0"], ["--rounds", "-1"], ["--batches", "0"], ["--batches", "2,-1"]]
)
def test_rounds_and_batches_that_are_out_of_range(capsys, words):
    assert "give whole numbers above 0" in refused(capsys, "throughput", "smoke", *words)


def test_a_negative_score_interval(capsys, tmp_path):
    message = refused(capsys, "train", "smoke", "--score-every", "-1", "--out", tmp_path)
    assert "score-every -1 is out of range" in message and not any(tmp_path.iterdir())


def test_no_gpu(capsys, tmp_path):
    assert "device 'cuda' is not available here: take cpu" in refused(
        capsys, "train", "smoke", "--out", tmp_path, "--device", "cuda"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command; `stylenat --help` shows more"),
        (["data"], "Missing command; `stylenat data --help` shows more"),
        (["trane"], "No such command 'trane'. Did you mean 'train'? `stylenat --help` shows more"),
        (["data", "check"], "Missing argument 'PATH'; `stylenat data check --help` shows more"),
        (["presets", "x"], "Got unexpected extra argument (x); `stylenat presets --help` shows more"),
        (
            ["throughput", "smoke", "--protocol", "paperr"],
            "'paperr' is not one of 'paper', 'ours'; `stylenat",
        ),
    ],
)
def test_no_such_command(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_an_output_folder_below_a_file(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert f"can't write to {tmp_path / 'file' / 'x'}" in refused(capsys, *command(tmp_path / "file" / "x"))


@pytest.mark.skipif(AS_ROOT, reason="root may write anywhere")
def test_an_output_folder_without_rights(capsys, tmp_path):
    tmp_path.chmod(0o555)
    assert "Permission denied" in refused(capsys, *command(tmp_path / "x"))


def test_an_unknown_run(capsys, tmp_path):
    message = refused(capsys, "evaluate", "noto-23", "--out", tmp_path)
    assert f"run 'noto-23' not found in {tmp_path}: train it first" in message


def test_a_run_is_recorded_by_one_protocol(capsys, run, room):
    message = refused(capsys, "evaluate", run, "--psi", "0.7")
    assert "recorded at seed 0 and psi 1, not 0 and 0.7: give --data" in message
    assert not (room / "results" / "runs").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_a_run_is_recorded_in_float32(capsys, run, room, dtype):
    message = refused(capsys, "evaluate", run, "--dtype", dtype)
    assert f"recorded in float32, not {dtype}: give --data to score without a record" in message
    assert not (room / "results" / "runs").exists()


def test_images_that_are_made_have_no_type(capsys, tmp_path):
    folder = write_images(tmp_path / "samples", 2)
    message = refused(capsys, "evaluate", folder, "--data", "noto-faces", "--dtype", "bfloat16")
    assert message.endswith("samples holds images: dtype bfloat16 means nothing to them, leave it out")


def test_evaluate_on_a_device_that_is_not_there(capsys, run, room):
    assert "device 'banana'" in refused(capsys, "evaluate", run, "--device", "banana")


# --- what the words mean


@pytest.mark.parametrize(
    "words",
    [
        ["smoke", "--set", "seed=1", "nimg=99"],
        ["smoke", "--set", "seed=1", "--set", "nimg=99"],
        ["--set", "seed=1", "nimg=99", "--device", "cpu", "smoke"],
        ["--set", "seed=1", "nimg=99", "smoke"],
        ["--set", "seed=1", "smoke", "nimg=99"],
        ["--set", "seed=1", "nimg=99", "--", "smoke"],
        ["--set=seed=1", "smoke", "--set", "nimg=99"],
    ],
)
def test_set_takes_one_value_or_several(capsys, monkeypatch, words):
    asked = []

    def stopping(config, *_, **__):
        asked.append(config)
        raise UserError("no training here")

    monkeypatch.setattr(loop, "train", stopping)
    assert "no training here" in refused(capsys, "train", *words)
    assert asked == [get_config("smoke", seed=1, nimg=99)]


def test_options_of_train_reach_it(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "train", lambda *values, **named: asked.append((values, named)) or TrainedRun())
    output_of(capsys, "train", "smoke")
    options = ["--out", "a=b", "--device", "cpu", "--score-every", 8]  # no value of --set
    output_of(capsys, "train", "smoke", "--set", "seed=1", *options)
    assert asked == [
        ((get_config("smoke"), None, None), {"score_every": 0}),
        ((get_config("smoke", seed=1), "a=b", "cpu"), {"score_every": 8}),
    ]


def test_a_training_s_type_is_a_setting(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "train", lambda config, *_, **__: asked.append(config.dtype) or TrainedRun())
    monkeypatch.setattr("stylenat.device.bfloat16_instructions", lambda device: "AMX-BF16")
    output_of(capsys, "train", "smoke", "--device", "cpu")
    output_of(capsys, "train", "smoke", "--device", "cpu", "--dtype", "bfloat16")
    output_of(capsys, "train", "smoke", "--device", "cpu", "--set", "dtype=float32")
    for words in (["--dtype", "auto"], ["--set", "dtype=auto"]):
        assert "dtype auto: bfloat16 (AMX-BF16)\n" in output_of(capsys, "train", "smoke", *words)
    monkeypatch.setattr("stylenat.device.bfloat16_instructions", lambda device: "")
    printed = output_of(capsys, "train", "smoke", "--device", "cpu", "--dtype", "auto")
    assert "dtype auto: float32 (no instructions for bfloat16 here)\n" in printed
    assert asked == ["", "bfloat16", "float32", "bfloat16", "bfloat16", "float32"]
    message = refused(capsys, "train", "smoke", "--set", "dtype=float32", "--dtype", "bfloat16")
    assert "dtype is set twice, to 'float32' and 'bfloat16'" in message


def test_samples_in_bfloat16_say_so(capsys, monkeypatch, run, tmp_path):
    monkeypatch.setattr("stylenat.device.bfloat16_instructions", lambda device: "AMX-BF16")
    for dtype, words in (("float32", "float32"), ("auto", "bfloat16 (AMX-BF16)")):
        folder = tmp_path / dtype
        printed = output_of(
            capsys, "sample", run, "--seeds", "0-1", "--dtype", dtype, "--device", "cpu", "--out", folder
        )
        assert printed == f"2 images and their grid, in {words}: {folder}\n"
    left, right = (np.array(Image.open(tmp_path / name / "seed0000.png")) for name in ("float32", "auto"))
    assert 0 < np.abs(left.astype(int) - right).max() < 16


class TrainedRun:
    """A run that has been trained."""

    path = "x"

    def last_snapshot(self):
        return 8


def test_every_command_and_option_is_there():
    options = {}
    for name, command in [*commands.commands.items(), *commands.commands["data"].commands.items()]:
        options[name] = " ".join(param.opts[0].removeprefix("--") for param in command.params)
    assert options == {
        "train": "preset set score-every dtype from out device",
        "evaluate": "source data metric count seed psi dtype json weights sha256 download replace out device",
        "sample": "checkpoint seeds psi out gif dtype device partitions",
        "convert": "source target compact partitions",
        "data": "",
        "check": "path resolution",
        "throughput": "preset protocol batches rounds dtype csv device",
        "compare": "presets batches rounds dtype record device",
        "ablation": "grid jobs run costs device",
        "presets": "",
        "tables": "",
        "figures": "",
        "doctor": "json device",
    }


def test_help_lists_the_commands_in_their_order(capsys):
    listed = re.findall(r"^  (\w+)  ", output_of(capsys, "--help").split("Commands:")[1], re.MULTILINE)
    assert listed == [
        "train", "evaluate", "sample", "convert", "data", "throughput", "compare", "ablation", "doctor",
        "presets", "tables", "figures",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "names"),
    [(["evaluate"], METRICS), (["throughput"], [*PROTOCOLS, *PRESETS]), (["train"], PRESETS), ([], ["data"])],
)
def test_names_are_in_the_help(capsys, words, names):
    text = re.sub(r"-\n +", "-", output_of(capsys, *words, "--help"))  # a name may be broken at its hyphen
    for name in names:
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", text), f"{name} is not in the help"


def test_names_that_help_repeats_are_those_of_the_package():
    assert tuple(METRICS) == METRIC_NAMES
    assert OFFLINE_NAMES == OFFLINE
    assert tuple(PROTOCOLS) == PROTOCOL_NAMES
    assert DTYPES == DTYPE_NAMES
    assert cli.LAUNCHED == distributed.LAUNCHED


def test_the_version_is_that_of_the_package(capsys):
    assert output_of(capsys, "--version") == f"stylenat {version('stylenat')}\n"


def test_a_warning_is_one_line(capsys, monkeypatch):
    def warn(*_):
        warnings.warn("first\nsecond", stacklevel=2)

    monkeypatch.setattr(check_module, "check", warn)
    assert main(["data", "check", "x"]) == 0
    assert capsys.readouterr().err == "warning: first second\n"


def test_an_end_of_file_is_no_interruption(monkeypatch):
    def ending(*_):
        raise EOFError

    monkeypatch.setattr(check_module, "check", ending)
    with pytest.raises(EOFError):
        main(["data", "check", "x"])


# --- what goes well


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """As few as can be scored."""
    return write_images(tmp_path_factory.mktemp("data") / "faces", 100)


@pytest.fixture(scope="module")
def training(images):
    """The command that trains into a folder."""
    return lambda out: command(out, f"data={images}", "seed=3")


@pytest.fixture(scope="module")
def run(training, tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("out")
    assert main(list(map(str, training(out)))) == 0
    (run,) = out.iterdir()
    return run


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A workspace with the published numbers and a README to fill in."""
    room = tmp_path / "room"
    (room / "results").mkdir(parents=True)
    shutil.copy(ROOT / "results" / "paper.csv", room / "results")
    (room / "README.md").write_text(f"# Results\n\n{empty_blocks(OTHERS)}\n{BEGIN}\n{END}\n\nThe end.\n")
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(room))
    return room


def test_the_same_command_again_does_nothing(capsys, training, run, monkeypatch):
    config = json.loads((run / "config.json").read_text())
    assert config["seed"] == 3 and config["nimg"] == 16, "--set adds to --set"
    before = content(run)
    monkeypatch.setattr(Trainer, "step", None)
    assert f"trained to nimg=16: {run}" in output_of(capsys, *training(run.parent))
    assert content(run) == before


def test_the_same_command_goes_on_after_ctrl_c(capsys, training, run, tmp_path, monkeypatch):
    step = Trainer.step

    def stopping(self, images):
        if self.nimg == 12:
            raise KeyboardInterrupt
        return step(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopping)
        assert main(list(map(str, training(tmp_path)))) == 130
    assert "a training goes on from its last snapshot" in capsys.readouterr().err
    assert not (tmp_path / run.name / "generators" / "000000016.safetensors").exists()
    output_of(capsys, *training(tmp_path))
    assert last_state(tmp_path / run.name) == last_state(run)


def test_evaluate_tables_figures(capsys, run, room):
    printed = output_of(capsys, "evaluate", run.name, "--out", run.parent, "--device", "cpu")
    assert "FD-lite0@128, train " in printed and "NOT FID" in printed
    assert "of samples are nearer to a training image than all but 5 % of held-out images" in printed
    results = room / "results" / "runs" / run.name
    assert {path.name for path in results.iterdir()} == {"result.json", "log.csv", "samples.png"}
    check_record(json.loads((results / "result.json").read_text()), run)
    assert (results / "log.csv").read_text().startswith("nimg,seconds,peak_memory_bytes,")
    with Image.open(results / "samples.png") as image:
        assert image.size == (8 * 32, 8 * 32)

    assert "tables of 1 runs" in output_of(capsys, "tables")
    readme = (room / "README.md").read_text()
    assert run.name in readme and readme.endswith(f"{END}\n\nThe end.\n")
    named = output_of(capsys, "figures").split()
    expected = (
        "bubble_chart",
        "human_study",
        "receptive_fields",
        "avatars",
        f"curves-{run.name}",
        f"samples-{run.name}",
    )
    assert named == [f"figures/{name}.png" for name in expected]
    before = content(room)
    assert {Path(name) for name in named} <= before.keys()
    output_of(capsys, "tables")
    output_of(capsys, "figures")
    assert content(room) == before


def check_record(record, run):
    only_by_git = set() if (ROOT / ".git").exists() else {"commit", "dirty"}
    assert record.keys() >= KEYS - only_by_git
    assert record["run_id"] == run.name and record["preset"] == "smoke" and record["config"]["nimg"] == 16
    assert (record["seed"], record["nimg"]) == (3, 16)
    assert [row["nimg"] for row in record["history"]] == [8, 16]
    values = record["score"]["values"]
    assert set(values) == {
        f"{kind}_lite0_128_{split}" for kind in ("fd", "kid") for split in ("train", "heldout")
    }
    for key, entry in values.items():
        assert set(entry) == {"value", "error", "low", "high", "real_vs_real", "noise"} and all(
            map(np.isfinite, entry.values())
        )
        assert entry == record["history"][-1][key]
    assert record["score"]["protocol"]["metrics"]["fd-lite0"]["note"].startswith("NOT FID")
    assert 0 <= record["memorization"]["share"] <= 1 and 0 < record["memorization"]["expected"] <= 0.05
    assert record["seconds"] > 0 and record["minutes"] == pytest.approx(record["seconds"] / 60)
    assert record["peak_memory_bytes"] > 2**20 and record["threads"] == torch.get_num_threads()
    assert record["versions"]["torch"] and record["device"]
    if (ROOT / ".git").exists():
        assert len(record["commit"]) == 40 and record["dirty"] in (True, False)
    config = get_config("smoke", **TINY)
    assert record["parameters"]["generator"] == sum(p.numel() for p in build_generator(config).parameters())
    data = open_dataset(record["config"]["data"], 32)
    assert record["dataset"] == {
        "name": "faces", "resolution": 32, "manifest": data.manifest, "split": "train",
    }  # fmt: skip


def test_check_describes_the_bundled_set(capsys):
    text = output_of(capsys, "data", "check", "noto-faces")
    assert text.startswith("noto-faces: 987 images, all of them decode. Sizes 64x64 (987); modes RGB (987).")
    assert "Splits: train 790, heldout 197." in text and text.count("\n") == 1
    assert open_dataset("noto-faces", 32).manifest in text


def test_presets_are_listed_with_their_cost(capsys):
    lines = output_of(capsys, "presets").splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)
    for line, config in zip(lines, PRESETS.values(), strict=True):
        assert config.cost and line.endswith(f" {config.cost}")


# --- damage, and a system that refuses


def junk(path):
    path.write_bytes(b"junk")


def another_network(path):
    path.write_bytes(safetensors.torch.save({"weight": torch.zeros(1)}))


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("config.json", junk, "config.json is damaged"),
        ("config.json", lambda path: path.write_text('{"preset": 1}'), "config.json is no configuration"),
        ("generators/000000016.safetensors", junk, "000000016.safetensors can't be read"),
        ("generators/000000016.safetensors", another_network, "000000016.safetensors is of another network"),
        ("generators", shutil.rmtree, "has no snapshot yet"),
        ("log.jsonl", junk, "log.jsonl is damaged"),
        ("log.jsonl", Path.unlink, "log.jsonl has no line of nimg=8"),
        ("state/000000016/info.json", junk, "info.json is damaged"),
        ("state/000000016/info.json", Path.unlink, "info.json: No such file or directory"),
        ("state", shutil.rmtree, "has no snapshot yet"),
    ],
)
def test_evaluate_a_damaged_run(capsys, run, room, tmp_path, file, harm, message):
    copy = shutil.copytree(run, tmp_path / run.name)
    harm(copy / file)
    assert message in refused(capsys, "evaluate", copy, "--device", "cpu")
    assert not (room / "results" / "runs").exists()


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("config.json", junk, "holds a run of another configuration"),
        ("log.jsonl", junk, "log.jsonl is damaged"),
        ("state/000000016/ema.safetensors", junk, "ema.safetensors can't be read"),
        (
            "state/000000016/ema.safetensors",
            Path.unlink,
            "000000016 holds other tensors: restore it, or go on",
        ),
        (
            "state/000000016/ema.safetensors",
            another_network,
            "000000016 holds other tensors: restore it, or go on",
        ),
        ("state/000000016/adam_generator.safetensors", Path.unlink, "000000016 holds other tensors"),
        ("state/000000016/info.json", junk, "info.json is damaged"),
    ],
)
def test_resume_a_damaged_run(capsys, training, run, tmp_path, file, harm, message):
    harm(shutil.copytree(run, tmp_path / run.name) / file)
    assert message in refused(capsys, *training(tmp_path))


def test_a_damaged_state_can_be_deleted(capsys, training, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / run.name)
    shutil.rmtree(copy / "state" / "000000016")
    output_of(capsys, *training(tmp_path))
    assert last_state(copy) == last_state(run)


def test_results_that_can_not_be_written(capsys, run, room):
    (room / "results" / "runs").touch()
    message = refused(capsys, "evaluate", run, "--device", "cpu")
    assert "Not a directory" in message or "File exists" in message


def test_a_workspace_without_published_numbers(capsys, room):
    (room / "results" / "paper.csv").unlink()
    for name in ("tables", "figures"):
        assert "paper.csv: No such file or directory" in refused(capsys, name)


def test_a_damaged_record(capsys, room):
    (room / "results" / "runs" / "x").mkdir(parents=True)
    (room / "results" / "runs" / "x" / "result.json").write_text("{")
    for name in ("tables", "figures"):
        assert "results/runs/x/result.json is no valid JSON" in refused(capsys, name)


# --- as a process of its own


def shell(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "stylenat", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_the_process_ends_with_the_code():
    bad = shell("data", "check", "gone")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("stylenat: Dataset 'gone' not found") and bad.stderr.count("\n") == 1
    good = shell("presets")
    assert (good.returncode, good.stderr) == (0, "") and good.stdout.count("\n") == len(PRESETS)


def test_the_installed_command_is_main():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert EntryPoint("stylenat", project["scripts"]["stylenat"], "console_scripts").load() is main


WITHOUT_TORCH = """
import sys
from stylenat.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "numpy", "pandas", "matplotlib", "PIL"} & set(sys.modules)
print(code, sorted(heavy))
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0), (["--version"], 0), (["presets"], 0), (["train", "--help"], 0), (["trane"], 2),
        (["evaluate", "--help"], 0), (["sample", "--help"], 0), (["convert", "--help"], 0),
        (["data", "check", "--help"], 0), (["throughput", "--help"], 0), (["figures", "--help"], 0),
    ],
)  # fmt: skip
def test_help_loads_nothing_heavy(words, code):
    arguments = [sys.executable, "-c", WITHOUT_TORCH, *words]
    found = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == f"{code} []"


def test_help_answers_at_once():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert shell("--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.5
