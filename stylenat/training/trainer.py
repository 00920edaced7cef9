"""Training: the step, and the loop around it. Images shown (nimg) are the clock."""

import contextlib
import copy

import numpy as np
import torch

from stylenat.checkpoints.tensors import optimizer_tensors, restore_optimizer
from stylenat.device import keep_freed_memory
from stylenat.images import normalize
from stylenat.models.build import build_discriminator, build_generator
from stylenat.training.augment import augment
from stylenat.training.losses import consistency_loss, discriminator_loss, generator_loss, r1_penalty


def _trainable(module, flag):
    for parameter in module.parameters():
        parameter.requires_grad_(flag)


class Trainer:
    """Both networks, the generator's moving average, and one training step.

    Every step draws from a random state of its own, made from (seed, nimg), so a resumed run goes on exactly
    as an unbroken one and no random state needs to be stored.
    """

    def __init__(self, config, device):
        keep_freed_memory()
        torch.manual_seed(config.seed)
        self.config, self.device = config, torch.device(device)
        self.generator = build_generator(config).to(device)
        self.generator.checkpoint_levels = config.checkpoint_levels
        self.discriminator = build_discriminator(config).to(device)
        if self.device.type == "cuda":  # on CPUs it gains nothing: docs/performance.md
            self.discriminator.to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        # The R1 steps in between count as steps of D's Adam (StyleGAN2, appendix B, lazy regularization).
        lazy = config.r1_interval / (config.r1_interval + 1)
        self.optimizers = {
            "generator": _adam(self.generator, config.generator_lr, config.adam_beta2),
            "discriminator": _adam(
                self.discriminator, config.discriminator_lr * lazy, config.adam_beta2**lazy
            ),
        }
        self.nimg = 0
        if config.compile:  # in place: parameters keep their names
            self.generator.compile(fullgraph=True, dynamic=False)
            self.discriminator.compile(dynamic=False)

    def step(self, images):
        """One step on real images, uint8 `(B, 3, R, R)`. Returns named scalar tensors; advances `nimg`."""
        config = self.config
        torch.manual_seed(int(np.random.SeedSequence([config.seed, self.nimg]).generate_state(1)[0]))
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * self._decay()
        real = normalize(images.to(self.device))
        losses = {"loss_d": self._discriminator_step(real)}
        if self.nimg // config.batch_size % config.r1_interval == 0:
            losses["r1"] = self._r1_step(real)
        losses["loss_g"] = self._generator_step(real)
        self.nimg += len(real)
        self._update_ema(len(real))
        return losses

    def _decay(self):
        start = self.config.decay_start
        return min(1.0, (1 - self.nimg / self.config.nimg) / (1 - start)) if start < 1 else 1.0

    def _precision(self):
        return (
            torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else contextlib.nullcontext()
        )

    def _look(self, images):
        return augment(images) if self.config.diffaugment else images

    def _latents(self, batch):
        return torch.randn(batch, self.config.latent_dim, device=self.device)

    def _discriminator_step(self, real):
        _trainable(self.discriminator, True)
        return self._update("discriminator", self._discriminator_loss, real)

    def _discriminator_loss(self, real):
        weight = self.config.bcr_weight
        with self._precision():
            with torch.no_grad():
                fake = self.generator(self._latents(len(real)))
            real_logits = self.discriminator(self._look(real))
            fake_logits = self.discriminator(self._look(fake))
            loss = discriminator_loss(real_logits, fake_logits)
            total = loss
            if weight:
                for images, logits in ((real, real_logits), (fake, fake_logits)):
                    total = total + weight * consistency_loss(logits, self.discriminator(augment(images)))
        return total, loss

    def _r1_step(self, real):
        return self._update("discriminator", self._r1_loss, real)

    def _r1_loss(self, real):
        images = self._look(real).detach().requires_grad_()
        # In float32, for gradients are small; and by `forward`, for compiled code has no second derivative.
        penalty = r1_penalty(self.discriminator.forward(images), images)
        return penalty * (self.config.r1_gamma / 2 * self.config.r1_interval), penalty

    def _generator_step(self, real):
        _trainable(self.discriminator, False)
        return self._update("generator", self._generator_loss, real)

    def _generator_loss(self, real):
        with self._precision():
            loss = generator_loss(self.discriminator(self._look(self.generator(self._latents(len(real))))))
        return loss, loss

    def _update(self, name, losses, real):
        """A step of one optimizer: `losses` gives, of a micro-batch, the loss and what is reported."""
        optimizer, told = self.optimizers[name], []
        optimizer.zero_grad(set_to_none=True)
        for part in real.chunk(self.config.accumulate):
            loss, reported = losses(part)
            (loss / self.config.accumulate).backward()
            told.append(reported.detach())
        if name == "discriminator":
            torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.config.clip_norm)
        optimizer.step()
        return torch.stack(told).mean()

    @torch.no_grad()
    def _update_ema(self, batch):
        # Early on the average is shorter, or it would hold the random start for long (StyleGAN2-ADA).
        half_life = min(self.config.ema_half_life, 0.05 * self.nimg)
        weight = 1 - 0.5 ** (batch / half_life)
        for average, value in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(value, weight)
        for average, value in zip(self.ema.buffers(), self.generator.buffers(), strict=True):
            average.copy_(value)

    def state(self):
        """Everything a later sitting needs, as a dict of dicts of tensors."""
        networks = {"generator": self.generator, "discriminator": self.discriminator, "ema": self.ema}
        moments = {f"adam_{name}": optimizer_tensors(o) for name, o in self.optimizers.items()}
        return {name: network.state_dict() for name, network in networks.items()} | moments

    def load_state(self, state, nimg):
        """Undo `state`."""
        for name in ("generator", "discriminator", "ema"):
            getattr(self, name).load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            restore_optimizer(optimizer, state[f"adam_{name}"])
        self.nimg = nimg


def _adam(module, lr, beta2):
    fused = next(module.parameters()).device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, betas=(0.0, beta2), fused=fused)
    for group in optimizer.param_groups:
        group["initial_lr"] = lr
    return optimizer
