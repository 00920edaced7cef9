"""What the arms of an ablation cost, measured in one run."""

import torch

from stylenat.benchmark import costs
from stylenat.benchmark.costs import measure_costs, saved_bytes
from stylenat.models.build import build_generator
from stylenat.presets import get_config

TINY = {"widths": (8, 8, 8, 8), "discriminator_widths": (8, 8, 8), "latent_dim": 8, "batch_size": 4}


def test_arms_are_measured_in_turns(monkeypatch):
    order = []
    monkeypatch.setattr(costs, "ROUNDS", 2)
    original = costs._time_step
    monkeypatch.setattr(
        costs, "_time_step", lambda trainer: order.append(trainer.config.variant) or original(trainer)
    )
    near = get_config("smoke", **TINY, partitions="2x3@1/2x3@1/2x3@1", variant="near")
    full = get_config("smoke", **TINY, partitions="2xfull/2xfull/2xfull", variant="full")
    table = measure_costs({"near": near, "full": full}).set_index("arm")
    assert order == ["near", "full"] * 3
    assert table.loc["near", "MMAC dense"] == table.loc["full", "MMAC dense"]
    # Two products of 1,024² keys a head of four channels at the finest level alone, in two blocks.
    assert table.loc["full", "MMAC attention"] > 2 * 2 * 2 * 1024**2 * 4 / 1e6
    assert table.loc["full", "MMAC attention"] > 10 * table.loc["near", "MMAC attention"]
    assert table.loc["full", "activations MB"] > table.loc["near", "activations MB"]
    assert (table[["step s", "forward s"]] > 0).all(axis=None) and len(set(table["device"])) == 1


def test_saved_bytes_are_the_activations_without_the_weights():
    class Squares(torch.nn.Module):
        latent_dim, device, dtype = 8, torch.device("cpu"), torch.float32

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8))

        def forward(self, z):
            return (z * self.weight) ** 2  # keeps z and the product, not the weight

    assert saved_bytes(Squares(), 16) == 2 * 16 * 8 * 4
    generator = build_generator("smoke", **TINY)
    assert 1.5 < saved_bytes(generator, 4) / saved_bytes(generator, 2) < 2.5
