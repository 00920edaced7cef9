"""Generated images the way a score takes them, wherever they come from."""

import torch

from stylenat.data.dataset import ImageDataset
from stylenat.errors import UserError
from stylenat.features.networks import FEATURE_BATCH
from stylenat.progress import progress
from stylenat.sampling.sample import sample_batches

PROGRESS_FROM = 1000  # images


class Images:
    """Generated images: a generator's by seed, a dataset's (a folder or zip of samples) or a tensor's.

    Args:
        source: a generator, an `ImageDataset`, or uint8 `(N, 3, R, R)`.
        seed: image i of a generator is of seed `seed * 10**6 + i`.
        truncation_psi, batch_size: of a generator.
    """

    def __init__(self, source, seed=0, truncation_psi=1.0, batch_size=32):
        self.source, self.seed, self.psi, self.batch_size = source, seed, truncation_psi, batch_size
        self.generated = isinstance(source, torch.nn.Module)
        self.resolution = source.shape[-1] if isinstance(source, torch.Tensor) else source.resolution
        self.available = None if self.generated else len(source)

    @property
    def device(self):
        """Where features are computed: the generator's or tensor's device."""
        if self.generated:
            return next(self.source.parameters()).device
        return self.source.device if isinstance(self.source, torch.Tensor) else torch.device("cpu")

    def check(self, count, resolution):
        """Refuses fewer than `count` images, or any but uint8 `(3, resolution, resolution)`."""
        if isinstance(self.source, torch.Tensor):
            shape = (3, resolution, resolution)
            wrong = self.source.dtype != torch.uint8 or tuple(self.source.shape[1:]) != shape
            if wrong or len(self.source) < count:
                raise UserError(
                    f"images to score are {self.source.dtype} {tuple(self.source.shape)}; this dataset "
                    f"needs torch.uint8 ({count} or more, 3, {resolution}, {resolution})."
                )
        elif self.resolution != resolution:
            raise UserError(
                f"the generator's resolution {self.resolution} is not the dataset's {resolution}; open the "
                f"dataset at {self.resolution}."
            )
        elif self.available is not None and self.available < count:
            raise UserError(
                f"{self.source.source} has {self.available} images and the score takes {count}: give more"
            )

    def batches(self, count):
        """The first `count` images in batches, uint8; a generator's show their progress."""
        if self.generated:
            first = self.seed * 10**6
            seeds = range(first, first + count)
            made = sample_batches(self.source, seeds, truncation_psi=self.psi, batch_size=self.batch_size)
            if count > PROGRESS_FROM:
                made = progress(made, total=-(-count // self.batch_size), unit="batch", desc="generate")
            return made
        if isinstance(self.source, torch.Tensor):
            return iter(self.source[:count].split(FEATURE_BATCH))
        return (self.source.stack(part) for part in batched(range(count)))

    def told(self, count):
        """Which images the first `count` are, for the protocol."""
        if self.generated:
            first = self.seed * 10**6
            return f"seeds {first} to {first + count - 1}"
        if isinstance(self.source, ImageDataset):
            return f"images of manifest {self.source.manifest}"
        return "images handed in"

    def protocol(self):
        """What all of a generator's images depend on besides the generator."""
        return {"seed": self.seed, "truncation_psi": self.psi} if self.generated else {}


def batched(items):
    """`items` in the batches that feature networks take."""
    return [items[first : first + FEATURE_BATCH] for first in range(0, len(items), FEATURE_BATCH)]
