from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from costar.eval.stats import (
    bootstrap_differences,
    bootstrap_means,
    clopper_pearson,
    cluster_values,
    equivalence_p,
    holm,
    label_permutation_p,
    mcnemar_p,
    percentile_interval,
    sign_flip_p,
    t_interval,
    wilson,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp


def single(values: np.ndarray, stratum: str = "") -> object:
    names = [f"c{i:04d}" for i in range(len(values))]
    return cluster_values(values[:, None], names, [stratum] * len(values))


def test_clusters_are_summed_and_means_are_over_records() -> None:
    data = cluster_values(np.array([[1.0], [2.0], [6.0]]), ["a", "b", "a"], ["s", "t", "s"])
    assert data.sums.tolist() == [[7.0], [2.0]]
    assert data.counts.tolist() == [2.0, 1.0]
    assert data.means[0] == 3.0
    assert data.strata == ("s", "t")


def test_sign_flip_p_of_equal_signs_is_the_exact_one() -> None:
    """Ten positive differences: of 2¹⁰ sign patterns two are as extreme."""
    p = sign_flip_p(single(np.ones(10)), ("t",))[0]
    assert p == pytest.approx(2 / 1024, abs=0.0015)


def test_label_permutation_p_of_separated_groups_is_the_exact_one() -> None:
    treated, held_out = single(np.arange(5) + 100.0), single(np.arange(5.0))
    p = label_permutation_p(treated, held_out, ("t",))[0]
    assert p == pytest.approx(2 / comb(10, 5), abs=0.003)


def test_labels_are_permuted_within_strata_only() -> None:
    """One stratum all treated, the other all held out: nothing can be permuted, so nothing can be found."""
    p = label_permutation_p(single(np.ones(6), "x"), single(np.zeros(6), "y"), ("t",))[0]
    assert p == 1.0


def test_null_p_values_are_uniform_and_intervals_cover() -> None:
    generator = np.random.default_rng(1)
    found, covered = [], []
    for trial in range(200):
        values = generator.normal(size=40)
        found.append(sign_flip_p(single(values), (trial,))[0])
        low, high = percentile_interval(bootstrap_means(single(values), (trial,)))
        covered.append(low[0] <= 0 <= high[0])
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.10
    assert 0.88 <= np.mean(covered) <= 0.98


def test_labels_of_several_draws_are_permuted_within_each() -> None:
    """Three draws of levels over the same clusters, which differ much from each other: null p-values are uniform."""
    generator = np.random.default_rng(1)
    found = []
    for trial in range(150):
        base = 2 * generator.normal(size=30)
        sides: dict[bool, list[tuple[float, str, int]]] = {True: [], False: []}
        for draw in range(3):
            for number, treated in enumerate(generator.permutation([True, False] * 15)):
                value = base[number] + 0.3 * generator.normal() + draw
                sides[bool(treated)].append((value, f"c{number:02d}", draw))
        groups = []
        for side in (True, False):
            values, names, draws = zip(*sides[side], strict=True)
            groups.append(cluster_values(np.array(values)[:, None], names, [""] * len(names), draws))
        found.append(label_permutation_p(groups[0], groups[1], (trial,))[0])
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.10
    assert 0.13 <= np.mean(np.array(found) <= 0.2) <= 0.27


def test_one_draw_gives_the_bits_of_none() -> None:
    generator = np.random.default_rng(2)
    names, strata = [f"c{i % 12:02d}" for i in range(30)], [f"s{i % 3}" for i in range(30)]
    one, other = (generator.normal(size=(30, 2)) for _ in range(2))
    without = [cluster_values(one, names, strata), cluster_values(other, [f"d{name}" for name in names], strata)]
    single = [0] * 30
    with_ = [
        cluster_values(one, names, strata, single),
        cluster_values(other, [f"d{name}" for name in names], strata, single),
    ]
    assert np.array_equal(label_permutation_p(*without, ("t",)), label_permutation_p(*with_, ("t",)))


def test_resampling_is_a_function_of_its_key() -> None:
    data = single(np.arange(12.0))
    assert np.array_equal(bootstrap_means(data, ("a", 1)), bootstrap_means(data, ("a", 1)))
    assert not np.array_equal(bootstrap_means(data, ("a", 1)), bootstrap_means(data, ("a", 2)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_monotone_and_between_raw_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))
    assert all(p <= q <= min(1, len(p_values) * p) + 1e-12 for p, q in zip(p_values, adjusted))


def test_holm_of_a_known_family() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_groups_that_share_clusters_are_resampled_together() -> None:
    """The same clusters in both groups: what they share cancels, so the difference is known exactly."""
    names = [f"c{i}" for i in range(12)]
    values = np.arange(12.0)[:, None]
    above, below = (cluster_values(values + shift, names, [""] * 12) for shift in (1.0, 0.0))
    samples = bootstrap_differences(above, below, ("t",))
    assert np.allclose(samples, 1.0)


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
        exact, score = clopper_pearson(found, n), wilson(found, n)
        for low, high in (exact, score):
            assert 0 <= low <= found / n <= high <= 1
    z2 = 1.959963984540054**2
    assert wilson(0, 40) == pytest.approx((0.0, z2 / (40 + z2)))
    assert clopper_pearson(0, 40)[1] == pytest.approx(1 - 0.025 ** (1 / 40))
