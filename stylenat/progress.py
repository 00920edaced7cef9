"""The one progress bar: seen by a person who waits, silent in logs, CI and checked notebooks."""

import os
import sys

from tqdm.auto import tqdm


def is_quiet():
    """True unless somebody is watching: a terminal, or a notebook that a Jupyter server runs.

    Papermill and nbval start kernels without a server (no `JPY_SESSION_NAME`), so that what they execute
    and commit holds no bar. `CI` and `STYLENAT_QUIET` silence it everywhere.
    """
    if any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in ("CI", "STYLENAT_QUIET")):
        return True
    return not sys.stderr.isatty() and "JPY_SESSION_NAME" not in os.environ


def progress(iterable=None, **options):
    """`tqdm(iterable, **options)`, silent where `is_quiet`; or give `total=` alone and call `.update`."""
    return tqdm(iterable, disable=is_quiet(), dynamic_ncols=True, **options)
