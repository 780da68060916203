from __future__ import annotations

import itertools

import numpy as np
import pytest
from costar.eval.stats import (
    clopper_pearson,
    equivalence_p,
    holm,
    mcnemar_p,
    t_interval,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_monotone_and_between_raw_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))
    assert all(p <= q <= min(1, len(p_values) * p) + 1e-12 for p, q in zip(p_values, adjusted))


def test_holm_of_a_known_family() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_mcnemar_is_the_exact_binomial_test_of_discordant_pairs() -> None:
    for one, other in ((0, 0), (3, 3), (9, 1), (0, 6)):
        expected = binomtest(one, one + other).pvalue if one + other else 1.0
        assert mcnemar_p(one, other) == pytest.approx(expected)
        assert mcnemar_p(other, one) == mcnemar_p(one, other)


def test_the_interval_over_draws_is_that_of_the_t_test() -> None:
    estimates = np.random.default_rng(3).normal(1, 2, (4, 3))
    interval = t_interval(estimates)
    expected = ttest_1samp(estimates, 0).confidence_interval()
    assert interval.low == pytest.approx(expected.low)
    assert interval.high == pytest.approx(expected.high)
    assert t_interval(estimates[:1]).high[0] == np.inf


def test_equivalence_is_the_larger_of_two_one_sided_tests() -> None:
    values = np.random.default_rng(4).normal(0.1, 1, 30)
    error = values.std(ddof=1) / np.sqrt(30)
    for margin in (0.2, 0.5):
        sides = (ttest_1samp(values, -margin, alternative="greater"), ttest_1samp(values, margin, alternative="less"))
        p = equivalence_p(values[:1] * 0 + values.mean(), np.array([error]), 29, margin)
        assert p[0] == pytest.approx(max(side.pvalue for side in sides))
    assert equivalence_p(np.array([0.1, 0.3]), np.zeros(2), 5, 0.2).tolist() == [0.0, 1.0]
    assert np.isnan(equivalence_p(np.array([0.1]), np.array([np.nan]), 5, 0.2)[0])


def test_equivalence_is_found_exactly_where_the_ninety_percent_interval_lies_within_the_margin() -> None:
    generator = np.random.default_rng(5)
    estimates = generator.normal(0, 0.3, (200, 1))
    errors = np.full((200, 1), 0.2)
    found = equivalence_p(estimates, errors, 12, 0.5) < 0.05
    half = 1.7822875556 * 0.2  # the 95 % quantile of t with 12 degrees of freedom
    assert np.array_equal(found, np.abs(estimates) + half < 0.5)
    assert 0 < found.mean() < 1


def test_intervals_of_a_share_hold_it_and_stay_within_zero_and_one() -> None:
    for found, n in ((0, 10), (3, 10), (10, 10), (1, 500)):
        low, high = clopper_pearson(found, n)
        assert 0 <= low <= found / n <= high <= 1
    assert clopper_pearson(0, 40)[1] == pytest.approx(1 - 0.025 ** (1 / 40))
