"""What samples are compared with: real images, or published moments of them."""

import hashlib
import io
import math
import zipfile
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylenat.data.dataset import HOLD_OUT_EVERY, ImageDataset
from stylenat.errors import UserError
from stylenat.evaluation.distances import Gaussian, Moments
from stylenat.evaluation.metrics import Metric
from stylenat.evaluation.samples import dataset_batches
from stylenat.features.networks import FEATURE_BATCH, FeatureNetwork
from stylenat.paths import find_path, read_file
from stylenat.progress import progress

MOST = 1000  # images a side of the small protocol: its Fréchet distance is exact and takes seconds
LEAST = 20  # images a side of any score
LARGEST_ARRAY = 2**28  # bytes of an array of statistics: sigma of 5793 features
ROUNDING = 1e-5  # of a stored covariance, relative to its largest variance
CACHED = 4  # sets of real features in memory
_MODES = {"legacy_pytorch": "inception-legacy", "clean": "inception-clean"}  # in the names of files
_cache: OrderedDict[tuple, Any] = OrderedDict()


@dataclass(eq=False)
class RealFeatures:
    """Features of real images, and of those that set a score in proportion.

    Attributes:
        features: `(N, D)`, or their mean and covariance.
        other_real: of as many other real images, for the real-vs-real baseline; None where there are none.
        noise: of as many images of uniform noise; None where it is not used.
    """

    features: Tensor | Gaussian
    other_real: Tensor | None = None
    noise: Tensor | None = None
    _limits: dict[Metric, dict[str, dict[str, float]]] = field(default_factory=dict, repr=False)

    def limits(self, metric: Metric) -> dict[str, dict[str, float]]:
        """A metric's real-vs-real baseline and its value for noise, computed once.

        Returns:
            "real_vs_real" and "noise", as far as they are known, each by column.
        """
        if metric not in self._limits:
            found = {}
            for name, others in (("real_vs_real", self.other_real), ("noise", self.noise)):
                if others is not None:
                    found[name] = metric.compute(self.features, others)
            self._limits[metric] = found
        return self._limits[metric]


class Reference(ABC):
    """Real images, or what is known of them.

    Attributes:
        name: for records.
        resolution: pixels a side; None where it is not known.
        splits: of real images, those it can be asked for.
    """

    name: str
    resolution: int | None
    splits: tuple[str, ...]

    @abstractmethod
    def size(self, split: str) -> int:
        """Real images of a split that are compared.

        Raises:
            UserError: there are too few, or their number is not known.
        """

    @abstractmethod
    def is_larger(self, count: int) -> bool:
        """Whether it is of more real images than that."""

    @abstractmethod
    def check(self, network: FeatureNetwork, moments: bool) -> None:
        """Check that it has features of a network, or their moments where those are enough.

        Raises:
            UserError: it has not.
        """

    @abstractmethod
    def features(
        self, split: str, network: FeatureNetwork, device: torch.device, moments: bool
    ) -> RealFeatures:
        """A network's features of the images of a split that are compared.

        Args:
            split: one of `splits`.
            network: whose features.
            device: to compute on.
            moments: mean and covariance are enough, the features need not be in memory.

        Raises:
            UserError: there are none for this network.
        """

    @abstractmethod
    def protocol(self, split: str) -> dict[str, Any]:
        """Which real images are compared, for the protocol."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Its "name", and the "manifest" that its content is known by."""


class RealImages(Reference):
    """A dataset, whichever split of it was opened.

    "train" is a fixed random half of the train split, which a memorized copy scores 0 on; the other half
    gives the real-vs-real baseline. "heldout" is the held-out split, against as many of the first half. Both
    take at most `MOST` images. "all" is every image.

    Args:
        dataset: the real images.
    """

    splits = ("train", "heldout", "all")

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset
        self.name = dataset.name
        self.resolution = dataset.resolution

    def size(self, split: str) -> int:
        """See `Reference`."""
        if split == "all":
            return len(self.dataset.with_split("all"))
        train = len(self.dataset.with_split("train"))
        heldout = len(self.dataset.with_split("heldout"))
        if min(train // 2, heldout) < LEAST:
            raise UserError(
                f"{self.dataset.source} has {train + heldout} images, {heldout} of them held out; a score "
                f"needs at least {LEAST} on each side: give {HOLD_OUT_EVERY * LEAST} images or more."
            )
        return min(train // 2 if split == "train" else heldout, MOST)

    def is_larger(self, count: int) -> bool:
        """See `Reference`."""
        return self.size("all") > count

    def check(self, network: FeatureNetwork, moments: bool) -> None:
        """See `Reference`: images have features of every network."""

    def features(
        self, split: str, network: FeatureNetwork, device: torch.device, moments: bool
    ) -> RealFeatures:
        """See `Reference`; the last few are remembered, for training scores itself again and again."""
        key = (self.dataset.manifest, self.resolution, network, str(device))
        if split == "all":
            return _cached((*key, moments), lambda: self._all(network, device, moments))
        return _cached(key, lambda: self._small(network, device))[split]

    def identity(self) -> dict[str, str]:
        """See `Reference`."""
        return {"name": self.name, "manifest": self.dataset.manifest}

    def protocol(self, split: str) -> dict[str, Any]:
        """See `Reference`."""
        chosen = {"train": "fixed random half", "heldout": "fixed random order"}
        entry: dict[str, Any] = {"split": split}
        if split in chosen:
            entry["chosen"] = chosen[split]
        return entry | {"n_real": self.size(split)}

    def _small(self, network: FeatureNetwork, device: torch.device) -> dict[str, RealFeatures]:
        """Features of both splits of the small protocol, and of what gives their limits."""
        n = self.size("train")
        m = self.size("heldout")
        train = network.features(self._drawn("train", 2 * n), device)  # (2n, D)
        heldout = network.features(self._drawn("heldout", m), device)  # (m, D)
        noise = network.features(_noise(n, self.dataset.resolution), device)  # (n, D)
        return {
            "train": RealFeatures(train[:n], train[n:], noise),
            "heldout": RealFeatures(heldout, train[:m], noise[:m]),
        }

    def _drawn(self, split: str, count: int) -> Iterator[Tensor]:
        """Images of a split in one order for every run and seed: the reference must not move."""
        images = self.dataset.with_split(split)
        return dataset_batches(images, np.random.default_rng(0).permutation(len(images))[:count])

    def _all(self, network: FeatureNetwork, device: torch.device, moments: bool) -> RealFeatures:
        images = self.dataset.with_split("all")
        stream = network.stream(dataset_batches(images, range(len(images))), device)
        shown = progress(stream, total=-(-len(images) // FEATURE_BATCH), unit="batch", desc="real images")
        if not moments:
            return RealFeatures(torch.cat(list(shown)))
        total = Moments()
        for features in shown:
            total.update(features)
        return RealFeatures(total)


def _noise(count: int, resolution: int) -> Iterator[Tensor]:
    """Images of independent uniform pixels, uint8 `(b, 3, R, R)`, batch by batch."""
    rng = np.random.default_rng(0)
    for first in range(0, count, FEATURE_BATCH):
        shape = (min(FEATURE_BATCH, count - first), 3, resolution, resolution)
        yield torch.from_numpy(rng.integers(256, size=shape, dtype=np.uint8))


def _cached(key: tuple, make: Callable[[], Any]) -> Any:
    """What `make()` gave for this key; of more than `CACHED` keys the least recently used is dropped."""
    if key not in _cache:
        while len(_cache) >= CACHED:
            _cache.popitem(last=False)
        _cache[key] = make()
    _cache.move_to_end(key)
    return _cache[key]


@dataclass(frozen=True, eq=False)
class Statistics(Reference):
    """Published moments: the mean and covariance that clean-fid stores in an `.npz`.

    Attributes:
        name: the file's name without its ending, such as "ffhq_legacy_pytorch_trainval70k_256".
        manifest: the file's sha256.
        mean: of the features, float64 `(D,)`.
        covariance: float64 `(D, D)`.
        count: images that they are of; infinite, for the file does not say.
    """

    name: str
    manifest: str
    mean: Tensor
    covariance: Tensor
    count: float = math.inf

    resolution = None
    splits = ("all",)

    @classmethod
    def open(cls, path: str | Path) -> "Statistics":
        """Read `mu` and `sigma` of an `.npz`.

        Raises:
            UserError: no such file, one of another form, with numbers that are not finite, or whose sigma is
                no covariance.
        """
        file = find_path(path)
        try:
            content = read_file(file)
            mean, covariance = _moments(content)
        except OSError as error:
            raise UserError(
                f"statistics {file} can't be read ({error.strerror or error}): give clean-fid's .npz"
            ) from None
        except Exception as error:  # NumPy's reader raises several kinds
            raise UserError(
                f"statistics {file} hold no mu and sigma ({error}): give clean-fid's .npz"
            ) from None
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise UserError(
                f"statistics {file} hold mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)}: give "
                "clean-fid's .npz, (D,) and (D, D)"
            )
        _check_moments(mean, covariance, file)
        return cls(file.stem, hashlib.sha256(content).hexdigest(), mean, covariance)

    def size(self, split: str) -> int:
        """See `Reference`: the file does not say."""
        raise UserError(f"{self.name} does not say of how many images it is: give their folder")

    def is_larger(self, count: int) -> bool:
        """See `Reference`."""
        return self.count > count

    def features(
        self, split: str, network: FeatureNetwork, device: torch.device, moments: bool
    ) -> RealFeatures:
        """These statistics, as of `check`."""
        self.check(network, moments)
        return RealFeatures(self)

    def check(self, network: FeatureNetwork, moments: bool) -> None:
        """Check that these statistics may be compared with features of the network.

        Raises:
            UserError: features themselves are asked for, other dimensions, or a name that says that they
                are of another network.
        """
        if not moments:
            raise UserError(
                f"{self.name} holds no features, only their mean and covariance: fid alone takes it"
            )
        own = self._network() or network.key
        if own != network.key or len(self.mean) != network.dims:
            raise UserError(
                f"{self.name} is of {len(self.mean)} features of {own}, not of {network.dims} of "
                f"{network.key}: give the statistics of the metric's own network"
            )

    def _network(self) -> str | None:
        """The network that the name speaks of."""
        for mode, network in _MODES.items():
            if f"_{mode}_" in f"_{self.name}_":
                return network
        return None

    def identity(self) -> dict[str, str]:
        """See `Reference`."""
        return {"name": self.name, "manifest": self.manifest}

    def protocol(self, split: str) -> dict[str, Any]:
        """See `Reference`."""
        return {"split": self.name, "n_real": None, "statistics_sha256": self.manifest}


def _moments(content: bytes) -> tuple[Tensor, Tensor]:
    """`mu` and `sigma` of an `.npz`, float64."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return _array(archive, "mu"), _array(archive, "sigma")


def _array(archive: zipfile.ZipFile, name: str) -> Tensor:
    """An array of an `.npz`, float64.

    Raises:
        KeyError: there is none of that name.
        ValueError: it is damaged, holds no real numbers, or would fill the memory.
    """
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > LARGEST_ARRAY:
        raise ValueError(f"{name} takes {entry.file_size:,} bytes, over {LARGEST_ARRAY:,}")
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = header(stream)
    if dtype.kind not in "fiu":
        raise ValueError(f"{name} is of {dtype}, no real numbers")
    if math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError(f"{name} says shape {shape}, more than its {entry.file_size:,} bytes")
    with archive.open(entry) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    return torch.from_numpy(array.astype(np.float64))


def _check_moments(mean: Tensor, covariance: Tensor, file: Path) -> None:
    """Check that a mean and a covariance can be those of features.

    Raises:
        UserError: they can't; says why.
    """
    fix = "give the file as clean-fid wrote it"
    for name, array in (("mu", mean), ("sigma", covariance)):
        if bad := int((~array.isfinite()).sum()):
            raise UserError(f"statistics {file}: {bad} numbers of {name} are NaN or infinite; {fix}")
    # What rounding to float32 may do to a covariance, singular as most are.
    slack = ROUNDING * covariance.diagonal().abs().amax().clamp(min=torch.finfo(torch.float64).tiny)
    if (covariance - covariance.T).abs().amax() > slack:
        raise UserError(f"statistics {file}: sigma is not symmetric, so no covariance; {fix}")
    shifted = covariance + slack * torch.eye(len(mean), dtype=torch.float64)
    if torch.linalg.cholesky_ex(shifted).info:
        raise UserError(f"statistics {file}: sigma has negative eigenvalues, so is no covariance; {fix}")


def as_reference(dataset: ImageDataset | Statistics) -> Reference:
    """What samples are compared with.

    Raises:
        UserError: it is neither images nor statistics.
    """
    if isinstance(dataset, Statistics):
        return dataset
    if not isinstance(dataset, ImageDataset):
        raise UserError(
            f"reference {dataset!r} is no dataset: open it first, by open_dataset or open_reference"
        )
    return RealImages(dataset)
