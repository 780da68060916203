from __future__ import annotations

import numpy as np
import pytest
from costar.eval.dataset_inference import cluster_features, inference_p
from scipy.stats import ttest_ind


def test_larger_sets_of_read_records_give_smaller_p_values_and_unread_ones_do_not() -> None:
    generator = np.random.default_rng(0)
    members = generator.normal(size=(200, 6)) + 0.35
    others, unread = generator.normal(size=(200, 6)), generator.normal(size=(200, 6))
    found = inference_p(members, others, ("x",))
    assert list(found) == [2, 5, 10, 20, 50, 100]
    assert found[100] < 1e-4
    assert found[100] < found[20] < found[2]
    assert inference_p(unread, others, ("x",))[100] > 0.05


def test_the_smaller_side_says_how_large_a_set_may_be() -> None:
    assert inference_p(np.zeros((3, 2)), np.zeros((50, 2)), ("x",)) == {}
    assert list(inference_p(np.zeros((4, 2)), np.ones((50, 2)), ("x",))) == [2]


def test_scores_that_do_not_vary_say_nothing() -> None:
    assert inference_p(np.ones((20, 3)), np.ones((20, 3)), ("x",))[10] == 0.5


def test_the_test_is_welchs() -> None:
    from costar.eval.dataset_inference import _welch_p

    generator = np.random.default_rng(1)
    one, other = generator.normal(0.5, 2, 12), generator.normal(0, 1, 12)
    assert _welch_p(one, other) == pytest.approx(ttest_ind(one, other, equal_var=False, alternative="greater").pvalue)


def test_clusters_count_once() -> None:
    features = cluster_features(["a", "b", "c"], {"a": "x", "b": "x", "c": "y"}, [{"a": 1.0, "b": 3.0, "c": 5.0}])
    assert features.tolist() == [[2.0], [5.0]]
