"""What bfloat16 gains, and what it costs: time, images and scores next to float32's, measured in turn."""

import functools
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from stylenat.benchmark.cases import CASES, case_config, measured_package, prepare
from stylenat.benchmark.matmul import MatmulTime, Product, generator_products, timed
from stylenat.checkpoints.load import load_generator
from stylenat.data.dataset import open_dataset
from stylenat.data.sources import BUNDLED
from stylenat.device import bfloat16_instructions, keep_freed_memory
from stylenat.evaluation.evaluate import evaluate
from stylenat.images import psnr
from stylenat.models.base import Generator
from stylenat.models.precision import cast
from stylenat.paths import workspace
from stylenat.sampling.sample import sample_images

SAMPLE = "sample-256"
STEP = "step-noto-32"
IMAGES = 256  # compared, of seeds 0 to 255
PSIS = (1.0, 0.7)
SCORE_SEEDS = 5
PRODUCTS = "bfloat16 products"
_ROUNDS = 7


class Timed(NamedTuple):
    """A call next to its products in float32.

    Attributes:
        seconds: median.
        ratio: median of its time by that of the products in float32 next to it.
        low: least.
        high: greatest.
    """

    seconds: float
    ratio: float
    low: float
    high: float


class ImageError(NamedTuple):
    """How far images are from those in float32, of levels 0 to 255.

    Attributes:
        psi: truncation.
        images: how many.
        psnr: of all pixels together, in dB.
        worst: of the worst image, in dB.
        mean: absolute difference in levels, mean.
        most: the same, largest.
    """

    psi: float
    images: int
    psnr: float
    worst: float
    mean: float
    most: int


def low_precision(rounds: int = _ROUNDS, images: int = IMAGES, seeds: int = SCORE_SEEDS) -> dict[str, Any]:
    """Time, images and scores of bfloat16 on this CPU; of the bundled model, where weights matter.

    Args:
        rounds: timed calls of each kind, in turn.
        images: compared with float32's.
        seeds: of samples, each scored in both types.

    Returns:
        `instructions`; `times` by case and kind, see `Timed`; `errors`, an `ImageError` for each psi;
        `scores` by column and type, a value a seed.
    """
    keep_freed_memory()
    trained = load_generator(workspace("results", "runs", "noto-32-long", "model"))
    return {
        "instructions": bfloat16_instructions(),
        "times": {SAMPLE: _sampling_times(rounds), STEP: _step_times(rounds)},
        "errors": [image_error(trained, psi, images) for psi in PSIS],
        "scores": _scores(trained, seeds),
    }


def image_error(generator: Generator, psi: float, count: int) -> ImageError:
    """How far bfloat16's images of seeds 0 to `count - 1` are from float32's."""
    exact = sample_images(generator, range(count), truncation_psi=psi)
    rounded = sample_images(cast(generator, "bfloat16"), range(count), truncation_psi=psi)
    difference = (exact.int() - rounded.int()).abs()
    together = psnr(exact.flatten()[None], rounded.flatten()[None]).item()
    worst = psnr(exact, rounded).min().item()
    return ImageError(psi, count, together, worst, difference.float().mean().item(), int(difference.max()))


def _sampling_times(rounds: int) -> dict[str, Timed]:
    case = CASES[SAMPLE]
    torch.manual_seed(0)
    generator = measured_package().build_generator(case_config(case, measured_package())).eval()
    assert isinstance(generator, Generator)
    rounded = cast(generator, "bfloat16")
    z = torch.randn(case.batch, generator.latent_dim)
    calls = {"float32": lambda: generator(z), "bfloat16": lambda: rounded(z)}
    products = generator_products(generator, case.batch)
    with torch.inference_mode():
        return _in_turn(calls, products, rounds)


def _step_times(rounds: int) -> dict[str, Timed]:
    case = CASES[STEP]
    package = measured_package()
    prepared = prepare(case)
    config = case_config(case, package, dtype="bfloat16")
    trainer = package.trainer(config, "cpu")
    size = (config.batch_size, 3, config.resolution, config.resolution)
    images = torch.randint(0, 256, size).to(torch.uint8)
    trainer.step(images)  # one with R1
    calls = {"float32": prepared.call, "bfloat16": lambda: trainer.step(images)}
    return _in_turn(calls, prepared.products, rounds)


def _in_turn(
    calls: dict[str, Callable[[], Any]], products: Counter[Product], rounds: int
) -> dict[str, Timed]:
    """Times of some calls and of their products in bfloat16, next to the products in float32."""
    cpu = torch.device("cpu")
    exact = MatmulTime(products, cpu)
    measures: dict[str, Callable[[], float]] = {PRODUCTS: MatmulTime(products, cpu, torch.bfloat16)}
    for name, call in calls.items():
        call()
        measures[name] = functools.partial(timed, call, cpu)
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    ratios: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        unit = exact()
        for name, measure in measures.items():
            seconds[name].append(measure())
            ratios[name].append(seconds[name][-1] / unit)
    found = {}
    for name, own in ratios.items():
        found[name] = Timed(statistics.median(seconds[name]), statistics.median(own), min(own), max(own))
    return found


def _scores(generator: Generator, seeds: int) -> dict[str, dict[str, list[float]]]:
    """By column and type the bundled data's scores, a value a seed of samples."""
    dataset = open_dataset(BUNDLED, generator.resolution)
    found: dict[str, dict[str, list[float]]] = {}
    for dtype in ("float32", "bfloat16"):
        scored = cast(generator, dtype)
        for seed in range(seeds):
            for key, value in evaluate(scored, dataset, seed=seed).values.items():
                found.setdefault(key.title, {}).setdefault(dtype, []).append(value.value)
    return found
