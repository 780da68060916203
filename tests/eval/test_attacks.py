from __future__ import annotations

import zlib

import numpy as np
import pytest
from costar.eval.attacks import dc_pdd, lira, mean_logp, min_k, min_k_plus_plus, recall_ratio, rmia, zlib_ratio

LOGP = np.array([-1.0, -4.0, -2.0, -8.0, -0.5], np.float32)


def test_loss_and_zlib_are_the_mean_and_the_mean_over_packed_bytes() -> None:
    assert mean_logp(LOGP) == pytest.approx(-3.1)
    text = "so it goes, so it goes, so it goes"
    assert zlib_ratio(LOGP, text) == pytest.approx(-3.1 / len(zlib.compress(text.encode(), 6)))


def test_min_k_is_the_mean_of_the_lowest_and_of_one_token_at_least() -> None:
    assert min_k(LOGP) == -8.0
    assert min_k(LOGP, 0.4) == -6.0
    assert min_k(LOGP[:1]) == -1.0
    assert min_k(np.arange(10.0)) == 0.5


def test_min_k_plus_plus_standardizes_each_token_before_it_takes_the_lowest() -> None:
    mean, variance = np.full(5, -3.0, np.float32), np.array([4.0, 0.25, 1.0, 25.0, 1.0], np.float32)
    assert min_k_plus_plus(LOGP, mean, variance) == pytest.approx(
        -2.0
    )  # (−4 + 3) / 0.5, not the −8 of the largest loss
    certain = min_k_plus_plus(LOGP[:1], np.array([-2.0]), np.array([0.0]))
    assert certain == pytest.approx(1.0 / 1e-3)


def test_recall_is_larger_where_a_foreign_prefix_hurts_more() -> None:
    assert recall_ratio(-30.0, -20.0) > recall_ratio(-21.0, -20.0)


def test_dc_pdd_counts_first_occurrences_with_one_more_of_each_id_and_clips() -> None:
    ids, counts = np.array([2, 0, 2, 1]), np.array([5, 0, 3, 0])
    logp = np.log(np.array([0.001, 0.002, 0.9, 0.5]))
    frequency = (counts + 1) / (counts.sum() + 4)
    expected = [0.001 * -np.log(frequency[2]), 0.002 * -np.log(frequency[0]), 0.01]
    assert dc_pdd(logp, ids, counts) == pytest.approx(np.mean(expected))


def test_lira_takes_its_own_spread_from_eight_models_on_and_the_pooled_one_before() -> None:
    out = np.array([[1.0, 3.0, np.nan], [10.0, 14.0, np.nan], [5.0, np.nan, np.nan]])
    pooled = np.sqrt((2 * 1.0 + 2 * 4.0) / 2)
    found = lira(np.array([4.0, 12.0, 7.0]), out)
    assert found[:2] == pytest.approx([2 / pooled, 0.0])
    assert np.isnan(found[2])  # one model without it is not enough
    many = np.arange(8.0)[None]
    assert lira(np.array([10.0]), many)[0] == pytest.approx((10 - 3.5) / many.std(ddof=1))


def test_rmia_is_the_share_of_the_population_that_gained_no_more() -> None:
    scores = np.array([-1.0, -2.0, -3.0, -1.5])
    out = np.log(np.array([[0.1, 0.3], [0.1, 0.1], [0.05, 0.05], [0.2, 0.2]]))
    ratio = np.exp(scores) / np.exp(out).mean(1)
    held_out = np.array([False, True, True, True])
    others = [[1, 2, 3], [2, 3], [1, 3], [1, 2]]
    expected = [np.mean([ratio[i] >= ratio[z] for z in own]) for i, own in enumerate(others)]
    assert rmia(scores, out, held_out) == pytest.approx(expected)


def test_with_other_models_members_are_told_apart_that_the_loss_alone_does_not_show() -> None:
    """Records differ in difficulty far more than a copy changes: what other models say of each takes that away."""
    from costar.eval.roc import auc, make_trial

    generator = np.random.default_rng(3)
    n = 400
    is_member = np.arange(n) < n // 2
    difficulty = generator.normal(-3, 1.0, n)
    scores = difficulty + 0.2 * is_member + generator.normal(0, 0.1, n)
    out = difficulty[:, None] + generator.normal(0, 0.1, (n, 4))
    trial = make_trial(is_member.tolist(), [""] * n, [str(i) for i in range(n)])
    plain, better, ratio = auc(np.array([scores, lira(scores, out), rmia(scores, out, ~is_member)]), trial)
    assert plain < 0.65
    assert better > 0.85
    assert ratio > 0.85
