"""docs/performance.md and its figure, from results/performance.json alone.

The page holds its own prose; here are the blocks between its markers.
"""

import statistics
from collections.abc import Iterable, Sequence

from stylenat.benchmark.cases import BEFORE, BESIDE, CASES, CHANGED_CASES, CHECKPOINTED, NOW, Case
from stylenat.benchmark.peers import Way
from stylenat.benchmark.results import Entry, Performance, Stamp, read
from stylenat.figures.speed import performance
from stylenat.figures.style import save
from stylenat.paths import workspace
from stylenat.reporting.markdown import rewrite_blocks, table

_COLUMNS = ["matmul time", "before", "times matmul", "peak", "now", "times matmul", "peak"]
_NONE = "–"
_GROWTH = ("sample-128", "sample-256", "sample-512", "sample-1024")


def page_blocks(numbers: Performance) -> dict[str, str]:
    """The bodies of the page's blocks, by name.

    Args:
        numbers: everything that was measured.

    Raises:
        KeyError: a case was not measured yet.
    """
    blocks = {
        "base": f"*Before* is commit {numbers.base[:7]}.",
        "sampling": _sampling(numbers),
        "changes": _changes(numbers),
        "profile": _profiles(numbers),
        "generators": _generators(numbers),
        "steps": _steps(numbers),
        "scaling": _scaling(numbers),
        "growth": _growth(numbers),
        "peers": _compared(numbers, ["peers-256"]),
        "attention": _compared(numbers, ["attention-noto-32", "attention-ffhq-256", "attention-ffhq-1024"]),
        "equality": _errors(numbers),
        "choices": _choices(numbers),
        "seen": _observations(numbers, left_out=False),
        "tried": _observations(numbers, left_out=True),
    }
    if numbers.low_precision is not None:
        blocks["bfloat16"] = _low_precision(numbers)
    return blocks


def write_page(numbers: Performance | None = None) -> None:
    """Write the blocks of docs/performance.md, and figures/performance.png.

    Args:
        numbers: default: those of results/performance.json.

    Raises:
        KeyError: a case was not measured yet.
        UserError: the page lacks a block's markers.
    """
    found = numbers or read()
    rewrite_blocks(workspace("docs", "performance.md"), page_blocks(found))
    save(performance(figure_rows(found)), "performance")


def figure_rows(numbers: Performance) -> dict[str, dict[str, tuple[float, float, float]]]:
    """For the figure: by title of the case and by state the ratio, its least and its greatest.

    It shows the first place where everything was measured both before and now.

    Raises:
        KeyError: there is none.
    """
    places = [set(numbers.places(case, state)) for case in CASES for state in (BEFORE, NOW)]
    (place, *_) = sorted(set.intersection(*places)) or [""]
    prefixes = {"sample": "", "generator": "forward + backward, ", "step": "step, "}
    rows: dict[str, dict[str, tuple[float, float, float]]] = {}
    for case in CASES.values():
        title = prefixes[case.kind] + case.title.replace("`", "")
        rows[title] = {}
        for state in (BEFORE, NOW):
            found = numbers.entry(case.name, state, place).measurement
            rows[title][state] = (found.ratio, found.ratio_low, found.ratio_high)
    return rows


def _of_kind(kind: str) -> list[Case]:
    return [case for case in CASES.values() if case.kind == kind]


def _rows(numbers: Performance, cases: Sequence[Case]) -> list[tuple[str, Case, str]]:
    """Label, case and place of each row: those where the cases were measured now, the place named if several.

    Raises:
        KeyError: a case was measured nowhere.
    """
    found = [(case, place) for case in cases for place in numbers.places(case.name, NOW)]
    several = len({place for _, place in found}) > 1
    rows = []
    for case, place in found:
        rows.append((f"{case.title}; {place}" if several else case.title, case, place))
    return rows


# --- Cells


def _ratio(entry: Entry | None) -> str:
    if entry is None:
        return _NONE
    found = entry.measurement
    return f"{found.ratio:.2f} ({found.ratio_low:.2f} – {found.ratio_high:.2f})"


def _memory(entry: Entry | None) -> str:
    return _NONE if entry is None else f"{entry.measurement.peak_bytes / 1e9:.2f} GB"


def _time(entry: Entry | None) -> str:
    return _NONE if entry is None else f"{entry.measurement.seconds:.3g} s"


def _both(numbers: Performance, case: Case, place: str) -> list[str]:
    """The cells of `_COLUMNS`."""
    now = numbers.entry(case.name, NOW, place)
    before = numbers.found(case.name, BEFORE, place)
    matmul = f"{now.measurement.matmul_seconds:.3g} s"
    return [matmul, _time(before), _ratio(before), _memory(before), _time(now), _ratio(now), _memory(now)]


def measured(stamps: Iterable[tuple[str, Stamp]]) -> str:
    """The line below a table: with which code and on which machine its numbers were measured.

    Args:
        stamps: of each number what it is, and its stamp. Names are left out where all have one stamp.
    """
    named: dict[Stamp, list[str]] = {}
    for name, stamp in stamps:
        names = named.setdefault(stamp, [])
        if name not in names:
            names.append(name)
    if len(named) == 1:
        return f"Measured at {next(iter(named))}."
    machines = {stamp.machine for stamp in named}
    parts = []
    for stamp, names in named.items():
        source = stamp.code if len(machines) == 1 else str(stamp)
        parts.append(f"{', '.join(names)} at {source}")
    if len(machines) == 1:
        parts.append(f"machine: {machines.pop()}")
    return f"Measured: {'; '.join(parts)}."


def _measured_states(numbers: Performance, cases: Sequence[Case], states: Sequence[str]) -> str:
    """`measured` of some cases: by state, or by case and state where a state's cases differ."""
    stamps = []
    for state in states:
        own = []
        for case in cases:
            for entry in numbers.cases[case.name].get(state, {}).values():
                own.append((case.title, entry.stamp))
        alike = len({stamp for _, stamp in own}) == 1
        for title, stamp in own:
            stamps.append((state if alike else f"{title} {state}", stamp))
    return measured(stamps)


# --- Blocks


def _sampling(numbers: Performance) -> str:
    case = CASES["sample-256"]
    places = numbers.places(case.name, NOW)
    rows = []
    for place in places:
        for state in (BEFORE, NOW):
            entry = numbers.found(case.name, state, place)
            if entry is not None:
                found = entry.measurement
                label = state if len(places) == 1 else f"{state}; {place}"
                cells = [f"{found.matmul_seconds:.2f} s", _time(entry), _ratio(entry), _memory(entry)]
                rows.append([label, *cells, found.rounds])
    shown = table(["", "matmul time", "time", "times matmul", "peak", "rounds"], rows)
    return f"{shown}\n\n{_measured_states(numbers, [case], (BEFORE, NOW))}"


def _changes(numbers: Performance) -> str:
    """Each change taken out, and the same code with it."""
    rows = []
    stamps = []
    for change, prediction in numbers.predictions.items():
        state = f"without {change}"
        for place in numbers.places(CHANGED_CASES[0], state):
            cells = [prediction.what, prediction.predicted]
            for name in CHANGED_CASES:
                without = numbers.entry(name, state, place)
                beside = numbers.entry(name, BESIDE, place)
                stamps.append((f"{CASES[name].title}, {state}", without.stamp))
                stamps.append((f"{CASES[name].title}, {NOW}", beside.stamp))
                cells.append(f"{without.measurement.ratio:.2f} → {beside.measurement.ratio:.2f}")
            peaks = []
            for each in (state, BESIDE):
                peaks.append(numbers.entry(CHANGED_CASES[1], each, place).measurement.peak_bytes / 1e9)
            rows.append([*cells, f"{peaks[0]:.2f} → {peaks[1]:.2f} GB", prediction.stamp.code])
    head = ["change", "predicted", "sampling", "forward + backward", "its peak", "predicted at"]
    shown = table(head, rows, text_columns=(0, 1, 5))
    return f"{shown}\n\n{measured(stamps)}"


def _profiles(numbers: Performance) -> str:
    before = numbers.profiles[BEFORE]
    now = numbers.profiles[NOW]
    rows = []
    for pair in zip(before.operators, now.operators, strict=True):
        row = []
        for name, milliseconds, calls in pair:
            row += [f"`{name.split('::')[-1]}`", f"{milliseconds:.0f}", f"{calls:,}"]
        rows.append(row)
    shown = table(["before", "ms", "calls", "now", "ms", "calls"], rows, text_columns=(0, 3))
    return f"{shown}\n\n{measured([(BEFORE, before.stamp), (NOW, now.stamp)])}"


def _generators(numbers: Performance) -> str:
    cases = _of_kind("generator")
    rows = []
    for label, case, place in _rows(numbers, cases):
        rows.append([label, *_both(numbers, case, place)])
    return f"{table(['', *_COLUMNS], rows)}\n\n{_measured_states(numbers, cases, (BEFORE, NOW))}"


def _steps(numbers: Performance) -> str:
    cases = _of_kind("step")
    rows = []
    for label, case, place in _rows(numbers, cases):
        checkpointed = numbers.found(case.name, CHECKPOINTED, place)
        cells = [*_both(numbers, case, place), _time(checkpointed), _memory(checkpointed)]
        rows.append([label, *cells])
    shown = table(["", *_COLUMNS, "checkpointed", "peak"], rows)
    return f"{shown}\n\n{_measured_states(numbers, cases, (BEFORE, NOW, CHECKPOINTED))}"


def _scaling(numbers: Performance) -> str:
    cases = _of_kind("sample")
    rows = []
    for label, case, place in _rows(numbers, cases):
        now = numbers.entry(case.name, NOW, place)
        before = numbers.found(case.name, BEFORE, place)
        found = now.measurement
        gmac = f"{found.macs / 1e9:.1f}"
        cost = f"{1e12 * found.seconds / found.macs:.1f} ps"
        cells = [gmac, f"{found.seconds:.2f} s", cost, _ratio(now), _memory(now)]
        seconds = _NONE if before is None else f"{before.measurement.seconds:.2f} s"
        rows.append([label, *cells, seconds, _memory(before)])
    shown = table(["", "GMAC", "time", "per MAC", "times matmul", "peak", "before", "peak"], rows)
    return f"{shown}\n\n{_measured_states(numbers, cases, (BEFORE, NOW))}"


def _growth(numbers: Performance) -> str:
    """The most that a multiply-accumulate takes from 128 to 1024, by the least."""
    places = sorted(set.intersection(*(set(numbers.places(name, NOW)) for name in _GROWTH)))
    rows = []
    for place in places:
        found = [numbers.entry(name, NOW, place).measurement for name in _GROWTH]
        whole = [each.seconds / each.macs for each in found]
        products = [each.matmul_seconds / each.macs for each in found]
        where = "" if len(places) == 1 else f"; {place}"
        rows.append([f"one image{where}", f"{max(whole) / min(whole):.2f} ×"])
        rows.append([f"its dense products alone{where}", f"{max(products) / min(products):.2f} ×"])
    cases = [CASES[name] for name in _GROWTH]
    shown = table(["cost of a multiply-accumulate, 128 to 1024", "most by least"], rows)
    return f"{shown}\n\n{_measured_states(numbers, cases, (NOW,))}"


def _compared(numbers: Performance, names: Sequence[str]) -> str:
    """A row a comparison, a column a way to do it; the first way's time, the others' as multiples of it."""
    found = []  # (name, place, what was compared there)
    for name in names:
        for place, compared in numbers.compared.get(name, {}).items():
            found.append((name, place, compared))
    if not found:
        return "Not measured yet."
    several = len({place for _, place, _ in found}) > 1
    ways: list[str] = []
    for _, _, compared in found:
        for each in compared.comparisons:
            ways += [way.name for way in each.ways if way.name not in ways]
    rows = []
    for _, place, compared in found:
        for each in compared.comparisons:
            label = f"{each.title}; {place}" if several else each.title
            rows.append([label, each.direction, *_ways(each.ways, ways)])
    first, *others = ways
    head = ["", "direction", first, *(f"{way}, by {first}'s" for way in others)]
    stamps = [(name, compared.stamp) for name, _, compared in found]
    return f"{table(head, rows, text_columns=(0, 1))}\n\n{measured(stamps)}"


def _ways(found: Sequence[Way], names: Sequence[str]) -> list[str]:
    """The cells of a comparison, in the order of the names."""
    by_name = {way.name: way for way in found}
    cells = []
    for name in names:
        way = by_name.get(name)
        if way is None:
            cells.append(_NONE)
        elif name == names[0]:
            cells.append(f"{way.seconds:.3g} s" if way.seconds >= 1 else f"{1e3 * way.seconds:.3g} ms")
        elif way.rounds == 1:
            cells.append(f"{way.ratio:.3g} × (one call)")
        else:
            cells.append(f"{way.ratio:.3g} × ({way.ratio_low:.3g} – {way.ratio_high:.3g})")
    return cells


def _errors(numbers: Performance) -> str:
    if numbers.equality is None:
        raise KeyError("equality")
    rows = []
    for name, (output, *gradients) in numbers.equality.errors.items():
        rows.append([name, f"{output:.0e}", f"{max(gradients):.0e}" if gradients else "–"])
    shown = table(["", "output", "worst gradient"], rows)
    return f"{shown}\n\n{measured([(NOW, numbers.equality.stamp)])}"


def _low_precision(numbers: Performance) -> str:
    """Times, images and scores of bfloat16 next to float32's."""
    found = numbers.low_precision
    if found is None:
        raise KeyError("low_precision")
    times = []
    for case, kinds in found.times.items():
        for kind, (seconds, *spread) in kinds.items():
            title = CASES[case].title.replace("sample, ", "one image, ")
            times.append([f"{title}: {kind}", f"{seconds:.3g} s", "{:.2f} ({:.2f} – {:.2f})".format(*spread)])
    errors = []
    for psi, count, together, worst, mean, most in found.errors:
        cells = [f"{psi:g}", f"{count}", f"{together:.1f} dB", f"{worst:.1f} dB", f"{mean:.2f}", f"{most:g}"]
        errors.append(cells)
    scores = []
    for title, values in found.scores.items():
        changes = [low - exact for low, exact in zip(values["bfloat16"], values["float32"], strict=True)]
        cells = [f"{statistics.mean(values['float32']):.4g}", f"{statistics.stdev(values['float32']):.2g}"]
        cells += [f"{statistics.mean(changes):+.2g}", f"{max(map(abs, changes)):.2g}"]
        scores.append([title, *cells])
    blocks = [
        table(["", "time", "times the float32 products"], times),
        table(["psi", "images", "PSNR", "of the worst", "mean difference", "largest"], errors),
        table(["", "float32, mean", "deviation", "bfloat16 less float32, mean", "largest"], scores),
        f"By {found.instructions}. {measured([(NOW, found.stamp)])}",
    ]
    return "\n\n".join(blocks)


def _choices(numbers: Performance) -> str:
    if numbers.equality is None:
        raise KeyError("equality")
    lines = [f"    {line}" for line in numbers.equality.choices]
    # An indented block needs the comment's line and an empty one before it.
    return f"{measured([(NOW, numbers.equality.stamp)])}\n\n" + "\n".join(lines)


def _observations(numbers: Performance, left_out: bool) -> str:
    rows = []
    for seen in numbers.by_hand:
        if seen.left_out == left_out:
            rows.append([seen.what, seen.effect, seen.stamp.code, seen.stamp.machine])
    head = ["what", "effect", "stated at", "machine"]
    return table(head, rows, text_columns=range(len(head)))
