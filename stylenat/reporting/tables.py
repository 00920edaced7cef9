"""The tables: built from the runs' records and the published numbers alone, the same bytes every time."""

import re
from pathlib import Path

import pandas as pd

from stylenat.errors import UserError
from stylenat.evaluation.metrics import TITLES
from stylenat.paths import workspace, write_atomically
from stylenat.reporting.protocol import check_same_protocol
from stylenat.reporting.records import load_runs

PUBLISHED = {  # column of the table: (quantity, dataset, resolution) in results/paper.csv
    "FFHQ-256 FID": ("fid", "FFHQ", 256),
    "FFHQ-512 FID": ("fid", "FFHQ", 512),
    "FFHQ-1024 FID": ("fid", "FFHQ", 1024),
    "Church-256 FID": ("fid", "LSUN Church", 256),
    "parameters, 256 (M)": ("parameters", "FFHQ", 256),
    "parameters, 1024 (M)": ("parameters", "FFHQ", 1024),
    "imgs/s, 256": ("throughput", "FFHQ", 256),
}
PARTS = ("error", "low", "high", "floor", "ceiling")  # what a value may come with
MEMORIZED = (
    "Memorized: share of samples nearer to a training image than all but 5 % of held-out images are; "
    "poor samples are never that near."
)
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def published():
    """The published numbers, `results/paper.csv`, as a tidy DataFrame: one row a number."""
    return pd.read_csv(
        workspace("results", "paper.csv"), keep_default_na=False, na_values={"uncertainty": [""]}
    )


def variant(record):
    """What an ablation run varies, in a word or two."""
    return record["ablation"].get("variant") or re.sub(r"^ablation-|-seed-?\d+$", "", record["run_id"])


def memorized(share, expected, error):
    """What these numbers of a `Memorization` mean, in plain words."""
    verdict = (
        "More than chance gives: look for copies among the nearest neighbors."
        if share > expected + 2 * error
        else "No sign of copies; but poor samples are far from every image, whatever they learned from."
    )
    return (
        f"{share:.1%} of samples are nearer to a training image than all but 5 % of held-out "
        f"images are; without copies {expected:.1%} ± {error:.1%} would be. {verdict}"
    )


def _groups(records):
    """Records by (dataset, resolution).

    Raises:
        UserError: two records of a group were scored by different protocols, or on different images.
    """
    groups = {}
    for record in records:
        groups.setdefault((record["dataset"]["name"], record["dataset"]["resolution"]), []).append(record)
    for group in groups.values():
        scored = [record for record in group if record["score"]]
        for other in scored[1:]:
            check_same_protocol(scored[0], other)
    return dict(sorted(groups.items()))


def _scores(record):
    """`{key: number, key_error: number, …}` of one record, raw."""
    values = record["score"]["values"] if record["score"] else {}
    return {
        key if part == "value" else f"{key}_{part}": values[key][part]
        for key in (*TITLES, *sorted(values.keys() - TITLES.keys()))
        if key in values
        for part in ("value", *PARTS)
        if part in values[key]
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
        **{f"memorized_{part}": value for part, value in record.get("memorization", {}).items()},
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
    """Per record the Markdown cells "value ± error (floor – ceiling)", for the metrics anyone there has."""
    scored = [record["score"]["values"] if record["score"] else {} for record in group]
    keys = [*TITLES, *sorted({key for values in scored for key in values} - TITLES.keys())]
    keys = [key for key in keys if any(key in values for values in scored)]

    def cell(row):
        text = _number(row.get("value"))
        if "error" in row:
            text += f" ± {_number(row['error'], 2)}"
        if "floor" in row:
            text += f" ({_number(row['floor'])} – {_number(row['ceiling'])})"
        return text

    titles = {key: " ".join(TITLES.get(key, (key,))) for key in keys}
    return [{titles[key]: cell(values.get(key, {})) for key in keys} for values in scored]


def _percent(record, part):
    return f"{record['memorization'][part]:.1%}" if "memorization" in record else "–"


def _heading(title, key, group):
    text = f"### {title}: {key[0]}, {key[1]} × {key[1]}\n\n"
    protocols = [record["score"]["protocol"] for record in group if record["score"]]
    told = dict.fromkeys(
        f"{own['note']}. {own['network']}; real and generated images: {_counts(own)}; {own['generated']}."
        for each in protocols
        for own in each["metrics"].values()
    )
    if not told:
        return text
    legend = "±: standard error. In brackets: floor (real against real) – ceiling (noise)."
    return f"{text}{' '.join(told)} {legend}\n\n"


def _counts(protocol):
    return ", ".join(
        f"{split} {entry['n_real'] or 'as published'} and {entry['n_fake']}"
        for split, entry in sorted(protocol["references"].items(), reverse=True)
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
                "memorized": _percent(record, "share"),
                "without copies": f"{_percent(record, 'expected')} ± {_percent(record, 'error')}",
            }
            for record, cells in zip(group, _score_cells(group), strict=True)
        ]
        text += ("\n" if text else "") + _heading("Runs", key, group) + f"{MEMORIZED}\n\n" + _markdown(rows)
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


def side_by_side():
    """Published FIDs beside our runs' scores, in columns apart: a DataFrame, a row a system or run."""
    paper = _published_tables()[0].set_index("system").filter(like="FID")
    paper.columns = pd.MultiIndex.from_product([["published"], paper.columns])
    measured = {}
    for (name, side), group in _groups([r for r in load_runs() if "ablation" not in r]).items():
        for record, cells in zip(group, _score_cells(group), strict=True):
            measured[record["run_id"]] = {
                (f"measured here: {name}, {side} × {side}", title): text for title, text in cells.items()
            }
    ours = pd.DataFrame.from_dict(measured, orient="index")
    table = pd.concat([paper, ours]).astype(object)
    return table.where(table.notna(), "–")


def build_tables():
    """Write results/tables/{published,runs,ablation}.{csv,md} from the records and paper.csv.

    Returns:
        `{"published": text, "runs": text, "ablation": text}`. CSV holds raw values, Markdown rounded ones.
    Raises:
        UserError: a broken record, or scores of different protocols for the same images; names both runs.
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
