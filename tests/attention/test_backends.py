"""The fused backends against the reference, and how `auto` chooses among those that there are."""

import logging
import time
from importlib.util import find_spec

import pytest
import torch
from helpers import make_inputs, refusal, relative_error

from stylenat.attention import dispatch as auto
from stylenat.attention import fused, natten, tiled
from stylenat.attention.dispatch import choices
from stylenat.attention.functional import neighborhood_attention
from stylenat.attention.partitions import parse_partitions

needs_natten = pytest.mark.skipif(not find_spec("natten"), reason="needs NATTEN: make natten")


@pytest.mark.parametrize("partitions", ["2x3@1", "1x3@1,2x5@2,1x7@3"])
@pytest.mark.parametrize("backend", ["flex", pytest.param("natten", marks=needs_natten)])
def test_fused_backends_equal_the_reference(backend, partitions):
    torch.manual_seed(0)
    parts = parse_partitions(partitions)
    q, k, v, bias = make_inputs(2, 23, 21, parts, head_dim=32, dtype=torch.float32, requires_grad=False)
    bias = None if backend == "natten" else bias
    expected = neighborhood_attention(q, k, v, parts, bias, backend="reference")
    actual = neighborhood_attention(q, k, v, parts, bias, backend=backend)
    assert relative_error(actual, expected) < 1e-6


def test_flex_permutes_the_tokens_so_that_few_blocks_are_dense():
    """64 × 64 tokens at dilation 8: each of 64 groups of 8 × 8 is one tile and sees itself alone."""
    from stylenat.attention import flex

    mask = flex._plan(64, 64, parse_partitions("1x7@8")[0], torch.device("cpu")).mask
    assert mask.kv_num_blocks.unique().tolist() == [1] and mask.kv_num_blocks.numel() == 32


def test_flex_puts_tiles_together_where_rows_are_long():
    """256 tokens a row: a block of 128 is two tiles and sees the 9 blocks around it; half a row sees more."""
    from stylenat.attention import flex

    mask = flex._plan(256, 256, parse_partitions("1x7@1")[0], torch.device("cpu")).mask
    assert mask.kv_num_blocks.max() <= 9


def test_natten_takes_no_bias():
    partitions = parse_partitions("1x3@1")
    q, k, v, bias = make_inputs(1, 8, 8, partitions)
    assert refusal(neighborhood_attention, q, k, v, partitions, bias, backend="natten") == (
        "attention backend 'natten' has no relative position bias: take flex or tiled"
    )


@pytest.mark.skipif(find_spec("natten") is not None, reason="NATTEN is installed")
def test_natten_not_installed():
    partitions = parse_partitions("1x3@1")
    q, k, v, _ = make_inputs(1, 8, 8, partitions)
    text = refusal(neighborhood_attention, q, k, v, partitions, backend="natten")
    assert text.startswith("attention backend 'natten' needs NATTEN")


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("0.21.7", False),
        ("0.21.7+torch2130cu130", False),
        ("0.22.0", False),
        ("1.0.0", False),
        ("0.21.6+torch2120cu130", True),
        ("0.21.6.dev5+cu128.torch210", True),
        ("0.9.9", True),
        ("", True),
    ],
)
def test_an_old_natten_is_refused(version, old, monkeypatch):
    """Those before 0.21.7 could give NaN for v's gradient."""
    assert natten.is_too_old(version) is old
    if not old:
        return
    monkeypatch.setattr(natten, "installed", lambda: True)
    monkeypatch.setattr(natten, "installed_version", lambda: version)
    partitions = parse_partitions("1x3@1")
    q, k, v, _ = make_inputs(1, 8, 8, partitions)
    assert refusal(neighborhood_attention, q, k, v, partitions, backend="natten") == (
        f"attention backend 'natten' needs NATTEN 0.21.7 or later, and {version or 'none'} is installed: "
        "its gradient of v could be NaN; update it, or take tiled"
    )


# The choice. Candidates are injected: `calls` counts how often each was called.


def always(q, bias, gradients):
    return True


@pytest.fixture
def inject(monkeypatch):
    monkeypatch.setattr(auto, "_choices", {})
    monkeypatch.setitem(auto.BACKENDS, "fused", auto.Backend(fused.attend))  # no candidate
    calls = {}

    def add(name, attend, **options):
        def counted(*call):
            calls[name] = calls.get(name, 0) + 1
            return attend(*call)

        monkeypatch.setitem(auto.BACKENDS, name, auto.Backend(counted, always, **options))

    add.calls = calls
    return add


def slow(*call):
    time.sleep(0.02)
    return tiled.attend(*call)


def wrong(q, k, v, partitions, bias, scale):
    return tiled.attend(q, k, v, partitions, bias, 1.1 * scale)


def wrong_gradient(q, k, v, partitions, bias, scale):
    """Right forwards, but k's gradient is a tenth too large."""
    k = k.detach() + 1.1 * (k - k.detach())
    return tiled.attend(q, k, v, partitions, bias, scale)


def not_a_number(q, k, v, partitions, bias, scale):
    """Right but for v's gradient, which is NaN, as NATTEN's could be before 0.21.7."""
    return tiled.attend(q, k, v + 0 * (v - v.detach()).sqrt(), partitions, bias, scale)


def broken(*call):
    raise RuntimeError("no kernel image is available\nfor execution on the device")


PARTITIONS = parse_partitions("1x3@1,1x3@2")


def attend(requires_grad=True, size=16, **options):
    q, k, v, bias = make_inputs(
        1, size, size, PARTITIONS, dtype=torch.float32, requires_grad=requires_grad, **options
    )
    return neighborhood_attention(q, k, v, PARTITIONS, bias)


def test_auto_without_candidates_is_tiled_and_said_once(inject, caplog):
    with caplog.at_level(logging.INFO, "stylenat"):
        attend()
        attend()
        attend(requires_grad=False)
    lines = [
        "cpu float32, 1 × 16 × 16 × 2 × 2, 1x3@1,1x3@2, inference: tiled (the only candidate)",
        "cpu float32, 1 × 16 × 16 × 2 × 2, 1x3@1,1x3@2, training: tiled (the only candidate)",
    ]
    assert list(map(str, choices())) == lines == sorted(record.message for record in caplog.records)


def test_auto_takes_the_fastest(inject, monkeypatch):
    monkeypatch.setitem(auto.BACKENDS, "tiled", auto.Backend(slow))
    inject("quick", tiled.attend)
    inject("slower", lambda *call: slow(*call) + 0 * slow(*call))
    attend()
    (choice,) = choices()
    assert choice.backend == "quick" and ": quick (tiled " in str(choice) and str(choice).count(" ms") == 3


def test_auto_measures_a_kind_of_call_once(inject):
    inject("slow", slow)
    attend()
    first = inject.calls["slow"]
    attend()
    assert inject.calls["slow"] == first and len(choices()) == 1, "remembered, and tiled taken"
    attend(size=20)
    attend(requires_grad=False)
    assert inject.calls["slow"] > first and len(choices()) == 3


@pytest.mark.parametrize(
    ("attend_so", "fault"),
    [
        (wrong, "relative error "),
        (wrong_gradient, "relative error "),
        (not_a_number, "relative error nan"),
        (broken, "RuntimeError: no kernel image is available"),
    ],
)
def test_auto_leaves_out_what_is_wrong(inject, caplog, attend_so, fault):
    inject("new", attend_so)
    with caplog.at_level(logging.WARNING, "stylenat"):
        out = attend()
    (warning,) = caplog.messages
    assert warning.startswith("attention backend new left out for cpu float32") and fault in warning
    assert "\n" not in warning and f"new left out: {fault}" in str(choices()[0])
    assert out.isfinite().all() and choices()[0].backend == "tiled"


def test_a_wrong_gradient_is_no_fault_in_inference(inject):
    inject("new", wrong_gradient)
    attend(requires_grad=False)
    assert not choices()[0].left_out


def test_a_preferred_backend_is_taken_unmeasured_where_it_is_right(inject):
    """Times vary, and a run that goes on has to compute what it would have computed."""
    inject("slow", slow, preferred=True)
    attend()
    (choice,) = choices()
    assert choice.backend == "slow" and not choice.milliseconds
    assert str(choice).endswith("training: slow (preferred where it is right)")


def test_a_preferred_backend_is_left_out_where_it_is_wrong(inject):
    inject("new", wrong_gradient, preferred=True)
    attend()
    (choice,) = choices()
    assert choice.backend == "tiled"
    assert "new left out: relative error" in str(choice)


def test_on_a_cpu_candidates_are_checked_at_small_dilations(inject):
    """A window of 7 tokens, 64 apart, would be checked on 456 × 456 of them."""
    seen = []

    def watch(q, k, v, partitions, bias, scale):
        seen.append((q.shape[1], [part.dilation for part in partitions]))
        return tiled.attend(q, k, v, partitions, bias, scale)

    inject("watched", watch, preferred=True)
    parts = parse_partitions("1x3@1,1x3@21")
    q, k, v, bias = make_inputs(1, 64, 64, parts, dtype=torch.float32)
    neighborhood_attention(q, k, v, parts, bias)
    assert seen == [(14, [1, 2]), (64, [1, 21])]


def test_deterministic_mode_takes_deterministic_backends_only(inject):
    inject("hasty", tiled.attend, deterministic=lambda bias: False)
    torch.use_deterministic_algorithms(True)
    try:
        attend()
        assert "hasty" not in inject.calls
    finally:
        torch.use_deterministic_algorithms(False)
    attend()
    assert inject.calls["hasty"]


def test_auto_leaves_the_random_state_alone(inject):
    inject("slow", slow)
    state = torch.get_rng_state()
    inputs = make_inputs(1, 16, 16, PARTITIONS)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    neighborhood_attention(*make_inputs(1, 16, 16, PARTITIONS)[:3], PARTITIONS, inputs[3])
    assert inject.calls["slow"] and torch.equal(torch.get_rng_state(), after)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("requires_grad", [False, True])
def test_auto_on_a_gpu_chooses_something_right(requires_grad):
    attend(requires_grad, size=64, device="cuda", head_dim=32)
    assert choices()
