"""Figures of the records and of the published numbers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image

from stylenat.attention.partitions import HeadPartition, Partition, format_partitions
from stylenat.attention.reference import receptive_field
from stylenat.errors import UserError
from stylenat.evaluation.metrics import SCORE_KEYS, ScoreKey, ScoreValue
from stylenat.figures.attention import head_parts
from stylenat.figures.style import COLORS, GRAY, WIDTH, plain_axes
from stylenat.reporting.generators import COMPARED
from stylenat.reporting.paper import Key, PublishedNumbers, published
from stylenat.reporting.rates import Comparison
from stylenat.reporting.records import HistoryEntry, RunRecord
from stylenat.reporting.tables import group_records, shown_keys

LOSSES = {"loss_g": "generator", "loss_d": "discriminator"}
# Where a bubble's name stands, in points from its center, clear of every other.
LABELS = {"StyleNAT": (0, 34), "StyleSwin": (0, 34), "StyleGAN-XL": (0, 38), "HiT-L": (0, 43)}
# Rates differ from machine to machine, so that what keeps these apart are the FIDs.
MEASURED_LABELS = {
    "ffhq-256": (0, -36),
    "styleswin-256": (0, 36),
    "hit-b": (0, 36),
    "hit-l": (0, -44),
    "stylegan-xl-a": (0, 32),
    "stylegan-xl-e": (0, -38),
}
BUBBLE = 24.0  # square points a million parameters
SCORES_A_ROW = 4  # of the ablation
REAL_VS_REAL_DASHES = (4, 3)
NOISE_DASHES = (1, 2)


def _thousands(axes: Axes) -> None:
    axes.set_xlabel("images shown")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x else "0")


def _draw_limits(axes: Axes, value: ScoreValue, color: str) -> None:
    """The real-vs-real baseline of a score as a dashed line, that of noise as a dotted one."""
    for limit, dashes in ((value.real_vs_real, REAL_VS_REAL_DASHES), (value.noise, NOISE_DASHES)):
        if limit is not None:
            axes.axhline(limit, color=color, linewidth=1.1, dashes=dashes)


def _legend_below(axes: Axes, extra: Sequence[Line2D] = ()) -> None:
    handles = [*axes.get_legend_handles_labels()[0], *extra]
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, frameon=False, fontsize=9,
        columnspacing=1.1, handlelength=1.6, handletextpad=0.5,
    )  # fmt: skip


def training_curves(log: pd.DataFrame, history: Sequence[HistoryEntry]) -> Figure:
    """Losses (left) and FD-lite0 with its 95 % interval (right) against the images shown.

    Args:
        log: the training log, with `nimg`, `loss_g`, `loss_d`; a thick line is a running mean over 1/20.
        history: the scored snapshots.

    Raises:
        UserError: a loss that is not finite.
    """
    figure = Figure((WIDTH, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_losses(left, log)
    shown = [key for key in SCORE_KEYS if key.metric == "fd-lite0"]
    for key, color, marker in zip(shown, COLORS, "os^D", strict=False):
        _draw_history(right, history, key, color, marker)
    right.set_title("FD-lite0@128 (not FID; lower is better)", loc="left", fontsize=11)
    right.set_ylim(bottom=0)
    for axes in (left, right):
        plain_axes(axes)
        _thousands(axes)
    _legend_below(left)
    limits = (("real vs real", REAL_VS_REAL_DASHES), ("noise", NOISE_DASHES))
    extra = [Line2D([], [], color=GRAY, linewidth=1.1, dashes=dashes, label=name) for name, dashes in limits]
    _legend_below(right, extra)
    return figure


def _draw_losses(axes: Axes, log: pd.DataFrame) -> None:
    for (name, label), color in zip(LOSSES.items(), COLORS, strict=False):
        values = log[name].astype(float)
        if not np.isfinite(values).all():
            raise UserError(f"the log's {name} holds NaN or infinity: restore log.csv or score the run again")
        smooth = values.rolling(max(1, len(values) // 20), min_periods=1, center=True).mean()
        axes.plot(log["nimg"], values, color=color, alpha=0.2, linewidth=0.7)
        axes.plot(log["nimg"], smooth, color=color, linewidth=1.8, label=label)
    axes.set_title("losses", loc="left", fontsize=11)


def _draw_history(
    axes: Axes, history: Sequence[HistoryEntry], key: ScoreKey, color: str, marker: str
) -> None:
    """One score over the snapshots that have it: values, interval and limits."""
    entries = [entry for entry in history if key in entry.values]
    if not entries:
        return
    nimg = [entry.nimg for entry in entries]
    scores = [entry.values[key] for entry in entries]
    low = [score.low for score in scores]
    high = [score.high for score in scores]
    axes.fill_between(nimg, low, high, color=color, alpha=0.15, linewidth=0)
    values = [score.value for score in scores]
    axes.plot(nimg, values, color=color, marker=marker, markersize=4, label=key.split_title)
    _draw_limits(axes, scores[-1], color)


def bubble_chart() -> Figure:
    """The bubble chart of the SHI-Labs/StyleNAT README, redrawn from results/paper.csv (FFHQ-256)."""
    paper = published().query("dataset == 'FFHQ' and resolution == 256")
    table = paper.pivot(index="system", columns="quantity", values="value").dropna(
        subset=["throughput", "fid"]
    )
    figure, axes = _bubble_axes("Published numbers; nothing here was measured by this project")
    for (system, row), color in zip(table.loc[list(LABELS)].iterrows(), COLORS, strict=False):
        name = f"{system}\n{row['parameters']:.1f} M, FID {row['fid']:.2f}"
        _bubble(axes, (row["throughput"], row["fid"]), row["parameters"], color, name, LABELS[str(system)])
    axes.set(xlim=(11, 36), ylim=(1.7, 3.1))
    arrow = {"arrowstyle": "-|>", "color": GRAY, "linewidth": 1.5}
    axes.annotate(
        "better ", (27, 2.1), (24, 2.3), color=GRAY, ha="right", va="bottom", fontsize=11, arrowprops=arrow
    )
    axes.text(11.4, 1.85, "parameters", color=GRAY, va="center")
    for size, x in ((25, 15.0), (50, 16.8), (100, 19.3)):
        axes.scatter(x, 1.85, s=BUBBLE * size, color="#dcdcdc")
        axes.text(x, 1.85, f"{size} M", ha="center", va="center", fontsize=8, color="#333333")
    return figure


def measured_bubble_chart(comparison: Comparison, numbers: PublishedNumbers) -> Figure:
    """The same chart with rates and parameters of this repository's generators, beside the published FIDs.

    Args:
        comparison: of the compared generators; others are left out. A line is least to greatest.
        numbers: of results/paper.csv.
    """
    machine = f"{comparison.device}, {comparison.threads} thread{'s' * (comparison.threads != 1)}"
    figure, axes = _bubble_axes(f"Throughput and parameters measured here ({machine}); FIDs as published")
    presets = [preset for preset in comparison.presets if preset in COMPARED]
    for index, preset in enumerate(presets):
        first = comparison.of(preset)[0]
        rate = first.images_per_second
        fid = float(numbers[Key(COMPARED[preset], "fid")].value)
        size = first.parameters / 1e6
        color = COLORS[index % len(COLORS)]
        axes.hlines(fid, rate.low, rate.high, color=color, linewidth=2)
        name = f"{preset}\n{size:.1f} M, FID {fid:.2f}"
        _bubble(axes, (rate.median, fid), size, color, name, MEASURED_LABELS[preset])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.15)
    axes.set_ylim(1.7, 3.3)
    axes.set_xlabel(f"throughput, images a second at batch {comparison.rates[0].batch} (more is better →)")
    return figure


def _bubble_axes(title: str) -> tuple[Figure, Axes]:
    """An empty bubble chart."""
    figure = Figure((WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("throughput, images a second (more is better →)", fontsize=11)
    axes.set_ylabel("FFHQ-256 FID (← less is better)", fontsize=11)
    axes.set_title(title, loc="left", fontsize=10, color=GRAY)
    plain_axes(axes)
    return figure, axes


def _bubble(
    axes: Axes, point: tuple[float, float], size: float, color: str, name: str, shift: tuple[int, int]
) -> None:
    """A bubble whose area is of millions of parameters, with its name some points beside its center."""
    axes.scatter(*point, s=BUBBLE * size, color=color, alpha=0.75, edgecolor="white", linewidth=1.5)
    axes.annotate(
        name, point, xytext=shift, textcoords="offset points", ha="center", va="center", fontsize=10
    )  # fmt: skip


def receptive_fields(
    level: Sequence[Partition], height: int, width: int, queries: Mapping[str, tuple[int, int]]
) -> Figure:
    """Which keys each partition's heads see: a row a query, a column a partition, and all heads together.

    Args:
        level: its partitions, neighborhoods alone.
        height: tokens of the level.
        width: tokens of the level.
        queries: (row, column) by name; the query is the black square.

    Raises:
        UserError: a partition that is no neighborhood or does not fit the level, or a query outside of it.
    """
    partitions = [part for part in level if isinstance(part, HeadPartition)]
    if len(partitions) != len(level):
        raise UserError(
            f"receptive fields of {format_partitions(level)}: give neighborhoods, such as 2x7@1,2x7@4"
        )
    columns = len(partitions) + 1
    side = (WIDTH - 0.3) / columns
    figure = Figure((WIDTH, side * len(queries) + 0.3), layout="constrained")
    panels = figure.subplots(len(queries), columns, squeeze=False)
    for row, (name, query) in zip(panels, queries.items(), strict=True):
        together = np.zeros((height, width), int)
        # Where neighborhoods overlap, the first partition's color is on top: it is drawn last.
        for index in reversed(range(len(partitions))):
            seen = np.asarray(receptive_field(partitions[index], height, width, query))
            together[seen] = index + 1
            _draw_field(row[index], (index + 1) * seen, query, len(partitions))
        _draw_field(row[-1], together, query, len(partitions))
        row[0].set_ylabel(name, fontsize=11)
    for axes, part in zip(panels[0], head_parts(partitions), strict=False):
        axes.set_title(part.title, fontsize=10)
    panels[0][-1].set_title("all heads together", fontsize=10)
    return figure


def _draw_field(axes: Axes, index: np.ndarray, query: tuple[int, int], partitions: int) -> None:
    """One panel: `index` is 0 where nothing is seen, else the number of the partition that sees the key."""
    height, width = index.shape
    colors = ListedColormap(["#f3f3f3", *COLORS[:partitions]])
    axes.pcolormesh(index, cmap=colors, vmin=0, vmax=partitions, edgecolors="white", linewidth=0.4)
    axes.add_patch(Rectangle((query[1], query[0]), 1, 1, color="black"))
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def recorded_samples(record: RunRecord) -> np.ndarray | None:
    """The run's committed samples as `(H, W, 3)` uint8, or None where it has none.

    Raises:
        UserError: the file is damaged.
    """
    path = record.folder() / "samples.png"
    if not path.is_file():
        return None
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except Exception as error:  # Pillow's decoders raise a dozen kinds
        raise UserError(f"{path} is no readable image ({error}): restore it from git") from None


def ablation_comparison(records: Sequence[RunRecord]) -> Figure:
    """Samples of every variant side by side, and below them each run's scores beside the baseline.

    Args:
        records: runs of an ablation; a variant may have several seeds.

    Raises:
        UserError: runs of different data sets, or as of `group_records`.
    """
    groups = list(group_records(records))
    if len(groups) > 1:
        names = " and ".join(f"{name}, {side}" for name, side in groups[:2])
        ids = " and ".join(record.run_id for record in records)
        raise UserError(f"runs {ids} were trained on {names}: draw one data set at a time")
    variants: dict[str, list[RunRecord]] = {}
    for record in records:
        variants.setdefault(record.variant, []).append(record)
    samples = [recorded_samples(group[0]) for group in variants.values()]
    ratios = [sheet.shape[0] / sheet.shape[1] for sheet in samples if sheet is not None]
    height = WIDTH / len(variants) * max(ratios, default=0) + 0.3
    keys = shown_keys(records)
    rows = math.ceil(len(keys) / SCORES_A_ROW)
    figure = Figure((WIDTH, height + 3.0 * rows), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, 3.0 * rows))[:, 0]
    panels = top.subplots(1, len(variants), squeeze=False)[0]
    for index, (axes, name, image) in enumerate(zip(panels, variants, samples, strict=True)):
        if image is not None:
            axes.imshow(image, interpolation="nearest")
        axes.set_title(name, fontsize=11, color=COLORS[index % len(COLORS)])
        axes.set_axis_off()
    columns = min(len(keys), SCORES_A_ROW)
    for index, key in enumerate(keys):
        _draw_variants(bottom.add_subplot(rows, columns, index + 1), variants, key)
    bottom.supxlabel("a dot a run; dashed: real vs real; ↓ less is better, ↑ more", fontsize=9, color=GRAY)
    return figure


def _draw_variants(axes: Axes, variants: dict[str, list[RunRecord]], key: ScoreKey) -> None:
    """One score: a dot a run, a column a variant, and the baseline where there is one."""
    scores: list[ScoreValue] = []
    for index, group in enumerate(variants.values()):
        own = [record.values[key] for record in group if key in record.values]
        values = [score.value for score in own]
        axes.plot([index] * len(own), values, "o", color=COLORS[index % len(COLORS)], markersize=7, alpha=0.8)
        scores += own
    baseline = scores[0].real_vs_real
    if baseline is not None:
        axes.axhline(baseline, color=GRAY, linewidth=1, dashes=REAL_VS_REAL_DASHES)
    title = f"{key.metric_title} {key.arrow}"
    if key.split != "all":
        title += f"\n{key.split_title}"
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xticks(range(len(variants)), list(variants), fontsize=8, rotation=20 if len(variants) > 2 else 0)
    axes.set(xlim=(-0.6, len(variants) - 0.4))
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.tick_params(axis="y", labelsize=8)
    plain_axes(axes)
