"""The type of products by what the machine can do, faked: no CPU of the tests has every instruction."""

import pytest
import torch
from helpers import refusal

from stylenat.device import DTYPES, bfloat16_instructions, pick_precision


@pytest.fixture
def cpu(monkeypatch):
    """Says which instructions the CPU has: `cpu(amx=…, avx512=…)`."""

    def fake(amx=False, avx512=False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)

    return fake


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"),
    [
        (True, True, "bfloat16 (AMX-BF16)"),
        (True, False, "bfloat16 (AMX-BF16)"),
        (False, True, "bfloat16 (AVX512-BF16)"),
        (False, False, "float32 (no instructions for bfloat16 here)"),
    ],
)
def test_auto_goes_by_the_instructions(cpu, amx, avx512, expected):
    cpu(amx, avx512)
    assert str(pick_precision("auto")) == expected


def test_what_is_asked_for_is_taken(cpu):
    cpu(amx=True)
    assert str(pick_precision("float32")) == "float32"
    cpu()
    precision = pick_precision("bfloat16")
    assert (precision.dtype, precision.name) == (torch.bfloat16, "bfloat16")
    assert str(precision) == "bfloat16 (without instructions for it)"


def test_a_pytorch_that_cannot_tell_says_no(monkeypatch):
    """The functions are PyTorch's own affair; on other platforms they may be missing."""
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert bfloat16_instructions() == ""
    assert pick_precision("auto").dtype == torch.float32


def test_other_devices_have_none(cpu):
    cpu(amx=True)
    assert bfloat16_instructions("mps") == "" and pick_precision("auto", "mps").dtype == torch.float32


@pytest.mark.parametrize("supported", [False, True])
def test_a_gpu_is_asked_itself(monkeypatch, supported):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "An old GPU")
    assert pick_precision("float32", "cuda").dtype == torch.float32
    if supported:
        assert str(pick_precision("auto", "cuda:1")) == "bfloat16 (tensor cores)"
    else:
        assert pick_precision("auto", "cuda").dtype == torch.float32
        message = refusal(pick_precision, "bfloat16", "cuda")
        assert message.startswith("An old GPU does not compute in bfloat16: take dtype float32")


@pytest.mark.parametrize("name", ["half", "", "BFLOAT16", "torch.float32"])
def test_unknown_types(name):
    assert f"unknown dtype {name!r}" in refusal(pick_precision, name)
    assert refusal(pick_precision, name).endswith(f"There are {', '.join(DTYPES)}")
