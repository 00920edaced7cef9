"""Networks from checkpoints of every kind: published `.pt`, model folders, safetensors, runs."""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stylenat.attention.partitions import (
    Full,
    HeadPartition,
    Level,
    ShiftedWindows,
    format_partitions,
    parse_partitions,
    resolutions,
)
from stylenat.checkpoints.published import from_published, read_pt, state_dicts
from stylenat.checkpoints.run import Run, is_run
from stylenat.checkpoints.tensors import Tensors, check_finite, load_tensors, unwrapped
from stylenat.config import Config
from stylenat.errors import UserError
from stylenat.models.base import Generator
from stylenat.models.build import build_generator
from stylenat.models.discriminator import Discriminator
from stylenat.models.stylenat import StyleNAT
from stylenat.paths import find_path, read_json, to_json, workspace

MODEL_FILE = "model.json"  # makes a folder a model
LONGEST_SETTING = 1000  # characters of a list that is kept
# A level as users and files describe it: text, or of each partition its dilation, (kernel, dilation), or all.
GivenLevel = str | Sequence[Any]
Facts = dict[str, Any]
Readers = dict[str, Callable[[], Tensors]]


@dataclass(frozen=True)
class Checkpoint:
    """Where networks are found, and what is known of them.

    Attributes:
        path: as given, resolved.
        networks: by name, of "g_ema", "g" and "d", a function that reads its tensors, under our names.
        levels: of each level from 4 on the partitions, or their dilations alone; None: not stored.
        facts: what the checkpoint says of itself, plain JSON.
    """

    path: Path
    networks: Readers
    levels: list[GivenLevel] | None = None
    facts: Facts = field(default_factory=dict)

    def tensors(self, name: str) -> Tensors:
        """A network's tensors, float32 copies on the CPU.

        Raises:
            UserError: it is not there, or holds a number that is not finite in float32.
        """
        if name not in self.networks:
            held = ", ".join(self.networks) or "nothing"
            raise UserError(f"{self.path} has no network {name!r}: it holds {held}; get it again")
        copies = {}
        for key, tensor in self.networks[name]().items():
            # Copies: a file that is mapped may be gone tomorrow.
            copies[key] = tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor
        check_finite(copies, f"{self.path}: {name}")
        return copies


# Opening


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint of a published `.pt`, a model folder, a safetensors file, or a run (its folder or id).

    Raises:
        UserError: it is none of these, or damaged.
    """
    place = find_path(path)
    if place.is_dir():
        return _open_model(place) if (place / MODEL_FILE).is_file() else _open_run(Run.open(str(place)))
    if place.is_file():
        _check_name(place)
        return _open_safetensors(place) if place.suffix.lower() == ".safetensors" else _open_pt(place)
    if is_run(workspace("runs", str(path))):
        return _open_run(Run.open(str(path)))
    raise UserError(
        f"checkpoint {str(path)!r} not found: give a published .pt, a model folder, a .safetensors file, or "
        "a run"
    )


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # torch and safetensors would speak of a damaged file
        raise UserError(f"checkpoint {str(path)!r}: its name is no UTF-8; rename it") from None


def _open_pt(path: Path) -> Checkpoint:
    contents = read_pt(path)
    networks, layout = state_dicts(contents, path)
    args = contents.get("args")
    settings = args if isinstance(args, dict) else {}
    readers: Readers = {name: partial(from_published, tensors) for name, tensors in networks.items()}
    facts = {"source": path.name, "layout": layout, "settings": _plain_settings(settings)}
    return Checkpoint(path, readers, _find(settings, "dilations"), facts)


def _plain_settings(args: Mapping[str, Any]) -> Facts:
    """The settings of a file that JSON can hold; random states and other bulk are left out."""
    kept = {}
    for key, value in args.items():
        if "rng" in key:
            continue
        plain = _plain_settings(value) if isinstance(value, dict) else _plain_setting(value)
        if plain is not None:
            kept[key] = plain
    return kept


def _plain_setting(value: object) -> object:
    """A setting as JSON can hold it; None where it can't. An infinite limit, say, becomes text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        entries = [_plain_setting(entry) for entry in value]
        return entries if len(to_json(entries)) < LONGEST_SETTING else None
    return value if isinstance(value, str | int | float | bool) else None


def _find(settings: Mapping[str, Any], name: str) -> Any:
    """The value of a name anywhere in nested dicts, or None."""
    if name in settings:
        return settings[name]
    for value in settings.values():
        found = _find(value, name) if isinstance(value, dict) else None
        if found is not None:
            return found
    return None


def _open_model(path: Path) -> Checkpoint:
    try:
        facts = read_json(path / MODEL_FILE)
        levels: list[GivenLevel] = []
        if "generator" not in facts:  # it is StyleNAT's
            levels += [parse_partitions(text) for text in facts["partitions"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / MODEL_FILE} is damaged ({error!r}): convert the model again") from None
    files = {file.stem: file for file in sorted(path.glob("*.safetensors"))}
    return Checkpoint(path, _readers(files), levels, facts)


def _open_run(run: Run) -> Checkpoint:
    nimg = run.last_snapshot()
    state = run.state_path(nimg)
    files = {
        "g_ema": run.generator_path(nimg),
        "g": state / "generator.safetensors",
        "d": state / "discriminator.safetensors",
    }
    config = run.config
    facts = {"source": run.id, "layout": "run", "nimg": nimg, "config": config.to_dict()}
    return Checkpoint(run.path, _readers(files), list(config.partitions), facts)


def _open_safetensors(path: Path) -> Checkpoint:
    """A file of a model folder or of a run's snapshots; else the tensors alone."""
    if (path.parent / MODEL_FILE).is_file():
        known = _open_model(path.parent)
    elif path.parent.name == "generators" and is_run(path.parent.parent):
        known = _open_run(Run(path.parent.parent))
    else:
        known = Checkpoint(path, {}, facts={"source": path.name, "layout": "safetensors"})
    facts = dict(known.facts)
    if path.stem.isdigit():
        facts["nimg"] = int(path.stem)
    if path.stem == "best" and known.networks and (best := Run(path.parent.parent).best()):
        facts["nimg"] = best["nimg"]
    name = path.stem if path.stem in known.networks else "g_ema"
    return Checkpoint(path, _readers({name: path}), known.levels, facts)


def _readers(files: Mapping[str, Path]) -> Readers:
    return {name: partial(_load_unwrapped, file) for name, file in files.items()}


def _load_unwrapped(file: Path) -> Tensors:
    return unwrapped(load_tensors(file), file)


# Building


def load_generator(
    path: str | Path, partitions: str | Sequence[GivenLevel] | None = None, which: str = "ema"
) -> Generator:
    """The generator of a checkpoint, in eval mode on the CPU, with parameters that take no gradient.

    Of StyleNAT, resolution, widths, heads and kernel sizes are read from the tensors. Dilations come from
    `partitions`, else from what the checkpoint stores, else from the published rule, 1 and R / 8, with a
    warning. Any other generator is built from the configuration of the run that it comes from.

    Args:
        path: see `open_checkpoint`.
        partitions: levels from 8 × 8 on, each text, (kernel, dilation) pairs or `HeadPartition`s; or all as
            one text with '/' between.
        which: "ema", the average that is sampled, or "g", the raw network.

    Raises:
        UserError: no such checkpoint or network; a file that would run code; tensors missing, left over or of
            other shapes; partitions that do not fit them.
    """
    names = {"ema": "g_ema", "g": "g"}
    if which not in names:
        raise UserError(f"which={which!r} is unknown: take 'ema' or 'g'")
    return build_from(open_checkpoint(path), names[which], partitions)


def build_from(
    checkpoint: Checkpoint, name: str, partitions: str | Sequence[GivenLevel] | None = None
) -> Generator:
    """A generator, see `load_generator`, from an open checkpoint.

    Args:
        checkpoint: holds the network.
        name: "g_ema" or "g".
        partitions: see `load_generator`.
    """
    tensors = checkpoint.tensors(name)
    tensors.pop("mean_style", None)  # of model folders, for other programs: here it follows the weights
    generator: Generator
    assumed = ""
    if "config" in checkpoint.facts and not (_is_stylenat(tensors) and _has_position_tables(tensors)):
        if partitions is not None and not _is_stylenat(tensors):
            raise UserError(f"partitions={partitions!r}: {checkpoint.path} is of a generator that has none")
        generator = _build_configured(checkpoint)
    elif not any(key.startswith("layers.0.blocks.") for key in tensors):
        raise UserError(
            f"{checkpoint.path}: {name} is no generator of StyleNAT's, and the file does not say whose it "
            "is: give its run or model folder"
        )
    else:
        generator, assumed = _build_stylenat(tensors, checkpoint, name, partitions)
    _check_facts(checkpoint, generator)
    _fill(generator, tensors, f"{checkpoint.path}: {name}")
    if assumed:
        warnings.warn(
            f"{checkpoint.path} stores no dilations: assumed the published rule, {assumed} (levels from 8 "
            "on)",
            stacklevel=3,
        )
    return generator


def _check_facts(checkpoint: Checkpoint, generator: Generator) -> None:
    """Refuse a `model.json` that says another size than the tensors have."""
    own = {
        "resolution": generator.resolution,
        "widths": list(generator.widths),
        "latent_dim": generator.latent_dim,
    }
    for name, value in own.items():
        if checkpoint.facts.get(name, value) != value:
            raise UserError(
                f"{checkpoint.path}: {MODEL_FILE} says {name} {checkpoint.facts[name]!r}, its tensors "
                f"{value!r}: convert the model again"
            )


def _is_stylenat(tensors: Tensors) -> bool:
    return "layers.0.blocks.0.attn.proj.weight" in tensors


def _has_position_tables(tensors: Tensors) -> bool:
    """Whether shapes tell heads and kernel sizes."""
    return any(re.match(r"layers\.0\.blocks\.0\.attn\.(rpb|tables)", name) for name in tensors)


def _build_configured(checkpoint: Checkpoint) -> Generator:
    """The generator of a checkpoint's configuration, freshly initialized."""
    try:
        config = Config.from_dict(checkpoint.facts["config"])
    except (AttributeError, TypeError, UserError) as error:
        raise UserError(
            f"{checkpoint.path} holds no configuration ({error}): convert the run again"
        ) from None
    return build_generator(config)


def _build_stylenat(
    tensors: Tensors, checkpoint: Checkpoint, name: str, partitions: str | Sequence[GivenLevel] | None
) -> tuple[StyleNAT, str]:
    """StyleNAT's generator of the tensors' shapes, on `meta`; and its partitions where they are assumed."""
    try:
        levels, is_assumed = _levels(tensors, checkpoint, partitions)
        widths = [_length(tensors, f"layers.{i}.blocks.0.attn.proj.weight") for i in range(len(levels))]
        depth = sum(re.fullmatch(r"style\.\d+\.weight", key) is not None for key in tensors)
        with torch.device("meta"):
            generator = StyleNAT(widths, levels, _length(tensors, "style.1.weight"), depth)
    except _Misshapen as error:
        raise UserError(f"{checkpoint.path}: {name} is no generator, {error}") from None
    except (KeyError, IndexError) as error:
        raise UserError(f"{checkpoint.path}: {name} is no generator, it lacks the tensor {error}") from None
    return generator, "/".join(map(format_partitions, levels[1:])) if is_assumed else ""


class _Misshapen(Exception):
    """A tensor has another number of dimensions than our networks' have."""


def _length(tensors: Tensors, name: str) -> int:
    """The first dimension of a tensor.

    Raises:
        KeyError: it is missing.
        _Misshapen: it has no dimension.
    """
    if not tensors[name].ndim:
        raise _Misshapen(f"{name!r} is a single number")
    return len(tensors[name])


def load_discriminator(path: str | Path) -> Discriminator:
    """The discriminator of a checkpoint, in eval mode on the CPU; see `load_generator`.

    Raises:
        UserError: no such checkpoint or network; a file that would run code; tensors missing, left over or of
            other shapes.
    """
    checkpoint = open_checkpoint(path)
    tensors = checkpoint.tensors("d")
    widths: list[int] = []
    try:
        while (name := f"from_rgbs.{len(widths)}.conv.0.weight_orig") in tensors:
            widths.append(_length(tensors, name))
    except _Misshapen as error:
        raise UserError(f"{checkpoint.path}: d is no discriminator, {error}") from None
    if not widths:
        raise UserError(f"{checkpoint.path}: d is no discriminator, it lacks the tensor {name!r}")
    with torch.device("meta"):
        discriminator = Discriminator(widths[::-1])
    _fill(discriminator, tensors, f"{checkpoint.path}: d")
    return discriminator


def _fill(network: nn.Module, tensors: Tensors, where: str) -> None:
    """Give a network its tensors, all of them and no other."""
    own = network.state_dict()
    misshapen = []
    mistyped = []
    for name, tensor in tensors.items():
        if name in own and tensor.shape != own[name].shape:
            misshapen.append(f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}")
        elif name in own and tensor.is_floating_point() != own[name].is_floating_point():
            mistyped.append(f"{name} {tensor.dtype} for {own[name].dtype}")
    problems = {
        "lacks": [name for name in own if name not in tensors],
        "has left over": [name for name in tensors if name not in own],
        "has of other shapes": misshapen,
        "has of other types": mistyped,
    }
    sentences = []
    for problem, names in problems.items():
        if names:
            more = ", …" if len(names) > 3 else ""
            sentences.append(f"{problem} {len(names)} tensors ({', '.join(names[:3])}{more})")
    if sentences:
        raise UserError(f"{where} {'; '.join(sentences)}: it is of another architecture or incomplete")
    network.load_state_dict(tensors, assign=True)
    network.eval().requires_grad_(False)


# Partitions: heads and kernel sizes from the tensors, dilations from elsewhere


def _levels(
    tensors: Tensors, checkpoint: Checkpoint, partitions: str | Sequence[GivenLevel] | None
) -> tuple[list[Level], bool]:
    """The partitions of every level from 4 on, and whether any dilation had to be assumed."""
    sides = resolutions(_count_levels(tensors))
    known = _known_levels(len(sides), checkpoint, partitions)
    levels = []
    is_assumed = False
    for i, side in enumerate(sides):
        level = _undilated(tensors, i)
        if isinstance(level[0], HeadPartition):
            given = known[i]
            if given is None:
                given = _published_dilations(len(level), side, checkpoint.path)
                is_assumed = True
            try:
                level = _dilated(level, given, side)
            except UserError as error:
                raise UserError(f"{checkpoint.path}: {error}; give partitions that do") from None
        levels.append(level)
    return levels, is_assumed


def _count_levels(tensors: Tensors) -> int:
    indices = [-1]
    for name in tensors:
        if found := re.match(r"layers\.(\d{1,2})\.", name, re.ASCII):
            indices.append(int(found[1]))
    return 1 + max(indices)


def _known_levels(
    count: int, checkpoint: Checkpoint, partitions: str | Sequence[GivenLevel] | None
) -> list[GivenLevel | None]:
    """What is known of each level's dilations: as the user gives them, else as they are stored."""
    if partitions is None:
        stored = list(checkpoint.levels or [])
        if "partitions" in checkpoint.facts and len(stored) != count:
            raise UserError(
                f"{checkpoint.path}: {MODEL_FILE} says partitions of {len(stored)} levels, its tensors are "
                f"of {count}: convert the model again"
            )
        return [*stored, *[None] * (count - len(stored))]
    given = partitions.split("/") if isinstance(partitions, str) else list(partitions)
    if len(given) != count - 1:
        raise UserError(
            f"partitions describe {len(given)} levels, {checkpoint.path} has {count - 1} from 8 on: "
            f"give one for each of 8 … {resolutions(count)[-1]}"
        )
    return [None, *given]


def _undilated(tensors: Tensors, i: int) -> Level:
    """A level's partitions as far as tensors show them: all but the dilations."""
    prefix = f"layers.{i}.blocks.0.attn."
    if (table := _table(tensors, f"{prefix}tables.0", 2)) is not None:
        return (ShiftedWindows(2 * table.shape[1], (int(len(table) ** 0.5) + 1) // 2),)
    if (table := _table(tensors, f"{prefix}rpb", 3)) is not None:
        return (Full(table.shape[0]),)
    if (table := _table(tensors, f"{prefix}rpb_rows", 2)) is not None:
        return (Full(table.shape[0]),)
    tables: list[Tensor] = []
    while (table := _table(tensors, f"{prefix}rpb.{len(tables)}", 3)) is not None:
        tables.append(table)
    if not tables:
        raise KeyError(f"{prefix}rpb.0")
    return tuple(HeadPartition(table.shape[0], (table.shape[1] + 1) // 2) for table in tables)


def _table(tensors: Tensors, name: str, dimensions: int) -> Tensor | None:
    """A relative position table, if there is one of that name."""
    table = tensors.get(name)
    if table is not None and table.ndim != dimensions:
        raise _Misshapen(f"{name!r} has shape {tuple(table.shape)}, expected {dimensions} dimensions")
    return table


def _published_dilations(count: int, resolution: int, path: Path) -> list[int]:
    """Dilations of the published models: 1, and from 16 × 16 on, where there are two partitions, R / 8."""
    if count > 2:
        raise UserError(
            f"{path} stores no dilations, and for the {count} partitions of level {resolution} there is no "
            "published rule: give partitions"
        )
    return [1, resolution // 8][:count]


def _dilated(level: Level, given: GivenLevel, resolution: int) -> Level:
    """A level's partitions with given dilations."""
    try:
        made = _match(level, given)
        fits = all(replace(new, dilation=1) == part for new, part in zip(made, level, strict=True))
    except UserError:
        raise
    except (TypeError, ValueError):  # too many, too few, or nothing of the kind
        fits = False
    if not fits:
        held = [f"{part.heads} heads with kernel {part.kernel_size}" for part in _neighborhoods(level)]
        raise UserError(
            f"partitions {given!r} at level {resolution} do not fit its tensors, which have {', '.join(held)}"
        )
    return made


def _match(level: Level, given: GivenLevel) -> tuple[HeadPartition, ...]:
    """One `HeadPartition` a partition of the level, from whatever is given of it."""
    entries: list[Any] = list(parse_partitions(given) if isinstance(given, str) else given)
    if len(entries) == 1 and isinstance(entries[0], int):
        entries = entries * len(level)  # old files: two halves at 8 × 8, of one dilation
    made = []
    for part, entry in zip(_neighborhoods(level), entries, strict=True):
        if isinstance(entry, HeadPartition):
            made.append(entry)
        elif isinstance(entry, int):
            made.append(HeadPartition(part.heads, part.kernel_size, entry))
        else:
            kernel_size, dilation = entry
            made.append(HeadPartition(part.heads, kernel_size, dilation))
    return tuple(made)


def _neighborhoods(level: Level) -> list[HeadPartition]:
    return [part for part in level if isinstance(part, HeadPartition)]
