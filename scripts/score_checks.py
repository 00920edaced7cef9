"""What the scores see, and how they agree with clean-fid: measures, and writes docs/scores.md.

The numbers are kept in results/scores.json. Needs the extras offline-eval and fid; three minutes on two
cores, no weights to download.
"""

import dataclasses
import itertools
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import score_page
import torch
from cleanfid import fid
from cleanfid.resize import build_resizer
from PIL import Image, ImageFilter

from stylenat.benchmark.results import Stamp
from stylenat.data.dataset import ImageDataset, open_dataset
from stylenat.evaluation.distances import frechet_distance
from stylenat.evaluation.evaluate import evaluate
from stylenat.evaluation.reference import Statistics
from stylenat.features.networks import NETWORKS, FeatureNetwork
from stylenat.features.resize import resize
from stylenat.paths import to_json, workspace, write_atomically

MODES = {"legacy_pytorch": "bilinear", "clean": "bicubic"}  # clean-fid's, ours
RESOLUTIONS = (32, 64, 256, 1024)
COUNT = 4096  # images against clean-fid: more than there are features
VERSIONS = ("torch", "clean-fid", "scipy", "pillow")
Found = TypeVar("Found")


# --- Sets of images


def fresh_images(dataset: ImageDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Real images that the train reference does not hold, as many as it does, and those it holds."""
    train = dataset.with_split("train")
    order = np.random.default_rng(0).permutation(len(train))
    half = len(train) // 2
    return train.stack(order[half : 2 * half]), train.stack(order[:half])


def drawn_from_a_gaussian(images: torch.Tensor, count: int) -> torch.Tensor:
    """Images of a Gaussian fitted to the pixels: right mean and covariance, nothing else."""
    flat = images.flatten(1).double()  # (N, 3 · R · R)
    _, scale, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    draws = torch.randn(count, len(scale), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = flat.mean(0) + draws * scale / len(flat) ** 0.5 @ axes
    return made.round().clamp(0, 255).to(torch.uint8).view(count, *images.shape[1:])


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """The images after a Gaussian blur of `sigma` pixels."""
    out = []
    for image in images:
        blur = Image.fromarray(image.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(sigma))
        out.append(torch.from_numpy(np.array(blur)).permute(2, 0, 1))
    return torch.stack(out)


def noisy(images: torch.Tensor, deviation: float) -> torch.Tensor:
    """The images with Gaussian noise of that standard deviation, of 255."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * deviation
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def mixed(images: torch.Tensor, fakes: torch.Tensor, percent: int) -> torch.Tensor:
    """`percent` of the images replaced by fakes, spread evenly."""
    steps = torch.arange(len(images) + 1) * percent // 100
    return torch.where((steps.diff() > 0).view(-1, 1, 1, 1), fakes, images)


# --- What is measured


def scores(images: torch.Tensor, reference: Any, *more: Any, **options: Any) -> dict[str, dict[str, float]]:
    """`evaluate`, each score as a dict by its name: the one place that knows how scores are kept."""
    return evaluate(images, reference, *more, **options).to_dict()["values"]


def response() -> dict[str, Any]:
    """Scores of sets whose order is known: doses of fakes, then degradations; and the limits of scores."""
    dataset = open_dataset("noto-faces", 64)
    real, reference = fresh_images(dataset)
    fakes = drawn_from_a_gaussian(dataset.with_split("all").stack(), len(real))
    doses = {f"{percent} % fakes": mixed(real, fakes, percent) for percent in (0, 10, 25, 50, 75, 100)}
    degraded = {"real, unchanged": real}
    degraded |= {f"blur {sigma} px": blurred(real, sigma) for sigma in (0.5, 1, 2)}
    degraded |= {f"noise ± {deviation} of 255": noisy(real, deviation) for deviation in (4, 16, 48)}
    degraded["80 images, repeated"] = real[torch.arange(len(real)) % 80]
    degraded["a copy of the train reference"] = reference

    found: dict[str, Any] = {"doses": {}, "degraded": {}}
    for kind, sets in (("doses", doses), ("degraded", degraded)):
        for name, images in sets.items():
            values = scores(images, dataset)
            found[kind][name] = _parts(values, ("value", "error"))
            found["limits"] = _parts(values, ("real_vs_real", "noise"))
    return found


def _parts(values: dict[str, dict[str, float]], parts: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Some parts of the scores that the page shows."""
    return {key: {part: values[key][part] for part in parts} for key in score_page.TITLES}


def clock(call: Callable[[], Found], rounds: int = 1) -> tuple[Found, float]:
    """What `call` returns, and its seconds: the least of some rounds."""
    found, least = _timed(call)
    for _ in range(rounds - 1):
        least = min(least, _timed(call)[1])
    return found, least


def _timed(call: Callable[[], Found]) -> tuple[Found, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def resizing() -> list[dict[str, Any]]:
    """Our batched resize against clean-fid's image by image: largest difference, milliseconds an image."""
    rows = []
    for resolution, mode in itertools.product(RESOLUTIONS, MODES):
        draw = torch.Generator().manual_seed(resolution)
        images = torch.randint(256, (16, 3, resolution, resolution), dtype=torch.uint8, generator=draw)
        arrays = [image.permute(1, 2, 0).numpy() for image in images]
        theirs = build_resizer(mode)
        expected, slow = clock(partial(_each, theirs, arrays), 5)
        resized, fast = clock(partial(resize, images, 299, MODES[mode]), 5)
        difference = np.abs(resized.permute(0, 2, 3, 1).numpy() - np.stack(expected)).max()
        rows.append(
            {
                "resolution": resolution,
                "mode": mode,
                "largest_difference": float(difference),
                "clean_fid_ms": 1e3 * slow / len(images),
                "here_ms": 1e3 * fast / len(images),
            }
        )
    return rows


def _each(call: Callable, items: list) -> list:
    return [call(item) for item in items]


def small_network() -> tuple[torch.nn.Module, FeatureNetwork]:
    """A module of 2048 features, and the same as a network of ours with clean-fid's resize."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 37, stride=37), torch.nn.ReLU(), torch.nn.Flatten())
    network = dataclasses.replace(
        NETWORKS["inception-clean"],
        file=None,
        build=module.eval,
        extract=lambda own, images: own(resize(images, 299, "bicubic")),
    )
    return module, network


def clean_fid_score(module: torch.nn.Module, made: torch.Tensor, reference: Statistics) -> float:
    """`compute_fid(gen=…)` of images against reference statistics, in the mode clean."""
    batches = iter(made.split(64))
    statistics = (reference.mean.numpy(), reference.covariance.numpy())
    known = mock.patch.object(fid, "get_reference_statistics", lambda *_, **__: statistics)
    with known, torch.no_grad():
        return fid.compute_fid(
            gen=lambda z: next(batches),
            num_gen=len(made),
            z_dim=1,
            batch_size=64,
            mode="clean",
            dataset_name="portraits",
            dataset_split="custom",
            custom_feat_extractor=module,
            use_dataparallel=False,
            device=torch.device("cpu"),
            verbose=False,
        )


def against_clean_fid() -> dict[str, dict[str, float]]:
    """`compute_fid(gen=…)` and `evaluate` on the same images and network: scores and seconds."""
    module, network = small_network()
    portraits = open_dataset("noto-faces", 64).with_split("all").stack()
    chosen = torch.randint(len(portraits), (2, COUNT), generator=torch.Generator().manual_seed(0))
    real = noisy(portraits[chosen[0]], 8)
    made = noisy(portraits[chosen[1]], 12)
    reference = as_statistics(network.features(real.split(16)))

    score, seconds = clock(lambda: clean_fid_score(module, made, reference))
    networks = NETWORKS | {network.key: network}
    values, interval_seconds = clock(lambda: scores(made, reference, "fid-clean", networks=networks))
    features, features_seconds = clock(lambda: network.features(made.split(16)))
    own = as_statistics(features)
    moments = [part.numpy() for part in (own.mean, own.covariance, reference.mean, reference.covariance)]
    by_sqrtm, slow_distance = clock(lambda: fid.frechet_distance(*moments))
    by_eigenvalues, fast_distance = clock(lambda: frechet_distance(own, reference))
    return {
        "clean_fid": {
            "score": float(score),
            "distance": float(by_sqrtm),
            "features_seconds": seconds - slow_distance,
            "distance_seconds": slow_distance,
            "seconds": seconds,
        },
        "here": {
            "score": values["fid_clean"]["value"],
            "distance": float(by_eigenvalues),
            "features_seconds": features_seconds,
            "distance_seconds": fast_distance,
            "seconds": features_seconds + fast_distance,
            "interval_seconds": interval_seconds,
        },
    }


def as_statistics(features: torch.Tensor) -> Statistics:
    """Features `(N, D)` → their `Statistics`."""
    rows = features.double()
    return Statistics("portraits_clean_custom_64", "", rows.mean(0), rows.T.cov())


def measure() -> dict[str, Any]:
    """Everything that docs/scores.md shows, with the commit and the machine it was measured on."""
    stamp = dataclasses.asdict(Stamp.here())
    versions = {name: version(name) for name in VERSIONS}
    found = {"stamp": stamp, "versions": versions, **response()}
    return found | {"resize": resizing(), "clean_fid": against_clean_fid()}


def main() -> None:
    """The command."""
    warnings.filterwarnings("ignore", "The `disp` argument", DeprecationWarning)
    text = to_json(measure(), indent=1, ensure_ascii=False) + "\n"
    write_atomically(workspace("results", "scores.json"), text)
    score_page.write_page()


if __name__ == "__main__":
    main()
