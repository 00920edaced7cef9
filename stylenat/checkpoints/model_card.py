"""A checkpoint as a model folder (safetensors, `model.json`, a model card) or as a published `.pt`."""

import json

from stylenat.attention.partitions import Full, parse_partitions, resolutions
from stylenat.data.sources import BUNDLED
from stylenat.evaluation.metrics import TITLES


def model_card(facts):
    """The model card of what `model.json` holds, Markdown."""
    rows = []
    for side, width, text in zip(
        resolutions(len(facts["widths"])), facts["widths"], facts["partitions"], strict=True
    ):
        rows.append(f"| {side} | {width} | {_attention(text)} |")
    levels = "\n".join(rows)
    config, size = facts.get("config", {}), facts["resolution"]
    return f"""---
library_name: stylenat
pipeline_tag: unconditional-image-generation
license: {"mit" if config.get("data") == BUNDLED else "other"}
---

# StyleNAT generator, {size} × {size}

{facts["parameters"]:,} parameters, {facts["precision"]}; networks: {", ".join(facts["networks"])}.
Made from `{facts["source"]}`{_if(", sha256 `{}`", facts.get("source_sha256"))}.

| level | channels | heads x kernel @ dilation |
| --: | --: | :-- |
{levels}

## How it was trained

- Data: {_data(facts)}
- Images shown: {_if("{:,}", facts.get("nimg")) or "the file does not tell"}
- Schedule: {_schedule(config, facts.get("settings"))}
- Cost: {_if("{:.0f} minutes on ", facts.get("minutes"))}{facts.get("device", "the file does not tell")}

## How it was scored

{_score(facts.get("score"))}

## License

{_license(config)}

## Use

```sh
python -m stylenat sample PATH --seeds 0-15 --psi 0.7 --out samples
```

Images come out ImageNet-normalized; truncation moves towards the mean of {facts["mean_style"]["styles"]:,}
styles of seed {facts["mean_style"]["seed"]}, stored as `mean_style`.
"""


def _attention(text: str) -> str:
    """A level's partitions as the card shows them."""
    first = parse_partitions(text)[0]
    return f"{first.heads} heads, full attention" if isinstance(first, Full) else text


def _if(text, value):
    return "" if value is None else text.format(value)


def _data(facts):
    if dataset := facts.get("dataset"):
        return f"{dataset['name']}, {dataset['resolution']} pixels, manifest `{dataset['manifest']}`"
    return facts.get("config", {}).get("data") or "the file does not tell"


def _schedule(config, settings):
    if config:
        shown = (
            "batch_size",
            "generator_lr",
            "discriminator_lr",
            "r1_gamma",
            "bcr_weight",
            "diffaugment",
            "seed",
        )
        return ", ".join(f"{name} {config[name]}" for name in shown)
    return f"`{json.dumps(settings)}`" if settings else "the file does not tell"


def _score(score):
    if not score:
        return "Not scored by this project."
    lines = [
        f"- {TITLES[key][0]}: {row['value']:.4g} ± {row['error']:.2g}"
        + (f" (floor {row['floor']:.4g}, ceiling {row['ceiling']:.4g})" if "floor" in row else "")
        for key, row in score["values"].items()
    ]
    protocol = score["protocol"]
    notes = dict.fromkeys(
        f"{own['note']}. {own['network']}; {own['generated']}, psi {protocol['truncation_psi']}, "
        "float32 weights."
        for own in protocol["metrics"].values()
    )
    return "\n".join([*lines, "", *notes])


def _license(config):
    if config.get("data") == BUNDLED:
        return "Weights: MIT, as the code. Trained on Noto emoji (Apache-2.0)."
    return "The file names none: the terms of whoever trained these weights hold, and those of the data."
