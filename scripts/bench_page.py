"""docs/performance.md, from the numbers that scripts/bench.py keeps in results/performance.json."""

import json

from stylenat.paths import workspace, write_atomically
from stylenat.records import provenance

PREDICTIONS = {  # change: what it is, and what a profile of the state before promised
    "allocator": (
        "glibc keeps freed memory (`stylenat/device.py`)",
        "the kernel clears every large tensor's pages anew, in a product as in a copy: 0.3 s",
    ),
    "attention": (
        "tiles as views, a mask a pair of runs, output written in place; own backward pass",
        "`copy_`, `cat`, `where` of halos and bias: 0.3 s; nothing of the logits' size kept for training",
    ),
    "mlp": (
        "MLP by slices of tokens, so that GELU finds its input in the cache",
        "GELU from 130 to 40 ms; one of two hidden tensors kept for training",
    ),
}


def kept():
    """All numbers so far."""
    path = workspace("results", "performance.json")
    return json.loads(path.read_text()) if path.is_file() else {}


def keep(key, found):
    """Add one result, atomically: an interrupted run loses the case it was at."""
    made_by = provenance()
    numbers = kept() | {key: found, "made by": made_by}
    text = json.dumps(numbers, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(workspace("results", "performance.json"), text + "\n")


def _table(head, rows):
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _ratio(found):
    return f"{found['ratio']:.2f} ({found['low']:.2f} – {found['high']:.2f})"


def _memory(found):
    return f"{found['peak'] / 1e9:.2f} GB"


def _cells(numbers, case, states=("before", "now")):
    """Floor, then seconds, ratio and peak of each state."""
    found = [numbers[f"{case} {state}"] for state in states]
    return [
        f"{found[1]['floor']:.3g} s",
        *(cell for each in found for cell in (f"{each['seconds']:.3g} s", _ratio(each), _memory(each))),
    ]


HEAD = ["floor", "before", "× floor", "peak", "now", "× floor", "peak"]


def _changes(numbers):
    now = {case: numbers[f"{case} now"] for case in ("sample-256", "generator-256")}
    rows = []
    for change, (what, promise) in PREDICTIONS.items():
        cells = []
        for case, with_all in now.items():
            found = numbers[f"{case} without {change}"]
            cells += [f"{found['ratio']:.2f} → {with_all['ratio']:.2f}"]
        memory = numbers[f"generator-256 without {change}"]["peak"], now["generator-256"]["peak"]
        rows.append([what, promise, *cells, f"{memory[0] / 1e9:.2f} → {memory[1] / 1e9:.2f} GB"])
    return _table(["change", "predicted", "sampling", "forward + backward", "its peak"], rows)


def _generators(numbers):
    titles = {"64": "64 × 64, batch 2", "128": "128 × 128, batch 1", "256": "256 × 256, batch 1"}
    rows = [[title, *_cells(numbers, f"generator-{side}")] for side, title in titles.items()]
    return _table(["", *HEAD], rows)


def _steps(numbers):
    titles = {
        "noto-32": "`noto-32`, batch 16",
        "noto-64": "`noto-64`, batch 16",
        "64": "published widths, 64 × 64, batch 4",
        "128": "published widths, 128 × 128, batch 4",
    }
    rows = []
    for name, title in titles.items():
        frugal = numbers[f"step-{name} checkpointed"]
        rows.append([title, *_cells(numbers, f"step-{name}"), f"{frugal['seconds']:.3g} s", _memory(frugal)])
    return _table(["", *HEAD, "checkpointed", "peak"], rows)


def _scaling(numbers):
    rows = []
    for side in (64, 128, 256, 512, 1024):
        found = numbers[f"sample-{side} now"]
        cost = 1e12 * found["seconds"] / found["macs"]
        cells = f"{found['macs'] / 1e9:.1f}", f"{found['seconds']:.2f} s", f"{cost:.1f} ps", _ratio(found)
        before = numbers[f"sample-{side} before"]
        rows.append(
            [f"{side} × {side}", *cells, _memory(found), f"{before['seconds']:.2f} s", _memory(before)]
        )
    head = ["one picture", "GMAC", "time", "per MAC", "× floor", "peak", "before", "peak"]
    return _table(head, rows)


def _spread(numbers):
    costs = [
        found["seconds"] / found["macs"]
        for found in (numbers[f"sample-{side} now"] for side in (128, 256, 512, 1024))
    ]
    return max(costs) / min(costs)


def _profile(numbers):
    pairs = zip(numbers["profile before"], numbers["profile now"], strict=True)
    rows = [
        [
            cell
            for name, ms, calls in pair
            for cell in (f"`{name.split('::')[-1]}`", f"{ms:.0f}", f"{calls:,}")
        ]
        for pair in pairs
    ]
    return _table(["before", "ms", "calls", "now", "ms", "calls"], rows)


def _errors(numbers):
    rows = [[name, f"{errors[0]:.0e}", f"{max(errors[1:]):.0e}" if errors[1:] else "–"]
            for name, errors in numbers["equality"]["errors"].items()]  # fmt: skip
    return _table(["", "output", "worst gradient"], rows)


def write_page():
    """Write docs/performance.md.

    Raises:
        KeyError: a case was not measured yet.
    """
    numbers = kept()
    made_by, sampling = numbers["made by"], numbers["sample-256 now"]
    before, base = numbers["sample-256 before"], numbers["base"]
    machine = f"{made_by['device']}, {made_by['threads']} threads, torch {made_by['versions']['torch']}"
    choices = "\n".join(f"    {line}" for line in numbers["equality"]["choices"])
    text = f"""# Performance

Written by `python scripts/bench.py --base {base} --page`: {machine}, float32. *Before* is
commit {base}, measured in turn with today's. `make bench BASE=COMMIT` compares with any other. Nothing here was
measured on a GPU.

**The floor** is the time of the dense products alone: each matrix product and learned convolution of the call, forward
and backward, with its own shapes, by `torch.mm` and its like. A ratio to it is taken in one process within seconds,
for times themselves vary by a fifth from hour to hour; it is the median, in brackets the lowest and the highest.
Memory is the peak of the whole process, some 0.6 GB of it PyTorch.

## Sampling

One 256 × 256 picture, published FFHQ-256 widths, seven rounds: **{_ratio(sampling)} times the floor** of
{sampling["floor"]:.2f} s; before {_ratio(before)}. Each change taken out of today's code, the others left in:

{_changes(numbers)}

Ratios to the floor at 256 × 256: without the change → with it. What is predicted is of the sampling, from the
profile of before.

Where the time went, in the ten operators that took most of one picture:

{_profile(numbers)}

`addmm` and `mm` are the floor.

## Forward and backward

The generator alone, gradients of all weights:

{_generators(numbers)}

## Training step

Both networks, DiffAugment or bCR as configured, a step without R1 (every 16th has it, and makes the peak).
*Checkpointed*: with `checkpoint_levels` of the two finest levels, where most of the memory is.

{_steps(numbers)}

## Scaling

{_scaling(numbers)}

From 128 to 1024 the cost of a multiply-accumulate stays within {_spread(numbers):.2f} ×.

## Equality

Relative errors of float32 against the definition in float64; the golden values of the authors' code are unchanged.
Checkpointing is equal bit for bit, accumulation and `compile` within 1e-4 of the gradients (`tests/test_training.py`).

{_errors(numbers)}

## What `auto` takes

{choices}

On a CPU nothing competes with `tiled`: FlexAttention has no backward pass there and fills the whole attention matrix,
NATTEN has no bias. The second line is after a backend was injected whose logits are 1 % too large.

## Tried, and left out

- Channels-last convolutions and a separable FIR in the discriminator: within 1 % of today's on this CPU, and R1 slower.
  On a GPU the discriminator is channels-last.
- AdaIN by `batch_norm`: three times as fast, but its sums are off by up to 6e-5.
- Huge pages: 4 %, and an environment variable that users would have to set.
- Reuse for R1: nothing is at hand, as the discriminator has moved since its own step and R1 wants float32. bCR reuses
  the logits of the plain pictures.
- Smaller and larger tiles and chunks than those in `stylenat/attention/tiled.py`: slower at most shapes.
"""
    write_atomically(workspace("docs", "performance.md"), text)
