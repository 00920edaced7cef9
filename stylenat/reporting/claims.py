"""The numbers of the paper's abstracts, recomputed: operands → arithmetic → verdict.

A claim is data: which rows of results/paper.csv it is computed from, how, and which row it has to agree with.
So a wrong number there changes the verdict. What this repository counts and measures itself stands in columns
of its own.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import NamedTuple

import pandas as pd
import torch

from stylenat.models.base import count_parameters
from stylenat.models.build import build_generator
from stylenat.presets import PRESETS
from stylenat.reporting import markdown
from stylenat.reporting.paper import Key, PublishedNumber, PublishedNumbers
from stylenat.reporting.rates import recorded_comparison

MILLION = 10**6


class Verdict(StrEnum):
    """What becomes of a claim."""

    PUBLISHED = "reproduced from published numbers"
    MEASURED = "measured here"
    CONTRADICTED = "contradicted"
    UNCHECKED = "not checkable here"


@dataclass(frozen=True)
class Arithmetic:
    """How a claim follows from its operands.

    Attributes:
        formula: the same as text, with the operands' names in braces.
        compute: of the operands by name.
        unit: of what it gives.
        of: what a share is of; empty for other numbers.
    """

    formula: str
    compute: Callable[..., Decimal]
    unit: str = ""
    of: str = ""

    def text(self, operands: Mapping[str, str], result: Decimal) -> str:
        """Such as "(2.19 − 2.05) / 2.19 = 6.39 % of StyleGAN-XL's"."""
        formula = self.formula.format(**operands)
        if self.compute is _itself:
            return formula
        return " ".join(filter(None, (f"{formula} = {_rounded(result)}", self.unit, self.of)))


@dataclass(frozen=True)
class Claim:
    """A sentence of an abstract that holds a number.

    Attributes:
        name: short, for tests and the CSV.
        sentence: what is said, in our words, without its number.
        where: the versions that say it.
        claimed: the row of paper.csv that holds its number.
        arithmetic: how it follows.
        operands: rows of paper.csv by the arithmetic's names.
        takes: what a check would take, where nothing but the authors' own number is published.
    """

    name: str
    sentence: str
    where: str
    claimed: Key
    arithmetic: Arithmetic
    operands: Mapping[str, Key] = field(default_factory=dict)
    takes: str = ""


@dataclass(frozen=True)
class CheckedClaim:
    """A claim and what was found.

    Attributes:
        claim: as stated.
        number: what it claims.
        published: what the published operands give.
        published_text: the same with its arithmetic.
        counted: what this repository's counts or measured rates give, by presets.
        counted_text: the same in words; empty where there are none.
        verdict: whether that is the claim, to its printed digits.
    """

    claim: Claim
    number: PublishedNumber
    published: Decimal
    published_text: str
    counted: Mapping[str, Decimal]
    counted_text: str
    verdict: Verdict


class Setting(NamedTuple):
    """A preset whose parameters or rate can be compared with a published number.

    Attributes:
        key: the published number.
        preset: its name, whether or not there is such a preset.
        doubt: why it may be another network than the published one; empty where it is that.
    """

    key: Key
    preset: str
    doubt: str = ""


def reduction(ours: Decimal, theirs: Decimal) -> Decimal:
    """How much less ours is, in percent of theirs."""
    return 100 * (theirs - ours) / theirs


def share_of_own(ours: Decimal, theirs: Decimal) -> Decimal:
    """How much more ours is, in percent of ours."""
    return 100 * (ours - theirs) / ours


def _times(ours: Decimal, theirs: Decimal) -> Decimal:
    return ours / theirs


def _least(**operands: Decimal) -> Decimal:
    return min(operands.values())


def _itself(ours: Decimal) -> Decimal:
    return ours


def _reduction_of(what: str) -> Arithmetic:
    return Arithmetic("({theirs} − {ours}) / {theirs}", reduction, "%", f"of StyleGAN-XL's {what}")


def _least_of(names: Iterable[str]) -> Arithmetic:
    return Arithmetic(f"min({', '.join(f'{{{name}}}' for name in names)})", _least)


FID = Key("StyleNAT", "fid")
FID_1024 = Key("StyleNAT", "fid", resolution="1024")
FID_ROUNDED = Key("StyleNAT", "claim_fid_v3")
THEIR_FID = Key("StyleGAN-XL", "fid")
SIZE = Key("StyleNAT", "parameters")
THEIR_SIZE = Key("StyleGAN-XL", "parameters")
RATE = Key("StyleNAT", "throughput")
THEIR_RATE = Key("StyleGAN-XL", "throughput")
FEWER = Key("StyleNAT", "claim_fewer_parameters")
FASTER = Key("StyleNAT", "claim_higher_throughput")
BETTER = Key("StyleNAT", "claim_better_fid")
TIMES = Key("StyleNAT", "claim_times_throughput")

ITSELF = Arithmetic("{ours} in the authors' README", _itself)
RIVALS = {
    "ours": FID,
    "stylegan_xl": THEIR_FID,
    "hit": Key("HiT-L", "fid"),
    "styleswin": Key("StyleSwin", "fid"),
}
TRANSFORMERS = {
    "ours": FID_1024,
    "styleswin": Key("StyleSwin", "fid", resolution="1024"),
    "hit": Key("HiT-B", "fid", resolution="1024"),
}
TO_SCORE = "the published weights, FFHQ, Inception's weights and a GPU, for `evaluate … --metric fid`"

CLAIMS = (
    Claim("fid-256", "FID on FFHQ-256", "v1, v2", Key("StyleNAT", "claim_fid"), ITSELF, {"ours": FID},
          TO_SCORE),
    Claim("best-256", "best FID on FFHQ-256, ahead of StyleGAN-XL, HiT and StyleSwin", "v1, v2",
          Key("StyleNAT", "claim_fid"), _least_of(RIVALS), RIVALS),
    Claim("fid-1024", "FID on FFHQ-1024", "v1, v2", Key("StyleNAT", "claim_fid", resolution="1024"), ITSELF,
          {"ours": FID_1024}, TO_SCORE),
    Claim("best-1024", "best FID of a transformer on FFHQ-1024", "v1, v2",
          Key("StyleNAT", "claim_fid", resolution="1024"), _least_of(TRANSFORMERS), TRANSFORMERS),
    Claim("better-fid", "better FID than StyleGAN-XL, FFHQ-256", "v1, v2", BETTER, _reduction_of("FID"),
          {"ours": FID_ROUNDED, "theirs": THEIR_FID}),
    Claim("fewer-parameters", "fewer parameters than StyleGAN-XL", "v1, v2, v3", FEWER,
          _reduction_of("parameters"), {"ours": SIZE, "theirs": THEIR_SIZE}),
    Claim("throughput", "higher sampling throughput than StyleGAN-XL", "v1, v2", FASTER,
          Arithmetic("({ours} − {theirs}) / {ours}", share_of_own, "%", "of StyleNAT's own rate"),
          {"ours": RATE, "theirs": THEIR_RATE}),
    Claim("fid-256-v3", "FID on FFHQ", "v3", FID_ROUNDED, ITSELF, {"ours": FID}, TO_SCORE),
    Claim("better-fid-v3", "better FID than StyleGAN-XL", "v3", Key("StyleNAT", "claim_better_fid_v3"),
          _reduction_of("FID"), {"ours": FID_ROUNDED, "theirs": THEIR_FID}),
    Claim("times-throughput", "StyleGAN-XL's throughput", "v3", TIMES,
          Arithmetic("{ours} / {theirs}", _times, "×"), {"ours": RATE, "theirs": THEIR_RATE}),
)  # fmt: skip

AGREES = (
    "Published numbers agree with a claim if they give it to its printed digits. Rates measured here, at the "
    "smallest batch, stand beside them and decide no verdict: of the published ones no hardware is known."
)
GUESSED = "inferred; a hit among thousands of settings is no proof"
UNDOCUMENTED = "documented nowhere for FFHQ"
SETTINGS = (
    Setting(SIZE, "ffhq-256"),
    Setting(SIZE._replace(resolution="1024"), "ffhq-1024"),
    Setting(Key("StyleSwin", "parameters"), "styleswin-256"),
    Setting(Key("StyleSwin", "parameters", resolution="1024"), "styleswin-1024"),
    Setting(THEIR_SIZE, "stylegan-xl-a", "its README's FFHQ setting"),
    Setting(THEIR_SIZE, "stylegan-xl-b", UNDOCUMENTED),
    Setting(THEIR_SIZE, "stylegan-xl-c", UNDOCUMENTED),
    Setting(THEIR_SIZE, "stylegan-xl-e", GUESSED),
    Setting(Key("HiT-L", "parameters"), "hit-l", "inferred"),
    Setting(Key("HiT-B", "parameters"), "hit-b"),
)
RATED = (
    Setting(RATE, "ffhq-256"),
    Setting(THEIR_RATE, "stylegan-xl-a", "its README's FFHQ setting"),
    Setting(THEIR_RATE, "stylegan-xl-e", GUESSED),
)
CLASS_EMBEDDING = 320_000  # in StyleGAN-XL's published networks; without use for faces, so not built here
EMBEDDING_NOTE = (
    f"StyleGAN-XL's counts hold, as published, {CLASS_EMBEDDING:,} parameters of a class embedding that "
    "faces have no use for; the presets do not build it.\n"
)


@functools.cache
def counted_parameters(preset: str) -> int | None:
    """Parameters of a preset's generator, counted in the network; None where there is no such preset.

    StyleGAN-XL's are those of the published network, with `CLASS_EMBEDDING`.
    """
    if preset not in PRESETS:
        return None
    with torch.device("meta"):
        count = count_parameters(build_generator(preset))
    return count + (CLASS_EMBEDDING if PRESETS[preset].generator == "stylegan-xl" else 0)


# Verdicts


def agrees(result: Decimal, number: PublishedNumber) -> bool:
    """Whether a result is a published number, to its printed digits or within its uncertainty."""
    if number.uncertainty:
        return abs(result - number.value) <= Decimal(number.uncertainty)
    return result.quantize(number.value, ROUND_HALF_UP) == number.value


def check(claim: Claim, numbers: PublishedNumbers) -> CheckedClaim:
    """A claim's verdict from the published numbers and this repository's counts.

    Raises:
        UserError: paper.csv lacks a row that the claim needs.
    """
    number = numbers[claim.claimed]
    operands = {name: numbers[key] for name, key in claim.operands.items()}
    result = claim.arithmetic.compute(**{name: operand.value for name, operand in operands.items()})
    text = claim.arithmetic.text({name: operand.text for name, operand in operands.items()}, result)
    counted, counted_text, is_known = _count(claim)
    holds = agrees(result, number)
    if counted and is_known:
        holds = holds and all(agrees(value, number) for value in counted.values())
    if not holds:
        verdict = Verdict.CONTRADICTED
    elif claim.takes:
        verdict = Verdict.UNCHECKED
    else:
        verdict = Verdict.MEASURED if counted and is_known else Verdict.PUBLISHED
    return CheckedClaim(claim, number, result, text, counted, counted_text, verdict)


def _count(claim: Claim) -> tuple[dict[str, Decimal], str, bool]:
    """What a claim is by own numbers: results by presets, as text, whether they are of what was published.

    Nothing where an operand has none; every combination where one has several settings.
    """
    choices = []
    values: dict[Setting, Decimal] = {}
    for key in claim.operands.values():
        own = {setting: own_value(setting) for setting in (*SETTINGS, *RATED) if setting.key == key}
        choices.append([setting for setting, value in own.items() if value])
        values |= own
    results = {}
    texts = []
    is_known = True
    for combination in itertools.product(*choices):
        operands = {name: values[setting] for name, setting in zip(claim.operands, combination, strict=True)}
        result = claim.arithmetic.compute(**operands)
        rival = combination[-1]
        results[rival.preset] = result
        doubt = f"({rival.doubt})" if rival.doubt else ""
        parts = (f"{rival.preset}:", _rounded(result), claim.arithmetic.unit, doubt)
        texts.append(" ".join(filter(None, parts)))
        is_known = is_known and not any(setting.doubt for setting in combination)
    comparison = recorded_comparison()
    where = f"{comparison.machine}: " if comparison and texts and claim.operands["ours"] == RATE else ""
    return results, where + "; ".join(texts), is_known


def own_value(setting: Setting) -> Decimal:
    """The setting's parameters, or its recorded images a second at the smallest batch; 0 for none."""
    if setting not in RATED:
        return Decimal(count_of(setting))
    comparison = recorded_comparison()
    rates = comparison.of(setting.preset) if comparison else []
    return Decimal(str(rates[0].images_per_second.median)) if rates else Decimal(0)


def count_of(setting: Setting) -> int:
    """The setting's parameters; 0 where its generator is not in this repository."""
    return counted_parameters(setting.preset) or 0


def _rounded(value: Decimal) -> str:
    """Two digits after the point for what was divided, all digits for what was only picked."""
    exponent = value.as_tuple().exponent
    text = str(value) if isinstance(exponent, int) and exponent >= -4 else f"{value:.2f}"
    return text.replace("-", "−")


# The tables


def check_claims(numbers: PublishedNumbers) -> list[CheckedClaim]:
    """Every claim with its verdict, in the order of the abstracts."""
    return [check(claim, numbers) for claim in CLAIMS]


def claims_frame(checked: Sequence[CheckedClaim]) -> pd.DataFrame:
    """The claims as raw values, a row a claim; by published numbers and by own ones in columns apart."""
    rows = []
    for one in checked:
        claim = one.claim
        rows.append(
            {
                "claim": claim.name,
                "where": claim.where,
                "sentence": claim.sentence,
                "claimed": one.number.text,
                "unit": claim.arithmetic.unit,
                "operands": "; ".join(map(str, claim.operands.values())),
                "published_result": float(f"{one.published:.10g}"),
                "counted_results": "; ".join(f"{name}: {value:.4f}" for name, value in one.counted.items()),
                "verdict": one.verdict.value,
                "takes": claim.takes,
            }
        )
    return pd.DataFrame(rows)


def claims_table(checked: Sequence[CheckedClaim]) -> str:
    """The claims in Markdown: sentence, where, arithmetic by published numbers and by own ones, verdict."""
    rows = []
    for one in checked:
        claim = one.claim
        takes = f": it takes {claim.takes}" if one.verdict is Verdict.UNCHECKED else ""
        number = " ".join(filter(None, (one.number.text, claim.arithmetic.unit)))
        sentence = f"{number} {claim.sentence}" if claim.arithmetic.unit else f"{claim.sentence}: {number}"
        cells = [sentence, claim.where, one.published_text, one.counted_text or "–", one.verdict + takes]
        rows.append(cells)
    head = ["the abstract says", "in", "by published numbers", "counted or measured here", "verdict"]
    return markdown.table(head, rows, text_columns=range(5)) + "\n"


def sources_list(numbers: PublishedNumbers) -> str:
    """Where the claims and their operands stand, as a list in Markdown: a line a number."""
    keys: dict[Key, None] = {}  # in order, without repetition
    for claim in CLAIMS:
        keys |= dict.fromkeys([claim.claimed, *claim.operands.values()])
    lines = []
    for key in keys:
        number = numbers[key]
        lines.append(f"- {key}: {' '.join(filter(None, (str(number), number.unit)))} ({number.source})\n")
    return "".join(lines)


def parameters_table(numbers: PublishedNumbers) -> str:
    """Parameters in Markdown, as published and as counted in this repository's generators."""
    rows = []
    for key in dict.fromkeys(setting.key for setting in SETTINGS):
        settings = [setting for setting in SETTINGS if setting.key == key]
        number = numbers.get(key)
        shown = str(number) if number else "–"
        built = [setting for setting in settings if count_of(setting)]
        for setting in built:
            verdict = _size_verdict(setting, number)
            rows.append(
                [key.system, key.resolution, shown, f"{count_of(setting):,}", f"`{setting.preset}`", verdict]
            )
        if not built and number:
            verdict = f"{Verdict.UNCHECKED}: it takes its generator in this repository"
            rows.append([key.system, key.resolution, shown, "–", "–", verdict])
    head = ["generator", "resolution", "published (M)", "counted here", "preset", "verdict"]
    return markdown.table(head, rows, text_columns=(0, 4, 5)) + f"\n\n{EMBEDDING_NOTE}"


def _size_verdict(setting: Setting, number: PublishedNumber | None) -> str:
    if number is None:
        return "nothing published"
    fits = agrees(Decimal(count_of(setting)) / MILLION, number)
    if setting.doubt:
        return f"{'fits' if fits else 'does not fit'}: {setting.doubt}"
    return Verdict.MEASURED if fits else Verdict.CONTRADICTED
