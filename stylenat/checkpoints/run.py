"""What a run leaves on disk: safetensors for tensors, JSON for the rest; nothing is executed on loading."""

import json
import os
import shutil
from pathlib import Path

from stylenat.checkpoints.tensors import load_tensors, save_tensors
from stylenat.config import Config
from stylenat.errors import UserError
from stylenat.models.build import build_generator
from stylenat.paths import workspace, write_atomically

BEST = "kid_lite0_128_heldout"  # what tells the best generator of a run: unbiased, and no copy scores well


def _read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): restore it or delete {path.parent}") from None


class Run:
    """The folder of a training run: `config.json`, `metrics.jsonl`, `samples/`, `generators/`, `state/`.

    A run that is scored while it trains has `scores.jsonl` and `generators/best.safetensors`, too.

    `generators/<nimg>.safetensors` are the EMA weights of every snapshot, kept for scoring; `state/<nimg>/`
    is what training needs to go on, of which the two newest are kept.
    """

    def __init__(self, path):
        self.path = Path(path)

    @classmethod
    def open(cls, run, folder=None):
        """The run of an id (looked up in `folder`, default `runs/`) or of a path.

        Raises:
            UserError: there is none.
        """
        folder = Path(folder or workspace("runs"))
        for path in (folder / run, Path(run)):
            if (path / "config.json").is_file():
                return cls(path)
        raise UserError(
            f"run {run!r} not found in {folder}: train it first, `python -m stylenat train {run}`"
        )

    @property
    def id(self):
        return self.path.name

    @property
    def config(self):
        path = self.path / "config.json"
        fields = _read_json(path)
        try:
            return Config.from_dict(fields)
        except (AttributeError, TypeError) as error:
            raise UserError(f"{path} is no configuration ({error}): restore it or train anew") from None

    def snapshots(self):
        """nimg of every snapshot, in order."""
        states = self._states()
        newest = int(states[-1].name) if states else 0  # a stop between the two writes leaves one too many
        found = (int(path.stem) for path in (self.path / "generators").glob("[0-9]*.safetensors"))
        return sorted(nimg for nimg in found if nimg <= newest)

    def generator(self, nimg=None):
        """The EMA generator of a snapshot (default: the last), in eval mode on the CPU."""
        snapshots = self.snapshots()
        if not snapshots:
            raise UserError(f"run {self.id} has no snapshot yet: train it on")
        generator, path = build_generator(self.config), self.generator_path(nimg or snapshots[-1])
        try:
            generator.load_state_dict(load_tensors(path))
        except RuntimeError:
            raise UserError(f"checkpoint {path} is of another network: delete it") from None
        return generator.eval().requires_grad_(False)

    def metrics(self):
        """The lines of `metrics.jsonl`, each a dict."""
        return self._lines("metrics.jsonl")

    def _lines(self, name):
        path = self.path / name
        if not path.is_file():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): delete the broken line") from None

    def begin(self, config):
        """Make the folder, or check that the one there is of the same configuration."""
        text = json.dumps(config.to_dict(), indent=1) + "\n"
        path = self.path / "config.json"
        if not path.is_file():
            try:
                write_atomically(path, text)
            except OSError as error:
                raise UserError(
                    f"can't write to {self.path} ({error.strerror}): give a folder you may write to"
                ) from None
        elif path.read_text() != text:
            raise UserError(
                f"{self.path} holds a run of another configuration: delete it or train with another --out"
            )

    def save(self, nimg, ema, state, info):
        """Write a snapshot: EMA weights, then the state (a dict of dicts of tensors) and its `info`."""
        save_tensors(self.generator_path(nimg), ema.state_dict())
        final = self.path / "state" / f"{nimg:09d}"
        partial = final.with_name(f".{final.name}.{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        for name, tensors in state.items():
            save_tensors(partial / f"{name}.safetensors", tensors)
        write_atomically(partial / "info.json", json.dumps(info) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in self._states()[:-2]:
            shutil.rmtree(old)

    def scores(self):
        """The lines of `scores.jsonl`, each a dict: nimg and the values of a score."""
        return self._lines("scores.jsonl")

    def best(self):
        """The line of `scores.jsonl` with the least `BEST`, or None where nothing was scored."""
        return min(self.scores(), key=lambda line: line[BEST]["value"], default=None)

    def keep_score(self, nimg, ema, values):
        """Add a line to `scores.jsonl`, and keep the generator as the "best" one if none was better.

        After a stop an nimg is scored again, on a GPU with other rounding: the best generator keeps its line.
        """
        best = self.best()
        if best is None or values[BEST]["value"] <= best[BEST]["value"]:
            save_tensors(self.generator_path("best"), ema.state_dict())
        elif best["nimg"] == nimg:
            return
        lines = [line for line in self.scores() if line["nimg"] != nimg] + [{"nimg": nimg, **values}]
        lines.sort(key=lambda line: line["nimg"])
        write_atomically(self.path / "scores.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def restore(self):
        """The newest training state, `(state, info)`, or None at the start of a run."""
        if not self._states():
            return None
        tensors = {path.stem: load_tensors(path) for path in self.state_path().glob("*.safetensors")}
        return tensors, self.info()

    def info(self):
        """nimg, seconds, peak memory and provenance at the newest training state, a dict."""
        return _read_json(self.state_path() / "info.json")

    def state_path(self):
        """Folder of the newest training state. Raises UserError if there is none."""
        states = self._states()
        if not states:
            raise UserError(f"run {self.id} has no training state in {self.path / 'state'}: train it on")
        return states[-1]

    def _states(self):
        return sorted((self.path / "state").glob("[0-9]*"))

    def generator_path(self, nimg):
        """The file of a snapshot's EMA weights, or of the "best" generator's."""
        name = nimg if nimg == "best" else f"{nimg:09d}"
        return self.path / "generators" / f"{name}.safetensors"
