"""Whether what was read from JSON is of the types that its dataclass declares."""

import types
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints


def check_type(value: Any, hint: Any, name: str) -> None:
    """Check a value, and all that is in it, against a type's annotation.

    Args:
        value: numbers, text, None, dicts, tuples, and dataclasses of these.
        hint: such as `int`, `float | None`, `dict[str, str]` or a dataclass; an int will do for a float, a
            bool for neither.
        name: of the value, for the error; of a dataclass it may be empty.

    Raises:
        TypeError: one of another type; names it.
    """
    origin = get_origin(hint)
    if hint is Any:
        return
    if origin in (Union, types.UnionType):
        _check_union(value, hint, name)
    elif origin is dict:
        _check_kind(value, dict, name)
        for key, part in value.items():
            check_type(key, get_args(hint)[0], f"a name in {name}")
            check_type(part, get_args(hint)[1], f"{name}.{key}")
    elif origin is tuple:
        _check_kind(value, tuple, name)
        for position, part in enumerate(value):
            check_type(part, get_args(hint)[0], f"{name}[{position}]")
    elif is_dataclass(hint):
        _check_kind(value, hint, name)
        hints = get_type_hints(hint)
        for entry in fields(hint):
            place = f"{name}.{entry.name}" if name else entry.name
            check_type(getattr(value, entry.name), hints[entry.name], place)
    else:
        _check_kind(value, hint, name)


def _check_union(value: Any, hint: Any, name: str) -> None:
    """Of the kinds that a value may be the one it is, so that the error names the part that is wrong."""
    if value is None and type(None) in get_args(hint):
        return
    (other,) = (kind for kind in get_args(hint) if kind is not type(None))
    check_type(value, other, name)


def _check_kind(value: Any, kind: Any, name: str) -> None:
    allowed = (int, float) if kind is float else (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}, expected {kind.__name__}")
