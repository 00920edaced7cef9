"""Errors for people: one line that names the value, what was allowed and the fix."""

import difflib
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
