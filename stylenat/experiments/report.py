"""The ablation's tables, figures and paragraphs, from what is recorded alone."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stylenat.attention.partitions import (
    Full,
    HeadPartition,
    Level,
    ShiftedWindows,
    format_partitions,
    resolutions,
)
from stylenat.attention.reference import receptive_field
from stylenat.experiments.analysis import Analysis, Comparison, analyze
from stylenat.experiments.grid import Cell, Grid, grid_names, load_grid
from stylenat.experiments.scoring import SCORED, grid_folder, read_scores
from stylenat.experiments.verdict import metric_title, number, verdict
from stylenat.experiments.views import Views, read_views
from stylenat.figures.ablation import ArmViews, Rung, arm_samples, arm_views, ladder
from stylenat.figures.attention import head_parts
from stylenat.figures.results import recorded_samples
from stylenat.reporting import markdown
from stylenat.reporting.records import RunRecord, read_csv, read_record, record_path

PLANNED = "avatars-32"  # whose arms docs/ablation.md shows
SMOKE = "smoke"  # shows that it runs: never among the results
PILOT = "avatars-32-pilot"  # came before the plan, beside which docs/ablation.md shows it
COSTS = "costs.csv"
NONE = "No grid is recorded yet. The plan, written before the runs: [docs/ablation.md](docs/ablation.md)."


def recorded_grids() -> list[Analysis]:
    """The analysis of every grid of which a run is recorded, but the smoke test's and the pilot's."""
    found = []
    for name in grid_names():
        if name not in (SMOKE, PILOT) and grid_folder(name).is_dir():
            analysis = analyze(load_grid(name))
            if analysis.recorded:
                found.append(analysis)
    return found


# Tables


def contrast_table(analysis: Analysis) -> pd.DataFrame:
    """A row a contrast: mean difference, interval, p-values, what is detectable, the paper's sign.

    The primary contrast comes first; those with Holm's p are the secondary ones, the others exploratory.
    """
    rows = []
    for found in _comparisons(analysis):
        rows.append(
            {
                "contrast": found.contrast.name,
                "score": metric_title(found.metric),
                "pairs": len(found.differences),
                "mean difference": number(found.mean, True),
                "95 % interval": f"{number(found.low, True)} to {number(found.high, True)}",
                "p": f"{found.p:.3g}",
                "p, Holm": f"{found.adjusted:.3g}" if found in analysis.secondary else "–",
                "detectable": number(found.detectable),
                "paper's sign": {-1: "−", 0: "–", 1: "+"}[found.contrast.sign],
            }
        )
    return pd.DataFrame(rows)


def _comparisons(analysis: Analysis) -> list[Comparison]:
    """The primary contrast, the secondary and the exploratory ones."""
    primary = [analysis.primary] if analysis.primary else []
    return [*primary, *analysis.secondary, *analysis.exploratory]


def arm_table(analysis: Analysis) -> pd.DataFrame:
    """A row an arm: seeds, mean and standard deviation of its scores, images shown, hours of training."""
    grid = analysis.grid
    rows = []
    for variant in grid.variants:
        records = recorded(grid, variant.name)
        row: dict[str, str | int] = {"arm": variant.name, "seeds": len(records)}
        for metric, scores in analysis.scores.items():
            values = list(scores.get(variant.name, {}).values())
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
            mean = float(np.mean(values)) if values else math.nan
            row[metric_title(metric)] = f"{number(mean)} ± {number(spread)}"
        row["parameters G"] = f"{records[0].parameters.generator:,}" if records else "–"
        row["images shown"] = f"{records[0].nimg:,}" if records else "–"
        row["hours"] = f"{sum(record.minutes for record in records) / 60:.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


def partition_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """What the heads of each level see, a column a cell."""
    columns = {}
    for cell in cells:
        columns[cell.variant] = [format_partitions(level) for level in cell.config.partitions]
    sides = resolutions(len(cells[0].config.partitions))
    return pd.DataFrame(columns, index=pd.Index(sides, name="tokens a side"))


def cell_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row a cell that was run: its seed and scores, ± the standard deviation between sample seeds."""
    rows = []
    for cell in cells:
        scores = read_scores(cell)
        if scores is None:
            continue
        row: dict[str, str | int] = {"arm": cell.variant, "seed": cell.seed}
        for metric in SCORED:
            samples = scores.by_sample_seed(metric)
            spread = float(np.std(samples, ddof=1)) if len(samples) > 1 else math.nan
            row[metric_title(metric)] = f"{number(scores.mean(metric))} ± {number(spread)}"
        rows.append(row)
    return pd.DataFrame(rows)


def cost_table(grid: str) -> pd.DataFrame | None:
    """What each arm costs, measured in one run; None where it was not."""
    path = grid_folder(grid) / COSTS
    return read_csv(path) if path.is_file() else None


def to_markdown(table: pd.DataFrame) -> str:
    """A table of `pandas` in Markdown."""
    return markdown.table(list(table.columns), table.astype(str).to_numpy().tolist(), text_columns=(0,))


def recorded(grid: Grid, variant: str) -> list[RunRecord]:
    """The records of an arm's runs."""
    cells = [cell for cell in grid.cells() if cell.variant == variant]
    return [record for cell in cells if (record := _record(cell))]


def _record(cell: Cell) -> RunRecord | None:
    path = record_path(cell.run_id)
    return read_record(path) if read_scores(cell) and path.is_file() else None


# Figures


def ladder_figure(analysis: Analysis) -> Figure:
    """The ladder of a grid, on its own metric."""
    metric = analysis.grid.scoring.metric
    rungs = [_rung(found) for found in _comparisons(analysis) if found.metric == metric]
    return ladder(rungs, metric_title(metric), analysis.scores[metric])


def _rung(found: Comparison) -> Rung:
    return Rung(
        title=found.contrast.name,
        differences=list(found.differences.values()),
        mean=found.mean,
        low=found.low,
        high=found.high,
        note=f"p = {found.adjusted:.2g}",
        paper=found.contrast.sign,
    )


def views_figure(grid: Grid, level: int) -> Figure | None:
    """What each arm's heads see and use at a level, averaged over seeds; None where none is recorded."""
    return compare_views(grid.cells(), level)


def compare_views(cells: Sequence[Cell], level: int) -> Figure | None:
    """The same of given cells, averaged over those of one arm."""
    by_arm: dict[str, list[Cell]] = {}
    for cell in cells:
        by_arm.setdefault(cell.variant, []).append(cell)
    arms = []
    for name, own in by_arm.items():
        found = [views for cell in own if (views := read_views(cell))]
        if found:
            partitions = own[0].config.partitions[level.bit_length() - 3]
            arms.append(_arm(name, partitions, level, found))
    return arm_views(arms) if arms else None


def _arm(name: str, partitions: Level, level: int, found: list[Views]) -> ArmViews:
    shares = np.cumsum([part.heads for part in head_parts(partitions)])[:-1]
    entropy = np.mean([views[level].entropy for views in found], axis=(0, 1))  # (heads,)
    distance = np.mean([views[level].distance for views in found], axis=(0, 1))
    parts = []
    for part, keys in zip(head_parts(partitions), seen_keys(partitions, level), strict=True):
        parts.append((part.title.split(": ")[1].replace(", dilation", " @"), keys))
    return ArmViews(
        name=name,
        parts=parts,
        field=np.mean([views[level].field for views in found], axis=0),
        entropy=[float(own.mean()) for own in np.split(entropy, shares)],
        distance=[float(own.mean()) for own in np.split(distance, shares)],
    )


def seen_keys(partitions: Level, side: int) -> list[np.ndarray]:
    """The keys `(n, n)` that the middle query sees, one mask for each of `head_parts`."""
    middle = side // 2
    masks = []
    for part in partitions:
        if isinstance(part, HeadPartition):
            masks.append(np.asarray(receptive_field(part, side, side, (middle, middle))))
        elif isinstance(part, Full):
            masks.append(np.ones((side, side), bool))
        elif isinstance(part, ShiftedWindows):
            size = part.window_size
            for shift in (0, size // 2):
                first = (middle - shift) // size * size + shift
                mask = np.zeros((side, side), bool)
                mask[first : first + size, first : first + size] = True
                masks.append(mask)
    return masks


def samples_figure(grid: Grid) -> Figure | None:
    """The same seeds of every arm's first run; None where nothing is recorded."""
    sheets = {}
    for variant in grid.variants:
        record = _record(grid.cell(variant.name))
        sheet = recorded_samples(record) if record else None
        if sheet is not None:
            sheets[variant.name] = sheet
    return arm_samples(sheets, grid.cells()[0].config.resolution) if sheets else None


def draw_ablation_figures() -> dict[str, Figure]:
    """The figures of every recorded grid, by the names of their files."""
    drawn = {}
    for analysis in recorded_grids():
        grid = analysis.grid
        resolution = grid.cells()[0].config.resolution
        figures = {
            "ladder": ladder_figure(analysis),
            "views": views_figure(grid, resolution),
            "samples": samples_figure(grid),
        }
        for kind, figure in figures.items():
            if figure is not None:
                drawn[f"ablation-{grid.name}-{kind}"] = figure
    return drawn


# Pages


def readme_block(analyses: list[Analysis]) -> str:
    """README's block: figure and paragraph of the first recorded grid, or that there is none."""
    if not analyses:
        return NONE
    first = analyses[0]
    name = first.grid.name
    figure = f"![Scores and paired differences of {name}](figures/ablation-{name}-ladder.png)"
    return (
        f"{figure}\n\n{verdict(first)}\n\n"
        "The plan, written before the runs, and everything else: [docs/ablation.md](docs/ablation.md)."
    )


def page_block(analyses: list[Analysis]) -> str:
    """The results of docs/ablation.md."""
    if not analyses:
        return "No run of a grid is recorded yet."
    sections = []
    for analysis in analyses:
        name = analysis.grid.name
        parts = [f"### {name}", verdict(analysis), to_markdown(contrast_table(analysis))]
        parts.append(to_markdown(arm_table(analysis)))
        parts.append(f"±: standard deviation between training seeds. {analysis.images:,} images a score.")
        for kind in ("ladder", "views", "samples"):
            parts.append(f"![{name}: {kind}](../figures/ablation-{name}-{kind}.png)")
        costs = cost_table(name)
        if costs is not None:
            parts.append(to_markdown(costs))
        sections.append("\n\n".join(parts))
    return "\n\n".join(sections)


def plan_table(grid: Grid) -> pd.DataFrame:
    """A row an arm: what the heads of each level see, what else it changes, its paired seeds."""
    rows = []
    for variant in grid.variants:
        config = grid.cell(variant.name).config
        row = {"arm": variant.name}
        for side, level in zip(resolutions(len(config.partitions))[1:], config.partitions[1:], strict=True):
            row[f"{side} × {side}"] = format_partitions(level)
        row["besides"] = ", ".join(f"{key} = {value}" for key, value in variant.settings.items()) or "–"
        seeds = grid.seeds_of(variant.name)
        row["seeds"] = f"{seeds[0]} to {seeds[-1]}"
        rows.append(row)
    return pd.DataFrame(rows)


def pilot_table(grid: Grid) -> pd.DataFrame | None:
    """A row a snapshot, each arm's scores in columns, of the last one ± the deviation between sample seeds.

    Returns:
        None where no run is recorded.
    """
    columns: dict[str, dict[str, str]] = {}
    for cell in grid.cells():
        scores = read_scores(cell)
        if scores is None:
            continue
        snapshots = sorted({int(row["nimg"]) for row in scores.scores})
        for metric in SCORED:
            column = columns.setdefault(f"{cell.variant}, {metric_title(metric)}", {})
            for nimg, value in zip(snapshots, scores.by_snapshot(metric), strict=True):
                column[f"{nimg:,}"] = number(value)
            spread = float(np.std(scores.by_sample_seed(metric), ddof=1))
            column[f"{snapshots[-1]:,}"] += f" ± {number(spread)}"
    return pd.DataFrame(columns).rename_axis("images shown").reset_index() if columns else None
