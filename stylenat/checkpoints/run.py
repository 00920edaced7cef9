"""What a run leaves on disk: safetensors for tensors, JSON for the rest; nothing is executed on loading."""

import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stylenat.checkpoints.tensors import load_tensors, save_tensors
from stylenat.config import Config
from stylenat.data.dataset import Contents, ImageDataset
from stylenat.errors import UserError
from stylenat.evaluation.metrics import ScoreKey, ScoreValues, values_to_dict
from stylenat.models.base import Generator
from stylenat.models.build import build_generator
from stylenat.paths import find_path, from_json, read_json, to_json, workspace, write_atomically

# Chooses the best generator of a run: unbiased, and no copy scores well.
BEST = ScoreKey("kid-lite0", "kid", "heldout")
CONFIG = "config.json"  # makes a folder a run
DATASET = "dataset.json"
SCORES = "scores.jsonl"
LOG = "log.jsonl"
LOG_OF_VERSION_0_1 = "metrics.jsonl"
INFO = {"nimg", "seconds", "peak_memory_bytes", "provenance"}  # what is known of every training state
Line = dict[str, Any]
State = Mapping[str, Mapping[str, Tensor]]


def is_run(path: Path) -> bool:
    """Whether a folder is that of a training run."""
    return (path / CONFIG).is_file()


class Run:
    """The folder of a training run: `config.json`, `dataset.json`, `log.jsonl`, `samples/`, and so on.

    A run that is scored while it trains has `scores.jsonl` and `generators/best.safetensors`, too.

    `dataset.json` lists the images that it began with. `generators/<nimg>.safetensors` are the EMA weights of
    every snapshot, kept for scoring; `state/<nimg>/` is what training needs to go on, of which the two newest
    are kept.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, run: str, folder: Path | str | None = None) -> "Run":
        """The run of an id or of a path, which is looked for as of `find_path`.

        Args:
            run: the id or the path.
            folder: where ids are looked up; default: `runs/`.

        Raises:
            UserError: there is none.
        """
        runs = Path(folder or workspace("runs"))
        for path in (runs / run, find_path(run)):
            if is_run(path):
                return cls(path)
        raise UserError(f"run {run!r} not found in {runs}: train it first, `python -m stylenat train {run}`")

    @property
    def id(self) -> str:
        """The run's name: its folder's."""
        return self.path.name

    @property
    def config(self) -> Config:
        """The stored configuration.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / CONFIG
        fields = _read_json(path)
        try:
            return Config.from_dict(fields)
        except (AttributeError, TypeError, UserError) as error:
            raise UserError(f"{path} is no configuration ({error}): restore it or train anew") from None

    def begin(self, config: Config) -> None:
        """Make the folder, or check that the one there is of the same configuration.

        Raises:
            UserError: it is of another configuration, or can't be written.
        """
        text = to_json(config.to_dict(), indent=1) + "\n"
        path = self.path / CONFIG
        if not path.is_file():
            try:
                write_atomically(path, text)
            except OSError as error:
                raise UserError(
                    f"can't write to {self.path} ({error.strerror}): give a folder you may write to"
                ) from None
        elif path.read_text(encoding="utf-8") != text:
            raise UserError(
                f"{self.path} holds a run of another configuration: delete it or train with another --out"
            )

    # The images

    def contents(self) -> Contents | None:
        """What the data set held when the run began; None for a run that version 0.1 began.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / DATASET
        if not path.is_file():
            return None
        try:
            return Contents.from_dict(_read_json(path))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): restore it or train the run again") from None

    def keep_dataset(self, dataset: ImageDataset) -> None:
        """Write down what the data set holds, or check that it is what the run began with.

        Raises:
            UserError: as of `check_dataset`.
        """
        self.check_dataset(dataset)
        if not (self.path / DATASET).is_file():
            write_atomically(self.path / DATASET, to_json(dataset.contents.to_dict(), indent=0) + "\n")

    def check_dataset(self, dataset: ImageDataset) -> None:
        """Check that a data set is still what the run began with.

        One image more moves the split, which goes by position: images would be held out that the run was
        trained on.

        Args:
            dataset: as the run's configuration names it, whichever its split.

        Raises:
            UserError: it has changed; says in what.
        """
        began = self.contents()
        if began is None:
            if self.snapshots():
                warnings.warn(
                    f"run {self.id} was begun by an older version, which did not write down its images: "
                    f"whether {dataset.source} still holds the same ones is not known",
                    stacklevel=2,
                )
            return
        if changes := began.changes(dataset.contents):
            raise UserError(
                f"{dataset.source} has changed since run {self.id} began: {changes}. Which images are held "
                "out goes by their order: put the data back as they were, or train again with another --out"
            )

    # Snapshots

    def snapshots(self) -> list[int]:
        """The nimg of every snapshot, in order."""
        states = self._states()
        newest = int(states[-1].name) if states else 0  # a stop between the two writes leaves one too many
        found = [int(path.stem) for path in _numbered(self.path / "generators", ".safetensors")]
        return sorted(nimg for nimg in found if nimg <= newest)

    def last_snapshot(self) -> int:
        """The nimg of the last snapshot.

        Raises:
            UserError: there is none.
        """
        snapshots = self.snapshots()
        if not snapshots:
            raise UserError(f"run {self.id} has no snapshot yet: train it on")
        return snapshots[-1]

    def generator(self, nimg: int | None = None) -> Generator:
        """The EMA generator of a snapshot (default: the last), in eval mode on the CPU.

        Raises:
            UserError: the run has no snapshot, or a damaged one.
        """
        last = self.last_snapshot()
        generator = build_generator(self.config)
        path = self.generator_path(nimg or last)
        try:
            generator.load_state_dict(load_tensors(path))
        except RuntimeError:
            raise UserError(f"checkpoint {path} is of another network: delete it") from None
        return generator.eval().requires_grad_(False)

    def generator_path(self, nimg: int | str) -> Path:
        """The file of a snapshot's EMA weights, or of the "best" generator's."""
        name = nimg if isinstance(nimg, str) else f"{nimg:09d}"
        return self.path / "generators" / f"{name}.safetensors"

    def save(self, nimg: int, ema: nn.Module, state: State, info: Mapping[str, Any]) -> None:
        """Write a snapshot: EMA weights, then the training state; of all states the two newest are kept.

        Args:
            nimg: images shown.
            ema: the averaged generator.
            state: tensors by network or optimizer and name.
            info: plain JSON, see the method `info`.
        """
        save_tensors(self.generator_path(nimg), ema.state_dict())
        final = self.path / "state" / f"{nimg:09d}"
        partial = final.with_name(f".{final.name}.{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        for name, tensors in state.items():
            save_tensors(partial / f"{name}.safetensors", tensors)
        write_atomically(partial / "info.json", to_json(info) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in self._states()[:-2]:
            shutil.rmtree(old)

    def restore(self) -> tuple[State, dict[str, Any]] | None:
        """The newest training state and its `info`, or None at the start of a run."""
        if not self._states():
            return None
        tensors = {path.stem: load_tensors(path) for path in self.state_path().glob("*.safetensors")}
        return tensors, self.info()

    def info(self) -> dict[str, Any]:
        """The nimg, seconds, peak memory and provenance at the newest training state.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path = self.state_path() / "info.json"
        info = _read_json(path)
        if not isinstance(info, dict) or not info.keys() >= INFO:
            raise UserError(
                f"{path} is damaged (it lacks {', '.join(sorted(INFO))}): restore it or delete {path.parent}"
            )
        return info

    def state_path(self) -> Path:
        """Folder of the newest training state.

        Raises:
            UserError: there is none.
        """
        states = self._states()
        if not states:
            raise UserError(f"run {self.id} has no training state in {self.path / 'state'}: train it on")
        return states[-1]

    def _states(self) -> list[Path]:
        return _numbered(self.path / "state")

    # The training log

    def log(self) -> list[Line]:
        """The lines of `log.jsonl`: nimg, seconds, memory and the mean losses since the line before.

        Raises:
            UserError: a broken line.
        """
        old = self.path / LOG_OF_VERSION_0_1
        return self._lines(old.name if old.is_file() else LOG)

    def cut_log(self, nimg: int) -> None:
        """Drop the lines after `nimg`, which will be trained again."""
        kept = [line for line in self.log() if line["nimg"] <= nimg]
        self._write_lines(LOG, kept)
        (self.path / LOG_OF_VERSION_0_1).unlink(missing_ok=True)

    def add_to_log(self, line: Line) -> None:
        """Append a line to `log.jsonl`."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(to_json(line) + "\n")

    # Scores while it trains

    def scores(self) -> list[Line]:
        """The lines of `scores.jsonl`: nimg and the values of a score."""
        return self._lines(SCORES)

    def best(self) -> Line | None:
        """The line of `scores.jsonl` with the least `BEST`, or None where nothing was scored."""
        return min(self.scores(), key=lambda line: line[BEST.id]["value"], default=None)

    def keep_score(self, nimg: int, ema: nn.Module, values: ScoreValues) -> None:
        """Add a line to `scores.jsonl`, and keep the generator as the "best" one if none was better.

        After a stop an nimg is scored again, on a GPU with other rounding: the best generator keeps its line.

        Args:
            nimg: images shown.
            ema: the averaged generator that was scored.
            values: its scores, `BEST` among them.
        """
        best = self.best()
        if best is None or values[BEST].value <= best[BEST.id]["value"]:
            save_tensors(self.generator_path("best"), ema.state_dict())
        elif best["nimg"] == nimg:
            return
        lines: list[Line] = [line for line in self.scores() if line["nimg"] != nimg]
        lines.append({"nimg": nimg, **values_to_dict(values)})
        self._write_lines(SCORES, sorted(lines, key=lambda line: line["nimg"]))

    def _lines(self, name: str) -> list[Line]:
        path = self.path / name
        if not path.is_file():
            return []
        try:
            lines = [from_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): delete the broken line") from None
        for number, line in enumerate(lines, start=1):
            if not isinstance(line, dict) or "nimg" not in line:
                raise UserError(f"{path} is damaged (line {number} has no nimg): delete the broken line")
        return lines

    def _write_lines(self, name: str, lines: list[Line]) -> None:
        write_atomically(self.path / name, "".join(to_json(line) + "\n" for line in lines))


def _numbered(folder: Path, suffix: str = "") -> list[Path]:
    """What a folder holds under names of digits, in order; a copy beside it, "… (copy)", is none of it."""
    return sorted(
        path for path in folder.glob(f"[0-9]*{suffix}") if path.name.removesuffix(suffix).isdecimal()
    )


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): restore it or delete {path.parent}") from None
