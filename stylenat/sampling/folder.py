"""The folder of samples that the command and the notebook write: images of one call, and their sheets."""

from collections.abc import Collection
from pathlib import Path

from stylenat.data.sources import SHEETS
from stylenat.errors import UserError
from stylenat.paths import expand
from stylenat.sampling.sample import Seeds, check_seeds


def sample_paths(folder: Path | str, seeds: Seeds) -> list[Path]:
    """Where the images of seeds go, in a folder that holds no other samples; writes nothing.

    Args:
        folder: of the samples, which may not be there yet; may begin with `~`.
        seeds: see `check_seeds`.

    Returns:
        A path for each seed, such as `folder/seed0042.png`.

    Raises:
        UserError: a seed that is given twice, or an image of another call, which a score would take for
            one of this call; names it.
    """
    place = expand(folder)
    names: dict[str, None] = {}  # in order
    for seed in check_seeds(seeds):
        name = f"seed{seed:04d}.png"
        if name in names:
            raise UserError(f"seed {seed} is given twice, and it has one image: give it once")
        names[name] = None
    others = sorted({path.name for path in place.glob("seed*.png")}.difference(names))
    if others:
        raise UserError(
            f"{place} holds images of another call ({len(others)}, such as {others[0]}): give another "
            "folder, or remove them"
        )
    return [place / name for name in names]


def remove_samples(paths: Collection[Path]) -> None:
    """Remove what an earlier call wrote there, so that a stop halfway leaves no mixture of two calls.

    Args:
        paths: as of `sample_paths`.
    """
    sheets = {path.with_name(name) for path in paths for name in SHEETS}
    for path in (*paths, *sheets):
        path.unlink(missing_ok=True)
