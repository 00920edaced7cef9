"""What to know beside the paper's claims: every number and every "ahead" or "behind" is computed."""

import itertools
from decimal import Decimal

from stylenat.reporting import markdown
from stylenat.reporting.claims import (
    BETTER,
    FASTER,
    FEWER,
    FID,
    FID_ROUNDED,
    MILLION,
    RATE,
    SETTINGS,
    SIZE,
    THEIR_FID,
    THEIR_RATE,
    THEIR_SIZE,
    TIMES,
    agrees,
    count_of,
    reduction,
    share_of_own,
)
from stylenat.reporting.paper import Key, PublishedNumber, PublishedNumbers

EVALUATION_COLUMNS = {
    "fd_dinov2": "FD ↓",
    "fd_infinity_dinov2": "FD∞ ↓",
    "kd_dinov2": "KD ↓",
    "precision_dinov2": "precision ↑",
    "recall_dinov2": "recall ↑",
    "density_dinov2": "density ↑",
    "coverage_dinov2": "coverage ↑",
}
EVALUATION = (
    'DINOv2 ViT-L/14 features, Stein et al. 2023 ("Exposing flaws of generative model evaluation metrics"; '
    "layer6ai-labs/dgm-eval); published, not measured here."
)


def notes_list(numbers: PublishedNumbers) -> str:
    """What to know beside the claims, as a list in Markdown."""
    return "".join(f"- {note(numbers)}\n" for note in NOTES)


def evaluation_table(numbers: PublishedNumbers) -> str:
    """The published scores in DINOv2 features, in Markdown."""
    rows = []
    for system in (key.system for key in numbers if key.quantity == "fd_dinov2"):
        rows.append([system, *(numbers[Key(system, quantity)].text for quantity in EVALUATION_COLUMNS)])
    return markdown.table(["model", *EVALUATION_COLUMNS.values()], rows) + "\n"


def _throughput_note(numbers: PublishedNumbers) -> str:
    ours = numbers[RATE]
    theirs = numbers[THEIR_RATE]
    share = share_of_own(ours.value, theirs.value)
    times = ours.value / theirs.value
    return (
        f"{numbers[FASTER].text} % is a share of StyleNAT's own rate: ({ours.text} − {theirs.text}) / "
        f"{ours.text} = {share:.1f} %. Over StyleGAN-XL's rate it is {100 * (times - 1):+.0f} %, or "
        f"{times:.2f} ×. Hardware, precision and batch size of both rates are stated nowhere."
    )


def _size_note(numbers: PublishedNumbers) -> str:
    claimed = numbers[FEWER].value
    ours = numbers[SIZE].value
    half = Decimal(5) * Decimal(10) ** (int(claimed.as_tuple().exponent) - 1)
    least, most = (ours / (1 - (claimed + shift) / 100) for shift in (-half, half))
    behind = numbers[THEIR_SIZE._replace(quantity="parameters_of_claim")]
    text = (
        f"{claimed} % fewer parameters needs a StyleGAN-XL of {least:.2f} to {most:.2f} M. The bubble chart "
        f"has {numbers[THEIR_SIZE]} M; {behind.text} M{_mark(behind)} gives "
        f"{reduction(ours, behind.value):.2f} %, and follows from no documented FFHQ setting."
    )
    counts = []
    for setting in SETTINGS:
        count = count_of(setting)
        if setting.key == THEIR_SIZE and count:
            fits = "would give it" if least <= Decimal(count) / MILLION <= most else "does not"
            counts.append(f"{setting.preset} with {count:,} {fits} ({setting.doubt})")
    return f"{text} Counted here: {'; '.join(counts)}." if counts else text


def _fid_note(numbers: PublishedNumbers) -> str:
    rounded = numbers[FID_ROUNDED]
    exact = numbers[FID]
    theirs = numbers[THEIR_FID].value
    gain = reduction(rounded.value, theirs)
    low, high = _spread(numbers)
    return (
        f"{numbers[BETTER].text} % follows from {rounded.text}; from {exact.text} it is "
        f"{reduction(exact.value, theirs):.2f} %. It compares one training run with one. The published "
        f"spread between training runs is {low} to {high} % (diffusion models; for GANs nobody has published "
        f"it); were it that of GANs, {gain:.1f} % would be {_deviations(gain, high):.1f} to "
        f"{_deviations(gain, low):.1f} standard deviations of a difference of two runs."
    )


def _flips_note(numbers: PublishedNumbers) -> str:
    ours = numbers[Key("StyleNAT", "ladder_hydra")]
    theirs = numbers[THEIR_FID]
    return (
        f"Without horizontal flips StyleNAT is said to have {ours.text}{_mark(ours)}, "
        f"{_place(ours, theirs)} StyleGAN-XL's {theirs.text}, which trains with flips as well."
    )


def _remeasured_note(numbers: PublishedNumbers) -> str:
    ours = numbers[RATE._replace(quantity="throughput_remeasured")]
    theirs = numbers[THEIR_RATE._replace(quantity="throughput_of_claim")]
    times = ours.value / theirs.value
    fits = "may set" if agrees(times, numbers[TIMES]) else "does not even set"
    return (
        f"An inference, not a finding: v3's {numbers[TIMES].text} × {fits} a re-measured rate of StyleNAT, "
        f"{ours.text}{_mark(ours)}, against the old one of StyleGAN-XL, {theirs.text}{_mark(theirs)}: "
        f"{ours.text} / {theirs.text} = {times:.2f}."
    )


def _styleswin_note(numbers: PublishedNumbers) -> str:
    fid = numbers[Key("StyleSwin", "fid")]
    given = f"give ± {fid.uncertainty} for" if fid.uncertainty else "give no interval for"
    return f"StyleSwin's authors {given} its {fid.text} on FFHQ-256 (microsoft/StyleSwin issue 17)."


def _later_note(numbers: PublishedNumbers) -> str:
    ours = numbers[FID]
    later = numbers[Key("StyleSAN-XL", "fid")]
    size = numbers[Key("StyleSAN-XL", "parameters_of_recipe")]
    other = numbers[Key("R3GAN", "fid")]
    return (
        f"State of the art as of November 2022. Later, at ICLR 2024, StyleSAN-XL stood {_place(later, ours)} "
        f"it with {later.text} on FFHQ-256, at {size.value / numbers[SIZE].value:.1f} times the parameters, "
        f"{size.text} M{_mark(size)}; R3GAN (NeurIPS 2024) is {_place(other, ours)} it with {other.text}."
    )


def _ladder_note(numbers: PublishedNumbers) -> str:
    steps = [
        ("StyleSwin", numbers[Key("StyleSwin", "fid")]),
        ("neighborhood attention", numbers[Key("StyleNAT", "ladder_na")]),
        ("Hydra, two partitions", numbers[Key("StyleNAT", "ladder_hydra")]),
        ("horizontal flips", numbers[Key("StyleNAT", "ladder_flips")]),
    ]
    _, high = _spread(numbers)
    parts = [f"{steps[0][0]} {steps[0][1].text}"]
    for (_, before), (name, after) in itertools.pairwise(steps):
        gain = reduction(after.value, before.value)
        parts.append(f"{name} {after.text} ({gain:.1f} % lower, {_deviations(gain, high):.1f} deviations)")
    hydra = steps[2][1]
    four = numbers[Key("StyleNAT", "ladder_four_partitions")]
    return (
        f"The paper's ladder{_mark(four)}: {' → '.join(parts)}. Four partitions instead of two: {four.text}, "
        f"{_place(four, hydra)} {hydra.text}. Deviations: of a difference of two runs that spread by "
        f"{high} %."
    )


def _church_note(numbers: PublishedNumbers) -> str:
    church = Key("StyleNAT", "", "LSUN Church")
    steps = []
    for partitions, heads in ((2, 4), (4, 4), (6, 8), (8, 8)):
        number = numbers[church._replace(quantity=f"ladder_{partitions}_partitions_{heads}_heads")]
        steps.append(f"{partitions} and {heads}: {number.text}")
    ours = numbers[church._replace(quantity="fid")]
    theirs = numbers[Key("StyleSwin", "fid", "LSUN Church")]
    return (
        f"LSUN Church by partitions and minimum heads{_mark(number)}: {', '.join(steps)}. StyleNAT's "
        f"{ours.text} is {_place(ours, theirs)} StyleSwin's {theirs.text}; no abstract names it."
    )


def _evaluation_note(numbers: PublishedNumbers) -> str:
    ours = numbers[Key("StyleNAT", "fd_dinov2")]
    parts = []
    for system in ("StyleGAN-XL", "StyleSwin", "LDM"):
        theirs = numbers[Key(system, "fd_dinov2")]
        parts.append(f"{_place(ours, theirs)} {system}'s {theirs.text}")
    return (
        f"By an independent evaluation in DINOv2 features (Stein et al. 2023) StyleNAT's FD of {ours.text} "
        f"on FFHQ-256 is {', '.join(parts)}."
    )


NOTES = (
    _throughput_note, _size_note, _fid_note, _flips_note, _remeasured_note, _styleswin_note, _later_note,
    _ladder_note, _church_note, _evaluation_note,
)  # fmt: skip


def _mark(number: PublishedNumber) -> str:
    return " (unverified)" if number.is_unverified else ""


def _place(number: PublishedNumber, other: PublishedNumber) -> str:
    """Where a number stands of which less is better."""
    if number.value == other.value:
        return "level with"
    return "ahead of" if number.value < other.value else "behind"


def _spread(numbers: PublishedNumbers) -> tuple[Decimal, Decimal]:
    """Coefficients of variation of FID between training runs, in percent: lower and upper."""
    low, high = (
        numbers[Key("diffusion models", f"training_spread_{end}", "", "")].value for end in ("low", "high")
    )
    return low, high


def _deviations(gain: Decimal, spread: Decimal) -> Decimal:
    """A gain in standard deviations of a difference of two runs; both in percent."""
    return gain / (spread * Decimal(2).sqrt())
