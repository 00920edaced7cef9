"""The tables: built from the runs' records and the published numbers alone, the same bytes every time."""

import re
from pathlib import Path

import pandas as pd

from stylenat.errors import UserError
from stylenat.evaluation import METRICS
from stylenat.paths import workspace, write_atomically
from stylenat.records import load_runs

TITLES = {
    f"{metric.key}_{split}": f"{metric.title}, {told}"
    for metric in METRICS.values()
    for split, told in (("train", "train"), ("heldout", "held-out"))
}
# What may differ within a column: where a score was computed, and which others were computed with it.
INCIDENTAL = ("device", "versions", "metrics")
PUBLISHED = {  # column of the table: (quantity, dataset, resolution) in results/paper.csv
    "FFHQ-256 FID": ("fid", "FFHQ", 256),
    "FFHQ-512 FID": ("fid", "FFHQ", 512),
    "FFHQ-1024 FID": ("fid", "FFHQ", 1024),
    "Church-256 FID": ("fid", "LSUN Church", 256),
    "parameters, 256 (M)": ("parameters", "FFHQ", 256),
    "parameters, 1024 (M)": ("parameters", "FFHQ", 1024),
    "imgs/s, 256": ("throughput", "FFHQ", 256),
}
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def published():
    """The published numbers, `results/paper.csv`, as a tidy DataFrame: one row a number."""
    return pd.read_csv(
        workspace("results", "paper.csv"), keep_default_na=False, na_values={"uncertainty": [""]}
    )


def variant(record):
    """What an ablation run varies, in a word or two."""
    return record["ablation"].get("variant") or re.sub(r"^ablation-|-seed-?\d+$", "", record["run_id"])


def _groups(records):
    """Records by (dataset, resolution).

    Raises:
        UserError: two records of a group were scored by different protocols, or on different pictures.
    """
    groups = {}
    for record in records:
        groups.setdefault((record["dataset"]["name"], record["dataset"]["resolution"]), []).append(record)
    for group in groups.values():
        scored = [record for record in group if record["score"]]
        for other in scored[1:]:
            _check_same_protocol(scored[0], other)
    return dict(sorted(groups.items()))


def _flat(entry, prefix=""):
    if not isinstance(entry, dict):
        return {prefix[:-1]: entry}
    return {k: v for key, value in entry.items() for k, v in _flat(value, f"{prefix}{key}.").items()}


def _check_same_protocol(one, other):
    a, b = (
        _flat({k: v for k, v in record["score"]["protocol"].items() if k not in INCIDENTAL})
        | {"manifest": record["dataset"].get("manifest")}
        for record in (one, other)
    )
    for field in sorted(a.keys() | b.keys()):
        if a.get(field) != b.get(field):
            raise UserError(
                f"runs {one['run_id']} and {other['run_id']} cannot share a column: {field} is "
                f"{a.get(field)!r} and {b.get(field)!r}; score both by one protocol, or remove one"
            )


def _scores(record):
    """`{metric, metric_floor, metric_ceiling: number}` of one record, raw."""
    values = record["score"]["values"] if record["score"] else {}
    return {
        key if part == "value" else f"{key}_{part}": values[key].get(part)
        for key in (*TITLES, *sorted(values.keys() - TITLES.keys()))
        if key in values
        for part in ("value", "floor", "ceiling")
    }


def _ablation_columns(record):
    """`{"variant": …, "partitions 8": …}`: nested entries get a column each."""
    columns = {"variant": variant(record)}
    for key, entry in sorted(record["ablation"].items()):
        levels = sorted(entry, key=lambda k: (len(k), k)) if isinstance(entry, dict) else ()  # 8 before 16
        columns |= {f"{key} {level}": entry[level] for level in levels} or {key: entry}
    return columns


def _row(record):
    """One run as a flat dict, raw values: a row of the CSV tables."""
    dataset = record["dataset"]
    identity = {"run": record["run_id"], "preset": record["preset"], "seed": record["seed"]}
    return identity | {
        "dataset": dataset["name"],
        "resolution": dataset["resolution"],
        "nimg": record["nimg"],
        "minutes": record["minutes"],
        "device": record["device"],
        "threads": record["threads"],
        "parameters_generator": record["parameters"]["generator"],
        "commit": record.get("commit"),
        "dirty": record.get("dirty"),
        **_scores(record),
    }


def _frame(rows):
    return pd.DataFrame(rows, columns=None if rows else ["run"])  # no run yet: still a CSV with a header


def _number(value, digits=4):
    return "–" if value is None or pd.isna(value) else f"{float(f'{value:.{digits}g}'):,.15g}"


def _markdown(rows):
    """A list of dicts with the same keys → a Markdown table; the first column is text, left-aligned."""
    head = list(rows[0])
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *[[str(row[key]) for key in head] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _score_cells(group):
    """Per record the Markdown cells "value (floor – ceiling)", for the metrics anyone in the group has."""
    rows = [_scores(record) for record in group]
    keys = list(dict.fromkeys(k for row in rows for k in row if not k.endswith(("_floor", "_ceiling"))))

    def cell(row, key):
        value, floor, ceiling = (_number(row.get(k)) for k in (key, f"{key}_floor", f"{key}_ceiling"))
        return f"{value} ({floor} – {ceiling})" if key in row else value

    return [{f"{TITLES.get(key, key)} ↓": cell(row, key) for key in keys} for row in rows]


def _heading(title, key, group):
    text = f"### {title}: {key[0]}, {key[1]} × {key[1]}\n\n"
    protocol = next((record["score"]["protocol"] for record in group if record["score"]), None)
    if protocol is None:
        return text
    counts = ", ".join(
        f"{split} {entry['n_real']}" for split, entry in sorted(protocol["references"].items(), reverse=True)
    )
    return (
        f"{text}{protocol['note']}. {protocol['network']}; pictures a side: {counts}; "
        f"{protocol['generated']}. In brackets: floor (real against real) – ceiling (noise).\n\n"
    )


def _runs_tables(records):
    text = "" if records else "### Runs\n\nNone recorded yet.\n"
    for key, group in _groups(records).items():
        rows = [
            {
                "run": f"`{record['run_id']}`"
                + (" (a smoke test, no result)" if "smoke" in record["preset"] else ""),
                "images shown": f"{record['nimg']:,}",
                "minutes": _number(record["minutes"], 3),
                "device": f"{record['device']}, {record['threads']} thread{'s' * (record['threads'] != 1)}",
                "parameters G": f"{record['parameters']['generator']:,}",
                **cells,
            }
            for record, cells in zip(group, _score_cells(group), strict=True)
        ]
        text += ("\n" if text else "") + _heading("Runs", key, group) + _markdown(rows)
    return _frame([_row(record) for record in records]), text


def _ablation_tables(records):
    text = "" if records else "### Ablation\n\nNone recorded yet.\n"
    for key, group in _groups(records).items():
        columns = list(dict.fromkeys(name for record in group for name in _ablation_columns(record)))
        rows = [
            {
                **{name: _ablation_columns(record).get(name, "–") for name in columns},
                "seed": record["seed"],
                "images shown": f"{record['nimg']:,}",
                **cells,
            }
            for record, cells in zip(group, _score_cells(group), strict=True)
        ]
        lengths = sorted({record["nimg"] for record in group})
        shown = ", ".join(f"{n:,}" for n in lengths)
        note = f"Short runs of {shown} images: compare these rows with each other only.\n\n"
        text += ("\n" if text else "") + _heading("Ablation", key, group) + note + _markdown(rows)
    return _frame([_ablation_columns(record) | _row(record) for record in records]), text


def _published_tables():
    paper = pd.read_csv(
        workspace("results", "paper.csv"), dtype=str, keep_default_na=False
    )  # digits as published
    paper = paper[paper["quantity"].isin([quantity for quantity, _, _ in PUBLISHED.values()])]
    place = paper.set_index(["system", "quantity", "dataset", "resolution"])
    rows, cells, sources = [], [], ""
    for system, own in paper.groupby("system", sort=False):
        raw, shown = {"system": system}, {"system": system}
        for column, (quantity, dataset, resolution) in PUBLISHED.items():
            key = (system, quantity, dataset, str(resolution))
            value, spread = place.loc[key, ["value", "uncertainty"]] if key in place.index else ("", "")
            raw[column] = float(value) if value else None
            shown[column] = f"{value} ± {spread}" if spread else value or "–"
        rows.append(raw)
        cells.append(shown)
        sources += f"- {system}: {'; '.join(dict.fromkeys(own['source']))}\n"
    note = "Nothing here was measured by this project. ±: read off a figure. Sources:\n\n"
    return _frame(rows), f"### Published numbers\n\n{_markdown(cells)}\n{note}{sources}"


def build_tables():
    """Write results/tables/{published,runs,ablation}.{csv,md} from the records and paper.csv.

    Returns:
        `{"published": text, "runs": text, "ablation": text}`. CSV holds raw values, Markdown rounded ones.
    Raises:
        UserError: a broken record, or scores of different protocols for the same pictures; names both runs.
    """
    records = load_runs()
    tables = {
        "published": _published_tables(),
        "runs": _runs_tables([record for record in records if "ablation" not in record]),
        "ablation": _ablation_tables([record for record in records if "ablation" in record]),
    }
    for name, (frame, text) in tables.items():
        write_atomically(
            workspace("results", "tables", f"{name}.csv"), frame.to_csv(index=False, lineterminator="\n")
        )
        write_atomically(workspace("results", "tables", f"{name}.md"), text)
    return {name: text for name, (_, text) in tables.items()}


def update_readme(path=None):
    """Build the tables and put them between the two results markers of README.md (or of `path`).

    Raises:
        UserError: the markers are missing, doubled or in the wrong order.
    """
    tables = build_tables()
    path = Path(path or workspace("README.md"))
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(
            f"{path.name} must hold one {BEGIN} and after it one {END}: put each on a line of its own"
        )
    body = "\n".join(tables[name] for name in ("runs", "ablation", "published"))
    write_atomically(path, f"{text[: text.index(BEGIN)]}{BEGIN}\n\n{body}\n{text[text.index(END) :]}")
