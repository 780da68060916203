"""Half-doses of planted curves: found where the levels carry them, and told to be beyond the levels where they do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from costar.eval.curves import fit_hill, interpolated, lack_of_fit, monotone
from costar.eval.differences import Differences
from costar.eval.dose_fits import all_dose_fits, fit_dose
from costar.eval.level_means import LevelMeans, detection_dose
from costar.manifests.tables import DOSE_FITS
from numpy.typing import NDArray

from .worlds import NLL, simulate, world_suite

Floats = NDArray[np.float64]
LEVELS = {0: 200, 1: 60, 4: 60, 16: 60, 64: 60, 256: 60}


def hill(height: float, half: float, slope: float) -> Callable[[Floats], Floats]:
    return lambda dose: height * dose**slope / (dose**slope + half**slope)


def world(
    levels: Mapping[int, int],
    curve: Callable[[Floats], Floats],
    *,
    noise: float = 0.3,
    seed: int = 0,
    perfect: float = 0.0,
    held_out: float = 3.5,
    draws: int = 1,
) -> tuple[Differences, Differences]:
    """(treated − control, treated) of records, the held-out ones of which have the value `held_out`."""
    generator = np.random.default_rng(seed)
    level = np.tile(np.repeat(list(levels), list(levels.values())), draws).astype(np.int64)
    draw = np.repeat(np.arange(draws), sum(levels.values()))
    record = np.tile(np.arange(sum(levels.values())), draws)
    effect = curve(level.astype(float))
    offset = 0.5 * draw  # what runs differ by is none of the records' doing
    both = [effect + offset + noise * generator.normal(size=len(level)) for _ in range(2)]
    both[1] += held_out - offset

    def made(value: Floats) -> Differences:
        none = np.zeros_like(level)
        return Differences(draw=draw, record=record, cluster=record, stratum=none, level=level, cell=none, value=value)

    return made(both[0]), made(both[1])


def shares(
    levels: Mapping[int, int], half: float, slope: float, *, chance: float, seed: int
) -> tuple[Differences, Differences]:
    """(treated − control, treated) of right answers, at chance without copies."""
    generator = np.random.default_rng(seed)
    level = np.repeat(list(levels), list(levels.values())).astype(np.int64)
    right = chance + hill(1 - chance, half, slope)(level.astype(float))
    treated, control = (np.asarray(generator.random(len(level)) < p, float) for p in (right, chance))
    none, record = np.zeros_like(level), np.arange(len(level))

    def made(value: Floats) -> Differences:
        return Differences(draw=none, record=record, cluster=record, stratum=none, level=level, cell=none, value=value)

    return made(treated - control), made(treated)


def test_the_planted_half_dose_is_found_whether_the_measure_falls_or_rises() -> None:
    falling = fit_dose(*world(LEVELS, hill(-3.5, 20, 1.2)), "nll_token", "p")
    rising = fit_dose(world(LEVELS, hill(2.0, 20, 1.2))[0], None, "margin", "p")
    for fit in (falling, rising):
        assert fit.half_dose == pytest.approx(20, rel=0.15)
        assert fit.low is not None
        assert fit.high is not None
        assert 15 < fit.low < fit.half_dose < fit.high < 27
        assert fit.slope == pytest.approx(1.2, rel=0.15)
        assert fit.censored == ""
        assert fit.detection_dose in (1, 4)
        assert fit.curve.startswith("Hill")
        assert fit.fit_p is not None
        assert fit.fit_p > 0.05
    assert falling.largest == pytest.approx(-3.5, rel=0.05)
    assert rising.largest == pytest.approx(2.0, rel=0.1)


def test_half_way_to_perfect_recall_is_not_half_way_to_a_lower_plateau() -> None:
    """A curve that ends at 2.5 of 3.5 nats is half-way to its plateau at 30 copies, and 1.75 nats down at 30 · (7/3)^(2/3)."""
    found, own = world(LEVELS, hill(-2.5, 30, 1.5))
    assert fit_dose(found, own, "nll_token", "p").half_dose == pytest.approx(30 * (7 / 3) ** (2 / 3), rel=0.15)
    assert fit_dose(found, None, "margin", "p").half_dose == pytest.approx(30, rel=0.15)


@pytest.mark.parametrize("binary", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_intervals_hold_the_planted_half_dose_about_as_often_as_they_say(binary: bool) -> None:
    """Of 36 intervals at 95 % at least 31: fewer would come once in 100 times."""
    held = 0
    for seed in range(36):
        if binary:
            fit = fit_dose(*shares(LEVELS, 18, 1.3, chance=0.25, seed=seed), "accuracy", f"p{seed}")
        else:
            fit = fit_dose(*world(LEVELS, hill(-3.5, 18, 1.3), noise=0.8, seed=seed), "nll_token", f"p{seed}")
        held += (fit.low or 0.0) <= 18 <= (fit.high or np.inf)
    assert held >= 31


def test_beyond_the_levels_there_is_a_bound_and_no_number() -> None:
    above = fit_dose(*world(LEVELS, hill(-3.5, 900, 1.0)), "nll_token", "p")
    assert (above.half_dose, above.censored, above.low, above.high) == (None, "above 256", 256.0, None)
    assert above.largest is None
    below = fit_dose(*world(LEVELS, hill(-3.5, 0.2, 1.0)), "nll_token", "p")
    assert (below.half_dose, below.censored, below.low, below.high) == (None, "below 1", None, 1.0)
    assert below.detection_dose == 1


def test_without_perfect_recall_a_plateau_that_the_levels_do_not_reach_is_not_believed() -> None:
    fit = fit_dose(world(LEVELS, hill(2.0, 150, 1.0))[0], None, "margin", "p")
    assert (fit.half_dose, fit.low, fit.high, fit.largest) == (None, None, None, None)
    assert fit.censored == "no plateau up to 256"


def test_flat_data_have_no_half_dose() -> None:
    for own in (True, False):
        found, values = world(LEVELS, lambda dose: 0 * dose)
        fit = fit_dose(found, values if own else None, "nll_token" if own else "margin", "p")
        assert (fit.half_dose, fit.low, fit.high, fit.largest, fit.detection_dose) == (None,) * 5
        assert fit.censored == "no effect found"


def test_records_that_get_worse_are_not_half_way_to_perfect_recall() -> None:
    fit = fit_dose(*world(LEVELS, hill(1.0, 20, 1.0)), "nll_token", "p")
    assert (fit.half_dose, fit.censored) == (None, "above 256")


def test_two_levels_carry_half_way_to_perfect_recall_but_no_plateau() -> None:
    found, own = world({0: 200, 4: 100, 64: 50}, hill(-3.5, 18, 1.3))
    fit = fit_dose(found, own, "nll_token", "p")
    assert fit.half_dose == pytest.approx(18, rel=0.2)
    assert "interpolation" in fit.curve
    none = fit_dose(found, None, "margin", "p")
    assert (none.half_dose, none.censored, none.detection_dose) == (None, "not fitted", 4)


def test_a_level_with_two_records_is_used_for_what_it_weighs() -> None:
    found, own = world({0: 200, 1: 60, 4: 60, 16: 60, 64: 2}, hill(-3.5, 10, 1.2))
    fit = fit_dose(found, own, "nll_token", "p")
    assert fit.half_dose == pytest.approx(10, rel=0.2)
    few, own = world({0: 200, 4: 2, 16: 2, 64: 2}, hill(-3.5, 10, 1.2))
    fit = fit_dose(few, own, "nll_token", "p")
    assert fit.half_dose is None
    assert "clusters" in fit.method
    assert fit_dose(found.where(found.level > 0), own, "nll_token", "p").method.startswith("no held-out")


def test_where_the_curve_is_refused_means_are_interpolated() -> None:
    fit = fit_dose(*world(LEVELS, lambda dose: -1.0 * (dose >= 1) - 1.0 * (dose > 60)), "nll_token", "p")
    assert fit.curve.startswith("monotone interpolation: the curve does not fit")
    assert fit.half_dose is not None
    assert 16 < fit.half_dose < 64
    assert fit.fit_p is not None
    assert fit.fit_p < 0.05


@pytest.mark.slow
def test_true_curves_are_refused_about_as_often_as_the_level_says() -> None:
    """Of 100 at most 12 at 5 %: more would come twice in 1,000 times. Samples of two clusters have half of the variance,
    and taken as they are would refuse 22."""
    levels, refused = np.array([0, 1, 4, 16, 64, 256]), 0
    true = hill(-3.0, 12, 1.2)(levels.astype(float))
    for seed in range(100):
        generator = np.random.default_rng(seed)
        observed = true + generator.normal(0, 0.1, 6)
        means = observed + generator.normal(0, 0.1 / np.sqrt(2), (200, 6))
        means[0] = observed
        drawn = LevelMeans(levels=levels, means=means, counts=np.full(means.shape, 20.0))
        p = lack_of_fit(drawn, fit_hill(drawn), [2] * 6)
        refused += p is not None and p < 0.05
    assert 0 < refused <= 12


def test_draws_that_differ_by_their_runs_are_one_curve_and_intervals_are_over_them_from_three_on() -> None:
    for draws, text in ((2, "given these runs"), (3, "3 draws")):
        fit = fit_dose(*world(LEVELS, hill(-3.5, 20, 1.2), draws=draws), "nll_token", "p")
        assert fit.half_dose == pytest.approx(20, rel=0.15)
        assert text in fit.method
        assert fit.low is not None
        assert fit.high is not None
        assert fit.low < 20 < fit.high


def test_a_draw_without_held_out_records_or_without_a_level_moves_no_dose() -> None:
    found, own = world(LEVELS, hill(-3.5, 20, 1.2), draws=3)
    drifted = Differences(**vars(found) | {"value": found.value + 3.0 * (found.draw == 1)})
    for level, detected in ((0, 1), (1, 1)):
        there = (found.draw != 1) | (found.level != level)
        fit = fit_dose(drifted.where(there), own.where(there), "nll_token", "p")
        assert fit.half_dose == pytest.approx(20, rel=0.2)
        assert fit.detection_dose in (detected, 4)
    flat, _ = world(LEVELS, lambda dose: 0 * dose, draws=4)
    drifted = Differences(**vars(flat) | {"value": flat.value + 3.0 * (flat.draw == 1)})
    assert detection_dose(drifted.where((flat.draw != 1) | (flat.level != 1)), "nll_token", "p") is None


def test_a_level_of_equal_losses_is_detected_by_no_band_and_one_of_equal_shares_is() -> None:
    found, _ = world({0: 40, 4: 20}, lambda dose: 0 * dose, noise=0.05)
    equal = Differences(**vars(found) | {"value": np.where(found.level == 4, 0.9, found.value)})
    assert detection_dose(equal, "nll_token", "p") is None
    assert detection_dose(equal, "accuracy", "p") == 4


def test_the_fit_is_the_curve_itself_where_there_is_no_noise() -> None:
    levels = np.array([0, 1, 4, 16, 64, 256])
    means = np.stack([hill(-3.0, half, 1.4)(levels.astype(float)) + 0.3 for half in (0.7, 20.0, 180.0)])
    fits = fit_hill(LevelMeans(levels=levels, means=means, counts=np.full(means.shape, 50.0)))
    assert 2**fits.half == pytest.approx([0.7, 20.0, 180.0], rel=0.01)
    assert fits.slope == pytest.approx(1.4, rel=0.01)
    assert fits.height == pytest.approx(-3.0, rel=0.01)
    assert fits.base == pytest.approx(0.3, abs=0.01)
    assert fits.rest.max() < 1e-3


def test_monotone_means_pool_neighbours_that_are_out_of_order_and_doses_are_read_off_straight_lines() -> None:
    levels, counts = np.array([0, 1, 4, 16]), np.array([[10.0, 10.0, 30.0, 10.0]])
    means = LevelMeans(levels=levels, means=np.array([[0.0, 2.0, 1.0, 3.0]]), counts=counts)
    assert monotone(means, np.ones(1)) == pytest.approx(np.array([[0.0, 1.25, 1.25, 3.0]]))
    rises = np.array([[1.0, 3.0, 3.0], [1.0, 3.0, 3.0], [1.0, 3.0, 3.0]])
    found = interpolated(levels[1:], rises, np.array([2.0, 0.5, 4.0]))
    assert found.tolist() == [1.0, -np.inf, np.inf]


def test_every_pair_has_a_row_a_measure_at_its_last_step_and_at_the_end_of_its_phase(tmp_path: Path) -> None:
    levels = "0 = 60, 1 = 30, 4 = 30, 16 = 30, 64 = 30"
    suite = world_suite(tmp_path, levels=levels, more="phase = [0.0, 0.5]", evaluation="")  # the margin is primary
    curve = hill(-3.0, 8, 1.2)

    def effect(arm: object, step: int, level: NDArray[np.int64], cell: NDArray[np.int64]) -> Floats | float:
        return curve(level.astype(float)) if getattr(arm, "name", "") == "perturbed" else 0.0

    margin = ("choice", "format=cloze", "margin")
    scores = simulate(suite, effect, steps=(5, 10, 20), measures=(NLL, margin))
    rows = all_dose_fits(suite, scores)
    assert {(row["step"], row["metric"]) for row in rows} == {
        (step, metric) for step in (10, 20) for metric in ("nll_token", "margin")
    }
    assert all(row["half_dose"] == pytest.approx(8, rel=0.4) for row in rows if row["metric"] == "nll_token")
    assert set(rows[0]) == set(DOSE_FITS.names)
