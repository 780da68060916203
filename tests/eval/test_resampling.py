from __future__ import annotations

import numpy as np
import pytest
from costar.eval.clusters import Clustered, cluster_values
from costar.eval.resampling import (
    bca,
    cluster_standard_error,
    difference_interval,
    influence,
    mean_interval,
    resamples,
    sampled_means,
    simultaneous_band,
)
from scipy.stats import bootstrap, norm, ttest_1samp, ttest_ind


def single(values: np.ndarray, first: int = 0) -> Clustered:
    """One record a cluster: values [n] or [n, K]."""
    columns = values.reshape(len(values), -1)
    names = np.arange(first, first + len(values))
    return cluster_values(columns, names, np.zeros_like(names))


def test_clusters_are_summed_and_means_are_over_records() -> None:
    data = cluster_values(np.array([[1.0], [2.0], [6.0]]), np.array([4, 9, 4]), np.array([0, 1, 0]))
    assert data.sums.tolist() == [[7.0], [2.0]]
    assert data.counts.tolist() == [2.0, 1.0]
    assert data.means[0] == 3.0
    assert data.strata.tolist() == [0, 1]
    assert data.names.tolist() == [4, 9]


def test_draws_are_kept_apart_and_put_together_again() -> None:
    generator = np.random.default_rng(1)
    values, clusters = generator.normal(size=(30, 2)), generator.integers(0, 8, 30)
    strata, draws = clusters % 3, np.repeat([0, 1, 2], 10)
    apart, together = cluster_values(values, clusters, strata, draws), cluster_values(values, clusters, strata)
    assert apart.size == len(set(zip(draws.tolist(), clusters.tolist())))
    joint = apart.joint()
    assert np.allclose(joint.sums, together.sums)
    for name in ("counts", "strata", "names"):
        assert np.array_equal(getattr(joint, name), getattr(together, name))


def test_one_draw_gives_the_bits_of_none() -> None:
    generator = np.random.default_rng(2)
    values, clusters = generator.normal(size=(30, 2)), np.arange(30) % 12
    without = cluster_values(values, clusters, clusters % 3)
    with_ = cluster_values(values, clusters, clusters % 3, np.zeros(30, np.int64))
    assert np.array_equal(mean_interval(without, ("t",)).low, mean_interval(with_, ("t",)).low)


@pytest.mark.parametrize("kind", ["normal", "exponential"])
def test_bca_of_single_records_is_that_of_scipy(kind: str) -> None:
    values = getattr(np.random.default_rng(3), kind)(size=60)
    theirs = bootstrap((values,), np.mean, method="BCa", n_resamples=10_000, rng=np.random.default_rng(1))
    low, high = theirs.confidence_interval
    data = single(values)
    samples = sampled_means([data], ("t",), 10_000)[0]
    ours = bca(samples, data.means, influence(data, None).acceleration, np.full(1, norm.isf(0.025)))
    assert (ours.low[0], ours.high[0]) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_bca_of_two_groups_is_that_of_scipy() -> None:
    generator = np.random.default_rng(4)
    one, other = generator.exponential(size=40), generator.normal(size=70)

    def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean(a, axis=axis) - np.mean(b, axis=axis)

    theirs = bootstrap((one, other), difference, method="BCa", n_resamples=10_000, rng=np.random.default_rng(1))
    low, high = theirs.confidence_interval
    treated, held_out = single(one), single(other, 100)
    samples = sampled_means([treated, held_out], ("t",), 10_000)
    acceleration = influence(treated, held_out).acceleration
    ours = bca(samples[0] - samples[1], treated.means - held_out.means, acceleration, np.full(1, norm.isf(0.025)))
    assert (ours.low[0], ours.high[0]) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_the_correction_for_few_clusters_widens_and_fades() -> None:
    generator = np.random.default_rng(5)
    for clusters, widest, least in ((10, 1.35, 1.15), (1000, 1.02, 1.0)):
        data = single(generator.normal(size=(clusters, 40)))
        samples = sampled_means([data], ("t",), resamples(clusters))[0]
        ours = mean_interval(data, ("t",))
        plain = bca(samples, data.means, influence(data, None).acceleration, np.full(40, norm.isf(0.025)))
        ratio = float(np.mean((ours.high - ours.low) / (plain.high - plain.low)))
        assert least <= ratio <= widest


def test_standard_errors_are_those_of_t_tests_where_clusters_are_single_records() -> None:
    generator = np.random.default_rng(6)
    one, other = generator.normal(size=25), 3 * generator.normal(size=40)
    error, freedom = cluster_standard_error(single(one))
    assert error[0] == pytest.approx(one.mean() / ttest_1samp(one, 0).statistic)
    assert freedom[0] == pytest.approx(24)
    error, freedom = cluster_standard_error(single(one), single(other, 100))
    welch = ttest_ind(one, other, equal_var=False)
    assert error[0] == pytest.approx((one.mean() - other.mean()) / welch.statistic)
    assert freedom[0] == pytest.approx(welch.df)


def test_the_standard_error_is_of_clusters_not_of_records() -> None:
    """Records of a cluster that are all alike tell nothing beyond the first."""
    values = np.random.default_rng(7).normal(size=20)
    names = np.repeat(np.arange(20), 5)
    many = cluster_values(values[names][:, None], names, np.zeros_like(names))
    assert cluster_standard_error(many)[0] == pytest.approx(cluster_standard_error(single(values))[0])
    one, other = mean_interval(many, ("t",)), mean_interval(single(values), ("t",))
    assert (one.low[0], one.high[0]) == pytest.approx((other.low[0], other.high[0]))


def test_unequal_clusters_count_for_fewer() -> None:
    names = np.repeat(np.arange(12), [1] * 11 + [20])
    data = cluster_values(np.random.default_rng(8).normal(size=(len(names), 1)), names, np.zeros_like(names))
    assert cluster_standard_error(data)[1][0] < 2


def test_groups_that_share_clusters_are_resampled_together() -> None:
    """The same clusters in both groups: what they share cancels, so the difference is known exactly."""
    values, names = np.arange(12.0)[:, None], np.arange(12)
    above, below = (
        cluster_values(values + shift, names, np.zeros_like(names), np.full(12, draw))
        for draw, shift in enumerate((1.0, 0.0))
    )
    interval = difference_interval(above, below, ("t",))
    assert (interval.low[0], interval.high[0]) == pytest.approx((1.0, 1.0))
    assert cluster_standard_error(above, below)[0] == pytest.approx(0.0, abs=1e-9)


def test_a_constant_share_may_hide_what_wilson_says_and_other_constants_have_no_interval() -> None:
    interval = mean_interval(single(np.zeros(40)), ("t",))
    z = norm.isf(0.025)
    assert (interval.low[0], interval.high[0]) == pytest.approx((-(z**2) / (40 + z**2), z**2 / (40 + z**2)))
    interval = mean_interval(single(np.full(40, 12.0)), ("t",))
    assert np.isnan(interval.low[0])
    assert np.isnan(interval.high[0])


def test_a_constant_group_widens_the_interval_of_a_difference_by_what_it_may_hide() -> None:
    treated = single((np.arange(40) < 12).astype(float))
    widths = []
    for clusters in (10, 100, 10_000):
        interval = difference_interval(treated, single(np.zeros(clusters), 100), ("t",))
        assert interval.low[0] < 0.3 < interval.high[0]
        widths.append(interval.high[0] - interval.low[0])
    assert widths == sorted(widths, reverse=True)
    alone = mean_interval(treated, ("t",))
    assert widths[-1] == pytest.approx(alone.high[0] - alone.low[0], abs=0.026)  # samples are 1/40 apart


@pytest.mark.parametrize("held_out", [None, single(np.random.default_rng(11).exponential(size=(60, 20)), 10_000)])
def test_a_band_contains_the_intervals_of_its_groups_and_is_theirs_for_one_group(held_out: Clustered | None) -> None:
    generator = np.random.default_rng(9)
    groups = [single(generator.exponential(size=(30 + 5 * n, 20)), 100 * n) for n in range(4)]
    bands = simultaneous_band(groups, held_out, ("t",))
    for number, (group, band) in enumerate(zip(groups, bands)):
        own = difference_interval(group, held_out, ("t",)) if held_out else mean_interval(group, (number,))
        wider = (band.high - band.low) / (own.high - own.low)
        assert 1.1 < wider.mean() < 1.6
        assert wider.min() > 1
    lone = simultaneous_band(groups[:1], held_out, ("t",))[0]
    own = difference_interval(groups[0], held_out, ("t",)) if held_out else mean_interval(groups[0], ("t",))
    assert np.array_equal(lone.low, own.low)


def test_columns_do_not_touch_each_other_and_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(10).exponential(size=(25, 8))
    whole = mean_interval(single(values), ("t",))
    alone = mean_interval(single(values[:, 3]), ("t",))
    assert whole.low[3] == pytest.approx(alone.low[0])
    monkeypatch.setattr("costar.eval.clusters.NUMBERS", 3 * resamples(25))
    pieces = mean_interval(single(values), ("t",))
    assert whole.high == pytest.approx(pieces.high)


def test_intervals_are_a_function_of_data_and_key() -> None:
    data = single(np.random.default_rng(12).normal(size=40))
    assert np.array_equal(mean_interval(data, ("a", 1)).low, mean_interval(data, ("a", 1)).low)
    assert not np.array_equal(mean_interval(data, ("a", 1)).low, mean_interval(data, ("a", 2)).low)
