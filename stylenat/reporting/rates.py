"""Generators timed side by side in one run: the record, `results/generators.json`."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from stylenat.errors import UserError, check_fields
from stylenat.paths import from_json, to_json, workspace, write_atomically


class Spread(NamedTuple):
    """A number over the rounds of a run.

    Attributes:
        median: of the rounds.
        low: least.
        high: greatest.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one value a round."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class GeneratorRate:
    """What was measured of a generator at one batch size.

    Attributes:
        preset: of the generator.
        batch: images a call.
        parameters: that it learns.
        weights_gmac: 10⁹ multiply-accumulates of one image by learned weights.
        attention_gmac: the same in attention.
        filters_gmac: the same by fixed filters.
        seconds: of a call, one a round.
        matmul_seconds: of the call's products by learned weights alone, right after it.
        filters_share: share of a call's time in StyleGAN-XL's filtered activations; 0 where there are none.
        peak_memory_bytes: of a process of its own that calls it; on a GPU of its tensors.
        backend: attention backends that were used.
    """

    preset: str
    batch: int
    parameters: int
    weights_gmac: float
    attention_gmac: float
    filters_gmac: float
    seconds: tuple[float, ...]
    matmul_seconds: tuple[float, ...]
    filters_share: float
    peak_memory_bytes: int
    backend: str

    @property
    def images_per_second(self) -> Spread:
        """Images a second."""
        return Spread.of([self.batch / seconds for seconds in self.seconds])

    @property
    def latency(self) -> Spread:
        """Seconds of a call."""
        return Spread.of(self.seconds)

    @property
    def times_matmul(self) -> Spread:
        """A call's time by that of its products alone, next to it."""
        return Spread.of([a / b for a, b in zip(self.seconds, self.matmul_seconds, strict=True)])


@dataclass(frozen=True)
class Comparison:
    """Generators that were timed by turns in one run.

    Attributes:
        device: name of the hardware.
        threads: of PyTorch on the CPU.
        dtype: such as "float32".
        tf32: whether a GPU rounded operands to TF32.
        rounds: in each of which every generator was called once at every batch size.
        torch: its version.
        commit: of the code, where it is known.
        dirty: whether the code differed from it.
        rates: of every generator at every batch size.
    """

    device: str
    threads: int
    dtype: str
    tf32: bool
    rounds: int
    torch: str
    commit: str | None
    dirty: bool | None
    rates: tuple[GeneratorRate, ...]

    @property
    def presets(self) -> list[str]:
        """The generators, in the order of the rates."""
        return list(dict.fromkeys(rate.preset for rate in self.rates))

    def of(self, preset: str) -> list[GeneratorRate]:
        """The rates of a generator, smallest batch first."""
        return sorted((rate for rate in self.rates if rate.preset == preset), key=lambda rate: rate.batch)

    def best(self, preset: str) -> GeneratorRate:
        """The rate of the batch size that gives most images a second."""
        return max(self.of(preset), key=lambda rate: rate.images_per_second.median)

    @property
    def machine(self) -> str:
        """Such as "AMD EPYC, 2 threads, float32"."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"{self.device}, {threads}, {self.dtype}{', TF32' * self.tf32}"

    @property
    def circumstances(self) -> str:
        """Machine, versions and rounds in a line."""
        code = f"commit {self.commit[:7]}" if self.commit else "commit not known"
        changed = " with changes" if self.dirty else ""
        return f"{self.machine}, torch {self.torch}, {self.rounds} rounds, {code}{changed}"


def read_comparisons() -> list[Comparison]:
    """What is recorded: one comparison a machine, number of threads and dtype, most threads first.

    Raises:
        UserError: the file is damaged.
    """
    path = workspace("results", "generators.json")
    if not path.is_file():
        return []
    try:
        entries = from_json(path.read_text(encoding="utf-8"))
        return [_comparison(entry) for entry in entries["comparisons"]]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"results/generators.json is damaged ({error}): restore it from git, or delete it"
        ) from None


def _comparison(entry: dict) -> Comparison:
    rates = []
    for one in entry["rates"]:
        times = {name: tuple(one[name]) for name in ("seconds", "matmul_seconds")}
        rate = GeneratorRate(**{**one, **times})
        check_fields(rate)
        if not rate.seconds or len(rate.seconds) != len(rate.matmul_seconds):
            raise UserError(f"{rate.preset} lacks times of its rounds")
        if min(*rate.seconds, *rate.matmul_seconds) <= 0:
            raise UserError(f"{rate.preset} has a time that is not above 0")
        rates.append(rate)
    comparison = Comparison(**{**entry, "rates": tuple(rates)})
    check_fields(comparison)
    return comparison


def record_comparison(comparison: Comparison) -> None:
    """Keep a comparison in results/generators.json, in the place of that of the same machine."""
    kept = [found for found in read_comparisons() if found.machine != comparison.machine]
    kept = sorted([*kept, comparison], key=lambda found: -found.threads)
    text = to_json({"comparisons": [asdict(found) for found in kept]}, indent=1)
    write_atomically(workspace("results", "generators.json"), text + "\n")


def recorded_comparison() -> Comparison | None:
    """The comparison that tables and figures show first; None where none is recorded."""
    return next(iter(read_comparisons()), None)
