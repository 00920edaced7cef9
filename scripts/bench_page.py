"""docs/performance.md, from the numbers that scripts/bench.py keeps in results/performance.json."""

import json

from stylenat.paths import workspace, write_atomically
from stylenat.records import provenance


def kept():
    path = workspace("results", "performance.json")
    return json.loads(path.read_text()) if path.is_file() else {}


def keep(key, found):
    numbers = kept() | {key: found, "made by": provenance()}
    path = workspace("results", "performance.json")
    write_atomically(path, json.dumps(numbers, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def write_page(base):
    pass
