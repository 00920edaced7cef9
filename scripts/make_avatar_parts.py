"""Rebuild the parts of the avatars: `python scripts/make_avatar_parts.py [--tarball PATH]`.

Takes the design ToonHead by Johan Melin (CC BY 4.0) from the npm package @dicebear/toon-head 9.4.3, renders
each of its parts with resvg (`pip install resvg-py==0.5.0`) and writes `stylenat/assets/avatar_parts.npz`. No
other use of the package needs resvg.
"""

import argparse
import io
import re
import tarfile

import numpy as np
from make_noto_faces import read_tarball
from PIL import Image

from stylenat.data.avatars import LAYERS, PARTS, PARTS_SHA256, SIDE
from stylenat.data.sources import pixels_sha256
from stylenat.paths import write_atomically

URL = "https://registry.npmjs.org/@dicebear/toon-head/-/toon-head-9.4.3.tgz"
TARBALL_SHA256 = "b9cd3b5def9fb2c37a9acba2e4b9bd00268b6eaff705d596756e8d921a4580c8"
OVERSAMPLING = 4  # pixels of resvg's, along each side, to one of ours
VIEW = 768  # of the design, a side
MOVED_DOWN = {"rear_hair": 10}  # as the design puts its layers together

# `'happy': (components, colors) => `<path …/>`,` and in it `${escape.xml(`${colors.hair}`)}`
PART = re.compile(r"^ +'?(\w+)'?: \(components, colors\) => `(.*)`,$", re.MULTILINE)
COLOR = re.compile(r"\$\{escape\.xml\(`\$\{colors\.(\w+)\}`\)\}")


def read_parts(source: str) -> dict[str, str]:
    """A layer's JavaScript module → the SVG elements of its parts by name; `COLOR` stands for a color."""
    parts = dict(PART.findall(source))
    for name, elements in parts.items():
        if len(set(COLOR.findall(elements))) > 1 or "${" in COLOR.sub("", elements):
            raise ValueError(f"part {name} is no plain drawing with at most one color")
    return parts


def render(elements: str, down: int) -> np.ndarray:
    """SVG elements → `(256, 256, 4)`: red, green and blue times opacity, and opacity, 0 to 255."""
    import resvg_py

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {VIEW} {VIEW}" fill="none">'
        f'<g transform="translate(0 {down})">{elements}</g></svg>'
    )
    side = SIDE * OVERSAMPLING
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True))
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(np.float64)
    pixels[..., :3] *= pixels[..., 3:] / 255
    return pixels.reshape(SIDE, OVERSAMPLING, SIDE, OVERSAMPLING, 4).mean((1, 3))


def part_planes(elements: str, down: int) -> np.ndarray:
    """SVG elements → uint8 `(5, 256, 256)`: the part on black, its opacity, and its tint.

    What a part shows is linear in its color: the tint is the difference between white and black.
    """
    black = render(COLOR.sub("#000000", elements), down)
    white = render(COLOR.sub("#ffffff", elements), down)
    planes = np.concatenate([black, (white - black)[..., :1]], axis=2)
    return planes.round().astype(np.uint8).transpose(2, 0, 1)


def all_parts(tarball: bytes) -> tuple[list[str], np.ndarray]:
    """Bytes of the npm package → names such as `hair/bun`, and uint8 `(N, 5, 256, 256)`."""
    names = []
    planes = []
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        for layer in LAYERS:
            words = layer.split("_")
            module = words[0] + "".join(word.capitalize() for word in words[1:])  # rear_hair: rearHair.js
            file = archive.extractfile(f"package/lib/components/{module}.js")
            assert file is not None
            for name, elements in read_parts(file.read().decode()).items():
                names.append(f"{layer}/{name}")
                planes.append(part_planes(elements, MOVED_DOWN.get(layer, 0)))
    return names, np.stack(planes)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tarball", metavar="PATH", help="the npm package, already fetched")
    parser.add_argument("--output", metavar="PATH", default=PARTS, help="default: the package's own asset")
    arguments = parser.parse_args()
    names, parts = all_parts(read_tarball(arguments.tarball, URL, TARBALL_SHA256))
    found = pixels_sha256(parts)
    print(f"{len(names)} parts, pixels sha256 {found}")
    if found != PARTS_SHA256:
        raise SystemExit(f"expected pixels sha256 {PARTS_SHA256}: nothing written")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, parts=parts, names=np.array(names))
    write_atomically(arguments.output, buffer.getvalue())


if __name__ == "__main__":
    main()
