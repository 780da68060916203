from __future__ import annotations

import numpy as np
import pytest
from costar.eval.roc import (
    Trial,
    auc,
    bootstrap_interval,
    clopper_pearson,
    expanded_tail,
    make_trial,
    permutation_p,
    rate_at,
    roc_points,
)
from scipy.stats import mannwhitneyu


def trial_of(members: int, others: int, strata: list[str] | None = None) -> Trial:
    n = members + others
    return make_trial([i < members for i in range(n)], strata or [""] * n, [f"c{i:05d}" for i in range(n)])


def test_within_strata_the_area_is_the_statistic_of_mann_and_whitney_pooled_by_pairs() -> None:
    generator = np.random.default_rng(0)
    strata = generator.choice(["a", "b", "c"], 90).tolist()
    values = np.round(generator.normal(size=90), 1)  # with ties
    trial = trial_of(30, 60, strata)
    is_member, where = np.arange(90) < 30, np.array(strata)
    above = pairs = 0.0
    for name in "abc":
        own = values[is_member & (where == name)], values[~is_member & (where == name)]
        above += mannwhitneyu(*own).statistic
        pairs += len(own[0]) * len(own[1])
    assert auc(values[None], trial)[0] == pytest.approx(above / pairs)


def test_what_differs_between_strata_or_draws_counts_for_nothing() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=80)
    strata = ["easy" if i % 3 else "hard" for i in range(80)]
    trial = trial_of(30, 50, strata)
    moved = values + 100.0 * np.array([name == "easy" for name in strata])
    assert auc(values[None], trial)[0] == auc(moved[None], trial)[0]
    draws = [i % 2 for i in range(80)]
    several = make_trial([i < 30 for i in range(80)], strata, [str(i // 2) for i in range(80)], draws)
    assert auc(values[None], several)[0] == auc((values + 50.0 * np.array(draws))[None], several)[0]


def test_a_stratum_of_one_side_only_is_passed_over_and_no_pair_is_no_number() -> None:
    trial = trial_of(2, 3, ["a", "b", "a", "a", "c"])
    assert auc(np.array([[2.0, 9.0, 1.0, 3.0, 9.0]]), trial)[0] == 0.5
    apart = trial_of(2, 2, ["a", "a", "b", "b"])
    assert np.isnan(auc(np.zeros((1, 4)), apart)[0])


def test_p_values_are_uniform_where_nothing_is_to_be_found_also_with_clusters_and_strata() -> None:
    generator = np.random.default_rng(2)
    found = []
    for number in range(200):
        clusters = [f"c{i // 2}" for i in range(60)]
        members = generator.permutation(30) < 12
        is_member = np.repeat(members, 2)
        strata = np.repeat(np.where(np.arange(30) < 15, "a", "b"), 2).tolist()
        values = np.repeat(generator.normal(size=30), 2) + generator.normal(size=60) * 0.3  # alike within a cluster
        trial = make_trial(is_member.tolist(), strata, clusters)
        found.append(permutation_p(values[None], trial, (number,))[0])
    found = np.array(found)
    assert 0.01 <= np.mean(found <= 0.05) <= 0.10
    assert 0.4 <= found.mean() <= 0.6


def test_rows_that_share_a_cluster_are_not_taken_for_independent() -> None:
    """Every record twenty times over: as clusters the p-value stays, as records it would fall."""
    generator = np.random.default_rng(5)
    values = np.where(np.arange(24) < 12, 0.4, 0.0) + generator.normal(size=24)
    once = trial_of(12, 12)
    many = make_trial(
        (np.arange(24) < 12).repeat(20).tolist(), [""] * 480, [str(i) for i in range(24) for _ in range(20)]
    )
    p, repeated = permutation_p(values[None], once, ("x",))[0], permutation_p(values.repeat(20)[None], many, ("x",))[0]
    assert repeated == pytest.approx(p, abs=0.03)
    width = np.ptp(bootstrap_interval(values[None], once, ("x",)))
    assert np.ptp(bootstrap_interval(values.repeat(20)[None], many, ("x",))) == pytest.approx(width, abs=0.05)


def test_intervals_cover_the_true_area_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(4)
    from scipy.stats import norm

    true = norm.cdf(0.8 / np.sqrt(2))
    trial, covered = trial_of(40, 80), 0
    for number in range(200):
        values = generator.normal(size=120) + 0.8 * trial.is_member
        low, high = bootstrap_interval(values[None], trial, (number,))
        covered += low[0] <= true <= high[0]
    assert 0.88 <= covered / 200 <= 0.985


def test_few_clusters_widen_an_interval_as_students_quantile_does() -> None:
    assert expanded_tail(10_000) == pytest.approx(0.025, abs=1e-4)
    assert expanded_tail(12) == pytest.approx(0.0108, abs=2e-4)  # Φ(−2.201 · √(12/11))
    assert expanded_tail(10) < expanded_tail(12)


def test_several_draws_of_the_same_clusters_are_resampled_together() -> None:
    """The same trial twice is no more evidence than once."""
    generator = np.random.default_rng(6)
    values = generator.normal(size=60) + 0.5 * (np.arange(60) < 20)
    names, members = [f"c{i}" for i in range(60)], [i < 20 for i in range(60)]
    once = make_trial(members, [""] * 60, names)
    twice = make_trial(members * 2, [""] * 120, names * 2, [0] * 60 + [1] * 60)
    assert auc(np.tile(values, 2)[None], twice)[0] == pytest.approx(auc(values[None], once)[0])
    one, two = (
        np.ptp(bootstrap_interval(v[None], t, ("x",))) for v, t in ((values, once), (np.tile(values, 2), twice))
    )
    assert two > 0.85 * one


def test_the_threshold_passes_no_more_non_members_than_it_may() -> None:
    trial = trial_of(50, 250)
    values = np.concatenate([np.linspace(200, 300, 50), np.arange(250.0)])
    rate = rate_at(values, trial, 0.01)
    assert rate is not None
    assert rate.fpr == 2 / 250
    assert rate.tpr == np.mean(values[:50] >= 248)
    assert (rate.low, rate.high) == clopper_pearson(int(rate.tpr * 50 + 0.5), 50)
    tied = np.concatenate([np.full(50, 300.0), np.minimum(np.arange(250.0), 240.0)])
    rate = rate_at(tied, trial, 0.01)
    assert rate is not None
    assert (rate.fpr, rate.tpr) == (0.0, 1.0)


def test_a_rate_is_refused_where_non_members_are_too_few_to_know_it() -> None:
    values = np.zeros(10_000)
    assert rate_at(values[:149], trial_of(50, 99), 0.01) is None
    assert rate_at(values[:150], trial_of(50, 100), 0.01) is not None
    assert rate_at(values[:9_999], trial_of(50, 9_949), 0.001) is None


def test_a_rate_has_no_interval_where_records_share_clusters() -> None:
    trial = make_trial([i < 20 for i in range(140)], [""] * 140, [f"c{i // 2}" for i in range(140)])
    rate = rate_at(np.arange(140.0), trial, 0.01)
    assert rate is not None
    assert rate.low is None


def test_clopper_pearson_is_the_exact_interval_of_a_share() -> None:
    from scipy.stats import binomtest

    for found, n in ((0, 100), (7, 40), (12, 12)):
        exact = binomtest(found, n).proportion_ci(method="exact")
        assert clopper_pearson(found, n) == pytest.approx((exact.low, exact.high))


def test_the_area_under_the_drawn_curve_is_the_area() -> None:
    generator = np.random.default_rng(7)
    values = np.round(generator.normal(size=70), 1)
    trial = trial_of(30, 40)
    false, true = roc_points(values, trial.is_member)
    area = np.trapezoid(np.append(0.0, true), np.append(0.0, false))
    assert area == pytest.approx(auc(values[None], trial)[0])
