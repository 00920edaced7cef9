"""The training step against plain code that shares nothing with it: losses, gradients, optimizers, average.

Only the networks' own forward passes are the package's; everything else is written out here from the
published objective, image by image and number by number. Both sides compute in double precision: the first
steps of Adam are the signs of gradients, which rounding would turn.
"""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import relative_error

from stylenat.images import normalize
from stylenat.presets import get_config
from stylenat.training import trainer as training
from stylenat.training.trainer import Trainer

BATCH = 8
SEED = 3
SMALL = {
    "widths": (16, 16, 16, 16),
    "discriminator_widths": (16, 16, 16),
    "partitions": "1x3@1,1x3@2/1x3@1,1x3@4/1x3@1,1x3@8",
    "latent_dim": 8,
    "batch_size": BATCH,
    "nimg": 320,
    "ema_half_life": 10,
    "r1_interval": 16,
    "decay_start": 0.775,
    "generator_lr": 5e-5,
    "discriminator_lr": 2e-4,
    "seed": SEED,
}
SETTINGS = {
    "published": {"diffaugment": False, "bcr_weight": 10.0, "r1_gamma": 10.0, "clip_norm": 5.0},
    "small": {"diffaugment": True, "bcr_weight": 0.0, "r1_gamma": 0.1, "clip_norm": 0.5},
}
# nimg of the steps: with R1, without, and with R1 again where rates fall and the average is at its length.
STEPS = (0, 8, 256)
TOLERANCE = 1e-7  # measured: below 1e-9


# --- Augmentation, image by image


def draw_augmentation(side):
    """The random numbers of one augmentation, in the order in which they are drawn; one of each an image."""

    def uniform(low, high):
        return torch.empty(BATCH, 1, 1, 1).uniform_(low, high).flatten().tolist()

    def integer(highest):
        return torch.randint(0, highest + 1, (BATCH, 1, 1, 1)).flatten().tolist()

    draws = {"flip": uniform(0, 1)}
    draws["down"] = integer(2 * side // 8)
    draws["across"] = integer(2 * side // 8)
    draws["brightness"] = uniform(-0.5, 0.5)
    draws["saturation"] = uniform(0, 2)
    draws["contrast"] = uniform(0.5, 1.5)
    draws["center_row"] = integer(side)
    draws["center_column"] = integer(side)
    return draws


def augment_by_hand(images):
    """Flip, translation by 1/8, brightness ± ½, saturation × [0, 2], contrast × [½, 3/2], cutout of half."""
    side = images.shape[-1]
    draws = draw_augmentation(side)
    augmented = []
    for index, image in enumerate(images):
        if draws["flip"][index] < 0.5:
            image = image.flip(2)
        reach = side // 8
        padded = torch.nn.functional.pad(image, (reach, reach, reach, reach))
        top = draws["down"][index]
        left = draws["across"][index]
        image = padded[:, top : top + side, left : left + side]
        image = image + draws["brightness"][index]
        gray = (image[0] + image[1] + image[2]) / 3
        image = gray + (image - gray) * draws["saturation"][index]
        mean = image.sum() / image.numel()
        image = mean + (image - mean) * draws["contrast"][index]
        keep = torch.ones(side, side)
        row = draws["center_row"][index]
        column = draws["center_column"][index]
        half = side // 4
        keep[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = 0
        augmented.append(image * keep)
    return torch.stack(augmented)


# --- The step


class Adam:
    """One network's optimizer, β1 = 0: mean squared gradients and number of steps, by parameter."""

    def __init__(self, network):
        self.parameters = list(network.parameters())
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = [0] * len(self.parameters)

    def update(self, gradients, rate, beta2):
        for index, gradient in enumerate(gradients):
            if gradient is None:  # R1 does not depend on the last bias
                continue
            self.steps[index] += 1
            square = self.squares[index]
            square.mul_(beta2).add_((1 - beta2) * gradient * gradient)
            corrected = square / (1 - beta2 ** self.steps[index])
            self.parameters[index].data -= rate * gradient / (corrected.sqrt() + 1e-8)


def norm_of(gradients):
    squares = [float((gradient.double() ** 2).sum()) for gradient in gradients if gradient is not None]
    return math.sqrt(sum(squares))


def clip_by_hand(gradients, limit):
    norm = norm_of(gradients)
    factor = min(1.0, limit / (norm + 1e-6))
    return [gradient if gradient is None else gradient * factor for gradient in gradients], norm


def softplus(x):
    return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)


class ByHand:
    """Copies of a trainer's networks, trained by the equations."""

    def __init__(self, trainer, setting):
        self.setting = SETTINGS[setting]
        self.generator = copy.deepcopy(trainer.generator)
        self.discriminator = copy.deepcopy(trainer.discriminator).requires_grad_(True)
        self.ema = copy.deepcopy(trainer.ema)
        self.adam_g = Adam(self.generator)
        self.adam_d = Adam(self.discriminator)
        self.norms = []

    def seen(self, images):
        return augment_by_hand(images) if self.setting["diffaugment"] else images

    def step(self, images, nimg):
        """One step; returns the losses, and leaves the last gradients in `grad_d` and `grad_g`."""
        torch.manual_seed(int(np.random.SeedSequence([SEED, nimg]).generate_state(1)[0]))
        # Images alone are computed in float32 and then widened, as the package's are.
        mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float32).view(1, 3, 1, 1)
        deviation = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float32).view(1, 3, 1, 1)
        real = ((images.float() / 255 - mean) / deviation).double()
        decay = 1.0 if nimg < 0.775 * 320 else (320 - nimg) / (320 * 0.225)
        losses = {"loss_d": self.discriminator_step(real, decay)}
        if nimg // BATCH % 16 == 0:
            losses["r1"] = self.r1_step(real, decay)
        losses["loss_g"] = self.generator_step(decay)
        half_life = min(10, 0.05 * (nimg + BATCH))
        kept = 0.5 ** (BATCH / half_life)
        for average, value in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
            average.data = kept * average.data + (1 - kept) * value.data
        return losses

    def discriminator_step(self, real, decay):
        with torch.no_grad():
            fake = self.generator(torch.randn(BATCH, 8))
        real_logits = self.discriminator(self.seen(real))
        fake_logits = self.discriminator(self.seen(fake))
        loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
        total = loss
        if self.setting["bcr_weight"]:
            real_twins = self.discriminator(augment_by_hand(real))
            total = total + 10 * ((real_twins - real_logits) ** 2).mean()
            fake_twins = self.discriminator(augment_by_hand(fake))
            total = total + 10 * ((fake_twins - fake_logits) ** 2).mean()
        self.update_discriminator(total, decay)
        return loss.item()

    def r1_step(self, real, decay):
        images = self.seen(real).detach().requires_grad_()
        logits = self.discriminator(images)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        penalty = (gradient**2).sum() / BATCH
        self.update_discriminator(self.setting["r1_gamma"] / 2 * 16 * penalty, decay)
        return penalty.item()

    def update_discriminator(self, total, decay):
        gradients = torch.autograd.grad(total, self.adam_d.parameters, allow_unused=True)
        self.grad_d, norm = clip_by_hand(gradients, self.setting["clip_norm"])
        self.norms.append(norm)
        self.adam_d.update(self.grad_d, decay * 2e-4 * 16 / 17, 0.99 ** (16 / 17))

    def generator_step(self, decay):
        fake = self.generator(torch.randn(BATCH, 8))
        loss = softplus(-self.discriminator(self.seen(fake))).mean()
        self.grad_g = torch.autograd.grad(loss, self.adam_g.parameters)
        self.adam_g.update(self.grad_g, decay * 5e-5, 0.99)
        return loss.item()


@pytest.fixture
def double_precision(monkeypatch):
    """Networks, latents and draws in float64, and images as well."""
    monkeypatch.setattr(training, "normalize", lambda images: normalize(images).double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def images_of(nimg):
    rng = np.random.default_rng(nimg)
    return torch.from_numpy(rng.integers(0, 256, (BATCH, 3, 32, 32), dtype=np.uint8))


def stirred(trainer):
    """The trainer with weights and biases large enough that every loss and gradient matters."""
    draw = torch.Generator().manual_seed(1)
    for network, scale in ((trainer.generator, 0.2), (trainer.discriminator, 0.5)):
        for parameter in network.parameters():
            parameter.data += scale * torch.randn(parameter.shape, generator=draw)
    trainer.ema.load_state_dict(trainer.generator.state_dict())
    return trainer


def updates(before, after):
    """How far each tensor of a network moved, in one vector."""
    moved = [new.detach() - old.detach() for old, new in zip(before, after, strict=True)]
    return torch.cat([tensor.flatten() for tensor in moved])


def assert_gradients_agree(network, wanted):
    smallest = 1e-9 * norm_of(wanted)  # some gradients are 0 but for rounding
    for parameter, gradient in zip(network.parameters(), wanted, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if gradient is not None:
            assert (parameter.grad - gradient).norm() <= TOLERANCE * gradient.norm() + smallest


@pytest.mark.parametrize("setting", SETTINGS)
def test_steps_are_the_published_ones(setting, double_precision):
    trainer = stirred(Trainer(get_config("smoke", **SMALL | SETTINGS[setting]), "cpu"))
    hand = ByHand(trainer, setting)
    networks = {
        "generator": (trainer.generator, hand.generator),
        "discriminator": (trainer.discriminator, hand.discriminator),
        "ema": (trainer.ema, hand.ema),
    }
    for nimg in STEPS:
        start = {name: [p.clone() for p in own.parameters()] for name, (own, _) in networks.items()}
        trainer.nimg = nimg
        losses = trainer.step(images_of(nimg))
        expected = hand.step(images_of(nimg), nimg)
        assert trainer.nimg == nimg + BATCH
        assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=TOLERANCE)
        assert_gradients_agree(trainer.discriminator, hand.grad_d)
        assert_gradients_agree(trainer.generator, hand.grad_g)
        for name, (own, other) in networks.items():
            found = updates(start[name], own.parameters())
            wanted = updates(start[name], other.parameters())
            assert relative_error(found, wanted) < TOLERANCE, name
        for name, adam in (("generator", hand.adam_g), ("discriminator", hand.adam_d)):
            states = trainer.optimizers[name].state.values()
            for state, square, steps in zip(states, adam.squares, adam.steps, strict=True):
                assert state["step"] == steps
                assert (state["exp_avg_sq"] - square).norm() <= TOLERANCE * square.norm() + 1e-20
    limit = SETTINGS[setting]["clip_norm"]
    assert max(hand.norms) > 1.5 * limit, "no gradient was clipped: the test would not see it"
