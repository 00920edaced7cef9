"""The Triton backend without a GPU: interpreted on a CPU, and compiled for GPUs that are not there."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers import ROOT, make_inputs, refusal
from torch._subclasses.fake_tensor import FakeTensorMode

from stylenat.attention import dispatch, triton
from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.partitions import parse_partitions

needs_triton = pytest.mark.skipif(not find_spec("triton"), reason="needs Triton: pip install triton")


def test_partial_tables_are_added_head_by_head():
    partitions = parse_partitions("1x3@1,2x5@2")
    partial = torch.zeros(2, 3, 3, 16, 16)
    for head, size in enumerate((5, 9, 9)):
        partial[:, :, head, :size, :size] = torch.arange(size * size).view(size, size) + 1000 * head
    expected = [
        6 * torch.arange(25),
        6 * (torch.arange(81) + 1000),
        6 * (torch.arange(81) + 2000),
    ]
    assert torch.equal(triton._sum_tables(partial, partitions), torch.cat(expected).float())


def test_there_is_a_program_for_every_tile_of_every_head():
    q = torch.empty(5, 20, 17, 3, 4)
    assert triton._grid(q, parse_partitions("1x3@1,2x3@5")) == (25, 3, 5)  # 5 × 5 groups of one tile each
    assert triton._grid(q, parse_partitions("3x3@1")) == (9, 3, 5)  # 3 × 3 tiles
    heads = triton._heads_table(tuple(parse_partitions("1x3@1,2x5@2")), torch.device("cpu"))
    assert heads.tolist() == [[3, 1, 0], [5, 2, 25], [5, 2, 106]]


# Where it is offered, and where not.


@needs_triton
def test_auto_tries_it_on_gpus_only():
    suits = dispatch.BACKENDS["triton"].suits
    with FakeTensorMode():
        assert suits(torch.empty(1, 8, 8, 1, 4, device="cuda"), [None], True)
        assert not suits(torch.empty(1, 8, 8, 1, 4, device="cuda", dtype=torch.float64), [None], True)
    assert not suits(torch.empty(1, 8, 8, 1, 4), [None], True)


@needs_triton
def test_a_cpu_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    partitions = parse_partitions("1x3@1")
    q, k, v, _ = make_inputs(1, 8, 8, partitions, dtype=torch.float32)
    assert refusal(neighborhood_attention, q, k, v, partitions, backend="triton") == (
        "attention backend 'triton' got float32 on cpu: take auto or tiled, or give float32, bfloat16 or "
        "float16 on a GPU"
    )


def test_without_triton_it_says_so(monkeypatch):
    monkeypatch.setattr(triton, "installed", lambda: False)
    partitions = parse_partitions("1x3@1")
    q, k, v, _ = make_inputs(1, 8, 8, partitions, dtype=torch.float32)
    assert refusal(neighborhood_attention, q, k, v, partitions, backend="triton") == (
        "attention backend 'triton' needs Triton: pip install triton, or take tiled"
    )


def run(code, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | {"OMP_NUM_THREADS": "1"} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_interpreted(marker):
    """Run the tests of that marker of the file beside this one."""
    file = Path(__file__).with_name("triton_interpreted.py")
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(file), "-m", marker]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@needs_triton
def test_kernels_equal_the_reference_where_they_are_interpreted():
    check_interpreted("not slow")


@needs_triton
@pytest.mark.slow
def test_kernels_equal_the_reference_on_random_cases():
    print(check_interpreted("slow"))


COMPILE = """
import sys
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from stylenat.attention import triton_kernels as kernels
name, operand, precision, arch = sys.argv[1:]
number = {"fp32": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}[operand]
constants = dict(TILE=8, ROWS=4, COLUMNS=16, CHANNELS=32, OFFSETS=16, OPERAND=number, PRECISION=precision)
types = dict(heads_table="*i32", bias="*fp32", norms="*fp32", deltas="*fp32", partial="*fp32", scale="fp32")
for tensor in ("grad", "q", "k", "v", "out", "grad_q", "grad_k", "grad_v"):
    types[tensor] = "*" + operand
kernel = getattr(kernels, name)
signature = {each: "constexpr" if each in constants else types.get(each, "i32") for each in kernel.arg_names}
chosen = {(i,): constants[each] for i, each in enumerate(kernel.arg_names) if each in constants}
options = {"num_stages": 1, "num_warps": 4}
made = compile(ASTSource(kernel, signature, chosen), target=GPUTarget("cuda", int(arch), 32), options=options)
print(made.metadata.shared, len(made.asm["cubin"]))
"""


def check_compilation(name, operand, precision, arch, cache):
    program = f"import sys\nsys.argv = ['', {name!r}, {operand!r}, {precision!r}, {arch!r}]\n{COMPILE}"
    shared, code = map(int, run(program, TRITON_CACHE_DIR=str(cache)).split())
    assert shared <= 99 * 2**10, "consumer GPUs have no more shared memory for a program"
    assert code > 0


@needs_triton
def test_the_forward_pass_compiles_for_an_nvidia_gpu(tmp_path):
    check_compilation("forward", "bf16", "tf32", "80", tmp_path)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["80", "90"])
@pytest.mark.parametrize(("operand", "precision"), [("fp32", "ieee"), ("fp32", "tf32"), ("fp16", "tf32")])
def test_all_passes_compile_for_nvidia_gpus(tmp_path, operand, precision, arch):
    for name in ("forward", "backward_queries", "backward_keys"):
        check_compilation(name, operand, precision, arch, tmp_path)


GPU = """
import sys
sys.path.insert(0, "tests/attention")
sys.path.insert(0, "tests")
import torch
from helpers import make_inputs, relative_error
from triton_interpreted import lower, results
from stylenat.attention.partitions import parse_partitions
torch.manual_seed(0)
partitions = parse_partitions("1x7@1,2x7@5")
inputs = make_inputs(2, 40, 37, partitions, head_dim=32)
weights = torch.randn_like(inputs[0])
expected = results(inputs, partitions, "reference", weights)
q, k, v, bias = inputs
inputs = lower((q.cuda(), k.cuda(), v.cuda(), [table.cuda() for table in bias]))
first = results(inputs, partitions, "triton", weights.cuda())
again = results(inputs, partitions, "triton", weights.cuda())
assert max(relative_error(x.cpu(), y) for x, y in zip(first, expected)) < 1e-5
assert all(map(torch.equal, first, again))
"""


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_kernels_equal_the_reference_and_repeat():
    run(GPU)
