"""Where files are and how they are written: every path comes from here; and JSON, as most of them are."""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import math
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

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
        UserError: it is empty or no path at all, or there is no such home.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{path!r} is no path: give that of a file or folder as text")
    if not str(path):
        raise UserError("the path is empty: give that of a file or folder")
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
        UserError: no system can hold it, or it begins with a home folder that is unknown.
    """
    here = expand(path)
    _check_name(here)
    if here.is_absolute() or _exists(here):
        return here
    in_workspace = workspace() / here
    return in_workspace if _exists(in_workspace) else here


def _check_name(path: Path) -> None:
    """Refuse what no system can hold: a name that is too long, or holds a null character."""
    try:
        path.lstat()
    except ValueError:
        raise UserError(f"{str(path)!r} not found: no path holds a null character; give another") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{str(path)!r} not found: the name is too long; give another") from None


def _exists(path: Path) -> bool:
    """Whether something is there; False for what may not be looked at."""
    try:
        return path.exists()
    except OSError:
        return False


def is_stream(path: Path) -> bool:
    """Whether a path is that of a pipe or a device, which a reader waits for or never sees the end of."""
    return path.exists() and not path.is_file() and not path.is_dir()


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it can't be read, or is a pipe or a device.
    """
    if is_stream(path):
        raise OSError(errno.EINVAL, "a pipe or a device, no file", str(path))
    return path.read_bytes()


def sha256(stream: IO[bytes]) -> str:
    """Hash of what is left of a stream, a block at a time."""
    digest = hashlib.sha256()
    while block := stream.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: as of `read_file`.
        ValueError: as of `from_json`, or no UTF-8.
    """
    return from_json(read_file(path).decode("utf-8"))


# Writing

_PROCESS = secrets.token_hex(4)  # a container's next process may have the number of the one that died
_counter = itertools.count()
_TEMPORARY = re.compile(r"\.stylenat-(?P<host>.+)-(?P<pid>\d+)-(?P<process>[0-9a-f]{8})-\d+\.tmp")
_ABANDONED = 24 * 3600  # seconds after which another machine's temporary file is taken for left over


def temporary_path(folder: Path) -> Path:
    """A hidden name in a folder that no other thread, process or machine uses; it says whose it is."""
    return folder / f".stylenat-{_host()}-{os.getpid()}-{_PROCESS}-{next(_counter)}.tmp"


def _host() -> str:
    return re.sub(r"[^\w.]", "_", platform.node() or "localhost", flags=re.ASCII)


def is_alive(pid: int) -> bool:
    """Whether this machine runs a process of that number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders that processes left there which died while they wrote.

    Those of live processes stay, and so do another machine's until they are a day old.
    """
    for path in folder.glob(".stylenat-*.tmp"):
        if _is_left_over(path):
            remove(path)


def _is_left_over(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if not found:
        return False
    if found["host"] != _host():
        try:
            return time.time() - path.lstat().st_mtime > _ABANDONED
        except OSError:  # gone
            return False
    pid = int(found["pid"])
    return found["process"] != _PROCESS if pid == os.getpid() else not is_alive(pid)


@functools.cache
def _sweep_once(folder: Path) -> None:
    sweep(folder)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, as far as the system allows."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def remove_folder(path: Path) -> None:
    """Remove a folder such that a stop halfway leaves none of its name with parts missing."""
    doomed = temporary_path(path.parent)
    path.rename(doomed)
    remove(doomed)


def free_space(path: Path | str) -> int:
    """Bytes that are free where a file or folder is, or will be."""
    return shutil.disk_usage(_nearest_folder(Path(path))).free


def _nearest_folder(path: Path) -> Path:
    """The first of a path and the folders that it is in which is there."""
    while not _exists(path) and path != path.parent:
        path = path.parent
    return path


@contextlib.contextmanager
def making_folder(target: Path, around: Path | None = None) -> Iterator[Path]:
    """A temporary folder to make a folder in, which the caller then moves to its place; it never stays.

    Args:
        target: its place, which errors of the system speak of.
        around: folder of the temporary one; default: that of the target.
    """
    folder = temporary_path(around or target.parent)
    try:
        yield folder
    except OSError as error:
        if error.filename:
            error.filename = str(error.filename).replace(str(folder), str(target))
        raise
    finally:
        remove(folder)


def check_writable(path: Path | str) -> None:
    """Check before long work that a file can be written at its end; leaves nothing behind.

    Args:
        path: of the file, in a folder that may still have to be made.

    Raises:
        UserError: it can't be.
    """
    target = Path(path)
    trial = temporary_path(_nearest_folder(target.parent))
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            target.stat()  # refuses names that no system holds
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _write(trial, b"")
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"can't write to {target} ({reason}): give a place you may write to") from None
    finally:
        remove(trial)


def write_atomically(path: Path | str, data: str | bytes) -> None:
    r"""Write a file such that a reader sees the old content or the new, never a part.

    Of several writers at once the last one's content stays, as a whole.

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
    _sweep_once(target.parent)
    temporary = temporary_path(target.parent)
    try:
        _write(temporary, content)
        temporary.replace(target)
    except BaseException as error:  # a signal, too
        remove(temporary)
        if isinstance(error, OSError):
            # A full disk names no file, and the temporary one means nothing to the caller.
            error.filename = str(target)
        raise


def append_line(path: Path, line: str) -> None:
    """Append a line to a file that may not be there yet, all of it or, where the system refuses, nothing.

    Raises:
        OSError: the system refused; `filename` is the path.
    """
    size = path.stat().st_size if path.is_file() else 0
    try:
        _write(path, f"{line}\n".encode(), "ab")
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.truncate(path, size)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def _write(path: Path, content: bytes, mode: str = "wb") -> None:
    """The one place that writes: by one call of the system, so that a kill tears no short line."""
    with path.open(mode, buffering=0) as file:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]


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
