"""What scripts/bench.py measures: the cases, their preparation, and the tasks that run in a fresh process.

The `stylenat` of that process may be an older commit's, measured by this module. So nothing of the package
but this folder is imported at the top; `measured_package` finds the rest under its name of then or of now.
"""

import ast
import ctypes
import dataclasses
import importlib.util
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from stylenat.benchmark.matmul import MatmulTime, Product, Recorder, macs

WIDTHS = (512, 512, 512, 512, 512, 256, 128, 64, 32)  # FFHQ-1024's; the first seven are FFHQ-256's
# States of a case.
BEFORE = "before"
NOW = "now"
CHECKPOINTED = "checkpointed"
BESIDE = "with all changes"  # as now, next to the states without one
CHANGES = ("allocator", "mlp", "attention")  # what can be undone in today's code
CHANGED_CASES = ("sample-256", "generator-256")  # where each of them is
# Parameters of glibc's mallopt.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_MMAP_MAX = -4
_OPERATORS = 10  # of a profile


@dataclass(frozen=True)
class Case:
    """One thing that is timed.

    Attributes:
        name: on the command line and in the records.
        title: on the page.
        kind: "sample" (an image), "generator" (forward and backward) or "step" (of training).
        resolution: of the images.
        batch: images a call.
        rounds: timed calls.
        preset: whose networks; "" for FFHQ-1024's, cut off at the resolution.
    """

    name: str
    title: str
    kind: str
    resolution: int
    batch: int
    rounds: int = 7
    preset: str = ""

    @property
    def checkpoint_levels(self) -> tuple[int, int]:
        """The two finest levels, where most of the memory is."""
        return (self.resolution // 2, self.resolution)


_ALL = (
    Case("sample-64", "sample, 64 × 64", "sample", 64, 1),
    Case("sample-128", "sample, 128 × 128", "sample", 128, 1),
    Case("sample-256", "sample, 256 × 256", "sample", 256, 1),
    Case("sample-512", "sample, 512 × 512", "sample", 512, 1),
    Case("sample-1024", "sample, 1024 × 1024", "sample", 1024, 1),
    Case("generator-64", "64 × 64, batch 2", "generator", 64, 2),
    Case("generator-128", "128 × 128, batch 1", "generator", 128, 1),
    Case("generator-256", "256 × 256, batch 1", "generator", 256, 1),
    Case("step-noto-32", "`noto-32`, batch 16", "step", 32, 16, rounds=41, preset="noto-32"),
    Case("step-noto-64", "`noto-64`, batch 16", "step", 64, 16, rounds=21, preset="noto-64"),
    Case("step-64", "published widths, 64 × 64, batch 4", "step", 64, 4),
    Case("step-128", "published widths, 128 × 128, batch 4", "step", 128, 4),
)
CASES = {case.name: case for case in _ALL}
COMPARISONS = ("peers-256", "attention-noto-32", "attention-ffhq-256", "attention-ffhq-1024")  # see peers.py


@dataclass(frozen=True)
class Measurement:
    """What was measured of a case.

    Attributes:
        seconds: median of a call.
        matmul_seconds: the dense products alone: `seconds` by `ratio`.
        ratio: median of a call's time by the matmul time next to it.
        ratio_low: least.
        ratio_high: greatest.
        peak_bytes: most memory that the process ever took.
        macs: multiply-accumulates of a call.
        rounds: timed calls.
    """

    seconds: float
    matmul_seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    peak_bytes: int
    macs: int
    rounds: int


class MeasuredPackage(NamedTuple):
    """What a case needs of the `stylenat` that is measured.

    Attributes:
        get_config: preset's name and overrides → configuration.
        build_generator: configuration → generator.
        trainer: configuration, device → `Trainer`.
        keeps_freed_memory: whether it has glibc keep freed memory.
    """

    get_config: Callable[..., Any]
    build_generator: Callable[[Any], torch.nn.Module]
    trainer: Callable[[Any, str], Any]
    keeps_freed_memory: bool


def measured_package() -> MeasuredPackage:
    """The `stylenat` of this process, whichever commit it is of: the one place that knows older names.

    It looks for files: an import could find a module that the older package lacks in an installed one.
    """
    import stylenat
    from stylenat.presets import get_config

    folder = Path(stylenat.__path__[0])
    keeps = (folder / "device.py").is_file()  # as old as the keeping
    if (folder / "models").is_dir():
        from stylenat.models.build import build_generator
        from stylenat.training.trainer import Trainer

        return MeasuredPackage(get_config, build_generator, Trainer, keeps)
    from stylenat.training import Trainer as OldTrainer  # type: ignore[attr-defined]

    return MeasuredPackage(get_config, lambda config: config.build_generator(), OldTrainer, keeps)


# --- Preparing a case


@dataclass(frozen=True)
class Prepared:
    """A case that is ready to be timed.

    Attributes:
        call: what is timed.
        products: how many calls of each product it is made of.
        warm: whether it was called already.
    """

    call: Callable[[], Any]
    products: Counter[Product]
    warm: bool = False


def case_config(case: Case, package: MeasuredPackage, **settings: Any) -> Any:
    """The configuration of a case's networks: its preset's, or FFHQ-1024's cut off at the resolution.

    Args:
        case: one of `CASES`.
        package: the package that is measured.
        settings: fields to replace, as of `get_config`.
    """
    if case.preset:
        return package.get_config(case.preset, **settings)
    widths = WIDTHS[: case.resolution.bit_length() - 2]
    *coarse, _, finest = widths
    return package.get_config(
        "ffhq-1024",
        resolution=case.resolution,
        widths=widths,
        discriminator_widths=(*coarse, finest),
        batch_size=case.batch,
        **settings,
    )


def prepare(case: Case, checkpointed: bool = False) -> Prepared:
    """Make a case's networks and count its products.

    Args:
        case: one of `CASES`.
        checkpointed: whether the two finest levels are computed twice, for less memory; of a step only.
    """
    package = measured_package()
    if case.kind == "step":
        return _prepare_step(case, package, checkpointed)
    config = case_config(case, package)
    generator = package.build_generator(config)
    z = torch.randn(case.batch, config.latent_dim)
    if case.kind == "sample":
        return Prepared(lambda: _forward(generator, z), _products(package, config, z, _forward))
    return Prepared(lambda: _forward_backward(generator, z), _products(package, config, z, _forward_backward))


@torch.no_grad()
def _forward(generator: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
    return generator(z)


def _forward_backward(generator: torch.nn.Module, z: torch.Tensor) -> None:
    generator.zero_grad(set_to_none=True)
    generator(z).sum().backward()


def _products(
    package: MeasuredPackage,
    config: Any,
    z: torch.Tensor,
    call: Callable[[torch.nn.Module, torch.Tensor], Any],
) -> Counter[Product]:
    with torch.device("meta"):
        twin = package.build_generator(config)
        z_meta = torch.empty(z.shape)
    with Recorder() as recorder:
        call(twin, z_meta)
    return recorder.products


def _prepare_step(case: Case, package: MeasuredPackage, checkpointed: bool) -> Prepared:
    config = case_config(case, package)
    size = (config.batch_size, 3, config.resolution, config.resolution)
    images = torch.randint(0, 256, size).to(torch.uint8)
    twin = package.trainer(config, "meta")
    twin.nimg = config.batch_size  # a step without R1, as most are
    with Recorder() as recorder:
        twin.step(images)
    if checkpointed:
        config = dataclasses.replace(config, checkpoint_levels=case.checkpoint_levels)
    trainer = package.trainer(config, "cpu")
    trainer.step(images)  # one with R1
    return Prepared(lambda: trainer.step(images), recorder.products, warm=True)


# --- Undoing a change


def set_keeping(keep: bool) -> None:
    """Have glibc keep freed memory, or give it back as by its defaults, thresholds fully grown."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_MMAP_MAX, 0 if keep else 2**16)
    libc.mallopt(_MMAP_THRESHOLD, 2**25)
    libc.mallopt(_TRIM_THRESHOLD, -1 if keep else 2**26)
    if not keep:
        torch.empty(2**18)  # freed: the end of the heap goes back with it


def undo(change: str, base: str | Path = "") -> None:
    """Undo a change in this process, which has today's package; "allocator" is undone by `set_keeping`.

    Args:
        change: one of `CHANGES`.
        base: for "attention" a clone of the commit before it, whose tiled attention takes its place.
    """
    from stylenat.attention import dispatch, fused
    from stylenat.models import mlp, stylenat

    if change == "mlp":
        stylenat.mlp = mlp.plain_mlp
    elif change == "attention":
        dispatch.BACKENDS["tiled"] = dispatch.Backend(_old_attention(Path(base)))
        dispatch.BACKENDS["fused"] = dispatch.Backend(fused.attend)  # no candidate any more


def _old_attention(base: Path) -> Callable[..., torch.Tensor]:
    """The tiled attention of an older clone, of one partition a call, called as today's."""
    path = base / "stylenat" / "attention" / "tiled.py"
    # Read before it runs: today's file, run twice, would register its operators again and break the first.
    if "partition" not in _parameters(path, "attend"):
        raise SystemExit("bench: the base's attention is as today's: give a base up to commit 50ec9d2")
    old = _load(path)

    def attend(q: Any, k: Any, v: Any, partitions: Any, bias: Any, scale: float) -> torch.Tensor:
        heads = [part.heads for part in partitions]
        shares = []
        for i, share in enumerate(zip(*(x.split(heads, 3) for x in (q * scale, k, v)), strict=True)):
            shares.append(old.attend(*share, partitions[i], bias[i]))
        return torch.cat(shares, 3)

    return attend


def _parameters(path: Path, name: str) -> list[str]:
    """Names of the parameters of a function in a file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return [argument.arg for argument in node.args.args]
    return []


def _load(path: Path) -> ModuleType:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(f"older_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- The tasks


def measure(
    name: str, change: str = "", checkpointed: bool = False, base: str = "", rounds: int = 0
) -> Measurement:
    """Time a case in this process, which should be a fresh one, for the peak of its memory.

    Args:
        name: of the case.
        change: one of `CHANGES` to undo first.
        checkpointed: see `prepare`.
        base: see `undo`.
        rounds: timed calls; default: the case's.
    """
    case = CASES[name]
    torch.manual_seed(0)
    keep = measured_package().keeps_freed_memory and change != "allocator"
    set_keeping(keep)
    prepared = prepare(case, checkpointed)
    if change:
        undo(change, base)
    for _ in range(1 if prepared.warm else 2):
        prepared.call()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)
    matmul_time = MatmulTime(prepared.products, "cpu")
    times = []
    ratios = []
    for _ in range(rounds or case.rounds):
        set_keeping(keep)
        start = time.perf_counter()
        prepared.call()
        times.append(time.perf_counter() - start)
        set_keeping(True)  # the matmul time is of products alone
        ratios.append(times[-1] / matmul_time())
    seconds = statistics.median(times)
    ratio = statistics.median(ratios)
    return Measurement(
        seconds=seconds,
        matmul_seconds=seconds / ratio,
        ratio=ratio,
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        peak_bytes=peak,
        macs=sum(macs(prepared.products)),
        rounds=len(times),
    )


def profile() -> list[tuple[str, float, int]]:
    """The operators that take most of sampling at 256 × 256: name, milliseconds, calls."""
    call = prepare(CASES["sample-256"]).call
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        call()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return [(event.key, event.self_cpu_time_total / 1e3, event.count) for event in events[:_OPERATORS]]


def equality(side: int = 64) -> dict[str, Any]:
    """How far today's fast code is from its definition, and the backends that `auto` took and left out.

    Args:
        side: tokens a side, 56 or more.

    Returns:
        `errors`: by name the relative errors of the output and of each gradient; `choices`: lines of text.
    """
    from stylenat.attention import dispatch, fused, natten
    from stylenat.attention.functional import neighborhood_attention
    from stylenat.attention.partitions import HeadPartition
    from stylenat.benchmark import exactness, peers
    from stylenat.models import mlp

    torch.manual_seed(0)
    partitions = (HeadPartition(2, 7, 1), HeadPartition(2, 7, 8))
    shape = (1, side, side, 4, 32)
    qkv = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    bias = [torch.randn(2, 13, 13, dtype=torch.float64, requires_grad=True) for _ in partitions]

    def attention(backend: str) -> Callable[..., torch.Tensor]:
        return lambda q, k, v, *bias: neighborhood_attention(
            q, k, v, partitions, bias or None, backend=backend
        )

    reference = attention("reference")
    errors = {
        "tiled attention, float32": relative_errors(attention("tiled"), reference, [*qkv, *bias]),
        "flex attention, forward": relative_errors(attention("flex"), reference, [*qkv, *bias], False),
    }
    if fused.installed():
        errors["fused attention, float32"] = relative_errors(attention("fused"), reference, [*qkv, *bias])
        worst = exactness.worst_error("fused")
        errors[f"fused attention, worst of {exactness.SHAPES} random shapes"] = [worst, worst]
    errors["natten-mps, float32"] = relative_errors(
        lambda q, k, v, *bias: peers.natten_mps_attend(q, k, v, partitions, bias, 32**-0.5),
        reference,
        [*qkv, *bias],
    )
    if natten.installed():
        errors["natten, no bias, forward"] = relative_errors(attention("natten"), reference, qkv, False)
    shapes = ((4096, 128), (512, 128), (512,), (128, 512), (128,))
    tensors = [torch.randn(size, dtype=torch.float64).div(8).requires_grad_() for size in shapes]
    errors["MLP by slices"] = relative_errors(mlp.mlp, mlp.plain_mlp, tensors)

    tiled = dispatch.BACKENDS["tiled"].attend

    def wrong(q: Any, k: Any, v: Any, partitions: Any, bias: Any, scale: float) -> torch.Tensor:
        return tiled(q, k, v, partitions, bias, 1.01 * scale)

    inputs = [x.detach().float() for x in (*qkv, *bias)]
    with torch.no_grad():
        attention("auto")(*inputs)
        dispatch.BACKENDS["wrong"] = dispatch.Backend(wrong, lambda *_: True)
        try:
            attention("auto")(*inputs)
        finally:
            del dispatch.BACKENDS["wrong"]
    return {"errors": errors, "choices": [str(choice) for choice in dispatch.choices()]}


def relative_errors(
    function: Callable[..., torch.Tensor],
    exact: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor],
    gradients: bool = True,
) -> list[float]:
    """Relative errors of a function in float32 against an exact one: of the output, then of each gradient.

    Args:
        function: is given the inputs in float32.
        exact: is given the inputs as they are.
        inputs: float64 tensors that require gradients.
        gradients: whether to compare gradients, too.
    """
    single = [x.detach().float().requires_grad_(gradients) for x in inputs]
    found = _results(function, single) if gradients else [function(*single)]
    errors = []
    for x, y in zip(found, _results(exact, inputs), strict=False):
        errors.append(((x - y).norm() / y.norm()).item())
    return errors


def _results(function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    out = function(*inputs)
    return [out, *torch.autograd.grad(out.square().sum(), inputs)]


# --- What there is to do


@dataclass(frozen=True)
class Job:
    """One task for a fresh process.

    Attributes:
        task: "measure", "compare", "profile", "equality" or "low_precision".
        state: of the case or profile, such as "now"; for the other tasks today's.
        case: name of the case, for "measure", or of the comparison, for "compare".
        options: of `measure`, besides its case.
    """

    task: str
    state: str
    case: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def jobs(names: Sequence[str], with_base: bool, everything: bool) -> Iterator[Job]:
    """All that is to be done, in turn, so that before and now meet the same state of the machine.

    Args:
        names: of cases and comparisons.
        with_base: whether there is an older commit to compare with.
        everything: whether to undo changes, profile, and measure equality, too.
    """
    for name in names:
        if name in COMPARISONS:
            yield Job("compare", NOW, name)
            continue
        if with_base:
            yield Job("measure", BEFORE, name)
        yield Job("measure", NOW, name)
        if CASES[name].kind == "step":
            yield Job("measure", CHECKPOINTED, name, {"checkpointed": True})
        if everything and name in CHANGED_CASES:
            yield Job("measure", BESIDE, name)
            for change in CHANGES:
                if with_base or change != "attention":
                    yield Job("measure", f"without {change}", name, {"change": change})
    if everything:
        if with_base:
            yield Job("profile", BEFORE)
        yield Job("profile", NOW)
        yield Job("equality", NOW)
        yield Job("low_precision", NOW)
