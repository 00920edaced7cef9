"""What a run leaves on disk: safetensors for tensors, JSON for the rest; nothing is executed on loading."""

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from stylenat.checkpoints.tensors import load_tensors, save_tensors
from stylenat.config import Config
from stylenat.data.dataset import Contents, ImageDataset
from stylenat.errors import UserError
from stylenat.evaluation.metrics import ScoreKey, ScoreValues, values_to_dict
from stylenat.images import save_png
from stylenat.models.base import Generator
from stylenat.models.build import build_generator
from stylenat.paths import (
    append_line,
    check_writable,
    find_path,
    from_json,
    is_alive,
    making_folder,
    read_json,
    remove,
    remove_folder,
    sweep,
    to_json,
    workspace,
    write_atomically,
)
from stylenat.sampling.sample import sample_sheet

# Chooses the best generator of a run: unbiased, and no copy scores well.
BEST = ScoreKey("kid-lite0", "kid", "heldout")
CONFIG = "config.json"  # makes a folder a run
DATASET = "dataset.json"
SCORES = "scores.jsonl"
LOG = "log.jsonl"
LOG_OF_VERSION_0_1 = "metrics.jsonl"
TEMPORARY_OF_VERSION_0_1 = re.compile(r"\.(?:.+\.(?P<file>\d+)\.tmp|\d{9}\.(?P<folder>\d+))")
FOLDERS = (".", "generators", "samples", "state")
INFO = {"nimg", "seconds", "peak_memory_bytes", "provenance"}  # what is known of every training state
Line = dict[str, Any]
State = Mapping[str, Mapping[str, Tensor]]


def is_run(path: Path) -> bool:
    """Whether a folder is that of a training run."""
    return (path / CONFIG).is_file()


class Run:
    """The folder of a training run: `config.json`, `dataset.json`, `log.jsonl`, `samples/`, and so on.

    A run that is scored while it trains has `scores.jsonl` and `generators/best.safetensors`, too; one that
    is being trained `.lock` (see `lock.hold`).

    `dataset.json` lists the images that it began with. `generators/<nimg>.safetensors` are the EMA weights of
    every snapshot, kept for scoring, and `samples/<nimg>.png` images of them; `state/<nimg>/` is what
    training needs to go on, of which the two newest are kept. The state is written last: with it a snapshot
    is there. One that a signal caused goes when the next regular one is there.

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

    def check(self, config: Config) -> None:
        """Check that the folder can be this configuration's run; writes nothing.

        Raises:
            UserError: it holds a run of another configuration, or snapshots of an unknown one; or it can't be
                written.
        """
        path = self.path / CONFIG
        if path.is_file():
            if path.read_bytes() != _config_text(config).encode():
                raise UserError(
                    f"{self.path} holds a run of another configuration: delete it or train with another --out"
                )
        elif self._states():
            raise UserError(
                f"{self.path} holds snapshots, but not their {CONFIG}: restore it or train with another --out"
            )
        if self.newest() < config.nimg:  # else there is nothing to write
            for folder in FOLDERS:
                check_writable(self.path / folder / "file")

    def begin(self, config: Config) -> None:
        """Make the folder, or check that the one there is of the same configuration.

        What processes left in it that died while they wrote is removed.

        Raises:
            UserError: as of `check`.
        """
        self.check(config)
        for name in FOLDERS:
            sweep(self.path / name)
            for path in (self.path / name).glob(".*"):
                found = TEMPORARY_OF_VERSION_0_1.fullmatch(path.name)
                if found and not is_alive(int(found["file"] or found["folder"])):
                    remove(path)
        if not is_run(self.path):
            write_atomically(self.path / CONFIG, _config_text(config))

    # The images

    def contents(self) -> Contents | None:
        """What the data set held when the run began; None for a run that version 0.1 began.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / DATASET
        if not path.is_file():
            return None
        entries = _read_json(path, "restore it or train the run again")
        try:
            return Contents.from_dict(entries)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): restore it or train the run again") from None

    def keep_dataset(self, dataset: ImageDataset) -> None:
        """Write down what the data set holds, if the run has just begun; see `check_dataset`."""
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
        newest = self.newest()  # a stop between the two writes leaves one generator too many
        found = [int(path.stem) for path in _numbered(self.path / "generators", ".safetensors")]
        return sorted(nimg for nimg in found if nimg <= newest)

    def newest(self) -> int:
        """The nimg of the newest training state; 0 at the start of a run."""
        states = self._states()
        return int(states[-1].name) if states else 0

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
        advice = "delete it, and train again for the newest, which is then written again"
        try:
            generator.load_state_dict(load_tensors(path, advice))
        except RuntimeError:
            raise UserError(f"checkpoint {path} is of another network: delete it") from None
        return generator.eval().requires_grad_(False)

    def generator_path(self, nimg: int | str) -> Path:
        """The file of a snapshot's EMA weights, or of the "best" generator's."""
        name = nimg if isinstance(nimg, str) else f"{nimg:09d}"
        return self.path / "generators" / f"{name}.safetensors"

    def sheet_path(self, nimg: int) -> Path:
        """The file of a snapshot's `sample_sheet`."""
        return self.path / "samples" / f"{nimg:09d}.png"

    def save(self, nimg: int, ema: Generator, state: State, info: Mapping[str, Any]) -> None:
        """Write a snapshot: EMA weights, samples, then the training state, of which the two newest are kept.

        Args:
            nimg: images shown.
            ema: the averaged generator.
            state: tensors by network or optimizer and name.
            info: plain JSON, see the method `info`; "interrupted" makes it a snapshot for the time being.
        """
        save_tensors(self.generator_path(nimg), ema.state_dict())
        save_png(self.sheet_path(nimg), sample_sheet(ema))
        final = self.path / "state" / f"{nimg:09d}"
        with making_folder(final) as partial:
            for name, tensors in state.items():
                save_tensors(partial / f"{name}.safetensors", tensors)
            known = {**info, "config_sha256": _sha256(_config_text(self.config))}
            write_atomically(partial / "info.json", to_json(_sealed(known)) + "\n")
            if final.is_dir():
                remove_folder(final)
            partial.rename(final)
        self._remove_old_states()

    def _remove_old_states(self) -> None:
        """Keep the two newest training states, and of an interrupted snapshot only the newest's."""
        for state in self._states()[:-1]:
            if self._is_interrupted(state):
                self.generator_path(int(state.name)).unlink(missing_ok=True)
                self.sheet_path(int(state.name)).unlink(missing_ok=True)
                remove_folder(state)
        for state in self._states()[:-2]:
            remove_folder(state)

    def _is_interrupted(self, state: Path) -> bool:
        try:
            return bool(self.info(int(state.name)).get("interrupted"))
        except (OSError, UserError):  # a damaged one
            return False

    def without_sheet(self) -> list[int]:
        """The nimg of the snapshots whose `sample_sheet` is missing or damaged."""
        return [nimg for nimg in self.snapshots() if not _is_image(self.sheet_path(nimg))]

    def restore(self, nimg: int | None = None) -> tuple[State, dict[str, Any]] | None:
        """A training state (default: the newest) and its `info`, or None at the start of a run.

        Raises:
            UserError: it is damaged, or is not there.
        """
        if nimg is None and not self._states():
            return None
        folder = self.state_path(nimg)
        advice = self.advice(nimg)
        tensors = {path.stem: load_tensors(path, advice) for path in folder.glob("*.safetensors")}
        return tensors, self.info(nimg)

    def go_back(self, nimg: int) -> None:
        """Forget every snapshot after an older one, from which training then goes on.

        The newest go first, so that a stop halfway leaves a run that goes on from one of them. Scores that
        were made while it trained stay, as they do after any stop: they are made again.

        Args:
            nimg: of a training state.

        Raises:
            UserError: there is no such state, or it is damaged; then nothing is removed.
        """
        self.restore(nimg)
        for state in reversed(self._states()):
            later = int(state.name)
            if later > nimg:
                remove_folder(state)
        for folder, suffix in (("generators", ".safetensors"), ("samples", ".png")):
            for path in _numbered(self.path / folder, suffix):
                if int(path.name.removesuffix(suffix)) > nimg:
                    path.unlink()

    def advice(self, nimg: int | None = None) -> str:
        """What to do where a training state (default: the newest) is damaged."""
        state = self.state_path(nimg)
        older = [int(other.name) for other in self._states() if int(other.name) < int(state.name)]
        if older:
            return f"restore it, or go on from the snapshot before with --from {older[-1]}"
        return f"restore it, or delete {self.path} and train again, for no older snapshot is there"

    def info(self, nimg: int | None = None) -> dict[str, Any]:
        """What is known at a training state (default: the newest).

        Returns:
            nimg, seconds, peak memory, attention, precision and provenance; the mean losses of the log's
            line; and where a signal caused it, "interrupted" and the losses since that line.

        Raises:
            UserError: there is none, or it is damaged, or `config.json` is not the one it was trained by.
        """
        path = self.state_path(nimg) / "info.json"
        advice = self.advice(nimg)
        entries = _read_json(path, advice)
        if not isinstance(entries, dict):
            raise UserError(f"{path} is damaged (no JSON object): {advice}")
        digest = entries.pop("sha256", None)
        if digest not in (None, _sealed(entries)["sha256"]) or entries.get("nimg") != int(path.parent.name):
            raise UserError(f"{path} is damaged: {advice}")
        if missing := INFO - entries.keys():
            lacks = ", ".join(sorted(missing))
            raise UserError(f"{path} is damaged (it lacks {lacks}): {advice}")
        known = entries.pop("config_sha256", None)
        if known not in (None, hashlib.sha256((self.path / CONFIG).read_bytes()).hexdigest()):
            raise UserError(f"{self.path / CONFIG} was changed since the run was trained: restore it")
        return entries

    def state_path(self, nimg: int | None = None) -> Path:
        """Folder of a training state (default: the newest).

        Raises:
            UserError: there is none.
        """
        for state in reversed(self._states()):
            if nimg is None or int(state.name) == nimg:
                return state
        kept = ", ".join(str(int(state.name)) for state in self._states())
        which = "" if nimg is None else f" of nimg={nimg}"
        fix = f"there are those of {kept}, older ones are not kept" if kept else "train it on"
        raise UserError(f"run {self.id} has no training state{which} in {self.path / 'state'}: {fix}")

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

    def complete_logs(self, nimg: int) -> None:
        """Make the log that of a run which was trained up to `nimg`, its newest training state.

        The lines after it go, which will be trained again, and so do lines that a stop cut off; that of
        the state itself is known to it.

        Raises:
            UserError: a snapshot's line is missing.
        """
        kept = [line for line in self.log() if line["nimg"] <= nimg]
        last = self.info().get("line") if nimg else None
        if last and (not kept or kept[-1]["nimg"] < nimg):
            kept.append(last)
        self._check_log(kept)
        self._write_lines(LOG, kept)
        self._write_lines(SCORES, self.scores())
        (self.path / LOG_OF_VERSION_0_1).unlink(missing_ok=True)

    def has_whole_logs(self) -> bool:
        """Whether log and scores end with a whole line, the log with that of the newest training state."""
        for name in (LOG, SCORES):
            if not (_text(self.path / name) or "\n").endswith("\n"):
                return False
        return [line["nimg"] for line in self.log()][-1:] == [self.newest()]

    def _check_log(self, lines: list[Line]) -> None:
        known = {line["nimg"] for line in lines}
        for nimg in self.snapshots():
            if nimg not in known and not (nimg == self.newest() and self.info().get("interrupted")):
                raise UserError(
                    f"{self.path / LOG} has no line of nimg={nimg}: restore the file, or delete "
                    f"{self.generator_path(nimg)}, which leaves that snapshot out"
                )

    def add_to_log(self, line: Line) -> None:
        """Append a line to `log.jsonl`."""
        append_line(self.path / LOG, to_json(line))

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
        """The lines of a file, without one that is being written or that a stop cut off.

        Raises:
            UserError: a broken line.
        """
        path = self.path / name
        *lines, rest = _text(path).split("\n")
        if not rest.startswith("{") or _is_json(rest):
            lines += [rest] if rest else []
        try:
            read = [from_json(line) for line in lines]
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): delete the broken line") from None
        for number, line in enumerate(read, start=1):
            if not isinstance(line, dict) or "nimg" not in line:
                raise UserError(f"{path} is damaged (line {number} has no nimg): delete the broken line")
        return read

    def _write_lines(self, name: str, lines: list[Line]) -> None:
        text = "".join(to_json(line) + "\n" for line in lines)
        if text != _text(self.path / name):
            write_atomically(self.path / name, text)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except ValueError:
        return False
    return True


def _config_text(config: Config) -> str:
    return to_json(config.to_dict(), indent=1) + "\n"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sealed(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries with their hash among them."""
    return {**entries, "sha256": _sha256(to_json(entries, sort_keys=True))}


def _is_image(path: Path) -> bool:
    """Whether a file is a whole PNG; its checksums say so."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.verify()
    except Exception:  # Pillow raises several kinds
        return False
    return content.endswith(b"IEND\xaeB`\x82")


def _numbered(folder: Path, suffix: str = "") -> list[Path]:
    """What a folder holds under names of digits, in order; a copy beside it, "… (copy)", is none of it."""
    return sorted(
        path for path in folder.glob(f"[0-9]*{suffix}") if path.name.removesuffix(suffix).isdecimal()
    )


def _read_json(path: Path, advice: str = "") -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        fix = advice or f"restore it or delete {path.parent}"
        raise UserError(f"{path} is damaged ({error}): {fix}") from None
