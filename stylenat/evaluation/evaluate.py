"""Scores of generated images, none without the protocol that made it.

Metrics on EfficientNet-Lite0 (`-lite0`) need no download: NOT FID, and comparable with this protocol's scores
alone. At most 1000 images a side are scored against two references, a fixed random half of the train split,
which a memorized copy scores 0 on, and the held-out split. Beside each value stand its floor (real against
real) and its ceiling (uniform noise) at equal counts.

The others follow the literature: 50,000 generated images against every real one, or against published
statistics of them.
"""

import itertools
from dataclasses import asdict, replace

import numpy as np
import torch

from stylenat.data.dataset import HOLD_OUT_EVERY, open_dataset
from stylenat.errors import UserError
from stylenat.evaluation.distances import Moments
from stylenat.evaluation.intervals import interval
from stylenat.evaluation.memorization import memorization
from stylenat.evaluation.metrics import OFFLINE, Score, ScoreKey, ScoreValue, parse_metrics
from stylenat.evaluation.reference import Statistics
from stylenat.evaluation.samples import Images, batched
from stylenat.features.networks import FEATURE_BATCH, NETWORKS
from stylenat.progress import progress

MOST = 1000  # images a side of the offline metrics: their Fréchet distance is exact and takes seconds
LEAST = 20
PUBLISHED_COUNT = 50_000  # generated images of the other metrics, as in the literature
PARTS = 10  # independent moments of the fakes, for the interval
HALVINGS = {True: 20, False: 8}  # of the interval, for offline metrics and for the others

_KEPT = {}  # the last few references: training scores itself again and again


def _kept(make, dataset, network, device, *more):
    key = (make, dataset.manifest, dataset.resolution, network, str(device), *more)
    if key not in _KEPT:
        while len(_KEPT) >= 4:
            _KEPT.pop(next(iter(_KEPT)))
        _KEPT[key] = make(dataset, network, device, *more)
    return _KEPT[key]


def _rows(metric, real, fake):
    """`{column: ScoreValue}`, the 95 % interval by split halves."""
    found = interval(metric.statistic, real, fake, HALVINGS[metric.small])
    found = found if isinstance(found, dict) else {metric.columns[0]: found}
    return {column: ScoreValue(**asdict(entry)) for column, entry in found.items()}


# Offline metrics


def _sizes(dataset):
    """Images a side for each reference: half the train split, all held out, at most `MOST`."""
    train, held_out = (len(dataset.with_split(split)) for split in ("train", "heldout"))
    if min(train // 2, held_out) < LEAST:
        raise UserError(
            f"{dataset.source} has {train + held_out} images, {held_out} of them held out; a score needs "
            f"at least {LEAST} on each side: give {HOLD_OUT_EVERY * LEAST} images or more."
        )
    return {"train": min(train // 2, MOST), "heldout": min(held_out, MOST)}


class _References:
    """Features of both references, of as many other real images and of noise, at each one's count."""

    def __init__(self, dataset, network, device):
        self.sizes = _sizes(dataset)
        n, m = self.sizes["train"], self.sizes["heldout"]

        def of_split(split, count):
            images = dataset.with_split(split)
            # One order for every run and seed: the reference must not move.
            chosen = np.random.default_rng(0).permutation(len(images))[:count]
            return network.features((images.stack(part) for part in batched(chosen)), device)

        real = of_split("train", 2 * n)
        self.real = {"train": real[:n], "heldout": of_split("heldout", m)}
        self.other_real = {"train": real[n:], "heldout": real[:m]}
        rng, shape = np.random.default_rng(0), (3, dataset.resolution, dataset.resolution)
        noise = (rng.integers(256, size=(len(part), *shape), dtype=np.uint8) for part in batched(range(n)))
        self.noise = network.features(map(torch.from_numpy, noise), device)
        self._limits = {}

    def rows(self, metric, split, fakes):
        """Rows of the first fakes against the reference `split`, with floor and ceiling."""
        real, count = self.real[split], self.sizes[split]
        if (metric, split) not in self._limits:
            others = self.other_real[split], self.noise[:count]
            limits = [metric.statistic(real, other) for other in others]
            self._limits[metric, split] = [
                limit if isinstance(limit, dict) else {metric.columns[0]: limit} for limit in limits
            ]
        floor, ceiling = self._limits[metric, split]
        return {
            column: replace(row, real_vs_real=floor[column], noise=ceiling[column])
            for column, row in _rows(metric, real, fakes[:count]).items()
        }


def _score_offline(metrics, images, dataset, networks):
    sizes, values, own = _sizes(dataset), {}, {}
    for network in {metric.network for metric in metrics.values()}:
        references = _kept(_References, dataset, networks[network], images.device)
        fakes = networks[network].features(images.batches(sizes["train"]), images.device)
        for name, metric in metrics.items():
            rows = {split: references.rows(metric, split, fakes) for split in sizes}
            for column in metric.columns:
                values |= {ScoreKey(name, column, split): rows[split][column] for split in sizes}
            own[name] = {
                "note": metric.note,
                "statistic": metric.definition,
                "generated": images.told(sizes["train"]),
                **networks[network].protocol(),
                "interval": f"95 %, {HALVINGS[metric.small]} split halves of real and generated images",
                "references": {
                    split: {"split": split, "chosen": chosen, "n_real": sizes[split], "n_fake": sizes[split]}
                    for split, chosen in (("train", "fixed random half"), ("heldout", "fixed random order"))
                },
            }
    return values, own


# The literature's metrics


def _real_features(dataset, network, device, keep):
    """Features of every real image, or their `Moments`."""
    everything = dataset.with_split("all")
    stream = network.stream((everything.stack(part) for part in batched(range(len(everything)))), device)
    stream = progress(stream, total=-(-len(everything) // FEATURE_BATCH), unit="batch", desc="real images")
    if keep:
        return torch.cat(list(stream))
    moments = Moments()
    for features in stream:
        moments.update(features)
    return moments


def _score_as_published(metrics, images, dataset, networks, count):
    known = isinstance(dataset, Statistics)
    few = not known and max(len(dataset.with_split("all")), count) <= MOST
    names = list(dict.fromkeys(metric.network for metric in metrics.values()))
    # Of many images features are kept only for metrics that need them; the others sum them up.
    keep = {n: few or not all(m.moments for m in metrics.values() if m.network == n) for n in names}
    real = {
        name: dataset.of(networks[name], keep[name])
        if known
        else _kept(_real_features, dataset, networks[name], images.device, keep[name])
        for name in names
    }
    fakes = _fake_features(images, count, {name: networks[name] for name in names}, keep)
    values, own = {}, {}
    for name, metric in metrics.items():
        theirs, ours = real[metric.network], fakes[metric.network]
        if metric.moments and not few and isinstance(theirs, torch.Tensor):
            theirs = Moments().update(theirs)
        values |= {ScoreKey(name, column, "all"): row for column, row in _rows(metric, theirs, ours).items()}
        halved = "real and generated" if isinstance(theirs, torch.Tensor) else "generated"
        reference = (
            dataset.reference() if known else {"split": "all", "n_real": len(dataset.with_split("all"))}
        )
        own[name] = {
            "note": metric.note,
            "statistic": metric.definition,
            "generated": images.told(count),
            **networks[metric.network].protocol(),
            "interval": f"95 %, {HALVINGS[metric.small]} split halves of {halved} images",
            "references": {"all": reference | {"n_fake": count}},
        }
    return values, own


def _fake_features(images, count, networks, keep):
    """By network: features of the images, or a list of `PARTS` moments; images are made once for all."""
    copies = itertools.tee(images.batches(count), len(networks))
    streams = [n.stream(batches, images.device) for n, batches in zip(networks.values(), copies, strict=True)]
    summed = {name: not keep[name] and count >= PARTS * FEATURE_BATCH for name in networks}
    found = {name: [] for name in networks}
    for i, parts in enumerate(zip(*streams, strict=True)):
        for name, features in zip(networks, parts, strict=True):
            if not summed[name]:
                found[name].append(features)
            elif i < PARTS:
                found[name].append(Moments().update(features))
            else:
                found[name][i % PARTS].update(features)
    return {name: parts if summed[name] else torch.cat(parts) for name, parts in found.items()}


def evaluate(
    source,
    dataset,
    metric=OFFLINE,
    *,
    seed=0,
    truncation_psi=1.0,
    count=None,
    batch_size=32,
    networks=NETWORKS,
):
    """Score generated images against real ones.

    Args:
        source: a generator, an `ImageDataset` of generated images, or uint8 `(N, 3, R, R)`.
        dataset: the real images, an `ImageDataset` of the same resolution, whichever its split; for
            Fréchet distances also `Statistics`.
        metric: names of `METRICS`, a sequence or with commas between.
        seed, truncation_psi, batch_size: see `Images`; the batches do not touch the score.
        count: generated images for metrics that are not offline; default 50,000, or all that were given.
        networks: the feature networks; `FeatureNetwork.with_weights` makes one with other weights.

    Returns: a `Score`.

    Raises: UserError for an unknown metric, another resolution, too few real or generated images, weights
        that are missing or altered; all before any image is made.
    """
    metrics = parse_metrics(metric)
    images = Images(source, seed, truncation_psi, batch_size)
    offline = {name: m for name, m in metrics.items() if m.small}
    published = {name: m for name, m in metrics.items() if not m.small}
    statistics = isinstance(dataset, Statistics)
    if statistics and offline:
        raise UserError(f"{next(iter(offline))} needs real images, not {dataset.name}: give their folder")
    counts = [_sizes(dataset)["train"]] if offline else []
    if published:
        counts.append(count or images.available or PUBLISHED_COUNT)
        if counts[-1] < LEAST:
            raise UserError(f"{counts[-1]} generated images are too few to score: give {LEAST} or more")
    images.check(max(counts), images.resolution if statistics else dataset.resolution)
    for name in {m.network for m in metrics.values()}:
        networks[name].load()
    values, own = {}, {}
    for found, protocols in (
        _score_offline(offline, images, dataset, networks) if offline else ({}, {}),
        _score_as_published(published, images, dataset, networks, counts[-1]) if published else ({}, {}),
    ):
        values |= found
        own |= protocols
    reference = {"name": dataset.name, "manifest": dataset.manifest, "resolution": images.resolution}
    protocol = {
        "dataset": reference,
        **images.protocol(),
        "flips": False,
        "device": str(images.device),
        "metrics": {name: own[name] for name in metrics},
    }
    return Score(values, protocol)


def nearest_training_images(source, dataset, *, count=None, neighbors=3, seed=0, networks=NETWORKS):
    """Do generated images copy the training set? The `Memorization` of some, on lite0's features.

    Args:
        source, dataset, seed: as of `evaluate`.
        count: generated images; default: as many as are held out, at most 1000.

    Returns: the `Memorization`, whose indices are positions in the train split, and the images, uint8
        `(count, 3, R, R)`.
    """
    network, images = networks["lite0"], Images(source, seed)
    splits = {split: dataset.with_split(split) for split in ("train", "heldout")}
    count = count or min(_sizes(dataset)["heldout"], MOST)
    images.check(count, dataset.resolution)
    made = torch.cat(list(images.batches(count)))
    real = (
        network.features((part.stack(chosen) for chosen in batched(range(len(part)))), images.device)
        for part in splits.values()
    )
    fakes = network.features(made.split(FEATURE_BATCH), images.device)
    return memorization(*real, fakes, neighbors), made


def open_reference(path, resolution):
    """Real images or their statistics: `"noto-faces"`, a folder or zip, or clean-fid's `.npz`."""
    return Statistics.open(path) if str(path).endswith(".npz") else open_dataset(path, resolution)
