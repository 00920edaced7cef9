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

import torch

from stylenat.attention.layers import HydraNeighborhoodAttention
from stylenat.attention.partitions import HeadPartition
from stylenat.device import peak_memory
from stylenat.paths import workspace, write_atomically
from stylenat.progress import progress

MODES = ("forward", "forward_backward")


def measure(size, mode, channels, heads, dilation, repeats):
    """Median milliseconds, and MiB above what the imports and a small layer took."""
    layer = HydraNeighborhoodAttention(channels, (HeadPartition(heads, 7, dilation),), level=size)
    layer.backend = "tiled"

    def step(n):
        x = torch.randn(1, n, n, channels, requires_grad=True)
        with torch.set_grad_enabled(mode == "forward_backward"):
            start = time.perf_counter()
            out = layer(x)
            if mode == "forward_backward":
                out.sum().backward()
        return 1e3 * (time.perf_counter() - start)

    step(7 * dilation)
    baseline = peak_memory()
    times = [step(size) for _ in range(repeats + 1)][1:]
    return {
        "ms": statistics.median(times),
        "mib": (peak_memory() - baseline) / 2**20,
        "threads": torch.get_num_threads(),
    }


def measure_apart(size, mode, args):
    """`measure` in a fresh process."""
    values = (size, mode, args.channels, args.heads, args.dilation, args.repeats)
    command = [sys.executable, __file__, "--measure", json.dumps(values)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def markdown(rows):
    lines = [
        "| tokens | forward, ms | µs a token | peak, MiB | forward + backward, ms | µs a token | peak, MiB |",
        "| ---: " * 7 + "|",
    ]
    for row in rows:
        cells = [f"{row['size']}² = {row['tokens']}"]
        for mode in MODES:
            ms = row[f"{mode}_ms"]
            cells += [f"{ms:.1f}", f"{1e3 * ms / row['tokens']:.2f}", f"{row[f'{mode}_mib']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512], help="tokens a side")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dilation", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs, after one that is not")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_arguments()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    rows = []
    bar = progress([(size, mode) for size in args.sizes for mode in MODES], unit="run")
    for size, mode in bar:
        bar.set_postfix_str(f"{size}² {mode}")
        result = measure_apart(size, mode, args)
        if mode == MODES[0]:
            layer = {"channels": args.channels, "heads": args.heads, "dilation": args.dilation}
            rows.append({"size": size, "tokens": size**2, **layer, "threads": result["threads"]})
        rows[-1] |= {f"{mode}_{unit}": round(result[unit], 2) for unit in ("ms", "mib")}
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(workspace("results", "attention_scaling.csv"), text.getvalue())
    print(markdown(rows))


if __name__ == "__main__":
    main()
