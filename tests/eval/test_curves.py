"""Hill's curve and the monotone one, against curves that are known without noise."""

from __future__ import annotations

import numpy as np
import pytest
from costar.eval.curves import Hill, bounds, fit_hill, monotone, shape
from costar.eval.level_means import LevelMeans
from hypothesis import given, settings
from hypothesis import strategies as st

LEVELS = np.array([0, 1, 4, 16, 64, 256])


def means(values: np.ndarray) -> LevelMeans:
    """One sample, thirty records a level."""
    return LevelMeans(levels=LEVELS, means=values[None].astype(float), counts=np.full((1, len(LEVELS)), 30.0))


@settings(max_examples=25, deadline=None)
@given(
    half=st.floats(1.0, 7.0),
    slope=st.floats(0.5, 4.0),
    height=st.floats(-5.0, 5.0).filter(lambda height: abs(height) > 0.5),
    base=st.floats(-2.0, 2.0),
)
def test_a_curve_without_noise_is_found_again(half: float, slope: float, height: float, base: float) -> None:
    values = base + height * shape(LEVELS, np.array([half]), np.array([slope]))
    found = fit_hill(means(values))
    assert found.at(LEVELS)[0] == pytest.approx(values, abs=0.02 * abs(height))


def test_the_shape_is_nothing_at_zero_half_at_the_half_dose_and_rises() -> None:
    values = shape(LEVELS, np.array([4.0]), np.array([1.5]))
    assert values[0] == 0
    assert values[3] == pytest.approx(0.5)
    assert (np.diff(values) > 0).all()


def test_a_curve_crosses_half_of_its_height_at_the_half_dose_and_more_than_it_never() -> None:
    one = Hill(half=np.array([5.0]), slope=np.array([2.0]), height=np.array([-3.0]), base=np.zeros(1), rest=np.zeros(1))
    assert one.crossing(np.array([-1.5])).tolist() == [5.0]
    assert one.crossing(np.array([-3.5])).tolist() == [np.inf]
    assert one.crossing(np.array([1.0])).tolist() == [np.inf]


def test_half_doses_are_searched_around_the_levels_that_have_copies() -> None:
    least, most = bounds(means(np.zeros(6)))
    assert least < 0
    assert most > 8


def test_the_monotone_means_never_turn_back_and_leave_ordered_means_alone() -> None:
    ordered = np.array([0.0, 0.1, 0.4, 1.0, 2.0, 2.2])
    assert monotone(means(ordered), np.ones(1))[0] == pytest.approx(ordered)
    bent = monotone(means(np.array([0.0, 0.5, 0.3, 1.0, 2.0, 1.8])), np.ones(1))[0]
    assert bent == pytest.approx([0.0, 0.4, 0.4, 1.0, 1.9, 1.9])
    assert monotone(means(-ordered), -np.ones(1))[0] == pytest.approx(-ordered)
