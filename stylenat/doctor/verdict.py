"""A verdict a line, and the report that holds all of them, as text and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stylenat.errors import UserError
from stylenat.paths import to_json

OK = "ok"
MISSING = "missing"  # something optional; the text says what it is for and where to get it
LEFT_OUT = "left out"  # a check that this machine can't make; the text says why
WRONG = "wrong"
STATUSES = (OK, MISSING, LEFT_OUT, WRONG)
_WIDTHS = (9, 30, 8)  # of the columns of a line


@dataclass(frozen=True)
class Verdict:
    """What was found of one thing.

    Attributes:
        section: such as "machine".
        name: of the thing or check.
        status: one of `STATUSES`.
        text: what was found, in one line.
        values: the same as numbers, plain types.
    """

    section: str
    name: str
    status: str
    text: str
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise UserError(f"status {self.status!r} is unknown: take one of {', '.join(STATUSES)}")

    def __str__(self) -> str:
        cells = (self.section, self.name, self.status)
        columns = [cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)]
        return "  ".join([*columns, shorten_home(self.text)])


@dataclass(frozen=True)
class Report:
    """All verdicts on a machine, and what they were made with.

    Attributes:
        provenance: code, versions and hardware, see `provenance.provenance`; it names neither host nor user.
        verdicts: in the order of the table.
        seconds: that the checks took.
    """

    provenance: dict[str, Any]
    verdicts: tuple[Verdict, ...]
    seconds: float

    @property
    def wrong(self) -> list[Verdict]:
        """The verdicts on what is wrong."""
        return [verdict for verdict in self.verdicts if verdict.status == WRONG]

    def summary(self) -> str:
        """How many verdicts there are of each status, in a line."""
        counts = []
        for status in STATUSES:
            count = sum(verdict.status == status for verdict in self.verdicts)
            if count:
                counts.append(f"{count} {status}")
        return f"{', '.join(counts)}; {self.seconds:.0f} s"

    def to_json(self) -> str:
        """JSON for a bug report; a path below the user's home begins with `~` in it."""
        entries = {
            "provenance": self.provenance,
            "seconds": round(self.seconds, 1),
            "verdicts": [
                {**asdict(verdict), "text": shorten_home(verdict.text)} for verdict in self.verdicts
            ],
        }
        return to_json(entries, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "Report":
        """The report of what its JSON holds.

        Raises:
            UserError: it has another form.
        """
        try:
            verdicts: Sequence[Verdict] = [Verdict(**entry) for entry in entries["verdicts"]]
            return cls(dict(entries["provenance"]), tuple(verdicts), float(entries["seconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"this is no report of `stylenat doctor` ({error})") from None


def shorten_home(text: str) -> str:
    """A text whose paths below the user's home begin with `~`: a report is shown to others."""
    home = str(Path.home())
    return text if home in ("/", ".") else text.replace(home, "~")
