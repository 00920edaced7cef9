"""Where things lie: every path of a notebook or command comes from here."""

import contextlib
import os
from pathlib import Path


def workspace(*parts):
    """Path inside the workspace: `$STYLENAT_WORKSPACE`, else the clone, else the current folder.

    Papermill runs a notebook in the caller's folder and nbval in the notebook's own, so no path may
    depend on the current folder where a clone is there to ask.
    """
    clone = Path(__file__).resolve().parent.parent
    is_clone = (clone / "pyproject.toml").is_file()
    root = os.environ.get("STYLENAT_WORKSPACE") or (clone if is_clone else Path.cwd())
    return Path(root).joinpath(*parts)


def write_atomically(path, data):
    """Write `data` (str or bytes) to `path` such that a reader sees the old file or the new, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # a full disk tells none, and the temporary's means nothing to anyone
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
