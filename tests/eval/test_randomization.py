from __future__ import annotations

import itertools
from math import comb, log10

import numpy as np
import pytest
from costar.eval.clusters import Clustered, cluster_values
from costar.eval.randomization import label_arrangements, label_permutation_p, max_t_p, sign_flip_p
from costar.insertion.levels import Cluster, assign_levels
from scipy.stats import binomtest, fisher_exact, ks_2samp


def single(values: np.ndarray, first: int = 0, stratum: int = 0) -> Clustered:
    """One record a cluster: values [n] or [n, K]."""
    columns = values.reshape(len(values), -1)
    names = np.arange(first, first + len(values))
    return cluster_values(columns, names, np.full(len(values), stratum))


def test_up_to_twelve_clusters_every_pattern_of_signs_is_taken() -> None:
    values = np.random.default_rng(1).normal(0.4, 1, 9)
    patterns = np.array(list(itertools.product([1, -1], repeat=9))) @ values
    exact = np.mean(np.abs(patterns) >= abs(values.sum()) - 1e-9)
    assert sign_flip_p(single(values), ("t",))[0] == pytest.approx(exact, abs=1e-12)


def test_more_clusters_come_close_to_the_exact_p_value() -> None:
    values = np.random.default_rng(2).normal(0.5, 1, 14)
    patterns = np.array(list(itertools.product([1, -1], repeat=14))) @ values
    exact = np.mean(np.abs(patterns) >= abs(values.sum()) - 1e-9)
    assert sign_flip_p(single(values), ("t",))[0] == pytest.approx(exact, abs=0.01)


def test_ones_and_zeros_of_single_records_have_the_exact_p_value_of_mcnemar() -> None:
    values = np.array([1.0] * 14 + [-1.0] * 4 + [0.0] * 50)
    columns = np.stack([values, np.random.default_rng(3).normal(size=68), np.zeros(68)], axis=1)
    p = sign_flip_p(single(columns), ("t",))
    assert p[0] == pytest.approx(binomtest(14, 18, 0.5).pvalue)
    assert 0 < p[1] < 1
    assert p[2] == 1
    patterns = (1.0 - 2.0 * np.array(list(itertools.product([0, 1], repeat=18)))) @ values[:18]
    assert p[0] == pytest.approx(np.mean(np.abs(patterns) >= 10))


def test_signs_of_a_cluster_flip_in_all_draws_together() -> None:
    """Eleven clusters seen in three draws tell no more than eleven."""
    names, draws = np.tile(np.arange(11), 3), np.repeat([0, 1, 2], 11)
    data = cluster_values(np.ones((33, 1)), names, np.zeros_like(names), draws)
    assert sign_flip_p(data, ("t",))[0] == pytest.approx(2 / 2**11)


def test_label_permutation_p_of_separated_groups_is_the_exact_one() -> None:
    treated, held_out = single(np.arange(5) + 100.0), single(np.arange(5.0), 10)
    assert label_permutation_p(treated, held_out, ("t",))[0] == pytest.approx(2 / comb(10, 5), abs=0.003)
    assert label_arrangements(treated, held_out) == pytest.approx(log10(comb(10, 5)))


@pytest.mark.parametrize(("found", "others"), [(6, 6), (4, 2), (0, 12), (25, 40), (30, 60)])
def test_of_ones_and_zeros_label_permutation_comes_close_to_fishers_exact_test(found: int, others: int) -> None:
    """Also where the treated are all alike: that alone is not extreme."""
    treated, held_out = single((np.arange(30) < found) * 1.0), single((np.arange(120) < others) * 1.0, 100)
    exact = [
        fisher_exact([[found, 30 - found], [others, 120 - others]], alternative=side).pvalue
        for side in ("less", "greater")
    ]
    p = label_permutation_p(treated, held_out, ("t",))[0]
    assert min(exact) * 0.9 - 0.002 <= p <= 2 * min(exact) + 0.03


def test_spreads_that_differ_do_not_pass_for_means_that_differ() -> None:
    generator = np.random.default_rng(12)
    treated, held_out = generator.normal(0, 3, (30, 400)), generator.normal(0, 1, (120, 400))
    p = label_permutation_p(single(treated), single(held_out, 100), ("t",))
    assert np.mean(p <= 0.05) < 0.13  # without standard errors a quarter


def test_labels_are_exchanged_within_strata_only() -> None:
    """One stratum all treated, the other all held out: nothing can be exchanged, so nothing can be found."""
    treated, held_out = single(np.ones(6), 0, stratum=1), single(np.zeros(6), 10, stratum=2)
    assert label_permutation_p(treated, held_out, ("t",))[0] == 1.0
    assert label_arrangements(treated, held_out) == 0


def test_what_differs_between_strata_is_no_noise() -> None:
    """Strata far apart, a small effect within each: it is found, and would not be among all records alike."""
    generator = np.random.default_rng(4)
    base = np.repeat([0.0, 50.0, 100.0], 20)
    strata = np.repeat([0, 1, 2], 20)
    groups = [
        cluster_values((base + shift + generator.normal(size=60))[:, None], np.arange(60) + first, strata)
        for first, shift in ((0, 1.0), (100, 0.0))
    ]
    assert label_permutation_p(*groups, ("t",))[0] < 0.001
    blind = [Clustered(own.sums, own.counts, np.zeros(60, np.int64), own.names) for own in groups]
    assert label_permutation_p(*blind, ("t",))[0] > 0.2


def test_labels_of_several_draws_are_exchanged_within_each() -> None:
    """Three draws of levels over the same clusters, which differ much from each other: null p-values are uniform."""
    generator = np.random.default_rng(1)
    found = []
    for trial in range(60):
        base = 2 * generator.normal(size=(30, 10))
        rows = []
        for draw in range(3):
            order = generator.permutation(30)
            values = base + 0.3 * generator.normal(size=(30, 10)) + draw
            rows.append([(values[half], half, np.full(15, draw)) for half in (order[:15], order[15:])])
        groups = []
        for side in (0, 1):
            values, names, draws = (np.concatenate([draw[side][k] for draw in rows]) for k in range(3))
            groups.append(cluster_values(values, names, np.zeros_like(names), draws))
        found += label_permutation_p(*groups, (trial,)).tolist()
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.08
    assert 0.15 <= np.mean(np.array(found) <= 0.2) <= 0.25


STRATA = 4
SIZES = [1, 1, 2, 1, 3, 1, 1, 4, 2, 1]


def redrawn(sizes: list[int], levels: dict[int, int], draw: int) -> np.ndarray:
    """The levels of clusters as the suite's own function draws them."""
    clusters = [Cluster(name=f"c{n}", stratum=f"s{n % STRATA}", size=size) for n, size in enumerate(sizes)]
    assigned = assign_levels(clusters, levels, key=(1, draw, "test"), place="test")
    return np.array([assigned[cluster.name] for cluster in clusters])


def grouped(values: np.ndarray, sizes: list[int], drawn: np.ndarray, level: int) -> Clustered:
    at = np.flatnonzero(drawn == level)
    return Clustered(values[at], np.array(sizes, float)[at], at % STRATA, at)


def test_exchanging_labels_is_drawing_the_assignment_again() -> None:
    """Equal clusters: sums of the treated under other draw numbers and under exchanged labels have one distribution."""
    sizes, levels = [1] * 40, {0: 20, 4: 20}
    values = np.random.default_rng(5).lognormal(size=40) + 5.0 * (np.arange(40) % STRATA)
    drawn = [redrawn(sizes, levels, draw) for draw in range(1500)]
    real = [values[levels == 4].sum() for levels in drawn]
    generator = np.random.default_rng(6)
    exchanged = []
    for _ in range(1500):
        labels = drawn[0].copy()
        for stratum in range(STRATA):
            labels[stratum::STRATA] = generator.permutation(labels[stratum::STRATA])
        exchanged.append(values[labels == 4].sum())
    assert ks_2samp(real, exchanged).pvalue > 0.01


def test_p_values_under_other_draws_of_unequal_clusters_are_uniform() -> None:
    """Whole clusters fill the levels, so large ones end elsewhere than small ones; exchanged within sizes, all is well."""
    sizes = SIZES * 8
    levels = {0: sum(sizes) - 24, 1: 12, 8: 12}  # three records a stratum: a cluster of four is never inserted
    generator = np.random.default_rng(7)
    right, wrong = [], []
    for draw in range(150):
        drawn = redrawn(sizes, levels, draw)
        values = (np.array(sizes) ** 2 + 0.5 * generator.normal(size=(12, 80))).T
        groups = [grouped(values, sizes, drawn, level) for level in (1, 0)]
        right += label_permutation_p(*groups, (draw,)).tolist()
        blind = [Clustered(own.sums, np.ones(own.size), own.strata, own.names) for own in groups]
        wrong += label_permutation_p(*blind, (draw,)).tolist()
    assert 0.03 <= np.mean(np.array(right) <= 0.05) <= 0.07
    assert 0.16 <= np.mean(np.array(right) <= 0.2) <= 0.24
    assert np.mean(np.array(wrong) <= 0.05) > 0.1


def test_adjusted_p_values_are_no_smaller_and_one_level_is_not_adjusted() -> None:
    generator = np.random.default_rng(8)
    groups = [single(generator.normal(0.3 * n, 1, (15, 10)), 100 * n) for n in range(4)]
    held_out = single(generator.normal(size=(40, 10)), 1000)
    single_p = np.array([label_permutation_p(group, held_out, ("t", n)) for n, group in enumerate(groups)])
    adjusted = np.array(max_t_p(groups, held_out, ("t",)))
    assert (adjusted >= single_p - 0.02).all()
    assert (adjusted > single_p + 0.02).any()
    assert max_t_p(groups[:1], held_out, ("t",))[0] == pytest.approx(single_p[0], abs=0.02)
    flipped = np.array([sign_flip_p(group, ("t", n)) for n, group in enumerate(groups)])
    adjusted = np.array(max_t_p(groups, None, ("t",)))
    assert (adjusted >= flipped - 0.02).all()
    assert max_t_p(groups[:1], None, ("t",))[0] == pytest.approx(flipped[0], abs=0.02)


def test_max_t_gains_on_holm_where_levels_depend_on_each_other() -> None:
    """Five levels against few held-out records, or of the same clusters in five draws: their statistics rise together."""
    generator = np.random.default_rng(9)
    held_out = single(generator.normal(-0.8, 1, (12, 60)), 1000)
    groups = [single(generator.normal(size=(60, 60)), 100 * n) for n in range(5)]
    adjusted = np.array(max_t_p(groups, held_out, ("t",)))
    bonferroni = np.minimum(1, 5 * np.array([label_permutation_p(g, held_out, (n,)) for n, g in enumerate(groups)]))
    assert np.mean(adjusted.min(0)) < 0.8 * np.mean(bonferroni.min(0))
    base = generator.normal(0.3, 1, (40, 60))
    names = np.arange(40)
    draws = [
        cluster_values(base + 0.2 * generator.normal(size=(40, 60)), names, 0 * names, np.full(40, d)) for d in range(5)
    ]
    adjusted = np.array(max_t_p(draws, None, ("t",)))
    bonferroni = np.minimum(1, 5 * np.array([sign_flip_p(group, (n,)) for n, group in enumerate(draws)]))
    assert np.mean(adjusted.min(0)) < 0.8 * np.mean(bonferroni.min(0))


def test_seven_levels_are_adjusted_by_holm() -> None:
    generator = np.random.default_rng(10)
    groups = [single(generator.normal(n == 6, 1, (12, 3)), 100 * n) for n in range(7)]
    adjusted = np.array(max_t_p(groups, single(generator.normal(size=(30, 3)), 1000), ("t",)))
    assert adjusted.shape == (7, 3)
    assert (adjusted[6] < 0.5).any()


def test_p_values_are_a_function_of_data_and_key() -> None:
    generator = np.random.default_rng(11)
    groups = [single(generator.normal(size=(20, 2)), 100 * n) for n in range(3)]
    for test in (
        lambda key: sign_flip_p(groups[0], key),
        lambda key: label_permutation_p(groups[0], groups[1], key),
        lambda key: np.array(max_t_p(groups[:2], groups[2], key)),
        lambda key: np.array(max_t_p(groups, None, key)),
    ):
        assert np.array_equal(test(("a", 1)), test(("a", 1)))
        assert not np.array_equal(test(("a", 1)), test(("a", 2)))
