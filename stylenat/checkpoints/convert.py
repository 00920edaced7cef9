"""A checkpoint as a model folder (safetensors, `model.json`, a model card) or as a published `.pt`."""

import hashlib
import io
import json
from pathlib import Path

import torch

from stylenat.attention.partitions import format_partitions
from stylenat.checkpoints.load import CARD, build, open_checkpoint
from stylenat.checkpoints.model_card import model_card
from stylenat.checkpoints.published import write_contents
from stylenat.checkpoints.tensors import save_tensors
from stylenat.errors import UserError
from stylenat.paths import workspace, write_atomically
from stylenat.reporting.records import read_record
from stylenat.sampling.sample import MEAN_STYLES, mean_style


def convert(source, target, *, partitions=None, compact=False):
    """Write the checkpoint `source` anew and return the path.

    A `target` that ends in `.pt` becomes a file in the published layout that `source` had (a run: the new
    one), any other a model folder: `g_ema.safetensors` with its mean style, `g` and `d` where they are to be
    had, `model.json` and `README.md`, the model card.

    Args:
        source: see `stylenat.pretrained.open_checkpoint`.
        partitions: see `stylenat.pretrained.load_generator`.
        compact: the averaged generator alone, in float16.

    Raises:
        UserError: as `load_generator`; a target that exists and is no model folder.
    """
    checkpoint, target = open_checkpoint(source), Path(target).expanduser()
    as_pt = target.suffix in (".pt", ".pth")
    if target.exists() and (
        as_pt or not target.is_dir() or (any(target.iterdir()) and not (target / CARD).is_file())
    ):
        raise UserError(f"{target} exists already and is no model folder: give a new one")
    names = [name for name in ("g_ema", "g", "d") if name in checkpoint.networks]
    if names[:1] != ["g_ema"]:
        raise UserError(f"{checkpoint.path} has no network 'g_ema' to convert: it holds {', '.join(names)}")
    generator = build(checkpoint, "g_ema", partitions)
    networks = {"g_ema": generator.state_dict()}
    networks |= {name: checkpoint.tensors(name) for name in names[1:] if not compact}
    if compact:
        networks["g_ema"] = {name: tensor.half() for name, tensor in networks["g_ema"].items()}
        generator.load_state_dict(networks["g_ema"])  # the mean style is that of the weights as stored
    if as_pt:
        buffer = io.BytesIO()
        torch.save(write_contents(networks, generator.partitions, checkpoint.facts.get("layout")), buffer)
        write_atomically(target, buffer.getvalue())
        return target
    networks["g_ema"]["mean_style"] = mean_style(generator)
    for name, tensors in networks.items():
        save_tensors(target / f"{name}.safetensors", tensors)
    facts = _facts(checkpoint, generator, networks)
    write_atomically(target / "README.md", model_card(facts))
    write_atomically(
        target / CARD, json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    )  # last: now it is one
    return target


def _facts(checkpoint, generator, networks):
    """What `model.json` holds: all that is known of a model."""
    known = {key: value for key, value in checkpoint.facts.items() if key not in ("partitions", "files")}
    config = known.get("config", {})
    path = workspace("results", "runs", str(known.get("source")), "result.json")
    if config and path.is_file():
        record = read_record(path)
        if record.nimg == known["nimg"] and record.config == config:
            recorded = record.to_dict()
            known |= {name: recorded[name] for name in ("score", "dataset", "minutes", "device", "commit")}
    if checkpoint.path.is_file():
        known.setdefault("source_sha256", _sha256(checkpoint.path))
    return {
        **known,
        "resolution": generator.resolution,
        "widths": list(generator.widths),
        "latent_dim": generator.latent_dim,
        "partitions": list(map(format_partitions, generator.partitions)),
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "mean_style": {"styles": MEAN_STYLES, "seed": 0},
        "networks": list(networks),
        "precision": str(networks["g_ema"]["input.input"].dtype).removeprefix("torch."),
    }


def _sha256(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
