"""The processes of one training, as torchrun starts them: which one this is, and what they exchange.

`torch.distributed` does the work, gloo for tensors in main memory and nccl for those on GPUs. A batch is the
same images, latents and augmentations whatever the number of processes: each draws the numbers of the whole
batch and takes its own rows.

Gradients are averaged by one `all_reduce` of all of them before an optimizer's step, as in StyleGAN2-ADA's
code, and not by DistributedDataParallel. R1 leaves the last bias of D without a gradient, and Adam leaves
such a parameter alone: DDP refuses it, or makes it a zero that moves Adam's moments. D is called two to four
times before one backward pass, and in G's step with parameters that want no gradient; neither fits DDP's
hooks. What DDP has ahead, that it sends while it still computes, is about 1 % of a published step: 200 MB of
gradients.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from stylenat.device import pick_device
from stylenat.errors import UserError

T = TypeVar("T")
GROUP = 4  # images of minibatch deviation, which stay together
PATIENCE = timedelta(hours=1)  # while the first process hashes a data set or writes a snapshot
SAVING = 300  # seconds from a signal until torchrun kills: a step and a snapshot
LAUNCHED = "TORCHELASTIC_RUN_ID"  # a variable that torchrun sets


@dataclass(frozen=True)
class Processes:
    """The processes that train one run.

    Attributes:
        rank: the number of this one, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and log."""
        return self.rank == 0

    def check_batch(self, batch_size: int, accumulate: int = 1) -> None:
        """Check that the processes can share a batch and keep the groups of minibatch deviation whole.

        Args:
            batch_size: images of a step, of all processes.
            accumulate: micro-batches of a step.

        Raises:
            UserError: they can't; names the numbers of processes that can.
        """
        groups, rest = divmod(batch_size // accumulate, GROUP)
        if self.size == 1 or (not rest and groups % self.size == 0):
            return
        able = [str(size) for size in range(1, max(groups, 1) + 1) if not rest and groups % size == 0]
        raise UserError(
            f"{self.size} processes can't share batch_size={batch_size} in accumulate={accumulate} parts: "
            f"each needs a multiple of {GROUP} images of a part (minibatch deviation); start "
            f"{', '.join(able) or 1} processes, or take another batch_size"
        )

    def share(self, whole: Tensor) -> Tensor:
        """The rows of a micro-batch that are this process's.

        `minibatch_deviation` compares image i with those at i + B/4, i + 2B/4 and i + 3B/4. Such groups are
        what a process gets, so they are the same for any number of processes.

        Args:
            whole: of all processes, `(B, …)`.

        Returns:
            `(B / size, …)`.
        """
        if self.size == 1:
            return whole
        return whole.unflatten(0, (GROUP, -1)).chunk(self.size, dim=1)[self.rank].flatten(0, 1)

    def rows(self, batch_size: int, accumulate: int = 1) -> list[int]:
        """Positions in the batch of all processes of this one's images: its `share` of each micro-batch."""
        parts = torch.arange(batch_size).chunk(accumulate)
        return torch.cat([self.share(part) for part in parts]).tolist()

    def span(self, count: int, block: int) -> tuple[int, int]:
        """First and last, exclusive, of this process's items out of `count`, in whole blocks."""
        blocks = -(-count // block)
        first, last = (blocks * rank // self.size * block for rank in (self.rank, self.rank + 1))
        return min(first, count), min(last, count)

    def pick_device(self, name: str | None = None) -> torch.device:
        """The device of this process: of a machine's GPUs each takes its own.

        Args:
            name: "cpu", "cuda" or None; of a single process any device's.

        Raises:
            UserError: there is no such device, or a single GPU is named for several processes.
        """
        if self.size == 1:
            return pick_device(name)
        if name not in (None, "cpu", "cuda"):
            raise UserError(
                f"device {name!r} for {self.size} processes: give cuda, and each takes its own GPU, or cpu"
            )
        if name == "cpu" or not (name or torch.cuda.is_available()):
            return pick_device("cpu")
        device = pick_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
        return device

    # What they exchange; with a single process nothing happens

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors of one device by their means over all processes, in one exchange."""
        if self.size == 1:
            return
        parts = list(tensors)
        flat = torch.cat([part.flatten() for part in parts])
        self.add(flat)
        flat /= self.size
        for part, mean in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
            part.copy_(mean.view(part.shape))

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        if self.size > 1:
            with _together():
                dist.all_reduce(tensor)

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        with _together():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def broadcast(self, value: T) -> T:
        """The first process's value, in main memory, wherever it was asked for."""
        if self.size == 1:
            return value
        box = [value]
        with _together():
            dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]

    def check_same(self, what: str, value: object) -> None:
        """Check that a value is the first process's.

        Args:
            what: it is, in words.
            value: here.

        Raises:
            UserError: it is another; on that process.
        """
        if self.broadcast(value) != value:
            raise UserError(
                f"process {self.rank} of {self.size} has other {what} than process 0: give every process "
                "the same data, code and versions"
            )


ALONE = Processes()


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Within it the processes that torchrun started can talk to each other; without torchrun, `ALONE`.

    Raises:
        UserError: they can't be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", 1)) if LAUNCHED in os.environ else 1
    if size == 1:
        yield ALONE
        return
    processes = Processes(int(os.environ["RANK"]), size)
    if not processes.is_first:
        os.environ["STYLENAT_QUIET"] = "1"  # one progress bar is enough
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _together():
        group = dist.PrefixStore("group", _store())
        dist.init_process_group(backend, timeout=PATIENCE, world_size=size, rank=processes.rank, store=group)
    yield processes
    processes.largest(0)  # the others wait for what the first one still writes
    dist.destroy_process_group()


def local_size() -> int:
    """How many processes of this training are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if LAUNCHED in os.environ else 1


def speaks_first() -> bool:
    """Whether this process is the first that asks, and so the one to say why all of them end.

    What ends one of them ends all, and one line should say why.
    """
    try:
        return _store().add("spoken", 1) == 1
    except RuntimeError:  # torchrun is gone
        return True


@cache
def _store() -> dist.Store:
    """The key-value store of torchrun, which its processes reach as long as it lives."""
    store, _, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
    return store


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """An exchange with all processes.

    Raises:
        UserError: one of them is gone, or can't be reached.
    """
    try:
        yield
    except RuntimeError as error:  # of gloo, nccl and the store
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"another process of this training ended and left no message, as for lack of memory ({reason}): "
            "run the same command again, it goes on from the last snapshot"
        ) from error


def launch(words: Sequence[str]) -> int:
    """torchrun, but for its end: no report of the processes, and the training's exit code instead of 1.

    Args:
        words: as torchrun takes them.

    Returns:
        The exit code of the process that failed first; 128 + the number of a signal that came; or 0.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.disable()  # what torchrun says of its processes
    try:
        run(parse_args(["--shutdown-timeout", str(SAVING), *words]))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
