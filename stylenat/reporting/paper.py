"""The published numbers, `results/paper.csv`: one row a number, each with its source."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

import pandas as pd

from stylenat.errors import UserError
from stylenat.paths import workspace
from stylenat.reporting.records import read_csv

COLUMNS = ("system", "quantity", "dataset", "resolution", "value", "unit", "uncertainty", "source", "note")
UNVERIFIED = "secondary, unverified"  # begins the note of a number that no primary source could be had for


class Key(NamedTuple):
    """What a published number is of; no two rows share one.

    Attributes:
        system: the model.
        quantity: such as "fid".
        dataset: empty where it belongs to none.
        resolution: pixels a side, as text; empty where it belongs to none.
    """

    system: str
    quantity: str
    dataset: str = "FFHQ"
    resolution: str = "256"

    def __str__(self) -> str:
        place = f"{self.dataset}-{self.resolution}".strip("-")
        return f"{self.system} {self.quantity} {place}".strip()


@dataclass(frozen=True)
class PublishedNumber:
    """A row of paper.csv.

    Attributes:
        text: the number with its digits as published.
        unit: such as "M" for millions; empty for none.
        uncertainty: what follows ±, as text; empty where nothing is known.
        source: where it stands.
        note: what else to know.
    """

    text: str
    unit: str
    uncertainty: str
    source: str
    note: str

    @property
    def value(self) -> Decimal:
        """The number."""
        return Decimal(self.text)

    @property
    def is_unverified(self) -> bool:
        """Whether no primary source could be had."""
        return self.note.startswith(UNVERIFIED)

    def __str__(self) -> str:
        return f"{self.text} ± {self.uncertainty}" if self.uncertainty else self.text


class PublishedNumbers(dict[Key, PublishedNumber]):
    """The published numbers by what they are of, in the file's order."""

    def __missing__(self, key: Key) -> PublishedNumber:
        raise UserError(f"results/paper.csv lacks {', '.join(filter(None, key))}: restore the row from git")


def published_numbers() -> PublishedNumbers:
    """The rows of paper.csv by what they are of.

    Raises:
        UserError: a value that is no number, or two rows of one key; names the row.
    """
    table = read_csv(workspace("results", "paper.csv"), COLUMNS, dtype=str, keep_default_na=False)
    numbers = PublishedNumbers()
    for row in table.itertuples():
        key = Key(row.system, row.quantity, row.dataset, row.resolution)
        if key in numbers:
            raise UserError(f"results/paper.csv has {key} twice: keep the row with the better source")
        number = PublishedNumber(row.value, row.unit, row.uncertainty, row.source, row.note)
        if not _is_number(number.text) or not _is_number(number.uncertainty or "0"):
            raise UserError(f"results/paper.csv says {str(number)!r} for {key}: give plain numbers")
        numbers[key] = number
    return numbers


def published() -> pd.DataFrame:
    """The same rows as a tidy table, with values as floats.

    Raises:
        UserError: as of `published_numbers`.
    """
    published_numbers()  # checks them
    return pd.read_csv(
        workspace("results", "paper.csv"),
        keep_default_na=False,
        na_values={"uncertainty": [""], "resolution": [""]},
    )


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except InvalidOperation:
        return False
