"""Both networks against outputs of the published code, and their sizes against the published ones."""

import numpy as np
import pytest
import torch
from helpers import golden, relative_error

import stylenat
from stylenat.attention.partitions import Full, parse_partitions
from stylenat.models.discriminator import Discriminator
from stylenat.models.stylenat import StyleNAT

GENERATORS = {
    "hydra_32": ("16x7@1", "8x7@1,8x7@2", "8x7@1,8x7@4"),
    "hydra_32_mixed": ("16x7@1", "8x5@3,8x7@2", "5x3@3,5x5@1,6x7@4"),
}
DISCRIMINATORS = {"disc_32": (512, 512, 512), "disc_128_batch8": (512, 512, 512, 512, 256)}


@torch.no_grad()
@pytest.mark.parametrize("case", GENERATORS)
def test_generator_matches_the_published_one(case):
    state, outputs = golden(case)
    partitions = [(Full(16),), *map(parse_partitions, GENERATORS[case])]
    generator = StyleNAT((512,) * 4, partitions).eval()
    generator.load_state_dict(state)  # strict: names and shapes are the published ones
    z = torch.from_numpy(np.random.default_rng(7).standard_normal((2, 512)).astype(np.float32))
    assert relative_error(generator.mapping(z), outputs["w"]) < 1e-5
    error = relative_error(generator(z), outputs["image"])
    print(f"{case}: {error:.1e}")
    assert error < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("case", DISCRIMINATORS)
def test_discriminator_matches_the_published_one(case):
    state, outputs = golden(case)
    discriminator = Discriminator(DISCRIMINATORS[case]).eval()
    discriminator.load_state_dict(state)
    shape = (len(outputs["logits"]), 3, discriminator.resolution, discriminator.resolution)
    images = torch.from_numpy(np.random.default_rng(11).standard_normal(shape).astype(np.float32))
    error = relative_error(discriminator(images), outputs["logits"])
    print(f"{case}: {error:.1e}")
    assert error < 1e-5


@pytest.mark.parametrize(
    "preset, generator, discriminator",
    [
        ("ffhq-256", 48_921_000, 26_211_585),
        ("ffhq-1024", 49_452_934, 27_736_641),
        ("church-256", 48_922_352, 26_211_585),
    ],
)
def test_parameter_counts_are_the_published_ones(preset, generator, discriminator):
    with torch.device("meta"):
        networks = stylenat.build_generator(preset), stylenat.build_discriminator(preset)
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts == [generator, discriminator]
