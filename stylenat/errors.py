"""Errors for people: one line that names the value, what was allowed and the fix."""

import difflib
import math
import numbers
import signal
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the caller can correct. Commands print it as one line and exit with code 2."""

    def __str__(self) -> str:  # a file's name or a library's message may hold line breaks
        return " ".join(super().__str__().splitlines())

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
    close = difflib.get_close_matches(name, names, n=1)
    hint = f", did you mean {close[0]!r}?" if close else "."
    return UserError(f"unknown {kind} {name!r}{hint} There are {', '.join(names)}")


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
