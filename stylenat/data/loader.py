"""The endless stream of training images: a sampler that knows its position, and torch's DataLoader."""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stylenat.data.dataset import ImageDataset
from stylenat.errors import UserError

MOST_WORKERS = 4  # processes that decode ahead
Shown = tuple[int, bool]  # index of an image, and whether it is mirrored


class PositionSampler(Sampler[list[Shown]]):
    """Endless batches of `(index, mirrored)`; epoch e is a permutation drawn from `(seed, e)`.

    Batches run across epochs, so none is short.

    Args:
        length: images in the dataset.
        batch_size: images a batch.
        seed: of the order and the mirroring.
        start: position of the first image, counted in images shown.
        flips: whether images are mirrored, each with probability ½.
    """

    def __init__(
        self, length: int, batch_size: int, *, seed: int, start: int = 0, flips: bool = True
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.flips = flips

    def __iter__(self) -> Iterator[list[Shown]]:
        stream = self._stream()
        while True:
            yield list(itertools.islice(stream, self.batch_size))

    def _stream(self) -> Iterator[Shown]:
        for epoch in itertools.count(self.start // self.length):
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(self.length).tolist()
            mirrored = (rng.random(self.length) < 0.5).tolist()
            first = max(self.start - epoch * self.length, 0)
            for index, flip in zip(order[first:], mirrored[first:], strict=True):
                yield index, flip and self.flips


class _ShownImages(Dataset[Tensor]):
    """A dataset by `(index, mirrored)`, a batch at once."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, shown: Sequence[Shown]) -> Tensor | UserError:
        try:
            images = self.dataset.stack([index for index, _ in shown])
        except UserError as error:  # returned: a worker would wrap its one line into a traceback
            return error
        mirrored = torch.tensor([flip for _, flip in shown]).view(-1, 1, 1, 1)
        return torch.where(mirrored, images.flip(3), images)


def _as_it_is(batch: Any) -> Any:
    return batch


def batches(
    dataset: ImageDataset, batch_size: int, *, seed: int, start: int = 0, flips: bool = True
) -> Iterator[Tensor]:
    """Endless batches: every image once an epoch, mirrored at random where `flips`.

    The stream depends on `seed` and the position counted in images alone: `start=n` goes on where a stream of
    the same seed stood after n images, whatever its batch size. A dataset that is decoded in memory is read
    in this process, any other is decoded ahead by worker processes.

    Args:
        dataset: the images.
        batch_size: images a batch, B.
        seed: of the order and the mirroring.
        start: position of the first image.
        flips: whether images are mirrored.

    Yields:
        uint8 `(B, 3, R, R)`.

    Raises:
        UserError: a file that can't be decoded, when its turn comes.
    """
    workers = 0 if dataset.is_decoded else min(MOST_WORKERS, os.cpu_count() or 1)
    loader = DataLoader(
        _ShownImages(dataset),
        batch_sampler=PositionSampler(len(dataset), batch_size, seed=seed, start=start, flips=flips),
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the training's state
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
