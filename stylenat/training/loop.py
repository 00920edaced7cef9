"""The loop around the training step: data, log, snapshots, scores. Images shown (nimg) are the clock."""

import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylenat.attention.dispatch import choices, count_call
from stylenat.checkpoints.lock import check_free, hold
from stylenat.checkpoints.run import Run
from stylenat.checkpoints.tensors import save_tensors
from stylenat.config import Config
from stylenat.data.dataset import ImageDataset, open_dataset
from stylenat.data.loader import batches
from stylenat.device import check_compile, peak_memory, pick_device
from stylenat.distributed import Processes, joined
from stylenat.errors import Stopped, UserError
from stylenat.evaluation.evaluate import check_evaluation, evaluate
from stylenat.images import save_png
from stylenat.models.base import count_parameters
from stylenat.models.build import build_discriminator, build_generator
from stylenat.paths import free_space, workspace
from stylenat.presets import run_id
from stylenat.progress import progress
from stylenat.provenance import provenance
from stylenat.sampling.sample import sample_sheet
from stylenat.training.stop import StopSignals
from stylenat.training.trainer import Trainer, training_precision

LOG_LINES = 20  # from one snapshot to the next
Info = dict[str, Any]
NO_PAST: Info = {"seconds": 0.0, "peak_memory_bytes": 0}


def check_folder(config: Config, folder: Path | str | None = None) -> None:
    """The part of `check_training` that the run's folder decides.

    Args:
        config: as of `train`.
        folder: as of `train`.

    Raises:
        UserError: it is of another run, another process trains in it, it can't be written, or there is no
            room for a snapshot.
    """
    run = _run(config, folder)
    check_free(run.path)
    run.check(config)
    if run.newest() < config.nimg:
        _check_space(run, config)


def check_training(
    config: Config, folder: Path | str | None = None, device: str | None = None, *, score_every: int = 0
) -> ImageDataset:
    """Check all that can be known of a training before its first step; writes nothing.

    Args:
        config: as of `train`.
        folder: as of `train`.
        device: as of `train`.
        score_every: as of `train`.

    Returns:
        The images to train on.

    Raises:
        UserError: no such data or device, or one that lacks bfloat16; no `torch.compile` where it is asked
            for; a batch of more images than there are; a folder that is of another run, that another process
            trains in, that can't be written, or that has no room for a snapshot; scores that these images are
            too few for, or whose network is missing.
    """
    torch_device = pick_device(device)
    training_precision(config, torch_device)
    check_folder(config, folder)
    run = _run(config, folder)
    dataset = _training_images(config)
    run.check_dataset(dataset)
    if config.batch_size > len(dataset):
        raise UserError(
            f"batch_size={config.batch_size} is more than the {len(dataset)} training images of "
            f"{dataset.source}: give more images, or a smaller batch_size"
        )
    if score_every:
        check_evaluation(dataset)
    if config.compile:
        check_compile(torch_device)
    return dataset


def go_back(config: Config, nimg: int, folder: Path | str | None = None, device: str | None = None) -> None:
    """Make an older snapshot a run's newest, from which `train` goes on; those after it are removed.

    Args:
        config: as of `train`.
        nimg: of the snapshot.
        folder: as of `train`.
        device: as of `train`.

    Raises:
        UserError: as of `check_training`; there is no such training state, or it is damaged. Nothing is
            removed then.
    """
    check_training(config, folder, device)
    run = _run(config, folder)
    run.state_path(nimg)
    with hold(run.path):
        run.go_back(nimg)


def train(
    config: Config, folder: Path | str | None = None, device: str | None = None, *, score_every: int = 0
) -> Run:
    """Train a configuration to its nimg, going on where an earlier call ended.

    What an earlier call left incomplete is made up for first: samples and due scores of its snapshots. After
    Ctrl-C or SIGTERM it finishes the step that it is in, saves a snapshot and stops; after a second one it
    stops at once.

    Args:
        config: from `get_config`.
        folder: holds the runs; this run gets a folder of its name in it. Default: `runs/` of the clone.
        device: default: the GPU where there is one.
        score_every: images from one offline score to the next (0: none): a line in `scores.jsonl` each, and
            the best generator so far is kept. It does not touch the training.

    Returns:
        The finished run.

    Raises:
        UserError: as of `check_training`, before anything is written; a run that is damaged; or a loss or
            weights that are not finite: the message names the step, the loss or tensor, and the last good
            snapshot.
        Stopped: after a signal.
    """
    run = _run(config, folder)
    with joined() as processes:
        processes.check_batch(config.batch_size, config.accumulate)
        torch_device = processes.pick_device(device)
        if processes.is_first:
            dataset = check_training(config, folder, str(torch_device), score_every=score_every)
        else:
            dataset = _training_images(config)
        processes.check_same("training images", dataset.names)
        trainer = Trainer(config, torch_device, processes)
        writes = processes.is_first and not _is_complete(run, config, score_every)
        with hold(run.path) if writes else contextlib.nullcontext():
            means = _Means()
            past = NO_PAST
            if processes.is_first:
                run.begin(config)
                run.keep_dataset(dataset)
                past = _resume(run, trainer, means)
            _share_state(trainer, processes)
            clock = _Clock(trainer, past)
            if processes.is_first:
                _complete(run, trainer, dataset, score_every)
            _steps(run, trainer, clock, means, dataset, score_every)
    return run


def _run(config: Config, folder: Path | str | None) -> Run:
    return Run(Path(folder or workspace("runs")) / run_id(config))


def _training_images(config: Config) -> ImageDataset:
    return open_dataset(config.data, config.resolution, "train")


def _check_space(run: Run, config: Config) -> None:
    """Check that a snapshot fits on the disk.

    Raises:
        UserError: it does not.
    """
    with torch.device("meta"):
        generator = count_parameters(build_generator(config))
        discriminator = count_parameters(build_discriminator(config))
    # The networks, the average twice, and two moments of Adam's for every parameter.
    needed = 4 * (5 * generator + 3 * discriminator)
    free = free_space(run.path)
    if free < needed:
        raise UserError(
            f"{run.path}: a snapshot takes {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; make "
            "room or train with another --out"
        )


def _is_complete(run: Run, config: Config, score_every: int) -> bool:
    """Whether there is nothing left to write."""
    return (
        run.contents() is not None
        and run.snapshots()[-1:] == [run.newest()]
        and run.newest() >= config.nimg
        and not run.without_sheet()
        and not _unscored(run, config, score_every)
        and run.has_whole_logs()
    )


def _unscored(run: Run, config: Config, score_every: int) -> list[int]:
    """The nimg of the snapshots at which a score was due that is not there."""
    scored = {line["nimg"] for line in run.scores()}
    missing = []
    for nimg in run.snapshots():
        due = score_every and _passes(score_every, nimg - config.batch_size, config)
        if due and nimg not in scored:
            missing.append(nimg)
    return missing


def _resume(run: Run, trainer: Trainer, means: "_Means") -> Info:
    """Load the newest state into the trainer and the means, and return what was measured until then."""
    restored = run.restore()
    if restored is None:
        return NO_PAST
    state, info = restored
    try:
        trainer.load_state(state, info["nimg"])
    except (KeyError, RuntimeError, ValueError):
        raise UserError(f"{run.state_path()} holds other tensors: {run.advice()}") from None
    means.losses = info.get("losses", {})
    return info


def _share_state(trainer: Trainer, processes: Processes) -> None:
    """Give every process what the first one begins with or resumes."""
    if processes.size == 1:
        return
    nimg = processes.broadcast(trainer.nimg)
    state = {}
    for part, tensors in trainer.state().items():
        state[part] = processes.broadcast({name: tensor.cpu() for name, tensor in tensors.items()})
    if not processes.is_first:
        trainer.load_state(state, nimg)


def _complete(run: Run, trainer: Trainer, dataset: ImageDataset, score_every: int) -> None:
    """Make up for what a stop left out of a run: generator, samples, scores, lines of the log."""
    if trainer.nimg and not run.generator_path(trainer.nimg).is_file():
        save_tensors(run.generator_path(trainer.nimg), trainer.ema.state_dict())
    run.complete_logs(trainer.nimg)
    for nimg in run.without_sheet():
        save_png(run.sheet_path(nimg), sample_sheet(run.generator(nimg).to(trainer.device)))
    for nimg in _unscored(run, trainer.config, score_every):
        generator = run.generator(nimg).to(trainer.device)
        run.keep_score(nimg, generator, evaluate(generator, dataset).values)


def _steps(
    run: Run, trainer: Trainer, clock: "_Clock", means: "_Means", dataset: ImageDataset, score_every: int
) -> None:
    """All steps that are left, with their log, scores and snapshots.

    Raises:
        UserError: a loss that is not finite.
        Stopped: after a signal, when the step is done and a snapshot saved.
    """
    config = trainer.config
    processes = trainer.processes
    log_every = max(config.snapshot // LOG_LINES, 1)
    stream = batches(
        dataset,
        config.batch_size,
        seed=config.seed,
        start=trainer.nimg,
        flips=config.flips,
        rows=processes.rows(config.batch_size, config.accumulate),
    )
    bar = progress(total=config.nimg, initial=trainer.nimg, unit="img", desc=run.id)
    with bar, StopSignals() as stop:
        while trainer.nimg < config.nimg:
            before = trainer.nimg
            losses = _check_finite(trainer.step(next(stream)), before // config.batch_size, run)
            bar.update(trainer.nimg - before)
            bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()}, refresh=False)
            means.add(losses)
            saves = _passes(config.snapshot, before, config)
            scores = score_every > 0 and _passes(score_every, before, config)
            caught = processes.largest(stop.caught or 0)  # all stop after the same step
            if saves or scores or caught:
                _check_weights(trainer, before // config.batch_size, run)
                _check_alike(trainer)
            line = None
            if saves or _passes(log_every, before, config):
                line = clock.info() | means.take()
                if processes.is_first:
                    run.add_to_log(line)
            # Before the snapshot, from which a stop here would go on: no score is left out.
            if scores:
                score = evaluate(trainer.ema, dataset, processes=processes)
                if processes.is_first:
                    run.keep_score(trainer.nimg, trainer.ema, score.values)
            if saves and processes.is_first:
                _save_snapshot(run, trainer, clock, {"line": line})
            elif caught and processes.is_first:
                _save_snapshot(run, trainer, clock, {"interrupted": True, "losses": means.losses})
            if caught and trainer.nimg < config.nimg:
                message = f"stopped and saved at nimg={trainer.nimg}; the same command goes on from there"
                raise Stopped(message, caught)


class _Clock:
    """Time and memory of a training, over all its resumptions."""

    def __init__(self, trainer: Trainer, past: Info) -> None:
        self.trainer = trainer
        self.past = past
        self.began = time.perf_counter()
        self.call = count_call()  # backends that were chosen for other networks are none of this run's
        self.provenance = provenance(trainer.device)  # now: the sources may change while this process runs
        if trainer.processes.size > 1:
            self.provenance["device"] = f"{trainer.processes.size} × {self.provenance['device']}"

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


def _check_alike(trainer: Trainer) -> None:
    """Check that every process has the same networks and optimizers, which equal arithmetic alone keeps so.

    Raises:
        UserError: they differ.
    """
    if trainer.processes.size > 1:
        sums = []
        for tensors in trainer.state().values():
            sums += [tensor.double().sum().cpu() for tensor in tensors.values()]
        trainer.processes.check_same("weights", torch.stack(sums).tolist())


def _stopped(step: int, why: str, run: Run) -> UserError:
    snapshots = run.snapshots()
    good = f"the last good snapshot is at nimg={snapshots[-1]}" if snapshots else "no snapshot yet"
    return UserError(f"training stopped at step {step}: {why}; {good}. Lower the learning rates")


def _save_snapshot(run: Run, trainer: Trainer, clock: _Clock, log: Info) -> None:
    """Save a snapshot with what the log needs to go on as if nothing had been."""
    about = {
        "attention": [str(choice) for choice in choices(clock.call)],
        "precision": str(trainer.precision),
        "provenance": clock.provenance,
    }
    run.save(trainer.nimg, trainer.ema, trainer.state(), clock.info() | about | log)
