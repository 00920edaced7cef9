"""What a run leaves behind: its provenance, and one JSON record with everything the tables need."""

import json
import math
import re

from stylenat.errors import UserError
from stylenat.paths import workspace, write_atomically

# What a table cannot be built without.
REQUIRED = (
    "run_id",
    "preset",
    "seed",
    "nimg",
    "minutes",
    "device",
    "threads",
    "dataset",
    "score",
    "parameters",
)


def _plain(value):
    """JSON's own types; floats to 10 significant digits, so that the last bit's noise changes no byte."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    return float(f"{value:.10g}") if isinstance(value, float) and math.isfinite(value) else value


def record_run(run_id, record):
    """Write `results/runs/<run_id>/result.json` atomically and return its path; `record` is a dict.

    Raises:
        UserError: a run id unfit for a folder's name, a required entry missing, a value JSON cannot hold.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", run_id):
        raise UserError(f"run id {run_id!r}: use lower-case letters, digits, '.', '_' and '-' only")
    record = _plain({**record, "run_id": run_id})
    _check_record(record, f"record of run {run_id}", run_id)
    try:
        text = json.dumps(record, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"record of run {run_id}: {error}; give finite numbers, text, lists and dicts"
        ) from None
    path = workspace("results", "runs", run_id, "result.json")
    write_atomically(path, text + "\n")
    return path


def _check_record(record, where, run_id):
    if not isinstance(record, dict) or (missing := [key for key in REQUIRED if key not in record]):
        lacks = ", ".join(missing) if isinstance(record, dict) else "everything: it is no JSON object"
        raise UserError(f"{where} lacks {lacks}; write it with stylenat.records.record_run")
    if record["run_id"] != run_id:
        raise UserError(f"{where} says run_id {record['run_id']!r}: rename the folder or mend the record")


def load_runs():
    """Every record under results/runs, a list sorted by run id.

    Raises:
        UserError: a file that is broken or incomplete; names it.
    """
    records = []
    for path in sorted(workspace("results", "runs").glob("*/result.json"), key=lambda path: path.parent.name):
        where = path.relative_to(workspace()).as_posix()
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{where} is no valid JSON ({error}): restore it from git or run again") from None
        _check_record(record, where, path.parent.name)
        records.append(record)
    return records
