"""No number that is not finite passes: what holds one is refused by name, before anything is written."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, Painter, Plain, make_record, needs_wheels, refusal, small_network

from stylenat.checkpoints.convert import convert
from stylenat.checkpoints.load import load_discriminator, load_generator, open_checkpoint
from stylenat.checkpoints.published import to_published
from stylenat.checkpoints.run import LOG, SCORES, Run
from stylenat.checkpoints.tensors import load_tensors, save_tensors
from stylenat.cli import main
from stylenat.config import parse_overrides
from stylenat.data.dataset import open_dataset
from stylenat.errors import UserError, check_number
from stylenat.evaluation.distances import (
    Moments,
    frechet_distance,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall,
)
from stylenat.evaluation.evaluate import evaluate, nearest_training_images
from stylenat.evaluation.intervals import intervals
from stylenat.evaluation.memorization import memorization
from stylenat.evaluation.metrics import Score
from stylenat.evaluation.reference import Statistics
from stylenat.figures.build import build_figures
from stylenat.figures.results import bubble_chart, training_curves
from stylenat.figures.samples import interpolation_strip, mixing_grid, truncation_sweep
from stylenat.images import to_uint8
from stylenat.paths import from_json, to_json
from stylenat.presets import get_config
from stylenat.reporting.paper import published
from stylenat.reporting.records import load_records, record_path, write_record
from stylenat.reporting.tables import build_tables
from stylenat.sampling.projection import project
from stylenat.sampling.sample import (
    interpolate,
    latents,
    render,
    sample_batches,
    sample_images,
    sample_sheet,
    styles,
    truncate,
)
from stylenat.training.loop import train
from stylenat.training.trainer import Trainer

NAN, INF = math.nan, math.inf
TINY = {"widths": (16, 16, 16, 16), "discriminator_widths": (16, 16, 16), "latent_dim": 8, "mapping_depth": 2}
TINY |= {"batch_size": 8, "nimg": 64, "snapshot": 32}
LITE0 = {"lite0": small_network("lite0")}


@pytest.fixture(scope="module")
def trainer():
    return Trainer(get_config("smoke", **TINY), "cpu")


@pytest.fixture
def run(trainer, tmp_path):
    """A run with one snapshot, in the workspace's runs/."""
    run = Run(tmp_path / "runs" / "poor")
    run.begin(trainer.config)
    run.save(32, trainer.ema, trainer.state(), {"nimg": 32, "seconds": 1.0, "peak_memory_bytes": 1})
    run.add_to_log({"nimg": 32, "seconds": 1.0})
    return run


def poison(path, name, value=NAN):
    """Put one bad number into a tensor of a safetensors file."""
    tensors = load_tensors(path)
    tensors[name].view(-1)[3] = value
    save_tensors(path, tensors)


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Weights


def as_pt(run, tmp_path):
    networks = {}
    for name, checkpoint in (("g_ema", "g_ema"), ("d", "d")):
        networks[name] = to_published(open_checkpoint(run.path).tensors(checkpoint))
    torch.save({"state_dicts": networks}, tmp_path / "poor.pt")
    return tmp_path / "poor.pt"


def poisoned(kind, run, tmp_path, value):
    """A checkpoint with one bad number in each network, and the names of the two tensors."""
    if kind == "pt":
        path = as_pt(run, tmp_path)
        contents = torch.load(path, weights_only=True)
        contents["state_dicts"]["g_ema"]["style.1.bias"][3] = value
        contents["state_dicts"]["d"]["final_linear.2.weight_orig"].view(-1)[3] = value
        torch.save(contents, path)
        return path
    if kind == "run":
        poison(run.generator_path(32), "style.1.bias", value)
        poison(run.state_path() / "discriminator.safetensors", "final_linear.2.weight_orig", value)
        return run.path
    if kind == "snapshot":
        poison(run.generator_path(32), "style.1.bias", value)
        return run.generator_path(32)
    model = convert(run.path, tmp_path / "model")
    poison(model / "g_ema.safetensors", "style.1.bias", value)
    poison(model / "d.safetensors", "final_linear.2.weight_orig", value)
    return model / "g_ema.safetensors" if kind == "safetensors" else model


@pytest.mark.filterwarnings("ignore:.*stores no dilations")
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", ["pt", "run", "snapshot", "model", "safetensors"])
def test_weights_that_are_not_finite(run, tmp_path, monkeypatch, kind, value):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    path = poisoned(kind, run, tmp_path, value)
    expected = r"1 of 8 numbers of style\.1\.bias are NaN or infinite: take another checkpoint"
    assert re.search(expected, refusal(load_generator, path))
    if kind in ("pt", "run", "model"):
        assert "1 of 16 numbers of final_linear.2.weight_orig" in refusal(load_discriminator, path)


@needs_wheels
@pytest.mark.filterwarnings("ignore:.*stores no dilations")
@pytest.mark.parametrize("kind", ["pt", "run", "model"])
def test_commands_write_nothing_of_such_weights(run, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    path = str(poisoned(kind, run, tmp_path, NAN))
    before = tree(tmp_path)
    commands = [
        ["sample", path, "--out", str(tmp_path / "out")],
        ["convert", path, str(tmp_path / "new")],
        ["convert", path, str(tmp_path / "new.pt")],
        ["convert", path, str(tmp_path / "new"), "--compact"],
        ["evaluate", path, "--data", "noto-faces", "--json", str(tmp_path / "score.json")],
    ]
    if kind == "run":
        commands.append(["evaluate", path])
    for command in commands:
        assert main(command) == 2
        captured = capsys.readouterr()
        assert "numbers of style.1.bias are NaN or infinite" in captured.err and not captured.out
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["generator", "discriminator", "ema", "adam_generator", "adam_discriminator"]
)
def test_a_training_state_that_is_not_finite_is_not_resumed(run, name):
    state = run.state_path() / f"{name}.safetensors"
    tensors = (
        load_tensors(state) if name in ("generator", "discriminator", "ema") else {"0.exp_avg": torch.ones(9)}
    )
    tensor = next(key for key, value in tensors.items() if value.numel() > 4)
    save_tensors(state, tensors)
    poison(state, tensor)
    assert f"numbers of {tensor} are NaN" in refusal(run.restore)


def test_a_model_that_float16_cannot_hold(run, tmp_path):
    poison(run.generator_path(32), "style.1.bias", 70_000.0)
    assert "numbers of style.1.bias are NaN" in refusal(convert, run.path, tmp_path / "small", compact=True)
    assert not (tmp_path / "small").exists()
    convert(run.path, tmp_path / "large")


def test_a_stored_mean_style_that_is_not_finite(run, tmp_path):
    model = convert(run.path, tmp_path / "model")
    poison(model / "g_ema.safetensors", "mean_style")
    assert "numbers of mean_style are NaN" in refusal(load_generator, model)


def test_settings_that_are_not_finite_do_not_spoil_a_model(run, tmp_path):
    path = as_pt(run, tmp_path)
    contents = torch.load(path, weights_only=True)
    contents["args"] = {"best_fid": INF, "rates": [0.1, NAN], "dilations": [[1], [1, 2], [1, 4], [1, 8]]}
    torch.save(contents, path)
    facts = from_json((convert(path, tmp_path / "model") / "model.json").read_text())
    assert facts["settings"]["best_fid"] == "inf" and facts["settings"]["rates"] == [0.1, "nan"]
    load_generator(tmp_path / "model")


# Images


@pytest.fixture
def broken():
    """A generator whose weights went bad after it was loaded."""
    torch.manual_seed(0)
    painter = Painter().eval().requires_grad_(False)
    painter.spread.fill_(NAN)
    return painter


IMAGES = {
    "sample_images": (lambda g: sample_images(g, [7]), "the image of seed 7"),
    "sample_batches": (lambda g: list(sample_batches(g, [2, 3])), "the image of seed 2"),
    "sample_sheet": (sample_sheet, "the image of seed 0"),
    "render": (lambda g: render(g, torch.zeros(2, 48)), "image 0"),
    "interpolate": (lambda g: interpolate(g, [0, 1], 2), "frame 0"),
    "interpolate z": (lambda g: interpolate(g, [0, 1], 2, space="z"), "frame 0"),
    "evaluate": (lambda g: evaluate(g, open_dataset("noto-faces", 32), "fd-lite0", networks=LITE0), "seed 0"),
    "nearest": (
        lambda g: nearest_training_images(g, open_dataset("noto-faces", 32), networks=LITE0),
        "the image of seed 0",
    ),
    "truncation_sweep": (lambda g: truncation_sweep(g, [1]), "image 0"),
    "interpolation_strip": (lambda g: interpolation_strip(g, [0, 1], 2), "frame 0"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_are_not_finite(broken, name):
    call, expected = IMAGES[name]
    message = refusal(call, broken)
    assert expected in message and "holds NaN or infinity" in message


def test_the_image_that_is_not_finite_is_named():
    images = torch.zeros(3, 3, 8, 8)
    images[1, 2, 5, 5] = INF
    assert refusal(to_uint8, images).startswith("image 1 holds NaN or infinity (1 of 3 images do)")
    assert refusal(to_uint8, images, ["a", "b", "c"]).startswith("b holds NaN")
    assert not to_uint8(torch.full((1, 3, 2, 2), -1e30)).any()  # finite is clipped


def test_float16_that_overflows_gives_no_black_images(trainer):
    torch.manual_seed(0)
    generator = Plain().eval().requires_grad_(False)
    generator.fields[0].weight.mul_(1e5)
    sample_images(generator, [0])
    assert "the image of seed 0 holds NaN" in refusal(sample_images, generator.half(), [0])


@needs_wheels
def test_a_projection_that_is_not_finite():
    generator = Plain().eval().requires_grad_(False)
    image = sample_images(generator, [0])[0]
    generator.fields[0].weight[0] = NAN
    assert refusal(project, generator, image, steps=3).startswith(
        "projection stopped at step 0: the loss is nan"
    )


# Arguments


@pytest.mark.parametrize("psi", [NAN, INF, -INF, "0.7", None, True, np.float32("nan")])
def test_psi_that_is_no_finite_number(psi):
    painter = Painter()
    dataset = open_dataset("noto-faces", 32)
    calls = (
        lambda: sample_images(painter, [0], truncation_psi=psi),
        lambda: styles(painter, [0], psi),
        lambda: truncate(painter, torch.zeros(1, 48), psi),
        lambda: interpolate(painter, [0, 1], 2, truncation_psi=psi),
        lambda: mixing_grid(painter, [0], [1], 8, truncation_psi=psi),
        lambda: evaluate(painter, dataset, "fd-lite0", truncation_psi=psi, networks=LITE0),
    )
    for call in calls:
        assert refusal(call).startswith(f"truncation_psi={psi!r}: give a finite number")


@pytest.mark.parametrize("seed", [NAN, INF, 0.5])
def test_seeds_that_are_not_finite(seed):
    painter = Painter()
    dataset = open_dataset("noto-faces", 32)
    for call in (
        lambda: sample_images(painter, [seed]),
        lambda: latents(painter, np.array([seed])),
        lambda: latents(painter, torch.tensor([seed])),
        lambda: evaluate(painter, dataset, "fd-lite0", seed=seed, networks=LITE0),
    ):
        assert "is no whole number" in refusal(call)


@pytest.mark.parametrize("psi", ["nan", "inf", "-inf", "1e999"])
def test_psi_of_commands(run, tmp_path, capsys, psi):
    for command in (
        ["sample", str(run.path), "--out", str(tmp_path / "out")],
        ["evaluate", str(run.path), "--data", "noto-faces", "--json", str(tmp_path / "score.json")],
        ["evaluate", str(run.path)],
    ):
        assert main([*command, "--psi", psi]) == 2
        assert f"psi={float(psi)}: give a finite number" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


FLOATS = (
    "generator_lr",
    "discriminator_lr",
    "r1_gamma",
    "bcr_weight",
    "clip_norm",
    "adam_beta2",
    "decay_start",
)


@pytest.mark.parametrize("value", [NAN, INF, -INF, np.float64("nan"), np.float32("inf")])
@pytest.mark.parametrize(
    "name", [*FLOATS, "nimg", "batch_size", "snapshot", "r1_interval", "seed", "resolution"]
)
def test_settings_that_are_not_finite(name, value):
    assert refusal(replace, get_config("smoke"), **{name: value}).startswith(f"{name}=")


@pytest.mark.parametrize("text", ["1e999", "-1e999", "nan", "inf"])
@pytest.mark.parametrize("name", FLOATS)
def test_settings_of_commands_that_are_not_finite(capsys, tmp_path, name, text):
    assert main(["train", "smoke", "--set", f"{name}={text}", "--out", str(tmp_path)]) == 2
    assert name in capsys.readouterr().err and not any(tmp_path.iterdir())
    with pytest.raises(UserError, match=name):
        get_config("smoke", **parse_overrides([f"{name}={text}"]))


def test_settings_in_numbers_of_numpy_are_python_s():
    config = replace(get_config("smoke"), seed=np.int64(3), r1_gamma=np.float32(0.5))
    assert config == get_config("smoke", seed=3, r1_gamma=0.5)
    assert json.dumps(config.to_dict()) == json.dumps(get_config("smoke", seed=3, r1_gamma=0.5).to_dict())
    for name, value in (("seed", True), ("nimg", 1e3), ("batch_size", "8"), ("compile", 1), ("data", 5)):
        assert refusal(replace, config, **{name: value}).startswith(f"{name}={value!r} is")


def test_numbers_in_a_range():
    for value in (0, 0.5, 1, np.float32(0.5), np.int64(1)):
        check_number("share", value, 0, 1)
    for value in (-0.1, 1.1, NAN, INF, -INF, "0.5", None, True, 1j, [0.5]):
        message = refusal(check_number, "share", value, 0, 1)
        assert message == f"share={value!r}: give a finite number from 0 to 1"
    assert refusal(check_number, "x", -1, 0) == "x=-1: give a finite number, 0 or more"
    assert refusal(check_number, "x", 2, high=1) == "x=2: give a finite number, 1 or less"


# Features, statistics, scores


@pytest.mark.parametrize("value", [NAN, INF, 1e200])
def test_features_that_are_not_finite(value):
    good = torch.randn(30, 4, dtype=torch.float64)
    bad = good.clone()
    bad[2, 1] = value
    for call in (
        lambda: frechet_distance(good, bad),
        lambda: frechet_distance(bad, Moments().update(good)),
        lambda: kernel_distance(bad, good),
        lambda: kernel_distance_subsets(good, bad, 3, 5),
        lambda: precision_recall(good, bad),
        lambda: memorization(good, good, bad),
        lambda: intervals(lambda a, b: {"x": frechet_distance(a, b)}, good, bad),
    ):
        assert "1 of 30 features hold" in (message := refusal(call)) and "the first is of image 2" in message


def test_a_network_that_gives_numbers_that_are_not_finite():
    network = small_network("lite0", lambda module, images: torch.full((len(images), 12), NAN))
    message = refusal(network.features, [torch.zeros(3, 3, 8, 8, dtype=torch.uint8)])
    assert message.startswith("lite0 gives NaN or infinity for 3 of 3 images, on cpu")


def covariance(dims=6):
    features = np.random.default_rng(0).standard_normal((dims // 2, dims))  # singular, as most are
    return np.cov(features.T)


def statistics(tmp_path, mean, sigma):
    np.savez(tmp_path / "faces.npz", mu=mean, sigma=sigma)
    return tmp_path / "faces.npz"


def asymmetric(sigma):
    return sigma + np.triu(np.full_like(sigma, 0.1), 1)


def indefinite(sigma):
    values, vectors = np.linalg.eigh(sigma)
    values[0] = -0.1 * values[-1]
    return vectors * values @ vectors.T


def with_value(value):
    def change(array):
        changed = array.copy()
        changed.flat[1] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("mean", "sigma", "expected"),
    [
        (with_value(NAN), None, "1 numbers of mu are NaN"),
        (with_value(INF), None, "1 numbers of mu are NaN"),
        (None, with_value(NAN), "1 numbers of sigma are NaN"),
        (None, with_value(-INF), "1 numbers of sigma are NaN"),
        (None, asymmetric, "sigma is not symmetric"),
        (None, indefinite, "sigma has negative eigenvalues"),
        (None, np.negative, "sigma has negative eigenvalues"),
        (None, lambda sigma: sigma + 1j, "hold no mu and sigma"),
        (None, lambda sigma: sigma.astype(str), "hold no mu and sigma"),
    ],
)
def test_statistics_that_are_none(tmp_path, mean, sigma, expected):
    mu, cov = np.zeros(6), covariance()
    path = statistics(tmp_path, mean(mu) if mean else mu, sigma(cov) if sigma else cov)
    message = refusal(Statistics.open, path)
    assert expected in message and "faces.npz" in message


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_statistics_of_few_images_or_in_float32_are_some(tmp_path, dtype):
    """Singular covariances whose least eigenvalues rounding makes negative."""
    rows = np.random.default_rng(0).standard_normal((60, 200)) * 100
    path = statistics(tmp_path, rows.mean(0).astype(dtype), np.cov(rows.T).astype(dtype))
    if dtype == np.int64:  # cut off, which is no rounding
        path = statistics(tmp_path, np.zeros(3, dtype), np.eye(3, dtype=dtype))
    Statistics.open(path)
    Statistics.open(statistics(tmp_path, np.zeros(3), np.zeros((3, 3))))


def test_moments_of_a_file(tmp_path):
    moments = Moments().update(torch.randn(30, 4))
    np.savez(tmp_path / "m.npz", count=moments.count, mean=moments.mean, scatter=moments.scatter * NAN)
    assert refusal(lambda: Moments(**np.load(tmp_path / "m.npz"))).startswith("scatter of moments holds NaN")


@pytest.mark.parametrize("part", ["value", "error", "low", "high", "real_vs_real", "noise"])
def test_scores_that_are_not_finite(part):
    score = make_record().score
    key = next(iter(score.values))
    values = score.values | {key: replace(score.values[key], **{part: NAN})}
    assert refusal(Score, values, score.protocol).startswith(f"{part} of FD-lite0@128, train=nan")


# JSON


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, {"b": NAN}]}, "a[1].b is nan"),
        ({"a": (1.0, -INF)}, "a[1] is -inf"),
        (INF, "the value is inf"),
        ({"a": {1}}, "a is of type set"),
        ({"a": np.float32(1)}, "a is of type float32"),
    ],
)
def test_json_holds_finite_numbers(value, place):
    assert refusal(to_json, value) == f"{place}: JSON holds finite numbers, text, lists and dicts"


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "[-1e999]", "[" * 10**5])
def test_json_that_is_none_is_not_read(text):
    with pytest.raises(ValueError, match=r"holds|too"):
        from_json(text)


def test_json_comes_back():
    value = {"a": [1, 2.5, None, True, "é\udcff"], "b": {"c": 1e-300}}
    assert from_json(to_json(value)) == value == from_json(to_json(value, indent=1, ensure_ascii=False))


def test_all_json_goes_through_one_pair_of_functions():
    for path in (ROOT / "stylenat").rglob("*.py"):
        if path.name != "paths.py":
            assert not re.search(r"json\.(loads?|dumps?)\(|^import json", path.read_text(), re.M), path


def test_records_with_numbers_that_are_not_finite(empty_workspace):
    write_record(make_record("a"))
    record = make_record("b", minutes=NAN)
    assert refusal(write_record, record).startswith("record of run b: minutes is nan")
    assert not record_path("b").exists()
    entries = make_record("b").to_dict()
    for place, value in (("minutes", NAN), ("seconds", INF), ("config", {"r1_gamma": -INF})):
        record_path("b").parent.mkdir(exist_ok=True)
        record_path("b").write_text(json.dumps(entries | {place: value}))
        for call in (load_records, build_tables, build_figures):
            message = refusal(call)
            assert message.startswith("results/runs/b/result.json is no valid JSON (it holds")
    assert not (empty_workspace / "results" / "tables").exists()


@pytest.mark.parametrize("value", ["nan", "inf", "", "-"])
def test_published_numbers_that_are_not_finite(empty_workspace, value):
    path = empty_workspace / "results" / "paper.csv"
    lines = path.read_text().splitlines()
    column = lines[0].split(",").index("value")
    cells = lines[1].split(",")
    cells[column] = value
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    for call in (published, build_tables, bubble_chart):
        assert refusal(call).startswith(f"results/paper.csv says '{value}' for ")
    assert not (empty_workspace / "results" / "tables").exists()


@pytest.mark.parametrize("name", ["loss_g", "loss_d"])
@pytest.mark.parametrize("value", [NAN, INF, None])
def test_curves_of_losses_that_are_not_finite(name, value):
    log = pd.DataFrame({"nimg": [1, 2], "loss_g": [1.0, 2.0], "loss_d": [1.0, 2.0]})
    training_curves(log, ())
    log[name] = [1.0, value]
    assert refusal(training_curves, log, ()).startswith(f"the log's {name} holds NaN or infinity")


def test_logs_with_numbers_that_are_not_finite(run):
    assert refusal(run.add_to_log, {"nimg": 40, "loss_g": NAN}).startswith("loss_g is nan")
    before = run.log()
    (run.path / LOG).write_text('{"nimg": 32, "loss_g": NaN}\n')
    assert f"{LOG} is damaged (it holds NaN" in refusal(run.log)
    (run.path / SCORES).write_text('{"nimg": 32, "kid_lite0_128_heldout": {"value": Infinity}}\n')
    assert f"{SCORES} is damaged (it holds Infinity" in refusal(run.best)
    assert before == [{"nimg": 32, "seconds": 1.0}]


# Training


def test_weights_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
    """The losses of a step are of the weights before it: the last step of all may spoil what is saved."""
    step = Trainer.step

    def spoiled(self, images):
        losses = step(self, images)
        if self.nimg == 64:
            self.generator.layers[1].blocks[0].attn.rpb[0].data[0, 0, 0] = NAN
        return losses

    monkeypatch.setattr(Trainer, "step", spoiled)
    message = refusal(train, get_config("smoke", **TINY), tmp_path, "cpu")
    assert message.startswith(
        "training stopped at step 7: layers.1.blocks.0.attn.rpb.0 of generator holds NaN"
    )
    assert "the last good snapshot is at nimg=32" in message
    (folder,) = tmp_path.iterdir()
    assert Run(folder).snapshots() == [32]
    assert [line["nimg"] for line in Run(folder).log()][-1] < 64
    monkeypatch.undo()
    assert train(get_config("smoke", **TINY), tmp_path, "cpu").snapshots() == [32, 64]


@pytest.mark.parametrize(("loss", "value"), [("loss_d", NAN), ("r1", INF)])
def test_losses_that_are_not_finite_stop_a_training(tmp_path, monkeypatch, loss, value):
    step = Trainer.step

    def broken(self, images):
        losses = step(self, images)
        return losses | {loss: torch.tensor(value)} if self.nimg == 48 else losses

    monkeypatch.setattr(Trainer, "step", broken)
    message = refusal(train, get_config("smoke", **TINY), tmp_path, "cpu")
    assert message.startswith(
        f"training stopped at step 5: {loss} is {value}; the last good snapshot is at nimg=32"
    )


def test_learning_rates_that_are_far_too_high_end_in_one_line(tmp_path):
    config = get_config("smoke", **TINY, generator_lr=1e37, discriminator_lr=1e37)
    message = refusal(train, config, tmp_path, "cpu")
    assert re.match(
        r"training stopped at step \d: (loss_\w|r1|\S+ of \w+) .*no snapshot yet\. Lower", message
    )
    (folder,) = tmp_path.iterdir()
    assert not Run(folder).snapshots() and not list(folder.glob("samples/*"))
