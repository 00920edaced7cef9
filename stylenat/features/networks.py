"""Feature networks: uint8 images in, float32 features out, and a protocol that says how they were made."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn import functional as F

from stylenat.errors import UserError
from stylenat.features.resize import _full_precision, resize
from stylenat.features.weights import (
    DINOV2,
    INCEPTION_CLEAN,
    INCEPTION_LEGACY,
    LITE0_SHA256,
    LITE0_WHEELS,
    WeightFile,
    inception_legacy,
    lite0,
    read_weights,
    torchscript,
)
from stylenat.images import normalize

LITE0_RESOLUTION = 128  # scores at other input sizes are not comparable
FEATURE_BATCH = 16  # fixed, so that no rounding depends on the caller's batches; the fastest on a CPU
PRECISION = "float32 features, float64 distances"


@dataclass(frozen=True)
class FeatureNetwork:
    """A pretrained network the way a metric uses it.

    Args:
        key: its name in `NETWORKS` and in results.
        title: its name in tables.
        description: what the features are, for the protocol.
        dims: D, features an image.
        resizing: how a uint8 image becomes the network's input, for the protocol.
        build: file object of the weights → module.
        extract: (module, uint8 `(B, 3, R, R)`) → `(B, D)` or `(B, D, 1, 1)`.
        packages: those whose versions the features depend on.
        file: the weights' facts; None where they come with a package.
        path, sha256, download: what the caller states of the weights, see `weights.read_weights`.
    """

    key: str
    title: str
    description: str
    dims: int
    resizing: str
    build: Callable
    extract: Callable
    packages: tuple = ("torch",)
    file: WeightFile | None = None
    path: Path | None = None
    sha256: str | None = None
    download: bool = False

    def with_weights(self, path=None, *, sha256=None, download=False):
        """This network with weights from `path`, of another hash, or downloaded where they are missing."""
        if self.file is None:
            raise UserError(f"{self.key} brings its own weights with {self.packages[-1]}: give none.")
        return replace(self, path=path, sha256=sha256, download=download)

    def load(self):
        """The module in eval mode, shared by all who ask; called before any long work it fails early.

        Raises: UserError for missing packages and for weights that are missing, altered or of another form.
        """
        return _load(self)

    def stream(self, batches, device="cpu"):
        """uint8 batches `(B, 3, R, R)` → float32 `(b, D)` on the CPU, one after the other, none kept.

        Images pass through in batches of `FEATURE_BATCH` whatever the batches they come in, in float32
        without TF32 or autocast.
        """
        device = torch.device(device)
        module = self.load().to(device)
        for images in _regroup(batches, FEATURE_BATCH):
            yield self._features(module, images.to(device))

    def features(self, batches, device="cpu"):
        """uint8 batches `(B, 3, R, R)` → float32 `(N, D)` on the CPU."""
        return torch.cat([torch.empty(0, self.dims), *self.stream(batches, device)])

    def protocol(self):
        """What the features depend on, besides the images and the device, as a plain dict."""
        standard = self.file.sha256 if self.file else self.sha256
        stated = (self.sha256 or standard or "").lower()
        other = "" if stated == standard or not standard else "; NOT its standard weights"
        return {
            "network": self.description + other,
            "weights_sha256": stated,
            "resize": self.resizing,
            "precision": PRECISION,
            "versions": {name: version(name) for name in self.packages},
        }

    @torch.no_grad()
    def _features(self, module, images):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise UserError(
                f"{self.key} was given {images.dtype} {tuple(images.shape)}; it takes torch.uint8 "
                "(B, 3, R, R)."
            )
        with _full_precision(images.device):
            features = self.extract(module, images).flatten(1)
        if features.shape[1] != self.dims:
            raise UserError(f"{self.key}'s weights give {features.shape[1]} features, expected {self.dims}.")
        return features.float().cpu()


@lru_cache(maxsize=2)
def _load(network):
    if network.file is None:
        return network.build()
    content = read_weights(network.file, network.path, sha256=network.sha256, download=network.download)
    try:
        return network.build(io.BytesIO(content)).eval()
    except UserError:
        raise
    except Exception as error:  # PyTorch's readers raise a dozen kinds
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"the weights given to {network.key}, sha256 {hashlib.sha256(content).hexdigest()}, have not the "
            f"form of {network.file.name} ({reason}); {network.file.source}."
        ) from error


def _regroup(batches, size):
    """The same images in batches of `size`, the last one smaller."""
    held = None
    for images in batches:
        held = images if held is None or not len(held) else torch.cat([held, images])
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
    if held is not None and len(held):
        yield held


def _channels_last(images):
    return images.contiguous(memory_format=torch.channels_last)


def _lite0_extract(network, images):
    size = (LITE0_RESOLUTION, LITE0_RESOLUTION)
    resized = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
    return network.extract_features(_channels_last((resized - 127) / 128)).mean((2, 3))


def _inception_legacy_extract(network, images):
    return network(_channels_last(resize(images, 299, "bilinear").div_(255)))[0]


def _inception_clean(file):
    return torchscript(file).layers  # without the resize of the whole, which imitates TensorFlow's


def _inception_clean_extract(network, images):
    return network(_channels_last(resize(images, 299, "bicubic").sub_(128).div_(128)))


def _dinov2_extract(network, images):
    return network(normalize(resize(images, 224, "bicubic")))


NETWORKS = {
    network.key: network
    for network in (
        FeatureNetwork(
            key="lite0",
            title=f"lite0@{LITE0_RESOLUTION}",
            description="EfficientNet-Lite0, 1280 pooled features",
            dims=1280,
            resizing=f"uint8 to float32, {LITE0_RESOLUTION}x{LITE0_RESOLUTION} bicubic with antialias, "
            "(x - 127) / 128",
            build=lite0,
            extract=_lite0_extract,
            packages=("torch", *LITE0_WHEELS),
            sha256=LITE0_SHA256,
        ),
        FeatureNetwork(
            key="inception-legacy",
            title="Inception legacy_pytorch",
            description="Inception-v3 of pytorch-fid, 2048 pooled features, as clean-fid's legacy_pytorch",
            dims=2048,
            resizing="uint8 to float32, 299x299 bilinear without antialias, x / 127.5 - 1",
            build=inception_legacy,
            extract=_inception_legacy_extract,
            packages=("torch", "torchvision", "clean-fid"),
            file=INCEPTION_LEGACY,
        ),
        FeatureNetwork(
            key="inception-clean",
            title="Inception clean",
            description="Inception-v3 of StyleGAN2-ADA, 2048 pooled features, as clean-fid's clean",
            dims=2048,
            resizing="uint8 to float, 299x299 bicubic with antialias (Pillow's), (x - 128) / 128",
            build=_inception_clean,
            extract=_inception_clean_extract,
            file=INCEPTION_CLEAN,
        ),
        FeatureNetwork(
            key="dinov2",
            title="DINOv2 ViT-L/14",
            description="DINOv2 ViT-L/14, 1024 features of the class token",
            dims=1024,
            resizing="uint8 to float, 224x224 bicubic with antialias (Pillow's), ImageNet-normalized",
            build=torchscript,
            extract=_dinov2_extract,
            file=DINOV2,
        ),
    )
}
