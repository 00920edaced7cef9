"""What a set of images is: the bundled emoji portraits, a folder or a zip of images.

What happens to a file, in this order: EXIF orientation is applied, 16-bit gray is scaled to 8 bits,
transparency is composited on white, any other mode becomes RGB (of an animation the first frame), the
center square is cut out and, if larger than asked, resized with Lanczos. Smaller images are refused:
upscaling would feign detail.

Left out, in upper or lower case, are files and folders whose name starts with a dot, `__MACOSX`, Thumbs.db
and desktop.ini, and what `check` lists: the sidecars README, LICENSE, NOTICE, COPYING (with or without a text
extension) and dataset.json; and, in a folder whose other images are all named seed0000.png and so on, as
`stylenat sample` writes them, its grid.png and interpolation.gif. Every other file has to be an image, of at
most 256 MB and no EPS, which is a program; one that isn't is named in a `UserError`, none is skipped in
silence.

A link is followed. One that leads back to a folder it is in adds nothing; a folder or file that links reach
twice is refused, for its images would count twice and be trained on and held out at once.
"""

import hashlib
import os
import re
import zipfile
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stylenat.errors import UserError
from stylenat.paths import is_stream, sha256
from stylenat.progress import progress

T = TypeVar("T")
BUNDLED = "noto-faces"
USE_BUNDLED = f"use {BUNDLED!r} or 'avatars' (portraits, built in)."
NOTO_ASSET = Path(__file__).parent.parent / "assets" / "noto_faces.npz"
NOTO_SHA256 = "15fd1c2dfb46459e9d253d9b82adcf8a0b40947f016f3fe3767f00126ca1b848"
LARGEST_FILE = 2**28  # bytes of an image's file, as it is and out of a zip
HOLD_OUT_EVERY = 5  # positions 4, 9, 14, … in name order are held out
PROGRESS_FROM = 2000  # images; for fewer a bar would only flicker

# A leading dot hides, but "./" and "../" hide nothing.
_SYSTEM_FILE = re.compile(r"(^|/)(\.(?!\.?/)|__MACOSX/|(eh)?thumbs\.db$|desktop\.ini$)", re.I)
_SIDECAR = re.compile(r"(^|/)((README|LICEN[CS]E|NOTICE|COPYING)(\.(txt|md|rst|html))?|dataset\.json)$", re.I)
# What `stylenat sample` writes: images, and sheets of the same images.
_SAMPLE = re.compile(r"seed\d{4,}\.png")
SHEETS = ("grid.png", "interpolation.gif")


class Header(NamedTuple):
    """What an image file says before it is decoded.

    Attributes:
        size: (width, height).
        mode: Pillow's.
    """

    size: tuple[int, int]
    mode: str


def pixels_sha256(images: np.ndarray) -> str:
    """Hex sha256 of the raw bytes of a uint8 array `(…, R, R, 3)`."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def manifest_sha256(files: Mapping[str, str]) -> str:
    """sha256 of the lines `<file sha256>  <relative name>`, the way `sha256sum` lists them.

    Args:
        files: hashes by name, in name order.
    """
    lines = (f"{digest}  {name}\n" for name, digest in files.items())
    # A folder's names may hold bytes that are no UTF-8.
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _sheets(members: Iterable[str]) -> list[str]:
    """The sheets that `stylenat sample` wrote next to its images."""
    names_by_folder = defaultdict(set)
    for member in members:
        path = PurePosixPath(member)
        names_by_folder[path.parent].add(path.name)
    sheets = []
    for folder, names in names_by_folder.items():
        images = names.difference(SHEETS)
        if images and all(_SAMPLE.fullmatch(name) for name in images):
            sheets += [str(folder / name) for name in names.intersection(SHEETS)]
    return sheets


def with_progress(items: Iterable[T], title: str, total: int | None = None) -> Iterable[T]:
    """The items with a progress bar, where there are enough of them to wait for.

    Args:
        items: what to go through.
        title: in front of the bar.
        total: how many; default: their length.
    """
    count = len(items) if isinstance(items, Sequence) else total or 0
    if count < PROGRESS_FROM:
        return items
    return progress(items, total=count, desc=title, unit="img", leave=False)


class Source(ABC):
    """A set of images that are read one by one.

    Attributes:
        source: as given.
        name: of the set, for records.
        names: of the images, relative, sorted.
        ignored: names of sidecars and of the sheets of samples.
    """

    source: str
    name: str
    names: list[str]
    ignored: tuple[str, ...] = ()

    @property
    def held_out(self) -> Sequence[int]:
        """Positions of the held-out images, in name order: every fifth, unless the set says otherwise."""
        return range(len(self.names))[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY]

    @cached_property
    def files(self) -> dict[str, str]:
        """sha256 of every image's file by name, in name order; read when it is first asked for."""
        return dict(zip(self.names, self._digests(), strict=True))

    @cached_property
    def manifest(self) -> str:
        """sha256 of names and files."""
        return manifest_sha256(self.files)

    @abstractmethod
    def _digests(self) -> Iterable[str]:
        """sha256 of every image's file."""

    @abstractmethod
    def header(self, index: int) -> Header:
        """An image's header; the file is opened once."""

    @abstractmethod
    def check_resolution_offered(self, resolution: int) -> None:
        """Check that the set as such comes at a resolution, whatever its images are.

        Raises:
            UserError: it does not.
        """

    @abstractmethod
    def check_resolution(self, resolution: int) -> None:
        """Check that every image serves a resolution.

        Raises:
            UserError: names the first that does not.
        """

    @abstractmethod
    def image(self, index: int, resolution: int) -> np.ndarray:
        """uint8 `(R, R, 3)`, prepared as the module's docstring says.

        Raises:
            UserError: the file is no image or is too small; names it.
        """

    def images(self, positions: Sequence[int] | np.ndarray, resolution: int) -> np.ndarray:
        """uint8 `(N, R, R, 3)`: `image` of several.

        Raises:
            UserError: as of `image`.
        """
        prepared = np.empty((len(positions), resolution, resolution, 3), np.uint8)
        with ThreadPoolExecutor() as pool:
            images = pool.map(lambda position: self.image(position, resolution), positions)
            for number, image in enumerate(with_progress(images, "decoding", len(positions))):
                prepared[number] = image
        return prepared


class NotoFaces(Source):
    """The 987 Noto portraits, drawn art under Apache-2.0 (`assets/NOTICE`), checked by the pinned hash."""

    source = BUNDLED
    name = BUNDLED

    def __init__(self) -> None:
        with np.load(NOTO_ASSET) as asset:
            self.pixels = asset["images"]  # (987, 64, 64, 3)
            self.names = asset["names"].tolist()
        if (found := pixels_sha256(self.pixels)) != NOTO_SHA256:
            raise UserError(
                f"{NOTO_ASSET} is altered: its pixels have sha256 {found}, expected {NOTO_SHA256}; reinstall "
                "the package or run scripts/make_noto_faces.py."
            )

    def _digests(self) -> Iterable[str]:
        return map(pixels_sha256, self.pixels)

    def header(self, index: int) -> Header:
        """See `Source`."""
        return Header((64, 64), "RGB")

    def check_resolution_offered(self, resolution: int) -> None:
        """See `Source`."""
        if resolution not in (32, 64):
            raise UserError(
                f"{BUNDLED} comes at 32 and 64, not at {resolution}: choose one of these, or give a folder "
                "or zip of larger images."
            )

    check_resolution = check_resolution_offered

    def image(self, index: int, resolution: int) -> np.ndarray:
        """32 by a 2x2 box, rows then columns, halves rounded up each time (as Pillow)."""
        pixels = self.pixels[index]
        if resolution == 64:
            return pixels
        wide = pixels.astype(np.uint16)
        high = (wide[:, 0::2] + wide[:, 1::2] + 1) // 2  # (64, 32, 3)
        return ((high[0::2] + high[1::2] + 1) // 2).astype(np.uint8)


def _relative_names(members: Iterable[str], path: Path) -> list[str]:
    """Names relative to the deepest common folder: a folder and a zip of it then have one manifest.

    Args:
        members: names in a folder or zip; a zip's may be absolute, which means what they mean without the
            leading slash, as to every program that unpacks it.
        path: of the folder or zip, for errors.

    Raises:
        UserError: names that lead out of the zip, or two that are one.
    """
    paths: dict[PurePosixPath, str] = {}
    for member in members:
        relative = PurePosixPath(member.lstrip("/"))
        if ".." in relative.parts:
            raise UserError(f"{path} holds {member!r}, a name that leads out of it: pack its folder anew")
        if relative in paths:
            raise UserError(
                f"{path} holds {paths[relative]!r} and {member!r}, one name: pack its folder anew"
            )
        paths[relative] = member
    common = os.path.commonpath([str(relative.parent) for relative in paths])
    return [relative.relative_to(common).as_posix() for relative in paths]


class _Files(Source):
    """Image files below `path`; `members` are their names there."""

    def __init__(self, source: str | Path, path: Path, found: Iterable[str]) -> None:
        self.source = str(source)
        self.path = path
        self.name = path.resolve().name if path.is_dir() else path.stem
        files = sorted(member for member in found if not _SYSTEM_FILE.search(member))
        ignored = {member for member in files if _SIDECAR.search(member)}
        ignored.update(_sheets(member for member in files if member not in ignored))
        self.ignored = tuple(member for member in files if member in ignored)
        self.members = [member for member in files if member not in ignored]
        if not self.members:
            raise UserError(
                f"Dataset {self.source!r} is empty: no image in {path}; put images there, or {USE_BUNDLED}"
            )
        self.names = _relative_names(self.members, path)
        self._headers: dict[int, Header] = {}

    @abstractmethod
    def open_member(self, member: str) -> IO[bytes]:
        """Open a file for reading.

        Raises:
            ValueError: no image is as large, or it is a pipe or a device.
        """

    def _digests(self) -> Iterable[str]:
        return map(self._digest, with_progress(self.members, "hashing"))

    def _digest(self, member: str) -> str:
        try:
            with self.open_member(member) as stream:
                return sha256(stream)
        except Exception as error:  # zipfile and its decompressors raise several kinds
            raise UserError(
                f"{self.path / member} can't be read ({type(error).__name__}: {error}); replace or remove it."
            ) from error

    def _with_image(self, index: int, action: Callable[[Image.Image], T]) -> T:
        """What `action` returns for an image; the error of one that fails names the file."""
        member = self.members[index]
        try:
            with self.open_member(member) as stream, Image.open(stream, formats=_formats()) as image:
                return action(image)
        except UserError:
            raise
        except Exception as error:  # Pillow's decoders raise a dozen kinds
            unknown = isinstance(error, UnidentifiedImageError)
            why = "no image format that Pillow knows" if unknown else f"{type(error).__name__}: {error}"
            raise UserError(
                f"{self.path / member} is no readable image ({why}); replace or remove it."
            ) from error

    def header(self, index: int) -> Header:
        if index not in self._headers:
            self._headers[index] = self._with_image(index, lambda image: Header(image.size, image.mode))
        return self._headers[index]

    def check_resolution_offered(self, resolution: int) -> None:
        pass

    def check_resolution(self, resolution: int) -> None:
        for index in with_progress(range(len(self.members)), "checking sizes"):
            self._check_size(index, self.header(index).size, resolution)

    def _check_size(self, index: int, size: tuple[int, int], resolution: int) -> None:
        if min(size) < resolution:
            raise UserError(
                f"{self.path / self.members[index]} is {size[0]}x{size[1]}, smaller than the asked "
                f"{resolution}x{resolution}: ask for a resolution of at most {min(size)}, or remove it."
            )

    def image(self, index: int, resolution: int) -> np.ndarray:
        def prepare(image: Image.Image) -> np.ndarray:
            self._check_size(index, image.size, resolution)
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_square(_rgb(upright, image.format), resolution))

        return self._with_image(index, prepare)


class Folder(_Files):
    """The images of a folder and of those in it."""

    def __init__(self, source: str | Path, path: Path) -> None:
        super().__init__(source, path, _folder_members(path))

    def open_member(self, member: str) -> IO[bytes]:
        """See `_Files`."""
        file = self.path / member
        if is_stream(file):
            raise ValueError("a pipe or a device")
        _check_file_size(file.stat().st_size)
        return file.open("rb")


class Zip(_Files):
    """A zip; each process opens it for itself, for processes that share a file share its position."""

    def __init__(self, source: str | Path, path: Path) -> None:
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        self.path = path
        try:
            entries = self._archive().infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:  # ValueError: a name's coding
            raise UserError(f"{path} is a damaged zip ({error}); pack its folder anew") from error
        super().__init__(source, path, [entry.filename for entry in entries if not entry.is_dir()])

    def _archive(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            archive = zipfile.ZipFile(self.path)  # its lock lets threads read side by side
            self._opened = (os.getpid(), archive)
        return self._opened[1]

    def open_member(self, member: str) -> IO[bytes]:
        """See `_Files`."""
        entry = self._archive().getinfo(member)
        _check_file_size(entry.file_size)  # no more than it says is inflated
        return self._archive().open(entry)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}


def _check_file_size(size: int) -> None:
    """Refuse a file that would fill the memory; sizes are what a folder or a zip's list says."""
    if size > LARGEST_FILE:
        raise ValueError(f"{size:,} bytes, over {LARGEST_FILE:,}")


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    """All that Pillow reads but EPS, which is a program: Pillow would let Ghostscript run it."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def _rgb(image: Image.Image, file_format: str | None) -> Image.Image:
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


def _square(image: Image.Image, resolution: int) -> Image.Image:
    """The center square of an RGB image, resized with Lanczos unless it has `resolution` already."""
    side = min(image.size)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square if side == resolution else square.resize((resolution, resolution), Image.Resampling.LANCZOS)


def _folder_members(path: Path) -> Iterator[str]:
    """Names of the files below a folder; system folders are not looked into."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename} can't be listed ({error.strerror}); change its permissions."
        ) from error

    visited = {_identity(path): path}
    reached: dict[str, Path] = {}  # the path to a file by its real one
    for place, folders, files in os.walk(path, onerror=refuse, followlinks=True):
        folder = Path(place)
        kept = []
        for name in sorted(folders):
            below = folder / name
            if _SYSTEM_FILE.search(f"{name}/"):
                continue
            identity = _identity(below)
            earlier = visited.get(identity)
            if earlier is None:
                visited[identity] = below
                kept.append(name)
            elif earlier not in (folder, *folder.parents):
                raise _reached_twice(earlier, below)
        folders[:] = kept
        real_folder = os.path.realpath(folder)
        for name in files:
            file = folder / name
            if _SYSTEM_FILE.search(name):
                continue
            real = os.path.realpath(file) if file.is_symlink() else f"{real_folder}{os.sep}{name}"
            if real in reached and not _SIDECAR.search(name):
                raise _reached_twice(reached[real], file)
            reached[real] = file
            yield file.relative_to(path).as_posix()


def _identity(path: Path) -> tuple[int, int]:
    """What a folder or file is, whichever path leads to it."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _reached_twice(first: Path, second: Path) -> UserError:
    return UserError(f"{second} and {first} are one and the same by a link: remove one of them")
