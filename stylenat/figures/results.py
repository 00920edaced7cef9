"""Every figure, one function each: the same data give the same image, to the byte."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from stylenat.attention.reference import receptive_field
from stylenat.evaluation.metrics import TITLES
from stylenat.figures.attention import head_parts
from stylenat.figures.samples import GRAY, WIDTH
from stylenat.figures.style import COLORS, _style
from stylenat.paths import workspace
from stylenat.reporting.tables import published, variant

LOSSES = {"loss_g": "generator", "loss_d": "discriminator"}
# Where a bubble's name stands, in points from its center, clear of every other.
LABELS = {"StyleNAT": (0, 34), "StyleSwin": (0, 34), "StyleGAN-XL": (0, 38), "HiT-L": (0, 43)}


def _thousands(axes):
    axes.set_xlabel("images shown")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x else "0")


def _bounds(axes, value, color):
    """Floor and ceiling of a score as dashed and dotted lines."""
    for part, dashes in (("floor", (4, 3)), ("ceiling", (1, 2))):
        if value.get(part) is not None:
            axes.axhline(value[part], color=color, linewidth=1.1, dashes=dashes)


def _legend_below(axes, extra=()):
    handles = [*axes.get_legend_handles_labels()[0], *extra]
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, frameon=False, fontsize=9,
        columnspacing=1.1, handlelength=1.6, handletextpad=0.5,
    )  # fmt: skip


def training_curves(metrics, history):
    """Losses (left) and FD-lite0 with its 95 % interval (right) against the images shown.

    Args:
        metrics: DataFrame with `nimg`, `loss_g`, `loss_d`; a thick line is a running mean over 1/20.
        history: a list of `{"nimg": …, "fd_lite0_128_train": {"value", "low", "high", "floor", …}, …}`.
    """
    figure = Figure((WIDTH, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, told), color in zip(LOSSES.items(), COLORS, strict=False):
        values = metrics[name].astype(float)
        smooth = values.rolling(max(1, len(values) // 20), min_periods=1, center=True).mean()
        left.plot(metrics["nimg"], values, color=color, alpha=0.2, linewidth=0.7)
        left.plot(metrics["nimg"], smooth, color=color, linewidth=1.8, label=told)
    left.set_title("losses", loc="left", fontsize=11)
    shown = [key for key in TITLES if key.startswith("fd_lite0") and any(key in row for row in history)]
    for key, color, marker in zip(shown, COLORS, "os^D", strict=False):
        rows = [row for row in history if key in row]
        nimg = [row["nimg"] for row in rows]
        values, low, high = ([row[key][part] for row in rows] for part in ("value", "low", "high"))
        label = TITLES[key][0].split(", ")[1]
        right.fill_between(nimg, low, high, color=color, alpha=0.15, linewidth=0)
        right.plot(nimg, values, color=color, marker=marker, markersize=4, label=label)
        _bounds(right, rows[-1][key], color)
    right.set_title("FD-lite0@128 (not FID; lower is better)", loc="left", fontsize=11)
    right.set_ylim(bottom=0)
    for axes in (left, right):
        _style(axes)
        _thousands(axes)
    _legend_below(left)
    lines = (("floor (real)", (4, 3)), ("ceiling (noise)", (1, 2)))
    _legend_below(
        right, [Line2D([], [], color=GRAY, linewidth=1.1, dashes=d, label=told) for told, d in lines]
    )
    return figure


def bubble_chart():
    """The bubble chart of the SHI-Labs/StyleNAT README, redrawn from results/paper.csv (FFHQ-256)."""
    paper = published().query("dataset == 'FFHQ' and resolution == 256")
    table = paper.pivot(index="system", columns="quantity", values="value").dropna(
        subset=["throughput", "fid"]
    )
    figure = Figure((WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    area = 24.0  # square points a million parameters
    for (system, row), color in zip(table.loc[list(LABELS)].iterrows(), COLORS, strict=False):
        point = (row["throughput"], row["fid"])
        axes.scatter(
            *point, s=area * row["parameters"], color=color, alpha=0.75, edgecolor="white", linewidth=1.5
        )
        axes.annotate(
            f"{system}\n{row['parameters']:.1f} M, FID {row['fid']:.2f}",
            point, xytext=LABELS[system], textcoords="offset points", ha="center", va="center", fontsize=10,
        )  # fmt: skip
    axes.set(xlim=(11, 36), ylim=(1.7, 3.1))
    axes.set_xlabel("throughput, images a second (more is better →)", fontsize=11)
    axes.set_ylabel("FFHQ-256 FID (← less is better)", fontsize=11)
    arrow = {"arrowstyle": "-|>", "color": GRAY, "linewidth": 1.5}
    axes.annotate(
        "better ", (27, 2.1), (24, 2.3), color=GRAY, ha="right", va="bottom", fontsize=11, arrowprops=arrow
    )
    axes.text(11.4, 1.85, "parameters", color=GRAY, va="center")
    for size, x in ((25, 15.0), (50, 16.8), (100, 19.3)):
        axes.scatter(x, 1.85, s=area * size, color="#dcdcdc")
        axes.text(x, 1.85, f"{size} M", ha="center", va="center", fontsize=8, color="#333333")
    axes.set_title(
        "Published numbers; nothing here was measured by this project", loc="left", fontsize=10, color=GRAY
    )
    _style(axes)
    return figure


def receptive_fields(partitions, height, width, queries):
    """Which keys each partition's heads see: a row a query, a column a partition, and all heads together.

    Args:
        partitions: a level's tuple of `HeadPartition`.
        queries: `{"name": (row, column)}`; the query is the black square.
    """
    columns = len(partitions) + 1
    side = (WIDTH - 0.3) / columns
    figure = Figure((WIDTH, side * len(queries) + 0.3), layout="constrained")
    panels = figure.subplots(len(queries), columns, squeeze=False)
    for row, (name, query) in zip(panels, queries.items(), strict=True):
        seen = [np.asarray(receptive_field(part, height, width, query)) for part in partitions]
        together = np.zeros((height, width), int)
        for i, mask in reversed(list(enumerate(seen, start=1))):
            together[mask] = i  # where neighborhoods overlap, the first partition's color is on top
        for axes, index in zip(
            row, [*(i * mask for i, mask in enumerate(seen, start=1)), together], strict=True
        ):
            _field(axes, index, query, len(partitions))
        row[0].set_ylabel(name, fontsize=11)
    for axes, part in zip(panels[0], head_parts(partitions), strict=False):
        axes.set_title(part.title, fontsize=10)
    panels[0][-1].set_title("all heads together", fontsize=10)
    return figure


def _field(axes, index, query, partitions):
    """One panel: `index` is 0 where nothing is seen, else the number of the partition that sees the key."""
    height, width = index.shape
    colors = ListedColormap(["#f3f3f3", *COLORS[:partitions]])
    axes.pcolormesh(index, cmap=colors, vmin=0, vmax=partitions, edgecolors="white", linewidth=0.4)
    axes.add_patch(Rectangle((query[1], query[0]), 1, 1, color="black"))
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _samples(record):
    """The run's committed samples as `(H, W, 3)` uint8, or None where it has none."""
    path = workspace("results", "runs", record["run_id"], "samples.png")
    return np.asarray(Image.open(path).convert("RGB")) if path.is_file() else None


def ablation_comparison(records):
    """Samples of every variant side by side, and below them each run's scores beside the floor.

    Args:
        records: records with "ablation" (see `stylenat.results.variant`); a variant may have several seeds.
    """
    variants = {}
    for record in records:
        variants.setdefault(variant(record), []).append(record)
    samples = [_samples(group[0]) for group in variants.values()]
    height = (
        WIDTH / len(variants) * max((s.shape[0] / s.shape[1] for s in samples if s is not None), default=0)
        + 0.3
    )
    figure = Figure((WIDTH, height + 3.0), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(height, 3.0))
    panels = top.subplots(1, len(variants), squeeze=False)[0]
    for i, (axes, name, image) in enumerate(zip(panels, variants, samples, strict=True)):
        if image is not None:
            axes.imshow(image, interpolation="nearest")
        axes.set_title(name, fontsize=11, color=COLORS[i % len(COLORS)])
        axes.set_axis_off()
    keys = [key for key in TITLES if any(key in record["score"]["values"] for record in records)]
    for axes, key in zip(bottom.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        _points(axes, variants, key)
    bottom.supxlabel("a dot a run; dashed: floor, real against real; lower is better", fontsize=9, color=GRAY)
    return figure


def _points(axes, variants, key):
    """A dot a run, a column a variant, and the floor."""
    for i, group in enumerate(variants.values()):
        values = [record["score"]["values"][key]["value"] for record in group]
        axes.plot([i] * len(values), values, "o", color=COLORS[i % len(COLORS)], markersize=7, alpha=0.8)
    axes.axhline(group[0]["score"]["values"][key]["floor"], color=GRAY, linewidth=1, dashes=(4, 3))
    title, split = TITLES[key][0].split(", ")
    axes.set_title(f"{title}\n{split}", fontsize=9, loc="left")
    axes.set_xticks(range(len(variants)), list(variants), fontsize=8, rotation=20 if len(variants) > 2 else 0)
    axes.set(xlim=(-0.6, len(variants) - 0.4))
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.tick_params(axis="y", labelsize=8)
    _style(axes)
