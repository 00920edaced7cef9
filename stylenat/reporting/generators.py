"""The compared generators in tables: what was measured here and what is published, never in one column."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from stylenat.reporting import markdown
from stylenat.reporting.paper import Key, PublishedNumbers
from stylenat.reporting.rates import Comparison, Spread

# Presets and the systems that they are of, in the order of tables. Of StyleGAN-XL two, for which one has the
# published FID and rate is not known: its README's setting, and the one of the published size.
COMPARED = {
    "ffhq-256": "StyleNAT",
    "styleswin-256": "StyleSwin",
    "hit-b": "HiT-B",
    "hit-l": "HiT-L",
    "stylegan-xl-a": "StyleGAN-XL",
    "stylegan-xl-e": "StyleGAN-XL",
}
COMMAND = "python -m stylenat compare --record"
CHART = "![The same chart, with rates and parameters measured here](figures/bubble_chart_measured.png)"
NONE = f"None recorded yet: `{COMMAND}` measures it.\n"
LEGEND = (
    "Median over the rounds, in brackets least and greatest; every round calls every generator once at every "
    "batch size. GMAC: 10⁹ multiply-accumulates of an image, by learned weights, in attention and by fixed "
    "filters. Times matmul: the call by its products and convolutions of learned weights alone, next to it. "
    "Memory on a CPU is that of a whole process. Published rates: hardware, precision and batch size are "
    "stated nowhere."
)
FLOAT16 = (
    "The original StyleGAN-XL computes in float16 on a GPU, at this size in every layer (`--dtype float16`), "
    "and in float32 on a CPU."
)
FILTERS = (
    "They are polyphase filters in plain PyTorch: no zeros are put between samples, and no sample is "
    "computed that is not kept. The fused kernels of its authors, which need a GPU, are not here; this "
    "bounds what they could save."
)
CONDITIONS = ("device", "threads", "dtype", "tf32", "rounds")


def comparison_frame(comparisons: Sequence[Comparison], numbers: PublishedNumbers) -> pd.DataFrame:
    """Raw values, a row a generator and batch size, with measured and published ones in columns apart."""
    rows = []
    for comparison in comparisons:
        for rate in comparison.rates:
            row: dict[str, Any] = {"preset": rate.preset, "batch": rate.batch}
            row |= {
                name: getattr(comparison, name) for name in ("device", "threads", "dtype", "tf32", "rounds")
            }
            row |= {"parameters": rate.parameters, "weights_gmac": rate.weights_gmac}
            row |= {"attention_gmac": rate.attention_gmac, "filters_gmac": rate.filters_gmac}
            spreads = {
                "images_per_second": rate.images_per_second,
                "latency": rate.latency,
                "times_matmul": rate.times_matmul,
            }
            for name, spread in spreads.items():
                for part, value in spread._asdict().items():
                    row[f"{name}_{part}"] = value
            row |= {"filters_share": rate.filters_share, "peak_memory_bytes": rate.peak_memory_bytes}
            row |= {"backend": rate.backend, "torch": comparison.torch, "commit": comparison.commit}
            for quantity in ("parameters", "throughput"):
                number = numbers.get(Key(COMPARED.get(rate.preset, ""), quantity))
                row[f"published_{quantity}"] = float(number.value) if number else None
            rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["preset"])


def comparison_table(comparison: Comparison, numbers: PublishedNumbers) -> pd.DataFrame:
    """A comparison to read: a row a generator, the published parameters and rates in columns of their own."""
    rows = []
    for preset in comparison.presets:
        first = comparison.of(preset)[0]
        best = comparison.best(preset)
        counts = (first.weights_gmac, first.attention_gmac, first.filters_gmac)
        published = [
            numbers.get(Key(COMPARED.get(preset, ""), name)) for name in ("parameters", "throughput")
        ]
        rows.append(
            {
                "generator": preset,
                "parameters": f"{first.parameters:,}",
                "GMAC: weights, attention, filters": ", ".join(f"{count:.3g}" for count in counts),
                f"imgs/s, batch {first.batch}": _cell(first.images_per_second),
                "imgs/s, best batch": f"{best.images_per_second.median:.3g} at {best.batch}",
                "latency, s": _cell(first.latency),
                "times matmul": _cell(first.times_matmul),
                "peak memory, MiB": f"{first.peak_memory_bytes / 2**20:,.0f}",
                "published parameters (M)": str(published[0] or "–"),
                "published imgs/s": str(published[1] or "–"),
            }
        )
    return pd.DataFrame(rows)


def _cell(spread: Spread) -> str:
    return f"{spread.median:.3g} ({spread.low:.3g} – {spread.high:.3g})"


def filters_note(comparison: Comparison) -> str:
    """What StyleGAN-XL's filters take of its time, and so what a fused kernel could save at most."""
    sentences = []
    for preset in comparison.presets:
        first = comparison.of(preset)[0]
        if first.filters_share:
            rate = first.images_per_second.median
            free = rate / (1 - first.filters_share)
            sentences.append(
                f"{preset}'s filtered activations take {first.filters_share:.0%} of its time; were they "
                f"free, it would make {free:.3g} images a second instead of {rate:.3g}."
            )
    if not sentences:
        return ""
    return f"{' '.join(sentences)} {FILTERS}"


def comparison_text(comparisons: Sequence[Comparison], numbers: PublishedNumbers) -> str:
    """Every recorded comparison in Markdown: its table, its circumstances, and what to know beside it."""
    if not comparisons:
        return NONE
    sections = []
    for comparison in comparisons:
        table = comparison_table(comparison, numbers)
        rows = table.to_numpy().tolist()
        shown = markdown.table(list(table.columns), [[f"`{row[0]}`", *row[1:]] for row in rows])
        notes = " ".join(filter(None, (filters_note(comparison), FLOAT16)))
        sections.append(f"{shown}\n\nMeasured on {comparison.circumstances}. {notes}\n")
    return "\n".join(sections) + f"\n{LEGEND}\n"
