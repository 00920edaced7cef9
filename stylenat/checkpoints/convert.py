"""A checkpoint as a model folder (safetensors, `model.json`, a model card) or as a published `.pt`."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stylenat.attention.partitions import format_partitions
from stylenat.checkpoints.load import MODEL_FILE, Checkpoint, build_from, open_checkpoint
from stylenat.checkpoints.model_card import model_card
from stylenat.checkpoints.published import NETWORK_NAMES, published_contents
from stylenat.checkpoints.tensors import Tensors, check_finite, save_tensors
from stylenat.errors import UserError
from stylenat.models.base import Generator, count_parameters
from stylenat.models.stylenat import StyleNAT
from stylenat.paths import (
    check_writable,
    expand,
    making_folder,
    remove,
    sha256,
    sweep,
    temporary_path,
    to_json,
    write_atomically,
)
from stylenat.reporting.records import is_run_id, read_record, record_path
from stylenat.sampling.sample import MEAN_STYLES, mean_style

RECORDED = ("score", "dataset", "minutes", "device", "commit")  # what a model takes from its run's record


def convert(
    source: str | Path, target: str | Path, *, partitions: str | None = None, compact: bool = False
) -> Path:
    """Write a checkpoint in another form.

    A target that ends in `.pt` becomes a file in the published layout that the source had (a run: the new
    one), any other a model folder: `g_ema.safetensors` with its mean style, `g` and `d` where the source has
    them, `model.json` and `README.md`, the model card.

    Args:
        source: see `open_checkpoint`.
        target: a new folder, a model folder to replace, or a new file.
        partitions: see `load_generator`.
        compact: the averaged generator alone, in float16.

    Returns:
        The path of the target.

    Raises:
        UserError: as of `load_generator`; a target that exists and is no model folder; a `.pt` of a generator
            other than StyleNAT's, for which there is no published layout.
    """
    checkpoint = open_checkpoint(source)
    path = expand(target)
    as_pt = path.suffix.lower() in (".pt", ".pth")
    _check_target(path, as_pt)
    # Where a model is made before it is moved: next to its place, or in it.
    around = path if path.is_dir() and not is_model(path) else path.absolute().parent
    check_writable(path if as_pt else temporary_path(around))
    names = [name for name in NETWORK_NAMES if name in checkpoint.networks]
    if "g_ema" not in names:
        raise UserError(f"{checkpoint.path} has no network 'g_ema' to convert: it holds {', '.join(names)}")
    generator = build_from(checkpoint, "g_ema", partitions)
    networks: dict[str, Tensors] = {"g_ema": generator.state_dict()}
    if compact:
        networks["g_ema"] = {name: tensor.half() for name, tensor in networks["g_ema"].items()}
        check_finite(networks["g_ema"], f"{checkpoint.path}, g_ema in float16")  # from 65520 on: infinite
        generator.load_state_dict(networks["g_ema"])  # the mean style is that of the weights as stored
    else:
        networks |= {name: checkpoint.tensors(name) for name in names[1:]}
    if as_pt:
        if not isinstance(generator, StyleNAT):
            raise UserError(f"{path}: only StyleNAT's generator has a layout as .pt; give a folder")
        buffer = io.BytesIO()
        torch.save(published_contents(networks, generator.partitions, checkpoint.facts.get("layout")), buffer)
        write_atomically(path, buffer.getvalue())
        return path
    if generator.has_style_space:
        networks["g_ema"]["mean_style"] = mean_style(generator)
    facts, card = _describe(checkpoint, generator, networks)
    text = to_json(facts, indent=1, ensure_ascii=False) + "\n"
    around.mkdir(parents=True, exist_ok=True)
    sweep(around)
    with making_folder(path, around) as folder:
        for name, tensors in networks.items():
            save_tensors(folder / f"{name}.safetensors", tensors)
        write_atomically(folder / "README.md", card)
        write_atomically(folder / MODEL_FILE, text)
        _put_model(folder, path)
    return path


def _put_model(folder: Path, path: Path) -> None:
    """Move a model where it belongs, such that a stop halfway leaves no mixture with the one before."""
    if is_model(path):
        old = temporary_path(folder.parent)
        path.rename(old)
        folder.rename(path)
        for other in old.iterdir():  # which the user put there
            if other.suffix != ".safetensors" and not (path / other.name).exists():
                other.rename(path / other.name)
        remove(old)
    elif path.is_dir():  # empty; it may be where a disk is mounted, which can't be renamed
        for file in sorted(folder.iterdir(), key=lambda file: file.name == MODEL_FILE):
            file.rename(path / file.name)  # the last one makes it a model
    else:
        folder.rename(path)


def is_model(path: Path) -> bool:
    """Whether a folder is that of a model."""
    return (path / MODEL_FILE).is_file()


def _check_target(path: Path, as_pt: bool) -> None:
    if not path.exists():
        return
    is_empty = path.is_dir() and not any(path.iterdir())
    if as_pt or not (is_model(path) or is_empty):
        raise UserError(f"{path} exists already and is no model folder: give a new one")


def _describe(
    checkpoint: Checkpoint, generator: Generator, networks: Mapping[str, Tensors]
) -> tuple[dict[str, Any], str]:
    """What `model.json` holds, and the model card.

    Raises:
        UserError: the source's own `model.json` has entries of another form.
    """
    try:
        facts = _facts(checkpoint, generator, networks)
        return facts, model_card(facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{checkpoint.path}: {MODEL_FILE} has entries of another form ({error}): convert the model from "
            "its source again"
        ) from None


def _facts(checkpoint: Checkpoint, generator: Generator, networks: Mapping[str, Tensors]) -> dict[str, Any]:
    """What `model.json` holds: all that is known of a model.

    Args:
        checkpoint: the source.
        generator: its averaged generator.
        networks: tensors of the networks that are written.
    """
    known = {key: value for key, value in checkpoint.facts.items() if key not in ("partitions", "files")}
    config = known.get("config", {})
    source = str(known.get("source"))
    if config and is_run_id(source) and record_path(source).is_file():
        record = read_record(record_path(source))
        if record.nimg == known["nimg"] and record.config == config:
            recorded = record.to_dict()
            known |= {name: recorded[name] for name in RECORDED if name in recorded}
    if checkpoint.path.is_file():
        with checkpoint.path.open("rb") as file:
            known.setdefault("source_sha256", sha256(file))
    if isinstance(generator, StyleNAT):
        own: dict[str, Any] = {"partitions": [format_partitions(level) for level in generator.partitions]}
    else:
        own = {"generator": type(generator).__name__, "resolutions": list(generator.resolutions)}
    return {
        **known,
        "resolution": generator.resolution,
        "widths": list(generator.widths),
        "latent_dim": generator.latent_dim,
        **own,
        "parameters": count_parameters(generator),
        "mean_style": {"styles": MEAN_STYLES, "seed": 0} if generator.has_style_space else None,
        "networks": list(networks),
        "precision": _precision(networks["g_ema"]),
    }


def _precision(tensors: Tensors) -> str:
    """The type of the parameters, such as "float16"; `mean_style` is always float32."""
    kinds = []
    for name, tensor in tensors.items():
        if name != "mean_style" and tensor.is_floating_point():
            kinds.append(tensor.dtype)
    return str(kinds[0]).removeprefix("torch.")
