"""What a notebook needs besides the package: checks of its parameters, and figures in its cells."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure

from stylenat.attention.reference import check_query
from stylenat.checkpoints.lock import check_free
from stylenat.checkpoints.run import Run
from stylenat.checkpoints.samples import open_images
from stylenat.data.dataset import ImageDataset, open_dataset
from stylenat.device import pick_device
from stylenat.errors import UserError, unknown
from stylenat.evaluation.evaluate import check_evaluation, open_reference
from stylenat.evaluation.reference import Statistics
from stylenat.figures.style import to_png
from stylenat.models.base import Generator
from stylenat.paths import check_writable, expand
from stylenat.presets import get_config
from stylenat.sampling.folder import sample_paths
from stylenat.sampling.sample import check_seeds

INJECTED = "# Parameters"  # papermill's first line


@dataclass(frozen=True)
class _Declared:
    """A parameter as its cell declares it: `name: annotation = value`."""

    annotation: str
    value: ast.expr


def show(figure: Figure) -> None:
    """Display a figure as the PNG that `figures.save` would write, at a notebook's size."""
    display(Image(to_png(figure, dpi=100)))


def check_parameters() -> None:
    """Turn a mistyped or mistaken papermill parameter into an error; call it right after the parameters cell.

    Papermill inserts a cell of plain assignments after the one tagged `parameters`, and only warns about
    a name that is not in there. What was declared, `name: type = literal`, and what was injected are read
    from the cells run so far, so their order and number do not matter. Nothing is checked outside IPython,
    nor where it keeps no history: under nbval, which injects nothing.

    Raises:
        UserError: a name that is not declared (with the nearest that is), or a value of another type.
    """
    shell = get_ipython()
    cells = shell.user_ns.get("In", []) if shell else []
    if not any(cells):
        return
    declared: dict[str, _Declared] = {}
    injected: dict[str, ast.expr] = {}
    for source in cells:
        statements = _parse(source)
        if source.lstrip().startswith(INJECTED):  # after a correction by hand the last one holds
            injected = _assignments(statements)
        else:
            declared |= _declarations(statements)
    if not declared:
        raise UserError("no parameters are declared: run the notebook's parameters cell first")
    for name, parameter in declared.items():
        _check_type(name, parameter.value, parameter.annotation)
    for name, value in injected.items():
        if name not in declared:
            raise unknown("parameter", name, declared)
        _check_type(name, value, declared[name].annotation)


def open_scored(
    source: str, data: str, metric: str
) -> tuple[Generator | ImageDataset | None, ImageDataset | Statistics]:
    """Open what the notebook of scores compares, and check that it can be.

    Args:
        source: a run; with `data` also a checkpoint, or a folder or zip of samples.
        data: the real images, or statistics of them; empty: those that the run was trained on.
        metric: names with commas between.

    Returns:
        What is scored, None where it is a run's; and what it is compared with.

    Raises:
        UserError: as of `evaluate`, or images too few to look for copies among them.
    """
    scored = None
    reference: ImageDataset | Statistics
    if data:
        scored = open_images(source, pick_device())
        reference = open_reference(data, scored.resolution)
    else:
        config = get_config("smoke") if source == "smoke" else Run.open(source).config
        reference = open_dataset(config.data, config.resolution)
    check_evaluation(reference, metric)
    if isinstance(reference, ImageDataset):
        check_evaluation(reference)  # looking for copies takes the same images
    return scored, reference


def check_sampling(
    generator: Generator,
    seeds: Sequence[int],
    *,
    mix_level: int,
    level: int,
    queries: Sequence[Sequence[int]],
    frames: int,
    out: str,
) -> None:
    """Check what the notebook of samples needs after its first image.

    Args:
        generator: whose images it shows.
        seeds: four or more.
        mix_level: level from which on fine styles hold.
        level: whose attention is shown.
        queries: [row, column] on the level's grid.
        frames: steps from one seed to the next, one or more.
        out: folder for the images; empty: none.

    Raises:
        UserError: one of them is out of its range, or the folder can't be written or holds other samples.
    """
    if len(check_seeds(seeds)) < 4:
        raise UserError(f"seeds={seeds!r}: give four or more")
    generator.level_index(mix_level)
    generator.attention(level, 0)
    for query in queries:
        if len(query) != 2:
            raise UserError(f"queries={queries!r}: give [row, column] each")
        check_query((query[0], query[1]), level, level)
    if frames < 1:
        raise UserError(f"frames={frames}: give one or more")
    if out:
        check_free(expand(out))
        check_writable(sample_paths(out, seeds)[0])


def _parse(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:  # a cell that failed, or of another language
        return []


def _assignments(statements: Sequence[ast.stmt]) -> dict[str, ast.expr]:
    """Values by name of the plain assignments, `name = value`."""
    values = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            values[statement.targets[0].id] = statement.value
    return values


def _declarations(statements: Sequence[ast.stmt]) -> dict[str, _Declared]:
    """The parameters of a cell that holds nothing but declarations; of any other cell none."""
    declared = {}
    for statement in statements:
        if not isinstance(statement, ast.AnnAssign) or statement.value is None:
            return {}
        declared[ast.unparse(statement.target)] = _Declared(
            ast.unparse(statement.annotation), statement.value
        )
    return declared


def _check_type(name: str, node: ast.expr, annotation: str) -> None:
    """Check a literal against a type's name; an int will do for a float, a bool for neither."""
    try:
        value = ast.literal_eval(node)
    except ValueError:  # papermill writes float('nan') and float('inf')
        value = float("nan")
    allowed = annotation.split("[")[0]  # list[int]: the container is what can be checked
    kinds = (allowed, "int") if allowed == "float" else (allowed,)
    if type(value).__name__ not in kinds:
        hint = " (papermill's -r passes text as it is)" if allowed == "str" else ""
        raise UserError(f"parameter {name}={value!r} is {type(value).__name__}, expected {annotation}{hint}")
