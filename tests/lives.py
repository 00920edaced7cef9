"""A process that has the package loaded and forks commands: tests can start and kill hundreds of them.

`Lives` is the side of the test. In the commands the score is replaced by a sum over the weights, which takes
no time and differs between any two generators.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Lives:
    """Starts commands of `stylenat`, each in a process of its own, within milliseconds."""

    def __init__(self, folder):
        self.folder = folder
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        variables = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CI": "1"}
        self.server = subprocess.Popen(
            [sys.executable, __file__], env=variables, cwd=ROOT, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.server.stdout.readline() == "ready\n"

    def ask(self, **request):
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, *words, limit=None, workspace=None):
        """The process id of a command; no file of it grows beyond `limit` bytes."""
        places = {"folder": str(self.folder), "workspace": str(workspace or self.folder)}
        return self.ask(words=[str(word) for word in words], limit=limit, **places)

    def wait(self, pid):
        """The exit code, negative for a signal, and what the command wrote to stderr."""
        code = self.ask(wait=pid)
        return code, (self.folder / f"stderr-{pid}").read_text()

    def run(self, *words, limit=None):
        return self.wait(self.start(*words, limit=limit))

    def close(self):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()


def until(condition, seconds=60):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def sum_of_weights(ema, **options):
    return sum(tensor.double().sum().item() for tensor in ema.state_dict().values())


def serve(start, value):
    """Answer requests: `start` forks a command, and `value` is what stands for a generator's score."""
    from stylenat.checkpoints.run import BEST
    from stylenat.data.dataset import open_dataset
    from stylenat.evaluation.metrics import Score, ScoreValue
    from stylenat.training import loop

    def score(ema, dataset, **options):
        return Score({BEST: ScoreValue(value(ema, **options), 0.0, 0.0, 0.0)}, {})

    loop.evaluate = score
    loop.check_evaluation = lambda dataset: None
    open_dataset("noto-faces", 32)  # kept by the process, and so by its children
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = start(**request)
        print(json.dumps(answer), flush=True)


def fork(words, limit, folder, workspace):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(f"{folder}/{name}-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        os.environ["STYLENAT_WORKSPACE"] = workspace
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        from stylenat.cli import main

        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve(fork, sum_of_weights)
