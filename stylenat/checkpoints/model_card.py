"""The model card of a model folder: what `model.json` holds, for readers."""

from typing import Any

from stylenat.attention.partitions import Full, parse_partitions, resolutions
from stylenat.data.catalog import NAMED
from stylenat.evaluation.metrics import Score
from stylenat.paths import to_json
from stylenat.reporting.markdown import table

# Settings that a schedule is known by.
SHOWN = ("batch_size", "generator_lr", "discriminator_lr", "r1_gamma", "bcr_weight", "diffaugment", "seed")


def model_card(facts: dict[str, Any]) -> str:
    """The model card, Markdown.

    Args:
        facts: what `model.json` holds.
    """
    config = facts.get("config", {})
    size = facts["resolution"]
    psi = _if(" --psi 0.7", facts["mean_style"])
    return f"""---
library_name: stylenat
pipeline_tag: unconditional-image-generation
license: {"mit" if config.get("data") in NAMED else "other"}
---

# {facts.get("generator", "StyleNAT")} generator, {size} × {size}

{facts["parameters"]:,} parameters, {facts["precision"]}; networks: {", ".join(facts["networks"])}.
Made from `{facts["source"]}`{_if(", sha256 `{}`", facts.get("source_sha256"))}.

{_levels(facts)}

## How it was trained

- Data: {_data(facts)}
- Images shown: {_if("{:,}", facts.get("nimg")) or "not recorded in the file"}
- Schedule: {_schedule(config, facts.get("settings"))}
- Cost: {_if("{:.0f} minutes on ", facts.get("minutes"))}{facts.get("device", "not recorded in the file")}

## How it was scored

{_score(facts.get("score"))}

## License

{_license(config)}

## Use

```sh
python -m stylenat sample PATH --seeds 0-15{psi} --out samples
```

{_images(facts["mean_style"])}
"""


def _images(mean_style: dict[str, Any] | None) -> str:
    """What images are, and what truncation moves towards."""
    if not mean_style:
        return "Images come out ImageNet-normalized. There is no mapping network, and so no truncation."
    return (
        "Images come out ImageNet-normalized; truncation moves towards the mean of "
        f"{mean_style['styles']:,}\nstyles of seed {mean_style['seed']}, stored as `mean_style`."
    )


def _levels(facts: dict[str, Any]) -> str:
    """The table of levels, with the partitions of StyleNAT's generator."""
    widths = facts["widths"]
    rows = []
    sides = facts.get("resolutions") or resolutions(len(widths))  # StyleNAT's are not stored
    for side, width in zip(sides, widths, strict=True):
        rows.append([str(side), str(width)])
    head = ["level", "channels"]
    if "partitions" in facts:
        head.append("heads x kernel @ dilation")
        for row, text in zip(rows, facts["partitions"], strict=True):
            row.append(_attention(text))
    return table(head, rows, text_columns=(2,))


def _attention(text: str) -> str:
    """A level's partitions as the card shows them."""
    first = parse_partitions(text)[0]
    return f"{first.heads} heads, full attention" if isinstance(first, Full) else text


def _if(text: str, value: object) -> str:
    """The text with a value in it; empty where the value is not known."""
    return "" if value is None else text.format(value)


def _data(facts: dict[str, Any]) -> str:
    if dataset := facts.get("dataset"):
        manifest = _if(", manifest `{}`", dataset.get("manifest"))
        return f"{dataset['name']}, {dataset['resolution']} pixels{manifest}"
    return facts.get("config", {}).get("data") or "not recorded in the file"


def _schedule(config: dict[str, Any], settings: dict[str, Any] | None) -> str:
    if config:
        return ", ".join(f"{name} {config[name]}" for name in SHOWN)
    return f"`{to_json(settings)}`" if settings else "not recorded in the file"


def _score(entry: dict[str, Any] | None) -> str:
    if not entry:
        return "Not scored by this project."
    score = Score.from_dict(entry)
    lines = []
    for key, value in score.values.items():
        line = f"- {key.title}: {value.value:.4g} ± {value.error:.2g}"
        if value.real_vs_real is not None and value.noise is not None:
            line += f" (real vs real {value.real_vs_real:.4g}, noise {value.noise:.4g})"
        lines.append(line)
    notes: dict[str, None] = {}  # in order, without repetition
    for own in score.protocol["metrics"].values():
        psi = score.protocol["truncation_psi"]
        notes[f"{own['note']}. {own['network']}; {own['generated']}, psi {psi}, float32 weights."] = None
    return "\n".join([*lines, "", *notes])


def _license(config: dict[str, Any]) -> str:
    named = NAMED.get(config.get("data", ""))
    if named:
        return f"Weights: MIT, as the code. Trained on {named.art}."
    return "The file names none: the terms of whoever trained these weights hold, and those of the data."
