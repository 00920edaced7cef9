"""Execute notebooks in place, as they are committed: `python scripts/execute_notebook.py notebooks/*.ipynb`.

Each gets a workspace of its own, a copy of results/ and README.md (or $STYLENAT_WORKSPACE, where set): the
smoke runs of one reach neither the clone's tables nor the next notebook. Nothing is left in the file that
differs from one execution to the next but what the cells say: no times, no widgets, no Python version.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from stylenat.paths import workspace, write_atomically

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LEFT_OUT = ("papermill", "execution", "ExecuteTime", "widgets")


def execute(path: Path, folder: Path) -> None:
    """Execute one notebook in a workspace; its file changes only when every cell has run.

    Args:
        path: of the notebook.
        folder: the workspace.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "STYLENAT_WORKSPACE": str(folder), "STYLENAT_QUIET": "1"}
    client = NotebookClient(
        notebook,
        kernel_name=KERNEL["name"],
        timeout=None,
        record_timing=False,
        coalesce_streams=True,  # otherwise the split into messages is a matter of luck
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=environment)
    normalize(notebook)
    nbformat.validate(notebook)
    write_atomically(path, nbformat.writes(notebook) + "\n")


def normalize(notebook: nbformat.NotebookNode) -> None:
    """Drop the metadata that belongs to the execution rather than to the notebook."""
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        for name in LEFT_OUT:
            cell.metadata.pop(name, None)
        for output in cell.get("outputs", []):
            output.get("metadata", {}).pop("papermill", None)
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


@contextlib.contextmanager
def own_workspace() -> Iterator[Path]:
    """$STYLENAT_WORKSPACE where it is set, else a copy of results/ and README.md that lasts as long."""
    given = os.environ.get("STYLENAT_WORKSPACE")
    if given is not None:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(workspace("results"), Path(folder, "results"))
        shutil.copy(workspace("README.md"), folder)
        yield Path(folder)


def main() -> int:
    """The command; 1 where a cell failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="PATH")
    for path in parser.parse_args().notebooks:
        start = time.perf_counter()
        with own_workspace() as folder:
            try:
                execute(path.resolve(), folder.resolve())
            except CellExecutionError as error:
                print(f"{path}: {error.ename}: {error.evalue}", file=sys.stderr)
                return 1
        print(f"{path}: {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
