"""What each arm of an ablation costs: time, multiply-accumulates and memory, measured in one run."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from stylenat.benchmark.matmul import generator_products, macs
from stylenat.config import Config
from stylenat.device import pick_device
from stylenat.models.base import Generator, count_parameters
from stylenat.provenance import describe_device
from stylenat.training.trainer import Trainer

ROUNDS = 5


def measure_costs(configs: Mapping[str, Config], device: str | None = None) -> pd.DataFrame:
    """A row an arm; the arms take turns, so that whatever else the machine does meets all of them.

    Args:
        configs: by the arm's name.
        device: default: the GPU where there is one.

    Returns:
        Parameters of the generator; its multiply-accumulates an image, dense and attention's; MB that its
        activations of a batch take until the backward pass; the median seconds of a training step and of the
        generator's forward pass over a batch, with the relative spread of the rounds; machine and threads.

    Raises:
        UserError: there is no such device.
    """
    torch_device = pick_device(device)
    trainers = {name: Trainer(config, torch_device) for name, config in configs.items()}
    steps: dict[str, list[float]] = {name: [] for name in trainers}
    passes: dict[str, list[float]] = {name: [] for name in trainers}
    for round_number in range(ROUNDS + 1):  # the first one warms up
        for name, trainer in trainers.items():
            step = _time_step(trainer)
            forward = _time_forward(trainer)
            if round_number:
                steps[name].append(step)
                passes[name].append(forward)
    rows = []
    for name, trainer in trainers.items():
        counts = macs(generator_products(trainer.generator, 1))
        rows.append(
            {
                "arm": name,
                "parameters G": count_parameters(trainer.generator),
                "MMAC dense": round(counts.weights / 1e6, 2),
                "MMAC attention": round(counts.attention / 1e6, 2),
                "activations MB": round(saved_bytes(trainer.generator, trainer.config.batch_size) / 2**20, 1),
                "step s": round(statistics.median(steps[name]), 4),
                "step spread": round(_spread(steps[name]), 3),
                "forward s": round(statistics.median(passes[name]), 4),
                "batch": trainer.config.batch_size,
                "device": describe_device(torch_device),
                "threads": torch.get_num_threads(),
            }
        )
    return pd.DataFrame(rows)


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _time_step(trainer: Trainer) -> float:
    config = trainer.config
    trainer.nimg = config.batch_size  # no step with the gradient penalty, which comes now and then
    side = config.resolution
    images = torch.full((config.batch_size, 3, side, side), 128, dtype=torch.uint8)
    _wait(trainer.device)
    start = time.perf_counter()
    trainer.step(images)
    _wait(trainer.device)
    return time.perf_counter() - start


@torch.no_grad()
def _time_forward(trainer: Trainer) -> float:
    z = torch.zeros(trainer.config.batch_size, trainer.config.latent_dim, device=trainer.device)
    _wait(trainer.device)
    start = time.perf_counter()
    trainer.ema(z)
    _wait(trainer.device)
    return time.perf_counter() - start


def saved_bytes(generator: Generator, batch: int) -> int:
    """Bytes of the tensors that a generator's forward pass keeps for the backward pass, without its weights.

    Args:
        generator: with parameters that take gradients.
        batch: images.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in generator.parameters()}
    kept: dict[int, int] = {}  # storages that several operations save count once

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def give(tensor: Any) -> Any:
        return tensor

    z = torch.zeros(batch, generator.latent_dim, device=generator.device, dtype=generator.dtype)
    with torch.enable_grad(), saved_tensors_hooks(note, give):
        out = generator(z)
    del out
    return sum(kept.values())
