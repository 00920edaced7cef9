"""Time and peak memory of the tiled backend against the number of tokens: one 7 × 7 layer, batch 1.

Prints a Markdown table and writes `results/attention_scaling.csv`. Every measurement has a process of
its own, for a process only knows its greatest memory. (Linux hands the parent's greatest on to it; that
is below the baseline taken here, since both import the same.)
"""

import argparse
import csv
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from stylenat.attention.layers import HydraNeighborhoodAttention
from stylenat.attention.partitions import HeadPartition
from stylenat.benchmark.results import Stamp
from stylenat.device import peak_memory
from stylenat.paths import workspace, write_atomically
from stylenat.progress import progress
from stylenat.reporting.markdown import table


@dataclass(frozen=True)
class Layer:
    """The layer that is measured.

    Attributes:
        channels: of its tokens.
        heads: all of one partition.
        dilation: of that partition.
    """

    channels: int
    heads: int
    dilation: int


@dataclass(frozen=True)
class Row:
    """A row of the CSV.

    Attributes:
        size: tokens a side.
        tokens: of the grid.
        channels: of the layer.
        heads: of the layer.
        dilation: of the layer.
        forward_ms: median milliseconds of a forward pass.
        forward_mib: peak MiB above what the imports and a small layer took.
        forward_backward_ms: the same with a backward pass.
        forward_backward_mib: the same with a backward pass.
        commit: of the code that was measured.
        dirty: whether that code differed from the commit.
        device: name of the hardware.
        threads: of PyTorch.
        torch: its version.
    """

    size: int
    tokens: int
    channels: int
    heads: int
    dilation: int
    forward_ms: float
    forward_mib: float
    forward_backward_ms: float
    forward_backward_mib: float
    commit: str | None
    dirty: bool | None
    device: str | None
    threads: int | None
    torch: str | None


def measure(size: int, mode: str, layer: Layer, repeats: int) -> tuple[float, float]:
    """Median milliseconds, and MiB above what the imports and a small layer took.

    Args:
        size: tokens a side.
        mode: "forward" or "forward_backward".
        layer: what is measured.
        repeats: timed runs, after one that is not.
    """
    partitions = (HeadPartition(layer.heads, 7, layer.dilation),)
    module = HydraNeighborhoodAttention(layer.channels, partitions, level=size)
    module.backend = "tiled"

    def step(side: int) -> float:
        x = torch.randn(1, side, side, layer.channels, requires_grad=True)
        with torch.set_grad_enabled(mode == "forward_backward"):
            start = time.perf_counter()
            out = module(x)
            if mode == "forward_backward":
                out.sum().backward()
        return 1e3 * (time.perf_counter() - start)

    step(7 * layer.dilation)
    baseline = peak_memory()
    times = [step(size) for _ in range(repeats + 1)][1:]
    return statistics.median(times), (peak_memory() - baseline) / 2**20


def measure_apart(size: int, mode: str, layer: Layer, repeats: int) -> tuple[float, float]:
    """`measure` in a fresh process, rounded."""
    values = json.dumps([size, mode, asdict(layer), repeats])
    command = [sys.executable, __file__, "--measure", values]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    milliseconds, mib = json.loads(done.stdout)
    return round(milliseconds, 2), round(mib, 2)


def measure_all(sizes: Sequence[int], layer: Layer, repeats: int) -> list[Row]:
    """A row a size."""
    stamp = Stamp.here()
    rows = []
    for size in progress(sizes, unit="size"):
        forward_ms, forward_mib = measure_apart(size, "forward", layer, repeats)
        both_ms, both_mib = measure_apart(size, "forward_backward", layer, repeats)
        rows.append(
            Row(
                size=size,
                tokens=size**2,
                channels=layer.channels,
                heads=layer.heads,
                dilation=layer.dilation,
                forward_ms=forward_ms,
                forward_mib=forward_mib,
                forward_backward_ms=both_ms,
                forward_backward_mib=both_mib,
                commit=stamp.commit,
                dirty=stamp.dirty,
                device=stamp.device,
                threads=stamp.threads,
                torch=stamp.torch,
            )
        )
    return rows


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table to read."""
    lines = []
    for row in rows:
        cells = [f"{row.size}² = {row.tokens}"]
        cells += _cells(row.forward_ms, row.forward_mib, row.tokens)
        cells += _cells(row.forward_backward_ms, row.forward_backward_mib, row.tokens)
        lines.append(cells)
    columns = ["µs a token", "peak, MiB"]
    return table(["tokens", "forward, ms", *columns, "forward + backward, ms", *columns], lines)


def _cells(milliseconds: float, mib: float, tokens: int) -> list[str]:
    return [f"{milliseconds:.1f}", f"{1e3 * milliseconds / tokens:.2f}", f"{mib:.0f}"]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512], help="tokens a side")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dilation", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs, after one that is not")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        size, mode, layer, repeats = arguments.measure
        print(json.dumps(measure(size, mode, Layer(**layer), repeats)))
        return
    layer = Layer(arguments.channels, arguments.heads, arguments.dilation)
    rows = measure_all(arguments.sizes, layer, arguments.repeats)
    write_atomically(workspace("results", "attention_scaling.csv"), to_csv(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
