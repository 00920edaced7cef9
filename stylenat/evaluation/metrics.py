"""Metrics by name: which statistic of which network's features, under which ids and titles; and scores."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor

from stylenat.errors import UserError, check_fields, check_number, unknown
from stylenat.evaluation.distances import (
    frechet_distance,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall,
)
from stylenat.features.networks import NETWORKS, FeatureNetwork

_SUBSET = 1000  # images in each of KID's subsets
_NEAREST = 3  # k of precision and recall
# How tables call the splits of the real images that the small protocol compares with.
SPLIT_TITLES = {
    "train": "train",
    "heldout": "held-out",
}
_ALL = ("all",)  # the literature's metrics compare with every real image


class Column(NamedTuple):
    """One number of a metric.

    Attributes:
        title: for readers, without the network.
        lower_is_better: whether less is better.
    """

    title: str
    lower_is_better: bool


COLUMNS = {
    "fid": Column("FID", True),
    "fd": Column("FD", True),
    "kid": Column("KID", True),
    "precision": Column("precision", False),
    "recall": Column("recall", False),
    "density": Column("density", False),
    "coverage": Column("coverage", False),
}


def _kid_of_subsets(real: Tensor, fake: Tensor) -> float:
    return kernel_distance_subsets(real, fake, subset_size=min(_SUBSET, len(real), len(fake)))[0]


def _precision_recall(real: Tensor, fake: Tensor) -> dict[str, float]:
    return precision_recall(real, fake, k=_NEAREST)


_MMD = "unbiased squared MMD, kernel (x·y / D + 1)³"
_FD = (frechet_distance, "Fréchet distance, unbiased covariances")
_KID = (kernel_distance, f"{_MMD}, full sets")
_KID_SUBSETS = (_kid_of_subsets, f"{_MMD}, mean of 100 random subsets of {_SUBSET} at most, seed 0")
_PR = (_precision_recall, f"improved precision and recall, density and coverage, k = {_NEAREST}")
_PR_COLUMNS = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Metric:
    """A statistic of two sets of features.

    Attributes:
        network: a key of `features.NETWORKS`.
        statistic: real `(N, D)`, fake `(M, D)` → a float, or a dict of floats by column.
        definition: what the statistic is, for the protocol.
        columns: keys of `COLUMNS`, what the statistic gives.
        moments: it takes `Moments` as well, so that no feature has to be kept.
        splits: of the real images, each compared on its own. Of "all" there are as many as there are and of
            generated ones as many as the caller says; of others a fixed, small number a side.
    """

    network: str
    statistic: Callable[[Any, Any], float | dict[str, float]]
    definition: str
    columns: tuple[str, ...]
    moments: bool = False
    splits: tuple[str, ...] = _ALL

    @property
    def small(self) -> bool:
        """Whether its number of images is fixed and small."""
        return self.splits != _ALL

    def compute(self, real: Any, fake: Any) -> dict[str, float]:
        """The statistic of two sets by column.

        Args:
            real: what `statistic` takes of the real images.
            fake: what it takes of the generated ones.
        """
        found = self.statistic(real, fake)
        return found if isinstance(found, dict) else {self.columns[0]: found}


METRICS = {
    "fd-lite0": Metric("lite0", *_FD, ("fd",), splits=tuple(SPLIT_TITLES)),
    "kid-lite0": Metric("lite0", *_KID, ("kid",), splits=tuple(SPLIT_TITLES)),
    "pr-lite0": Metric("lite0", *_PR, _PR_COLUMNS, splits=tuple(SPLIT_TITLES)),
    "fid": Metric("inception-legacy", *_FD, ("fid",), moments=True),
    "kid": Metric("inception-legacy", *_KID_SUBSETS, ("kid",)),
    "pr": Metric("inception-legacy", *_PR, _PR_COLUMNS),
    "fid-clean": Metric("inception-clean", *_FD, ("fid",), moments=True),
    "kid-clean": Metric("inception-clean", *_KID_SUBSETS, ("kid",)),
    "fd-dinov2": Metric("dinov2", *_FD, ("fd",), moments=True),
}
OFFLINE = ("fd-lite0", "kid-lite0")  # need no download


class ScoreKey(NamedTuple):
    """What a score is of: a column of a metric, against one split of the real images.

    Attributes:
        metric: a key of `METRICS`, such as "fd-lite0".
        column: one of the metric's columns, such as "fd".
        split: "train" or "heldout" of the small protocol, "all" of the literature's.
    """

    metric: str
    column: str
    split: str

    @property
    def id(self) -> str:
        """Its name in records and CSV tables, such as "fd_lite0_128_train"."""
        name = f"{self.column}_{self._network.id_suffix}"
        return name if self.split == "all" else f"{name}_{self.split}"

    @property
    def title(self) -> str:
        """Its name for readers, such as "FD-lite0@128, held-out"."""
        return self.metric_title if self.split == "all" else f"{self.metric_title}, {self.split_title}"

    @property
    def metric_title(self) -> str:
        """The title without the split."""
        return f"{COLUMNS[self.column].title}{self._network.title_suffix}"

    @property
    def split_title(self) -> str:
        """How tables call the split."""
        return SPLIT_TITLES[self.split]

    @property
    def arrow(self) -> str:
        """Whether less (↓) or more (↑) is better."""
        return "↓" if COLUMNS[self.column].lower_is_better else "↑"

    @property
    def _network(self) -> FeatureNetwork:
        return NETWORKS[METRICS[self.metric].network]


def keys_of(names: Iterable[str]) -> Iterator[ScoreKey]:
    """Every score of these metrics, in the order of tables."""
    for name in names:
        metric = METRICS[name]
        for column in metric.columns:
            for split in metric.splits:
                yield ScoreKey(name, column, split)


SCORE_KEYS = tuple(keys_of(METRICS))  # every score there is
_KEYS_BY_ID = {key.id: key for key in SCORE_KEYS}


def score_key(name: str) -> ScoreKey:
    """The `ScoreKey` of an `id`.

    Raises:
        UserError: no metric has a score of that name.
    """
    if name not in _KEYS_BY_ID:
        raise unknown("score", name, list(_KEYS_BY_ID))
    return _KEYS_BY_ID[name]


def parse_metrics(names: str | Iterable[str]) -> tuple[str, ...]:
    """Names of metrics, in the given order, each once.

    Args:
        names: `"fid,kid"`, or several names.

    Raises:
        UserError: no name, or one that is unknown.
    """
    given = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    for name in given:
        if not isinstance(name, str) or name not in METRICS:
            raise unknown("metric", name, METRICS)
    if not given:
        raise UserError(f"no metric was given; choose from {', '.join(METRICS)}.")
    return tuple(dict.fromkeys(given))


@dataclass(frozen=True)
class ScoreValue:
    """One score and how sure it is.

    Attributes:
        value: the statistic.
        error: its standard error.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        real_vs_real: the statistic of other real images instead of generated ones, where it is known.
        noise: the statistic of uniform noise, where it is known.
    """

    value: float
    error: float
    low: float
    high: float
    real_vs_real: float | None = None
    noise: float | None = None

    def to_dict(self) -> dict[str, float]:
        """What is known of it, ready for JSON."""
        return {name: part for name, part in asdict(self).items() if part is not None}

    @classmethod
    def from_dict(cls, entry: dict[str, float]) -> "ScoreValue":
        """Undo `to_dict`; records before version 0.2 call the two limits "floor" and "ceiling"."""
        made = cls(**{_OLD_PARTS.get(name, name): part for name, part in entry.items()})
        check_fields(made)
        return made


_OLD_PARTS = {"floor": "real_vs_real", "ceiling": "noise"}
ScoreValues = dict[ScoreKey, ScoreValue]


def check_values(values: ScoreValues) -> None:
    """Check that scores are finite numbers.

    Raises:
        UserError: one is not; names it.
    """
    for key, value in values.items():
        for name, part in value.to_dict().items():
            check_number(f"{name} of {key.title}", part)


def values_to_dict(values: ScoreValues) -> dict[str, dict[str, float]]:
    """Scores by the `id` of their key, ready for JSON."""
    return {key.id: value.to_dict() for key, value in values.items()}


def values_from_dict(entries: dict[str, dict]) -> ScoreValues:
    """Undo `values_to_dict`.

    Raises:
        UserError: a score of an unknown name.
    """
    return {score_key(name): ScoreValue.from_dict(entry) for name, entry in entries.items()}


def _check_protocol(protocol: Any) -> None:
    """Check that a protocol has what tables and cards show of it."""
    metrics = protocol.get("metrics") if isinstance(protocol, dict) else None
    if not isinstance(metrics, dict):
        raise UserError("the protocol has no metrics")
    for name, own in metrics.items():
        for key in ("note", "network", "generated", "references"):
            if not isinstance(own, dict) or key not in own:
                raise UserError(f"the protocol of {name} has no {key}")
        for split, entry in own["references"].items():
            if not isinstance(entry, dict) or not {"n_real", "n_fake"} <= entry.keys():
                raise UserError(f"the protocol of {name} has no n_real and n_fake of {split}")


@dataclass(frozen=True)
class Score:
    """Values, and the protocol that gives them a meaning.

    Attributes:
        values: every value by its key.
        protocol: everything the values depend on; "metrics" holds what is each metric's own.

    Raises:
        UserError: a value that is not finite; names it.
    """

    values: ScoreValues
    protocol: dict

    def __post_init__(self) -> None:
        check_values(self.values)

    def to_dict(self) -> dict:
        """Plain dicts, lists, strings and numbers, ready for JSON."""
        return {"values": values_to_dict(self.values), "protocol": self.protocol}

    @classmethod
    def from_dict(cls, entry: dict) -> "Score":
        """Undo `to_dict`.

        Raises:
            UserError: a score of an unknown name, or a protocol that lacks what tables show.
            KeyError: it has no values or no protocol.
        """
        values = values_from_dict(entry["values"])
        _check_protocol(entry["protocol"])
        return cls(values, entry["protocol"])

    def __str__(self) -> str:
        own = self.protocol["metrics"].values()
        lines = [f"against {self.protocol['dataset']['name']}"]
        lines += dict.fromkeys(f"{entry['generated']}; {entry['network']}. {entry['note']}" for entry in own)
        lines.append(f"{'':30}{'value':>11}{'95 % interval':>24}{'real vs real':>14}{'noise':>11}")
        for key, row in self.values.items():
            span = f"{row.low:.4g} to {row.high:.4g}"
            real = "–" if row.real_vs_real is None else f"{row.real_vs_real:.4g}"
            noise = "–" if row.noise is None else f"{row.noise:.4g}"
            lines.append(f"{key.title:30}{row.value:11.4g}{span:>24}{real:>14}{noise:>11}")
        return "\n".join(lines)
