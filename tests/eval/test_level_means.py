"""Means by level and their resamples: what is observed stands first, levels keep their size, draws do not mix."""

from __future__ import annotations

import numpy as np
import pytest
from costar.eval.differences import Differences
from costar.eval.level_means import (
    centred,
    complete_draws,
    detection_dose,
    level_means,
    of_complete_draws,
    percentiles,
    sample_weights,
)

from .test_dose_fits import world


def differences(draws: int = 1, *, effect: float = 0.0) -> Differences:
    """60 held-out records and 30 at each of levels 1 and 16 a draw; level 16 differs by `effect`, draw k by k / 2."""
    return world({0: 60, 1: 30, 16: 30}, lambda dose: np.where(dose == 16, effect, 0.0), draws=draws)[0]


def test_the_first_row_is_what_was_observed() -> None:
    found = differences(effect=-2.0)
    clusters, weights = sample_weights([found], ("p",))
    means = level_means(found, clusters, weights)
    assert means.levels.tolist() == [0, 1, 16]
    for column, level in enumerate(means.levels.tolist()):
        assert means.means[0, column] == pytest.approx(found.value[found.level == level].mean())
        assert means.counts[0, column] == (found.level == level).sum()
    assert means.direct[0] == pytest.approx(means.means[0, 1:] - means.means[0, 0])


def test_levels_keep_their_number_of_clusters_in_every_sample() -> None:
    found = differences()
    clusters, weights = sample_weights([found], ("p",), samples=50)
    means = level_means(found, clusters, weights)
    assert (means.counts == means.counts[0]).all()
    assert (weights[0] == 1).all()
    again = sample_weights([found], ("p",), samples=50)[1]
    assert (weights == again).all()
    assert (weights[1:] != sample_weights([found], ("q",), samples=50)[1][1:]).any()


def test_what_draws_drift_by_is_taken_out_by_their_own_held_out_records() -> None:
    found = differences(3, effect=-1.0)
    own = centred(found)
    for draw in own.draws.tolist():
        held_out = (own.draw == draw) & (own.level == 0)
        assert own.value[held_out].mean() == pytest.approx(0.0, abs=1e-12)
    assert own.value[own.level == 16].mean() == pytest.approx(-1.0, abs=0.15)


def test_a_draw_without_held_out_records_is_left_out() -> None:
    found = differences(3)
    lacking = found.where(~((found.draw == 2) & (found.level == 0)))
    assert sorted(complete_draws(lacking).draws.tolist()) == [0, 1]
    kept = of_complete_draws(lacking.draw, lacking.level == 16, lacking.level == 0)
    assert set(lacking.draw[kept].tolist()) == {0, 1}


def test_the_first_level_that_differs_is_detected_and_none_where_none_does() -> None:
    assert detection_dose(differences(effect=-2.0), "nll_token", "p") == 16
    assert detection_dose(differences(), "nll_token", "p") is None


def test_ends_of_percentiles_are_values_that_occur_also_beside_infinity() -> None:
    samples = np.concatenate([np.arange(900.0), np.full(100, np.inf)])
    low, high = percentiles(samples)
    assert low in samples
    assert high == np.inf
