"""Mistakes a person can mend: one line that names the value, what was allowed and the fix."""


class UserError(ValueError):
    """A mistake of the caller's. Commands print it as one line and exit with code 2."""

    def _render_traceback_(self):
        # IPython asks the exception itself for its traceback: a notebook then shows this one line only.
        return [f"{type(self).__name__}: {self}"]
