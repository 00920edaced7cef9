"""The tables: built from the runs' records and the published numbers alone, the same bytes every time."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stylenat.attention.partitions import resolutions
from stylenat.errors import UserError
from stylenat.evaluation.metrics import SCORE_KEYS, ScoreKey, ScoreValue
from stylenat.paths import workspace, write_atomically
from stylenat.reporting import markdown
from stylenat.reporting.protocol import check_same_protocol
from stylenat.reporting.records import RunRecord, load_records, read_csv

PUBLISHED = {  # column of the table: (quantity, dataset, resolution) in results/paper.csv
    "FFHQ-256 FID": ("fid", "FFHQ", 256),
    "FFHQ-512 FID": ("fid", "FFHQ", 512),
    "FFHQ-1024 FID": ("fid", "FFHQ", 1024),
    "Church-256 FID": ("fid", "LSUN Church", 256),
    "parameters, 256 (M)": ("parameters", "FFHQ", 256),
    "parameters, 1024 (M)": ("parameters", "FFHQ", 1024),
    "imgs/s, 256": ("throughput", "FFHQ", 256),
}
PAPER = ("system", "quantity", "dataset", "resolution", "value", "uncertainty", "source")  # its columns
MEMORIZED = (
    "Memorized: share of samples nearer to a training image than all but 5 % of held-out images are; "
    "poor samples are never that near."
)
LEGEND = "±: standard error. In brackets: real-vs-real baseline – noise."
Group = tuple[str, int]  # name of the dataset, resolution
Row = dict[str, Any]


def published() -> pd.DataFrame:
    """The published numbers, `results/paper.csv`, tidy: one row a number."""
    return read_csv(
        workspace("results", "paper.csv"),
        PAPER,
        keep_default_na=False,
        na_values={"uncertainty": [""]},
        dtype={"value": float},
    )


def group_records(records: Iterable[RunRecord]) -> dict[Group, list[RunRecord]]:
    """Records by dataset and resolution, in that order.

    Raises:
        UserError: two records of a group were scored by different protocols, or on different images.
    """
    groups: dict[Group, list[RunRecord]] = {}
    for record in records:
        groups.setdefault((record.dataset.name, record.dataset.resolution), []).append(record)
    for group in groups.values():
        scored = [record for record in group if record.score]
        for other in scored[1:]:
            check_same_protocol(scored[0], other)
    return dict(sorted(groups.items()))


def shown_keys(records: Iterable[RunRecord]) -> list[ScoreKey]:
    """The scores that any of the records has, in the order of tables."""
    held = {key for record in records for key in record.values}
    return [key for key in SCORE_KEYS if key in held]


# Rows of the CSV tables: raw values


def _raw_row(record: RunRecord) -> Row:
    row: Row = {
        "run": record.run_id,
        "preset": record.preset,
        "seed": record.seed,
        "dataset": record.dataset.name,
        "resolution": record.dataset.resolution,
        "nimg": record.nimg,
        "minutes": record.minutes,
        "device": record.device,
        "threads": record.threads,
        "parameters_generator": record.parameters.generator,
        "commit": record.commit,
        "dirty": record.dirty,
    }
    for key in shown_keys([record]):
        for name, part in record.values[key].to_dict().items():
            row[key.id if name == "value" else f"{key.id}_{name}"] = part
    if record.memorization:
        for name, part in sorted(vars(record.memorization).items()):
            row[f"memorized_{name}"] = part
    return row


def _variant_row(record: RunRecord) -> Row:
    """What an ablation's run varies: `{"variant": …, "preset": …, "partitions 8": …}`."""
    row: Row = {"variant": record.variant, "preset": record.preset}
    partitions = record.config.get("partitions", "")
    if "@" in partitions:  # not the name of a rule
        levels = partitions.split("/")
        for side, text in zip(resolutions(len(levels) + 1)[1:], levels, strict=True):
            row[f"partitions {side}"] = text
    return row


def _frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=None if rows else ["run"])  # no run yet: still a CSV with a header


# Cells of the Markdown tables: rounded


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None or pd.isna(value) else f"{float(f'{value:.{digits}g}'):,.15g}"


def _score_cell(value: ScoreValue | None) -> str:
    """Such as "321.1 ± 7.5 (74.14 – 993)", as far as it is known."""
    if value is None:
        return "–"
    text = f"{_number(value.value)} ± {_number(value.error, 2)}"
    if value.real_vs_real is not None:
        text += f" ({_number(value.real_vs_real)} – {_number(value.noise)})"
    return text


def _score_cells(group: Sequence[RunRecord]) -> list[Row]:
    """The scores of each record, in columns for all that any of them has."""
    rows = []
    for record in group:
        rows.append(
            {f"{key.title} {key.arrow}": _score_cell(record.values.get(key)) for key in shown_keys(group)}
        )
    return rows


def _table(rows: Sequence[Row]) -> str:
    """A Markdown table of rows that have the same keys."""
    return markdown.table(list(rows[0]), [list(row.values()) for row in rows]) + "\n"


def _heading(title: str, key: Group, group: Sequence[RunRecord]) -> str:
    """The heading of a group and, once, what its metrics are and how they were measured."""
    heading = f"### {title}: {key[0]}, {key[1]} × {key[1]}\n\n"
    notes: dict[str, None] = {}  # in order, without repetition
    for record in group:
        metrics = record.score.protocol["metrics"] if record.score else {}
        for own in metrics.values():
            counts = f"real and generated images: {_counts(own)}"
            notes[f"{own['note']}. {own['network']}; {counts}; {own['generated']}."] = None
    return f"{heading}{' '.join(notes)} {LEGEND}\n\n" if notes else heading


def _counts(protocol: dict[str, Any]) -> str:
    counts = []
    for split, entry in sorted(protocol["references"].items(), reverse=True):
        counts.append(f"{split} {entry['n_real'] or 'as published'} and {entry['n_fake']}")
    return ", ".join(counts)


# The tables


def _runs_row(record: RunRecord, scores: Row) -> Row:
    copies = record.memorization
    smoke = " (a smoke test, no result)" if "smoke" in record.preset else ""
    return {
        "run": f"`{record.run_id}`{smoke}",
        "images shown": f"{record.nimg:,}",
        "minutes": _number(record.minutes, 3),
        "device": f"{record.device}, {record.threads} thread{'s' * (record.threads != 1)}",
        "parameters G": f"{record.parameters.generator:,}",
        **scores,
        "memorized": f"{copies.share:.1%}" if copies else "–",
        "without copies": f"{copies.expected:.1%} ± {copies.error:.1%}" if copies else "–",
    }


def _runs_table(records: Sequence[RunRecord]) -> tuple[pd.DataFrame, str]:
    sections = [] if records else ["### Runs\n\nNone recorded yet.\n"]
    for key, group in group_records(records).items():
        rows = []
        for record, scores in zip(group, _score_cells(group), strict=True):
            rows.append(_runs_row(record, scores))
        sections.append(f"{_heading('Runs', key, group)}{MEMORIZED}\n\n{_table(rows)}")
    return _frame([_raw_row(record) for record in records]), "\n".join(sections)


def _ablation_table(records: Sequence[RunRecord]) -> tuple[pd.DataFrame, str]:
    sections = [] if records else ["### Ablation\n\nNone recorded yet.\n"]
    for key, group in group_records(records).items():
        empty: Row = {}
        for record in group:
            empty |= dict.fromkeys(_variant_row(record), "–")
        rows = []
        for record, scores in zip(group, _score_cells(group), strict=True):
            variant = empty | _variant_row(record)
            rows.append({**variant, "seed": record.seed, "images shown": f"{record.nimg:,}", **scores})
        lengths = ", ".join(f"{nimg:,}" for nimg in sorted({record.nimg for record in group}))
        note = f"Short runs of {lengths} images: compare these rows with each other only.\n\n"
        sections.append(f"{_heading('Ablation', key, group)}{note}{_table(rows)}")
    return _frame([_variant_row(record) | _raw_row(record) for record in records]), "\n".join(sections)


def _published_table() -> tuple[pd.DataFrame, str]:
    # As text, to keep the digits as published.
    published()  # raises where a value is no number
    paper = read_csv(workspace("results", "paper.csv"), PAPER, dtype=str, keep_default_na=False)
    paper = paper[paper["quantity"].isin([quantity for quantity, _, _ in PUBLISHED.values()])]
    place = paper.set_index(["system", "quantity", "dataset", "resolution"])
    raw_rows = []
    rows = []
    sources = []
    for system, own in paper.groupby("system", sort=False):
        raw: Row = {"system": system}
        row: Row = {"system": system}
        for column, (quantity, dataset, resolution) in PUBLISHED.items():
            key = (system, quantity, dataset, str(resolution))
            value, uncertainty = place.loc[key, ["value", "uncertainty"]] if key in place.index else ("", "")
            raw[column] = float(value) if value else None
            row[column] = f"{value} ± {uncertainty}" if uncertainty else value or "–"
        raw_rows.append(raw)
        rows.append(row)
        sources.append(f"- {system}: {'; '.join(dict.fromkeys(own['source']))}\n")
    note = "Nothing here was measured by this project. ±: read off a figure. Sources:\n\n"
    return _frame(raw_rows), f"### Published numbers\n\n{_table(rows)}\n{note}{''.join(sources)}"


def side_by_side() -> pd.DataFrame:
    """Published FIDs beside our runs' scores, in columns apart: a row a system or run."""
    paper = _published_table()[0].set_index("system").filter(like="FID")
    paper.columns = pd.MultiIndex.from_product([["published"], paper.columns])
    measured = {}
    runs = [record for record in load_records() if not record.variant]
    for (name, side), group in group_records(runs).items():
        above = f"measured here: {name}, {side} × {side}"
        for record, cells in zip(group, _score_cells(group), strict=True):
            measured[record.run_id] = {(above, title): text for title, text in cells.items()}
    ours = pd.DataFrame.from_dict(measured, orient="index")
    table = pd.concat([paper, ours]).astype(object)
    return table.where(table.notna(), "–")


def build_tables() -> dict[str, str]:
    """Write results/tables/{published,runs,ablation}.{csv,md} from the records and paper.csv.

    CSV holds raw values, Markdown rounded ones.

    Returns:
        The Markdown of "published", "runs" and "ablation".

    Raises:
        UserError: a broken record, or scores of different protocols for the same images; names both runs.
    """
    records = load_records()
    tables = {
        "published": _published_table(),
        "runs": _runs_table([record for record in records if not record.variant]),
        "ablation": _ablation_table([record for record in records if record.variant]),
    }
    texts = {}
    for name, (frame, text) in tables.items():
        path = workspace("results", "tables", f"{name}.csv")
        write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))
        write_atomically(path.with_suffix(".md"), text)
        texts[name] = text
    return texts


def update_readme(path: Path | None = None) -> None:
    """Build the tables and put them between the two results markers of README.md (or of `path`).

    Raises:
        UserError: as of `build_tables`; the markers are missing, doubled or in the wrong order.
    """
    readme = path or workspace("README.md")
    text = readme.read_text(encoding="utf-8")
    try:
        markdown.replace_block(text, "results", "")  # a page without markers shows before anything is written
    except UserError as error:
        raise UserError(f"{readme.name}: {error}") from None
    tables = build_tables()
    body = "\n".join(tables[name] for name in ("runs", "ablation", "published"))
    write_atomically(readme, markdown.replace_block(text, "results", body))
