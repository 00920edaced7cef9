"""From a run to its record: every snapshot scored, the last one looked through for copies."""

from collections.abc import Mapping, Sequence

import pandas as pd

from stylenat.checkpoints.run import LOG, Run
from stylenat.data.dataset import open_dataset
from stylenat.device import pick_device
from stylenat.errors import UserError
from stylenat.evaluation.evaluate import evaluate, nearest_training_images
from stylenat.evaluation.metrics import METRICS, OFFLINE, parse_metrics
from stylenat.features.networks import NETWORKS, FeatureNetwork
from stylenat.images import save_png
from stylenat.models.base import count_parameters
from stylenat.models.build import build_discriminator
from stylenat.paths import write_atomically
from stylenat.progress import progress
from stylenat.reporting.records import (
    DatasetInfo,
    HistoryEntry,
    ParameterCounts,
    RunRecord,
    write_record,
)
from stylenat.sampling.sample import sample_sheet


def score_run(
    run: Run,
    device: str | None = None,
    *,
    metrics: str | Sequence[str] = (),
    count: int | None = None,
    networks: Mapping[str, FeatureNetwork] = NETWORKS,
    history: bool = True,
) -> RunRecord:
    """Score every snapshot of a run and write its record under `results/runs/<run id>/`.

    The folder then holds `result.json`, `log.csv` (the training log) and `samples.png` (see `sample_sheet`).

    Args:
        run: a training run.
        device: where images are generated and scored. Default: the GPU where there is one.
        metrics: names of more metrics than the offline ones, for the last snapshot.
        count: generated images for those, as of `evaluate`.
        networks: feature networks by name, as of `evaluate`.
        history: False scores the last snapshot only.

    Returns:
        The record.

    Raises:
        UserError: there is no such device, the run has no snapshot or is damaged, its data have changed, or
            the scoring network is missing or altered.
    """
    torch_device = pick_device(device)
    run.generator()  # raises where there is no snapshot
    info = run.info()
    config = run.config
    log = pd.DataFrame(run.log())
    snapshots = run.snapshots() if history else run.snapshots()[-1:]
    elapsed = _elapsed(run, log, snapshots)
    dataset = open_dataset(config.data, config.resolution)
    run.check_dataset(dataset)
    wanted = [*OFFLINE, *(parse_metrics(metrics) if metrics else ())]
    for name in wanted:
        networks[METRICS[name].network].load()  # what is missing shows before any work

    entries = []
    for nimg in progress(snapshots, unit="snapshot", desc=f"score {run.id}"):
        generator = run.generator(nimg).to(torch_device)
        own = wanted if nimg == snapshots[-1] else OFFLINE
        score = evaluate(generator, dataset, own, count=count, networks=networks)
        entries.append(HistoryEntry(nimg, elapsed[nimg], score.values))
    memorization, _ = nearest_training_images(generator, dataset)

    record = RunRecord(
        run_id=run.id,
        preset=config.preset,
        seed=config.seed,
        nimg=info["nimg"],
        minutes=info["seconds"] / 60,
        dataset=DatasetInfo(dataset.name, dataset.resolution, dataset.manifest),
        parameters=ParameterCounts(
            generator=count_parameters(generator),
            discriminator=count_parameters(build_discriminator(config)),
        ),
        score=score,
        config=config.to_dict(),
        history=tuple(entries),
        memorization=memorization.copies,
        seconds=info["seconds"],
        peak_memory_bytes=info["peak_memory_bytes"],
        attention=tuple(info["attention"]) if "attention" in info else None,
        **info["provenance"],
    )
    folder = write_record(record).parent
    write_atomically(folder / "log.csv", log.to_csv(index=False, lineterminator="\n"))
    save_png(folder / "samples.png", sample_sheet(generator))
    return record


def _elapsed(run: Run, log: pd.DataFrame, snapshots: Sequence[int]) -> dict[int, float]:
    """Seconds of training until each snapshot, by nimg."""
    elapsed = dict(zip(log.get("nimg", ()), log.get("seconds", ()), strict=True))
    missing = sorted(set(snapshots) - elapsed.keys())
    if missing:
        raise UserError(f"{run.path / LOG} has no line of nimg={missing[0]}: restore the file")
    return elapsed
