"""results/performance.json: every number with the commit and the machine that it was measured on."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stylenat.benchmark.cases import BEFORE, Measurement
from stylenat.benchmark.peers import Comparison, Way
from stylenat.paths import from_json, to_json, workspace, write_atomically
from stylenat.provenance import provenance

_SHORT = 7  # digits of a commit
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Stamp:
    """Where a number comes from; None stands for what was not recorded.

    Attributes:
        commit: of the code that was measured; of a number found by hand, the commit that first states it.
        dirty: whether that code differed from the commit.
        benchmark: commit of the code that measured.
        device: name of the hardware.
        threads: of PyTorch.
        torch: its version.
    """

    commit: str | None
    dirty: bool | None = None
    benchmark: str | None = None
    device: str | None = None
    threads: int | None = None
    torch: str | None = None

    @classmethod
    def here(cls) -> "Stamp":
        """Of this clone on this machine."""
        made = provenance()
        return cls(
            commit=made["commit"],
            dirty=made["dirty"],
            benchmark=made["commit"],
            device=made["device"],
            threads=made["threads"],
            torch=made["versions"]["torch"],
        )

    def of_base(self, commit: str) -> "Stamp":
        """The same for a clean checkout of another commit, measured by this one's code."""
        return replace(self, commit=commit, dirty=False)

    @property
    def code(self) -> str:
        """The commit in a few words; where another one's code measured it, that too."""
        if self.commit is None:
            return f"commit {NOT_RECORDED}"
        text = f"commit {self.commit[:_SHORT]}" + (" with changes" if self.dirty else "")
        if self.benchmark and self.benchmark != self.commit:
            text += f" (by the benchmark of {self.benchmark[:_SHORT]})"
        return text

    @property
    def place(self) -> str:
        """Hardware and threads: what numbers are compared on, and kept by."""
        if self.device is None:
            return NOT_RECORDED
        return f"{self.device}, {self.threads} thread{'' if self.threads == 1 else 's'}"

    @property
    def machine(self) -> str:
        """Hardware, threads and PyTorch in a few words."""
        return self.place if self.device is None else f"{self.place}, torch {self.torch}"

    def __str__(self) -> str:
        return f"{self.code}, machine: {self.machine}"


@dataclass(frozen=True)
class Entry:
    """A measured case.

    Attributes:
        measurement: its numbers.
        stamp: where they come from.
    """

    measurement: Measurement
    stamp: Stamp


@dataclass(frozen=True)
class Compared:
    """What was compared in one process.

    Attributes:
        comparisons: one after the other.
        stamp: where they come from.
    """

    comparisons: list[Comparison]
    stamp: Stamp


@dataclass(frozen=True)
class Profile:
    """The operators that took most of one image.

    Attributes:
        operators: of each its name, milliseconds and calls.
        stamp: where they come from.
    """

    operators: list[tuple[str, float, int]]
    stamp: Stamp


@dataclass(frozen=True)
class Equality:
    """How exact today's fast code is.

    Attributes:
        errors: by name the relative errors of the output and of each gradient.
        choices: the backends that `auto` took, a line each.
        stamp: where they come from.
    """

    errors: dict[str, list[float]]
    choices: list[str]
    stamp: Stamp


@dataclass(frozen=True)
class LowPrecision:
    """What bfloat16 gains, and what it costs; see `benchmark.low_precision`.

    Attributes:
        instructions: of the CPU.
        times: by case and kind seconds, and median, least and greatest multiple of the float32 products.
        errors: of each psi: psi, images, PSNR of all and of the worst in dB, mean and largest difference.
        scores: by column and type, a value a seed of samples.
        stamp: where they come from.
    """

    instructions: str
    times: dict[str, dict[str, list[float]]]
    errors: list[list[float]]
    scores: dict[str, dict[str, list[float]]]
    stamp: Stamp


@dataclass(frozen=True)
class Prediction:
    """What a change was expected to bring before it was made.

    Attributes:
        what: the change.
        predicted: from a profile, by hand.
        stamp: which commit first states it.
    """

    what: str
    predicted: str
    stamp: Stamp


@dataclass(frozen=True)
class Observation:
    """What was found by hand, with no script that would find it again.

    Attributes:
        what: was tried, or looked at.
        effect: what was found.
        left_out: whether it was tried as a change and left out.
        stamp: which commit first states it.
    """

    what: str
    effect: str
    left_out: bool
    stamp: Stamp


@dataclass
class Performance:
    """All of results/performance.json.

    Attributes:
        base: the commit that *before* is.
        cases: entries by case, state and place, such as `cases["sample-256"]["now"]["a CPU, 2 threads"]`.
        compared: by comparison and place.
        profiles: by state.
        equality: None before it was measured.
        low_precision: None before it was measured.
        predictions: by change.
        by_hand: what no script measures.
    """

    base: str = ""
    cases: dict[str, dict[str, dict[str, Entry]]] = field(default_factory=dict)
    compared: dict[str, dict[str, Compared]] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    equality: Equality | None = None
    low_precision: LowPrecision | None = None
    predictions: dict[str, Prediction] = field(default_factory=dict)
    by_hand: list[Observation] = field(default_factory=list)

    def places(self, case: str, state: str) -> list[str]:
        """Where a state of a case was measured, sorted.

        Raises:
            KeyError: nowhere.
        """
        return sorted(self.cases[case][state])

    def found(self, case: str, state: str, place: str) -> Entry | None:
        """The entry of a case; None where it was not measured there."""
        return self.cases.get(case, {}).get(state, {}).get(place)

    def entry(self, case: str, state: str, place: str) -> Entry:
        """The entry of a case.

        Raises:
            KeyError: it was not measured there.
        """
        return self.cases[case][state][place]

    def add(self, task: str, state: str, case: str, found: Any, stamp: Stamp) -> None:
        """Put the result of a task of `benchmark.cases` in its place.

        Args:
            task: "measure", "compare", "profile", "equality" or "low_precision".
            state: such as "now".
            case: name of the case, for "measure", or of the comparison, for "compare".
            found: what the task returned, through JSON.
            stamp: of this clone; in the state "before" that of the base takes its place.
        """
        own = stamp.of_base(self.base) if state == BEFORE else stamp
        if task == "measure":
            states = self.cases.setdefault(case, {})
            states.setdefault(state, {})[own.place] = Entry(Measurement(**found), own)
        elif task == "compare":
            self.compared.setdefault(case, {})[own.place] = Compared(_comparisons(found), own)
        elif task == "profile":
            self.profiles[state] = Profile([tuple(operator) for operator in found], own)
        elif task == "equality":
            self.equality = Equality(**found, stamp=own)
        else:
            self.low_precision = LowPrecision(**found, stamp=own)


def read(path: Path | None = None) -> Performance:
    """All numbers so far; none where there is no file.

    Args:
        path: default: results/performance.json of the workspace.
    """
    file = path or _path()
    if not file.is_file():
        return Performance()
    content = from_json(file.read_text(encoding="utf-8"))
    numbers = Performance(base=content["base"])
    numbers.cases = _cases(content["cases"])
    for name, places in content["compared"].items():
        numbers.compared[name] = {}
        for place, entry in places.items():
            kept_here = Compared(_comparisons(entry["comparisons"]), Stamp(**entry["stamp"]))
            numbers.compared[name][place] = kept_here
    for state, entry in content["profiles"].items():
        operators = [tuple(operator) for operator in entry["operators"]]
        numbers.profiles[state] = Profile(operators, Stamp(**entry["stamp"]))
    if content["equality"]:
        numbers.equality = Equality(**_stamped(content["equality"]))
    if content.get("low_precision"):
        numbers.low_precision = LowPrecision(**_stamped(content["low_precision"]))
    for change, entry in content["predictions"].items():
        numbers.predictions[change] = Prediction(**_stamped(entry))
    numbers.by_hand = [Observation(**_stamped(entry)) for entry in content["by_hand"]]
    return numbers


def _cases(content: dict) -> dict[str, dict[str, dict[str, Entry]]]:
    cases: dict[str, dict[str, dict[str, Entry]]] = {}
    for case, states in content.items():
        cases[case] = {}
        for state, places in states.items():
            cases[case][state] = {}
            for place, entry in places.items():
                kept = Entry(Measurement(**entry["measurement"]), Stamp(**entry["stamp"]))
                cases[case][state][place] = kept
    return cases


def _comparisons(found: list[dict]) -> list[Comparison]:
    comparisons = []
    for each in found:
        ways = [Way(**way) for way in each["ways"]]
        comparisons.append(Comparison(each["title"], each["direction"], ways))
    return comparisons


def _stamped(entry: dict) -> dict:
    return entry | {"stamp": Stamp(**entry["stamp"])}


def to_text(numbers: Performance) -> str:
    """The file's text; the same numbers give the same bytes."""
    return to_json(asdict(numbers), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write(numbers: Performance) -> None:
    """Write results/performance.json, atomically: an interrupted run loses the case it was at."""
    write_atomically(_path(), to_text(numbers))


def _path() -> Path:
    return workspace("results", "performance.json")
