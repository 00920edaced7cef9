"""The grid's runs: one after the other or several at once, each with one thread; finished ones are kept."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager

from stylenat.device import pick_device
from stylenat.errors import UserError
from stylenat.evaluation.evaluate import check_evaluation
from stylenat.experiments.grid import Cell, Grid
from stylenat.experiments.record import score_run
from stylenat.experiments.scoring import CellScores, read_scores, reference_features, score_cell
from stylenat.experiments.views import record_views
from stylenat.features.networks import NETWORKS
from stylenat.reporting.records import RunRecord, read_record, record_path
from stylenat.training.loop import check_folder, check_training, train

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_cell(cell: Cell, device: str | None = None) -> tuple[RunRecord, CellScores]:
    """Train, score and record one cell; what is finished is not done again, what was interrupted goes on.

    Args:
        cell: of a grid.
        device: default: the GPU where there is one.

    Returns:
        The run's record, as of any run, and its scores by the grid's protocol.

    Raises:
        UserError: as of `train` and `score_cell`.
    """
    recorded = read_scores(cell)
    if recorded and record_path(cell.run_id).is_file():
        return read_record(record_path(cell.run_id)), recorded
    check_cells([cell], device)
    reference_features(
        cell, NETWORKS["lite0"], pick_device(device)
    )  # what is missing shows before the training
    run = train(cell.config, device=device)
    record = score_run(run, device, history=False)
    if run.generator().shows_attention:
        record_views(cell, run)
    return record, score_cell(cell, run, device)


def check_cells(cells: Sequence[Cell], device: str | None = None) -> None:
    """Check all that can be known of cells before the first one is trained; writes nothing.

    Args:
        cells: of one grid, which differ in variant and seed alone.
        device: as of `run_cell`.

    Raises:
        UserError: as of `check_training`, or images too few to score.
    """
    for cell in cells:
        check_folder(cell.config)
    if cells:
        check_evaluation(check_training(cells[0].config, device=device))


def run_grid(grid: Grid, jobs: int = 1, device: str | None = None) -> None:
    """Run every cell of a grid that is not recorded yet.

    Each runs in a process of its own with one thread. The same call again goes on where this one stopped. A
    cell that fails does not stop the others.

    Args:
        grid: whose cells.
        jobs: how many at once.
        device: default: the GPU where there is one.

    Raises:
        UserError: jobs below 1, no such device, or cells that failed, with the first one's reason.
    """
    if jobs < 1:
        raise UserError(f"jobs={jobs}: give 1 or more cells at once")
    pick_device(device)
    missing = [cell for cell in grid.cells() if read_scores(cell) is None]
    check_cells(missing, device)
    total = len(grid.cells())
    print(f"{grid.name}: {total - len(missing)} of {total} runs are recorded")
    failures = []
    with _workers(jobs) as pool:
        futures: dict[Future, Cell] = {pool.submit(run_one, cell, device): cell for cell in missing}
        for future in as_completed(futures):
            cell = futures[future]
            try:
                print(future.result(), flush=True)
            except UserError as error:
                failures.append(f"{cell.variant}, seed {cell.seed}: {error}")
    if failures:
        raise UserError(f"{len(failures)} of {len(missing)} cells failed; {failures[0]}")


def run_one(cell: Cell, device: str | None = None) -> str:
    """`run_cell`, and a line about it.

    Args:
        cell: as of `run_cell`.
        device: as of `run_cell`.

    Raises:
        UserError: as of `run_cell`.
    """
    record, scores = run_cell(cell, device)
    metric = cell.scoring.metric
    shown = f"{record.nimg:,} images, {record.minutes:.1f} min"
    return f"{cell.variant}, seed {cell.seed}: {metric} {scores.mean(metric):.4g} after {shown}"


@contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each; on Ctrl-C the cells that wait are dropped."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read when a worker loads its libraries
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
