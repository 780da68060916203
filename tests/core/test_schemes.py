"""Levels by scheme and by effect: Hubble's published counts exactly, and no record more than an effect needs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from costar.core.errors import CostarError
from costar.core.plugins import load_plugin
from costar.core.power import detectable
from costar.core.schemes import detect_levels, scheme_levels, shares
from costar.core.suite import find_suite, load_suite
from hypothesis import given
from hypothesis import strategies as st

from tests.small import SUITE

PUBLISHED = {  # scheme, records, records by copies, copies inserted in all
    "passages_gutenberg_popular": ("hubble-small", 1080, {0: 400, 1: 400, 16: 200, 256: 80}, 24_080),
    "passages_wikipedia": ("hubble-wikipedia", 2884, {0: 759, 1: 759, 4: 759, 16: 379, 64: 152, 256: 76}, 39_043),
    "paraphrases_mrpc": ("hubble-large", 3899, {0: 1950, 1: 696, 4: 696, 16: 348, 64: 139, 256: 70}, None),
    "paraphrases_paws": ("hubble-large", 7075, {0: 3538, 1: 1263, 4: 1263, 16: 632, 64: 253, 256: 126}, None),
    "biographies_yago": ("hubble-large", 5000, {0: 2500, 1: 893, 4: 893, 16: 446, 64: 179, 256: 89}, 45_841),
    "biographies_ecthr": ("hubble-small", 1267, {0: 469, 1: 469, 16: 235, 256: 94}, 28_293),
    "chats_personachat": ("hubble-large", 4000, {0: 2000, 1: 714, 4: 714, 16: 357, 64: 143, 256: 72}, 36_866),
    "testset_munch": ("hubble-small", 727, {0: 269, 1: 269, 16: 135, 256: 54}, 16_253),
    "testset_ellie": ("hubble-small", 573, {0: 212, 1: 212, 16: 106, 256: 43}, 12_916),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_scheme_gives_the_published_counts(name: str) -> None:
    scheme, records, counts, copies = PUBLISHED[name]
    levels = scheme_levels(scheme, records)
    assert levels == counts
    assert sum(levels.values()) == records
    if copies is not None:
        assert sum(level * count for level, count in levels.items()) == copies


def test_the_shipped_suite_has_hubbles_size() -> None:
    suite = load_suite(find_suite("hubble"))
    assert (len(suite.arms), len(suite.perturbations)) == (14, 16)
    assert sum(len(arm.models) * arm.draws for arm in suite.arms.values()) == 23
    copies: dict[str, int] = {}
    for design in suite.perturbations.values():
        risk = load_plugin("costar.insertion.kinds", design.kind, place="").RISK
        copies[risk] = copies.get(risk, 0) + design.copies
    assert copies == {"copyright": 237_343, "privacy": 111_000, "testset": 470_055}
    assert sum(copies.values()) == 818_398
    by_name = {name.replace("-", "_"): design.levels for name, design in suite.perturbations.items()}
    for name, (_, _, counts, _) in PUBLISHED.items():
        assert by_name[name] == counts


@given(st.sampled_from(["hubble-large", "hubble-small", "hubble-wikipedia"]), st.integers(1, 10_000))
def test_a_scheme_divides_any_number_of_records_without_rest(scheme: str, count: int) -> None:
    levels = scheme_levels(scheme, count)
    assert sum(levels.values()) == count
    assert all(number >= 1 for number in levels.values())
    assert scheme != "hubble-large" or levels[0] == count - count // 2


@given(st.dictionaries(st.integers(0, 300), st.integers(1, 20), min_size=1), st.integers(0, 10_000))
def test_shares_are_within_one_of_their_ratio(ratios: dict[int, int], count: int) -> None:
    divided = shares(ratios, count)
    assert sum(divided.values()) == count
    total = sum(ratios.values())
    assert all(abs(divided[key] - count * ratio / total) < 1 for key, ratio in ratios.items())


@given(
    st.floats(0.05, 10),
    st.lists(st.sampled_from([1, 2, 4, 8, 16, 64, 256]), min_size=1, unique=True),
)
def test_detect_reaches_the_effect_at_every_level_and_one_record_fewer_does_not(
    effect: float, copies: list[int]
) -> None:
    levels = detect_levels(effect, copies)
    assert list(levels) == [0, *sorted(copies)]
    assert all(size <= effect for size in detectable(levels).values())
    for level in levels:
        fewer = levels | {level: levels[level] - 1}
        assert fewer[level] == 0 or max(detectable(fewer).values()) > effect


def test_without_held_out_records_no_effect_can_be_told() -> None:
    assert all(math.isnan(size) for size in detectable({1: 10, 4: 10}).values())


def load(tmp_path: Path, levels: str, count: int | None) -> dict[int, int]:
    given_count = "" if count is None else f", count = {count}"
    text = SUITE.replace(
        '{ from = "generator" }\nlevels  = { 0 = 12, 2 = 10 }',
        f'{{ from = "generator"{given_count} }}\nlevels = {levels}',
    )
    assert text != SUITE
    (tmp_path / "case.toml").write_text(text, encoding="utf-8")
    return dict(load_suite(tmp_path / "case.toml").perturbations["quizzes"].levels)


def test_a_suite_file_takes_levels_by_scheme_effect_and_number(tmp_path: Path) -> None:
    assert load(tmp_path, '"hubble-small"', 27) == {0: 10, 1: 10, 16: 5, 256: 2}
    assert load(tmp_path, "{ detect = 1, copies = [4, 1] }", None) == detect_levels(1.0, [4, 1])
    assert load(tmp_path, "{ detect = 1.0, copies = [1] }", 1000) == detect_levels(1.0, [1])
    assert load(tmp_path, "{ 4 = 2, 0 = 3 }", 5) == {0: 3, 4: 2}


@pytest.mark.parametrize(
    ("levels", "count", "message"),
    [
        ("{ 0 = 3, 1 = 3 }", 5, r"6 records\n  expected  5"),
        ("{ 0 = 3, 1 = 3 }", 7, r"6 records\n  expected  7"),
        ("{ detect = 0.5, copies = [1] }", 10, "expected  10"),
        ('"hubble-small"', None, "without a number of records"),
        ('"hubble-tiny"', 27, "hubble-large, hubble-small"),
        ("{}", 5, "records"),
        ("{ detect = 0.5 }", None, "detect ="),
        ("{ detect = 0, copies = [1] }", None, "detect ="),
        ("{ detect = true, copies = [1] }", None, "detect ="),
        ("{ detect = nan, copies = [1] }", None, "detect ="),
        ("{ detect = 0.5, copies = [] }", None, "detect ="),
        ("{ detect = 0.5, copies = [0, 1] }", None, "detect ="),
        ("{ detect = 0.5, copies = [1, 1] }", None, "detect ="),
        ("{ detect = 0.5, copies = [1], 4 = 7 }", None, "detect ="),
        ('{ 0 = 3, "²" = 3 }', None, "whole number of copies"),
        ("{ 0 = 3, 1 = true }", None, "whole number of records"),
        ("{ 0 = 3, 1 = 0 }", None, "1 or more"),
        ("[0, 1]", None, "levels"),
    ],
)
def test_levels_that_do_not_hold_are_named(tmp_path: Path, levels: str, count: int | None, message: str) -> None:
    with pytest.raises(CostarError, match=message) as error:
        load(tmp_path, levels, count)
    assert "[perturbation.quizzes]" in error.value.place
    assert error.value.exit_code == 2
