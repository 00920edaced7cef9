"""Where images come from: the bundled emoji portraits, a folder or a zip of images.

What happens to a file, in this order: EXIF orientation is applied, 16-bit gray is scaled to 8 bits,
transparency is composited on white, any other mode becomes RGB (of an animation the first frame), the
center square is cut out and, if larger than asked, resized with Lanczos. Smaller images are refused:
upscaling would feign detail.

Left out are files and folders whose name starts with a dot, `__MACOSX`, Thumbs.db and desktop.ini, and the
sidecars README, LICENSE, NOTICE, COPYING (with or without a text extension) and dataset.json, which `check`
lists. Every other file has to be an image; one that isn't is named in a `UserError`, none is skipped in
silence.
"""

import hashlib
import os
import re
import zipfile
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stylenat.errors import UserError
from stylenat.progress import progress

BUNDLED = "noto-faces"
NOTO_ASSET = Path(__file__).parent.parent / "assets" / "noto_faces.npz"
NOTO_SHA256 = "15fd1c2dfb46459e9d253d9b82adcf8a0b40947f016f3fe3767f00126ca1b848"
PROGRESS_FROM = 2000  # images

_SYSTEM_FILE = re.compile(r"(^|/)(\.|__MACOSX/|Thumbs\.db$|desktop\.ini$)")
_SIDECAR = re.compile(r"(^|/)((README|LICEN[CS]E|NOTICE|COPYING)(\.(txt|md|rst|html))?|dataset\.json)$", re.I)


def pixels_sha256(images):
    """Hex sha256 of the raw bytes of a uint8 array `(…, R, R, 3)`."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def _manifest(names, digests):
    """sha256 of the lines `<file sha256>  <relative name>` in name order, the way `sha256sum` lists them."""
    lines = (f"{digest}  {name}\n" for name, digest in zip(names, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def bar(items, what, total=None):
    """`items` with a progress bar, where there are enough of them to wait for."""
    total = len(items) if total is None else total
    if total < PROGRESS_FROM:
        return items
    return progress(items, total=total, desc=what, unit="img", leave=False)


class _Bundled:
    """The 987 Noto portraits, drawn art under Apache-2.0 (`assets/NOTICE`), checked by the pinned hash."""

    source = name = BUNDLED
    ignored = ()

    def __init__(self):
        with np.load(NOTO_ASSET) as asset:
            self.pixels, self.names = asset["images"], asset["names"].tolist()  # (987, 64, 64, 3)
        if (found := pixels_sha256(self.pixels)) != NOTO_SHA256:
            raise UserError(
                f"{NOTO_ASSET} is altered: its pixels have sha256 {found}, expected {NOTO_SHA256}; reinstall "
                "the package or run scripts/make_noto_faces.py."
            )

    @cached_property
    def manifest(self):
        return _manifest(self.names, map(pixels_sha256, self.pixels))

    def header(self, index):
        return (64, 64), "RGB"

    def check_resolution(self, resolution):
        if resolution not in (32, 64):
            raise UserError(
                f"{BUNDLED} comes at 32 and 64, not at {resolution}: choose one of these, or give a folder "
                "or zip of larger images."
            )

    def image(self, index, resolution):
        """uint8 `(R, R, 3)`; 32 by a 2x2 box, rows then columns, halves rounded up each time (as Pillow)."""
        pixels = self.pixels[index]
        if resolution == 32:
            wide = pixels.astype(np.uint16)
            high = (wide[:, 0::2] + wide[:, 1::2] + 1) // 2  # (64, 32, 3)
            pixels = ((high[0::2] + high[1::2] + 1) // 2).astype(np.uint8)
        return pixels


class _Files:
    """Image files below `path`, a folder or zip: `members` are their names there, `open_member` opens one."""

    def __init__(self, source, path, members, open_member):
        self.source, self.path, self._open = str(source), path, open_member
        self.name = path.resolve().name if path.is_dir() else path.stem
        members = sorted(member for member in members if not _SYSTEM_FILE.search(member))
        self.ignored = tuple(member for member in members if _SIDECAR.search(member))
        self.members = [member for member in members if member not in self.ignored]
        if not self.members:
            raise UserError(
                f"Dataset {self.source!r} is empty: no image in {path}; put images there, or {_USE_BUNDLED}"
            )
        # Relative to the deepest common folder: a folder and a zip of it then have one manifest.
        common = os.path.commonpath([str(PurePosixPath(member).parent) for member in self.members])
        self.names = [PurePosixPath(member).relative_to(common).as_posix() for member in self.members]

    @cached_property
    def manifest(self):
        def digest(member):
            with self._open(member) as stream:
                return hashlib.sha256(stream.read()).hexdigest()

        return _manifest(self.names, map(digest, bar(self.members, "hashing")))

    def _with_image(self, index, action):
        """`action(image)`; whatever goes wrong is told with the file's name."""
        member = self.members[index]
        try:
            with self._open(member) as stream, Image.open(stream) as image:
                return action(image)
        except UserError:
            raise
        except Exception as error:  # Pillow's decoders raise a dozen kinds
            unknown = isinstance(error, UnidentifiedImageError)
            why = "no image format that Pillow knows" if unknown else f"{type(error).__name__}: {error}"
            raise UserError(
                f"{self.path / member} is no readable image ({why}); replace or remove it."
            ) from error

    def header(self, index):
        return self._with_image(index, lambda image: (image.size, image.mode))

    def check_resolution(self, resolution):
        for index in bar(range(len(self.members)), "checking sizes"):
            self._check_size(index, self.header(index)[0], resolution)

    def _check_size(self, index, size, resolution):
        if min(size) < resolution:
            raise UserError(
                f"{self.path / self.members[index]} is {size[0]}x{size[1]}, smaller than the asked "
                f"{resolution}x{resolution}: ask for a resolution of at most {min(size)}, or remove it."
            )

    def image(self, index, resolution):
        """uint8 `(R, R, 3)`, prepared as the module's docstring says."""

        def prepare(image):
            self._check_size(index, image.size, resolution)
            return np.asarray(_square(_rgb(ImageOps.exif_transpose(image), image.format), resolution))

        return self._with_image(index, prepare)


def _rgb(image, file_format):
    """Any Pillow image → RGB, transparent parts on white; 32-bit pixels raise ValueError."""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        gray = np.asarray(image).astype(np.float64) / 257  # 65535 → 255
        return Image.fromarray(gray.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel have no agreed white, save it with 8 or 16")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")


def _square(image, resolution):
    """The center square of an RGB image, resized with Lanczos unless it has `resolution` already."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == resolution else image.resize((resolution, resolution), Image.Resampling.LANCZOS)


_USE_BUNDLED = f"use {BUNDLED!r} (987 emoji portraits, built in)."
_bundled = lru_cache(maxsize=1)(_Bundled)


def _folder_members(path):
    def refuse(error):
        raise UserError(
            f"{error.filename} can't be listed ({error.strerror}); mend its permissions."
        ) from error

    for folder, _, files in os.walk(path, onerror=refuse, followlinks=True):
        yield from ((Path(folder) / file).relative_to(path).as_posix() for file in files)


def open_source(source):
    """The set of that name, or the folder or zip at that path: an object that reads its images one by one.

    It has `source` as given, `name`, `names` (relative, sorted), `manifest`, `ignored` (sidecars' names),
    `header(i)` → ((width, height), Pillow mode), `image(i, resolution)` → uint8 `(R, R, 3)` and
    `check_resolution`, which refuses a resolution that an image does not serve.

    Raises: UserError naming a path that isn't there, holds no image or is neither folder nor zip.
    """
    if str(source) == BUNDLED:
        return _bundled()
    path = Path(source).expanduser()
    if path.is_dir():
        return _Files(source, path, _folder_members(path), lambda member: (path / member).open("rb"))
    if not path.exists():
        raise UserError(
            f"Dataset {str(source)!r} not found: {path.absolute()} does not exist; give a folder or zip of "
            f"images, or {_USE_BUNDLED}"
        )
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is neither a folder nor a zip; give a folder or zip of images, or {_USE_BUNDLED}"
        )
    archive = zipfile.ZipFile(path)  # locks its file: threads may read side by side
    return _Files(
        source, path, {item.filename for item in archive.infolist() if not item.is_dir()}, archive.open
    )
