"""The tables: built from the runs' records and the published numbers alone, the same bytes every time."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stylenat.attention.partitions import resolutions
from stylenat.evaluation.metrics import SCORE_KEYS, ScoreKey, ScoreValue
from stylenat.paths import check_writable, workspace, write_atomically
from stylenat.reporting import markdown, study
from stylenat.reporting.caveats import EVALUATION, evaluation_table, notes_list
from stylenat.reporting.claims import (
    AGREES,
    check_claims,
    claims_frame,
    claims_table,
    parameters_table,
    sources_list,
)
from stylenat.reporting.generators import CHART, comparison_frame, comparison_text
from stylenat.reporting.paper import Key, published_numbers
from stylenat.reporting.protocol import check_same_data, check_same_protocol
from stylenat.reporting.rates import read_comparisons
from stylenat.reporting.records import RunRecord, load_records

PUBLISHED = {  # column of the table: quantity, dataset and resolution in results/paper.csv
    "FFHQ-256 FID": ("fid", "FFHQ", "256"),
    "FFHQ-512 FID": ("fid", "FFHQ", "512"),
    "FFHQ-1024 FID": ("fid", "FFHQ", "1024"),
    "Church-256 FID": ("fid", "LSUN Church", "256"),
    "parameters, 256 (M)": ("parameters", "FFHQ", "256"),
    "parameters, 1024 (M)": ("parameters", "FFHQ", "1024"),
    "imgs/s, 256": ("throughput", "FFHQ", "256"),
}
MEMORIZED = (
    "Memorized: share of samples nearer to a training image than all but 5 % of held-out images are; "
    "poor samples are never that near."
)
LEGEND = "±: standard error. In brackets: real-vs-real baseline – noise."
Group = tuple[str, int]  # name of the dataset, resolution
Row = dict[str, Any]


def group_records(records: Iterable[RunRecord]) -> dict[Group, list[RunRecord]]:
    """Records by dataset and resolution, in that order.

    Raises:
        UserError: two records of a group were scored by different protocols, or on different images.
    """
    groups: dict[Group, list[RunRecord]] = {}
    for record in records:
        groups.setdefault((record.dataset.name, record.dataset.resolution), []).append(record)
    for group in groups.values():
        _check_group(group)
    return dict(sorted(groups.items()))


def _check_group(group: Sequence[RunRecord]) -> None:
    """Check that records may share a table: each with the first of those that have the same metric."""
    known = [record for record in group if record.dataset.manifest]
    for other in known[1:]:
        check_same_data(known[0], other)
    first: dict[str, RunRecord] = {}
    for record in group:
        for metric in record.score.protocol["metrics"] if record.score else ():
            check_same_protocol(first.setdefault(metric, record), record)


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
    for key, whole in group_records(records).items():
        for nimg in sorted(
            {record.nimg for record in whole}
        ):  # a section for each length, and so for each grid
            group = [record for record in whole if record.nimg == nimg]
            note = f"Short runs of {nimg:,} images: compare these rows with each other only.\n\n"
            sections.append(f"{_heading('Ablation', key, group)}{note}{_table(_ablation_rows(group))}")
    return _frame([_variant_row(record) | _raw_row(record) for record in records]), "\n".join(sections)


def _ablation_rows(group: Sequence[RunRecord]) -> list[Row]:
    empty: Row = {}
    for record in group:
        empty |= dict.fromkeys(_variant_row(record), "–")
    rows = []
    for record, scores in zip(group, _score_cells(group), strict=True):
        variant = empty | _variant_row(record)
        rows.append({**variant, "seed": record.seed, "images shown": f"{record.nimg:,}", **scores})
    return rows


def _published_table() -> tuple[pd.DataFrame, str]:
    numbers = published_numbers()
    shown = {quantity for quantity, _, _ in PUBLISHED.values()}
    raw_rows = []
    rows = []
    sources = []
    for system in dict.fromkeys(key.system for key in numbers if key.quantity in shown):
        raw: Row = {"system": system}
        row: Row = {"system": system}
        own = []
        for column, place in PUBLISHED.items():
            number = numbers.get(Key(system, *place))
            raw[column] = float(number.value) if number else None
            row[column] = str(number) if number else "–"
            own += [number.source] if number else []
        raw_rows.append(raw)
        rows.append(row)
        sources.append(f"- {system}: {'; '.join(dict.fromkeys(own))}\n")
    note = "Nothing here was measured by this project. ±: read off a figure. Sources:\n\n"
    return _frame(raw_rows), f"### Published numbers\n\n{_table(rows)}\n{note}{''.join(sources)}"


def _claims_tables() -> tuple[pd.DataFrame, str, str]:
    """The claims: raw values, the whole page in Markdown, and its part for README."""
    numbers = published_numbers()
    checked = check_claims(numbers)
    table = claims_table(checked)
    groups = study.published_groups(numbers)
    differences = study.differences(groups)
    conclusion = study.conclusion(differences)
    people = f"{study.study_table(groups, differences)}\n{conclusion}\n\n{study.METHOD}\n"
    sections = {
        "The abstracts' claims": f"{table}\n{AGREES}\n",
        "What to know beside them": notes_list(numbers),
        "Parameters": parameters_table(numbers),
        "Human study, FFHQ-256": people,
        "An independent evaluation, FFHQ-256": f"{evaluation_table(numbers)}\n{EVALUATION}\n",
        "Sources, from results/paper.csv": sources_list(numbers),
    }
    page = "\n".join(f"### {title}\n\n{body}" for title, body in sections.items())
    return claims_frame(checked), page, f"{table}\n{conclusion}\n"


def _generators_table() -> tuple[pd.DataFrame, str]:
    """The generators timed side by side; measured and published in columns apart."""
    comparisons = read_comparisons()
    numbers = published_numbers()
    return comparison_frame(comparisons, numbers), comparison_text(comparisons, numbers)


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
    """Write results/tables/{published,runs,ablation,claims,generators}.{csv,md} from records and paper.csv.

    CSV holds raw values, Markdown rounded ones.

    Returns:
        The Markdown of "published", "runs", "ablation", "claims" and "generators", and README's part of the
        claims, "readme-claims".

    Raises:
        UserError: a broken record, scores of different protocols for the same images (names both runs), or a
            paper.csv that lacks a number.
    """
    tables = _tables()
    _write(tables)
    return {name: text for name, (_, text) in tables.items()}


def _tables() -> dict[str, tuple[pd.DataFrame | None, str]]:
    """Every table by name, as a frame, where it has a file, and as Markdown."""
    records = load_records()
    claims, claims_text, claims_summary = _claims_tables()
    return {
        "published": _published_table(),
        "runs": _runs_table([record for record in records if not record.variant]),
        "ablation": _ablation_table([record for record in records if record.variant]),
        "claims": (claims, claims_text),
        "generators": _generators_table(),
        "readme-claims": (None, claims_summary),
    }


def _write(tables: Mapping[str, tuple[pd.DataFrame | None, str]]) -> None:
    for name, (frame, text) in tables.items():
        if frame is None:  # a part of another one
            continue
        path = workspace("results", "tables", f"{name}.csv")
        write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))
        write_atomically(path.with_suffix(".md"), text)


def update_readme(path: Path | None = None) -> None:
    """Build the tables and put them between the markers of README.md (or of `path`).

    Raises:
        UserError: as of `build_tables`; markers are missing, doubled or in the wrong order. Nothing is
            written then.
    """
    readme = path or workspace("README.md")
    markdown.check_blocks(readme, ("results", "claims", "generators"))  # before anything is written
    check_writable(readme)
    tables = _tables()
    bodies = {
        "results": "\n".join(tables[name][1] for name in ("runs", "published")),
        "claims": tables["readme-claims"][1],
        "generators": tables["generators"][1] + (f"\n{CHART}\n" if read_comparisons() else ""),
    }
    _write(tables)
    markdown.fill_blocks(readme, bodies)
