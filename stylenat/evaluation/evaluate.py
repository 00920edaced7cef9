"""Scores of generated images, none without the protocol that made it.

Metrics on EfficientNet-Lite0 (`-lite0`) need no download: NOT FID, and comparable with this protocol's scores
alone. At most 1000 images a side are compared with two splits of the real ones, a fixed random half of the
train split, which a memorized copy scores 0 on, and the held-out split. Beside each value stand the
real-vs-real baseline (other real images instead of generated ones) and the value of noise at equal counts.

The others follow the literature: 50,000 generated images against every real one, or against published
statistics of them.

Either way a score is made in one loop over a plan (`plan.py`), which holds one comparison for each metric and
split: features of the reference, features of the samples, the statistic with its 95 % interval, its limits
where they are known, an entry in the protocol. Comparisons of as many generated images share them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylenat.data.dataset import ImageDataset, open_dataset
from stylenat.distributed import ALONE, Processes
from stylenat.evaluation.distances import Moments
from stylenat.evaluation.intervals import intervals
from stylenat.evaluation.memorization import Memorization, memorization
from stylenat.evaluation.metrics import (
    OFFLINE,
    Score,
    ScoreKey,
    ScoreValue,
    ScoreValues,
    keys_of,
    parse_metrics,
)
from stylenat.evaluation.plan import Comparison, make_plan
from stylenat.evaluation.reference import RealFeatures, Reference, Statistics, as_reference
from stylenat.evaluation.samples import Samples, as_samples, dataset_batches, sample_features
from stylenat.features.networks import FEATURE_BATCH, NETWORKS, FeatureNetwork
from stylenat.models.base import Generator

PUBLISHED_COUNT = 50_000  # generated images of the literature's metrics


def evaluate(
    source: Generator | ImageDataset | Tensor,
    dataset: ImageDataset | Statistics,
    metric: str | Iterable[str] = OFFLINE,
    *,
    seed: int = 0,
    truncation_psi: float = 1.0,
    count: int | None = None,
    batch_size: int = 32,
    networks: Mapping[str, FeatureNetwork] = NETWORKS,
    processes: Processes = ALONE,
) -> Score:
    """Score generated images against real ones.

    Args:
        source: a generator, an `ImageDataset` of generated images, or uint8 `(N, 3, R, R)`.
        dataset: the real images, an `ImageDataset` of the same resolution, whichever its split; for
            Fréchet distances also `Statistics`.
        metric: names of `METRICS`, several or with commas between.
        seed: image i of a generator is of seed `seed · 10⁶ + i`.
        truncation_psi: of a generator.
        count: generated images for metrics that are not offline; default 50,000, or all that were given.
        batch_size: images that a generator makes at once; it does not touch the score.
        networks: the feature networks; `FeatureNetwork.with_weights` makes one with other weights.
        processes: that share the generated images, and call this alike; the score is every one's.

    Returns:
        The values and their protocol.

    Raises:
        UserError: an unknown metric, another resolution, too few real or generated images, weights that are
            missing or altered; all before any image is made.
    """
    names = parse_metrics(metric)
    samples = as_samples(source, seed, truncation_psi, batch_size)
    reference = as_reference(dataset)
    plan = make_plan(names, reference, count or samples.available or PUBLISHED_COUNT)
    most = max(comparison.generated for comparison in plan)
    samples.check(most, reference.resolution or samples.resolution)
    _check_plan(plan, reference, networks)

    values: ScoreValues = {}
    entries: dict[str, dict[str, Any]] = {}
    for comparison, real, fake in _compared(plan, reference, samples, networks, processes):
        values |= _values(comparison, real, fake)
        if comparison.name not in entries:
            entries[comparison.name] = _protocol(comparison, networks[comparison.network], samples)
        entries[comparison.name]["references"][comparison.split] = {
            **reference.protocol(comparison.split),
            "n_fake": comparison.count,
        }
    protocol = {
        "dataset": {**reference.identity(), "resolution": samples.resolution},
        **samples.protocol(),
        "flips": False,
        "device": str(samples.device),
        "metrics": {name: entries[name] for name in names},
    }
    return Score({key: values[key] for key in keys_of(entries)}, protocol)


def check_evaluation(
    dataset: ImageDataset | Statistics,
    metric: str | Iterable[str] = OFFLINE,
    *,
    count: int | None = None,
    networks: Mapping[str, FeatureNetwork] = NETWORKS,
) -> None:
    """Check what `evaluate` will need for a generator that is still to be trained or loaded.

    Args:
        dataset: as of `evaluate`.
        metric: as of `evaluate`.
        count: as of `evaluate`.
        networks: as of `evaluate`.

    Raises:
        UserError: as of `evaluate`.
    """
    reference = as_reference(dataset)
    plan = make_plan(parse_metrics(metric), reference, count or PUBLISHED_COUNT)
    _check_plan(plan, reference, networks)


def _check_plan(plan: list[Comparison], reference: Reference, networks: Mapping[str, FeatureNetwork]) -> None:
    """Check that the reference has the features that a plan asks for, and that the networks are there."""
    in_memory = _in_memory(plan)
    for each in plan:
        reference.check(networks[each.network], each.network not in in_memory)
    for name in dict.fromkeys(comparison.network for comparison in plan):
        networks[name].load()


def _in_memory(plan: list[Comparison]) -> set[str]:
    """Networks whose features have to be in memory: moments are not enough for all of their metrics."""
    return {each.network for each in plan if not each.moments}


def _compared(
    plan: list[Comparison],
    reference: Reference,
    samples: Samples,
    networks: Mapping[str, FeatureNetwork],
    processes: Processes,
) -> Iterator[tuple[Comparison, RealFeatures, Tensor | list[Moments]]]:
    """Each comparison of the plan with the features of the reference and of the samples."""
    in_memory = _in_memory(plan)
    real = {}
    for each in plan:
        moments = each.network not in in_memory
        found = reference.features(each.split, networks[each.network], samples.device, moments)
        real[each.network, each.split] = found
    for generated, group in groupby(plan, key=lambda each: each.generated):
        comparisons = list(group)
        used = {each.network: networks[each.network] for each in comparisons}
        fake = sample_features(samples, generated, used, used.keys() - in_memory, processes)
        for each in comparisons:
            yield each, real[each.network, each.split], fake[each.network]


def _values(
    comparison: Comparison, real: RealFeatures, fake: Tensor | list[Moments]
) -> dict[ScoreKey, ScoreValue]:
    """The values of one comparison, with interval and limits."""
    metric = comparison.metric
    real_set = real.features
    if comparison.moments and isinstance(real_set, Tensor):
        real_set = Moments().update(real_set)
    fake_set = fake[: comparison.count] if isinstance(fake, Tensor) else fake
    limits = real.limits(metric)
    values = {}
    for column, found in intervals(metric.compute, real_set, fake_set, comparison.halvings).items():
        known = {name: by_column[column] for name, by_column in limits.items()}
        key = ScoreKey(comparison.name, column, comparison.split)
        values[key] = ScoreValue(**asdict(found), **known)
    return values


def _protocol(comparison: Comparison, network: FeatureNetwork, samples: Samples) -> dict[str, Any]:
    """A metric's own entry in the protocol, still without its references."""
    halved = "generated" if comparison.moments else "real and generated"
    return {
        "note": network.note,
        "statistic": comparison.metric.definition,
        "generated": samples.description(comparison.generated),
        **network.protocol(),
        "interval": f"95 %, {comparison.halvings} split halves of {halved} images",
        "references": {},
    }


def nearest_training_images(
    source: Generator | ImageDataset | Tensor,
    dataset: ImageDataset,
    *,
    count: int | None = None,
    neighbors: int = 3,
    seed: int = 0,
    networks: Mapping[str, FeatureNetwork] = NETWORKS,
) -> tuple[Memorization, Tensor]:
    """Do generated images copy the training set? The `Memorization` of some, on lite0's features.

    Args:
        source: as of `evaluate`.
        dataset: the real images, whichever their split.
        count: generated images; default: as many as are held out, at most 1000, or all that were given.
        neighbors: training images to find for each.
        seed: as of `evaluate`.
        networks: as of `evaluate`.

    Returns:
        The `Memorization`, whose indices are positions in the train split, and the images, uint8
        `(count, 3, R, R)`.

    Raises:
        UserError: as of `evaluate`.
    """
    network = networks["lite0"]
    samples = as_samples(source, seed)
    usual = as_reference(dataset).size("heldout")
    made_count = count or min(usual, samples.available or usual)
    samples.check(made_count, dataset.resolution)
    made = torch.cat(list(samples.batches(made_count)))
    real = {}
    for split in ("train", "heldout"):
        images = dataset.with_split(split)
        real[split] = network.features(dataset_batches(images, range(len(images))), samples.device)
    fake = network.features(made.split(FEATURE_BATCH), samples.device)
    return memorization(real["train"], real["heldout"], fake, neighbors), made


def open_reference(path: str | Path, resolution: int) -> ImageDataset | Statistics:
    """Real images or their statistics.

    Args:
        path: `"noto-faces"`, a folder or zip, or clean-fid's `.npz`.
        resolution: of the images, pixels a side.

    Raises:
        UserError: there are none at that path or resolution.
    """
    return Statistics.open(path) if str(path).lower().endswith(".npz") else open_dataset(path, resolution)
