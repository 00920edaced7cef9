"""Where files are: every path of a notebook or command comes from here; and JSON, as most of them are."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stylenat.errors import UserError


def workspace(*parts: str) -> Path:
    """A path inside the workspace: `$STYLENAT_WORKSPACE`, else the clone, else the current folder.

    Papermill runs a notebook in the caller's folder and nbval in the notebook's own, so no path may
    depend on the current folder where there is a clone.

    Args:
        parts: of the path, below the workspace; none: the workspace itself.
    """
    clone = Path(__file__).resolve().parent.parent
    is_clone = (clone / "pyproject.toml").is_file()
    root = os.environ.get("STYLENAT_WORKSPACE") or (clone if is_clone else Path.cwd())
    return Path(root).joinpath(*parts)


def expand(path: Path | str) -> Path:
    """A path as a user gives it, with `~` and `~name` replaced by that home.

    Raises:
        UserError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no HOME and no entry in the system's list of users, or no such user
        raise UserError(f"{str(path)!r}: that home folder is unknown; give the path in full") from None


def find_path(path: Path | str) -> Path:
    """Where something is that a user gave the path of: the one rule for every input.

    A relative path is looked for from the current folder and then from the workspace, so that
    `datasets/ffhq-256` means the same on the command line and in a notebook.

    Args:
        path: absolute or relative; may begin with `~`.

    Returns:
        The place found, else the path from the current folder, where nothing is.

    Raises:
        UserError: it begins with a home folder that is unknown.
    """
    here = expand(path)
    if here.is_absolute() or _exists(here):
        return here
    in_workspace = workspace() / here
    return in_workspace if _exists(in_workspace) else here


def _exists(path: Path) -> bool:
    """Whether something is there; False for a name that no system can hold."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or a null character
        return False


def write_atomically(path: Path | str, data: str | bytes) -> None:
    r"""Write a file such that a reader sees the old content or the new, never a part.

    Args:
        path: of the file; missing folders are made.
        data: the whole content; text is written as UTF-8, and what that can't hold (a byte of a file's name
            that is no UTF-8) as `\udcff`, which JSON reads back as it was.

    Raises:
        OSError: the system refused; `filename` is the path, and no temporary file is left.
    """
    target = Path(path)
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    except OSError as error:
        # A full disk names no file, and the temporary one means nothing to the caller.
        error.filename = str(target)
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def to_json(value: Any, **layout: Any) -> str:
    """JSON that every reader takes: what is not finite is refused, where Python would write a bare `NaN`.

    Args:
        value: plain dicts, lists, text, numbers, booleans and None.
        layout: of `json.dumps`, such as `indent=1`.

    Raises:
        UserError: a number that is not finite, or anything else that JSON has no form for; names its place.
    """
    try:
        return json.dumps(value, allow_nan=False, **layout)
    except (TypeError, ValueError) as error:
        place, why = next(_unfit(value, ""), ("the whole", str(error)))
        raise UserError(f"{place} {why}: JSON holds finite numbers, text, lists and dicts") from None


def _unfit(value: object, place: str) -> Iterator[tuple[str, str]]:
    """Each part that JSON has no form for: its place, and what it is."""
    where = place or "the value"
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from _unfit(entry, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _unfit(entry, f"{place}[{index}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield where, f"is {value}"
    elif not isinstance(value, str | int | None):
        yield where, f"is of type {type(value).__name__}"


def from_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or holds a number that is not finite: `NaN` and
            `Infinity`, which Python writes though JSON has neither, or one that overflows.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_float)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number of JSON's")


def _parse_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is too large")
    return number
