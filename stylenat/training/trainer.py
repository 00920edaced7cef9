"""The training step of both networks and of the generator's moving average."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from stylenat.checkpoints.tensors import optimizer_tensors, restore_optimizer
from stylenat.config import Config
from stylenat.device import Precision, keep_freed_memory, pick_precision
from stylenat.distributed import ALONE, Processes
from stylenat.images import normalize
from stylenat.models.build import build_discriminator, build_generator, share_first_weights
from stylenat.training.augment import augment
from stylenat.training.losses import consistency_loss, discriminator_loss, generator_loss, r1_penalty

State = dict[str, dict[str, Tensor]]
EMA_RAMP = 0.05  # the average's half-life is at most this share of the images shown (StyleGAN2-ADA)


def training_precision(config: Config, device: torch.device | str) -> Precision:
    """The type in which a training's large products are.

    Args:
        config: of the run.
        device: to train on; it decides where the configuration does not.

    Raises:
        UserError: the device does not compute in it.
    """
    usual = "bfloat16" if torch.device(device).type == "cuda" else "float32"
    return pick_precision(config.dtype or usual, device)


class Trainer:
    """Both networks, the generator's moving average, and one training step.

    Every step draws from a random state of its own, made from (seed, nimg), so a resumed run goes on exactly
    as an unbroken one and no random state needs to be stored.

    Args:
        config: of the run.
        device: to train on.
        processes: that train together, each on its share of every batch.

    Attributes:
        precision: of large products.
        generator: G.
        discriminator: D.
        ema: the moving average of G, in eval mode.
        optimizers: Adam of "generator" and "discriminator".
        nimg: images shown so far.
    """

    def __init__(self, config: Config, device: torch.device | str, processes: Processes = ALONE) -> None:
        keep_freed_memory()
        torch.manual_seed(config.seed)
        self.config = config
        self.processes = processes
        self.device = torch.device(device)
        self.precision = training_precision(config, self.device)
        self.generator = build_generator(config).to(device)
        if config.paired:
            share_first_weights(self.generator, config)
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
            self.generator.compile(dynamic=False)
            self.discriminator.compile(dynamic=False)

    def step(self, images: Tensor) -> dict[str, Tensor]:
        """One step: D's update, R1's where it is due, G's, the average's; advances `nimg`.

        Args:
            images: real ones, uint8 `(B, 3, R, R)`; of several processes its rows, see `Processes.rows`.

        Returns:
            The losses "loss_d", "loss_g" and, where it was due, "r1", scalars, of all processes.
        """
        config = self.config
        torch.manual_seed(int(np.random.SeedSequence([config.seed, self.nimg]).generate_state(1)[0]))
        self._set_learning_rates()
        real = normalize(images.to(self.device))
        losses = {"loss_d": self._discriminator_step(real)}
        if self.nimg // config.batch_size % config.r1_interval == 0:
            losses["r1"] = self._r1_step(real)
        losses["loss_g"] = self._generator_step(real)
        shown = len(real) * self.processes.size
        self.nimg += shown
        self._update_ema(shown)
        return losses

    def _set_learning_rates(self) -> None:
        """Constant until `decay_start`, then falling linearly to 0 at the end."""
        start = self.config.decay_start
        rest = 1 - self.nimg / self.config.nimg
        decay = min(1.0, rest / (1 - start)) if start < 1 else 1.0
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * decay

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.precision.dtype == torch.bfloat16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _shown(self, images: Tensor) -> Tensor:
        """Images as the discriminator sees them."""
        return self._augmented(images) if self.config.diffaugment else images

    def _augmented(self, images: Tensor) -> Tensor:
        return augment(images, self.config.flips, self.processes)

    def _latents(self, batch: int) -> Tensor:
        size = (batch * self.processes.size, self.config.latent_dim)
        return self.processes.share(torch.randn(size, device=self.device, dtype=self.generator.dtype))

    def _logits(self, images: Tensor) -> Tensor:
        """D's logits, in float32 under autocast as well: on a CPU that leaves the losses in bfloat16."""
        logits = self.discriminator(images)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _discriminator_step(self, real: Tensor) -> Tensor:
        self.discriminator.requires_grad_(True)
        return self._update("discriminator", self._discriminator_loss, real)

    def _discriminator_loss(self, real: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.config.bcr_weight
        with self._precision():
            with torch.no_grad():
                fake = self.generator(self._latents(len(real)))
            real_logits = self._logits(self._shown(real))
            fake_logits = self._logits(self._shown(fake))
            loss = discriminator_loss(real_logits, fake_logits)
            total = loss
            if weight:
                for images, logits in ((real, real_logits), (fake, fake_logits)):
                    augmented_logits = self._logits(self._augmented(images))
                    total = total + weight * consistency_loss(logits, augmented_logits)
        return total, loss

    def _r1_step(self, real: Tensor) -> Tensor:
        return self._update("discriminator", self._r1_loss, real)

    def _r1_loss(self, real: Tensor) -> tuple[Tensor, Tensor]:
        images = self._shown(real).detach().requires_grad_()
        # In float32, for gradients are small; and by `forward`, for compiled code has no second derivative.
        penalty = r1_penalty(self.discriminator.forward(images), images)
        return penalty * (self.config.r1_gamma / 2 * self.config.r1_interval), penalty

    def _generator_step(self, real: Tensor) -> Tensor:
        self.discriminator.requires_grad_(False)
        return self._update("generator", self._generator_loss, real)

    def _generator_loss(self, real: Tensor) -> tuple[Tensor, Tensor]:
        with self._precision():
            fake = self.generator(self._latents(len(real)))
            loss = generator_loss(self._logits(self._shown(fake)))
        return loss, loss

    def _update(self, name: str, losses: Callable[[Tensor], tuple[Tensor, Tensor]], real: Tensor) -> Tensor:
        """A step of one optimizer over all micro-batches.

        Args:
            name: of the optimizer.
            losses: of a micro-batch, the loss to descend and the one to report.
            real: the whole batch, or this process's share of it.

        Returns:
            The mean of the reported losses, over all processes.
        """
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        reports = []
        for part in real.chunk(self.config.accumulate):
            loss, report = losses(part)
            (loss / self.config.accumulate).backward()
            reports.append(report.detach())
        mean = torch.stack(reports).mean()
        self.processes.average([*_gradients(optimizer), mean])
        if name == "discriminator":
            nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.config.clip_norm)
        optimizer.step()
        return mean

    @torch.no_grad()
    def _update_ema(self, batch: int) -> None:
        # Early on the average is shorter, or it would hold the random start for long.
        half_life = min(self.config.ema_half_life, EMA_RAMP * self.nimg)
        weight = 1 - 0.5 ** (batch / half_life)
        for average, value in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(value, weight)
        for buffer, latest in zip(self.ema.buffers(), self.generator.buffers(), strict=True):
            buffer.copy_(latest)

    def state(self) -> State:
        """Everything that a resumed training needs, tensors by name of network or optimizer."""
        tensors: State = {}
        for name, network in self._networks().items():
            tensors[name] = network.state_dict()
        for name, optimizer in self.optimizers.items():
            tensors[f"adam_{name}"] = optimizer_tensors(optimizer)
        return tensors

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]], nimg: int) -> None:
        """Undo `state`.

        Args:
            state: as `state` gave it.
            nimg: images shown until then.

        Raises:
            KeyError: a network or an optimizer is missing.
            RuntimeError: a network has other tensors.
            ValueError: an optimizer has other tensors.
        """
        for name, network in self._networks().items():
            network.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            restore_optimizer(optimizer, state[f"adam_{name}"])
        self.nimg = nimg

    def _networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "ema": self.ema}


def _gradients(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """The gradients that there are: a loss need not reach every parameter."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                yield parameter.grad


def _adam(module: nn.Module, lr: float, beta2: float) -> torch.optim.Adam:
    fused = next(module.parameters()).device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, betas=(0.0, beta2), fused=fused)
    for group in optimizer.param_groups:
        group["initial_lr"] = lr
    return optimizer
