"""What a notebook needs besides the package: its parameters checked, its figures shown."""

import ast

from IPython import get_ipython
from IPython.display import Image, display

from stylenat.errors import UserError, unknown
from stylenat.figures.style import to_png

INJECTED = "# Parameters"  # papermill's first line


def show(figure):
    """Display a figure as the PNG that `figures.save` would write, at a notebook's size."""
    display(Image(to_png(figure, dpi=100)))


def check_parameters():
    """Turn a mistyped or mistaken papermill parameter into an error; call it right after the parameters cell.

    Papermill inserts a cell of plain assignments after the one tagged `parameters`, and only warns about
    a name that is not in there. What was declared, `name: type = literal`, and what was injected are read off
    the cells run so far, so their order and number do not matter. Nothing is checked outside IPython, nor
    where it keeps no history: under nbval, which injects nothing.

    Raises:
        UserError: a name that is not declared (with the nearest that is), or a value of another type.
    """
    shell = get_ipython()
    cells = shell.user_ns.get("In", []) if shell else []
    if not any(cells):
        return
    declared, injected = {}, {}
    for source in cells:
        cell = _parse(source)
        if source.lstrip().startswith(INJECTED):  # after a correction by hand the last one holds
            injected = {
                node.targets[0].id: node.value
                for node in cell
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
        elif cell and all(isinstance(node, ast.AnnAssign) and node.value for node in cell):
            declared |= {
                ast.unparse(node.target): (ast.unparse(node.annotation), node.value) for node in cell
            }
    if not declared:
        raise UserError("no parameters are declared: run the notebook's parameters cell first")
    for name, (annotation, value) in declared.items():
        _check_type(name, value, annotation)
    for name, value in injected.items():
        if name not in declared:
            raise unknown("parameter", name, list(declared))
        _check_type(name, value, declared[name][0])


def _parse(source):
    try:
        return ast.parse(source).body
    except SyntaxError:  # a cell that failed, or of another language
        return []


def _check_type(name, node, annotation):
    """Check the literal `node` against a type's name; an int will do for a float, a bool for neither."""
    try:
        value = ast.literal_eval(node)
    except ValueError:  # papermill writes float('nan') and float('inf')
        value = float("nan")
    allowed = annotation.split("[")[0]  # list[int]: the container is what can be checked
    kinds = (allowed, "int") if allowed == "float" else (allowed,)
    if type(value).__name__ not in kinds:
        hint = " (papermill's -r passes text as it is)" if allowed == "str" else ""
        raise UserError(f"parameter {name}={value!r} is {type(value).__name__}, expected {annotation}{hint}")
