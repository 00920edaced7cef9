"""An experiment from end to end: score every snapshot of a run and record it; the ablation over dilations."""

import pandas as pd

from stylenat.data.dataset import open_dataset
from stylenat.device import pick_device
from stylenat.errors import UserError
from stylenat.evaluation.evaluate import evaluate, nearest_training_images
from stylenat.evaluation.metrics import METRICS, OFFLINE, parse_metrics
from stylenat.features.networks import NETWORKS
from stylenat.images import image_grid, save_png
from stylenat.models.build import build_discriminator
from stylenat.paths import write_atomically
from stylenat.progress import progress
from stylenat.reporting.records import record_run
from stylenat.sampling.sample import sample_images


def score_run(run, device=None, *, metrics=(), count=None, networks=NETWORKS, history=True, **extra):
    """Score every snapshot of a `Run` and write its record under `results/runs/<run id>/`.

    The record is `result.json` (the last snapshot's score and memorization, the history of all, configuration
    and provenance, and the entries of `extra`), `metrics.csv` (the training log) and `samples.png` (seeds
    0 … 63).

    Args:
        device: where images are generated and scored. Default: the GPU where there is one.
        metrics: names of more metrics than the offline ones, for the last snapshot.
        count, networks: as of `evaluate`, for those.
        history: False: score the last snapshot only.

    Returns:
        The record, a dict.

    Raises:
        UserError: there is no such device, the run has no snapshot or is damaged, or the scoring network is
            missing or altered.
    """
    device = pick_device(device)
    run.generator()  # raises where there is no snapshot
    config, info = run.config, run.info()
    dataset = open_dataset(config.data, config.resolution)
    log = run.metrics()
    elapsed = {line["nimg"]: line["seconds"] for line in log}
    scored = []
    snapshots = run.snapshots() if history else run.snapshots()[-1:]
    if missing := sorted(set(snapshots) - elapsed.keys()):
        raise UserError(f"{run.path / 'metrics.jsonl'} has no line of nimg={missing[0]}: restore the file")
    wanted = [*OFFLINE, *(parse_metrics(metrics) if metrics else ())]
    for name in wanted:
        networks[METRICS[name].network].load()  # what is missing shows before any work
    for nimg in progress(snapshots, unit="snapshot", desc=f"score {run.id}"):
        generator = run.generator(nimg).to(device)
        these = wanted if nimg == snapshots[-1] else OFFLINE
        score = evaluate(generator, dataset, these, count=count, networks=networks)
        scored.append({"nimg": nimg, "seconds": elapsed[nimg], **score.values})
    copies, _ = nearest_training_images(generator, dataset)
    described = ("name", "resolution", "manifest")
    record = {
        "run_id": run.id,
        **extra,
        **info.pop("provenance"),
        **info,
        "preset": config.preset,
        "config": config.to_dict(),
        "seed": config.seed,
        "minutes": info["seconds"] / 60,
        "dataset": {name: getattr(dataset, name) for name in described} | {"split": "train"},
        "score": score.to_dict(),
        "history": scored,
        "memorization": {"share": copies.share, "expected": copies.expected, "error": copies.error},
        "parameters": {
            "generator": _parameters(generator),
            "discriminator": _parameters(build_discriminator(config)),
        },
    }
    path = record_run(run.id, record)
    table = pd.DataFrame(log)
    write_atomically(path.with_name("metrics.csv"), table.to_csv(index=False, lineterminator="\n"))
    save_png(path.with_name("samples.png"), image_grid(sample_images(generator, range(64)), 8))
    return record


def _parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())
