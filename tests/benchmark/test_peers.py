"""Comparisons with others' code: timed in turn, at the shapes of the presets; random shapes for exactness."""

from importlib.util import find_spec

import pytest
import torch

from stylenat.attention import dispatch
from stylenat.attention.partitions import parse_partitions
from stylenat.benchmark import exactness, peers
from stylenat.benchmark.cases import COMPARISONS

needs_natten_mps = pytest.mark.skipif(not find_spec("natten_mps"), reason="pip install 'stylenat[test]'")


def test_ways_are_timed_in_turn_and_compared_round_by_round():
    calls = []
    seconds = {"ours": iter([4.0, 1.0, 2.0, 4.0]), "theirs": iter([4.0, 3.0, 2.0, 20.0])}

    def timer(name):
        def timed():
            calls.append(name)
            return next(seconds[name])

        return timed

    found = peers.compare("work", "forward", {name: timer(name) for name in seconds}, rounds=3)
    assert calls == ["ours", "theirs"] * 4
    assert found.ways == [
        peers.Way("ours", 2.0, 1.0, 1.0, 1.0, 3),
        peers.Way("theirs", 3.0, 3.0, 1.0, 5.0, 3),
    ]


def test_what_is_quick_is_called_several_times_a_round():
    seconds = iter([9.0, 0.125, 0.25, 0.25])
    assert peers._mean(lambda: next(seconds)) == 9.0
    assert peers._mean(lambda: next(seconds)) == 0.1875


def test_what_is_slow_is_timed_once():
    calls = []

    def slow():
        calls.append(1)
        return 30.0

    found = peers.compare("work", "forward", {"ours": lambda: 2.0, "theirs": slow}, rounds=3)
    assert len(calls) == 1
    assert found.ways[1] == peers.Way("theirs", 30.0, 15.0, 15.0, 15.0, 1)


def test_levels_are_those_of_the_presets():
    assert peers.attention_levels("noto-32") == [
        (8, 64, parse_partitions("2x3@1,2x3@2")),
        (16, 32, parse_partitions("1x3@1,1x3@4")),
        (32, 16, parse_partitions("1x3@1,1x3@8")),
    ]
    assert [(side, width) for side, width, _ in peers.attention_levels("ffhq-1024")][-2:] == [
        (512, 64),
        (1024, 32),
    ]
    assert set(peers.COMPARISONS) == set(COMPARISONS)


def test_flex_is_left_out_where_it_has_no_gradient_or_takes_much_memory():
    partitions = parse_partitions("1x3@1,1x3@2")
    assert "flex" in peers._attentions(1, 32, partitions, gradients=False)
    assert "flex" not in peers._attentions(1, 32, partitions, gradients=True)
    assert "flex" not in peers._attentions(1, 256, partitions, gradients=False)


@needs_natten_mps
def test_attention_is_compared_in_both_directions(monkeypatch):
    monkeypatch.setattr(peers, "_ROUNDS", 2)
    monkeypatch.setattr(peers, "_LEAST", 0.0001)
    forward, both = peers.attention_comparisons("noto-32", 1, least=32)
    assert forward.title == both.title == "1 × 32 × 32 × 16, 1x3@1,1x3@8"
    assert (forward.direction, both.direction) == ("forward", "forward + backward")
    names = [way.name for way in forward.ways]
    assert names[-3:] == ["tiled", "flex", "natten-mps"]
    assert [way.name for way in both.ways] == [name for name in names if name != "flex"]
    assert all(way.seconds > 0 for way in both.ways)


@needs_natten_mps
def test_generators_are_compared_and_the_backend_is_gone_afterwards(monkeypatch):
    monkeypatch.setattr(peers, "_ROUNDS", 2)
    monkeypatch.setattr(peers, "_LEAST", 0.0001)
    sampling, training = peers.generator_comparisons("smoke", "smoke")
    names = [way.name for way in sampling.ways]
    assert names[:3] == ["StyleNAT", "its matrix products", "StyleNAT by natten-mps"]
    assert [way.name for way in training.ways] == ["StyleNAT", "StyleSwin"]
    assert "natten-mps" not in dispatch.BACKENDS


def test_random_cases_are_of_every_kind_and_the_same_every_time():
    cases = list(exactness.random_cases())
    assert cases == list(exactness.random_cases()) and len(cases) == 200
    assert all(case.height != case.width for case in cases)
    undivided = [case for case in cases if any(case.height % part.dilation for part in case.partitions)]
    uneven = [case for case in cases if len({part.heads for part in case.partitions}) > 1]
    assert len(undivided) > 60 and len(uneven) > 60
    for layout in ("packed", "transposed", "expanded", "plain"):
        own = [case for case in cases if case.layout == layout]
        assert len(own) > 30
        q, _, _ = exactness._LAYOUTS[layout](own[0].shape)
        assert q.shape == own[0].shape and q.is_contiguous() == (layout == "plain")


def test_the_error_of_a_wrong_backend_is_seen(monkeypatch):
    def wrong(q, k, v, partitions, bias, scale):
        """Right but for one number of k's gradient."""
        factor = torch.ones_like(k)
        factor[(0,) * k.ndim] = 1.5
        k = k.detach() + factor * (k - k.detach())
        return dispatch.BACKENDS["tiled"].attend(q, k, v, partitions, bias, scale)

    monkeypatch.setitem(dispatch.BACKENDS, "wrong", dispatch.Backend(wrong))
    assert exactness.worst_error("tiled", 4) < 1e-5
    assert exactness.worst_error("wrong", 4) > 1e-4
