"""The published `.pt` files of StyleNAT and StyleSwin: read without running them, names to ours and back.

Their layouts: old, `g`, `d`, `g_ema` and `args` at the top; new, the three of them under `state_dicts`.
"""

import argparse
import itertools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stylenat.attention.partitions import Full, HeadPartition, Level, Levels, resolutions
from stylenat.attention.shifted_windows import relative_position_index, shift_mask
from stylenat.checkpoints.tensors import Tensors, unwrapped
from stylenat.errors import UserError

NETWORK_NAMES = ("g_ema", "g", "d")
# Buffers that are the same in every file.
CONSTANT = re.compile(r"(\.kernel|\.(ll|lh|hl|hh)|_float_tensor|relative_position_index|attn_mask\d*)$")
# Published name, ours. Legacy tables, then what StyleSwin has on the block itself.
RENAMED = (
    (r"(\.attn)\.rpb(\d+)$", r"\1.rpb.\2", r"(\.attn)\.rpb\.(\d+)$", r"\1.rpb\2"),
    (r"(blocks\.\d+)\.(qkv|proj)\.", r"\1.attn.\2.", r"(blocks\.\d+)\.attn\.(qkv|proj)\.", r"\1.\2."),
    (
        r"(\.attn)\.(\d+)\.relative_position_bias_table$", r"\1.tables.\2",
        r"(\.attn)\.tables\.(\d+)$", r"\1.\2.relative_position_bias_table",
    ),
)  # fmt: skip


class _Inert:
    """Stands in for a configuration class of a pickle: holds what was stored, runs nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.stored = arguments[0] if len(arguments) == 1 else arguments

    def __setstate__(self, state: Any) -> None:
        self.stored = state


class _Stored:
    """Stands in for a path or a NumPy object of a pickle: its arguments and its state, runs nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def plain(self) -> Any:
        """The plain value, or None where there is none."""
        return None


class _PosixPath(_Stored):
    def plain(self) -> str | None:
        return _join(PurePosixPath, self.arguments)


class _WindowsPath(_Stored):
    def plain(self) -> str | None:
        return _join(PureWindowsPath, self.arguments)


def _join(kind: type[PurePath], parts: Sequence[Any]) -> str | None:
    return str(kind(*parts)) if all(isinstance(part, str) for part in parts) else None


class _Dtype(_Stored):
    def parsed(self) -> np.dtype | None:
        """The type of numbers or text, with its order of bytes; None for any other."""
        code = self.arguments[0] if self.arguments else None
        if not isinstance(code, str) or not re.fullmatch(r"[biuf]\d{1,2}|U\d{1,4}", code):
            return None
        is_big = isinstance(self.state, tuple) and self.state[1:2] == (">",)
        return np.dtype(f"{'>' if is_big else '<'}{code}")


class _Scalar(_Stored):
    def plain(self) -> Any:
        if len(self.arguments) != 2:
            return None
        return _numbers(self.arguments[0], self.arguments[1], ())


class _Array(_Stored):
    def plain(self) -> Any:
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, dtype, is_fortran, data = self.state
        return _numbers(dtype, data, shape, "F" if is_fortran is True else "C")


def _numbers(dtype: Any, data: Any, shape: Any, order: Literal["C", "F"] = "C") -> Any:
    """A number, a text, or lists of them; None for anything else, and for what is too long for a setting."""
    kind = dtype.parsed() if isinstance(dtype, _Dtype) else None
    if kind is None or not isinstance(data, bytes) or len(data) > LONGEST_ARRAY:
        return None
    try:
        return np.frombuffer(data, kind).reshape(shape, order=order).tolist()
    except (TypeError, ValueError):  # bytes that are not of that type and shape
        return None


# Paths and NumPy's numbers in settings, by the names that Python's and NumPy's versions have given them.
_STORED: tuple[tuple[type[_Stored], str], ...] = (
    (_PosixPath, "pathlib.PosixPath"),
    (_PosixPath, "pathlib.PurePosixPath"),
    (_PosixPath, "pathlib._local.PosixPath"),
    (_PosixPath, "pathlib._local.PurePosixPath"),
    (_WindowsPath, "pathlib.WindowsPath"),
    (_WindowsPath, "pathlib.PureWindowsPath"),
    (_WindowsPath, "pathlib._local.WindowsPath"),
    (_WindowsPath, "pathlib._local.PureWindowsPath"),
    (_Dtype, "numpy.dtype"),
    (_Scalar, "numpy.core.multiarray.scalar"),
    (_Scalar, "numpy._core.multiarray.scalar"),
    (_Array, "numpy.ndarray"),
    (_Array, "numpy.core.multiarray._reconstruct"),
    (_Array, "numpy._core.multiarray._reconstruct"),
)
MOST_SETTINGS = 100_000  # entries of a file's settings, however they are nested
LONGEST_ARRAY = 100_000  # bytes of an array that a setting may hold

# OmegaConf's classes, and the types that they name, so that its configurations are read without it.
_OMEGACONF = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.StringNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.base.Metadata",
    "omegaconf.base.ContainerMetadata",
    "builtins.dict",
    "builtins.list",
    "builtins.str",
    "builtins.int",
    "builtins.float",
    "builtins.bool",
    "collections.defaultdict",
    "typing.Any",
)


def read_pt(path: Path) -> dict[str, Any]:
    """What a `.pt` holds: tensors, plain types and configurations as plain dicts; nothing in it is executed.

    `torch.load(weights_only=True)`, with argparse's Namespace, OmegaConf's containers, paths and NumPy's
    numbers and arrays allowed by name, all but the first as inert data.

    Raises:
        UserError: the file needs any other class, which is named, or is damaged, or is no dict.
    """
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_stored(path)
    allowed: list[Any] = [argparse.Namespace, *_STORED]
    for name in _OMEGACONF:
        allowed.append((_Inert, name))
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what torch asks itself about unusual files
            # Mapped, so that optimizer states, two thirds of a file, are never read.
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:
        if isinstance(error, OSError) and error.filename:  # else it is of an offset that a cut file has not
            raise
        if needed := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} asks for {needed[1]}, which no checkpoint needs: nothing was run; do not trust it"
            ) from None
        # What torch says before that is advice to run the file.
        text = str(error).rpartition("WeightsUnpickler error: ")[2]
        reason = text.partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{path} can't be read as a checkpoint ({reason}): nothing was run; get it again"
        ) from None
    if not isinstance(contents, dict):
        raise UserError(f"{path} holds {type(contents).__name__}, expected a dict with g_ema, g or d")
    try:
        args = _plain(contents.get("args"), itertools.count())
    except (RecursionError, _TooMany):
        raise UserError(
            f"{path} holds settings that are nested too deeply or over {MOST_SETTINGS:,}: nothing was run; "
            "do not trust it"
        ) from None
    return {**contents, "args": args} if "args" in contents else contents


def _check_stored(path: Path) -> None:
    """Refuse a zip of compressed files: torch writes none, and reads all of one, however large it becomes."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # torch says what is wrong
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{path} is a compressed zip, which torch.save never writes: get it again")


class _TooMany(Exception):
    """Settings of more entries than any configuration has, as where lists hold one another many times."""


def _plain(value: Any, seen: Iterator[int]) -> Any:
    """Namespaces, OmegaConf's containers, paths and NumPy's values as dicts, lists, text and numbers.

    Args:
        value: what a file holds.
        seen: counts the values.
    """
    if next(seen) > MOST_SETTINGS:
        raise _TooMany
    if isinstance(value, _Stored):
        return value.plain()
    if isinstance(value, argparse.Namespace):
        return _plain(vars(value), seen)
    if isinstance(value, _Inert):  # an OmegaConf container or node
        stored = value.stored
        return _plain(stored.get("_content", stored.get("_val")), seen) if isinstance(stored, dict) else None
    if isinstance(value, dict):
        return {str(key): _plain(entry, seen) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, seen) for entry in value]
    return value


def state_dicts(contents: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensors], str]:
    """The networks of a published file.

    Args:
        contents: as of `read_pt`.
        path: of the file, for errors.

    Returns:
        The state dicts of g_ema, g and d, as far as they are there, and the file's layout, "old" or "new".

    Raises:
        UserError: there is none, one that holds more than tensors or claims more than the file has, or names
            a tensor twice.
    """
    layout = "new" if "state_dicts" in contents else "old"
    held = contents["state_dicts"] if layout == "new" else contents
    found = {}
    for name in NETWORK_NAMES:
        if not isinstance(held, Mapping) or not isinstance(held.get(name), dict):
            continue
        if not all(isinstance(tensor, Tensor) for tensor in held[name].values()):
            raise UserError(f"{path}: {name} holds more than tensors; expected a state dict")
        _check_plain(held[name], f"{path}: {name}", path.stat().st_size)
        found[name] = unwrapped(held[name], f"{path}: {name}")
    if not found:
        keys = ", ".join(map(repr, list(contents)[:5])) or "nothing"
        raise UserError(f"{path} has none of {', '.join(NETWORK_NAMES)}: it holds {keys}")
    return found, layout


def _check_plain(tensors: Mapping[Any, Tensor], where: str, size: int) -> None:
    """Refuse what is no dense tensor in memory, and tensors that take more than a file of `size` bytes."""
    taken = 0
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise UserError(f"{where} holds a tensor of name {name!r}: save a network's state dict")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(f"{where} holds {name!r}, no plain tensor: save a network's state dict")
        taken += tensor.numel() * tensor.element_size()
        if taken > size:
            raise UserError(
                f"{where} claims {taken:,} bytes up to {name!r}, more than the file has: do not trust it"
            )


def from_published(tensors: Mapping[str, Tensor]) -> Tensors:
    """A published state dict under our names; constants, which this project computes, are left out."""
    to_ours = [(pattern, replacement) for pattern, replacement, _, _ in RENAMED]
    ours = {}
    for name, tensor in tensors.items():
        if not CONSTANT.search(name):
            ours[_rename(name, to_ours)] = tensor
    return ours


def to_published(tensors: Mapping[str, Tensor], *, legacy: bool = False) -> Tensors:
    """Undo `from_published`: published names, and the constants made again.

    Args:
        tensors: a state dict of ours.
        legacy: with the old layout's names, `rpb0`, `rpb1`.
    """
    to_theirs = [(pattern, replacement) for _, _, pattern, replacement in RENAMED]
    styleswin_blocks = {name.partition(".attn.")[0] for name in tensors if ".attn.tables." in name}
    published = {}
    for name, tensor in tensors.items():
        if name.partition(".attn.")[0] in styleswin_blocks:
            rules = to_theirs[1:]
        else:
            rules = to_theirs[:1] if legacy else []
        published[_rename(name, rules)] = tensor
    return published | _constants(tensors)


def _rename(name: str, rules: Sequence[tuple[str, str]]) -> str:
    renamed = name
    for pattern, replacement in rules:
        renamed = re.sub(pattern, replacement, renamed)
    return renamed


def _constants(tensors: Mapping[str, Tensor]) -> Tensors:
    """The constant buffers that a published network has besides these tensors of ours."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    fir = torch.outer(taps, taps)
    constants: Tensors = {}
    outputs = [int(name.split(".")[1]) for name in tensors if name.startswith("to_rgbs.")]
    last_output = f"to_rgbs.{max(outputs, default=0)}"
    if any(name.startswith("from_rgbs.") for name in tensors):
        constants |= _haar("dwt")
    for name in tensors:
        module, _, part = name.rpartition(".")
        if part == "alpha":
            constants[f"{module}.sin_pos_embed._float_tensor"] = torch.zeros(1)
        elif part == "rpb":
            constants[f"{module}.relative_position_index"] = relative_position_index(4).T  # key - query
        elif re.fullmatch(r"to_rgbs\.\d+", module) and part == "bias" and module != last_output:
            constants[f"{module}.upsample.kernel"] = fir * 4
        elif module.endswith(".attn.tables"):
            constants |= _window_constants(module.removesuffix(".attn.tables"), part, tensors[name])
        elif re.fullmatch(r"from_rgbs\.[1-9]\d*\.conv\.1", module):
            prefix = module.removesuffix(".conv.1")
            constants |= _haar(f"{prefix}.dwt") | _haar(f"{prefix}.iwt", inverse=True)
            constants[f"{prefix}.downsample.kernel"] = fir
        elif re.fullmatch(r"convs\.\d+\.conv2\.2", module):
            constants[f"{module[:-1]}0.kernel"] = fir
    return constants


def _haar(module: str, inverse: bool = False) -> Tensors:
    """The four filters `(2, 2)` of a Haar transform, under a module's name."""
    low = torch.tensor([[1.0, 1.0]]) / 2**0.5
    high = torch.tensor([[-1.0, 1.0]]) / 2**0.5
    bands = {"ll": low.T @ low, "lh": high.T @ low, "hl": low.T @ high, "hh": high.T @ high}
    signs = {"lh": -1, "hl": -1} if inverse else {}
    return {f"{module}.{name}": band * signs.get(name, 1) for name, band in bands.items()}


def _window_constants(block: str, half: str, table: Tensor) -> Tensors:
    """The constants of one half of StyleSwin's heads.

    Args:
        block: name of the block, such as "layers.2.blocks.0".
        half: "0", or "1" for the shifted windows.
        table: the half's relative position bias `((2 · size - 1)², heads / 2)`.
    """
    size = (int(len(table) ** 0.5) + 1) // 2
    resolution = resolutions(int(block.split(".")[1]) + 1)[-1]
    constants = {f"{block}.attn.{half}.relative_position_index": relative_position_index(size)}
    if half == "1" and resolution > size:
        constants[f"{block}.attn_mask2"] = shift_mask(resolution, resolution, size)
    return constants


def published_contents(
    networks: Mapping[str, Mapping[str, Tensor]], levels: Levels, layout: str | None
) -> dict[str, Any]:
    """What a published file holds, for `torch.save`: state dicts and the settings to build networks of them.

    Args:
        networks: state dicts of ours by name.
        levels: from 4 × 4 on.
        layout: "old" (whose names hold two halves a level), or any other for the new one.
    """
    states = {name: to_published(tensors, legacy=layout == "old") for name, tensors in networks.items()}
    settings: dict[str, list] = {"kernels": [], "dilations": []}
    for level in levels:
        windows = _published_windows(level)
        settings["kernels"].append([kernel for kernel, _ in windows])
        settings["dilations"].append([dilation for _, dilation in windows])
    args = {"runs": {"size": resolutions(len(levels))[-1], "generator": settings}}
    return {"args": args, **(states if layout == "old" else {"state_dicts": states})}


def _published_windows(level: Level) -> list[tuple[int, int]]:
    """(kernel, dilation) of each partition as published files give them; none for StyleSwin's windows."""
    windows = []
    for part in level:
        if isinstance(part, HeadPartition):
            windows.append((part.kernel_size, part.dilation))
        elif isinstance(part, Full):
            windows.append((3, 1))  # the files have an entry for 4 × 4, too, which nothing uses
    return windows
