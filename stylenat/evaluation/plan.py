"""The plan of a score: what is compared with what, as data."""

from collections.abc import Iterable
from dataclasses import dataclass

from stylenat.errors import UserError
from stylenat.evaluation.metrics import METRICS, Metric
from stylenat.evaluation.reference import LEAST, Reference

MANY = 1000  # of more images a side a Fréchet distance takes moments: exact halves would take minutes
HALVINGS_SMALL = 20  # split halves of an interval of the small protocol
HALVINGS = 8  # of any other's


@dataclass(frozen=True)
class Comparison:
    """One entry of the plan: a metric of generated images against one split of the real ones.

    Attributes:
        name: of the metric, a key of `METRICS`.
        split: "train", "heldout" or "all".
        generated: number of images that are generated; comparisons of one number share them.
        count: how many of them, the first ones, are compared.
        moments: the real features enter as their mean and covariance.
    """

    name: str
    split: str
    generated: int
    count: int
    moments: bool

    @property
    def metric(self) -> Metric:
        """The metric of that name."""
        return METRICS[self.name]

    @property
    def network(self) -> str:
        """The network whose features it compares, a key of `features.NETWORKS`."""
        return self.metric.network

    @property
    def halvings(self) -> int:
        """Split halves of the interval."""
        return HALVINGS_SMALL if self.metric.small else HALVINGS


def make_plan(metrics: Iterable[str], reference: Reference, count: int) -> list[Comparison]:
    """What is compared with what; the small protocol comes first.

    Args:
        metrics: keys of `METRICS`.
        reference: what is compared with.
        count: generated images for metrics that are not of the small protocol.

    Raises:
        UserError: the reference lacks what a metric needs, or there are too few images.
    """
    plan = []
    for name in sorted(metrics, key=lambda name: not METRICS[name].small):
        metric = METRICS[name]
        for split in metric.splits:
            if split not in reference.splits:
                raise UserError(f"{name} needs real images, not {reference.name}: give their folder")
            if metric.small:
                generated = reference.size("train")
                plan.append(Comparison(name, split, generated, reference.size(split), moments=False))
            elif count < LEAST:
                raise UserError(f"{count} generated images are too few to score: give {LEAST} or more")
            elif not reference.is_larger(LEAST - 1):
                raise UserError(f"{reference.name} has too few images to score: give {LEAST} or more")
            else:
                many = count > MANY or reference.is_larger(MANY)
                plan.append(Comparison(name, split, count, count, moments=metric.moments and many))
    return plan
