"""How near to the machine's floor every step is; `--page` keeps the numbers and writes docs/performance.md.

`--base COMMIT` also measures another commit's package, case by case in turn: a change of speed shows in
ratios of one run only. Every case runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_page import keep, write_page

from stylenat.models.build import build_generator
from stylenat.progress import progress

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = (512, 512, 512, 512, 512, 256, 128, 64, 32)  # FFHQ-1024's; the first seven are FFHQ-256's
SAMPLES = {f"sample-{side}": side for side in (64, 128, 256, 512, 1024)}
GENERATORS = {"generator-64": (64, 2), "generator-128": (128, 1), "generator-256": (256, 1)}
STEPS = {"step-noto-32": (16, 32), "step-noto-64": (32, 64), "step-64": (32, 64), "step-128": (64, 128)}
CASES = (*SAMPLES, *GENERATORS, *STEPS)
WITHOUT = ("allocator", "mlp", "attention")  # changes that can be undone
ROUNDS = {
    "sample-256": 7,
    "generator-256": 3,
    "step-64": 3,
    "step-128": 3,
    "step-noto-32": 41,
    "step-noto-64": 21,
}


def load(path):
    """A module by its file, whichever `stylenat` the process measures."""
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- In the process of a case. Its `stylenat` may be an older one: only what both have is used.


def published(side, **settings):
    """FFHQ's configuration, cut off at a resolution."""
    from stylenat.presets import get_config

    widths = WIDTHS[: side.bit_length() - 2]
    critic = (*widths[:-2], widths[-1])
    return get_config("ffhq-1024", resolution=side, widths=widths, discriminator_widths=critic, **settings)


def keep_freed_memory(keep):
    """Have glibc keep freed memory, or give it back as by its defaults, thresholds fully grown."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for name, kept, given_back in ((-4, 0, 2**16), (-3, 2**25, 2**25), (-1, -1, 2**26)):
            libc.mallopt(name, kept if keep else given_back)
    if not keep:
        torch.empty(2**18)  # freed: the end of the heap goes back with it


def undo(change, base):
    """Undo the MLP's slices in this process, or the attention: that of before comes from the clone `base`."""
    from stylenat.attention import dispatch as auto
    from stylenat.models import mlp
    from stylenat.models import stylenat as generator

    if change == "mlp":
        generator.mlp = mlp._whole
    elif change == "attention":
        old = load(Path(base, "stylenat", "attention", "tiled.py"))

        def attend(q, k, v, partitions, bias, scale):
            heads = [part.heads for part in partitions]
            shares = zip(*(x.split(heads, 3) for x in (q * scale, k, v)), partitions, bias, strict=True)
            return torch.cat([old.attend(*share) for share in shares], 3)

        auto.BACKENDS["tiled"] = auto.Backend(attend)


def prepare(case, checkpointed, floor):
    """`(call, products)`: what is timed, and the products it is made of."""
    if case in STEPS:
        return prepare_step(case, STEPS[case] if checkpointed else (), floor)
    side, batch = GENERATORS.get(case) or (SAMPLES[case], 1)
    generator = build_generator(published(side))
    z = torch.randn(batch, generator.latent_dim)
    if case in SAMPLES:
        return torch.no_grad()(lambda: generator(z)), floor.generator_products(generator, batch)
    with torch.device("meta"):
        twin, nothing = build_generator(published(side)), torch.empty(z.shape)

    def step(network, z):
        network.zero_grad(set_to_none=True)
        network(z).sum().backward()

    with floor.Recorder() as recorder:
        step(twin, nothing)
    return lambda: step(generator, z), recorder.products


def prepare_step(case, levels, floor):
    from stylenat.presets import get_config
    from stylenat.training.trainer import Trainer

    name = case.removeprefix("step-")
    config = get_config(name) if "noto" in name else published(int(name), batch_size=4)
    size = config.batch_size, 3, config.resolution, config.resolution
    images = torch.randint(0, 256, size).to(torch.uint8)
    twin = Trainer(config, "meta")
    twin.nimg = config.batch_size  # a step without R1, as most are
    with floor.Recorder() as recorder:
        twin.step(images)
    trainer = Trainer(dataclasses.replace(config, checkpoint_levels=levels) if levels else config, "cpu")
    trainer.step(images)  # one with R1
    return lambda: trainer.step(images), recorder.products


def measure(case, change="", checkpointed=False, base=""):
    """Seconds, ratios to the floor and peak memory of a case, a dict."""
    import stylenat

    torch.manual_seed(0)
    keeps = hasattr(stylenat, "keep_freed_memory") and change != "allocator"
    keep_freed_memory(keeps)
    floor = load(ROOT / "stylenat" / "floor.py")
    call, products = prepare(case, checkpointed, floor)
    if change:
        undo(change, base)
    call()
    if case not in STEPS:  # these made one already
        call()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)
    least, times, ratios = floor.Floor(products, "cpu"), [], []
    for _ in range(ROUNDS.get(case, 5)):
        keep_freed_memory(keeps)
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        keep_freed_memory(True)  # the floor is of products alone
        ratios.append(times[-1] / least())
    seconds, ratio = statistics.median(times), statistics.median(ratios)
    return {
        "seconds": seconds,
        "ratio": ratio,
        "low": min(ratios),
        "high": max(ratios),
        "floor": seconds / ratio,
        "peak": peak,
        "macs": sum(floor.macs(products)),
    }


def profile():
    """The ten operators that take most of sampling at 256 × 256: `[[name, milliseconds, calls], …]`."""
    generator, z = build_generator(published(256)), torch.randn(1, 512)
    with torch.no_grad():
        generator(z)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            generator(z)
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return [[event.key, event.self_cpu_time_total / 1e3, event.count] for event in events[:10]]


def equality():
    """Relative errors of what was made faster, and the backends that `auto` took and left out."""
    from stylenat import HeadPartition, neighborhood_attention
    from stylenat.attention import dispatch as auto
    from stylenat.attention.dispatch import choices
    from stylenat.models import mlp

    torch.manual_seed(0)
    parts = HeadPartition(2, 7, 1), HeadPartition(2, 7, 8)
    q, k, v = (torch.randn(1, 64, 64, 4, 32, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = [torch.randn(2, 13, 13, dtype=torch.float64, requires_grad=True) for _ in parts]
    errors = {}

    def results(function, inputs):
        out = function(*inputs)
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    def compare(name, function, exact, inputs, gradients=True):
        single = [x.detach().float().requires_grad_(gradients) for x in inputs]
        found = results(function, single) if gradients else [function(*single)]
        pairs = zip(found, results(exact, inputs), strict=False)
        errors[name] = [((x - y).norm() / y.norm()).item() for x, y in pairs]

    def attention(backend, biased=True):
        return lambda q, k, v, *bias: neighborhood_attention(q, k, v, parts, bias or None, backend=backend)

    compare("tiled attention, float32", attention("tiled"), attention("reference"), [q, k, v, *bias])
    compare("flex attention, forward", attention("flex"), attention("reference"), [q, k, v, *bias], False)
    if importlib.util.find_spec("natten"):
        compare("natten, no bias, forward", attention("natten"), attention("reference"), [q, k, v], False)
    shapes = (4096, 128), (512, 128), (512,), (128, 512), (128,)
    tensors = [torch.randn(s, dtype=torch.float64).div(8).requires_grad_() for s in shapes]
    compare("MLP by slices", mlp.mlp, mlp._whole, tensors)

    def wrong(q, k, v, partitions, bias, scale):
        return auto.BACKENDS["tiled"].attend(q, k, v, partitions, bias, 1.01 * scale)

    with torch.no_grad():
        attention("auto")(*(x.float() for x in (q, k, v, *bias)))
        auto.BACKENDS["wrong"] = auto.Backend(wrong, lambda *_: True)
        attention("auto")(*(x.float() for x in (q, k, v, *bias)))
    return {"errors": errors, "choices": list(map(str, choices()))}


TASKS = {"measure": measure, "profile": profile, "equality": equality}


# --- Around the cases.


def apart(tree, task, **options):
    """The result of a task in a fresh process that imports `stylenat` from the clone `tree`."""
    command = [sys.executable, __file__, "--task", json.dumps([task, options])]
    environment = os.environ | {"PYTHONPATH": str(tree), "STYLENAT_QUIET": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def jobs(cases, full):
    """`(key, task, options, on the base)` of everything to be done."""
    for case in cases:
        yield f"{case} before", "measure", {"case": case}, True
        yield f"{case} now", "measure", {"case": case}, False
        if case in STEPS:
            options = {"case": case, "checkpointed": True}
            yield f"{case} checkpointed", "measure", options, False
        if full and case in ("sample-256", "generator-256"):
            for change in WITHOUT:
                yield f"{case} without {change}", "measure", {"case": case, "change": change}, False
    if full:
        yield "profile before", "profile", {}, True
        yield "profile now", "profile", {}, False
        yield "equality", "equality", {}, False


@contextlib.contextmanager
def checkout(commit):
    """A folder with that commit of this clone, while it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", ROOT, "worktree"]
        if subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=False).returncode:
            sys.exit(f"bench: commit {commit!r} is not in this clone: fetch it, or leave out --base")
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=False)


def tell(key, found):
    spread = f"{found['ratio']:6.2f} ({found['low']:.2f} – {found['high']:.2f})"
    print(f"{key:<32} {spread} × the floor {found['floor']:8.3f} s {found['peak'] / 1e9:6.2f} GB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)} (default: all)")
    parser.add_argument("--base", metavar="COMMIT", help="the commit to compare with")
    parser.add_argument("--page", action="store_true", help="keep the numbers, write docs/performance.md")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        task, options = json.loads(arguments.task)
        print(json.dumps(TASKS[task](**options)))
        return
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"case {min(unknown)!r} is unknown: take of {', '.join(CASES)}")
    if arguments.page and arguments.base:
        keep("base", arguments.base)
    todo = list(jobs(arguments.cases or CASES, full=arguments.page and not arguments.cases))
    with checkout(arguments.base) if arguments.base else contextlib.nullcontext() as base:
        for key, task, options, older in progress(todo, unit="case"):
            if not base and (older or options.get("change") == "attention"):
                continue
            if "change" in options:
                options["base"] = base
            found = apart(base if older else ROOT, task, **options)
            if task == "measure":
                tell(key, found)
            if arguments.page:
                keep(key, found)
    if arguments.page:
        write_page()


if __name__ == "__main__":
    main()
