"""Rebuild docs/data.md from results/factors.json; measures nothing (scripts/factor_checks.py does)."""

import json
from typing import Any

from stylenat.benchmark.results import Stamp
from stylenat.data.avatars import FACTORS, NONE
from stylenat.paths import workspace
from stylenat.reporting.markdown import rewrite_blocks, table


def page_blocks(found: dict[str, Any]) -> dict[str, str]:
    """The bodies of the page's blocks, by name.

    Args:
        found: the content of results/factors.json, see `factor_checks.measure`.
    """
    return {"factors": _factors(), "accuracy": _accuracy(found)}


def _factors() -> str:
    rows = []
    for name, values in FACTORS.items():
        listed = ", ".join(f"{value} (half of them)" if value == NONE else value for value in values)
        rows.append([name, len(values), listed])
    return table(["factor", "values", ""], rows, text_columns=(0, 2))


def _accuracy(found: dict[str, Any]) -> str:
    rows = []
    for name in FACTORS:
        rows.append([name, *(f"{row['accuracy'][name]:.1%}" for row in found["rows"])])
    head = ["read right", *(f"{row['resolution']} px, {row['images']}" for row in found["rows"])]
    where = f"{found['count']:,} held-out images, measured at {Stamp(**found['stamp'])}."
    return f"{where}\n\n{table(head, rows)}"


def write_page() -> None:
    """Write the blocks of docs/data.md."""
    found = json.loads(workspace("results", "factors.json").read_text(encoding="utf-8"))
    rewrite_blocks(workspace("docs", "data.md"), page_blocks(found))


if __name__ == "__main__":
    write_page()
