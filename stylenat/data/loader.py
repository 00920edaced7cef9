"""The endless stream of training images: a sampler that knows its position, and torch's DataLoader."""

import itertools
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stylenat.data.dataset import ImageDataset
from stylenat.device import return_freed_memory
from stylenat.distributed import local_size
from stylenat.errors import UserError

MOST_WORKERS = 4  # processes that decode ahead
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
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
        rows: of each batch, those that this process takes; default: all.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        flips: bool = True,
        rows: Sequence[int] | None = None,
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.flips = flips
        self.rows = range(batch_size) if rows is None else rows

    def __iter__(self) -> Iterator[list[Shown]]:
        stream = self._stream()
        while True:
            batch = list(itertools.islice(stream, self.batch_size))
            yield [batch[row] for row in self.rows]

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
            images = self._images([index for index, _ in shown])
        except UserError as error:  # returned: a worker would wrap its one line into a traceback
            return error
        mirrored = torch.tensor([flip for _, flip in shown]).view(-1, 1, 1, 1)
        return torch.where(mirrored, images.flip(3), images)

    def _images(self, indices: list[int]) -> Tensor:
        if self.dataset.is_decoded:
            return self.dataset.stack(indices)
        return torch.stack([self.dataset[index] for index in indices])  # a worker is one thread


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(worker: int) -> None:
    """Set up a worker: its memory stays flat, and only its parent ends it.

    A terminal, torchrun and schedulers send SIGINT and SIGTERM to every process of a training, and the step
    that is then finished still needs its images.
    """
    return_freed_memory()
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=_wait_for_parent, args=[os.getppid()], daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    """End this process at the parent's signal, and at nobody else's."""
    while signal.sigwaitinfo(_SIGNALS).si_pid != parent:
        pass
    os._exit(0)


def batches(
    dataset: ImageDataset,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    flips: bool = True,
    rows: Sequence[int] | None = None,
) -> Iterator[Tensor]:
    """Endless batches: every image once an epoch, mirrored at random where `flips`.

    The stream depends on `seed` and the position counted in images alone: `start=n` goes on where a stream of
    the same seed stood after n images, whatever its batch size; and processes that take `rows` each see the
    same batches, whatever their number. A dataset that is decoded in memory is read
    in this process, any other is decoded ahead by worker processes.

    Args:
        dataset: the images.
        batch_size: images a batch, B.
        seed: of the order and the mirroring.
        start: position of the first image.
        flips: whether images are mirrored.
        rows: of each batch, those that this process takes, see `Processes.rows`; default: all.

    Yields:
        uint8 `(B, 3, R, R)`, of `rows` as many as they are.

    Raises:
        UserError: a file that can't be decoded, when its turn comes.
    """
    cores = max(1, (os.cpu_count() or 1) // local_size())
    workers = 0 if dataset.is_decoded else min(MOST_WORKERS, cores)
    loader = DataLoader(
        _ShownImages(dataset),
        batch_sampler=PositionSampler(
            len(dataset), batch_size, seed=seed, start=start, flips=flips, rows=rows
        ),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the training's state
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
