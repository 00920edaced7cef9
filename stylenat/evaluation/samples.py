"""Generated images the way a score takes them, whether a generator, a dataset or a tensor holds them."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stylenat.data.dataset import ImageDataset
from stylenat.device import bfloat16_instructions
from stylenat.distributed import ALONE, Processes
from stylenat.errors import UserError, check_number
from stylenat.evaluation.distances import Moments
from stylenat.features.networks import FEATURE_BATCH, FeatureNetwork
from stylenat.models.base import Generator
from stylenat.models.precision import product_dtype
from stylenat.progress import progress
from stylenat.sampling.sample import check_batch_size, check_seeds, sample_batches

PROGRESS_FROM = 1000  # images
SEEDS_APART = 10**6  # the images of seed s begin at seed s · 10⁶
BLOCK = 32  # images that go to one process: whole batches of the networks' and of the generator's
PARTS = 10  # independent moments of generated images, for the interval


class Samples(ABC):
    """Generated images in a fixed order.

    Attributes:
        resolution: pixels a side, R.
        device: where their features are computed.
        available: how many there are; None where they are made on demand.
    """

    resolution: int
    device: torch.device
    available: int | None

    @abstractmethod
    def check(self, count: int, resolution: int) -> None:
        """Check that there are enough images, and of the right size.

        Args:
            count: images that are compared.
            resolution: pixels a side of the real images.

        Raises:
            UserError: there are not.
        """

    @abstractmethod
    def batches(self, count: int, first: int = 0) -> Iterator[Tensor]:
        """The first `count` images from number `first` on, uint8 `(b, 3, R, R)`, batch by batch."""

    @abstractmethod
    def description(self, count: int) -> str:
        """Which images the first `count` are, for the protocol."""

    def protocol(self) -> dict[str, Any]:
        """What all the images depend on besides their source."""
        return {}


class _FromGenerator(Samples):
    """A generator's images by seed."""

    available = None

    def __init__(self, generator: Generator, seed: int, truncation_psi: float, batch_size: int) -> None:
        self.generator = generator
        self.resolution = generator.resolution
        self.device = generator.device
        self.seed = seed
        self.truncation_psi = truncation_psi
        self.batch_size = batch_size

    def check(self, count: int, resolution: int) -> None:
        if self.resolution != resolution:
            raise _other_resolution("the generator's", self.resolution, resolution)

    def batches(self, count: int, first: int = 0) -> Iterator[Tensor]:
        made = sample_batches(
            self.generator,
            self._seeds(count)[first:],
            truncation_psi=self.truncation_psi,
            batch_size=self.batch_size,
        )
        if count > PROGRESS_FROM:
            total = -(-(count - first) // self.batch_size)
            return iter(progress(made, total=total, unit="batch", desc="generate"))
        return made

    def description(self, count: int) -> str:
        seeds = self._seeds(count)
        return f"seeds {seeds[0]} to {seeds[-1]}"

    def protocol(self) -> dict[str, Any]:
        drawn = {"seed": self.seed, "truncation_psi": self.truncation_psi}
        dtype = product_dtype(self.generator)
        if dtype == torch.float32:  # as every score whose protocol says nothing of it
            return drawn
        return drawn | {
            "dtype": str(dtype).removeprefix("torch."),
            "instructions": bfloat16_instructions(self.device) or "none of its own",
        }

    def _seeds(self, count: int) -> range:
        first = self.seed * SEEDS_APART
        return range(first, first + count)


class _FromDataset(Samples):
    """The images of a folder or zip, in name order."""

    device = torch.device("cpu")

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset
        self.resolution = dataset.resolution
        self.available = len(dataset)

    def check(self, count: int, resolution: int) -> None:
        if self.resolution != resolution:
            raise _other_resolution("the samples'", self.resolution, resolution)
        if len(self.dataset) < count:
            raise UserError(
                f"{self.dataset.source} has {len(self.dataset)} images and the score takes {count}: give more"
            )

    def batches(self, count: int, first: int = 0) -> Iterator[Tensor]:
        return dataset_batches(self.dataset, range(first, count))

    def description(self, count: int) -> str:
        return f"images of manifest {self.dataset.manifest}"


class _FromTensor(Samples):
    """Images in memory, uint8 `(N, 3, R, R)`."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.resolution = images.shape[-1] if images.ndim else 0
        self.device = images.device
        self.available = len(images) if images.ndim else 0

    def check(self, count: int, resolution: int) -> None:
        wrong_shape = tuple(self.images.shape[1:]) != (3, resolution, resolution)
        if self.images.dtype != torch.uint8 or wrong_shape or len(self.images) < count:
            raise UserError(
                f"images to score are {self.images.dtype} {tuple(self.images.shape)}; this dataset "
                f"needs torch.uint8 ({count} or more, 3, {resolution}, {resolution})."
            )

    def batches(self, count: int, first: int = 0) -> Iterator[Tensor]:
        return iter(self.images[first:count].split(FEATURE_BATCH))

    def description(self, count: int) -> str:
        return "images handed in"


def as_samples(
    source: Generator | ImageDataset | Tensor,
    seed: int = 0,
    truncation_psi: float = 1.0,
    batch_size: int = 32,
) -> Samples:
    """The samples that a source holds.

    Args:
        source: a generator in eval mode, a dataset of generated images, or uint8 `(N, 3, R, R)`.
        seed: image i of a generator is of seed `seed · 10⁶ + i`.
        truncation_psi: of a generator, see `sampling.sample.truncate`.
        batch_size: images that a generator makes at once.

    Raises:
        UserError: a source of another kind, a seed or batch size that is none, or a psi that is not finite.
    """
    check_seeds([seed])
    check_batch_size(batch_size)
    if isinstance(source, nn.Module):
        check_seeds([seed])
        check_number("truncation_psi", truncation_psi)
        return _FromGenerator(source, seed, truncation_psi, batch_size)
    if isinstance(source, Tensor):
        return _FromTensor(source)
    if not isinstance(source, ImageDataset):
        raise UserError(
            f"images to score are {type(source).__name__}: give a generator, a dataset or uint8 (N, 3, R, R)"
        )
    return _FromDataset(source)


def sample_features(
    samples: Samples,
    count: int,
    networks: Mapping[str, FeatureNetwork],
    moments: Set[str],
    processes: Processes = ALONE,
) -> dict[str, Tensor | list[Moments]]:
    """Features of the first `count` samples by several networks; the images are made once for all.

    Args:
        samples: the images.
        count: how many.
        networks: by name.
        moments: names of networks whose mean and covariance are enough: their features are summed up as they
            come, if there are enough for `PARTS`.
        processes: that share the images.

    Returns:
        By name features `(count, D)`, or `PARTS` independent `Moments`.
    """
    first, last = processes.span(count, BLOCK)
    batches = samples.batches(last, first) if last > first else iter(())
    copies = itertools.tee(batches, len(networks))  # read in step: no more than a batch waits
    streams = []
    for network, copy in zip(networks.values(), copies, strict=True):
        streams.append(network.stream(copy, samples.device))
    many = count >= PARTS * FEATURE_BATCH
    found: dict[str, _Rows | _Parts] = {}
    for name, network in networks.items():
        summed = many and name in moments
        found[name] = (
            _Parts(network.dims, first) if summed else _Rows(torch.zeros(count, network.dims), first)
        )
    for batch in zip(*streams, strict=True):
        for collected, features in zip(found.values(), batch, strict=True):
            collected.add(features)
    return {name: collected.result(processes) for name, collected in found.items()}


class _Rows:
    """Features that stay in memory.

    Args:
        rows: of all processes, zeros `(N, D)`.
        first: row of this process's first image.
    """

    def __init__(self, rows: Tensor, first: int) -> None:
        self._rows = rows
        self._next = first

    def add(self, features: Tensor) -> None:
        self._rows[self._next : self._next + len(features)] = features
        self._next += len(features)

    def result(self, processes: Processes) -> Tensor:
        processes.add(self._rows)  # each row is zero in every process but one
        return self._rows


class _Parts:
    """Features that are summed up in `PARTS` moments, a batch to each in turn.

    Args:
        dims: D.
        first: number of this process's first image.
    """

    def __init__(self, dims: int, first: int) -> None:
        self._dims = dims
        self._parts = [Moments() for _ in range(PARTS)]
        self._turn = itertools.cycle(self._parts)
        for _ in range(first // FEATURE_BATCH % PARTS):
            next(self._turn)

    def add(self, features: Tensor) -> None:
        next(self._turn).update(features)

    def result(self, processes: Processes) -> list[Moments]:
        return [_added_up(part, self._dims, processes) for part in self._parts]


def _added_up(moments: Moments, dims: int, processes: Processes) -> Moments:
    """The moments of all processes' features, as by the sum of their `Moments`."""
    if processes.size == 1:
        return moments
    count = torch.tensor(float(moments.count), dtype=torch.float64)
    total = count.clone()
    processes.add(total)
    own = moments.mean if moments.count else torch.zeros(dims, dtype=torch.float64)
    mean = own * (count / total)
    processes.add(mean)
    scatter = moments.scatter if moments.count else torch.zeros(dims, dims, dtype=torch.float64)
    scatter = scatter.addr(own - mean, own - mean, alpha=moments.count)
    processes.add(scatter)
    return Moments(int(total), mean, scatter)


def dataset_batches(dataset: ImageDataset, positions: Sequence[int] | np.ndarray) -> Iterator[Tensor]:
    """The images at these positions in the batches that feature networks take, uint8 `(b, 3, R, R)`."""
    for first in range(0, len(positions), FEATURE_BATCH):
        yield dataset.stack(positions[first : first + FEATURE_BATCH])


def _other_resolution(whose: str, found: int, resolution: int) -> UserError:
    return UserError(
        f"{whose} resolution {found} is not the dataset's {resolution}; open the dataset at {found}."
    )
