"""Which scores compare: those of the same protocol."""

from collections.abc import Mapping
from typing import Any

from stylenat.errors import UserError
from stylenat.reporting.records import RunRecord

# What may differ: where and with which versions a score was computed.
INCIDENTAL = ("device", "versions", "instructions")


def check_same_data(one: RunRecord, other: RunRecord) -> None:
    """Check that two records are of the same images, which their data set's name does not say.

    Raises:
        UserError: they are not; names both runs.
    """
    first = one.dataset.manifest
    second = other.dataset.manifest
    if first != second:
        raise UserError(
            f"runs {one.run_id} and {other.run_id} cannot share a column: manifest is {first!r} and "
            f"{second!r}, so {one.dataset.name} has changed in between; train both on the same, or remove one"
        )


def check_same_protocol(one: RunRecord, other: RunRecord) -> None:
    """Check that two records' scores may share the columns of a table, which hold one metric each.

    Raises:
        UserError: something that a metric's values depend on differs; names metric, field and both runs.
    """
    if one.score is None or other.score is None:
        return
    shared = one.score.protocol["metrics"].keys() & other.score.protocol["metrics"].keys()
    for metric in sorted(shared):
        first = _protocol(one, metric)
        second = _protocol(other, metric)
        for name in sorted(first.keys() | second.keys()):
            if first.get(name) != second.get(name):
                raise UserError(
                    f"{metric} of runs {one.run_id} and {other.run_id} cannot share a column: {name} is "
                    f"{first.get(name)!r} and {second.get(name)!r}; score both by one protocol, or remove one"
                )


def _protocol(record: RunRecord, metric: str) -> dict[str, Any]:
    """All that a metric's values depend on in a record, flat: `{"references.train.n_real": 395, …}`."""
    assert record.score is not None
    protocol = {**record.score.protocol}
    own = protocol.pop("metrics")[metric]
    essential = {name: entry for name, entry in (protocol | own).items() if name not in INCIDENTAL}
    return _flatten(essential) | {"manifest": record.dataset.manifest}


def _flatten(entries: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, entry in entries.items():
        if isinstance(entry, Mapping):
            flat |= _flatten(entry, f"{prefix}{name}.")
        else:
            flat[prefix + name] = entry
    return flat
