"""What this machine has: Python, PyTorch, GPUs, optional backends of attention, weights, room."""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from stylenat.attention import fused, natten
from stylenat.doctor.verdict import MISSING, OK, WRONG, Verdict
from stylenat.errors import UserError
from stylenat.features.networks import NETWORKS, FeatureNetwork
from stylenat.features.weights import read_weights, weight_places
from stylenat.paths import check_writable, find_path, free_space, workspace
from stylenat.provenance import describe_device

LEAST_PYTHON = (3, 11)
LEAST_DISK = 2**30  # bytes: a run of noto-32 with its snapshots takes a third of it
LEAST_MEMORY = 2**30  # bytes: that training noto-32 takes
PUBLISHED = ("FFHQ256_940k_flip.pt", "FFHQ1024_700k.pt")  # the authors' checkpoints
# Of /proc/cpuinfo: what decides how fast float32 and bfloat16 are.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
_GIB = 2**30


def describe_machine() -> Iterator[Verdict]:
    """What there is, one verdict a thing; nothing of it takes longer than reading a file."""
    yield _python()
    yield _torch()
    yield _cpu()
    yield from _gpus()
    yield _natten()
    yield _numba()
    yield _memory()
    yield from _disk()
    for network in NETWORKS.values():
        yield _weights(network)
    for name in PUBLISHED:
        yield _published(name)


def _python() -> Verdict:
    version = platform.python_version()
    text = f"{version}, {platform.system()} {platform.machine()}"
    if sys.version_info < LEAST_PYTHON:
        return Verdict("machine", "Python", WRONG, f"{text}: 3.11 or newer is needed")
    return Verdict("machine", "Python", OK, text, {"version": version})


def _torch() -> Verdict:
    cuda = torch.version.cuda
    built = f"built for CUDA {cuda}" if cuda else "built for CPUs alone"
    text = f"{torch.__version__}, {built}, {torch.get_num_threads()} threads"
    values = {"version": torch.__version__, "cuda": cuda, "threads": torch.get_num_threads()}
    return Verdict("machine", "PyTorch", OK, text, values)


def _cpu() -> Verdict:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    found = re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    known = [name for name in _INSTRUCTIONS if name in flags]
    capability = torch.backends.cpu.get_cpu_capability()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    listed = f" ({', '.join(known)})" if known else ""
    words = f"{describe_device('cpu')}, {cores} logical cores, PyTorch uses {capability}{listed}"
    return Verdict("machine", "CPU", OK, words, {"cores": cores, "capability": capability, "flags": known})


def _gpus() -> Iterator[Verdict]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        why = "PyTorch sees none, everything runs on the CPU"
        if torch.version.cuda is None:
            why += "; this PyTorch could use none: install one built for CUDA"
        yield Verdict("machine", "GPU", MISSING, why)
    for index in range(count):
        yield _gpu(index)


def _gpu(index: int) -> Verdict:
    facts = torch.cuda.get_device_properties(index)
    capability = f"{facts.major}.{facts.minor}"
    bfloat16 = torch.cuda.is_bf16_supported()
    text = f"{facts.name}, {facts.total_memory / _GIB:.0f} GiB, compute capability {capability}"
    values = {"name": facts.name, "memory_bytes": facts.total_memory, "capability": capability}
    if not bfloat16:
        return Verdict(
            "machine", f"GPU {index}", WRONG, f"{text}: no bfloat16, which training here takes", values
        )
    return Verdict("machine", f"GPU {index}", OK, f"{text}, bfloat16", values)


def _natten() -> Verdict:
    if not natten.installed():
        text = "not installed: attention is computed by the other backends; `make natten` builds it"
        return Verdict("machine", "NATTEN", MISSING, text)
    return _installed("NATTEN", "natten", "attention without bias on GPUs")


def _numba() -> Verdict:
    if not fused.installed():
        text = "not installed: on CPUs the slower `tiled` attends; pip install 'stylenat[fused]'"
        return Verdict("machine", "Numba", MISSING, text)
    return _installed("Numba", "numba", "attention's backend `fused`")


def _installed(name: str, package: str, purpose: str) -> Verdict:
    version = importlib.metadata.version(package)
    return Verdict("machine", name, OK, f"{version}, for {purpose}", {"version": version})


def _memory() -> Verdict:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    text = meminfo.read_text() if meminfo.is_file() else ""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    free = int(found[1]) * 1024 if found else total
    words = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    values = {"free_bytes": free, "total_bytes": total}
    if free < LEAST_MEMORY:
        return Verdict(
            "machine", "memory", WRONG, f"{words}: training noto-32 takes 1 GiB, end something", values
        )
    return Verdict("machine", "memory", OK, words, values)


def _disk() -> Iterator[Verdict]:
    for folder, what in (("runs", "snapshots"), ("results", "records")):
        path = workspace(folder)
        free = free_space(path)
        words = f"{free / _GIB:.1f} GiB free for {what}"
        values = {"free_bytes": free}
        try:
            check_writable(path / "file")
        except UserError as error:
            yield Verdict("machine", f"{folder}/", WRONG, str(error), values)
            continue
        if free < LEAST_DISK:
            words += ": less than 1 GiB, make room or train with --out elsewhere"
            yield Verdict("machine", f"{folder}/", WRONG, words, values)
        else:
            yield Verdict("machine", f"{folder}/", OK, words, values)


def _weights(network: FeatureNetwork) -> Verdict:
    """Whether a feature network's weights are here and have the hash that they should."""
    file = network.file
    if file is None:
        try:
            network.load()
        except UserError as error:
            return Verdict("weights", network.key, MISSING, str(error))
        return Verdict("weights", network.key, OK, f"{network.description}; its hash is right")
    places = weight_places(file)
    found = next((place for place in places if place.exists()), None)
    if found is None:
        where = " or ".join(map(str, places))
        text = f"{file.purpose} needs {file.name}: {file.source}, put it at {where}"
        return Verdict("weights", network.key, MISSING, text)
    if file.sha256 is None:
        text = f"{found}; no standard file, so `evaluate` asks for its hash (--sha256)"
        return Verdict("weights", network.key, OK, text)
    try:
        read_weights(file)
    except UserError as error:
        return Verdict("weights", network.key, WRONG, str(error))
    return Verdict("weights", network.key, OK, f"{found}; its hash is right")


def _published(name: str) -> Verdict:
    """Whether a checkpoint of the authors is where a command would find it by its bare name."""
    path = find_path(name)
    if path.exists():
        size = path.stat().st_size
        return Verdict("weights", name, OK, f"{path}, {size / 1e6:,.0f} MB", {"bytes": size})
    text = "the authors' checkpoint, from SHI-Labs/StyleNAT: every command takes its path, wherever it is"
    return Verdict("weights", name, MISSING, text)
