"""Networks from checkpoints of every kind: published `.pt`, model folders, safetensors, runs."""

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from stylenat.attention.partitions import (
    Full,
    HeadPartition,
    ShiftedWindows,
    format_partitions,
    parse_partitions,
    resolutions,
)
from stylenat.checkpoints.published import from_published, read_pt, state_dicts
from stylenat.checkpoints.run import Run
from stylenat.checkpoints.tensors import load_tensors
from stylenat.errors import UserError
from stylenat.models.discriminator import Discriminator
from stylenat.models.stylenat import StyleNAT
from stylenat.paths import workspace

CARD = "model.json"  # makes a folder a model


@dataclass(frozen=True)
class Checkpoint:
    """Where networks are to be had, and what is known of them.

    Attributes:
        path: as given, resolved.
        networks: name, of "g_ema", "g" and "d", → a function that reads its tensors, under our names.
        levels: the partitions of each level from 4 on, or their dilations alone, or None: not stored.
        facts: what the checkpoint tells of itself, plain JSON.
    """

    path: Path
    networks: dict[str, Callable]
    levels: list | None = None
    facts: dict = field(default_factory=dict)

    def tensors(self, name):
        """A network's tensors, float32 copies on the CPU. Raises UserError if it is not there."""
        if name not in self.networks:
            raise UserError(f"{self.path} has no network {name!r}: it holds {', '.join(self.networks)}")
        tensors = self.networks[name]()
        # Copies: a file that is mapped may be gone tomorrow.
        return {n: t.to(torch.float32, copy=True) if t.is_floating_point() else t for n, t in tensors.items()}


def open_checkpoint(path):
    """The `Checkpoint` of a published `.pt`, a model folder, a safetensors file, or a run (its folder or id).

    Raises:
        UserError: it is none of these, or damaged.
    """
    given, path = str(path), Path(path).expanduser()
    if path.is_dir():
        if (path / CARD).is_file():
            return _open_model(path)
        return _open_run(Run.open(given))
    if path.is_file():
        return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pt(path)
    if (workspace("runs", given) / "config.json").is_file():
        return _open_run(Run.open(given))
    raise UserError(
        f"checkpoint {given!r} not found: give a published .pt, a model folder, a .safetensors file, or a run"
    )


def _open_pt(path):
    contents = read_pt(path)
    networks, layout = state_dicts(contents, path)
    args = contents.get("args") if isinstance(contents.get("args"), dict) else {}
    readers = {name: lambda tensors=tensors: from_published(tensors) for name, tensors in networks.items()}
    facts = {"source": path.name, "layout": layout, "settings": _told(args)}
    return Checkpoint(path, readers, _find(args, "dilations"), facts)


def _told(args):
    """The settings of a file that JSON can hold; random states and other bulk are left out."""

    def plain(value):
        if isinstance(value, dict):
            return {key: entry for key, value in value.items() if (entry := plain(value)) is not None}
        if isinstance(value, list):
            return value if len(json.dumps(value, default=str)) < 1000 else None
        return value if isinstance(value, (str, int, float, bool)) else None

    return plain({key: value for key, value in args.items() if "rng" not in key})


def _find(settings, name):
    """The value of a name anywhere in nested dicts, or None."""
    if name in settings:
        return settings[name]
    found = (_find(value, name) for value in settings.values() if isinstance(value, dict))
    return next((value for value in found if value is not None), None)


def _open_model(path):
    try:
        facts = json.loads((path / CARD).read_text(encoding="utf-8"))
        levels = [parse_partitions(text) for text in facts["partitions"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / CARD} is damaged ({error!r}): convert the model again") from None
    files = {file.stem: lambda file=file: load_tensors(file) for file in sorted(path.glob("*.safetensors"))}
    return Checkpoint(path, files, levels, facts)


def _open_run(run):
    snapshots = run.snapshots()
    if not snapshots:
        raise UserError(f"run {run.id} has no snapshot yet: train it on")
    state = run.state_path()
    files = {
        "g_ema": run.generator_path(snapshots[-1]),
        "g": state / "generator.safetensors",
        "d": state / "discriminator.safetensors",
    }
    config = run.config
    facts = {"source": run.id, "layout": "run", "nimg": snapshots[-1], "config": config.to_dict()}
    readers = {name: lambda file=file: load_tensors(file) for name, file in files.items()}
    return Checkpoint(run.path, readers, list(config.partitions), facts)


def _open_safetensors(path):
    """A file of a model folder or of a run's snapshots; else the tensors alone."""
    if (path.parent / CARD).is_file():
        known = _open_model(path.parent)
    elif path.parent.name == "generators" and (path.parent.parent / "config.json").is_file():
        known = _open_run(Run(path.parent.parent))
    else:
        known = Checkpoint(path, {}, facts={"source": path.name, "layout": "safetensors"})
    name = path.stem if path.stem in known.networks else "g_ema"
    facts = known.facts | ({"nimg": int(path.stem)} if path.stem.isdigit() else {})
    if path.stem == "best" and known.networks and (best := Run(path.parent.parent).best()):
        facts["nimg"] = best["nimg"]
    return Checkpoint(path, {name: lambda: load_tensors(path)}, known.levels, facts)


def load_generator(path, partitions=None, which="ema"):
    """The generator of a checkpoint, in eval mode on the CPU, with parameters that take no gradient.

    Resolution, widths, heads and kernel sizes are read from the tensors. Dilations come from `partitions`,
    else from what the checkpoint stores, else from the published rule, 1 and R / 8: a warning tells that.

    Args:
        path: see `open_checkpoint`.
        partitions: levels from 8 × 8 on, each text, (kernel, dilation) pairs or `HeadPartition`s; or all as
            one text with '/' between.
        which: "ema", the average that is sampled, or "g", the raw network.

    Raises:
        UserError: no such checkpoint or network; a file that would run code; tensors missing, left over or of
            other shapes; partitions that do not fit them.
    """
    if which not in ("ema", "g"):
        raise UserError(f"which={which!r} is unknown: take 'ema' or 'g'")
    checkpoint, name = open_checkpoint(path), {"ema": "g_ema", "g": "g"}[which]
    return build(checkpoint, name, partitions)


def build(checkpoint, name, partitions=None):
    """A generator, see `load_generator`, from an open `Checkpoint`; `name` is "g_ema" or "g"."""
    tensors = checkpoint.tensors(name)
    mean = tensors.pop("mean_style", None)
    try:
        levels = _levels(tensors, checkpoint, partitions)
        widths = [tensors[f"layers.{i}.blocks.0.attn.proj.weight"].shape[0] for i in range(len(levels))]
        depth = sum(re.fullmatch(r"style\.\d+\.weight", name) is not None for name in tensors)
        with torch.device("meta"):
            generator = StyleNAT(widths, levels, tensors["style.1.weight"].shape[0], depth)
    except (KeyError, IndexError) as error:
        raise UserError(f"{checkpoint.path}: {name} is no generator, it lacks the tensor {error}") from None
    _fill(generator, tensors, f"{checkpoint.path}: {name}")
    generator.mean_style = mean
    return generator


def load_discriminator(path):
    """The discriminator of a checkpoint, in eval mode on the CPU; see `load_generator`.

    Raises:
        UserError: no such checkpoint or network; a file that would run code; tensors missing, left over or of
            other shapes.
    """
    checkpoint = open_checkpoint(path)
    tensors = checkpoint.tensors("d")
    widths = []
    while (name := f"from_rgbs.{len(widths)}.conv.0.weight_orig") in tensors:
        widths.append(tensors[name].shape[0])
    if not widths:
        raise UserError(f"{checkpoint.path}: d is no discriminator, it lacks the tensor {name!r}")
    with torch.device("meta"):
        discriminator = Discriminator(widths[::-1])
    _fill(discriminator, tensors, f"{checkpoint.path}: d")
    return discriminator


def _fill(network, tensors, where):
    """Give a network on `meta` its tensors, all of them and no other."""
    expected = network.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    wrong = {
        "lacks": [name for name in shapes if name not in tensors],
        "has left over": [name for name in tensors if name not in shapes],
        "has of other shapes": [
            f"{name} {tuple(tensor.shape)} for {shapes[name]}"
            for name, tensor in tensors.items()
            if name in shapes and tuple(tensor.shape) != shapes[name]
        ],
    }
    if any(wrong.values()):
        told = "; ".join(
            f"{what} {len(names)} tensors ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for what, names in wrong.items()
            if names
        )
        raise UserError(f"{where} {told}: it is of another architecture or incomplete")
    network.load_state_dict(tensors, assign=True)
    network.eval().requires_grad_(False)


def _levels(tensors, checkpoint, partitions):
    """The partitions of every level from 4 on: heads and kernels off the tensors, dilations as known."""
    count = 1 + max((int(n.split(".")[1]) for n in tensors if re.match(r"layers\.\d+\.", n)), default=-1)
    stored = checkpoint.levels
    if partitions is not None:
        given = partitions.split("/") if isinstance(partitions, str) else list(partitions)
        if len(given) != count - 1:
            raise UserError(
                f"partitions describe {len(given)} levels, {checkpoint.path} has {count - 1} from 8 on: "
                f"give one for each of 8 … {resolutions(count)[-1]}"
            )
        stored = [None, *given]
    levels, assumed = [], False
    for i, resolution in enumerate(resolutions(count)):
        parts = _undilated(tensors, i)
        if isinstance(parts[0], HeadPartition):
            told = stored[i] if stored and i < len(stored) else None
            assumed |= told is None
            told = _rule(len(parts), resolution, checkpoint.path) if told is None else told
            parts = _dilated(parts, told, resolution)
        levels.append(parts)
    if assumed:
        told = "/".join(map(format_partitions, levels[1:]))
        warnings.warn(
            f"{checkpoint.path} stores no dilations: assumed the published rule, {told} (levels from 8 on)",
            stacklevel=4,
        )
    return levels


def _undilated(tensors, i):
    """A level's partitions as far as tensors tell them: all but the dilations."""
    prefix = f"layers.{i}.blocks.0.attn."
    if (table := tensors.get(f"{prefix}tables.0")) is not None:
        return (ShiftedWindows(2 * table.shape[1], (int(len(table) ** 0.5) + 1) // 2),)
    if (table := tensors.get(f"{prefix}rpb")) is not None:
        return (Full(table.shape[0]),)
    tables = [tensors[f"{prefix}rpb.0"]]
    while (table := tensors.get(f"{prefix}rpb.{len(tables)}")) is not None:
        tables.append(table)
    return tuple(HeadPartition(table.shape[0], (table.shape[1] + 1) // 2) for table in tables)


def _rule(count, resolution, path):
    """Dilations of the published models: 1, and from 16 × 16 on, where there are two partitions, R / 8."""
    if count > 2:
        raise UserError(
            f"{path} stores no dilations, and for the {count} partitions of level {resolution} there is no "
            "published rule: give partitions"
        )
    return [1, resolution // 8][:count]


def _dilated(parts, told, resolution):
    """A level's partitions with the dilations told: text, or dilations, (kernel, dilation)s, partitions."""
    try:
        entries = parse_partitions(told) if isinstance(told, str) else list(told)
        if len(entries) == 1 and isinstance(entries[0], int):
            entries *= len(parts)  # old files: two halves at 8 × 8, of one dilation
        given = []
        for part, entry in zip(parts, entries, strict=True):
            pair = (part.kernel_size, entry) if isinstance(entry, int) else entry
            given.append(entry if isinstance(entry, HeadPartition) else HeadPartition(part.heads, *pair))
        fits = all(replace(new, dilation=1) == part for new, part in zip(given, parts, strict=True))
    except UserError:
        raise
    except (TypeError, ValueError):  # too many, too few, or nothing of the kind
        fits = False
    if not fits:
        raise UserError(
            f"partitions {told!r} at level {resolution} do not fit its tensors, which have "
            + ", ".join(f"{part.heads} heads with kernel {part.kernel_size}" for part in parts)
        )
    return tuple(given)
