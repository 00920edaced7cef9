"""Rebuild the bundled set of emoji portraits: `python scripts/make_noto_faces.py [--tarball PATH]`.

Takes the 64x64 Noto images of the npm package emoji-datasource-google 16.0.0 (images Apache-2.0), keeps
the portraits, composites them on white and writes `stylenat/assets/noto_faces.npz`; equal input gives an
equal file.
"""

import argparse
import hashlib
import io
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from stylenat.data.sources import NOTO_ASSET, NOTO_SHA256, pixels_sha256
from stylenat.errors import UserError
from stylenat.paths import write_atomically

URL = "https://registry.npmjs.org/emoji-datasource-google/-/emoji-datasource-google-16.0.0.tgz"
TARBALL_SHA256 = "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
FOLDER = "package/img/google/64"


def code_points(text: str) -> set[int]:
    """`"1F466-1F468 2639"` → the set of those code points; a dash means a range."""
    points: set[int] = set()
    for part in text.split():
        first, _, last = part.partition("-")
        points |= set(range(int(first, 16), int(last or first, 16) + 1))
    return points


PERSONS = code_points("1F466-1F469 1F9D1-1F9D3 1F474 1F475")
ROLES = code_points(
    "1F9D4 1F9D5 1F470-1F473 1F476-1F478 1F481 1F482 1F486 1F487 1F645-1F647 1F64B 1F64D 1F64E "
    "1F926 1F937 1F934 1F935 1F575 1F9D9 1F9DB 1F9DD 1F385 1F936 1F977 1FAC5"
)
# Cane, wheelchairs, handshake, heart, kiss, baby bottle: whole scenes rather than portraits.
SCENES = code_points("1F9AF 1F9BC 1F9BD 1F91D 2764 1F48B 1F37C")
FACES = code_points(
    "1F600-1F640 1F910-1F917 1F920-1F925 1F927-1F92F 1F970-1F97A 1F9D0 2639 263A "
    "1FAE0-1FAE5 1FAE8 1FAE9 1F642-1F644"
)


def is_portrait(file_name: str) -> bool:
    """Whether a name such as `1f468-1f3fb-200d-1f9b0.png` is one person outside a scene, or one face."""
    points = [int(part, 16) for part in file_name.partition(".")[0].split("-")]
    people = sum(point in PERSONS | ROLES for point in points)
    if people:
        return people == 1 and not SCENES.intersection(points)
    return len(points) <= 4 and bool(FACES.intersection(points))


def on_white(png: bytes) -> np.ndarray:
    """PNG bytes → uint8 `(64, 64, 3)` on a white ground."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(ground, image).convert("RGB"))


def portraits(tarball: bytes) -> tuple[list[str], np.ndarray]:
    """Bytes of the npm package → sorted file names and uint8 `(N, 64, 64, 3)`, without pixel doubles."""
    images = {}
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            if folder == FOLDER and is_portrait(name):
                file = archive.extractfile(member)
                if file:  # None for what is no regular file
                    images[name] = on_white(file.read())
    return without_doubles(images)


def without_doubles(images: dict[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    """`{name: image}` → sorted names and stacked images; of pixel doubles the first name stays."""
    first_names: dict[bytes, str] = {}
    for name in sorted(images):
        first_names.setdefault(images[name].tobytes(), name)
    names = list(first_names.values())
    return names, np.stack([images[name] for name in names])


def read_tarball(path: str | None = None, url: str = URL, sha256: str = TARBALL_SHA256) -> bytes:
    """A package's bytes, from `path` or the npm registry, checked by sha256.

    Args:
        path: default: fetch it from the registry.
        url: of the package there.
        sha256: of the package.

    Raises:
        UserError: the bytes are not those of the package.
    """
    if path is None:
        with urllib.request.urlopen(url) as response:
            content = response.read()
    else:
        content = Path(path).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(f"{path or url} has sha256 {found}, expected {sha256}; fetch {url} again.")
    return content


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tarball", metavar="PATH", help="the npm package, already fetched")
    parser.add_argument(
        "--output", metavar="PATH", default=NOTO_ASSET, help="default: the package's own asset"
    )
    arguments = parser.parse_args()
    names, images = portraits(read_tarball(arguments.tarball))
    found = pixels_sha256(images)
    print(f"{len(names)} images, pixels sha256 {found}")
    if found != NOTO_SHA256:
        raise SystemExit(f"expected pixels sha256 {NOTO_SHA256}: nothing written")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images, names=np.array(names))
    write_atomically(arguments.output, buffer.getvalue())


if __name__ == "__main__":
    main()
