"""Rebuild docs/many-gpus.md from results/loader.json; measures nothing (scripts/loader_checks.py does)."""

import json
from typing import Any

from stylenat.benchmark.results import Stamp
from stylenat.paths import workspace
from stylenat.presets import get_config
from stylenat.reporting.markdown import rewrite_blocks, table
from stylenat.reporting.paper import Key, published_numbers

GPUS = 8  # of the published run
FASTER = 10  # than the published run: what a worker may have to feed, generously


def page_blocks(found: dict[str, Any]) -> dict[str, str]:
    """The bodies of the page's blocks, by name.

    Args:
        found: the content of results/loader.json, see `loader_checks.measure`.
    """
    where = f"Measured at {Stamp(**found['stamp'])}."
    return {
        "speed": f"{where}\n\n{_speed(found['speed'])}\n\n{_needed(found['speed'])}",
        "memory": f"{where}\n\n{_memory(found['memory'])}",
    }


def _speed(rows: list[dict[str, Any]]) -> str:
    shown = []
    for row in rows:
        images = f"{row['side']} px, {row['kilobytes']:,.0f} kB each"
        shown.append(
            [images, row["packing"], row["workers"], f"{row['rate']:.0f}", f"{row['milliseconds']:.1f}"]
        )
    head = ["PNGs", "packing", "workers", "images/s", "CPU time an image, ms"]
    return table(head, shown, text_columns=(0, 1))


def _needed(rows: list[dict[str, Any]]) -> str:
    """What the published run asks of the loader, in words."""
    images = get_config("ffhq-256").nimg
    days = published_numbers()[Key("StyleNAT", "training_time")]
    rate = images / (float(days.text) * 24 * 3600)
    sentences = [
        f"The published run shows {images:,} images in about {days.text} days on eight A100s "
        f"({days.source}): {rate:.0f} real images a second, {rate / GPUS:.1f} a GPU."
    ]
    for side in (256, 1024):
        cost = max(row["milliseconds"] for row in rows if row["side"] == side)
        of_one = 1000 / cost  # images a second of a core
        sentences.append(
            f"From files of {side} pixels a core decodes {of_one:.0f} a second: {_workers(rate, of_one)} "
            f"for all eight GPUs, {_workers(FASTER * rate, of_one)} for GPUs {FASTER} times as fast."
        )
    return " ".join(sentences)


def _workers(rate: float, of_one: float) -> str:
    count = int(-(-rate // of_one))
    return f"{count} worker{'s' * (count != 1)}"


def _memory(rows: list[dict[str, Any]]) -> str:
    shown = []
    for row in rows:
        for point in row["points"]:
            each = ", ".join(f"{memory:.0f}" for memory in point["workers"])
            shown.append([row["packing"], f"{point['images']:,}", f"{point['main']:.0f}", each])
    head = ["70,000 PNGs in a", "images read", "main process, MB", "workers, MB"]
    opened = ", ".join(f"{row['packing']} {row['seconds_to_open']:.0f} s" for row in rows)
    return f"{table(head, shown, text_columns=(0, 3))}\n\nTo open, every header checked: {opened}."


def write_page() -> None:
    """Write the blocks of docs/many-gpus.md."""
    found = json.loads(workspace("results", "loader.json").read_text(encoding="utf-8"))
    rewrite_blocks(workspace("docs", "many-gpus.md"), page_blocks(found))


if __name__ == "__main__":
    write_page()
