"""Objective, augmentation, the step, the loop: resumed as unbroken, bit for bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import by_id, needs_wheels
from PIL import Image

from stylenat.attention import dispatch
from stylenat.checkpoints.load import load_generator
from stylenat.checkpoints.run import BEST, Run
from stylenat.checkpoints.tensors import load_tensors, optimizer_tensors, restore_optimizer
from stylenat.data.dataset import open_dataset
from stylenat.errors import UserError
from stylenat.evaluation.evaluate import evaluate
from stylenat.evaluation.metrics import Score, ScoreValue
from stylenat.models.build import build_generator
from stylenat.presets import get_config, run_id
from stylenat.training import loop
from stylenat.training import losses as objective
from stylenat.training.augment import augment, cutout, flip, recolor, translate
from stylenat.training.loop import train
from stylenat.training.trainer import Trainer

TINY = {"widths": (16, 16, 16, 16), "discriminator_widths": (16, 16, 16), "partitions": "", "latent_dim": 8}
TINY |= {"batch_size": 8, "nimg": 64, "snapshot": 32, "r1_interval": 2, "decay_start": 0.775}
TINY["partitions"] = "1x3@1,1x3@2/1x3@1,1x3@4/1x3@1,1x3@8"


@pytest.fixture(scope="module")
def config():
    return get_config("smoke", **TINY)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- objective


def test_losses_are_the_logistic_ones():
    real, fake = torch.randn(5, 1), torch.randn(5, 1)
    ones, zeros = torch.ones(5, 1), torch.zeros(5, 1)
    entropy = F.binary_cross_entropy_with_logits
    expected = entropy(real, ones) + entropy(fake, zeros)
    torch.testing.assert_close(objective.discriminator_loss(real, fake), expected)
    torch.testing.assert_close(objective.generator_loss(fake), entropy(fake, ones))


def test_r1_is_the_squared_gradient_and_can_be_differentiated():
    images = torch.randn(3, 3, 4, 4, requires_grad=True)
    weight = torch.randn(3, 4, 4, requires_grad=True)
    penalty = objective.r1_penalty((images * weight).sum(dim=(1, 2, 3)), images)
    torch.testing.assert_close(penalty, weight.square().sum())
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * weight)


# --- augmentation


def test_augmentation_keeps_shape_and_gradient_and_differs_by_image():
    images = torch.randn(1, 3, 16, 16).repeat(6, 1, 1, 1).requires_grad_()
    out = augment(images)
    assert out.shape == images.shape and not torch.equal(out[0], out[1])
    out.sum().backward()
    assert images.grad.abs().sum() > 0


def test_flips_half_of_the_images():
    images = torch.arange(4.0).expand(400, 1, 1, 4)
    flipped = (flip(images)[:, 0, 0, 0] == 3).float().mean()
    assert 0.4 < flipped < 0.6


def test_translation_is_by_up_to_an_eighth_and_brings_zeros():
    images = torch.zeros(300, 1, 16, 16)
    images[:, :, 8, 8] = 1
    moved = translate(images).flatten(1).argmax(1)
    offsets = torch.stack([moved // 16 - 8, moved % 16 - 8])
    assert offsets.min() == -2 and offsets.max() == 2 and len(offsets.unique(dim=1).T) == 25
    assert (translate(torch.ones(50, 1, 16, 16)).mean() < 1).item()


def test_recoloring_keeps_what_it_should():
    torch.manual_seed(0)
    images = torch.randn(200, 3, 4, 4)
    gray = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    out = recolor(gray)  # saturation does nothing to gray
    torch.testing.assert_close(out, out.mean(1, keepdim=True).expand_as(out))
    shift = (recolor(images).mean((1, 2, 3)) - images.mean((1, 2, 3))).abs()  # contrast keeps the mean
    assert 0.4 < shift.max() <= 0.5 + 1e-5


def test_cutout_is_a_square_of_half_the_side():
    removed = (cutout(torch.ones(300, 1, 16, 16)) == 0).flatten(1).sum(1)
    assert removed.max() == 64 and 16 <= removed.min() < 64  # at a corner only a quarter of it is inside


# --- the step


def images(n=8, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8))


@pytest.mark.parametrize("overrides", [{}, {"diffaugment": False, "bcr_weight": 10.0}])
def test_the_whole_step_runs_on_meta(overrides):
    """Every operation of the step, shapes only: a tensor made on another device would stop it."""
    config = get_config("smoke", **TINY | overrides)
    trainer = Trainer(config, "meta")
    for _ in range(2):
        losses = trainer.step(images())
    assert trainer.nimg == 16 and all(loss.device.type == "meta" for loss in losses.values())


def test_the_seed_decides_the_first_weights(config):
    weights = [Trainer(replace(config, seed=seed), "cpu").generator.state_dict() for seed in (0, 5, 5)]
    assert same(weights[1], weights[2]) and not same(weights[0], weights[1])


def test_a_step_moves_what_it_should(config):
    trainer = Trainer(config, "cpu")
    before = {name: {k: v.clone() for k, v in s.items()} for name, s in trainer.state().items()}
    losses = trainer.step(images())
    assert set(losses) == {"loss_d", "loss_g", "r1"}
    assert set(trainer.step(images())) == {"loss_d", "loss_g"}, "R1 is lazy: every second step here"
    after = trainer.state()
    for name in ("generator", "discriminator", "ema"):
        still = {k for k in before[name] if torch.equal(before[name][k], after[name][k])}
        # Attention that looks no further than its equals can leave single tables untouched, nothing else.
        assert len(still) < 0.1 * len(before[name]), f"{name}: {still}"


def test_the_average_follows_with_its_half_life(config):
    trainer = Trainer(config, "cpu")
    trainer.nimg = 10**9  # far beyond the shorter average of the start
    for parameter in trainer.generator.parameters():
        parameter.data.fill_(1.0)
    for average in trainer.ema.parameters():
        average.data.fill_(0.0)
    trainer._update_ema(config.ema_half_life)
    for average in trainer.ema.parameters():
        torch.testing.assert_close(average, torch.full_like(average, 0.5))


def test_the_average_copies_buffers(config):
    trainer = Trainer(config, "cpu")
    for network in (trainer.generator, trainer.ema):
        network.register_buffer("count", torch.zeros(()))
    trainer.generator.count.fill_(7)
    trainer.step(images())
    assert trainer.ema.count == 7


def test_learning_rates_fall_to_zero_at_the_end(config):
    trainer = Trainer(config, "cpu")
    rates = []
    for nimg in (0, 48, 49.6, 56.8, 64):
        trainer.nimg = nimg
        trainer._set_learning_rates()
        group = trainer.optimizers["generator"].param_groups[0]
        rates.append(group["lr"] / group["initial_lr"])
    assert rates == pytest.approx([1, 1, 1, 0.5, 0])


def test_the_discriminator_s_lazy_rates(config):
    trainer = Trainer(config, "cpu")
    (group,) = trainer.optimizers["discriminator"].param_groups
    assert group["lr"] == pytest.approx(config.discriminator_lr * 2 / 3)
    assert group["betas"] == (0.0, pytest.approx(0.99 ** (2 / 3)))


def saved_bytes(call):
    """What autograd keeps of `call()` for the backward pass, parameters aside, in bytes; and the result."""
    kept = {}

    def pack(x):
        if not isinstance(x, torch.nn.Parameter):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = call()
    return sum(kept.values()), result


def test_checkpointed_levels_change_memory_alone(config):
    torch.manual_seed(0)
    generator, z = build_generator(config), torch.randn(2, config.latent_dim)
    found = []
    for generator.checkpoint_levels in ((), (32,), (4, 8, 16, 32)):
        size, image = saved_bytes(lambda: generator(z))
        found.append((size, image, torch.autograd.grad(image.square().sum(), generator.parameters())))
    (whole, image, gradients), *others = found
    sizes = [whole, *(size for size, _, _ in others)]
    assert sizes[1] < 0.4 * sizes[0] and sizes[2] < 0.5 * sizes[1]
    for _, other, others_gradients in others:
        assert torch.equal(other, image) and all(map(torch.equal, others_gradients, gradients))


def test_the_trainer_checkpoints_its_generator(config, monkeypatch):
    monkeypatch.setattr(dispatch, "_choices", {})  # backends are tried within a level that is computed again
    usual, frugal = (
        Trainer(get_config("smoke", **TINY, checkpoint_levels=levels), "cpu") for levels in ((), (16, 32))
    )
    assert frugal.generator.checkpoint_levels == (16, 32) and frugal.ema.checkpoint_levels == (16, 32)
    for _ in range(2):
        losses = frugal.step(images())
        assert same(usual.step(images()), losses)
    for name, tensors in usual.state().items():
        assert same(tensors, frugal.state()[name]), name


@pytest.mark.parametrize("step", ["_discriminator_step", "_r1_step", "_generator_step"])
def test_accumulated_gradients_are_the_mean_of_the_micro_batches(step, monkeypatch):
    """Batches of 8 by two micro-batches of 4, which are minibatch deviation's groups also in the whole."""
    plain = TINY | {"diffaugment": False}
    whole, parts = (Trainer(get_config("smoke", **plain, accumulate=n), "cpu") for n in (1, 2))
    for trainer in (whole, parts):
        trainer.discriminator.eval()  # spectral norm takes a step of its own at every call in training
    latents = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    # Groups are strided in a batch of 8: image i lies in group i % 2.
    strided = torch.arange(8).view(2, 4).T.flatten()
    real = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    halves = iter(latents.split(4))
    monkeypatch.setattr(whole, "_latents", lambda n: latents[strided])
    monkeypatch.setattr(parts, "_latents", lambda n: next(halves))
    reported = getattr(whole, step)(real[strided]), getattr(parts, step)(real)
    torch.testing.assert_close(*reported)
    for a, b in zip(*(gradients(trainer) for trainer in (whole, parts)), strict=True):
        assert (a - b).norm() <= 1e-4 * a.norm() + 1e-7


def gradients(trainer):
    """Of what was trained; R1 leaves the last bias alone."""
    networks = trainer.generator, trainer.discriminator
    return [p.grad for network in networks for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"accumulate": 0}, "accumulate=0"),
        ({"accumulate": 3}, "accumulate=3 does not split batch_size=8 in equal micro-batches"),
        ({"batch_size": 12, "accumulate": 2}, "accumulate=2 does not split batch_size=12 in equal"),
        ({"checkpoint_levels": (16, 12)}, "checkpoint_levels=12 is no level: take of 4, 8, …, 32"),
    ],
)
def test_settings_of_the_step_are_checked(settings, text):
    with pytest.raises(UserError, match=text):
        get_config("smoke", **TINY | settings)


def test_settings_of_the_step_name_a_run_only_when_set(config):
    assert config.to_dict().keys().isdisjoint({"checkpoint_levels", "accumulate", "compile"})
    other = get_config("smoke", **TINY, accumulate=2)
    assert other.to_dict()["accumulate"] == 2 and run_id(other) != run_id(config)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_compiled_networks_step_alike_and_are_compiled_once():
    """The generator in one graph: `fullgraph` raises where there is a break. R1 is every second step."""
    small = {"widths": (16, 16, 16), "discriminator_widths": (16, 16), "resolution": 16}
    small |= {"partitions": "1x3@1,1x3@2/1x3@1,1x3@4", "data": "noto-32"}
    usual, compiled = (
        Trainer(get_config("smoke", **TINY | small, compile=value), "cpu") for value in (False, True)
    )
    compiled.generator.compile(
        fullgraph=True, dynamic=False
    )  # the trainer allows breaks, of other generators
    batch = images()[:, :, ::2, ::2].contiguous()
    for i in range(4):
        with torch.compiler.set_stance("fail_on_recompile" if i > 1 else "default"):
            losses = compiled.step(batch)
        for name, loss in usual.step(batch).items():
            torch.testing.assert_close(losses[name], loss, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()
    state = compiled.state()
    assert state["generator"].keys() == usual.state()["generator"].keys()


def test_bcr_pulls_augmented_logits_together():
    """With a heavy weight the discriminator is more consistent after some steps than without."""
    gaps = []
    for weight in (0.0, 1000.0):
        config = get_config("smoke", **TINY | {"diffaugment": False, "bcr_weight": weight, "r1_gamma": 0.0})
        trainer = Trainer(config, "cpu")
        for i in range(8):
            trainer.step(images(seed=i))
        torch.manual_seed(0)
        normalized = torch.randn(32, 3, 32, 32)
        with torch.no_grad():
            logits, augmented = (trainer.discriminator.eval()(x) for x in (normalized, augment(normalized)))
        gaps.append(float(objective.consistency_loss(logits, augmented) / logits.var()))
    assert gaps[1] < gaps[0]


# --- the loop


@pytest.fixture(scope="module")
def unbroken(config, tmp_path_factory):
    return train(config, tmp_path_factory.mktemp("unbroken"), "cpu")


class Stop(Exception):
    pass


def interrupted(config, folder, monkeypatch, at, **options):
    """Train, be killed in the step after `at` images, train again."""
    step = Trainer.step

    def stopping(self, images):
        if self.nimg == at:
            raise Stop
        return step(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopping)
        with pytest.raises(Stop):
            train(config, folder, "cpu", **options)
    return train(config, folder, "cpu", **options)


@pytest.mark.parametrize("at", [32, 48])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(config, unbroken, tmp_path, monkeypatch, at):
    resumed = interrupted(config, tmp_path, monkeypatch, at)
    (a, _), (b, _) = unbroken.restore(), resumed.restore()
    assert a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    assert [line["nimg"] for line in unbroken.log()] == [line["nimg"] for line in resumed.log()]
    for key in ("loss_d", "loss_g"):
        assert [line[key] for line in unbroken.log()] == [line[key] for line in resumed.log()]


def test_a_step_gets_the_training_images_in_random_order_and_half_of_them_mirrored(
    config, tmp_path, monkeypatch
):
    step = Trainer.step
    seen = []

    def watched(self, images):
        seen.append(images)
        return step(self, images)

    monkeypatch.setattr(Trainer, "step", watched)
    train(replace(config, seed=5), tmp_path, "cpu")
    dataset = open_dataset("noto-faces", 32, "train")
    rng = np.random.default_rng((5, 0))
    order = rng.permutation(len(dataset))
    mirrored = rng.random(len(dataset)) < 0.5
    assert 0.3 < mirrored[:64].mean() < 0.7
    expected = [dataset[i].flip(2) if mirrored[n] else dataset[i] for n, i in enumerate(order[:64])]
    assert torch.equal(torch.cat(seen), torch.stack(expected))


def test_a_run_leaves_everything_and_nothing_half_written(unbroken, config):
    assert unbroken.snapshots() == [32, 64]
    assert unbroken.config == config
    assert {path.name for path in unbroken.path.iterdir()} == {
        "config.json", "dataset.json", "log.jsonl", "samples", "generators", "state",
    }  # fmt: skip
    assert [path.name for path in sorted((unbroken.path / "samples").iterdir())] == [
        "000000032.png",
        "000000064.png",
    ]
    assert not list(unbroken.path.rglob(".*")), "temporary files are gone"
    info = unbroken.info()
    assert info["nimg"] == 64 and info["seconds"] > 0 and info["peak_memory_bytes"] > 2**20
    assert info["provenance"]["versions"]["torch"] == torch.__version__.split("+")[0]


def test_a_finished_run_is_not_trained_again(config, unbroken, monkeypatch):
    monkeypatch.setattr(Trainer, "step", None)
    assert train(config, unbroken.path.parent, "cpu").snapshots() == [32, 64]


def test_the_snapshot_is_the_average(unbroken):
    state, _ = unbroken.restore()
    assert same(unbroken.generator().state_dict(), state["ema"])
    assert not same(unbroken.generator(32).state_dict(), state["ema"])


def test_a_loss_that_is_no_number_stops_the_run(config, tmp_path, monkeypatch):
    step = Trainer.step

    def broken(self, images):
        losses = step(self, images)
        return losses | {"loss_g": losses["loss_g"] * float("nan")} if self.nimg == 48 else losses

    monkeypatch.setattr(Trainer, "step", broken)
    with pytest.raises(
        UserError, match=r"stopped at step 5: loss_g is nan.*last good snapshot is at nimg=32"
    ):
        train(config, tmp_path, "cpu")
    (run,) = tmp_path.iterdir()
    assert Run(run).snapshots() == [32]


def test_another_configuration_does_not_overwrite_a_run(config, unbroken):
    path = unbroken.path / "config.json"
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | {"seed": 5}))
    try:
        with pytest.raises(UserError, match="another configuration"):
            train(config, unbroken.path.parent, "cpu")
    finally:
        path.write_text(text)


# --- scored while it trains


@pytest.fixture(scope="module")
def on_a_folder(config, tmp_path_factory):
    """The same on 100 portraits in a folder: 40 and 20 a side, quick to score."""
    folder = tmp_path_factory.mktemp("portraits")
    source = open_dataset("noto-faces", 32)
    for i in range(100):
        Image.fromarray(source[i].permute(1, 2, 0).numpy()).save(folder / source.names[i])
    return replace(config, data=str(folder))


@needs_wheels
def test_scoring_keeps_the_best_generator_and_leaves_the_training_as_it_is(on_a_folder, tmp_path):
    run = train(on_a_folder, tmp_path / "scored", "cpu", score_every=24)
    plain = train(on_a_folder, tmp_path / "plain", "cpu")
    (a, _), (b, _) = run.restore(), plain.restore()
    assert all(same(a[name], b[name]) for name in a)
    assert [line["nimg"] for line in run.scores()] == [24, 48, 64] and plain.scores() == []
    dataset = open_dataset(on_a_folder.data, 32)
    assert run.scores()[-1] == {"nimg": 64, **by_id(evaluate(run.generator(), dataset))}
    kids = {line["nimg"]: line["kid_lite0_128_heldout"]["value"] for line in run.scores()}
    assert run.best()["nimg"] == min(kids, key=kids.get)
    best = by_id(evaluate(load_generator(run.generator_path("best")), dataset))
    assert best == {key: row for key, row in run.best().items() if key != "nimg"}
    assert run.snapshots() == [32, 64], "the best generator is no snapshot"


@pytest.mark.parametrize("again", [1.0, 2.0])
def test_a_resumed_run_scores_again_what_it_trains_again(on_a_folder, tmp_path, monkeypatch, again):
    values, given = iter([3.0, 2.5, 1.5, again, 5.0]), {}

    def scored(ema, _, **options):
        value = next(values)
        ema.input.input.data += 1e-3  # trained again it differs, as on a GPU
        given[value] = {name: tensor.clone() for name, tensor in ema.state_dict().items()}
        return Score({BEST: ScoreValue(value, 0, 0, 0)}, {})

    monkeypatch.setattr(loop, "evaluate", scored)
    run = interrupted(on_a_folder, tmp_path, monkeypatch, at=56, score_every=16)
    best = min(1.5, again)
    lines = [(line["nimg"], line[BEST.id]["value"]) for line in run.scores()]
    assert lines == [(16, 3.0), (32, 2.5), (48, best), (64, 5.0)]
    assert run.best()["nimg"] == 48 and same(load_tensors(run.generator_path("best")), given[best])


def test_a_stop_while_scoring_leaves_no_score_out(on_a_folder, tmp_path, monkeypatch):
    given = []

    def scored(ema, _, **options):
        given.append(len(given))
        if len(given) == 2:
            raise Stop
        return Score({BEST: ScoreValue(1, 0, 0, 0)}, {})

    monkeypatch.setattr(loop, "evaluate", scored)
    with pytest.raises(Stop):
        train(on_a_folder, tmp_path, "cpu", score_every=32)
    given[:] = [0, 0]
    run = train(on_a_folder, tmp_path, "cpu", score_every=32)
    assert [line["nimg"] for line in run.scores()] == [32, 64]


def test_adam_s_state_survives_as_plain_tensors():
    parameters = [torch.nn.Parameter(torch.randn(3)) for _ in range(2)]
    optimizer, other = (torch.optim.Adam(parameters, lr=0.1) for _ in range(2))
    sum(p.square().sum() for p in parameters).backward()
    optimizer.step()
    restore_optimizer(other, optimizer_tensors(optimizer))
    assert same(optimizer_tensors(optimizer), optimizer_tensors(other))


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "g.safetensors"
    path.write_bytes(b"junk")
    with pytest.raises(UserError, match=r"g\.safetensors can't be read"):
        load_tensors(path)
    with pytest.raises(UserError, match="does not exist"):
        load_tensors(tmp_path / "none.safetensors")


# --- the type of products


def product_types(trainer, images, monkeypatch):
    """Types of the results of the generator's first linear layer and of D's last one, and of the losses."""
    found = {"linear": set(), "logits": set()}
    trainer.generator.layers[0].blocks[0].attn.qkv.register_forward_hook(
        lambda module, inputs, out: found["linear"].add(out.dtype)
    )
    loss = objective.generator_loss
    monkeypatch.setattr(
        "stylenat.training.trainer.generator_loss",
        lambda logits: found["logits"].add(logits.dtype) or loss(logits),
    )
    losses = trainer.step(images)
    return found["linear"], found["logits"], {value.dtype for value in losses.values()}


@pytest.mark.parametrize("dtype", ["", "float32", "bfloat16"])
def test_products_are_in_the_type_that_is_set(config, monkeypatch, dtype):
    images = torch.randint(0, 256, (8, 3, 32, 32)).to(torch.uint8)
    trainer = Trainer(replace(config, dtype=dtype), "cpu")
    linear, logits, losses = product_types(trainer, images, monkeypatch)
    expected = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    assert linear == {expected} and logits == losses == {torch.float32}
    for network in (trainer.generator, trainer.discriminator, trainer.ema):
        assert {x.dtype for x in network.parameters()} == {torch.float32}
    tensors = trainer.state()
    assert {x.dtype for part in tensors.values() for x in part.values() if x.is_floating_point()} == {
        torch.float32
    }


def test_a_step_in_bfloat16_is_near_one_in_float32(config):
    images = torch.randint(0, 256, (8, 3, 32, 32)).to(torch.uint8)
    exact = Trainer(config, "cpu").step(images)
    low = Trainer(replace(config, dtype="bfloat16"), "cpu").step(images)
    for name, value in exact.items():
        assert low[name] != value or name == "r1", "R1 of the first weights is in float32"
        torch.testing.assert_close(low[name], value, rtol=0.05, atol=0.02)


def test_the_type_is_part_of_a_run_s_identity_where_it_is_set(config):
    named = [run_id(replace(config, dtype=dtype)) for dtype in ("", "float32", "bfloat16")]
    assert len(set(named)) == 3 and "dtype" not in config.to_dict()
    assert replace(config, dtype="bfloat16").to_dict()["dtype"] == "bfloat16"
    with pytest.raises(UserError, match="dtype='auto' must be float32 or bfloat16, or be left out"):
        replace(config, dtype="auto")


def test_a_run_s_state_names_the_type(config, tmp_path, monkeypatch):
    monkeypatch.setattr("stylenat.device.bfloat16_instructions", lambda device: "AMX-BF16")
    short = replace(config, nimg=8, snapshot=8)
    assert train(short, tmp_path, "cpu").info()["precision"] == "float32"
    run = train(replace(short, dtype="bfloat16"), tmp_path, "cpu")
    assert run.info()["precision"] == "bfloat16 (AMX-BF16)"
