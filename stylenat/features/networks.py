"""Feature networks: uint8 images in, float32 features out, and a protocol that says how they were made."""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylenat.errors import UserError
from stylenat.features.resize import full_precision, resize
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

    Attributes:
        key: its name in `NETWORKS`.
        id_suffix: what the ids of scores on its features end with, such as "lite0_128".
        title_suffix: what their titles end with, such as "-lite0@128".
        description: what the features are, for the protocol.
        note: what scores on them may be compared with.
        dims: D, features an image.
        resizing: how a uint8 image becomes the network's input, for the protocol.
        build: file of the weights → module; called with nothing where `file` is None.
        extract: (module, uint8 `(B, 3, R, R)`) → `(B, D)` or `(B, D, 1, 1)`.
        packages: those whose versions the features depend on.
        file: the weights' facts; None where they come with a package.
        path: what the caller states of the weights, see `weights.read_weights`.
        sha256: the same; or the hash of weights that come with a package.
        download: the same.
    """

    key: str
    id_suffix: str
    title_suffix: str
    description: str
    note: str
    dims: int
    resizing: str
    build: Callable[..., nn.Module]
    extract: Callable[[Any, Tensor], Tensor]
    packages: tuple[str, ...] = ("torch",)
    file: WeightFile | None = None
    path: Path | None = None
    sha256: str | None = None
    download: bool = False

    def with_weights(
        self, path: str | Path | None = None, *, sha256: str | None = None, download: bool = False
    ) -> "FeatureNetwork":
        """This network with other weights.

        Args:
            path: of their file, or its folder.
            sha256: their hash, where they are not the standard ones.
            download: fetch them where they are missing.

        Raises:
            UserError: the weights come with a package.
        """
        if self.file is None:
            raise UserError(f"{self.key} brings its own weights with {self.packages[-1]}: give none.")
        return replace(self, path=Path(path) if path else None, sha256=sha256, download=download)

    def load(self) -> nn.Module:
        """The module in eval mode, shared by all who ask; called before any long work it fails early.

        Raises:
            UserError: missing packages, or weights that are missing, altered or of another form.
        """
        return _load(self)

    def stream(self, batches: Iterable[Tensor], device: torch.device | str = "cpu") -> Iterator[Tensor]:
        """Features of images, batch by batch, none kept.

        Images pass through in batches of `FEATURE_BATCH` whatever the batches they come in, in float32
        without TF32 or autocast.

        Args:
            batches: uint8 `(B, 3, R, R)`.
            device: to compute on.

        Yields:
            float32 `(b, D)` on the CPU.

        Raises:
            UserError: other images, and as of `load`.
        """
        module = self.load().to(device)
        for images in _regroup(batches, FEATURE_BATCH):
            yield self._features(module, images.to(device))

    def features(self, batches: Iterable[Tensor], device: torch.device | str = "cpu") -> Tensor:
        """All that `stream` yields, float32 `(N, D)` on the CPU."""
        return torch.cat([torch.empty(0, self.dims), *self.stream(batches, device)])

    def protocol(self) -> dict[str, Any]:
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
    def _features(self, module: nn.Module, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise UserError(
                f"{self.key} was given {images.dtype} {tuple(images.shape)}; it takes torch.uint8 "
                "(B, 3, R, R)."
            )
        with full_precision(images.device):
            features = self.extract(module, images).flatten(1)
        if features.shape[1] != self.dims:
            raise UserError(f"{self.key}'s weights give {features.shape[1]} features, expected {self.dims}.")
        found = features.float().cpu()
        if bad := int((~found.isfinite()).any(1).sum()):
            raise UserError(
                f"{self.key} gives NaN or infinity for {bad} of {len(found)} images, on {images.device}: "
                "check its weights and the device"
            )
        return found


@lru_cache(maxsize=2)
def _load(network: FeatureNetwork) -> nn.Module:
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


def _regroup(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same images in batches of `size`, the last one smaller."""
    rest = None
    for images in batches:
        rest = images if rest is None or not len(rest) else torch.cat([rest, images])
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
    if rest is not None and len(rest):
        yield rest


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _lite0_extract(network: Any, images: Tensor) -> Tensor:
    size = (LITE0_RESOLUTION, LITE0_RESOLUTION)
    resized = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
    maps = network.extract_features(_channels_last((resized - 127) / 128))  # (B, 1280, 4, 4)
    return maps.mean((2, 3))


def _inception_legacy_extract(network: nn.Module, images: Tensor) -> Tensor:
    return network(_channels_last(resize(images, 299, "bilinear").div_(255)))[0]


def _inception_clean(file: IO[bytes]) -> nn.Module:
    whole: Any = torchscript(file)
    return whole.layers  # without the resize of the whole, which imitates TensorFlow's


def _inception_clean_extract(network: nn.Module, images: Tensor) -> Tensor:
    return network(_channels_last(resize(images, 299, "bicubic").sub_(128).div_(128)))


def _dinov2_extract(network: nn.Module, images: Tensor) -> Tensor:
    return network(normalize(resize(images, 224, "bicubic")))


NETWORKS = {
    network.key: network
    for network in (
        FeatureNetwork(
            key="lite0",
            id_suffix=f"lite0_{LITE0_RESOLUTION}",
            title_suffix=f"-lite0@{LITE0_RESOLUTION}",
            description="EfficientNet-Lite0, 1280 pooled features",
            note="NOT FID: compare with scores of this protocol only, never with published numbers",
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
            id_suffix="legacy_pytorch",
            title_suffix="",
            description="Inception-v3 of pytorch-fid, 2048 pooled features, as clean-fid's legacy_pytorch",
            note="clean-fid's mode legacy_pytorch: compare where reference and counts are the same",
            dims=2048,
            resizing="uint8 to float32, 299x299 bilinear without antialias, x / 127.5 - 1",
            build=inception_legacy,
            extract=_inception_legacy_extract,
            packages=("torch", "torchvision", "clean-fid"),
            file=INCEPTION_LEGACY,
        ),
        FeatureNetwork(
            key="inception-clean",
            id_suffix="clean",
            title_suffix=" (clean)",
            description="Inception-v3 of StyleGAN2-ADA, 2048 pooled features, as clean-fid's clean",
            note="clean-fid's mode clean: compare where reference and counts are the same",
            dims=2048,
            resizing="uint8 to float, 299x299 bicubic with antialias (Pillow's), (x - 128) / 128",
            build=_inception_clean,
            extract=_inception_clean_extract,
            file=INCEPTION_CLEAN,
        ),
        FeatureNetwork(
            key="dinov2",
            id_suffix="dinov2",
            title_suffix="-DINOv2",
            description="DINOv2 ViT-L/14, 1024 features of the class token",
            note="not FID: compare with FD-DINOv2 of the same reference and counts only",
            dims=1024,
            resizing="uint8 to float, 224x224 bicubic with antialias (Pillow's), ImageNet-normalized",
            build=torchscript,
            extract=_dinov2_extract,
            file=DINOV2,
        ),
    )
}
