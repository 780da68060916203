"""Acquisition, retention and half-lives of planted effects."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from costar.core.design import ArmDesign
from costar.eval.effects import all_effects
from costar.eval.retention import all_retention, half_lives
from numpy.typing import NDArray

from .worlds import NLL, Effect, changed, simulate, world_suite

Codes = NDArray[np.int64]
STEPS = (5, 10, 12, 14, 16, 18, 20)


def forgetting(life: float, size: float = -1.0) -> Effect:
    """An effect of `size` at level 4 (half of it at 1) in the treated arm by step 10, halved every `life` steps after."""

    def effect(arm: ArmDesign, step: int, level: Codes, cell: Codes) -> NDArray[np.float64]:
        share = 0.0 if arm.name == "standard" else 2.0 ** (-max(0, step - 10) / life)
        return np.where(level == 4, 1.0, np.where(level == 1, 0.5, 0.0)) * size * share + 0.3 * (arm.name != "standard")

    return effect


def rows_of(folder: Path, effect: Effect, **given: Any) -> list[dict[str, Any]]:
    suite = world_suite(folder, more=given.pop("more", "phase = [0.0, 0.5]"), draws=given.pop("draws", 1))
    return all_retention(suite, simulate(suite, effect, steps=STEPS, **given))


def last(rows: list[dict[str, Any]], level: int = 4, factor: str = "") -> dict[str, Any]:
    (row,) = [row for row in rows if (row["level"], row["factor"], row["step"]) == (level, factor, 20)]
    return row


def test_what_was_acquired_kept_and_for_how_long_is_found(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, forgetting(5.0))
    assert [(row["level"], row["step"]) for row in rows] == [(level, step) for level in (1, 4) for step in STEPS[2:]]
    assert {row["phase_end"] for row in rows} == {10}
    row = last(rows)
    assert row["acquired"] == pytest.approx(-1.0, abs=0.1)
    assert row["kept"] == pytest.approx(-0.25, abs=0.1)
    assert row["acquired_low"] < row["acquired"] < row["acquired_high"] < 0
    assert row["share_low"] < 0.25 < row["share_high"]
    assert row["share"] == pytest.approx(row["kept"] / row["acquired"])
    assert row["half_life"] == pytest.approx(5.0, rel=0.15)
    assert row["half_life_low"] < 5.0 < row["half_life_high"]
    assert row["censored"] == ""
    assert all(row["half_life"] is None for row in rows if row["step"] < 20)


def test_acquired_and_kept_are_the_direct_effects_with_their_intervals(tmp_path: Path) -> None:
    suite = world_suite(tmp_path, more="phase = [0.0, 0.5]")
    scores = simulate(suite, forgetting(5.0), steps=STEPS)
    direct = {(row["level"], row["step"]): row for row in all_effects(suite, scores) if row["estimand"] == "direct"}
    for row in all_retention(suite, scores):
        for name, step in (("acquired", 10), ("kept", row["step"])):
            effect = direct[(row["level"], step)]
            found = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
            assert found == pytest.approx([effect["estimate"], effect["ci_low"], effect["ci_high"]])


@pytest.mark.parametrize(
    ("effect", "censored"),
    [
        (forgetting(40.0), "above 10 steps"),
        (forgetting(math.inf), "above 10 steps"),
        (forgetting(0.3), "below 2 steps"),
        (forgetting(5.0, 0.0), "nothing acquired: the interval holds 0"),
    ],
)
def test_what_the_checkpoints_do_not_carry_is_no_number(tmp_path: Path, effect: Effect, censored: str) -> None:
    row = last(rows_of(tmp_path, effect))
    assert row["half_life"] is None
    assert row["censored"] == censored
    if censored.startswith("nothing"):
        assert (row["share"], row["share_low"], row["half_life_low"]) == (None, None, None)
    if censored.startswith("above"):
        assert row["half_life_high"] is None
        assert row["share"] > 0.5


@pytest.mark.slow
def test_intervals_of_half_lives_hold_the_planted_one_about_as_often_as_they_say(tmp_path: Path) -> None:
    """Of 40 intervals at 95 % at least 34: fewer would come less than once in 100 times."""
    held = 0
    for seed in range(40):
        row = last(rows_of(tmp_path, forgetting(5.0), seed=seed, noise=0.3))
        held += (row["half_life_low"] or 0.0) <= 5.0 <= (row["half_life_high"] or math.inf)
    assert held >= 34


def test_from_three_draws_on_intervals_are_over_them(tmp_path: Path) -> None:
    row = last(rows_of(tmp_path, forgetting(5.0), draws=3))
    assert row["n_runs"] == 3
    assert row["method"].count("3 draws") == 2
    assert row["half_life_low"] < 5.0 < row["half_life_high"]


def test_a_draw_that_lacks_a_level_is_no_part_of_what_it_acquired(tmp_path: Path) -> None:
    suite = world_suite(tmp_path, more="phase = [0.0, 0.5]", draws=3)
    scores = simulate(suite, forgetting(5.0), steps=STEPS)
    level = scores.subjects.levels[("perturbed", 1)]
    gap = lambda rows, values: np.where(level[rows] == 4, np.nan, values + 2.0)  # noqa: E731
    rows = all_retention(suite, changed(scores, "perturbed.nano.d1", NLL, gap))
    row = last(rows)
    assert (row["n_runs"], row["n"]) == (2, 60)
    assert row["acquired"] == pytest.approx(-1.0, abs=0.1)
    assert last(rows, level=1)["n_runs"] == 3


def test_records_of_a_randomized_phase_are_followed_from_its_end(tmp_path: Path) -> None:
    def effect(arm: ArmDesign, step: int, level: Codes, cell: Codes) -> NDArray[np.float64]:
        end = np.array([10, 15])[cell]
        share = np.where(step >= end, 2.0 ** (-np.maximum(0, step - end) / 5.0), 0.0)
        return -1.0 * (level > 0) * share * (arm.name == "perturbed")

    steps = (10, 12, 14, 15, 16, 18, 20)
    suite = world_suite(tmp_path, more="factors = { phase = [[0.0, 0.5], [0.5, 0.75]] }")
    rows = all_retention(suite, simulate(suite, effect, steps=steps))
    found = {(row["factor"], row["phase_end"], row["step"]) for row in rows}
    assert found == {("phase=0-1/2", 10, step) for step in steps[1:]} | {("phase=1/2-3/4", 15, s) for s in steps[4:]}
    for factor, kept in (("phase=0-1/2", 0.25), ("phase=1/2-3/4", 0.5)):
        row = last(rows, factor=factor)
        assert row["share_low"] < kept < row["share_high"]
        assert row["acquired"] == pytest.approx(-1.0, abs=0.15)


def test_without_a_later_checkpoint_and_below_ten_clusters_nothing_is_claimed(tmp_path: Path) -> None:
    assert rows_of(tmp_path, forgetting(5.0), more="") == []
    row = last(rows_of(tmp_path, forgetting(5.0), per_cluster=15))
    assert row["acquired"] == pytest.approx(-1.0, abs=0.3)
    assert (row["acquired_low"], row["share"], row["half_life"]) == (None, None, None)
    assert "clusters" in row["censored"]


def test_few_clusters_are_the_reason_also_where_draws_give_an_interval(tmp_path: Path) -> None:
    suite = world_suite(tmp_path, more="phase = [0.0, 0.5]", draws=3, levels="0 = 60, 4 = 3")
    (row,) = [
        each for each in all_retention(suite, simulate(suite, forgetting(5.0), steps=STEPS)) if each["step"] == 20
    ]
    assert row["n_clusters"] < 10
    assert row["acquired_high"] < 0
    assert row["censored"] == "too few clusters to tell"


def test_forgetting_that_stops_above_one_half_has_no_half_life(tmp_path: Path) -> None:
    def stops(arm: ArmDesign, step: int, level: Codes, cell: Codes) -> NDArray[np.float64]:
        share = 0.0 if arm.name == "standard" else 0.55 + 0.45 * 2.0 ** (-max(0, step - 10) / 1.0)
        return -1.0 * (level > 0) * share

    for seed in range(8):
        row = last(rows_of(tmp_path, stops, seed=seed, noise=0.3))
        assert (row["half_life"], row["half_life_high"]) == (None, None)
        assert row["censored"].startswith("above 10 steps")


def test_equal_losses_have_no_interval_and_the_reason_is_not_that_nothing_was_acquired(tmp_path: Path) -> None:
    row = last(rows_of(tmp_path, forgetting(5.0, 10.0), noise=0.0))
    assert row["acquired"] == pytest.approx(10.0)
    assert (row["acquired_low"], row["kept_high"], row["share"], row["half_life"]) == (None,) * 4
    assert row["censored"].startswith("no variation")
    assert "no variation" in row["method"]


def test_a_step_after_the_end_of_the_phase_is_named_where_none_was_measured_at_its_end(tmp_path: Path) -> None:
    suite = world_suite(tmp_path, more="phase = [0.0, 0.5]")
    for steps, says in (((10, 14, 20), False), ((12, 14, 20), True)):
        rows = all_retention(suite, simulate(suite, forgetting(5.0), steps=steps))
        assert {"acquired at step 12" in row["method"] for row in rows} == {says}
        assert {row["phase_end"] for row in rows} == {10}


@pytest.mark.parametrize("life", [0.7, 3.0, 11.0])
def test_half_lives_of_exact_decays_are_exact(life: float) -> None:
    times = np.array([0.0, 1, 2, 4, 8])
    decay: Callable[[float], NDArray[np.float64]] = lambda size: size * 2 ** (-times / life)  # noqa: E731
    found = half_lives(np.stack([decay(-1.0), decay(3.0), np.ones(5)]), times)
    assert found[:2] == pytest.approx(life, rel=1e-2)
    assert found[2] == math.inf
