"""docs/performance.md, from the numbers that scripts/bench.py keeps in results/performance.json."""

import json

from matplotlib.figure import Figure

from stylenat.figures.samples import GRAY, WIDTH
from stylenat.figures.style import save
from stylenat.paths import workspace, write_atomically
from stylenat.provenance import provenance

SAMPLES = {f"sample-{side}": f"sample, {side} × {side}" for side in (64, 128, 256, 512, 1024)}
GENERATORS = {
    "generator-64": "64 × 64, batch 2",
    "generator-128": "128 × 128, batch 1",
    "generator-256": "256 × 256, batch 1",
}
STEPS = {
    "step-noto-32": "`noto-32`, batch 16",
    "step-noto-64": "`noto-64`, batch 16",
    "step-64": "published widths, 64 × 64, batch 4",
    "step-128": "published widths, 128 × 128, batch 4",
}
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
    return _table(["", *HEAD], [[title, *_cells(numbers, case)] for case, title in GENERATORS.items()])


def _steps(numbers):
    rows = []
    for case, title in STEPS.items():
        frugal = numbers[f"{case} checkpointed"]
        rows.append([title, *_cells(numbers, case), f"{frugal['seconds']:.3g} s", _memory(frugal)])
    return _table(["", *HEAD, "checkpointed", "peak"], rows)


def _scaling(numbers):
    rows = []
    for case, title in SAMPLES.items():
        found, before = numbers[f"{case} now"], numbers[f"{case} before"]
        cost = 1e12 * found["seconds"] / found["macs"]
        cells = f"{found['macs'] / 1e9:.1f}", f"{found['seconds']:.2f} s", f"{cost:.1f} ps", _ratio(found)
        cells += _memory(found), f"{before['seconds']:.2f} s", _memory(before)
        rows.append([title, *cells])
    head = ["", "GMAC", "time", "per MAC", "× floor", "peak", "before", "peak"]
    return _table(head, rows)


def _growth(numbers, key):
    """The most that `key` takes a multiply-accumulate from 128 to 1024, by the least."""
    found = [numbers[f"sample-{side} now"] for side in (128, 256, 512, 1024)]
    costs = [each[key] / each["macs"] for each in found]
    return max(costs) / min(costs)


def _profile(numbers):
    rows = []
    for pair in zip(numbers["profile before"], numbers["profile now"], strict=True):
        rows.append([])
        for name, milliseconds, calls in pair:
            rows[-1] += f"`{name.split('::')[-1]}`", f"{milliseconds:.0f}", f"{calls:,}"
    return _table(["before", "ms", "calls", "now", "ms", "calls"], rows)


def _errors(numbers):
    rows = [
        [name, f"{output:.0e}", f"{max(gradients):.0e}" if gradients else "–"]
        for name, (output, *gradients) in numbers["equality"]["errors"].items()
    ]
    return _table(["", "output", "worst gradient"], rows)


def _image(numbers):
    """Every case's ratio to the floor, before and now."""
    titles = SAMPLES | {case: f"forward + backward, {title}" for case, title in GENERATORS.items()}
    titles |= {case: f"step, {title.replace('`', '')}" for case, title in STEPS.items()}
    figure = Figure((WIDTH, 4), layout="constrained")
    axes = figure.add_subplot()
    for state, color in (("before", GRAY), ("now", "#0072B2")):
        found = [numbers[f"{case} {state}"] for case in titles]
        axes.hlines(range(len(found)), [f["low"] for f in found], [f["high"] for f in found], color=color)
        axes.scatter([f["ratio"] for f in found], range(len(found)), color=color, label=state)
    axes.axvline(1, color="black", linewidth=1, label="floor")
    axes.set_yticks(range(len(titles)), titles.values())
    axes.set(xlim=(0, None), xlabel="times the floor; lines: lowest to highest")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def write_page():
    """Write docs/performance.md and its image, figures/performance.png.

    Raises:
        KeyError: a case was not measured yet.
    """
    numbers = kept()
    made_by, sampling = numbers["made by"], numbers["sample-256 now"]
    before, base = numbers["sample-256 before"], numbers["base"]
    machine = f"{made_by['device']}, {made_by['threads']} threads, torch {made_by['versions']['torch']}"
    choices = "\n".join(f"    {line}" for line in numbers["equality"]["choices"])
    text = f"""# Performance

Written by `python scripts/bench.py --base {base} --page`: {machine}, float32.
*Before* is commit {base}, measured in turn with today's; `make bench BASE=COMMIT` compares with any other.
Nothing here was measured on a GPU.

**The floor** is the time of the dense products alone: each matrix product and learned convolution of the
call, forward and backward, with its own shapes, by `torch.mm` and its like. A ratio to it is taken in one
process within seconds, for times themselves vary by a fifth from hour to hour. It is the median; in brackets
are the lowest and the highest. Memory is the peak of the whole process, some 0.6 GB of it PyTorch.

![Every case's ratio to the floor](../figures/performance.png)

## Sampling

One 256 × 256 image, published FFHQ-256 widths, seven rounds: **{_ratio(sampling)} times the floor** of
{sampling["floor"]:.2f} s; before {_ratio(before)}. Each change taken out of today's code, the others left in:

{_changes(numbers)}

Ratios to the floor at 256 × 256: without the change → with it. The predictions are for sampling, from the
profile of before:

{_profile(numbers)}

These are the ten operators that took most of one image; `addmm` and `mm` are the floor.

## Forward and backward

The generator alone, gradients of all weights:

{_generators(numbers)}

## Training step

Both networks, DiffAugment or bCR as configured, a step without R1 (every 16th has it, and makes the peak).
*Checkpointed*: `checkpoint_levels` of the two finest levels, where most of the memory is.

{_steps(numbers)}

## Scaling

{_scaling(numbers)}

From 128 to 1024 the cost of a multiply-accumulate grows {_growth(numbers, "seconds"):.2f} ×, more than the
1.3 × aimed at. The dense products alone, by the same count, grow {_growth(numbers, "floor"):.2f} ×: at 32 and
64 channels they wait for memory. The rest is what takes time but multiplies little: norms, and the softmax of
attention, over 100 keys a query to have the 49 of its window.

## Equality

Relative errors of float32 against the definition in float64. The golden values of the authors' code hold
unchanged. Checkpointing is equal bit for bit, accumulation and `compile` to rounding
(`tests/test_training.py`).

{_errors(numbers)}

## What `auto` takes

{choices}

On a CPU nothing competes with `tiled`: FlexAttention has no backward pass there, fills the whole attention
matrix or, compiled, takes 5 to 24 times as long (two heads, 64 to 256 pixels); NATTEN has no bias. The second
line is after a backend was injected whose logits are 1 % too large.

## Tried, and left out

- `torch.compile` on a CPU: exact, but slower (1.8 instead of 1.4 times the floor at 256 × 256, 3.3 instead of
  2.1 at 1024 × 1024): its MLP holds the whole hidden layer, which leaves the caches.
- Channels-last convolutions and a separable FIR in the discriminator: within 1 % on a CPU, and R1 slower.
  On a GPU the discriminator is channels-last.
- AdaIN by `batch_norm`: three times as fast, but off by up to 6e-5.
- Linear layers as 1 × 1 convolutions of oneDNN: a third faster at 32 channels, a tenth elsewhere, but no gain
  in the MLP, where most of the time is.
- Huge pages: 4 %, and an environment variable that users would have to set.
- Reuse for R1: nothing is at hand, as the discriminator has moved since its own step and R1 wants float32.
  bCR reuses the logits of the plain images.
- Tiles of 8 × 8 queries: fewer copies of the halo, but 196 keys a query instead of 100; slower in both
  directions.
- Tiles that share their halo in memory, in bands side by side or one below the other, with or without margins
  that make border tiles like all others: attention a tenth faster at 256 × 256, but slower at 32 × 32 and at
  1024 × 1024, and half as long again to read.
- AdaIN by slices of tokens: a sixth faster, 1 % of an image.
"""
    write_atomically(workspace("docs", "performance.md"), text)
    save(_image(numbers), "performance")
