"""Where files are: every path of a notebook or command comes from here."""

import contextlib
import os
from pathlib import Path


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


def write_atomically(path: Path | str, data: str | bytes) -> None:
    """Write a file such that a reader sees the old content or the new, never a part.

    Args:
        path: of the file; missing folders are made.
        data: the whole content; text is written as UTF-8.

    Raises:
        OSError: the system refused; `filename` is the path, and no temporary file is left.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        temporary.replace(target)
    except OSError as error:
        # A full disk names no file, and the temporary one means nothing to the caller.
        error.filename = str(target)
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
