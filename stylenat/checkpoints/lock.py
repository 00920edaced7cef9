"""One process at a time: a lock on a folder that several files have to be written into as one."""

import contextlib
import errno
import fcntl
import os
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from stylenat.errors import UserError

LOCK = ".lock"  # in the folder; holds the number of the process and the name of its machine
_TRIES = 10  # for those who only look hold it for an instant
_PAUSE = 0.02  # seconds
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_held: set[int] = set()  # open files


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep every other process, and any other thread, from holding the same folder.

    The system takes the lock back when the process ends, however it ends: a file that a dead process left is
    no obstacle. On a file system without locks there is a warning instead.

    Args:
        folder: made where it is missing, and removed again where it stays empty.

    Raises:
        UserError: it is held already, with the number of that process; or it can't be written.
    """
    try:
        file = _acquire(folder / LOCK)
    except OSError as error:
        raise UserError(
            f"can't write to {folder} ({error.strerror}): give a folder you may write to"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()  # before others can have it
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing was written
        _held.discard(file)
        os.close(file)


def check_free(folder: Path) -> None:
    """Check that nobody holds a folder; writes nothing.

    Raises:
        UserError: it is held, with the number of that process.
    """
    try:
        file = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:  # no lock
        return
    try:
        _lock(file, fcntl.LOCK_SH)
    except BlockingIOError:
        raise _in_use(folder / LOCK) from None
    finally:
        os.close(file)


def _acquire(path: Path) -> int:
    """The open lock file."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # who held it removed the empty folder
            continue
        try:
            _lock(file, fcntl.LOCK_EX)
            if _is_at(path, file):  # else who held it removed the file between the two calls
                os.ftruncate(file, 0)
                os.write(file, f"process {os.getpid()} on {platform.node()}\n".encode())
                _held.add(file)
                return file
        except BlockingIOError:
            raise _in_use(path) from None
        finally:
            if file not in _held:
                os.close(file)


def _lock(file: int, kind: int) -> None:
    """Lock an open file.

    Raises:
        BlockingIOError: it is held.
    """
    for attempt in range(_TRIES):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if attempt + 1 == _TRIES:
                raise
            time.sleep(_PAUSE)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            warnings.warn(
                "this file system has no locks: see to it that no other process writes to the same folder",
                stacklevel=4,
            )
            return


def _is_at(path: Path, file: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _in_use(path: Path) -> UserError:
    try:
        holder = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        holder = ""
    return UserError(
        f"{path.parent} is in use by {holder or 'another process'}: wait until it ends, or stop it"
    )


def _forget() -> None:
    """In a process that was forked: the lock is its parent's, and must not outlive it."""
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
