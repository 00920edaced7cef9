"""Rebuild docs/scores.md from results/scores.json; measures nothing (scripts/score_checks.py does)."""

from typing import Any

from stylenat.benchmark.results import Stamp
from stylenat.evaluation.metrics import OFFLINE, SCORE_KEYS
from stylenat.paths import from_json, workspace
from stylenat.reporting.markdown import rewrite_blocks, table

TITLES = {key.id: key.title for key in SCORE_KEYS if key.metric in OFFLINE}


def page_blocks(found: dict[str, Any]) -> dict[str, str]:
    """The bodies of the page's blocks, by name.

    Args:
        found: the content of results/scores.json, see `score_checks.measure`.
    """
    return {
        "source": _source(found),
        "doses": _scores(found["doses"]),
        "limits": _limits(found["limits"]),
        "degraded": _scores(found["degraded"]),
        "resize": _resize(found["resize"]),
        "clean-fid": _clean_fid(found["clean_fid"]),
    }


def _source(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"Measured at {Stamp(**found['stamp'])}, with {versions}."


def _scores(sets: dict[str, dict[str, dict[str, float]]]) -> str:
    rows = []
    for name, values in sets.items():
        cells = [f"{values[key]['value']:.4g} ± {values[key]['error']:.2g}" for key in TITLES]
        rows.append([name, *cells])
    return table(["images", *TITLES.values()], rows)


def _limits(limits: dict[str, dict[str, float]]) -> str:
    rows = []
    for part, title in (("real_vs_real", "real against real"), ("noise", "noise")):
        rows.append([title, *(f"{limits[key][part]:.4g}" for key in TITLES)])
    return table(["limits", *TITLES.values()], rows)


def _resize(entries: list[dict[str, Any]]) -> str:
    rows = []
    for entry in entries:
        rows.append(
            [
                entry["resolution"],
                entry["mode"],
                f"{entry['largest_difference']:.1e}",
                f"{entry['clean_fid_ms']:.2f}",
                f"{entry['here_ms']:.2f}",
                f"{entry['clean_fid_ms'] / entry['here_ms']:.1f}",
            ]
        )
    head = ["from → 299", "mode", "largest difference, of 255", "clean-fid, ms", "here, ms", "times faster"]
    return table(head, rows, text_columns=(1,))


def _clean_fid(found: dict[str, dict[str, float]]) -> str:
    theirs = found["clean_fid"]
    here = found["here"]

    def relative(name: str) -> str:
        return f"relative difference {abs(here[name] / theirs[name] - 1):.0e}"

    def seconds(name: str) -> list[str]:
        return [f"{theirs[name]:.1f} s", f"{here[name]:.1f} s"]

    rows = [
        ["score", f"{theirs['score']:.6f}", f"{here['score']:.6f}", relative("score")],
        ["of the same moments", f"{theirs['distance']:.6f}", f"{here['distance']:.6f}", relative("distance")],
        ["images to features", *seconds("features_seconds"), ""],
        ["one Fréchet distance", *seconds("distance_seconds"), ""],
        ["both", *seconds("seconds"), f"{theirs['seconds'] / here['seconds']:.1f} times faster"],
        ["with the 95 % interval, 17 distances", "", f"{here['interval_seconds']:.1f} s", ""],
    ]
    return table(["", "`compute_fid(gen=…)`", "here", ""], rows, text_columns=(0, 3))


def write_page() -> None:
    """Write the blocks of docs/scores.md."""
    found = from_json(workspace("results", "scores.json").read_text(encoding="utf-8"))
    rewrite_blocks(workspace("docs", "scores.md"), page_blocks(found))


if __name__ == "__main__":
    write_page()
