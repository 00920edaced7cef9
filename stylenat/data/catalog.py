"""Where images come from: the sets that have a name, and any folder or zip at a path."""

import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from stylenat.data.avatars import AVATARS, Avatars
from stylenat.data.designs import FLUENT, NOTO_BY_DESIGN, FluentFaces, NotoByDesign
from stylenat.data.sources import BUNDLED, USE_BUNDLED, Folder, NotoFaces, Source, Zip
from stylenat.errors import UserError
from stylenat.paths import find_path, is_stream


class Named(NamedTuple):
    """A set that has a name.

    Attributes:
        open: returns it.
        art: whose it is and its license, for the cards of models that were trained on it.
    """

    open: Callable[[], Source]
    art: str


NAMED = {
    BUNDLED: Named(NotoFaces, "Noto emoji (Apache-2.0)"),
    NOTO_BY_DESIGN: Named(NotoByDesign, "Noto emoji (Apache-2.0)"),
    AVATARS: Named(Avatars, "portraits made of the design ToonHead by Johan Melin (CC BY 4.0)"),
    FLUENT: Named(FluentFaces, "Fluent emoji, Copyright Microsoft (MIT)"),
}


@lru_cache(maxsize=len(NAMED))
def _named(name: str) -> Source:
    return NAMED[name].open()


def open_source(source: str | Path) -> Source:
    """The set of that name, or the folder or zip at that path.

    Raises:
        UserError: names a path that isn't there, holds no image or is neither folder nor zip.
    """
    if str(source) in NAMED:
        return _named(str(source))
    path = find_path(source)
    if path.is_dir():
        return Folder(source, path)
    if not path.exists():
        raise UserError(
            f"Dataset {str(source)!r} not found: {path.absolute()} does not exist; give a folder or zip of "
            f"images, or {USE_BUNDLED}"
        )
    if is_stream(path) or not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is neither a folder nor a zip; give a folder or zip of images, or {USE_BUNDLED}"
        )
    return Zip(source, path)
