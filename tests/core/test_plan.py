from __future__ import annotations

import math

import pytest
from costar.core.plan import detectable, full_runs, plan_runs, tree_remark
from costar.core.suite import find_suite, load_suite


def test_demo_costs_three_and_a_half_runs() -> None:
    suite = load_suite(find_suite("demo"))
    runs = plan_runs(suite, suite.runs(), 1024)
    late = runs[-1]
    assert (late.parent, late.shared_steps) == ("standard.tiny.d0", 366)
    assert full_runs(runs) == pytest.approx(3.5)
    assert "for the price of 3.5" in tree_remark(runs)


def test_detectable_effect_follows_the_two_sample_formula() -> None:
    sizes = detectable({0: 200, 1: 50})
    assert set(sizes) == {1}
    assert sizes[1] == pytest.approx(2.80158 * math.sqrt(1 / 50 + 1 / 200), rel=1e-4)
