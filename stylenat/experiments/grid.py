"""Grids of runs as data: arms, contrasts and runs, read from `ablation.yaml` and `generators.yaml`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stylenat.attention.partitions import (
    Levels,
    dilated_levels,
    far_levels,
    full_levels,
    kernel_levels,
    local_levels,
    octave_levels,
    parse_partitions,
    repeated_levels,
    two_view_levels,
    window_levels,
)
from stylenat.config import Config
from stylenat.errors import UserError, unknown
from stylenat.presets import PRESETS, get_config, run_id

ABLATION = Path(__file__).with_name("ablation.yaml")
GENERATORS = Path(__file__).with_name("generators.yaml")
MIXED_KERNELS = (3, 5, 7)
Rule = Callable[[Sequence[int], int], Levels]  # heads of the levels, kernel size → partitions

RULES: dict[str, Rule] = {
    "windows": lambda heads, kernel: window_levels(heads, kernel + 1),  # even, and as near as can be
    "local": local_levels,
    "two-views": two_view_levels,
    "octaves": octave_levels,
    "far": far_levels,
    "kernels": lambda heads, kernel: kernel_levels(heads, MIXED_KERNELS),
    "full": lambda heads, kernel: full_levels(heads),
}


@dataclass(frozen=True)
class Variant:
    """An arm of an experiment: another rule for what heads see, or another preset.

    Attributes:
        name: as its tables name it.
        rule: what the heads see; None for an arm that is a preset.
        preset: whose configuration it has; "" for an arm that is a rule, and has the grid's.
        settings: fields of the configuration that it changes besides.
    """

    name: str
    rule: Rule | None = None
    preset: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contrast:
    """Two arms that are compared: the score of `treatment` minus that of `control`, by seed.

    Attributes:
        treatment: name of a variant.
        control: name of a variant.
        paper: their published FIDs, in this order; None where nothing is published.
    """

    treatment: str
    control: str
    paper: tuple[float, float] | None = None

    @property
    def arms(self) -> tuple[str, str]:
        """Treatment and control."""
        return self.treatment, self.control

    @property
    def name(self) -> str:
        """Such as "hydra-2 − na"."""
        return f"{self.treatment} − {self.control}"

    @property
    def is_tested(self) -> bool:
        """Whether it is judged by a p-value: where something is published. The others are exploratory."""
        return self.paper is not None

    @property
    def sign(self) -> int:
        """The sign of the paper's difference: -1, 1, or 0 where nothing is published."""
        if self.paper is None:
            return 0
        return 1 if self.paper[0] > self.paper[1] else -1


@dataclass(frozen=True)
class Scoring:
    """How the runs of a grid are scored.

    Attributes:
        metric: of the primary contrast, "fd-lite0" or "kid-lite0"; the other one is secondary.
        images: generated images of a score, and real ones that are held out; fewer where fewer are held out.
        sample_seeds: scores of one snapshot, each of other latents; the same ones in every arm.
        snapshots: last snapshots of a run whose mean is the run's score.
    """

    metric: str = "fd-lite0"
    images: int = 5000
    sample_seeds: int = 4
    snapshots: int = 3


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        grid: the grid's name.
        variant: the arm's name.
        config: of the run, its seed included.
        scoring: how it is scored.
    """

    grid: str
    variant: str
    config: Config
    scoring: Scoring

    @property
    def seed(self) -> int:
        """The run's seed, by which arms are paired."""
        return self.config.seed

    @property
    def run_id(self) -> str:
        """The run's name, which is also that of what is recorded of the cell."""
        return run_id(self.config)


@dataclass(frozen=True)
class Grid:
    """Runs that differ in variant and seed alone.

    Attributes:
        name: of the grid; its folder below `results/ablation`.
        plan: the file that it is from.
        preset: of all runs; "" where arms are presets.
        settings: fields of the preset that are replaced in all runs.
        kernel: kernel size of every rule.
        variants: the arms.
        contrasts: what is compared, the primary contrast first; of arms that the grid has.
        first_seed: of the paired seeds.
        seeds: paired seeds of an arm.
        tested_seeds: the same of the arms of contrasts that are tested.
        scoring: of every run.
    """

    name: str
    plan: Path
    preset: str
    settings: Mapping[str, Any]
    kernel: int
    variants: tuple[Variant, ...]
    contrasts: tuple[Contrast, ...]
    first_seed: int
    seeds: int
    tested_seeds: int
    scoring: Scoring

    @property
    def primary(self) -> Contrast | None:
        """The primary contrast; None where the grid lacks its arms."""
        return self.contrasts[0] if self.contrasts else None

    @property
    def secondary(self) -> tuple[Contrast, ...]:
        """The other contrasts that are tested, a family for Holm's method."""
        return tuple(contrast for contrast in self.contrasts[1:] if contrast.is_tested)

    @property
    def exploratory(self) -> tuple[Contrast, ...]:
        """Contrasts that are described by their intervals alone."""
        return tuple(contrast for contrast in self.contrasts[1:] if not contrast.is_tested)

    def seeds_of(self, variant: str) -> range:
        """The paired seeds of an arm."""
        is_tested = any(contrast.is_tested and variant in contrast.arms for contrast in self.contrasts)
        return range(self.first_seed, self.first_seed + (self.tested_seeds if is_tested else self.seeds))

    def cells(self) -> list[Cell]:
        """Every run in the order in which they are run.

        The primary contrast's arms come first, then those of the secondary ones, then the rest; of these all
        arms of a seed before those of the next.
        """
        primary = (self.primary,) if self.primary else ()
        names: list[str] = []
        found = []
        for contrasts in (primary, self.secondary, self.exploratory):
            wanted = {name for contrast in contrasts for name in contrast.arms}
            arms = [variant.name for variant in self.variants if variant.name in wanted - set(names)]
            found += self._by_seed(arms)
            names += arms
        return found + self._by_seed([each.name for each in self.variants if each.name not in names])

    def cells_of(self, contrasts: Sequence[Contrast]) -> list[Cell]:
        """The runs that some contrasts compare."""
        names = {name for contrast in contrasts for name in contrast.arms}
        return [cell for cell in self.cells() if cell.variant in names]

    def _by_seed(self, arms: Sequence[str]) -> list[Cell]:
        found = []
        for seed in range(self.first_seed, self.first_seed + max(self.seeds, self.tested_seeds)):
            found += [self.cell(name, seed=seed) for name in arms if seed in self.seeds_of(name)]
        return found

    def find(self, run: str) -> Cell:
        """The cell of a run id.

        Raises:
            UserError: the grid has none.
        """
        cells = {cell.run_id: cell for cell in self.cells()}
        if run not in cells:
            raise unknown(f"run of grid {self.name}", run, cells)
        return cells[run]

    def variant(self, name: str) -> Variant:
        """The arm of that name, whether or not the grid runs it.

        Raises:
            UserError: there is none.
        """
        known = {variant.name: variant for variant in (*all_variants(self.plan), *self.variants)}
        if name not in known:
            raise unknown("variant", name, known)
        return known[name]

    def cell(
        self,
        variant: str = "",
        *,
        dilation: int = 0,
        partitions: str = "",
        seed: int | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Cell:
        """One cell, whether or not the grid holds it; it changes one thing.

        Args:
            variant: name of an arm.
            dilation: instead: half the heads local, half at this dilation, or at the largest that fits.
            partitions: instead: one level's, such as "2x3@1,2x3@4", for all; dilations are shortened to fit.
            seed: of the run; default: the grid's first.
            overrides: fields to replace, as of `get_config`; a seed among them comes first.

        Raises:
            UserError: none or several of the first three, an unknown variant, partitions that do not fit or
                that arms do not differ in, overrides of what the ablation sets, and as of `get_config`.
        """
        replaced = dict(overrides or {})
        for name in ("partitions", "variant", "paired"):
            if name in replaced:
                raise UserError(f"{name}={replaced[name]!r}: the ablation sets it; leave it out")
        given = {"variant": variant, "dilation": dilation, "partitions": partitions}
        chosen = [f"{name}={value!r}" for name, value in given.items() if value]
        if len(chosen) != 1:
            what = " and ".join(chosen) or "nothing"
            raise UserError(
                f"a cell changes one thing, and {what} is given: give variant, dilation or partitions"
            )
        if not (variant or self.preset):
            raise UserError(f"the arms of {self.name} are generators: give a variant, not {chosen[0]}")
        arm = self.variant(variant) if variant else _custom(dilation, partitions)
        number = self.first_seed if seed is None else seed
        settings = {**self.settings, "seed": number, **replaced, **arm.settings}
        if arm.rule is None:
            config = get_config(arm.preset, **settings, variant=arm.name)
            return Cell(self.name, arm.name, config, self.scoring)
        settings["paired"] = True
        # Only its heads are used: the published rule fits whatever widths the settings give.
        heads = get_config(self.preset, **settings, partitions="").level_heads
        levels = arm.rule(heads, self.kernel)
        config = get_config(self.preset, **settings, partitions=levels, variant=arm.name)
        return Cell(self.name, arm.name, config, self.scoring)


def _custom(dilation: int, partitions: str) -> Variant:
    """The arm of a dilation or of partitions that a user gave."""
    if dilation:
        return Variant(f"dilation {dilation}", lambda heads, kernel: dilated_levels(heads, dilation, kernel))
    level = parse_partitions(partitions)
    return Variant(f"partitions {partitions}", lambda heads, kernel: repeated_levels(heads, level))


@functools.cache
def _read(plan: Path) -> dict[str, Any]:
    return yaml.safe_load(plan.read_text(encoding="utf-8"))


def all_variants(plan: Path = ABLATION) -> tuple[Variant, ...]:
    """Every arm that a plan defines."""
    found = []
    for name, entry in _read(plan)["variants"].items():
        settings = {key: value for key, value in entry.items() if key not in ("rule", "preset")}
        rule = RULES[entry["rule"]] if "rule" in entry else None
        found.append(Variant(name, rule, entry.get("preset", ""), settings))
    return tuple(found)


def grid_names(plan: Path = ABLATION) -> list[str]:
    """Names of a plan's grids, in its order."""
    return list(_read(plan)["grids"])


def load_grid(name: str) -> Grid:
    """The grid of a name; that of a preset has its runs as they are, with kernel size 3 and two arms.

    Raises:
        UserError: there is no such grid or preset.
    """
    plan = ABLATION
    if name in grid_names(GENERATORS):
        plan = GENERATORS
    elif name not in (*grid_names(), *PRESETS):
        raise unknown("grid", name, [*grid_names(), *grid_names(GENERATORS), *PRESETS])
    grids = _read(plan)["grids"]
    entry = dict(grids.get(name, grids.get("smoke")))
    if name not in grids:
        entry |= {"preset": name, "settings": {}, "score": {"snapshots": 1}}
    names = entry.pop("variants")
    variants = tuple(variant for variant in all_variants(plan) if variant.name in names)
    contrasts = []
    for contrast in _read(plan)["contrasts"]:
        if {contrast["treatment"], contrast["control"]} <= set(names):
            paper = contrast.get("paper")
            pair = tuple(paper) if paper else None
            contrasts.append(Contrast(contrast["treatment"], contrast["control"], pair))
    return Grid(
        name=name,
        plan=plan,
        preset=entry.pop("preset", ""),
        kernel=entry.pop("kernel", 0),
        variants=variants,
        contrasts=tuple(contrasts),
        scoring=Scoring(**entry.pop("score")),
        first_seed=entry.pop("first_seed", 0),
        tested_seeds=entry.pop("tested_seeds", entry["seeds"]),
        **entry,
    )
