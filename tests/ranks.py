"""A process that has the package loaded and forks the processes of one training, as torchrun starts them.

`Ranks` is the side of the test. The processes train in float64 where that is asked for, the score is a sum
over the weights, and a process that is not the first can't write below a folder.
"""

import json
import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from lives import serve

ROOT = Path(__file__).resolve().parent.parent


class Ranks:
    """Starts commands of `stylenat` in several processes, within a second."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        variables = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CI": "1"}
        self.server = subprocess.Popen(
            [sys.executable, __file__], env=variables, cwd=self.folder.name, text=True,
            start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.server.stdout.readline() == "ready\n"

    def ask(self, **request):
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, commands, only_first_writes, double=False):
        """The process ids of one command a rank."""
        from torch.distributed import TCPStore

        # Of torchrun it is the store that the processes meet in.
        self.store = TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=1)
        )
        pids = []
        for rank, words in enumerate(commands):
            variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port), "RANK": str(rank)}
            variables |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
            variables |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(commands))}
            variables |= {"LOCAL_WORLD_SIZE": str(len(commands)), "TORCHELASTIC_RUN_ID": "test"}
            request = {"words": [str(word) for word in words], "variables": variables, "double": double}
            pids.append(self.ask(**request, closed=str(only_first_writes) if rank else None))
        return pids

    def wait(self, pids):
        """The exit codes, negative for signals, and what all of them wrote to stderr."""
        codes = [self.ask(wait=pid) for pid in pids]
        errors = [(Path(self.folder.name) / f"stderr-{pid}").read_text() for pid in pids]
        return codes, "".join(errors)

    def run(self, commands, only_first_writes, double=False):
        return self.wait(self.start(commands, only_first_writes, double))

    def close(self):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()
        self.folder.cleanup()


def shared_sum(ema, processes):
    """The sum of the weights, for which every process has to take part."""
    value = sum(tensor.double().sum() for tensor in ema.state_dict().values()) / processes.size
    processes.add(value)
    return value.item()


def fork(words, variables, double, closed):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(f"{name}-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        os.environ.update(variables)
        if closed:
            sys.addaudithook(lambda event, arguments: refuse_writes(event, arguments, closed))
        if double:
            train_in_float64()
        from stylenat.cli import main

        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def refuse_writes(event, arguments, folder):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    changes = event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
    if (writes or changes) and str(arguments[0]).startswith(folder):
        raise AssertionError(f"{event} of {arguments[0]}")


def train_in_float64():
    import torch

    from stylenat.training import trainer

    normalize = trainer.normalize
    torch.set_default_dtype(torch.float64)
    trainer.normalize = lambda images: normalize(images).double()


if __name__ == "__main__":
    serve(fork, shared_sum)
