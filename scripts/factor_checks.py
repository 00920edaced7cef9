"""Measure how well factors are read off avatars, and write results/factors.json and docs/data.md.

`python scripts/factor_checks.py`: 1,000 held-out images at 32 and 64 pixels, as they are and made worse
(a few minutes on a CPU).
"""

import dataclasses
import json
from typing import Any

import data_page
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from stylenat.benchmark.results import Stamp
from stylenat.data.avatars import AVATARS
from stylenat.data.dataset import open_dataset
from stylenat.evaluation.coverage import reading_accuracy
from stylenat.paths import workspace, write_atomically

IMAGES = 1000
NOISE = 12  # standard deviation, of 255


def blurred(images: Tensor) -> Tensor:
    """Halfway between the images and their 3 × 3 means; uint8 `(N, 3, R, R)` both."""
    smooth = avg_pool2d(pad(images.float(), (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return ((images + smooth) / 2).round().to(torch.uint8)


def noisy(images: Tensor) -> Tensor:
    """The images with Gaussian noise; uint8 `(N, 3, R, R)` both."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + NOISE * noise).clamp(0, 255).round().to(torch.uint8)


def measure(count: int = IMAGES) -> dict[str, Any]:
    """Everything that docs/data.md shows, with the commit and the machine it was measured on."""
    rows = []
    for resolution in (32, 64):
        dataset = open_dataset(AVATARS, resolution, "heldout")
        images = dataset.stack(range(count))
        sets = {
            "as drawn": images,
            f"noise ± {NOISE} of 255": noisy(images),
            "half blurred": blurred(images),
            "half blurred, with noise": noisy(blurred(images)),
        }
        for name, changed in sets.items():
            accuracy = reading_accuracy(changed, dataset)
            rows.append({"resolution": resolution, "images": name, "accuracy": accuracy})
    return {"stamp": dataclasses.asdict(Stamp.here()), "count": count, "rows": rows}


def main() -> None:
    """The command."""
    write_atomically(workspace("results", "factors.json"), json.dumps(measure(), indent=1) + "\n")
    data_page.write_page()


if __name__ == "__main__":
    main()
