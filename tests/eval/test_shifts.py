"""Shifts between planted curves, and which arms and models are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from costar.core.design import Suite
from costar.eval.contrasts import contrasts
from costar.eval.shifts import condition_pairs, fit_shift, shifts
from numpy.typing import NDArray

from .test_dose_fits import hill, world
from .worlds import simulate, world_suite

LEVELS = {0: 200, 1: 60, 4: 60, 16: 60, 64: 60}


@pytest.mark.parametrize("halves", [(64, 16), (400, 100)])
def test_the_planted_shift_is_found_even_where_no_curve_gets_half_way(halves: tuple[float, float]) -> None:
    treated = world(LEVELS, hill(-3.5, halves[0], 1.2), seed=1)
    control = world(LEVELS, hill(-3.0, halves[1], 1.2), seed=2, held_out=3.0)
    row = fit_shift(treated, control, "nll_token", "p")
    assert row["ci_low"] < 2.0 < row["ci_high"]
    assert row["estimate"] == pytest.approx(2.0, abs=0.5)
    assert row["p_value"] < 0.05
    back = fit_shift(control, treated, "nll_token", "p")
    assert back["estimate"] == pytest.approx(-row["estimate"], abs=0.05)


def test_equal_curves_are_not_shifted_and_flat_ones_have_no_shift() -> None:
    one, other = (world(LEVELS, hill(-3.5, 20, 1.2), seed=seed) for seed in (1, 2))
    row = fit_shift(one, other, "nll_token", "p")
    assert row["ci_low"] < 0 < row["ci_high"]
    assert row["p_value"] > 0.05
    flat = world(LEVELS, lambda dose: 0 * dose)
    assert "estimate" not in fit_shift(one, flat, "nll_token", "p")
    plateau = fit_shift((one[0], None), (other[0], None), "margin", "p")
    assert "estimate" not in plateau
    assert "no plateau" in plateau["method"]


def test_p_values_beyond_the_samples_go_on_and_survive_many_hypotheses() -> None:
    control = world(LEVELS, hill(-3.0, 16, 1.2), seed=2, held_out=3.0)
    p = []
    for half in (20, 28, 64, 128):
        row = fit_shift(world(LEVELS, hill(-3.5, half, 1.2), seed=1), control, "nll_token", "p")
        p.append(row["p_value"])
        assert ("Student's t" in row["method"]) == (p[-1] < 2 / 1001)
    assert p == sorted(p, reverse=True)
    assert 0 < p[-1] < 0.05 / 100


def test_from_three_draws_on_the_interval_is_over_them() -> None:
    treated = world(LEVELS, hill(-3.5, 64, 1.2), seed=1, draws=3)
    control = world(LEVELS, hill(-3.0, 16, 1.2), seed=2, held_out=3.0, draws=3)
    row = fit_shift(treated, control, "nll_token", "p")
    assert "3 draws" in row["method"]
    assert row["ci_low"] < 2 < row["ci_high"]
    assert (row["ci_low"], row["ci_high"]) != (row["given_low"], row["given_high"])


def test_budgets_and_schedules_are_compared_and_phases_are_not(tmp_path: Path) -> None:
    more = "\n".join(
        [
            "[arm.long-standard]\nperturbations = []\ncontrol = 'none'\nsteps = 60",
            "[arm.longer]\ncontrol = 'long-standard'\nsteps = 60",
            "[arm.late]\nphase = [0.5, 1.0]",
            "[arm.oftener]\ncheckpoints = { every = 5 }",
        ]
    )
    suite = world_suite(tmp_path, levels="0 = 60, 1 = 30, 4 = 30, 16 = 30", more=more)

    def effect(arm: object, step: int, level: NDArray[np.int64], cell: NDArray[np.int64]) -> NDArray[np.float64]:
        name = getattr(arm, "name", "")
        half = {"perturbed": 4.0, "longer": 12.0, "late": 4.0}.get(name)
        return hill(-3.0, half, 1.2)(level.astype(float)) if half else 0.0 * level

    scores = simulate(suite, effect, steps=(20, 60))
    pairs = list(condition_pairs(suite, contrasts(suite, scores)))
    assert [(a.arm, b.arm) for a, b in pairs] == [("longer", "perturbed"), ("longer", "oftener")]
    row, flat = shifts(suite, scores)
    assert flat["estimate"] is None
    assert (row["treated"], row["control"]) == ("longer.nano.d0", "perturbed.nano.d0")
    assert row["estimate"] == pytest.approx(np.log2(3), abs=0.5)
    assert row["ci_low"] > 0


def test_sizes_with_rates_of_their_own_are_compared_and_two_differences_at_once_are_not(tmp_path: Path) -> None:
    more = "\n".join(
        [
            "[arm.small-standard]\nperturbations = []\ncontrol = 'none'\nmodels = ['tiny']\nlr = 2e-3",
            "[arm.small]\ncontrol = 'small-standard'\nmodels = ['tiny']\nlr = 2e-3",
            "[arm.other-standard]\nperturbations = []\ncontrol = 'none'\noptimizer = 'muon'",
            "[arm.other]\ncontrol = 'other-standard'\noptimizer = 'muon'",
        ]
    )
    suite = world_suite(tmp_path, more=more)
    values = {model: simulate(suite, lambda *_: 0.0, model=model).values for model in ("nano", "tiny")}
    scores = simulate(suite, lambda *_: 0.0)
    merged = {run: each for found in values.values() for run, each in found.items() if _is_run(suite, run)}
    pairs = condition_pairs(suite, contrasts(suite, replace(scores, values=merged)))
    assert [(a.arm, b.arm) for a, b in pairs] == [("other", "perturbed"), ("small", "perturbed")]


def _is_run(suite: Suite, run: str) -> bool:
    return run in [str(name) for name in suite.runs()]
