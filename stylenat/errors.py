"""Mistakes a person can mend: one line that names the value, what was allowed and the fix."""

import difflib


class UserError(ValueError):
    """A mistake of the caller's. Commands print it as one line and exit with code 2."""

    def __str__(self):  # a file's name or a library's message may hold line breaks
        return " ".join(super().__str__().splitlines())

    def _render_traceback_(self):
        # IPython asks the exception itself for its traceback: a notebook then shows this one line only.
        return [f"{type(self).__name__}: {self}"]


def unknown(what, name, allowed):
    """The `UserError` for a name that is not there: the nearest that is, and all of them."""
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f", did you mean {close[0]!r}?" if close else "."
    return UserError(f"unknown {what} {name!r}{hint} There are {', '.join(allowed)}")
