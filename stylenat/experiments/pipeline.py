"""What `workflow/Snakefile` makes: its targets, and of each run its commands, its record and what it costs.

Nothing here imports torch: Snakemake reads it for every job that it starts.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stylenat.config import Config, parse_overrides
from stylenat.errors import UserError, unknown
from stylenat.experiments.grid import Cell, load_grid
from stylenat.paths import read_json, to_json, workspace
from stylenat.presets import PRESETS, get_config, run_id

_TARGET_KEYS = ("runs", "grids", "again", "gpus", "notebooks")
_RUN_KEYS = ("preset", "set")


@dataclass(frozen=True)
class Estimate:
    """What a job may cost.

    Attributes:
        gpu_hours: on the hardware of the source; None where the run is made for a CPU.
        source: in words: where the number comes from, or the preset's own words.
    """

    gpu_hours: float | None
    source: str

    def __str__(self) -> str:
        return self.source if self.gpu_hours is None else f"{self.gpu_hours:,.1f} GPU-hours ({self.source})"


@dataclass(frozen=True)
class Costs:
    """What published runs cost, and what follows for others; the pipeline's YAML, section `costs`.

    Attributes:
        gpu_hours: of a run of 64 million images of FFHQ-256 at work 1.
        nimg: those images.
        source: of `gpu_hours`.
        images_per_second: that a generator of work 1 makes on one GPU.
        images_source: of `images_per_second`.
        scored: images that a score of a run takes at every snapshot.
        work: multiply-accumulates of a training step an image, by preset, as a multiple of FFHQ-256's.
    """

    gpu_hours: float
    nimg: int
    source: str
    images_per_second: float
    images_source: str
    scored: int
    work: Mapping[str, float]

    def training(self, config: Config) -> Estimate:
        """Of training a configuration."""
        if config.preset not in self.work:
            return Estimate(None, config.cost)
        work = self.work[config.preset]
        hours = self.gpu_hours * work * config.nimg / self.nimg
        source = self.source
        if (work, config.nimg) != (1, self.nimg):
            source = f"{source}; times {work:g} for the work of an image, {config.nimg:,} images"
        return Estimate(hours, source)

    def scoring(self, job: "Job") -> Estimate:
        """Of generating the images that a run's scores take; features take less."""
        config = job.config
        if config.preset not in self.work:
            return Estimate(None, "minutes")
        if job.cell:
            scoring = job.cell.scoring
            images = scoring.images * scoring.sample_seeds * scoring.snapshots
        else:
            images = self.scored * math.ceil(config.nimg / config.snapshot)
        hours = images * self.work[config.preset] / self.images_per_second / 3600
        return Estimate(hours, f"{images:,} images, {self.images_source}")


@dataclass(frozen=True)
class Job:
    """A run of the pipeline.

    Attributes:
        config: of the run.
        cell: of a grid; None for a run on its own.
        again: whether it is trained on this machine even where it is recorded.
        gpus: that train it together.
    """

    config: Config
    cell: Cell | None = None
    again: bool = False
    gpus: int = 1

    @property
    def run_id(self) -> str:
        """The run's name."""
        return run_id(self.config)

    @property
    def digest(self) -> str:
        """Hash of the configuration: where it changes, the run is made again."""
        return hashlib.sha256(to_json(self.config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def record(self) -> str:
        """The file that says that the run is done, from the workspace."""
        if self.cell:
            return f"results/ablation/{self.cell.grid}/{self.run_id}.json"
        return f"results/runs/{self.run_id}/result.json"

    def is_recorded(self) -> bool:
        """Whether this configuration was run, here or on another machine, and its record is in place.

        One that can't be read counts: `tables` says what is wrong with it.
        """
        path = workspace("results", "runs", self.run_id, "result.json")
        if self.again or not path.is_file() or not workspace(self.record).is_file():
            return False
        try:
            recorded = read_json(path).get("config")
        except (OSError, ValueError, AttributeError):
            return True
        return recorded == self.config.to_dict()

    def train_words(self) -> list[str]:
        """Words of the command that trains it, from `train` on."""
        settings = overrides(self.config)
        return ["train", self.config.preset, *(["--set", *settings] if settings else [])]

    def record_words(self) -> list[str]:
        """Words of the command that scores and records it."""
        if self.cell:
            return ["ablation", self.cell.grid, "--run", self.run_id]
        return ["evaluate", self.run_id, *(["--replace"] if self.again else [])]


def overrides(config: Config) -> list[str]:
    """`name=value` of the fields that differ from the preset's, as `--set` takes them.

    Raises:
        UserError: a value that `--set` would not read back.
    """
    preset = PRESETS[config.preset]
    settings = []
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if entry.name in ("preset", "cost") or value == getattr(preset, entry.name):
            continue
        text = config.to_dict()["partitions"] if entry.name == "partitions" else value
        settings.append(f"{entry.name}={text}")
    if get_config(config.preset, **parse_overrides(settings)) != config:
        raise UserError(f"run {run_id(config)} can't be written as settings of {config.preset}")
    return settings


@dataclass(frozen=True)
class Target:
    """What `snakemake NAME` makes.

    Attributes:
        name: of the target.
        jobs: its runs.
        notebooks: names of those that are executed at its end.
    """

    name: str
    jobs: tuple[Job, ...]
    notebooks: tuple[str, ...] = ()

    def missing(self) -> list[Job]:
        """The runs that are not recorded yet."""
        return [job for job in self.jobs if not job.is_recorded()]

    def summary(self, costs: Costs) -> str:
        """Number of runs, and what those that are missing may cost, in a line."""
        missing = self.missing()
        hours = 0.0
        for job in missing:
            for estimate in (costs.training(job.config), costs.scoring(job)):
                hours += estimate.gpu_hours or 0.0
        text = f"{self.name}: {len(missing)} of {len(self.jobs)} runs are to be made"
        return f"{text}, {hours:,.0f} GPU-hours in all, of training and scoring" if hours else text


@dataclass(frozen=True)
class Pipeline:
    """All that the pipeline can make.

    Attributes:
        targets: by name, the default one first.
        costs: what runs cost.
        jobs: every run, by run id.
    """

    targets: dict[str, Target]
    costs: Costs
    jobs: dict[str, Job] = field(default_factory=dict)


def load_pipeline(entries: Mapping[str, Any]) -> Pipeline:
    """The pipeline of a YAML's entries.

    Args:
        entries: "targets" and "costs", see `workflow/pipeline.yaml`.

    Raises:
        UserError: an unknown entry, preset, grid or setting, a target named as a run, or one run asked for in
            two ways.
    """
    targets: dict[str, Target] = {}
    jobs: dict[str, Job] = {}
    for name, entry in entries["targets"].items():
        _check_keys(f"target {name}", entry, _TARGET_KEYS)
        own = tuple(_jobs(entry))
        for job in own:
            known = jobs.setdefault(job.run_id, job)
            if known != job:
                raise UserError(
                    f"target {name} asks for run {job.run_id} in another way than a target before it: give "
                    "both the same grid, again and gpus"
                )
        targets[name] = Target(name, own, tuple(entry.get("notebooks", ())))
    if clashes := targets.keys() & jobs.keys():
        raise UserError(f"target {min(clashes)!r} is named as a run: give it another name")
    return Pipeline(targets, Costs(**entries["costs"]), jobs)


def _jobs(entry: Mapping[str, Any]) -> Iterator[Job]:
    again = bool(entry.get("again", False))
    gpus = int(entry.get("gpus", 1))
    for run in entry.get("runs", ()):
        _check_keys(f"run {run}", run, _RUN_KEYS)
        yield Job(get_config(run["preset"], **run.get("set", {})), None, again, gpus)
    for grid in entry.get("grids", ()):
        for cell in load_grid(grid).cells():
            yield Job(cell.config, cell, again, gpus)


def _check_keys(what: str, entry: Mapping[str, Any], allowed: Sequence[str]) -> None:
    for key in entry:
        if key not in allowed:
            raise unknown(f"entry of {what}", key, allowed)
