"""Checkpoints: published files give the published images, nothing in a file is run, errors name the cause."""

import argparse
import builtins
import importlib
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import warnings
import webbrowser
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import GOLDEN, Plain, golden, make_record, refusal, relative_error, small_network
from hostile_files import write_run
from PIL import Image

from stylenat.attention.partitions import Full, HeadPartition, format_partitions, parse_partitions
from stylenat.checkpoints.convert import convert
from stylenat.checkpoints.load import load_discriminator, load_generator
from stylenat.checkpoints.published import CONSTANT, from_published, read_pt, to_published
from stylenat.checkpoints.run import Run
from stylenat.checkpoints.samples import open_images
from stylenat.checkpoints.tensors import load_tensors, save_tensors
from stylenat.cli import main
from stylenat.data.dataset import open_dataset
from stylenat.errors import UserError
from stylenat.evaluation.evaluate import evaluate
from stylenat.evaluation.metrics import ScoreKey
from stylenat.models.build import build_discriminator, build_generator
from stylenat.models.stylenat import StyleNAT
from stylenat.presets import get_config
from stylenat.reporting.records import DatasetInfo, write_record
from stylenat.sampling.sample import sample_images
from stylenat.training.loop import train

KEYS = json.loads((GOLDEN / "keys.json").read_text())
MIXED = {"runs": {"size": 32, "generator": {"dilations": [[1], [1], [3, 2], [3, 1, 4]], "block_type": "nat"}}}
Z = torch.from_numpy(np.random.default_rng(7).standard_normal((2, 512)).astype(np.float32))


def published(case):
    """A published state dict with its constants, and the golden outputs."""
    shapes = json.loads((GOLDEN / f"{case}.json").read_text())
    state, outputs = golden(case)
    return {name: state.get(name, torch.zeros(shape)) for name, shape in shapes.items()}, outputs


def save(path, args=None, layout="new", **networks):
    """A file as the authors' code writes it; the raw generator is another network than the average."""
    if "g_ema" in networks and "g" not in networks:
        networks["g"] = {name: tensor + 1 for name, tensor in networks["g_ema"].items()}
    contents = (
        {"state_dicts": networks, "optim_dicts": {}} if layout == "new" else {**networks, "g_optim": {}}
    )
    torch.save({**contents, "args": args, "iter": 3}, path)
    return path


@pytest.fixture(scope="module")
def tiny():
    return get_config(
        "smoke",
        widths=(8, 8, 8, 8),
        discriminator_widths=(8, 8, 8),
        head_dim=4,
        latent_dim=8,
        mapping_depth=1,
    )


@pytest.fixture
def tiny_pt(tiny, tmp_path):
    """A published file of a tiny generator and discriminator, with the partitions 1x3@1,1x3@R/4."""
    torch.manual_seed(0)
    generator, discriminator = build_generator(tiny).requires_grad_(False), build_discriminator(tiny)
    for parameter in generator.parameters():
        parameter.normal_(std=0.2)
    networks = {"g_ema": to_published(generator.state_dict()), "d": to_published(discriminator.state_dict())}
    args = {"runs": {"generator": {"dilations": [[1], [1, 2], [1, 4], [1, 8]]}}}
    return save(tmp_path / "tiny.pt", args, **networks), generator.eval()


# --- golden values through files


@torch.no_grad()
@pytest.mark.parametrize(
    "case, layout, args, warned",
    [
        ("hydra_32", "new", {"runs": {"generator": {"dilations": [[1], [1], [1, 2], [1, 4], [1, 8]]}}}, None),
        ("hydra_32", "new", {}, "8x7@1,8x7@2/8x7@1,8x7@4"),
        ("hydra_32_mixed", "new", MIXED, None),
        ("legacy_32", "old", argparse.Namespace(size=32, dilations=None), "8x7@1,8x7@1/8x7@1,8x7@2"),
        ("legacy_32", "old", argparse.Namespace(dilations=[[1], [1], [1, 2], [1, 4]]), None),
        ("swin_32", "old", argparse.Namespace(size=32), None),
    ],
)
def test_published_generators_load_and_give_their_images(tmp_path, case, layout, args, warned):
    state, outputs = published(case)
    path = save(tmp_path / "x.pt", args, layout, g_ema=state)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        generator = load_generator(path)
    assert [warned in str(warning.message) for warning in caught] == ([True] if warned else [])
    assert not generator.training and not any(p.requires_grad for p in generator.parameters())
    assert relative_error(generator.mapping(Z), outputs["w"]) < 1e-5
    error = relative_error(generator(Z), outputs["image"])
    print(f"{case}, {layout} layout: {error:.1e}")
    assert error < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("case", ["disc_32", "disc_128_batch8"])
@pytest.mark.parametrize("layout", ["old", "new"])
def test_published_discriminators_load_and_give_their_logits(tmp_path, case, layout):
    state, outputs = published(case)
    discriminator = load_discriminator(save(tmp_path / "x.pt", layout=layout, d=state))
    shape = (len(outputs["logits"]), 3, discriminator.resolution, discriminator.resolution)
    images = torch.from_numpy(np.random.default_rng(11).standard_normal(shape).astype(np.float32))
    error = relative_error(discriminator(images), outputs["logits"])
    print(f"{case}, {layout} layout: {error:.1e}")
    assert error < 1e-5


# --- names


@pytest.mark.parametrize("case", KEYS)
def test_every_published_name_goes_to_ours_and_back(case):
    numbered = {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(KEYS[case].items())}
    ours = from_published(numbered)
    back = to_published(ours, legacy=case.startswith("legacy"))
    assert {name: list(tensor.shape) for name, tensor in back.items()} == KEYS[case]
    kept = [name for name in numbered if not CONSTANT.search(name)]
    assert len(kept) == len(ours) and all(torch.equal(back[name], numbered[name]) for name in kept)


@pytest.mark.parametrize(
    "case, preset",
    [
        ("hydra_256", "ffhq-256"),
        ("hydra_1024", "ffhq-1024"),
        ("swin_256", "styleswin-256"),
        ("disc_256", "ffhq-256"),
        ("disc_1024", "ffhq-1024"),
    ],
)
def test_published_names_are_those_of_the_presets(case, preset):
    with torch.device("meta"):
        config = get_config(preset)
        network = build_discriminator(config) if "disc" in case else build_generator(config)
    ours = from_published({name: torch.empty(shape, device="meta") for name, shape in KEYS[case].items()})
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.items()} == shapes


def test_legacy_1024_loads_with_two_halves_a_level():
    ours = from_published(
        {name: torch.empty(shape, device="meta") for name, shape in KEYS["legacy_1024"].items()}
    )
    halves = [name for name in ours if re.search(r"layers\.\d\.blocks\.0\.attn\.rpb\.\d", name)]
    assert len(halves) == 16 and not any(re.search(r"rpb\d", name) for name in ours)


def test_constants_are_made_as_published():
    """The made buffers against their definition in the layers of ours that compute with them."""
    back = to_published(from_published({n: torch.zeros(s) for n, s in KEYS["swin_256"].items()}))
    kernel = back["to_rgbs.0.upsample.kernel"]
    assert kernel.sum() == 4 and torch.equal(kernel, kernel.T) and kernel[0, 0] == 1 / 16
    index = back["layers.1.blocks.0.attn.0.relative_position_index"]
    assert index[0, 0] == 7 * 15 + 7 and index[63, 0] == 14 * 15 + 14 and index[0, 1] == 7 * 15 + 6
    mask = back["layers.2.blocks.0.attn_mask2"]
    assert mask.unique().tolist() == [-100, 0] and not mask[0].any()
    assert mask[3, 0, 63] == -100 and mask[1, 0, 3] == 0 and mask[1, 0, 4] == -100  # columns cut in two
    haar = to_published(from_published({n: torch.zeros(s) for n, s in KEYS["disc_256"].items()}))
    assert torch.allclose(haar["dwt.lh"], torch.tensor([[-0.5, -0.5], [0.5, 0.5]]))
    assert torch.equal(haar["from_rgbs.1.iwt.lh"], -haar["from_rgbs.1.dwt.lh"])


# --- partitions


def slow_attention(x, layer):
    """Hydra attention by its definition, one query and head at a time, in float64."""
    side, heads = x.shape[0], layer.heads
    qkv = (x @ layer.qkv.weight.double().T + layer.qkv.bias.double()).view(side, side, 3, heads, -1)
    q, k, v = qkv.unbind(2)
    out, head = torch.zeros_like(q), 0
    for part, table in zip(layer.partitions, layer.rpb, strict=True):
        size, dilation = part.kernel_size, part.dilation
        for own in range(part.heads):
            for y, x0 in np.ndindex(side, side):
                axes = []
                for p in (y, x0):
                    members = list(range(p % dilation, side, dilation))
                    g = members.index(p)
                    start = min(max(g - size // 2, 0), len(members) - size)
                    axes.append([(members[j], j - g + size - 1) for j in range(start, start + size)])
                cells = [(a, b) for a in axes[0] for b in axes[1]]
                logits = torch.stack(
                    [
                        q[y, x0, head] @ k[a[0], b[0], head] * q.shape[-1] ** -0.5 + table[own, a[1], b[1]]
                        for a, b in cells
                    ]
                )
                values = torch.stack([v[a[0], b[0], head] for a, b in cells])
                out[y, x0, head] = logits.softmax(0) @ values
            head += 1
    return out.flatten(2) @ layer.proj.weight.double().T + layer.proj.bias.double()


@torch.no_grad()
def test_five_partitions_on_sixteen_heads_against_a_slow_computation(tmp_path):
    part = parse_partitions("3x3@1,3x5@2,3x7@1,3x3@5,4x5@3")
    torch.manual_seed(1)
    generator = StyleNAT((32, 32, 32), [(Full(16),), (HeadPartition(16, 3, 2),), part], 8, 1)
    for parameter in generator.parameters():
        parameter.normal_()
    args = argparse.Namespace(dilations=[[1], [2], [1, 2, 1, 5, 3]])
    path = save(tmp_path / "five.pt", args, g_ema=to_published(generator.state_dict()))
    layer = load_generator(path).layers[2].blocks[1].attn
    assert format_partitions(layer.partitions) == "3x3@1,3x5@2,3x7@1,3x3@5,4x5@3"
    x = torch.randn(16, 16, 32)
    error = relative_error(layer(x[None])[0].double(), slow_attention(x.double(), layer))
    print(f"five partitions: {error:.1e}")
    assert error < 1e-5


PAIRS = [[(3, 1), (3, 2)], [(3, 1), (3, 4)], [(3, 1), (3, 8)]]


@pytest.mark.parametrize(
    "given",
    [
        PAIRS,
        [[HeadPartition(1, 3, d) for _, d in level] for level in PAIRS],
        "1x3@1,1x3@2/1x3@1,1x3@4/1x3@1,1x3@8",
        ["1x3@1,1x3@2", PAIRS[1], [HeadPartition(1, 3, 1), HeadPartition(1, 3, 8)]],
    ],
)
def test_partitions_may_be_given_in_every_form(tiny_pt, given):
    path, generator = tiny_pt
    loaded = load_generator(path, given)
    assert torch.equal(loaded(torch.ones(1, 8)), generator(torch.ones(1, 8)))


def test_given_partitions_come_before_stored_ones(tiny_pt):
    path, generator = tiny_pt
    other = load_generator(path, [[(3, 1), (3, 1)]] * 3)
    assert [part.dilation for part in other.partitions[3]] == [1, 1]
    assert not torch.equal(other(torch.ones(1, 8)), generator(torch.ones(1, 8)))


@pytest.mark.parametrize(
    "given, message",
    [
        (PAIRS[:2], "2 levels, .* has 3 from 8 on"),
        ([PAIRS[0], PAIRS[1], [(5, 1), (3, 1)]], "level 32 do not fit"),
        ([PAIRS[0], PAIRS[1], [(3, 1)]], "level 32 do not fit its tensors, which have 1 heads with kernel 3"),
        ("2x3@1/1x3@1,1x3@4/1x3@1,1x3@8", "level 8 do not fit"),
        ([PAIRS[0], PAIRS[1], [(3, 1), (3, 11)]], "level 32: kernel k=3 with dilation d=11"),
    ],
)
def test_partitions_that_do_not_fit(tiny_pt, given, message):
    with pytest.raises(UserError, match=message):
        load_generator(tiny_pt[0], given)


def test_three_partitions_without_stored_dilations(tmp_path):
    state, _ = published("hydra_32_mixed")
    with pytest.raises(
        UserError, match="3 partitions of level 32 there is no published rule: give partitions"
    ):
        load_generator(save(tmp_path / "x.pt", {}, g_ema=state))


# --- which network, and what is wrong with it


def test_the_raw_generator_is_another_one(tiny_pt):
    path, generator = tiny_pt
    raw = load_generator(path, which="g")
    torch.testing.assert_close(raw.input.input, generator.input.input + 1)
    with pytest.raises(UserError, match="which='d' is unknown"):
        load_generator(path, which="d")


def change(path, edit):
    contents = torch.load(path, weights_only=True)
    edit(contents["state_dicts"]["g_ema"])
    torch.save(contents, path)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda g: [g.pop(n) for n in list(g) if n.endswith("fc1.bias")],
         r"lacks 8 tensors \(layers.0.blocks.0.mlp.fc1.bias, .*, …\)"),
        (lambda g: g.update(extra=torch.zeros(2)), r"has left over 1 tensors \(extra\)"),
        (lambda g: g.update({"to_rgbs.0.bias": torch.zeros(3)}),
         r"of other shapes 1 tensors \(to_rgbs.0.bias \(3,\) for \(1, 3, 1, 1\)\)"),
        (lambda g: g.pop("layers.2.blocks.0.attn.proj.weight"), "lacks the tensor 'layers.2.blocks.0.attn"),
        (lambda g: g.clear(), "no generator"),
    ],
)  # fmt: skip
def test_tensors_that_are_missing_left_over_or_misshapen(tiny_pt, edit, message):
    change(tiny_pt[0], edit)
    with pytest.raises(UserError, match=message):
        load_generator(tiny_pt[0])


def test_files_that_are_no_checkpoints(tmp_path, tiny_pt):
    for name, content, message in (
        ("empty.pt", b"", "can't be read"),
        ("text.pt", b"<html>404</html>", "can't be read"),
        ("cut.pt", tiny_pt[0].read_bytes()[:3000], "can't be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_generator(tmp_path / name)
    torch.save([1], tmp_path / "list.pt")
    torch.save({"model": {}}, tmp_path / "other.pt")
    torch.save({"g_ema": {"a": 1}}, tmp_path / "numbers.pt")
    for name, message in (
        ("list", "holds list"),
        ("other", "holds 'model'"),
        ("numbers", "more than tensors"),
    ):
        with pytest.raises(UserError, match=message):
            load_generator(tmp_path / f"{name}.pt")
    with pytest.raises(UserError, match=r"not found: give a published .pt, a model folder"):
        load_generator(tmp_path / "nowhere.pt")
    with pytest.raises(UserError, match="no network 'd': it holds g_ema"):
        load_discriminator(save(tmp_path / "g.pt", g_ema={"x": torch.zeros(1)}))


def test_omegaconf_settings_are_had_as_plain_data():
    """The file was written with OmegaConf 2.3.0, which is not needed to read it."""
    args = read_pt(GOLDEN / "omegaconf_args.pt")["args"]
    assert args["runs"]["generator"] == {
        "kernels": [[3], [7], [7], [7]], "dilations": [[1], [1], [1, 2], [1, 4]], "lr": 0.0002,
        "qk_scale": None, "block": "nat", "ok": True,
    }  # fmt: skip
    assert args["ref"] == "${runs.size}"


# --- files that would run code


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Builds:
    """Pickles as a call whose result is then given a state."""

    def __init__(self, function, arguments, state):
        self.parts = function, arguments, state

    def __reduce__(self):
        return self.parts


def payloads(marker):
    write = f"open({str(marker)!r}, 'w')"
    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "os.popen": Calls(os.popen, f"touch {marker}"),
        "eval": Calls(builtins.eval, write),
        "exec": Calls(builtins.exec, write),
        "open": Calls(builtins.open, str(marker), "w"),
        "path": Calls(Path.touch, marker),
        "subprocess": Calls(subprocess.Popen, ["touch", str(marker)]),
        "import": Calls(importlib.import_module, "antigravity"),
        "rmtree": Calls(shutil.rmtree, str(marker.parent)),
        "browser": Calls(webbrowser.open, f"file://{marker}"),
        "getattr": Calls(builtins.getattr, "", "join"),
        "torch.load": Calls(torch.load, str(marker)),
        "torch.save": Calls(torch.save, {}, str(marker)),
        "torch.hub": Calls(torch.hub.download_url_to_file, "file:///dev/null", str(marker)),
        "numpy": Calls(np.save, str(marker), 0),
        "pickle in pickle": Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {marker}"))),
        "state": Builds(argparse.Namespace, (), {"x": Calls(os.system, f"touch {marker}")}),
    }


NAMES = list(payloads(Path("x")))


@pytest.mark.parametrize(
    "where", ["args", "namespace", "weights", "optimizer", "raw pickle", "old torch format"]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_never_executed(tmp_path, name, where):
    marker, path = tmp_path / "ran", tmp_path / "bad.pt"
    payload = payloads(marker)[name]
    contents = {
        "args": {"g_ema": {}, "args": payload},
        "namespace": {"g_ema": {}, "args": argparse.Namespace(dilations=payload)},
        "weights": {"g_ema": {"style.1.weight": payload}},
        "optimizer": {"g_ema": {}, "g_optim": payload},
    }.get(where, {"g_ema": {}, "args": payload})
    if where == "raw pickle":
        path.write_bytes(pickle.dumps(contents, protocol=2))
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=where != "old torch format")
    with pytest.raises(UserError, match="nothing was run") as caught:
        load_generator(path)
    assert "\n" not in str(caught.value) and not marker.exists() and tmp_path.exists()
    print(f"{name}, {where}: {str(caught.value).replace(str(tmp_path) + '/', '')}")


def test_the_payloads_do_run_where_pickles_are_trusted(tmp_path):
    """Otherwise the test above would show nothing."""
    for name in (
        "os.system",
        "eval",
        "exec",
        "open",
        "subprocess",
        "torch.save",
        "numpy",
        "pickle in pickle",
        "state",
    ):
        marker = tmp_path / name.replace(" ", "-")
        result = pickle.loads(pickle.dumps(payloads(marker)[name]))
        if name == "subprocess":
            result.wait()
        assert (
            marker.exists()
            or marker.with_suffix(".npy").exists()
            or (tmp_path / f"{marker.name}.npy").exists()
        )


def test_stored_configuration_classes_stay_inert(tmp_path):
    """OmegaConf's names stand for data even where a file calls them, as a function, with anything."""
    text = b"comegaconf.dictconfig\nDictConfig\n(S'rm -rf'\ntR."
    stream = pickle.PROTO + b"\x02" + text
    buffer = io.BytesIO()
    torch.save({"g_ema": {}, "args": 0}, buffer)
    (tmp_path / "raw.pt").write_bytes(stream)
    with pytest.raises(UserError, match=r"nothing was run|expected a dict"):
        load_generator(tmp_path / "raw.pt")


# --- conversion


def output_of(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_convert_makes_a_model_folder_that_gives_the_same_image(capsys, tmp_path, tiny_pt):
    path, generator = tiny_pt
    assert output_of(capsys, "convert", path, tmp_path / "new") == f"converted: {tmp_path / 'new'}\n"
    names = {file.name for file in (tmp_path / "new").iterdir()}
    assert names == {"g_ema.safetensors", "g.safetensors", "d.safetensors", "model.json", "README.md"}
    z = torch.randn(2, 8)
    for which in ("ema", "g"):
        loaded, expected = load_generator(tmp_path / "new", which=which), load_generator(path, which=which)
        assert torch.equal(loaded(z), expected(z))
    assert torch.equal(load_generator(tmp_path / "new" / "g_ema.safetensors")(z), generator(z))
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(load_discriminator(tmp_path / "new")(images), load_discriminator(path)(images))
    card = (tmp_path / "new" / "README.md").read_text()
    for text in ("tiny.pt", "1x3@1,1x3@8", "not recorded in the file", "License", "Not scored", "10,000"):
        assert text in card
    mean = load_tensors(tmp_path / "new" / "g_ema.safetensors")["mean_style"]
    draws = torch.randn(10_000, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mean, generator.mapping(draws).mean(0).detach())


@pytest.mark.parametrize("layout", ["old", "new"])
def test_convert_back_gives_the_published_file_again(capsys, tmp_path, tiny_pt, layout):
    path, generator = tiny_pt
    original = torch.load(path, weights_only=True)["state_dicts"]
    if layout == "old":
        original = {
            n: to_published(from_published(t), legacy=True) if n != "d" else t for n, t in original.items()
        }
        save(path, {"dilations": [[1], [1, 2], [1, 4], [1, 8]]}, "old", **original)
    output_of(capsys, "convert", path, tmp_path / "new")
    output_of(capsys, "convert", tmp_path / "new", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    back = back["state_dicts"] if layout == "new" else back
    for name in ("g_ema", "g", "d"):
        assert back[name].keys() == original[name].keys()
        for key, tensor in original[name].items():
            assert torch.equal(back[name][key], tensor) or CONSTANT.search(key)
    assert torch.equal(load_generator(tmp_path / "back.pt")(torch.ones(1, 8)), generator(torch.ones(1, 8)))


def test_a_compact_model_is_half_as_large_and_nearly_the_same(capsys, tmp_path, tiny_pt):
    path, generator = tiny_pt
    output_of(capsys, "convert", path, tmp_path / "small", "--compact")
    assert {file.name for file in (tmp_path / "small").iterdir()} == {
        "g_ema.safetensors",
        "model.json",
        "README.md",
    }
    stored = load_tensors(tmp_path / "small" / "g_ema.safetensors")
    assert {tensor.dtype for name, tensor in stored.items() if name != "mean_style"} == {torch.float16}
    loaded = load_generator(tmp_path / "small")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert relative_error(loaded(torch.ones(1, 8)), generator(torch.ones(1, 8))) < 2e-3


def test_models_with_the_former_text_of_full_attention_load(tmp_path, tiny_pt):
    """Written before full attention had a name: as a kernel of 3, which nothing used."""
    path, generator = tiny_pt
    heads = generator.partitions[0][0].heads
    convert(path, tmp_path / "model")
    card = tmp_path / "model" / "model.json"
    facts = json.loads(card.read_text())
    assert facts["partitions"][0] == f"{heads}xfull"
    facts["partitions"][0] = f"{heads}x3@1"
    card.write_text(json.dumps(facts))
    assert load_generator(tmp_path / "model").partitions == generator.partitions


def test_bare_tensors_and_damaged_models(tmp_path, tiny_pt):
    generator = tiny_pt[1]
    save_tensors(tmp_path / "bare.safetensors", generator.state_dict())
    with pytest.warns(UserWarning, match="stores no dilations: assumed the published rule"):
        bare = load_generator(tmp_path / "bare.safetensors")
    assert [part.dilation for part in bare.partitions[3]] == [1, 4]
    loaded = load_generator(tmp_path / "bare.safetensors", PAIRS)
    assert torch.equal(loaded(torch.ones(1, 8)), generator(torch.ones(1, 8)))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{")
    with pytest.raises(UserError, match=r"model\.json is damaged"):
        load_generator(tmp_path / "model")


@pytest.mark.parametrize("manifest", ["ab12", None])
def test_a_run_recorded_outside_of_git_converts(monkeypatch, tmp_path, tiny, manifest):
    """Its record knows no commit; that of version 0.1 may know no manifest either."""
    monkeypatch.setenv("STYLENAT_WORKSPACE", str(tmp_path))
    run = Run(tmp_path / "runs" / "tiny")
    run.begin(tiny)
    networks = {"generator": build_generator(tiny), "discriminator": build_discriminator(tiny)}
    state = {name: network.state_dict() for name, network in networks.items()}
    run.save(320, networks["generator"], state, {})
    dataset = DatasetInfo("portraits", 32, manifest)
    own = {"config": tiny.to_dict(), "nimg": 320, "dataset": dataset, "commit": None}
    write_record(make_record(run.id, **own))
    folder = convert(run.path, tmp_path / "model")
    facts = json.loads((folder / "model.json").read_text())
    assert facts["minutes"] == 15.2345 and "commit" not in facts
    card = (folder / "README.md").read_text()
    known = ", manifest `ab12`" if manifest else ""
    assert f"- Data: portraits, 32 pixels{known}\n" in card


def test_convert_never_overwrites_what_is_not_a_model(capsys, tmp_path, tiny_pt):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "there.pt").write_text("precious")
    for target in ("mine", "there.pt"):
        assert main(["convert", str(tiny_pt[0]), str(tmp_path / target)]) == 2
        assert "exists already" in capsys.readouterr().err
    output_of(capsys, "convert", tiny_pt[0], tmp_path / "new")
    output_of(capsys, "convert", tiny_pt[0], tmp_path / "new")  # a model folder is written again


# --- a generator other than StyleNAT's


@pytest.fixture
def plain_run(tmp_path, monkeypatch):
    """A trained run of such a generator."""
    for module in ("stylenat.checkpoints.load", "stylenat.checkpoints.run", "stylenat.training.trainer"):
        monkeypatch.setattr(f"{module}.build_generator", lambda config: Plain())
    return train(get_config("smoke", nimg=16, latent_dim=8), tmp_path, "cpu")


def test_another_generator_is_built_from_the_configuration_of_its_run(plain_run, tmp_path):
    trained = plain_run.generator()
    images = sample_images(trained, range(2), truncation_psi=0.5)
    assert images.float().std() > 0
    convert(plain_run.path, tmp_path / "model")
    snapshot = plain_run.generator_path(16)
    for path in (plain_run.path, snapshot, tmp_path / "model", tmp_path / "model" / "g_ema.safetensors"):
        loaded = load_generator(path)
        assert isinstance(loaded, Plain) and not loaded.training
        assert torch.equal(sample_images(loaded, range(2), truncation_psi=0.5), images)
    raw = load_generator(tmp_path / "model", which="g")
    assert not torch.equal(raw.fields[0].weight, trained.fields[0].weight)


def test_the_model_of_another_generator_says_what_it_is(plain_run, tmp_path):
    convert(plain_run.path, tmp_path / "model", compact=True)
    facts = json.loads((tmp_path / "model" / "model.json").read_text())
    assert (facts["generator"], facts["precision"]) == ("Plain", "float16") and "partitions" not in facts
    card = (tmp_path / "model" / "README.md").read_text()
    assert "# Plain generator, 32 × 32" in card and "| level | channels |\n| --: | --: |\n| 4 | 3 |\n" in card
    message = refusal(convert, plain_run.path, tmp_path / "model.pt")
    assert "only StyleNAT's generator has a layout as .pt" in message
    assert not (tmp_path / "model.pt").exists()


def test_a_model_of_another_generator_with_a_damaged_configuration(plain_run, tmp_path):
    convert(plain_run.path, tmp_path / "model")
    place = tmp_path / "model" / "model.json"
    facts = json.loads(place.read_text())
    del facts["config"]["nimg"]
    place.write_text(json.dumps(facts))
    assert "holds no configuration" in refusal(load_generator, tmp_path / "model")


# --- wrapped networks, settings of NumPy and pathlib


@pytest.mark.parametrize(
    "wrapper", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}"]
)
def test_checkpoints_of_wrapped_networks_load(tmp_path, tiny_pt, wrapper):
    path, generator = tiny_pt
    contents = torch.load(path, weights_only=False)
    for name, tensors in contents["state_dicts"].items():
        contents["state_dicts"][name] = {wrapper.format(key): tensor for key, tensor in tensors.items()}
    torch.save(contents, tmp_path / "wrapped.pt")
    assert_same(load_generator(tmp_path / "wrapped.pt").state_dict(), generator.state_dict())
    assert_same(
        load_discriminator(tmp_path / "wrapped.pt").state_dict(), load_discriminator(path).state_dict()
    )
    tensors = {wrapper.format(key): tensor for key, tensor in generator.state_dict().items()}
    save_tensors(tmp_path / "wrapped.safetensors", tensors)
    loaded = load_generator(tmp_path / "wrapped.safetensors", "1x3@1,1x3@2/1x3@1,1x3@4/1x3@1,1x3@8")
    assert_same(loaded.state_dict(), generator.state_dict())


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_a_compiled_part_of_a_network_is_no_other_network(tmp_path, tiny_pt):
    path, generator = tiny_pt
    contents = torch.load(path, weights_only=False)
    states = contents["state_dicts"]
    states["g_ema"] = {
        key.replace("blocks.0.", "blocks.0._orig_mod."): tensor for key, tensor in states["g_ema"].items()
    }
    torch.save(contents, tmp_path / "part.pt")
    assert_same(load_generator(tmp_path / "part.pt").state_dict(), generator.state_dict())


def test_a_tensor_that_is_there_plain_and_wrapped_is_refused(tmp_path, tiny_pt):
    contents = torch.load(tiny_pt[0], weights_only=False)
    tensors = contents["state_dicts"]["g_ema"]
    tensors["module.input.input"] = tensors["input.input"] + 1
    torch.save(contents, tmp_path / "twice.pt")
    message = refusal(load_generator, tmp_path / "twice.pt")
    assert "'input.input' twice, once as 'module.input.input'" in message


SETTINGS = {
    "lr": (np.float64(0.25), 0.25), "steps": (np.int64(7), 7), "flip": (np.bool_(True), True),
    "name": (np.str_("ffhq"), "ffhq"), "half": (np.float16(0.5), 0.5),
    "sizes": (np.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
    "big": (np.array([1, 2], dtype=">i4"), [1, 2]), "words": (np.array(["a", "bc"]), ["a", "bc"]),
    "path": (pathlib.PurePosixPath("/data/x"), "/data/x"), "here": (pathlib.Path(), "."),
    "windows": (pathlib.PureWindowsPath("C:/x"), "C:\\x"), "bulk": (np.zeros(10**5), None),
    "complex": (np.complex64(1), None), "date": (np.datetime64("2020"), None),
    "inner": (argparse.Namespace(out=pathlib.Path("runs"), seed=np.uint8(3)), {"out": "runs", "seed": 3}),
}  # fmt: skip


@pytest.mark.parametrize("is_zip", [True, False])
def test_settings_of_numpy_and_pathlib_are_had_as_plain_data(tmp_path, is_zip):
    args = {name: stored for name, (stored, _) in SETTINGS.items()}
    torch.save({"g_ema": {}, "args": args}, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
    found = read_pt(tmp_path / "x.pt")["args"]
    assert found == {name: plain for name, (_, plain) in SETTINGS.items()}
    assert all(type(value) in (int, float, str, bool, list, dict, type(None)) for value in found.values())


def test_dilations_may_be_an_array_of_numpy(tmp_path, tiny_pt):
    path, generator = tiny_pt
    contents = torch.load(path, weights_only=False)
    contents["args"] = {
        "dilations": [np.array([1]), *(np.array([1, d]) for d in (2, 4, 8))],
        "out": Path("x"),
    }
    torch.save(contents, tmp_path / "x.pt")
    assert load_generator(tmp_path / "x.pt").partitions == generator.partitions
    convert(tmp_path / "x.pt", tmp_path / "model")
    facts = json.loads((tmp_path / "model" / "model.json").read_text())
    assert facts["settings"] == {"dilations": [[1], [1, 2], [1, 4], [1, 8]], "out": "x"}


class Shape:
    """A NumPy array whose shape, type or bytes are not what they should be."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), self.state


@pytest.mark.parametrize(
    "state",
    [
        (1, (10**12,), np.dtype("f8"), False, b"12345678"), (1, (2,), np.dtype("f8"), False, b"123"),
        (1, "x", np.dtype("f8"), False, b"12345678"), (1, (1,), 5, False, b"12345678"), (1, 2), (),
        (1, (1,), np.dtype("O"), False, b"12345678"), (1, (1,), np.dtype("V8"), False, b"12345678"),
    ],
)  # fmt: skip
def test_arrays_that_lie_are_left_out(tmp_path, state):
    torch.save({"g_ema": {}, "args": {"x": Shape(*state), "y": 1}}, tmp_path / "x.pt")
    assert read_pt(tmp_path / "x.pt")["args"] == {"x": None, "y": 1}


# --- sample


def test_sample_writes_the_same_images_whatever_is_sampled_with_them(capsys, tmp_path, tiny_pt):
    path, generator = tiny_pt
    a = ["sample", path, "--psi", "0.7", "--device", "cpu"]
    output_of(capsys, *a, "--seeds", "0-3,7", "--out", tmp_path / "a", "--gif", "2")
    output_of(capsys, *a, "--seeds", "7,2", "--out", tmp_path / "b")
    assert {file.name for file in (tmp_path / "a").iterdir()} == {
        "seed0000.png", "seed0001.png", "seed0002.png", "seed0003.png", "seed0007.png", "grid.png",
        "interpolation.gif",
    }  # fmt: skip
    for name in ("seed0007.png", "seed0002.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    expected = sample_images(generator, [7], truncation_psi=0.7)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b" / "seed0007.png")), expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--seeds", "3-1"], "seeds '3-1'"),
        (["--seeds", "a"], "seeds 'a'"),
        (["--seeds", ""], "'--seeds': it is empty"),
        (["--seeds", "-1"], "seeds '-1'"),
        (["--seeds", str(2**63)], "below 2**63"),
        (["--seeds", "9" * 5000], "below 2**63"),
        (["--seeds", "0-99999999999"], "more than 1,000,000"),
        (["--seeds", "0-3,2"], "seed 2 is given twice"),
        (["--gif", "-1"], "-1 frames"),
        (["--out", "~no-such-user/x"], "home folder is unknown"),
        (["--psi", "nan"], "psi=nan"),
        (["--gif", "0"], "0 frames"),
        (["--partitions", "1x3@1"], "1 levels"),
        (["--device", "tpu"], "device 'tpu'"),
    ],
)
def test_sample_says_what_is_wrong(capsys, tmp_path, tiny_pt, arguments, message):
    assert main(["sample", str(tiny_pt[0]), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_sample_wrote_can_be_scored(capsys, tmp_path, tiny_pt):
    command = ["sample", tiny_pt[0], "--device", "cpu", "--out", tmp_path / "out"]
    output_of(capsys, *command, "--seeds", "0-23", "--gif", "1")
    grid = (tmp_path / "out" / "grid.png").read_bytes()
    assert (tmp_path / "out" / "interpolation.gif").is_file()
    score = evaluate(
        open_images(tmp_path / "out"),
        open_dataset("noto-faces", 32),
        "fid",
        networks={"inception-legacy": small_network("inception-legacy")},
    )
    assert score.values[ScoreKey("fid", "fid", "all")].value > 0
    assert len(open_images(tmp_path / "out")) == 24
    # Fewer seeds would leave some of the call before.
    assert main([str(word) for word in (*command, "--seeds", "0-3")]) == 2
    assert "images of another call (20, such as seed0004.png)" in capsys.readouterr().err
    assert (tmp_path / "out" / "grid.png").read_bytes() == grid
    output_of(capsys, *command, "--seeds", "0-23", "--psi", "0.1")
    assert (tmp_path / "out" / "grid.png").read_bytes() != grid
    assert not (tmp_path / "out" / "interpolation.gif").exists()


def test_a_stop_halfway_leaves_no_mixture_of_two_calls(capsys, tmp_path, tiny_pt, monkeypatch):
    command = ["sample", str(tiny_pt[0]), "--device", "cpu", "--out", str(tmp_path / "out"), "--seeds", "0-3"]
    output_of(capsys, *command)
    made = []

    def stop(generator, seeds, **options):
        if made:
            raise KeyboardInterrupt
        made.append(seeds)
        return sample_images(generator, seeds, **options)

    monkeypatch.setattr("stylenat.sampling.sample.sample_images", stop)
    assert main([*command, "--psi", "0.1"]) == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["seed0000.png"]


def test_the_assumed_rule_is_warned_of_on_one_line(capsys, tmp_path):
    path = save(tmp_path / "x.pt", {}, g_ema=published("hydra_32")[0])
    assert main(["sample", str(path), "--seeds", "0", "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert error.startswith("warning: ") and "assumed the published rule" in error and error.count("\n") == 1


def test_a_generator_without_position_tables_is_loaded_from_runs_and_model_folders(tmp_path):
    changes = {"position_bias": False, "partitions": "2x3@1/1x3@1,1x3@2/2xfull"}
    config = get_config("smoke", **changes)
    torch.manual_seed(0)
    generator = build_generator(config).eval()
    assert not [name for name in generator.state_dict() if "rpb" in name]
    run = Run(tmp_path / "run")
    run.begin(config)
    networks = {"generator": generator, "discriminator": build_discriminator(config)}
    state = {name: network.state_dict() for name, network in networks.items()}
    run.save(16, generator, state, {"nimg": 16})
    z = torch.randn(2, config.latent_dim)
    convert(run.path, tmp_path / "model")
    for path in (run.path, tmp_path / "model"):
        torch.testing.assert_close(load_generator(path)(z), generator(z))


def test_full_attention_of_every_level_is_recognized_from_tensors_alone(tmp_path):
    torch.manual_seed(0)
    generator = StyleNAT((8, 8, 8), [(Full(2),)] * 3, 8, 1).eval()
    save_tensors(tmp_path / "g.safetensors", generator.state_dict())
    loaded = load_generator(tmp_path / "g.safetensors")
    assert loaded.partitions == generator.partitions
    z = torch.randn(2, 8)
    torch.testing.assert_close(loaded(z), generator(z))


def test_a_copy_beside_snapshots_is_no_snapshot(tmp_path):
    path = write_run(tmp_path / "run")
    (path / "state" / "000000016 (copy)").mkdir()
    shutil.copy(
        path / "generators" / "000000016.safetensors", path / "generators" / "000000016 2.safetensors"
    )
    run = Run(path)
    assert run.snapshots() == [16] and run.state_path().name == "000000016"
    assert load_generator(path).resolution == 32
