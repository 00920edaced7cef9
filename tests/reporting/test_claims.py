"""Every claim has a verdict that its numbers decide: change one, and it changes."""

from dataclasses import replace
from decimal import Decimal

import pandas as pd
import pytest

from stylenat.reporting import caveats, claims
from stylenat.reporting.claims import CLAIMS, SETTINGS, Arithmetic, Claim, Verdict, agrees, check
from stylenat.reporting.paper import Key, PublishedNumber, published_numbers
from stylenat.reporting.tables import build_tables

UNCHECKED = {"fid-256", "fid-1024", "fid-256-v3"}
XL = {"stylegan-xl-a": 34_015_675, "stylegan-xl-c": 67_413_566, "stylegan-xl-e": 67_928_945}


@pytest.fixture
def numbers(empty_workspace):
    return published_numbers()


@pytest.fixture
def built(monkeypatch):
    """As if StyleGAN-XL's and HiT's generators were in the repository."""
    counts = {**XL, "hit-b": 46_217_670, "hit-l": 97_462_214, "ffhq-256": 48_921_000}
    monkeypatch.setattr(claims, "counted_parameters", counts.get)


def change(path, key, value):
    """Another number in paper.csv, and nothing else."""
    lines = path.read_text().splitlines(keepends=True)
    (index,) = [i for i, line in enumerate(lines) if line.startswith(f"{','.join(key)},")]
    old = published_numbers()[key].text
    lines[index] = lines[index].replace(f"{','.join(key)},{old},", f"{','.join(key)},{value},")
    path.write_text("".join(lines))
    assert published_numbers()[key].text == value


def verdicts(numbers):
    return {one.claim.name: one.verdict for one in claims.check_claims(numbers)}


def named(name):
    return next(claim for claim in CLAIMS if claim.name == name)


def test_verdicts_of_the_published_numbers(numbers):
    expected = dict.fromkeys((claim.name for claim in CLAIMS), Verdict.PUBLISHED)
    expected |= dict.fromkeys(UNCHECKED, Verdict.UNCHECKED) | {"times-throughput": Verdict.CONTRADICTED}
    assert verdicts(numbers) == expected


def test_every_number_of_the_abstracts_is_claimed(numbers):
    claimed = {numbers[claim.claimed].text for claim in CLAIMS}
    assert claimed == {"2.046", "4.174", "6.4", "28", "56", "2.05", "6", "4"}


def test_results_are_those_of_plain_arithmetic(numbers):
    found = {one.claim.name: float(one.published) for one in claims.check_claims(numbers)}
    assert found["better-fid"] == found["better-fid-v3"] == pytest.approx(100 * (2.19 - 2.05) / 2.19)
    assert found["fewer-parameters"] == pytest.approx(100 * (67.7 - 48.92) / 67.7)
    assert found["throughput"] == pytest.approx(100 * (32.56 - 14.28) / 32.56)
    assert found["times-throughput"] == pytest.approx(32.56 / 14.28)
    assert found["best-256"] == 2.046 and found["best-1024"] == 4.174


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_another_claim_has_another_verdict(empty_workspace, claim):
    """The claim's own number doubled; of the one that does not hold, what does follow."""
    holds = claim.name != "times-throughput"
    value = str(2 * published_numbers()[claim.claimed].value) if holds else "2.28"
    change(empty_workspace / "results" / "paper.csv", claim.claimed, value)
    after = check(claim, published_numbers()).verdict
    assert after is (Verdict.CONTRADICTED if holds else Verdict.PUBLISHED)


@pytest.mark.parametrize(
    ("name", "operand", "value"),
    [
        ("fid-256", "ours", "2.06"),
        ("best-256", "hit", "1.9"),
        ("best-256", "stylegan_xl", "2.01"),
        ("fid-1024", "ours", "4.2"),
        ("best-1024", "styleswin", "4.1"),
        ("better-fid", "theirs", "2.25"),
        ("fewer-parameters", "theirs", "34.0"),
        ("throughput", "theirs", "16.1"),
        ("throughput", "ours", "59.90"),
        ("fid-256-v3", "ours", "2.06"),
        ("better-fid-v3", "ours", "2.10"),
    ],
)
def test_a_wrong_operand_contradicts_the_claim(empty_workspace, name, operand, value):
    claim = named(name)
    change(empty_workspace / "results" / "paper.csv", claim.operands[operand], value)
    assert check(claim, published_numbers()).verdict is Verdict.CONTRADICTED
    build_tables()
    frame = pd.read_csv(empty_workspace / "results" / "tables" / "claims.csv").set_index("claim")
    assert frame.loc[name, "verdict"] == "contradicted"


@pytest.mark.parametrize(
    ("text", "uncertainty", "result", "expected"),
    [
        ("28", "", "27.5", True),
        ("28", "", "28.4999", True),
        ("28", "", "27.4999", False),
        ("6.4", "", "6.35", True),
        ("6.4", "", "6.46", False),
        ("48.9", "0.5", "49.4", True),
        ("48.9", "0.5", "49.41", False),
    ],
)
def test_a_result_agrees_to_the_printed_digits_or_within_the_uncertainty(text, uncertainty, result, expected):
    assert agrees(Decimal(result), PublishedNumber(text, "", uncertainty, "somewhere", "")) is expected


# Counts


def test_counts_are_of_the_networks_themselves():
    counts = {"ffhq-256": 48_921_000, "styleswin-256": 48_929_512, "hit-l": 97_462_214, **XL}
    for name, count in counts.items():
        assert claims.counted_parameters(name) == count
    assert claims.counted_parameters("no-such-preset") is None


def test_parameters_as_published_and_as_counted(numbers):
    text = claims.parameters_table(numbers)
    assert "| StyleNAT | 256 | 48.92 | 48,921,000 | `ffhq-256` | measured here |" in text
    assert "| StyleNAT | 1024 | 49.45 | 49,452,934 | `ffhq-1024` | measured here |" in text
    assert "| StyleSwin | 256 | 48.9 ± 0.5 | 48,929,512 | `styleswin-256` | measured here |" in text
    assert "| StyleSwin | 1024 | 40.86 | 40,862,990 | `styleswin-1024` | measured here |" in text


def test_a_wrong_published_size_is_caught(empty_workspace):
    change(empty_workspace / "results" / "paper.csv", claims.SIZE, "48.93")
    row = "| StyleNAT | 256 | 48.93 | 48,921,000 | `ffhq-256` | contradicted |"
    assert row in claims.parameters_table(published_numbers())


def test_a_generator_that_is_not_here_is_not_counted(numbers, monkeypatch):
    monkeypatch.setattr(claims, "counted_parameters", lambda preset: None)
    text = claims.parameters_table(numbers)
    missing = "| – | – | not checkable here: it takes its generator in this repository |"
    assert f"| StyleGAN-XL | 256 | 67.7 ± 0.5 {missing}" in text and text.count(missing) == 6
    assert all(not one.counted for one in claims.check_claims(numbers))
    assert "Counted here" not in caveats.notes_list(numbers)


def test_generators_that_come_later_fall_in(numbers, built):
    text = claims.parameters_table(numbers)
    assert "| 34,015,675 | `stylegan-xl-a` | does not fit: its README's FFHQ setting |" in text
    assert "| 67,928,945 | `stylegan-xl-e` | fits: inferred; a hit among thousands" in text
    assert "| HiT-L | 256 | 97.6 ± 0.5 | 97,462,214 | `hit-l` | fits: inferred |" in text
    assert "| HiT-B | 256 | – | 46,217,670 | `hit-b` | nothing published |" in text
    found = check(named("fewer-parameters"), numbers)
    assert found.verdict is Verdict.PUBLISHED  # which of them was published, nobody says
    assert "stylegan-xl-a: −43.82 % (its README's FFHQ setting)" in found.counted_text
    assert "stylegan-xl-e: 27.98 % (inferred;" in found.counted_text
    note = caveats.notes_list(numbers)
    assert "stylegan-xl-a with 34,015,675 does not (" in note
    assert "stylegan-xl-c with 67,413,566 does not (" in note
    assert "stylegan-xl-e with 67,928,945 would give it (inferred" in note


def test_counts_of_the_published_networks_decide(numbers, monkeypatch):
    """Were both operands counted in the published networks, the claim would be measured, or contradicted."""
    sizes = {"ours": claims.SIZE, "theirs": Key("StyleSwin", "parameters")}
    same = Arithmetic("{ours} / {theirs}", lambda ours, theirs: 100 * ours / theirs, "%")
    number = PublishedNumber("100", "%", "", "somewhere", "")
    table = type(numbers)({**numbers, Key("X", "claim"): number})
    claim = Claim("x", "as large", "v1", Key("X", "claim"), same, sizes)
    assert check(claim, table).verdict is Verdict.MEASURED
    monkeypatch.setattr(claims, "counted_parameters", {"ffhq-256": 1, "styleswin-256": 2}.get)
    assert check(claim, table).verdict is Verdict.CONTRADICTED
    table[Key("X", "claim")] = replace(number, text="50")  # as counted, but not as published
    assert check(claim, table).verdict is Verdict.CONTRADICTED


def test_every_setting_is_of_parameters():
    assert {setting.key.quantity for setting in SETTINGS} == {"parameters"}
    assert len({setting.preset for setting in SETTINGS}) == len(SETTINGS)


# What to know beside them


def test_caveats_are_those_of_the_published_numbers(numbers):
    text = caveats.notes_list(numbers)
    for part in (
        "(32.56 − 14.28) / 32.56 = 56.1 %. Over StyleGAN-XL's rate it is +128 %, or 2.28 ×",
        "needs a StyleGAN-XL of 67.48 to 68.42 M",
        "67.93 M (unverified) gives 27.98 %",
        "from 2.046 it is 6.58 %",
        "6.4 % would be 2.3 to 4.5 standard deviations",
        "2.24 (unverified), behind StyleGAN-XL's 2.19",
        "An inference, not a finding: v3's 4 × may set",
        "59.90 / 14.29 = 4.19",
        "StyleSwin's authors give no interval for its 2.81",
        "StyleSAN-XL stood ahead of it with 1.68 on FFHQ-256, at 5.3 times the parameters",
        "neighborhood attention 2.74 (2.5 % lower, 0.9 deviations)",
        "2.55, behind 2.24",
        "ahead of StyleGAN-XL's 240.07, ahead of StyleSwin's 303.21, behind LDM's 226.72",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        (Key("StyleNAT", "ladder_hydra"), "2.10", "2.10 (unverified), ahead of StyleGAN-XL's 2.19"),
        (Key("StyleNAT", "ladder_hydra"), "2.19", "level with StyleGAN-XL's 2.19"),
        (Key("StyleNAT", "throughput_remeasured"), "40", "v3's 4 × does not even set"),
        (Key("StyleSAN-XL", "fid"), "2.5", "StyleSAN-XL stood behind it with 2.5"),
        (Key("StyleNAT", "fd_dinov2"), "220", "220 on FFHQ-256 is ahead of StyleGAN-XL's 240.07, ahead of"),
    ],
)
def test_a_caveat_turns_with_its_numbers(empty_workspace, key, value, part):
    change(empty_workspace / "results" / "paper.csv", key, value)
    assert part in caveats.notes_list(published_numbers())


def test_an_interval_of_styleswin_would_be_shown(numbers):
    key = Key("StyleSwin", "fid")
    table = type(numbers)({**numbers, key: replace(numbers[key], uncertainty="0.05")})
    assert "StyleSwin's authors give ± 0.05 for its 2.81" in caveats.notes_list(table)


# The tables


def test_published_and_counted_never_share_a_column(numbers, built):
    lines = claims.claims_table(claims.check_claims(numbers)).splitlines()
    head = [cell.strip() for cell in lines[0].split("|")]
    published, counted = head.index("by published numbers"), head.index("counted or measured here")
    (row,) = [line.split("|") for line in lines if line.startswith("| 28 % fewer")]
    assert "67.7" in row[published] and "67.7" not in row[counted]
    assert "stylegan-xl-a" in row[counted] and "stylegan-xl-a" not in row[published]
    frame = claims.claims_frame(claims.check_claims(numbers))
    assert {"published_result", "counted_results"} <= set(frame.columns)


def test_every_number_of_a_claim_has_its_source_on_the_page(empty_workspace):
    page = build_tables()["claims"]
    assert "- StyleNAT fid FFHQ-256: 2.046 (SHI-Labs/StyleNAT README)" in page
    assert "- StyleGAN-XL parameters FFHQ-256: 67.7 ± 0.5 M (bubble chart" in page
    numbers = published_numbers()
    for claim in CLAIMS:
        for key in (claim.claimed, *claim.operands.values()):
            assert f"- {key}: {numbers[key]}" in page
