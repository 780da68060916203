"""Power: the formulas against simulated studies and published sizes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from costar.core.power import (
    Pilot,
    detectable,
    detectable_over_draws,
    detectable_timing,
    detectable_turns,
    power_table,
    turns_power,
    verdict_notes,
)
from costar.core.suite import find_suite, load_suite
from scipy.stats import binom, norm
from scipy.stats import t as student

from tests.small import SUITE

STUDIES = 8000


def test_detectable_effect_follows_the_two_sample_formula() -> None:
    sizes = detectable({0: 200, 1: 50})
    assert set(sizes) == {1}
    assert sizes[1] == pytest.approx(2.80158 * math.sqrt(1 / 50 + 1 / 200), rel=1e-4)


def test_several_levels_are_compared_at_the_strictest_step_of_holm() -> None:
    one, three = detectable({0: 200, 1: 50}), detectable({0: 200, 1: 50, 4: 50, 16: 50})
    assert set(three) == {1, 4, 16}
    assert three[1] / one[1] == pytest.approx((2.39398 + 0.841621) / 2.80158, rel=1e-4)
    assert detectable({0: 200, 1: 50}, 3)[1] == three[1]


def test_four_of_five_studies_find_the_detectable_effect() -> None:
    """Two levels without an effect beside one that has it: Holm's first step finds it in 80 % of studies."""
    generator = np.random.default_rng(0)
    levels = {0: 200, 1: 60, 4: 60, 16: 60}
    effect = detectable(levels)[16]
    held_out = generator.normal(size=(STUDIES, 200)).mean(1)
    z = [
        (generator.normal(size=(STUDIES, 60)).mean(1) + added - held_out) / math.sqrt(1 / 60 + 1 / 200)
        for added in (0.0, 0.0, effect)
    ]
    found = 2 * norm.sf(np.abs(z[2])) <= 0.05 / 3
    assert found.mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("draws", "levels"), [(3, 1), (5, 1), (3, 4)])
def test_four_of_five_studies_find_the_effect_that_is_detectable_over_draws(draws: int, levels: int) -> None:
    generator = np.random.default_rng(1)
    sizes = {0: 200, **dict.fromkeys(range(1, levels + 1), 50)}
    effect = detectable_over_draws(sizes, draws)[1]
    error = math.sqrt(1 / 50 + 1 / 200)
    estimates = effect + error * generator.normal(size=(STUDIES, draws))
    t = estimates.mean(1) / (estimates.std(1, ddof=1) / math.sqrt(draws))
    found = 2 * student.sf(np.abs(t), draws - 1) <= 0.05 / levels
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_four_of_five_studies_find_the_timing_effect() -> None:
    generator = np.random.default_rng(2)
    effect = detectable_timing({0: 200, 4: 50})[4]
    z = (effect + generator.normal(size=(STUDIES, 50)).mean(1)) * math.sqrt(50)
    assert (2 * norm.sf(np.abs(z)) <= 0.05).mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("records", "back", "compared"), [(40, 0.0, 1), (200, 0.01, 3), (1000, 0.05, 4)])
def test_four_of_five_studies_find_the_share_of_records_that_turn_right(
    records: int, back: float, compared: int
) -> None:
    generator = np.random.default_rng(3)
    share = detectable_turns(records, compared, back)
    right, wrong, _ = generator.multinomial(records, [share, back, 1 - share - back], STUDIES).T
    p = np.minimum(1, 2 * binom.cdf(np.minimum(right, wrong), right + wrong, 0.5))
    assert (p <= 0.05 / compared).mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("share", "back", "records"), [(0.05, 0.005, 211), (0.10, 0.01, 104), (0.20, 0.01, 43)])
def test_mcnemars_sizes_are_near_the_approximate_ones_of_the_literature(
    share: float, back: float, records: int
) -> None:
    """The exact test needs some more than the normal approximation says (Connor 1987)."""
    assert 0.6 < turns_power(records, share, back) < 0.8
    assert turns_power(math.ceil(1.4 * records), share, back) > 0.8


def test_with_very_few_records_no_share_would_do() -> None:
    assert detectable_turns(4, 1) == 1.0
    assert detectable_turns(12, 1) < 1.0


def table(path: Path, text: str, pilot: Pilot | None = None) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    path.write_text(text, encoding="utf-8")
    headers, rows = power_table(load_suite(path), *([pilot] if pilot else []))
    return headers, {row[0]: row for row in rows}


def test_draws_give_records_and_from_three_on_a_column_of_their_own(tmp_path: Path) -> None:
    headers, rows = table(tmp_path / "one.toml", SUITE)
    more, three = table(tmp_path / "three.toml", SUITE.replace("[suite]", "[suite]\ndraws = 3", 1))
    assert "over draws" not in headers
    assert "over draws" in more
    assert float(rows["passages"][2].split()[1]) == pytest.approx(
        math.sqrt(3) * float(three["passages"][2].split()[1]), abs=0.02
    )


def test_a_pilot_gives_clusters_and_the_measures_own_units(tmp_path: Path) -> None:
    known = Pilot(clusters={"passages": {0: 20, 1: 12, 14: 3}}, spread={"passages": 0.5})
    _, plain = table(tmp_path / "one.toml", SUITE)
    _, rows = table(tmp_path / "one.toml", SUITE, known)
    assert "nll_token (sd 0.5)" in rows["passages"][1]
    assert float(rows["passages"][2].split()[1]) == pytest.approx(float(plain["passages"][2].split()[1]) / 2, abs=0.01)
    assert "14×: too few" in rows["passages"][2]
    assert rows["quizzes"] == plain["quizzes"]


def test_timing_stands_where_two_arms_differ_in_their_phase_and_the_published_suite_fits_a_screen(
    tmp_path: Path,
) -> None:
    headers, rows = table(tmp_path / "one.toml", SUITE)
    timing = headers.index("late − early")
    assert rows["passages"][timing]
    assert not rows["quizzes"][timing]
    columns, published = power_table(load_suite(find_suite("hubble")))
    assert len(published) == 16
    assert sum(max(len(row[k]) for row in [columns, *published]) + 2 for k in range(len(columns))) < 120


def test_a_suite_with_hypotheses_says_that_verdicts_are_stricter(tmp_path: Path) -> None:
    claim = '[hypothesis.one]\nclaim = "Copies are remembered."\nexpect = "below"\nestimand = "direct"\n'
    claim += 'treated = "perturbed"\nperturbation = "passages"\nlevel = 14\n'

    def notes(text: str) -> list[str]:
        (tmp_path / "case.toml").write_text(text, encoding="utf-8")
        return verdict_notes(load_suite(tmp_path / "case.toml"))

    assert notes(SUITE) == []
    (one,) = notes(f"{SUITE}\n{claim}")
    assert one.startswith("1 hypothesis: a verdict is stricter than these sizes: randomization given the runs, Holm")
    (three,) = notes(SUITE.replace("[suite]", "[suite]\ndraws = 3", 1) + f"\n{claim}")
    assert "a one-sided t-test over 3 draws" in three
