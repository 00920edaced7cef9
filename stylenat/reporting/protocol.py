"""Which scores compare: those of the same protocol."""

from stylenat.errors import UserError

# What may differ: where and with which versions a score was computed.
INCIDENTAL = ("device", "versions")


def check_same_protocol(one, other):
    """A column of a table holds the values of one metric: may these two records' share it?

    Raises:
        UserError: something that a metric's values depend on differs; names metric, field and both runs.
    """
    metrics = (record["score"]["protocol"]["metrics"] for record in (one, other))
    for metric in sorted(set.intersection(*map(set, metrics))):
        a, b = _protocol(one, metric), _protocol(other, metric)
        for field in sorted(a.keys() | b.keys()):
            if a.get(field) != b.get(field):
                raise UserError(
                    f"{metric} of runs {one['run_id']} and {other['run_id']} cannot share a column: {field} "
                    f"is {a.get(field)!r} and {b.get(field)!r}; score both by one protocol, or remove one"
                )


def _flat(entry, prefix=""):
    if not isinstance(entry, dict):
        return {prefix[:-1]: entry}
    return {k: v for key, value in entry.items() for k, v in _flat(value, f"{prefix}{key}.").items()}


def _protocol(record, metric):
    """All that a metric's values depend on in a record, flat."""
    protocol = record["score"]["protocol"]
    own = {k: v for k, v in protocol.items() if k != "metrics"} | protocol["metrics"][metric]
    flat = _flat({k: v for k, v in own.items() if k not in INCIDENTAL})
    return flat | {"manifest": record["dataset"].get("manifest")}
