"""Measure every case next to its matmul time, and others' code; `--page` writes docs/performance.md.

`--page` keeps the numbers, too, by machine and number of threads: those of other machines stay beside them.

`--base COMMIT` also measures another commit's package, case by case in turn: a change of speed shows in
ratios of one run only. Every case runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def use_this_benchmark() -> None:
    """Take `stylenat.benchmark` from this clone, whichever commit the process's `stylenat` is of.

    So one code measures both packages. It imports the rest of the package by `cases.measured_package` alone.
    """
    package = types.ModuleType("stylenat.benchmark")
    package.__path__ = [str(ROOT / "stylenat" / "benchmark")]
    sys.modules[package.__name__] = package


def run_task(task: str, options: dict[str, Any]) -> Any:
    """Run a task of `stylenat.benchmark.cases`, or `low_precision`, in this process."""
    use_this_benchmark()
    from stylenat.benchmark import cases

    if task == "compare":  # in today's package alone
        from stylenat.benchmark import peers

        return [dataclasses.asdict(found) for found in peers.run_comparison(**options)]
    if task == "low_precision":  # of today's package alone
        from stylenat.benchmark.low_precision import low_precision

        return low_precision(**options)
    tasks: dict[str, Callable[..., Any]] = {
        "measure": cases.measure,
        "profile": cases.profile,
        "equality": cases.equality,
    }
    found = tasks[task](**options)
    return dataclasses.asdict(found) if isinstance(found, cases.Measurement) else found


def run_apart(tree: Path, task: str, options: dict[str, Any]) -> Any:
    """The result of a task in a fresh process whose `stylenat` is that of the clone `tree`."""
    command = [sys.executable, __file__, "--task", json.dumps([task, options])]
    environment = os.environ | {"PYTHONPATH": str(tree), "STYLENAT_QUIET": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A folder with that commit of this clone, while it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", str(ROOT), "worktree"]
        if subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=False).returncode:
            sys.exit(f"bench: commit {commit!r} is not in this clone: fetch it, or leave out --base")
        try:
            yield Path(folder)
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=False)


def full_commit(folder: Path) -> str:
    """All digits of the commit that is checked out in a folder."""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def report(label: str, found: dict[str, Any]) -> None:
    """Print one measured case."""
    spread = f"{found['ratio']:6.2f} ({found['ratio_low']:.2f} – {found['ratio_high']:.2f})"
    matmul = f"{found['matmul_seconds']:8.3f} s"
    print(f"{label:<32} {spread} × matmul {matmul} {found['peak_bytes'] / 1e9:6.2f} GB", flush=True)


def report_comparison(name: str, found: list[dict[str, Any]]) -> None:
    """Print a comparison."""
    for each in found:
        print(f"{name}: {each['title']}, {each['direction']}")
        for way in each["ways"]:
            spread = f"{way['ratio']:7.2f} ({way['ratio_low']:.2f} – {way['ratio_high']:.2f})"
            print(f"    {way['name']:<28} {1e3 * way['seconds']:9.2f} ms {spread} ×", flush=True)


def measure_all(names: list[str], base: Path | None, rounds: int, keep: bool) -> None:
    """Run all jobs of some cases and print them.

    Args:
        names: of cases; empty for all.
        base: a clone of the commit to compare with, or None.
        rounds: timed calls a case; 0 for the case's own number.
        keep: whether to keep the numbers in results/performance.json and write the page.
    """
    from stylenat.benchmark import cases, page, results
    from stylenat.progress import progress

    if keep and base:
        numbers = results.read()
        numbers.base = full_commit(base)
        results.write(numbers)
    everything = [*cases.CASES, *cases.COMPARISONS]
    todo = list(cases.jobs(names or everything, base is not None, everything=keep and not names))
    for job in progress(todo, unit="case"):
        options = dict(job.options)
        if job.task == "measure":
            options |= {"name": job.case, "rounds": rounds}
        if job.task == "compare":
            options |= {"name": job.case}
        if "change" in options:
            options["base"] = str(base or "")
        tree = base if base and job.state == cases.BEFORE else ROOT
        found = run_apart(tree, job.task, options)
        if job.task == "measure":
            report(f"{job.case} {job.state}", found)
        if job.task == "compare":
            report_comparison(job.case, found)
        if keep:
            numbers = results.read()
            numbers.add(job.task, job.state, job.case, found, results.Stamp.here())
            results.write(numbers)
    if keep:
        page.write_page()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="such as sample-256 (default: all)")
    parser.add_argument("--base", metavar="COMMIT", help="the commit to compare with")
    parser.add_argument(
        "--rounds", type=int, default=0, metavar="N", help="timed calls (default: the case's)"
    )
    parser.add_argument("--page", action="store_true", help="keep the numbers, write docs/performance.md")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(run_task(*json.loads(arguments.task))))
        return
    from stylenat.benchmark.cases import CASES, COMPARISONS

    known = [*CASES, *COMPARISONS]
    if unknown := sorted(set(arguments.cases) - set(known)):
        parser.error(f"case {unknown[0]!r} is unknown: take of {', '.join(known)}")
    if arguments.page and arguments.rounds:
        parser.error("--page keeps numbers of each case's own rounds: leave out --rounds")
    if arguments.rounds < 0:
        parser.error(f"--rounds {arguments.rounds}: give a whole number above 0")
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(checkout(arguments.base)) if arguments.base else None
        measure_all(arguments.cases, base, arguments.rounds, arguments.page)


if __name__ == "__main__":
    main()
