"""Where files are: every path of a notebook or command comes from here."""

import contextlib
import os
from pathlib import Path

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
