"""Scores of a grid's runs: the last snapshots, by several sample seeds, the same latents in every arm."""

import dataclasses
import functools
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylenat.checkpoints.run import Run
from stylenat.data.dataset import open_dataset
from stylenat.device import pick_device
from stylenat.errors import UserError
from stylenat.evaluation.distances import Moments, frechet_distance
from stylenat.evaluation.metrics import METRICS
from stylenat.evaluation.samples import as_samples, dataset_batches
from stylenat.experiments.grid import Cell, Grid, Scoring
from stylenat.features.networks import NETWORKS, FeatureNetwork
from stylenat.paths import from_json, to_json, workspace, write_atomically
from stylenat.progress import progress

SCORED = ("fd-lite0", "kid-lite0")
COMPONENTS = 128  # leading principal components of the real features, in which covariances are kept
SCORES = "grid_scores.jsonl"  # in the run's folder, so that an interrupted scoring goes on


@dataclass(frozen=True)
class CellScores:
    """What is recorded of a cell besides its run's record.

    Attributes:
        run_id: of the run.
        variant: the arm's name.
        seed: the run's.
        protocol: everything that the scores depend on.
        scores: of each snapshot and sample seed a dict of "nimg", "sample_seed" and the `SCORED` metrics.
        fd_components: `components_distance` of the last snapshot, sample seed 0, to the real images.
        seconds: that scoring took; only what the last start did.
    """

    run_id: str
    variant: str
    seed: int
    protocol: dict[str, Any]
    scores: tuple[dict[str, float], ...]
    fd_components: float
    seconds: float

    def mean(self, metric: str) -> float:
        """The cell's score: the mean over snapshots."""
        return float(np.mean(self.by_snapshot(metric)))

    def by_sample_seed(self, metric: str) -> list[float]:
        """Those of the last snapshot, one a sample seed."""
        last = max(row["nimg"] for row in self.scores)
        return [row[metric] for row in self.scores if row["nimg"] == last]

    def by_snapshot(self, metric: str) -> list[float]:
        """The mean over sample seeds, one a snapshot."""
        groups: dict[float, list[float]] = {}
        for row in self.scores:
            groups.setdefault(row["nimg"], []).append(row[metric])
        return [float(np.mean(values)) for _, values in sorted(groups.items())]


def grid_folder(grid: str) -> Path:
    """Where what is recorded of a grid is: `results/ablation/<grid>`."""
    return workspace("results", "ablation", grid)


def scores_path(cell: Cell) -> Path:
    """The file of a cell's scores."""
    return grid_folder(cell.grid) / f"{cell.run_id}.json"


def read_scores(cell: Cell) -> CellScores | None:
    """What is recorded of a cell, or None.

    Raises:
        UserError: the file is damaged.
    """
    path = scores_path(cell)
    if not path.is_file():
        return None
    try:
        entries = from_json(path.read_text(encoding="utf-8"))
        return CellScores(**{**entries, "scores": tuple(entries["scores"])})
    except (ValueError, TypeError, KeyError) as error:
        where = path.relative_to(workspace()).as_posix()
        raise UserError(f"{where} is damaged ({error}): restore it from git or delete it") from None


def recorded_scores(grid: Grid) -> list[CellScores]:
    """What is recorded of a grid's cells, in the grid's order.

    Raises:
        UserError: a damaged file, or cells of different protocols.
    """
    found = [scores for cell in grid.cells() if (scores := read_scores(cell))]
    for scores in found:
        if scores.protocol != found[0].protocol:
            raise UserError(
                f"runs {found[0].run_id} and {scores.run_id} of {grid.name} were scored by different "
                "protocols: delete the older file in results/ablation and score it again"
            )
    return found


def score_cell(
    cell: Cell, run: Run, device: str | None = None, network: FeatureNetwork = NETWORKS["lite0"]
) -> CellScores:
    """Score a finished run by its grid's protocol, and record scores and moments of features.

    Scores that were made before an interruption are kept.

    Args:
        cell: the run's.
        run: finished.
        device: where images are generated and scored. Default: the GPU where there is one.
        network: whose features are compared.

    Raises:
        UserError: too few images, a missing feature network, a damaged run.
    """
    torch_device = pick_device(device)
    reference = reference_features(cell, network, torch_device)
    todo = cell.scoring.samples(run.snapshots())
    path = run.path / SCORES
    rows = _read_rows(path)
    start = time.perf_counter()
    for nimg, seed in progress(todo, unit="score", desc=f"score {cell.run_id}"):
        is_last = (nimg, seed) == todo[0]
        done = any((row["nimg"], row["sample_seed"]) == (nimg, seed) for row in rows)
        if done and not (is_last and not _moments_path(cell).is_file()):
            continue
        generator = run.generator(nimg).to(torch_device)
        samples = as_samples(generator, seed)
        fake = network.features(samples.batches(len(reference)), torch_device)  # (N, D)
        if is_last:
            _write_moments(cell, reference, fake)
        if not done:
            row: dict[str, float] = {"nimg": nimg, "sample_seed": seed}
            for name in SCORED:
                row |= {name: METRICS[name].compute(reference, fake)[METRICS[name].columns[0]]}
            rows.append(row)
            write_atomically(path, "".join(to_json(row) + "\n" for row in rows))
    wanted = [row for row in rows if (row["nimg"], row["sample_seed"]) in todo]
    scores = CellScores(
        run_id=cell.run_id,
        variant=cell.variant,
        seed=cell.seed,
        protocol=_protocol(cell, len(reference), network),
        scores=tuple(sorted(wanted, key=lambda row: (row["nimg"], row["sample_seed"]))),
        fd_components=components_distance(read_moments(cell.grid), read_moments(cell)),
        seconds=round(time.perf_counter() - start, 1),
    )
    text = to_json(dataclasses.asdict(scores), indent=1, sort_keys=True)
    write_atomically(scores_path(cell), text + "\n")
    return scores


def _read_rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    try:
        return [from_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and the run is scored again") from None


def reference_features(cell: Cell, network: FeatureNetwork, device: torch.device) -> Tensor:
    """Features `(N, D)` of the held-out images that a cell's scores are against.

    Raises:
        UserError: too few images are held out, or the network is missing.
    """
    config = cell.config
    return _reference(config.data, config.resolution, cell.scoring.images, network, str(device))


@functools.lru_cache(maxsize=2)
def _reference(data: str, resolution: int, images: int, network: FeatureNetwork, device: str) -> Tensor:
    heldout = open_dataset(data, resolution, "heldout")
    count = min(images, len(heldout))
    if count < LEAST:
        raise UserError(f"{data} holds out {len(heldout)} images: the ablation needs {LEAST} or more")
    order = np.random.default_rng(0).permutation(len(heldout))[:count]  # of every run the same images
    return network.features(dataset_batches(heldout, order), device)


LEAST = 20  # images a side


def _protocol(cell: Cell, count: int, network: FeatureNetwork) -> dict[str, Any]:
    config = cell.config
    dataset = open_dataset(config.data, config.resolution, "heldout")
    scoring: Scoring = cell.scoring
    own = {key: value for key, value in network.protocol().items() if key != "versions"}
    return {
        **own,
        "note": network.note,
        "statistics": {name: METRICS[name].definition for name in SCORED},
        "dataset": dataset.name,
        "manifest": dataset.manifest,
        "resolution": config.resolution,
        "split": "heldout",
        "n_real": count,
        "n_fake": count,
        "sample_seeds": scoring.sample_seeds,
        "snapshots": scoring.snapshots,
        "nimg": config.nimg,
    }


# Moments of features, small enough for git


@dataclass(frozen=True, eq=False)
class CompactMoments:
    """Mean and covariance of features in the leading principal components of the real ones.

    Attributes:
        count: of the features.
        mean: float32 `(K,)`.
        covariance: float32 `(K, K)`.
    """

    count: int
    mean: Tensor
    covariance: Tensor


def _components_path(grid: str) -> Path:
    return grid_folder(grid) / "components.npz"


def _moments_path(cell: Cell) -> Path:
    return scores_path(cell).with_suffix(".npz")


def principal_components(features: Tensor, count: int = COMPONENTS) -> Tensor:
    """The leading principal components of features `(N, D)`: float32 `(count, D)`, orthonormal."""
    covariance = Moments().update(features).covariance.cpu()
    _, vectors = torch.linalg.eigh(covariance)  # ascending
    return vectors[:, -count:].T.flip(0).float()


def compact(features: Tensor, components: Tensor) -> CompactMoments:
    """`CompactMoments` of features `(N, D)` in orthonormal components `(K, D)`."""
    moments = Moments().update(features.cpu().double() @ components.double().T)
    return CompactMoments(moments.count, moments.mean.float(), moments.covariance.float())


def components_distance(a: CompactMoments, b: CompactMoments) -> float:
    """The Fréchet distance of two sets within the components, a part of the whole one."""
    return frechet_distance(
        *(CompactMoments(x.count, x.mean.double(), x.covariance.double()) for x in (a, b))
    )


def _write_moments(cell: Cell, reference: Tensor, fake: Tensor) -> None:
    """Write a cell's moments, and, once a grid, the components with the real images' moments."""
    path = _components_path(cell.grid)
    if not path.is_file():
        components = principal_components(reference)
        _save_arrays(path, {"components": components.numpy(), **_packed(compact(reference, components))})
    with np.load(path) as stored:
        components = torch.from_numpy(stored["components"])
    _save_arrays(_moments_path(cell), _packed(compact(fake, components)))


def _packed(moments: CompactMoments) -> dict[str, Any]:
    """Arrays by name; of the covariance its lower triangle."""
    size = len(moments.mean)
    lower = moments.covariance.numpy()[np.tril_indices(size)]
    return {"count": moments.count, "mean": moments.mean.numpy(), "covariance": lower}


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_moments(cell: Cell | str) -> CompactMoments:
    """Moments of a cell's last snapshot, sample seed 0; of a grid's name those of its real images.

    Raises:
        UserError: they are not recorded.
    """
    path = _components_path(cell) if isinstance(cell, str) else _moments_path(cell)
    if not path.is_file():
        where = path.relative_to(workspace()).as_posix()
        raise UserError(
            f"{where} is missing: restore it from git, or delete the cell's scores and run it again"
        )
    with np.load(path) as stored:
        mean = torch.from_numpy(stored["mean"])
        covariance = torch.zeros(len(mean), len(mean))
        rows, columns = np.tril_indices(len(mean))
        covariance[rows, columns] = torch.from_numpy(stored["covariance"])
        covariance[columns, rows] = covariance[rows, columns]
        return CompactMoments(int(stored["count"]), mean, covariance)
