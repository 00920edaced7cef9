"""The record of a run: one JSON file with everything that the tables and figures need."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from stylenat.errors import UserError
from stylenat.evaluation.memorization import CopyShare
from stylenat.evaluation.metrics import Score, ScoreValues, values_from_dict, values_to_dict
from stylenat.paths import from_json, read_json, to_json, workspace, write_atomically
from stylenat.reporting.typed import check_type


@dataclass(frozen=True)
class DatasetInfo:
    """The images that a run was trained on.

    Attributes:
        name: of the dataset.
        resolution: pixels a side.
        manifest: sha256 of names and files, None where it is not known.
        split: the part that was shown to the networks.
    """

    name: str
    resolution: int
    manifest: str | None = None
    split: str = "train"


@dataclass(frozen=True)
class HistoryEntry:
    """The scores of one snapshot.

    Attributes:
        nimg: images shown until then.
        seconds: of training until then.
        values: its scores.
    """

    nimg: int
    seconds: float
    values: ScoreValues

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON: the scores by name beside the rest."""
        return {"nimg": self.nimg, "seconds": self.seconds, **values_to_dict(self.values)}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "HistoryEntry":
        """Undo `to_dict`.

        Raises:
            UserError: a score of an unknown name.
        """
        scores = {name: value for name, value in entry.items() if name not in ("nimg", "seconds")}
        return cls(entry["nimg"], entry["seconds"], values_from_dict(scores))


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of both networks.

    Attributes:
        generator: how many numbers the generator learns.
        discriminator: the same of the discriminator.
    """

    generator: int
    discriminator: int


@dataclass(frozen=True)
class RunRecord:
    """What is kept of a training run.

    Attributes:
        run_id: the run's name, which is its folder's.
        preset: the configuration's preset.
        seed: the configuration's seed.
        nimg: images shown.
        minutes: of training.
        device: the hardware's name.
        threads: of the CPU.
        dataset: what it was trained on.
        parameters: of the networks.
        score: of the last snapshot, None where nothing was scored.
        config: the whole configuration, plain types; an ablation's variant is part of it.
        history: the scored snapshots, in order.
        memorization: whether samples are copies, None where it was not looked into.
        seconds: of training.
        peak_memory_bytes: of the training process.
        attention: the backends that were chosen, and why.
        precision: type of the training's large products, and why.
        commit: of the source, None where there was no git.
        dirty: whether a tracked source differed from the commit.
        versions: of Python and the packages.
        platform: operating system and architecture.
    """

    run_id: str
    preset: str
    seed: int
    nimg: int
    minutes: float
    device: str
    threads: int
    dataset: DatasetInfo
    parameters: ParameterCounts
    score: Score | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: tuple[HistoryEntry, ...] = ()
    memorization: CopyShare | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    attention: tuple[str, ...] | None = None
    precision: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    versions: dict[str, str] = field(default_factory=dict)
    platform: str | None = None

    @property
    def variant(self) -> str:
        """What an ablation run varies, such as "dilation 8"; empty for any other run."""
        return self.config.get("variant", "")

    @property
    def values(self) -> ScoreValues:
        """The scores of the last snapshot; none where nothing was scored."""
        return self.score.values if self.score else {}

    def folder(self) -> Path:
        """The folder of the record, which also holds the run's log and samples."""
        return record_path(self.run_id).parent

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON; what is not known is left out."""
        entries = {name: value for name, value in vars(self).items() if not _is_empty(value)}
        entries["dataset"] = {name: part for name, part in asdict(self.dataset).items() if part is not None}
        entries["parameters"] = asdict(self.parameters)
        entries["score"] = self.score.to_dict() if self.score else None
        if self.history:
            entries["history"] = [entry.to_dict() for entry in self.history]
        if self.memorization:
            entries["memorization"] = asdict(self.memorization)
        return entries

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "RunRecord":
        """Undo `to_dict`; records of version 0.1 are read, too.

        Raises:
            UserError: an entry or a score of an unknown name, or a value of another type.
            KeyError: a required entry is missing.
            TypeError: an entry of another type.
            AttributeError: the same.
        """
        modern = _modernize(entries)
        unknown_names = modern.keys() - {entry.name for entry in fields(cls)}
        if unknown_names:
            raise UserError(
                f"entry {min(unknown_names)!r} is unknown: was the record written by a newer version?"
            )
        typed: dict[str, Any] = {
            "dataset": DatasetInfo(**modern["dataset"]),
            "parameters": ParameterCounts(**modern["parameters"]),
            "score": Score.from_dict(modern["score"]) if modern["score"] else None,
            "history": tuple(map(HistoryEntry.from_dict, modern.get("history", ()))),
        }
        if "memorization" in modern:
            typed["memorization"] = CopyShare(**modern["memorization"])
        if "attention" in modern:
            typed["attention"] = tuple(modern["attention"])
        record = cls(**modern | typed)
        check_type(record, cls, "")
        for name in ("variant", "partitions"):  # of the configuration, which tables show
            check_type(record.config.get(name, ""), str, f"config.{name}")
        if record.score:
            _check_protocol(record.score.protocol)
        return record


# What every record holds; the rest has a default.
REQUIRED = (
    "run_id",
    "preset",
    "seed",
    "nimg",
    "minutes",
    "device",
    "threads",
    "dataset",
    "score",
    "parameters",
)


def _check_protocol(protocol: dict[str, Any]) -> None:
    """Check what tables show of a score's protocol.

    Raises:
        KeyError: an entry is missing.
        TypeError: an entry of another type.
    """
    check_type(protocol["metrics"], dict[str, dict], "protocol.metrics")
    for name, own in protocol["metrics"].items():
        for entry in ("note", "network", "generated"):
            check_type(own[entry], str, f"{name}.{entry}")
        check_type(own["references"], dict[str, dict], f"{name}.references")
        for split, reference in own["references"].items():
            check_type(reference["n_real"], int | None, f"{name}.references.{split}.n_real")
            check_type(reference["n_fake"], int, f"{name}.references.{split}.n_fake")


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, tuple | dict) and not value)


def _modernize(entries: Mapping[str, Any]) -> dict[str, Any]:
    """A record of version 0.1 under today's names.

    It said "memorisation", "pictures" in its protocols, and kept an ablation's variant beside the config.
    """
    modern = dict(entries)
    if "memorisation" in modern:
        modern["memorization"] = modern.pop("memorisation")
    if "ablation" in modern:
        ablation = modern.pop("ablation")
        modern["config"] = {"variant": ablation["variant"], **modern.get("config", {})}
    if modern.get("score"):
        protocol = to_json(modern["score"]["protocol"]).replace("pictures", "images")
        modern["score"] = {**modern["score"], "protocol": from_json(protocol)}
    return modern


def _plain(value: Any) -> Any:
    """JSON's own types; floats to 10 significant digits, so that the last bit's noise changes no byte."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):  # a NumPy or torch scalar
        return _plain(value.item())
    return float(f"{value:.10g}") if isinstance(value, float) and math.isfinite(value) else value


def is_run_id(text: str) -> bool:
    """Whether a run may have that name, which is its folder's: it leads to no other place."""
    return re.fullmatch(r"[a-z0-9][a-z0-9._-]*", text) is not None


def record_path(run_id: str) -> Path:
    """The file of a run's record, `results/runs/<run id>/result.json`."""
    return workspace("results", "runs", run_id, "result.json")


def check_run_id(run_id: str) -> None:
    """Check that a run id is fit for a folder's name on every system.

    Raises:
        UserError: it is not.
    """
    if not is_run_id(run_id):
        raise UserError(f"run id {run_id!r}: use lower-case letters, digits, '.', '_' and '-' only")


def write_record(record: RunRecord) -> Path:
    """Write `results/runs/<run id>/result.json` atomically.

    Returns:
        Its path.

    Raises:
        UserError: a run id unfit for a folder's name, or a value that JSON cannot hold.
    """
    check_run_id(record.run_id)
    try:
        text = to_json(_plain(record.to_dict()), sort_keys=True, indent=2, ensure_ascii=False)
    except UserError as error:
        raise UserError(f"record of run {record.run_id}: {error}") from None
    path = record_path(record.run_id)
    write_atomically(path, text + "\n")
    return path


def read_record(path: Path) -> RunRecord:
    """The record in a file.

    Raises:
        UserError: a file that is broken or incomplete, or of another run than its folder; names it.
    """
    where = path.relative_to(workspace()).as_posix()
    try:
        entries = read_json(path)
    except ValueError as error:
        raise UserError(f"{where} is no valid JSON ({error}): restore it from git or run again") from None
    if not isinstance(entries, dict):
        raise UserError(f"{where} is no JSON object: restore it from git or run again")
    missing = [name for name in REQUIRED if name not in entries]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}: restore it from git or score the run again")
    if entries["run_id"] != path.parent.name:
        raise UserError(f"{where} says run_id {entries['run_id']!r}: rename the folder or fix the record")
    try:
        return RunRecord.from_dict(entries)
    except UserError as error:
        raise UserError(f"{where}: {error}; restore it from git or score the run again") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where} has entries of another form ({error}): restore it from git or score the run again"
        ) from None


def read_csv(path: Path, columns: Collection[str] = (), **options: Any) -> pd.DataFrame:
    """A table of `results/`.

    Args:
        path: of the file.
        columns: that it has to have.
        options: of `pandas.read_csv`.

    Raises:
        OSError: there is none.
        UserError: it is no CSV with these columns; names it.
    """
    try:
        table = pd.read_csv(path, **options)
    except (ValueError, pd.errors.ParserError) as error:  # an empty one, no UTF-8, text for a number
        raise UserError(f"{path} can't be read ({error}): restore it from git") from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}: restore it from git")
    return table


def read_log(run_id: str) -> pd.DataFrame | None:
    """A recorded run's training log, or None where it has none.

    Raises:
        UserError: as of `read_csv`.
    """
    path = record_path(run_id).with_name("log.csv")
    if not path.is_file():
        return None
    numbers = dict.fromkeys(("nimg", "loss_g", "loss_d"), float)
    return read_csv(path, numbers, dtype=numbers)


def load_records() -> list[RunRecord]:
    """Every record under results/runs, in the order of their run ids.

    Raises:
        UserError: as of `read_record`.
    """
    paths = workspace("results", "runs").glob("*/result.json")
    return [read_record(path) for path in sorted(paths, key=lambda path: path.parent.name)]
