"""Emoji portraits split by design, so that a held-out one was never seen in another skin tone.

A design is a drawing in all its skin tones. Its images lie in a folder of their own, as their names say, and
every fifth folder is held out.
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from stylenat.data.sources import BUNDLED, HOLD_OUT_EVERY, NotoFaces, Zip
from stylenat.errors import UserError
from stylenat.paths import workspace

NOTO_BY_DESIGN = f"{BUNDLED}-by-design"
FLUENT = "fluent-faces"
FLUENT_FILE = ("datasets", f"{FLUENT}.zip")  # in the workspace; too large to come with the package
FLUENT_MANIFEST = "5057a7d2e52fd31271bf12f492ac39fcfcb64545b73aa9aa386b3a071af02ea1"
_SKIN_TONE = re.compile("-1f3f[b-f]")  # Unicode's five modifiers


def with_design(name: str) -> str:
    """`"1f468-1f3fb-200d-1f9b0.png"` → `"1f468-200d-1f9b0/1f468-1f3fb-200d-1f9b0.png"`.

    Args:
        name: of an emoji's file, its code points joined by dashes.
    """
    return f"{_SKIN_TONE.sub('', PurePosixPath(name).stem)}/{name}"


def held_out_designs(names: Sequence[str]) -> list[int]:
    """Positions of the images in every fifth folder, folders in name order.

    Args:
        names: of images, a folder a design.
    """
    designs = sorted({PurePosixPath(name).parent for name in names})
    held_out = set(designs[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY])
    return [position for position, name in enumerate(names) if PurePosixPath(name).parent in held_out]


class NotoByDesign(NotoFaces):
    """The Noto portraits in another order and another split; 265 designs, 53 of them held out."""

    source = NOTO_BY_DESIGN
    name = NOTO_BY_DESIGN

    def __init__(self) -> None:
        super().__init__()
        names = [with_design(name) for name in self.names]
        order = sorted(range(len(names)), key=names.__getitem__)
        self.names = [names[position] for position in order]
        self.pixels = self.pixels[order]

    @property
    def held_out(self) -> list[int]:
        """See `Source`."""
        return held_out_designs(self.names)


class FluentFaces(Zip):
    """The 984 shaded portraits that `scripts/make_fluent_faces.py` fetches; 262 designs, 52 of them held out.

    Raises:
        UserError: the file isn't there, or holds something else.
    """

    def __init__(self) -> None:
        path = workspace(*FLUENT_FILE)
        if not path.is_file():
            raise UserError(f"{FLUENT} is fetched, not built in, and {path} isn't there; {_FETCH}")
        super().__init__(FLUENT, path)
        if self.manifest != FLUENT_MANIFEST:
            raise UserError(
                f"{path} is altered: its manifest is {self.manifest}, expected {FLUENT_MANIFEST}; {_FETCH}"
            )

    @property
    def held_out(self) -> list[int]:
        """See `Source`."""
        return held_out_designs(self.names)


_FETCH = "run scripts/make_fluent_faces.py (16 MB from the npm registry)."
