"""Errors for people: one line that names the value, what was allowed and the fix."""

import difflib
import math
import numbers
import signal
import types
import typing
from collections.abc import Iterable
from typing import Any, get_args, get_origin, get_type_hints

LONGEST_LINE = 1200  # characters
LONGEST_NAME = 100  # of a name that another may be near to


def one_line(text: str) -> str:
    """A message as one line; of one that is very long, as a value in it is, the middle is left out."""
    line = " ".join(text.splitlines())
    if len(line) <= LONGEST_LINE:
        return line
    half = LONGEST_LINE // 2
    return f"{line[:half]} … {line[-half:]}"


class UserError(ValueError):
    """A mistake that the caller can correct. Commands print it as one line and exit with code 2."""

    def __str__(self) -> str:  # a file's name or a library's message may hold line breaks
        return one_line(super().__str__())

    def _render_traceback_(self) -> list[str]:
        # IPython asks the exception itself for its traceback: a notebook then shows this one line only.
        return [f"{type(self).__name__}: {self}"]


class Stopped(KeyboardInterrupt):
    """A signal ended the work where it can go on. Commands print one line and exit with 128 + its number.

    Args:
        message: how to go on.
        number: of the signal; default: that of Ctrl-C.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest one that does.

    Args:
        kind: what the name should be of, such as "preset".
        name: as given.
        allowed: all names that exist.

    Returns:
        The error, to be raised.
    """
    names = list(allowed)
    close = difflib.get_close_matches(str(name)[:LONGEST_NAME], names, n=1)
    hint = f", did you mean {close[0]!r}?" if close else "."
    return UserError(f"unknown {kind} {name!r}{hint} There are {', '.join(names)}")


def check_fields(instance: Any, without: Iterable[str] = ()) -> None:
    """Check the values of a dataclass against the types that its fields state; of containers the kind alone.

    Args:
        instance: of any dataclass.
        without: names of fields that are not checked.

    Raises:
        UserError: a value of another type; names the field.
    """
    for name, hint in get_type_hints(type(instance)).items():
        value = getattr(instance, name)
        if name not in without and not _is_of(value, hint):
            raise UserError(f"{name}={value!r} is {type(value).__name__}, expected {_words(hint)}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, else the type alone."""
    return get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_of(value: object, hint: Any) -> bool:
    """Whether a value is of a type; an int will do for a float, a bool for neither."""
    for kind in _alternatives(hint):
        plain = get_origin(kind) or kind
        if plain is Any or (isinstance(value, bool) and plain is bool):
            return True
        accepted = (int, float) if plain is float else plain
        if not isinstance(value, bool) and isinstance(value, accepted):
            return True
    return False


def _words(hint: Any) -> str:
    kinds = [get_origin(kind) or kind for kind in _alternatives(hint)]
    return " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)


def check_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> None:
    """Check that an argument is a finite number in its range.

    Args:
        name: of the argument.
        value: as given.
        low: the least that is allowed.
        high: the most that is allowed.

    Raises:
        UserError: it is NaN, infinite, no real number or out of its range.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and low <= value <= high:  # type: ignore[arg-type, operator]
        return
    if math.isfinite(low) and math.isfinite(high):
        allowed = f" from {low:g} to {high:g}"
    elif math.isfinite(low):
        allowed = f", {low:g} or more"
    elif math.isfinite(high):
        allowed = f", {high:g} or less"
    else:
        allowed = ""
    raise UserError(f"{name}={value!r}: give a finite number{allowed}")
