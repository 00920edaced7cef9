"""What the scores see, and how they agree with clean-fid: measures, and writes docs/scores.md.

Needs the extras offline-eval and fid; three minutes on two cores, no weights to download.
"""

import itertools
import platform
import time
import warnings
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from unittest import mock

import numpy as np
import torch
from cleanfid import fid
from cleanfid.resize import build_resizer
from PIL import Image, ImageFilter

from stylenat.data.dataset import open_dataset
from stylenat.evaluation.distances import frechet_distance
from stylenat.evaluation.evaluate import evaluate
from stylenat.evaluation.metrics import TITLES
from stylenat.evaluation.reference import Statistics
from stylenat.features.networks import NETWORKS
from stylenat.features.resize import resize
from stylenat.paths import workspace, write_atomically

KEYS = ("fd_lite0_128_train", "fd_lite0_128_heldout", "kid_lite0_128_train", "kid_lite0_128_heldout")
MODES = {"legacy_pytorch": "bilinear", "clean": "bicubic"}  # clean-fid's, ours
COUNT = 4096  # images against clean-fid: more than there are features


def fresh_images(dataset):
    """Real images that the train reference does not hold, as many as it does, and those it holds."""
    train = dataset.with_split("train")
    order = np.random.default_rng(0).permutation(len(train))
    half = len(train) // 2
    return train.stack(order[half : 2 * half]), train.stack(order[:half])


def drawn_from_a_gaussian(images, count):
    """Images of a Gaussian fitted to the pixels: right mean and covariance, nothing else."""
    flat = images.flatten(1).double()
    _, scale, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    draws = torch.randn(count, len(scale), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = flat.mean(0) + draws * scale / len(flat) ** 0.5 @ axes
    return made.round().clamp(0, 255).to(torch.uint8).view(count, *images.shape[1:])


def blurred(images, sigma):
    blurs = [
        Image.fromarray(p.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(sigma)) for p in images
    ]
    return torch.stack([torch.from_numpy(np.array(blur)).permute(2, 0, 1) for blur in blurs])


def noisy(images, deviation):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * deviation
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def mixed(images, fakes, percent):
    """`percent` of the images replaced by fakes, spread evenly."""
    steps = torch.arange(len(images) + 1) * percent // 100
    return torch.where((steps.diff() > 0).view(-1, 1, 1, 1), fakes, images)


def response():
    """Scores of sets whose order is known: doses of fakes, then degradations."""
    dataset = open_dataset("noto-faces", 64)
    real, reference = fresh_images(dataset)
    fakes = drawn_from_a_gaussian(dataset.with_split("all").stack(), len(real))
    doses = {f"{percent} % fakes": mixed(real, fakes, percent) for percent in (0, 10, 25, 50, 75, 100)}
    sets = {
        "real, unchanged": real,
        **{f"blur {sigma} px": blurred(real, sigma) for sigma in (0.5, 1, 2)},
        **{f"noise ± {deviation} of 255": noisy(real, deviation) for deviation in (4, 16, 48)},
        "80 images, repeated": real[torch.arange(len(real)) % 80],
        "a copy of the train reference": reference,
    }

    def table(rows):
        lines = [
            "| images | " + " | ".join(TITLES[key][0] for key in KEYS) + " |",
            "| :-- | --: | --: | --: | --: |",
        ]
        for name, images in rows.items():
            values = evaluate(images, dataset).values
            lines.append(
                f"| {name} | "
                + " | ".join(f"{values[key]['value']:.4g} ± {values[key]['error']:.2g}" for key in KEYS)
                + " |"
            )
        return "\n".join(lines), values

    first, values = table(doses)
    limits = "; ".join(
        f"{TITLES[key][0]} {values[key]['floor']:.4g} – {values[key]['ceiling']:.4g}" for key in KEYS
    )
    return f"{first}\n\nFloor (real against real) – ceiling (noise): {limits}.\n\n{table(sets)[0]}"


def clock(call, rounds=1):
    """What `call` returns, and its seconds: the least of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = call()
        times.append(time.perf_counter() - start)
    return found, min(times)


def resizing():
    """Our batched resize against clean-fid's image by image: largest difference, times."""
    lines = [
        "| from → 299 | mode | largest difference, of 255 | clean-fid, ms | here, ms | times faster |",
        "| --: | :-- | --: | --: | --: | --: |",
    ]
    for resolution, mode in itertools.product((32, 64, 256, 1024), MODES):
        draw = torch.Generator().manual_seed(resolution)
        images = torch.randint(256, (16, 3, resolution, resolution), dtype=torch.uint8, generator=draw)
        arrays = [image.permute(1, 2, 0).numpy() for image in images]
        theirs = build_resizer(mode)
        expected, slow = clock(partial(lambda resizer, these: [resizer(a) for a in these], theirs, arrays), 5)
        resized, fast = clock(partial(resize, images, 299, MODES[mode]), 5)
        worst = np.abs(resized.permute(0, 2, 3, 1).numpy() - np.stack(expected)).max()
        lines.append(
            f"| {resolution} | {mode} | {worst:.1e} | {slow / 16e-3:.2f} | {fast / 16e-3:.2f} | "
            f"{slow / fast:.1f} |"
        )
    return "\n".join(lines)


def against_clean_fid():
    """`compute_fid(gen=…)` and `evaluate` on the same images and network, in the mode clean."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 37, stride=37), torch.nn.ReLU(), torch.nn.Flatten())
    network = replace(
        NETWORKS["inception-clean"],
        file=None,
        build=module.eval,
        extract=lambda own, images: own(resize(images, 299, "bicubic")),
    )
    portraits = open_dataset("noto-faces", 64).with_split("all").stack()
    chosen = torch.randint(len(portraits), (2, COUNT), generator=torch.Generator().manual_seed(0))
    real, made = (
        noisy(portraits[these], deviation) for these, deviation in zip(chosen, (8, 12), strict=True)
    )
    reference = as_statistics(network.features(real.split(16)))
    mean, covariance = reference.mean.numpy(), reference.covariance.numpy()
    batches = iter(made.split(64))

    def theirs():
        known = mock.patch.object(fid, "get_reference_statistics", lambda *_, **__: (mean, covariance))
        with known, torch.no_grad():
            return fid.compute_fid(
                gen=lambda z: next(batches),
                num_gen=COUNT,
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

    value, slow = clock(theirs)
    score, all_here = clock(
        lambda: evaluate(made, reference, "fid-clean", networks=NETWORKS | {network.key: network})
    )
    own = score.values["fid_clean"]["value"]
    features, fast_features = clock(lambda: network.features(made.split(16)))
    one = as_statistics(features)
    by_sqrtm, slow_distance = clock(
        lambda: fid.frechet_distance(one.mean.numpy(), one.covariance.numpy(), mean, covariance)
    )
    by_eigenvalues, fast_distance = clock(lambda: frechet_distance(one, reference))
    fast = fast_features + fast_distance
    return f"""| | `compute_fid(gen=…)` | here | |
| :-- | --: | --: | :-- |
| score | {value:.6f} | {own:.6f} | relative difference {abs(own / value - 1):.0e} |
| of the same moments | {by_sqrtm:.6f} | {by_eigenvalues:.6f} | {abs(by_eigenvalues / by_sqrtm - 1):.0e} |
| images to features | {slow - slow_distance:.1f} s | {fast_features:.1f} s | |
| one Fréchet distance | {slow_distance:.1f} s | {fast_distance:.1f} s | |
| both | {slow:.1f} s | {fast:.1f} s | {slow / fast:.1f} times faster |
| with the 95 % interval, 17 distances | | {all_here:.1f} s | |"""


def as_statistics(features):
    """Features → their `Statistics`."""
    rows = features.double()
    return Statistics("portraits_clean_custom_64", "", rows.mean(0), rows.T.cov())


def main():
    warnings.filterwarnings("ignore", "The `disp` argument", DeprecationWarning)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "clean-fid", "scipy", "pillow"))
    made_by = f"{platform.machine()}, {torch.get_num_threads()} threads, {versions}"
    text = f"""# What the scores see

Written by `python scripts/score_checks.py`: {made_by}.

## Sets of a known order

The bundled portraits at 64 × 64: real images that the train reference does not hold, made worse step by
step. *Fakes* are draws from a Gaussian fitted to the pixels. Not FID.

{response()}

The copy scores 0 on train: only the held-out reference shows what it is. Slight noise on flat white costs
more than dropping to 80 distinct images: low-level artifacts weigh much in these features.

## The resize of clean-fid

Uniform noise, 16 images at a time; milliseconds an image, the best of five rounds.

{resizing()}

## The score of clean-fid

{COUNT} images of 64 × 64, mode clean, one small network of 2048 features, the same reference statistics.

{against_clean_fid()}
"""
    write_atomically(workspace("docs", "scores.md"), text)
    print(text)


if __name__ == "__main__":
    main()
