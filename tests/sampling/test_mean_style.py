"""The mean style is always that of the weights as they are now, whatever changed them."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, jvp, vmap

from stylenat.attention.partitions import format_partitions
from stylenat.checkpoints.convert import convert
from stylenat.checkpoints.load import load_generator
from stylenat.checkpoints.tensors import load_tensors, save_tensors
from stylenat.models.build import build_generator
from stylenat.presets import get_config
from stylenat.sampling.sample import MEAN_STYLES, mean_style, sample_images, styles, truncate
from stylenat.training.trainer import Trainer

TINY = {"widths": (16, 16, 16, 16), "latent_dim": 8, "batch_size": 4, "nimg": 64}


def build(seed=0):
    torch.manual_seed(seed)
    generator = build_generator(get_config("smoke", **TINY)).eval().requires_grad_(False)
    for parameter in generator.parameters():
        parameter.normal_(std=0.3)
    for parameter in generator.style.parameters():
        parameter.mul_(100)
    return generator


def estimate(generator):
    """The definition: nothing is kept."""
    z = torch.randn(MEAN_STYLES, generator.latent_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return generator.mapping(z.to(generator.dtype)).mean(0)


def load_others(generator):
    generator.load_state_dict(build(1).state_dict())


def assign_others(generator):
    generator.load_state_dict(build(1).state_dict(), assign=True)


def edit_in_place(generator):
    generator.style[1].weight.mul_(1.5)


def edit_data(generator):
    """Which autograd's counters of versions don't see."""
    generator.style[2].bias.data.add_(30)


def edit_one_entry(generator):
    generator.style[1].weight.data[3, 5] += 5


def replace_data(generator):
    generator.style[1].weight.data = build(1).style[1].weight.data


def replace_parameter(generator):
    generator.style[1].weight = nn.Parameter(build(1).style[1].weight, requires_grad=False)


def edit_in_inference_mode(generator):
    with torch.inference_mode():
        generator.style[1].weight.mul_(1.5)


def step_by_an_optimizer(generator):
    generator.requires_grad_(True)
    optimizer = torch.optim.Adam(generator.parameters(), lr=1.0, fused=True)
    generator(torch.randn(2, 8)).square().mean().backward()
    optimizer.step()
    generator.requires_grad_(False)


def average(generator):
    """As an EMA does."""
    for own, other in zip(generator.parameters(), build(1).parameters(), strict=True):
        own.lerp_(other, 0.1)


CHANGES = (
    load_others,
    assign_others,
    edit_in_place,
    edit_data,
    edit_one_entry,
    replace_data,
    replace_parameter,
    edit_in_inference_mode,
    step_by_an_optimizer,
    average,
    nn.Module.half,
    nn.Module.bfloat16,
    nn.Module.double,
)


@pytest.mark.parametrize("change", CHANGES)
def test_it_follows_every_change_of_the_weights(change):
    generator = build()
    before = mean_style(generator)
    change(generator)
    found = mean_style(generator)
    assert torch.equal(found, estimate(generator)) and found.dtype == generator.dtype
    assert not torch.equal(found.double(), before.double())
    fresh = copy.deepcopy(generator)
    fresh.mean_style = None
    images = sample_images(generator, [3], truncation_psi=0.5)
    assert torch.equal(images, sample_images(fresh, [3], truncation_psi=0.5))


def through_pickle(generator):
    return pickle.loads(pickle.dumps(generator))


def through_a_file(generator):
    buffer = io.BytesIO()
    torch.save(generator, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_a_file])
def test_a_copy_keeps_it_and_goes_its_own_way(copied):
    generator = build()
    before = mean_style(generator)
    twin = copied(generator)
    assert torch.equal(mean_style(twin), before)
    edit_data(twin)
    assert torch.equal(mean_style(twin), estimate(twin))
    assert mean_style(generator) is before


def test_it_follows_training_and_training_does_not_mind():
    trainer = Trainer(get_config("smoke", **TINY), "cpu")
    mean_style(trainer.ema)
    mean_style(trainer.generator)
    for _ in range(2):
        trainer.step(torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8))
        for network in (trainer.ema, trainer.generator):
            assert torch.equal(mean_style(network), estimate(network))
    other = Trainer(get_config("smoke", **TINY), "cpu")
    mean_style(other.ema)
    other.load_state(trainer.state(), 8)
    assert torch.equal(mean_style(other.ema), mean_style(trainer.ema))


def test_it_follows_weights_that_a_call_puts_in():
    """`functional_call` puts weights into the module and takes them away again."""
    generator = build()
    before = mean_style(generator)
    others = dict(build(1).named_parameters())

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = generator

        def forward(self):
            return mean_style(self.generator)

    swapped = functional_call(Whole(), {f"generator.{name}": value for name, value in others.items()}, ())
    assert torch.equal(swapped, estimate(build(1)))
    assert torch.equal(mean_style(generator), before)


def test_weights_under_a_transform_leave_nothing_behind():
    generator = build()
    before = mean_style(generator).clone()
    others = build(1)
    stacked = torch.stack([generator.style[1].weight, others.style[1].weight])

    class Style(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = generator

        def forward(self, w):
            return truncate(self.generator, w, 0.5)

    def call(weight):
        return functional_call(Style(), {"generator.style.1.weight": weight}, (torch.ones(1, 8),))

    with torch.random.fork_rng():
        found = vmap(call, randomness="same")(stacked)
    assert torch.equal(mean_style(generator), before)
    assert not torch.equal(found[0], found[1])
    out, tangent = jvp(call, (stacked[0],), (torch.ones_like(stacked[0]),))
    torch.testing.assert_close(out, found[0])
    assert not tangent.any()  # a constant, as in reverse mode
    assert torch.equal(mean_style(generator), before)
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(mean_style(generator)).tangent is None


def test_latents_under_vmap_truncate():
    generator = build()
    mean_style(generator)
    z = torch.randn(3, 8)
    mapped = vmap(lambda one: truncate(generator, generator.mapping(one[None]), 0.5)[0])(z)
    torch.testing.assert_close(mapped, truncate(generator, generator.mapping(z), 0.5))


def test_it_does_not_depend_on_the_mode_in_which_it_is_asked_for():
    exact = estimate(build())
    generator = build()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mean_style(generator), exact)
    generator = build()
    with torch.inference_mode():
        sample_images(generator, [0], truncation_psi=0.5)
    with torch.inference_mode():
        assert torch.equal(mean_style(build()), exact)
    w = torch.ones(1, 8, requires_grad=True)
    truncate(generator, w, 0.5).square().sum().backward()  # which keeps the mean for its derivative
    assert torch.equal(mean_style(generator), exact) and w.grad.any()


def test_a_stored_mean_style_of_other_weights_is_not_used(tmp_path):
    """As of a folder whose weights were replaced; other programs read the stored one."""
    trainer = Trainer(get_config("smoke", **TINY), "cpu")
    source = tmp_path / "weights.safetensors"
    save_tensors(source, trainer.ema.state_dict())
    partitions = "/".join(format_partitions(level) for level in trainer.ema.partitions[1:])
    model = convert(source, tmp_path / "model", partitions=partitions)
    weights = model / "g_ema.safetensors"
    stored = load_tensors(weights)
    torch.testing.assert_close(stored["mean_style"], estimate(trainer.ema))
    assert torch.equal(mean_style(load_generator(model)), stored["mean_style"])
    save_tensors(weights, stored | {"mean_style": stored["mean_style"] + 1})
    assert torch.equal(mean_style(load_generator(model)), stored["mean_style"])


def test_asking_for_it_again_costs_a_few_styles():
    generator = build()
    counts = []
    generator.style.register_forward_hook(lambda module, inputs, out: counts.append(len(out)))
    first = mean_style(generator)
    assert sum(counts) > MEAN_STYLES
    counts.clear()
    assert mean_style(generator) is first and sum(counts) < 10
    styles(generator, [0, 1])  # psi 1 asks for none
    assert sum(counts) < 12
