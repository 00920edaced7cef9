"""What a notebook needs besides the package: checks of its parameters, and figures in its cells."""

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure

from stylenat.errors import UserError, check_number, unknown
from stylenat.figures.style import to_png

# As papermill writes them.
_NOT_FINITE = {"float('nan')": math.nan, "float('inf')": math.inf, "float('-inf')": -math.inf}
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


def _parse(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, RecursionError, MemoryError):  # a cell that failed, or of another language
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
    """Check a literal against a type's name; an int will do for a float, a bool for neither, NaN for none."""
    value = _literal(name, node)
    allowed, _, entries = annotation.rstrip("]").partition("[")
    fits = _is_of(value, allowed)
    if entries and isinstance(value, list):
        fits = fits and all(_is_of(entry, entries) for entry in value)
    if not fits:
        hint = " (papermill's -r passes text as it is)" if allowed == "str" else ""
        raise UserError(f"parameter {name}={value!r} is {type(value).__name__}, expected {annotation}{hint}")
    if isinstance(value, float):
        check_number(f"parameter {name}", value)


def _literal(name: str, node: ast.expr) -> Any:
    try:
        return _NOT_FINITE.get(ast.unparse(node)) or ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"parameter {name} is no literal: give a number, text or a list of them") from None


def _is_of(value: object, kind: str) -> bool:
    """Whether a value is of the type of that name; an int will do for a float, a bool for neither."""
    return type(value).__name__ in ((kind, "int") if kind == "float" else (kind,))
