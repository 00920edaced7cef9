"""The one progress bar: seen by a person who waits, silent in logs, CI and checked notebooks."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def is_quiet() -> bool:
    """True unless a person can see it: on a terminal, or in a notebook that a Jupyter server runs.

    Papermill and nbval start kernels without a server (no `JPY_SESSION_NAME`), so that what they execute
    and commit holds no bar. `CI` and `STYLENAT_QUIET` silence it everywhere.
    """
    if any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in ("CI", "STYLENAT_QUIET")):
        return True
    return not sys.stderr.isatty() and "JPY_SESSION_NAME" not in os.environ


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> Any:
    """A progress bar, silent where `is_quiet`.

    Args:
        iterable: what the bar counts; None: give `total=` and call `.update`.
        options: of tqdm, such as `unit` and `desc`.

    Returns:
        The `tqdm` bar, which yields the items of `iterable`.
    """
    return tqdm(iterable, disable=is_quiet(), dynamic_ncols=True, **options)
