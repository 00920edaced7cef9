"""Portraits drawn from known factors: 30,000 of them, from 35 parts and a seed each.

An image is a ground color and nine layers over it, from the hair behind the head to the hair before it. Which
part a layer takes and which color it has are the image's factors, drawn independently of each other from
the image's seed. The parts are the design ToonHead by Johan Melin (CC BY 4.0, `assets/NOTICE`), rendered once
at 256 pixels by `scripts/make_avatar_parts.py`. Putting them together is arithmetic of whole numbers, so the
pixels are the same bytes on every machine.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stylenat.data.sources import Header, Source, pixels_sha256
from stylenat.errors import UserError

AVATARS = "avatars"
TRAIN = 20_000  # of the images in the order of their seeds; the others are held out
HELD_OUT = 10_000
SIDE = 256  # of the parts
RESOLUTIONS = (32, 64, 128, 256)
TOGETHER = 1000  # images that are drawn at once
PARTS = Path(__file__).parent.parent / "assets" / "avatar_parts.npz"
PARTS_SHA256 = "d98f9860ed2da253cbb2fc5128f5245fd5d4e11ead02d9dcd04466ab23f9617f"

# Ground and the last three hair colors are this project's; all other colors are the design's own.
COLORS = {
    "ground": {
        "white": 0xFFFFFF,
        "gray": 0xC9CED6,
        "sand": 0xEAD9B0,
        "peach": 0xF6C9A8,
        "rose": 0xF2B8C6,
        "lilac": 0xCDB9E8,
        "sky": 0xA9D3F0,
        "mint": 0xB2E0C0,
    },
    "skin": {"pale": 0xF1C3A5, "rosy": 0xC68E7A, "tan": 0xB98E6A, "brown": 0xA36B4F, "dark": 0x5C3829},
    "hair_color": {
        "black": 0x2C1B18,
        "auburn": 0xA55728,
        "blonde": 0xB58143,
        "golden": 0xD6B370,
        "brown": 0x724133,
        "silver": 0xD5D3D8,
        "pink": 0xE0709A,
        "blue": 0x3F7CB5,
    },
    "clothes_color": {
        "gray": 0x545454,
        "red": 0xB11F1F,
        "blue": 0x0B3286,
        "green": 0x147F3C,
        "yellow": 0xEAB308,
        "purple": 0x731AC3,
        "pink": 0xEC4899,
        "orange": 0xF97316,
        "black": 0x151613,
        "white": 0xE8E9E6,
    },
}
NONE = "none"
# Each factor's values; the order is that of their numbers, so new ones go to the end. All are equally likely,
# but for "none", which is every second image's.
FACTORS = {
    **{name: tuple(values) for name, values in COLORS.items()},
    "rear_hair": (NONE, "longStraight", "longWavy", "shoulderHigh", "neckHigh"),
    "clothes": ("turtleNeck", "openJacket", "dress", "shirt", "tShirt"),
    "mouth": ("laugh", "angry", "agape", "smile", "sad"),
    "beard": (NONE, "moustacheTwirl", "fullBeard", "chin", "chinMoustache", "longBeard"),
    "eyes": ("happy", "wide", "bow", "humble", "wink"),
    "eyebrows": ("raised", "angry", "happy", "sad", "neutral"),
    "hair": ("sideComed", "undercut", "spiky", "bun"),
}
# From the back to the front, and the factor that colors each.
LAYERS = {
    "rear_hair": "hair_color",
    "body": "skin",
    "head": "skin",
    "clothes": "clothes_color",
    "mouth": None,
    "beard": "hair_color",
    "eyes": None,
    "eyebrows": "hair_color",
    "hair": "hair_color",
}


class _Part(NamedTuple):
    """A part at one resolution, cut out where there is anything of it; `(h, w, 1)` or `(h, w, 3)` each."""

    place: tuple[slice, slice]
    below: np.ndarray  # what it lets through, 0 to 255
    base: np.ndarray  # its own color, times opacity
    tint: np.ndarray  # how much of the factor's color comes on top, times opacity


def draw_factors(seed: int) -> np.ndarray:
    """The factors of an image: uint8 `(11,)`, in the order of `FACTORS` the number of each value.

    They are read off a hash of the seed, which no version of any library changes.

    Args:
        seed: of the image, 0 or more.
    """
    digest = hashlib.sha256(f"avatars {seed}".encode()).digest()
    drawn = np.frombuffer(digest, "<u2").tolist()  # 16 numbers below 65536
    numbers = []
    for number, values in zip(drawn, FACTORS.values(), strict=False):
        if values[0] != NONE:
            numbers.append(number * len(values) >> 16)
        elif number % 2:
            numbers.append(0)
        else:
            numbers.append(1 + (number * (len(values) - 1) >> 16))
    return np.array(numbers, np.uint8)


def factors_of(names: Sequence[str]) -> np.ndarray:
    """The factors of images of `avatars` by their names: uint8 `(N, 11)`, see `draw_factors`."""
    return np.stack([draw_factors(int(name.removesuffix(".png"))) for name in names])


def value_shares(factor: str) -> dict[str, float]:
    """The shares that a factor's values are drawn with."""
    values = FACTORS[factor]
    if values[0] != NONE:
        return dict.fromkeys(values, 1 / len(values))
    return {NONE: 0.5} | dict.fromkeys(values[1:], 0.5 / (len(values) - 1))


class Avatars(Source):
    """The first 30,000 seeds whose factors no earlier seed has; the last 10,000 of them are held out.

    Attributes:
        factors: uint8 `(30000, 11)`, in the order of `FACTORS`.

    Raises:
        UserError: the file of the parts is altered.
    """

    source = AVATARS
    name = AVATARS

    def __init__(self) -> None:
        rows: dict[bytes, int] = {}  # the first seed of each
        seed = 0
        while len(rows) < TRAIN + HELD_OUT:
            rows.setdefault(draw_factors(seed).tobytes(), seed)
            seed += 1
        self.names = [f"{seed:05}.png" for seed in rows.values()]
        self.factors = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
        _load_parts()  # so that an altered file shows at once

    @property
    def held_out(self) -> range:
        """See `Source`."""
        return range(TRAIN, TRAIN + HELD_OUT)

    def _digests(self) -> Iterator[str]:
        """Of recipes instead of files: the parts' hash, and the image's parts and colors."""
        for row in self.factors.tolist():
            values = [FACTORS[factor][number] for factor, number in zip(FACTORS, row, strict=True)]
            colors = [COLORS[factor][value] for factor, value in zip(COLORS, values, strict=False)]
            yield hashlib.sha256(f"{PARTS_SHA256} {values} {colors}".encode()).hexdigest()

    def header(self, index: int) -> Header:
        """See `Source`."""
        return Header((SIDE, SIDE), "RGB")

    def check_resolution_offered(self, resolution: int) -> None:
        """See `Source`."""
        if resolution not in RESOLUTIONS:
            raise UserError(
                f"{AVATARS} comes at {', '.join(map(str, RESOLUTIONS))}, not at {resolution}: choose one of "
                "these, or give a folder or zip of images."
            )

    check_resolution = check_resolution_offered

    def image(self, index: int, resolution: int) -> np.ndarray:
        """See `Source`."""
        return compose(self.factors[index][None], resolution)[0]

    def images(self, positions: Sequence[int] | np.ndarray, resolution: int) -> np.ndarray:
        """See `Source`: drawn together, which is several times faster than one by one."""
        drawn = np.empty((len(positions), resolution, resolution, 3), np.uint8)
        for first in range(0, len(positions), TOGETHER):
            batch = np.asarray(positions[first : first + TOGETHER])
            drawn[first : first + TOGETHER] = compose(self.factors[batch], resolution)
        return drawn


def compose(factors: np.ndarray, resolution: int) -> np.ndarray:
    """Draw images: uint8 `(N, R, R, 3)`.

    Each layer lets the ones behind it through where it is transparent; every step gives whole numbers.

    Args:
        factors: numbers of the values, `(N, 11)`, in the order of `FACTORS`.
        resolution: pixels a side, R, one of `RESOLUTIONS`.
    """
    numbers = dict(zip(FACTORS, factors.T.astype(int), strict=True))  # (N,) each
    constant = np.zeros(len(factors), int)
    grounds = np.stack([_rgb_of("ground", value) for value in FACTORS["ground"]])
    canvas = np.empty((len(factors), resolution, resolution, 3), np.uint16)
    canvas[:] = grounds[numbers["ground"]][:, None, None]
    for layer, colored_by in LAYERS.items():
        parts = numbers.get(layer, constant)
        colors = numbers[colored_by] if colored_by else constant
        for part, color in {*zip(parts.tolist(), colors.tolist(), strict=True)}:
            if FACTORS.get(layer, (layer,))[part] == NONE:
                continue
            (rows, columns), below, own = _tinted(layer, part, color, resolution)
            chosen = np.flatnonzero((parts == part) & (colors == color))
            region = canvas[chosen, rows, columns]
            region *= below
            region += 127
            region //= 255
            region += own
            canvas[chosen, rows, columns] = region
    return canvas.astype(np.uint8)


def _rgb_of(factor: str, value: str) -> np.ndarray:
    """A color as uint16 `(3,)`."""
    return np.array([COLORS[factor][value] >> shift & 255 for shift in (16, 8, 0)], np.uint16)


@cache
def _tinted(
    layer: str, part: int, color: int, resolution: int
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """A layer's part in its color: its place, what it lets through and what it adds, uint16 `(h, w, 3)`."""
    value = FACTORS.get(layer, (layer,))[part]  # "body" and "head" are one part each
    place, below, own, tint = _parts(resolution)[f"{layer}/{value}"]
    if colored_by := LAYERS[layer]:
        own = own + (tint * _rgb_of(colored_by, FACTORS[colored_by][color]) + 127) // 255
    below = np.repeat(below, 3, axis=2)
    # Rounding must not take a part above its opacity: 255 is then the most that a pixel can become.
    return place, below, np.minimum(own, 255 - below)


@cache
def _parts(resolution: int) -> dict[str, _Part]:
    """Every part at a resolution, by layer and value; each pixel is the mean of those that it covers."""
    names, pixels = _load_parts()
    block = SIDE // resolution
    small = pixels.reshape(len(names), 5, resolution, block, resolution, block).sum((3, 5), dtype=np.uint32)
    small = ((small + block**2 // 2) // block**2).astype(np.uint16).transpose(0, 2, 3, 1)  # (N, R, R, 5)
    parts = {}
    for name, image in zip(names, small, strict=True):
        rows, columns = np.nonzero(image[..., 3])
        place = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        inside = image[place]
        parts[name] = _Part(place, 255 - inside[..., 3:4], inside[..., :3], inside[..., 4:5])
    return parts


@cache
def _load_parts() -> tuple[list[str], np.ndarray]:
    """Names of the parts, and uint8 `(35, 5, 256, 256)`: red, green, blue, opacity, tint."""
    try:
        with np.load(PARTS) as asset:
            names, pixels = asset["names"].tolist(), asset["parts"]
        found = pixels_sha256(pixels)
    except Exception as error:  # zipfile and NumPy raise several kinds
        raise UserError(f"{PARTS} can't be read ({error}); {_REBUILD}") from error
    if found != PARTS_SHA256:
        raise UserError(
            f"{PARTS} is altered: its pixels have sha256 {found}, expected {PARTS_SHA256}; {_REBUILD}"
        )
    return names, pixels


_REBUILD = "reinstall the package or run scripts/make_avatar_parts.py."
