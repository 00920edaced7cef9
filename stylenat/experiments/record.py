"""From a run to its record: every snapshot scored, the last one looked through for copies."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stylenat.checkpoints.lock import check_free, hold
from stylenat.checkpoints.run import LOG, Run
from stylenat.data.dataset import ImageDataset, open_dataset
from stylenat.device import pick_device
from stylenat.errors import UserError
from stylenat.evaluation.evaluate import check_evaluation, evaluate, nearest_training_images
from stylenat.evaluation.memorization import Memorization
from stylenat.evaluation.metrics import OFFLINE, Score, parse_metrics
from stylenat.features.networks import NETWORKS, FeatureNetwork
from stylenat.images import save_png
from stylenat.models.base import Generator, count_parameters
from stylenat.models.build import build_discriminator
from stylenat.paths import check_writable, write_atomically
from stylenat.progress import progress
from stylenat.reporting.records import (
    DatasetInfo,
    HistoryEntry,
    ParameterCounts,
    RunRecord,
    check_run_id,
    read_record,
    record_path,
    write_record,
)
from stylenat.sampling.sample import sample_sheet

SMOKE = "smoke"  # the preset that shows that everything works; its records are in nobody's way


def score_run(
    run: Run,
    device: str | None = None,
    *,
    metrics: str | Sequence[str] = (),
    count: int | None = None,
    networks: Mapping[str, FeatureNetwork] = NETWORKS,
    history: bool = True,
    replace: bool = False,
) -> RunRecord:
    """Score every snapshot of a run and write its record under `results/runs/<run id>/`.

    The folder then holds `result.json`, `log.csv` (the training log) and `samples.png` (see `sample_sheet`).
    Where it holds a record with other numbers, a warning names them. A record of another training of the same
    run, as another machine makes, is replaced only if that is asked for, or where the preset is `SMOKE`.

    Args:
        run: a training run.
        device: where images are generated and scored. Default: the GPU where there is one.
        metrics: names of more metrics than the offline ones, for the last snapshot.
        count: generated images for those, as of `evaluate`.
        networks: feature networks by name, as of `evaluate`.
        history: False scores the last snapshot only.
        replace: whether the record of another training may be replaced.

    Returns:
        The record.

    Raises:
        UserError: another training of the run is recorded; there is no such device, the run has no snapshot
            or is damaged, its data have changed or are too few images, the scoring network is missing or
            altered, or the record can't be written or is being written by another process; all before the
            first score.
    """
    wanted = [*OFFLINE, *(parse_metrics(metrics) if metrics else ())]
    torch_device = pick_device(device)
    folder = record_path(run.id).parent
    check_run_id(run.id)
    check_free(folder)
    check_writable(folder / "result.json")
    # Read once, for a training may go on meanwhile.
    config = run.config
    last = run.last_snapshot()
    last_generator = run.generator(last)
    info = run.info(last)
    log = pd.DataFrame([line for line in run.log() if line["nimg"] <= last])
    snapshots = [nimg for nimg in run.snapshots() if nimg <= last] if history else [last]
    elapsed = _elapsed(run, log, snapshots, info)
    before = _recorded(folder / "result.json")
    if before and not replace and config.preset != SMOKE:
        _check_same_training(run, before, elapsed)
    for nimg in snapshots:
        run.generator(nimg)  # a damaged one shows now
    dataset = open_dataset(config.data, config.resolution)
    run.check_dataset(dataset)
    check_evaluation(dataset, wanted, count=count, networks=networks)

    with hold(folder):
        entries = []
        for nimg in progress(snapshots, unit="snapshot", desc=f"score {run.id}"):
            generator = (last_generator if nimg == last else run.generator(nimg)).to(torch_device)
            own = wanted if nimg == last else OFFLINE
            score = evaluate(generator, dataset, own, count=count, networks=networks)
            entries.append(HistoryEntry(nimg, elapsed[nimg], score.values))
        memorization, _ = nearest_training_images(generator, dataset)
        record = _record(run, info, dataset, generator, score, entries, memorization)
        changes = _changes(before, record) if before and (replace or before.nimg == record.nimg) else ""
        if changes:
            warnings.warn(f"results/runs/{run.id}/result.json held other numbers: {changes}", stacklevel=2)
        write_record(record)
        write_atomically(folder / "log.csv", log.to_csv(index=False, lineterminator="\n"))
        save_png(folder / "samples.png", sample_sheet(generator))
    return record


def _recorded(path: Path) -> RunRecord | None:
    """The record in a file; None where there is none, or a damaged one, which scoring makes again."""
    try:
        return read_record(path) if path.is_file() else None
    except UserError:
        return None


def _check_same_training(run: Run, record: RunRecord, elapsed: Mapping[int, float]) -> None:
    """Check that a record is of this training: the time that it had taken until a snapshot tells.

    Args:
        run: that is to be scored.
        record: that stands in the place of the new one.
        elapsed: seconds of the run's training, by nimg.

    Raises:
        UserError: it is of another one.
    """
    times = {entry.nimg: entry.seconds for entry in record.history}
    common = times.keys() & elapsed.keys()
    if common and all(math.isclose(times[nimg], elapsed[nimg], abs_tol=1e-3) for nimg in common):
        return
    about = f"{record.device}, {record.nimg:,} images, {record.minutes:.1f} minutes"
    commit = f", commit {record.commit[:7]}" if record.commit else ""
    raise UserError(
        f"run {run.id} is recorded from another training ({about}{commit}): keep that, or give --replace to "
        f"put this one in its place, or train another seed"
    )


def _changes(before: RunRecord, after: RunRecord) -> str:
    """The scores that two records of a run both have and that differ, in words; empty where none does."""
    changes = []
    for key, value in after.values.items():
        old = before.values.get(key)
        if old is not None and not math.isclose(old.value, value.value, rel_tol=1e-9, abs_tol=1e-12):
            changes.append(f"{key.title} {old.value:.6g}, now {value.value:.6g}")
    return "; ".join(changes)


def _record(
    run: Run,
    info: Mapping[str, Any],
    dataset: ImageDataset,
    generator: Generator,
    score: Score,
    entries: Sequence[HistoryEntry],
    memorization: Memorization,
) -> RunRecord:
    """The record of a run whose snapshots are scored."""
    config = run.config
    return RunRecord(
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
        precision=info.get("precision"),
        **info["provenance"],
    )


def _elapsed(
    run: Run, log: pd.DataFrame, snapshots: Sequence[int], info: Mapping[str, Any]
) -> dict[int, float]:
    """Seconds of training until each snapshot, by nimg."""
    elapsed = dict(zip(log.get("nimg", ()), log.get("seconds", ()), strict=True))
    if info.get("interrupted"):  # between two lines
        elapsed[info["nimg"]] = info["seconds"]
    missing = sorted(set(snapshots) - elapsed.keys())
    if missing:
        raise UserError(
            f"{run.path / LOG} has no line of nimg={missing[0]}: restore the file; the newest snapshot's "
            "line comes back with the training command"
        )
    return elapsed
