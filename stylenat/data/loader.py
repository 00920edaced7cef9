"""Datasets: the images of a source at one resolution as uint8 `(3, R, R)`, their splits and batches."""

import itertools

import numpy as np
import torch


def _stream(length, seed, start):
    """Endless `(index, mirrored)` from image `start` on; epoch e is a permutation drawn from `(seed, e)`."""
    for epoch in itertools.count(start // length):
        rng = np.random.default_rng((seed, epoch))
        order, mirrored = rng.permutation(length), rng.random(length) < 0.5
        first = max(start - epoch * length, 0)
        yield from zip(order[first:], mirrored[first:], strict=True)


def batches(dataset, batch_size, *, seed, start=0, flips=True):
    """Endless uint8 `(B, 3, R, R)` batches: every image once an epoch, mirrored at random where `flips`.

    The stream depends on `seed` and the position counted in images alone: `start=n` goes on where a stream of
    the same seed stood after n images, whatever its batch size. Batches run across epochs, so none is short.
    """
    stream = _stream(len(dataset), seed, start)
    while True:
        indices, mirrored = zip(*itertools.islice(stream, batch_size), strict=True)
        images = dataset.stack(indices)
        if flips:
            images = torch.where(torch.tensor(mirrored).view(-1, 1, 1, 1), images.flip(3), images)
        yield images
