"""Metrics by name: which statistic of which network's features, under which keys and titles; and scores."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from stylenat.errors import UserError, unknown
from stylenat.evaluation.distances import (
    frechet_distance,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall,
)

_SUBSET = 1000  # images in each of KID's subsets
_NEAREST = 3  # k of precision and recall
# Of each network: what its keys end with, what its titles end with.
_NAMES = {
    "lite0": ("lite0_128", "-lite0@128"),
    "inception-legacy": ("legacy_pytorch", ""),
    "inception-clean": ("clean", " (clean)"),
    "dinov2": ("dinov2", "-DINOv2"),
}
_TITLES = {"fid": "FID", "fd": "FD", "kid": "KID"}  # others are titled as they are named
_NOTES = {
    "lite0": "NOT FID: compare with scores of this protocol only, never with published numbers",
    "inception-legacy": "clean-fid's mode legacy_pytorch: compare where reference and counts are the same",
    "inception-clean": "clean-fid's mode clean: compare where reference and counts are the same",
    "dinov2": "not FID: compare with FD-DINOv2 of the same reference and counts only",
}


def _kid_of_subsets(real, fake):
    return kernel_distance_subsets(real, fake, subset_size=min(_SUBSET, len(real), len(fake)))[0]


def _precision_recall(real, fake):
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

    Args:
        network: a key of `features.NETWORKS`.
        statistic: real `(N, D)`, fake `(M, D)` → a float, or a dict of floats by column.
        definition: what the statistic is, for the protocol.
        columns: what the statistic gives.
        moments: it takes `Moments` as well, so that no feature has to be kept.
    """

    network: str
    statistic: Callable
    definition: str
    columns: tuple
    moments: bool = False

    def key(self, column):
        """The name of a value in results, such as "fd_lite0_128"."""
        return f"{column}_{_NAMES[self.network][0]}"

    def title(self, column):
        """The name of a value in tables, such as "FD-lite0@128"."""
        return f"{_TITLES.get(column, column)}{_NAMES[self.network][1]}"

    @property
    def note(self):
        """What its values may be compared with."""
        return _NOTES[self.network]

    @property
    def small(self):
        """Whether a fixed, small number of images a side is scored, against train and held-out ones."""
        return self.network == "lite0"


METRICS = {
    "fd-lite0": Metric("lite0", *_FD, ("fd",)),
    "kid-lite0": Metric("lite0", *_KID, ("kid",)),
    "pr-lite0": Metric("lite0", *_PR, _PR_COLUMNS),
    "fid": Metric("inception-legacy", *_FD, ("fid",), moments=True),
    "kid": Metric("inception-legacy", *_KID_SUBSETS, ("kid",)),
    "pr": Metric("inception-legacy", *_PR, _PR_COLUMNS),
    "fid-clean": Metric("inception-clean", *_FD, ("fid",), moments=True),
    "kid-clean": Metric("inception-clean", *_KID_SUBSETS, ("kid",)),
    "fd-dinov2": Metric("dinov2", *_FD, ("fd",), moments=True),
}
OFFLINE = ("fd-lite0", "kid-lite0")  # need no download
SPLITS = {  # references of the small protocol, and how tables call them
    "train": "train",
    "heldout": "held-out",
}


def _titles():
    titles = {}
    for metric in METRICS.values():
        for column in metric.columns:
            key, title = metric.key(column), metric.title(column)
            arrow = "↓" if column in _TITLES else "↑"
            for split, told in SPLITS.items() if metric.small else [("", "")]:
                titles[f"{key}_{split}" if split else key] = (f"{title}, {told}" if told else title, arrow)
    return titles


TITLES = _titles()  # key of a value → (title, whether ↓ or ↑ is better)


def parse_metrics(names):
    """`"fid,kid"`, or a sequence of names → `{name: Metric}` in the given order.

    Raises:
        UserError: no name, or one that is unknown.
    """
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    if not names:
        raise UserError(f"no metric was given; choose from {', '.join(METRICS)}.")
    return {name: METRICS[name] for name in names}


@dataclass(frozen=True)
class Score:
    """Values, and the protocol that gives them a meaning.

    Attributes:
        values: by key of `TITLES`: `{"value", "error", "low", "high"}`, the standard error and the 95 %
            interval; and where they are known "floor", real against real, and "ceiling", noise.
        protocol: everything the values depend on; "metrics" tells what is each metric's own.
    """

    values: dict
    protocol: dict

    def to_dict(self):
        """Plain dicts, lists, strings and numbers, ready for JSON."""
        return asdict(self)

    def __str__(self):
        own = self.protocol["metrics"].values()
        lines = [f"against {self.protocol['dataset']['name']}"]
        lines += dict.fromkeys(f"{entry['generated']}; {entry['network']}. {entry['note']}" for entry in own)
        lines.append(f"{'':30}{'value':>11}{'95 % interval':>24}{'floor':>11}{'ceiling':>11}")
        for key, row in self.values.items():
            span = f"{row['low']:.4g} to {row['high']:.4g}"
            limits = "".join(
                f"{row[part]:11.4g}" if part in row else f"{'–':>11}" for part in ("floor", "ceiling")
            )
            lines.append(f"{TITLES[key][0]:30}{row['value']:11.4g}{span:>24}{limits}")
        return "\n".join(lines)
