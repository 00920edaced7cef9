"""Whether what this machine computes is right, and how fast: the checks that take seconds, on any device."""

import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from stylenat.attention.dispatch import BACKENDS
from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.partitions import HeadPartition, format_partitions
from stylenat.benchmark.throughput import PROTOCOLS, Protocol, describe, get_protocol, measure
from stylenat.checkpoints.run import Run
from stylenat.checkpoints.tensors import load_tensors
from stylenat.config import Config
from stylenat.data.dataset import open_dataset
from stylenat.doctor.verdict import LEFT_OUT, OK, WRONG, Verdict
from stylenat.errors import UserError
from stylenat.models.build import build_generator
from stylenat.presets import get_config, run_id
from stylenat.training.loop import train
from stylenat.training.trainer import Trainer

# Several kernel sizes and dilations, heads shared unevenly, on a grid that is no square: every border is met.
# On a GPU the published kernel size and channels of a head; on a CPU smaller ones, which compile in seconds.
GPU_CASE = ((HeadPartition(1, 3, 1), HeadPartition(1, 5, 2), HeadPartition(2, 7, 3)), 32)
CPU_CASE = ((HeadPartition(1, 3, 1), HeadPartition(2, 5, 3)), 16)
GRID = (23, 26)  # tokens of a column and of a row
# Allowed relative errors of output and gradients, by the norm. Float32 on a GPU may round operands to TF32,
# whose products are off by 1e-3; bfloat16 has 8 bits, and is compared on inputs that are rounded alike.
TOLERANCE_CPU = {torch.float32: 1e-5, torch.bfloat16: 0.03}
TOLERANCE_GPU = {torch.float32: 2e-3, torch.bfloat16: 0.03}
# Of a training step: a GPU computes networks in bfloat16 (autocast), the CPU in float32.
STEP_TOLERANCE = {"loss": 0.05, "gradient": 0.1}
SMALL = {"nimg": 32, "snapshot": 16, "batch_size": 8, "widths": (32, 32, 16, 16), "latent_dim": 16}
SMALL |= {"discriminator_widths": (16, 16, 16), "head_dim": 16, "mapping_depth": 1}
RESUME_TOLERANCE_GPU = 0.05  # where sums are made in another order every time; on a CPU none is allowed
RANKS = 2
RANKS_TOLERANCE = 0.02  # losses and weights after a few steps of Adam, whose sums are made in another order
RANKS_PATIENCE = 300  # seconds
CPU_PRESET = "noto-32"
CPU_ROUNDS = 20
GPU_PRESET = "ffhq-256"


def guarded(section: str, name: str, check: Callable[[], Verdict]) -> Verdict:
    """A check's verdict; what it raises is one, too: a report shall hold the rest."""
    try:
        return check()
    except UserError as error:
        return Verdict(section, name, WRONG, str(error))
    except Exception as error:  # drivers and compilers raise their own
        return Verdict(section, name, WRONG, describe_error(error))


def describe_error(error: Exception) -> str:
    """An exception as one line of moderate length."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


# Attention


def check_backends(device: torch.device) -> Iterator[Verdict]:
    """Every backend against the reference in float64: output and gradients, float32 and bfloat16."""
    for name in BACKENDS:
        # The reference is float32 at most: it rounds every sum, so that bfloat16 says nothing of a mistake.
        dtypes = (torch.float32,) if name == "reference" else (torch.float32, torch.bfloat16)
        for dtype in dtypes:
            label = f"{name}, {str(dtype).removeprefix('torch.')}"

            def check(name: str = name, dtype: torch.dtype = dtype, label: str = label) -> Verdict:
                return _check_backend(name, dtype, device, label)

            yield guarded("attention", label, check)


def _check_backend(name: str, dtype: torch.dtype, device: torch.device, label: str) -> Verdict:
    tolerance = (TOLERANCE_GPU if device.type == "cuda" else TOLERANCE_CPU)[dtype]
    tables = True
    try:
        found = _attend(name, dtype, device, tables=True)
    except UserError:  # one that knows no bias, or is not here
        tables = False
        try:
            found = _attend(name, dtype, device, tables=False)
        except UserError as error:
            return Verdict("attention", label, LEFT_OUT, str(error))
    expected = _attend("reference", dtype, device, tables=tables, exact=True)
    errors = {part: relative_error(found[part], expected[part]) for part in found}
    worst = max(errors, key=lambda part: errors[part])
    what = "output and gradients" if len(found) > 1 else "output alone, it has no gradients here"
    kind = "with bias" if tables else "without bias, which it has none of"
    text = f"{what}, {kind}: largest relative error {errors[worst]:.1e} ({worst}), allowed {tolerance:.0e}"
    values: dict[str, Any] = {"errors": errors, "allowed": tolerance}
    partitions, head_dim = _case(device)
    values |= {"partitions": format_partitions(partitions), "grid": list(GRID), "head_dim": head_dim}
    # Not `>`: a NaN is in no order.
    return Verdict("attention", label, OK if errors[worst] <= tolerance else WRONG, text, _finite(values))


def _attend(
    name: str, dtype: torch.dtype, device: torch.device, *, tables: bool, exact: bool = False
) -> dict[str, Tensor]:
    """A backend's output and, where it has any, its gradients, by name.

    Args:
        name: of the backend.
        dtype: that q, k, v and tables are rounded to.
        device: to compute on.
        tables: whether there is a relative position bias.
        exact: compute in float64 what was rounded.
    """
    partitions, head_dim = _case(device)
    inputs, weights = _inputs(partitions, head_dim, dtype, device, tables=tables)
    if exact:
        inputs = {part: tensor.double() for part, tensor in inputs.items()}
        weights = weights.double()
    leaves = {part: tensor.detach().requires_grad_() for part, tensor in inputs.items()}
    try:
        out = _call(name, leaves, partitions)
        gradients = torch.autograd.grad(out, list(leaves.values()), weights)
    except NotImplementedError:  # FlexAttention and NATTEN on a CPU
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that nothing was compiled
            return {"output": _call(name, inputs, partitions)}
    parts = {f"gradient of {part}": grad for part, grad in zip(leaves, gradients, strict=True)}
    return {"output": out.detach(), **parts}


def _case(device: torch.device) -> tuple[Sequence[HeadPartition], int]:
    """What is tried on a device: partitions, and channels of a head."""
    return GPU_CASE if device.type == "cuda" else CPU_CASE


def _call(name: str, inputs: Mapping[str, Tensor], partitions: Sequence[HeadPartition]) -> Tensor:
    tables = [tensor for part, tensor in inputs.items() if part.startswith("table")]
    q, k, v = (inputs[part] for part in "qkv")
    return neighborhood_attention(q, k, v, partitions, tables or None, backend=name)


def _inputs(
    partitions: Sequence[HeadPartition],
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    tables: bool,
) -> tuple[dict[str, Tensor], Tensor]:
    """q, k, v `(2, H, W, heads, head_dim)` and tables by name; and the gradient of the output."""
    draw = torch.Generator().manual_seed(0)  # on the CPU: the same numbers on every device

    def random(size: Sequence[int]) -> Tensor:
        return torch.randn(size, generator=draw).to(device, dtype)

    shape = (2, *GRID, sum(part.heads for part in partitions), head_dim)
    inputs = {part: random(shape) for part in "qkv"}
    if tables:
        for index, part in enumerate(partitions):
            inputs[f"table {index}"] = random(part.table_shape)
    return inputs, random(shape)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference by the norm of what is expected, in float64."""
    exact = expected.double().cpu()
    return ((found.double().cpu() - exact).norm() / exact.norm()).item()


# Training


class DrawOnCpu(TorchFunctionMode):
    """Within it random numbers are drawn on the CPU and then moved: a GPU's generator has others."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Draw on the CPU what is to be drawn; anything else is left as it is."""
        options = dict(kwargs or {})
        if func in (torch.randn, torch.rand, torch.randint):
            device = options.pop("device", None)
            return func(*args, **options, device="cpu").to(device or "cpu")
        if func is Tensor.uniform_:
            target = args[0]
            drawn = torch.empty(target.shape, dtype=target.dtype).uniform_(*args[1:], **options)
            return target.copy_(drawn)
        return func(*args, **options)


def small_config() -> Config:
    """A network that trains in seconds on a CPU, with DiffAugment, R1 and heads that look near and far."""
    return get_config("smoke", **SMALL)


def training_step(config: Config, device: torch.device | str) -> dict[str, Tensor]:
    """One step of training: its losses, and the last gradients of both networks `(parameters,)` each.

    Args:
        config: of the run.
        device: to train on; random numbers are the CPU's.
    """
    trainer = Trainer(config, device)
    dataset = open_dataset(config.data, config.resolution, "train")
    with DrawOnCpu():
        results = dict(trainer.step(dataset.stack(range(config.batch_size))))
    for name, network in (("generator", trainer.generator), ("discriminator", trainer.discriminator)):
        gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        results[f"gradient of {name}"] = torch.cat(gradients)
    return results


def check_step(device: torch.device) -> Verdict:
    """A training step against the same one on the CPU."""
    section = "training"
    name = "a step against the CPU's"
    if device.type == "cpu":
        return Verdict(section, name, LEFT_OUT, "no GPU: this is the CPU")
    return compare_steps(training_step(small_config(), device), training_step(small_config(), "cpu"))


def compare_steps(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Verdict:
    """The verdict on a step, from what `training_step` gave and what it should have given."""
    errors = {part: relative_error(tensor, expected[part]) for part, tensor in found.items()}
    faults = []
    for part, error in errors.items():
        allowed = STEP_TOLERANCE["gradient" if part.startswith("gradient") else "loss"]
        if not error <= allowed:  # NaN
            faults.append(f"{part} is off by {error:.1e}, allowed {allowed:.0e}")
    listed = ", ".join(f"{part} {error:.1e}" for part, error in errors.items())
    text = "; ".join(faults) or f"relative errors: {listed}"
    values = _finite({"errors": errors, "allowed": STEP_TOLERANCE})
    return Verdict("training", "a step against the CPU's", WRONG if faults else OK, text, values)


def check_resume(device: torch.device) -> Verdict:
    """A training of 2n images against one of n that goes on: every tensor of the last training state."""
    config = small_config()
    with tempfile.TemporaryDirectory() as folder:
        run = train(config, Path(folder) / "unbroken", str(device))
        expected = _last_state(run)
        shutil.rmtree(run.state_path())  # what training goes on from is then the snapshot before
        train(config, run.path.parent, str(device))
        found = _last_state(run)
    same = sum(torch.equal(found[name], tensor) for name, tensor in expected.items())
    exact = device.type == "cpu"
    worst = max(_difference(found[name], tensor) for name, tensor in expected.items())
    text = f"{same} of {len(expected)} tensors the same, bit for bit"
    if same < len(expected):
        allowed = "none allowed on a CPU" if exact else f"allowed {RESUME_TOLERANCE_GPU:.0e}"
        text += f"; largest relative difference {worst:.1e}, {allowed}"
    right = same == len(expected) or (not exact and worst <= RESUME_TOLERANCE_GPU)
    values = _finite({"tensors": len(expected), "same": same, "difference": worst})
    return Verdict("training", "resumed against unbroken", OK if right else WRONG, text, values)


def _last_state(run: Run) -> dict[str, Tensor]:
    tensors = {}
    for path in sorted(run.state_path(run.config.nimg).glob("*.safetensors")):
        for name, tensor in load_tensors(path).items():
            tensors[f"{path.stem}: {name}"] = tensor
    return tensors


def _difference(found: Tensor, expected: Tensor) -> float:
    return 0.0 if torch.equal(found, expected) else relative_error(found, expected)


def check_ranks(device: torch.device) -> Verdict:
    """A training by two processes against one process's: the losses of its log, and the averaged weights.

    On GPUs where there are two of them, else over gloo on the CPU.
    """
    section = "training"
    name = "two ranks against one"
    on_gpus = device.type == "cuda" and torch.cuda.device_count() >= RANKS
    where = "cuda" if on_gpus else "cpu"
    config = small_config()
    with tempfile.TemporaryDirectory() as folder:
        one = train(config, Path(folder) / "one", where)
        several = _train_in_ranks(config, Path(folder) / "several", where)
        errors = _compare_runs(several, one)
    worst = max(errors, key=lambda part: errors[part])
    listed = f"largest relative difference {errors[worst]:.1e} ({worst}), allowed {RANKS_TOLERANCE:.0e}"
    text = f"{RANKS} processes on {'GPUs' if on_gpus else 'the CPU'}: {listed}"
    right = errors[worst] <= RANKS_TOLERANCE
    return Verdict(section, name, OK if right else WRONG, text, _finite({"errors": errors}))


def _train_in_ranks(config: Config, folder: Path, where: str) -> Run:
    """Train by several processes, as a user would."""
    settings = [f"{name}={value}" for name, value in SMALL.items()]
    words = ["train", config.preset, "--out", str(folder), "--set", *settings]
    if where == "cpu":
        words += ["--device", "cpu"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    command = [sys.executable, *launcher, "-m", "stylenat", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RANKS_PATIENCE, check=False)
    if done.returncode:
        lines = [
            line for line in done.stderr.splitlines() if line.startswith("stylenat: ") or "Error: " in line
        ]
        raise UserError(lines[0] if lines else f"torchrun ended with {done.returncode}")
    return Run(folder / run_id(config))


def _compare_runs(found: Run, expected: Run) -> dict[str, float]:
    """Relative differences of two runs' losses, and of all averaged weights together."""
    errors: dict[str, float] = {}
    for mine, other in zip(found.log(), expected.log(), strict=True):
        for name in ("loss_d", "loss_g", "r1"):
            if name in other:
                off = abs(mine[name] - other[name]) / max(abs(other[name]), 1e-3)
                errors[name] = max(off, errors.get(name, 0.0))
    weights = [torch.cat([p.flatten() for p in run.generator().parameters()]) for run in (found, expected)]
    return errors | {"averaged weights": relative_error(*weights)}


# Speed


def throughput_protocol(device: torch.device) -> tuple[str, Protocol]:
    """Which preset is timed, and how: on a GPU the published one as its authors did."""
    if device.type == "cuda":
        return GPU_PRESET, PROTOCOLS["paper"]
    return CPU_PRESET, get_protocol("paper", rounds=CPU_ROUNDS, warmup=2)


def check_throughput(device: torch.device) -> Verdict:
    """Images a second by the authors' protocol; on a CPU of a small network, and of few calls."""
    preset, protocol = throughput_protocol(device)
    (row,) = measure(build_generator(preset), protocol, preset, str(device))
    text = f"{preset}: {row.images_per_second:.4g} images a second, {row.times_matmul:.1f} times its matmul "
    text += f"time; {describe(row)}"
    if device.type == "cpu":
        text += f"; left out: {GPU_PRESET} at {PROTOCOLS['paper'].rounds} rounds, no GPU"
    values = {"preset": preset, "images_per_second": row.images_per_second, "latency_ms": row.latency_ms}
    values |= {"matmul_ms": row.matmul_ms, "rounds": row.rounds, "backend": row.backend}
    return Verdict("speed", "throughput", OK, text, values)


def _finite(values: Any) -> Any:
    """The same with numbers that JSON has no form for, NaN and infinity, as text."""
    if isinstance(values, dict):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, float) and not abs(values) < float("inf"):
        return str(values)
    return values
