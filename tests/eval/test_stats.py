from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from costar.eval.stats import (
    bootstrap_differences,
    bootstrap_means,
    cluster_values,
    holm,
    label_permutation_p,
    percentile_interval,
    sign_flip_p,
)
from hypothesis import given
from hypothesis import strategies as st


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
