from __future__ import annotations

import math
from pathlib import Path

import pytest
from costar.core.plan import factor_notes, full_runs, plan_runs, rotation_notes, tree_remark
from costar.core.schemes import detectable
from costar.core.suite import find_suite, load_suite

from tests.small import SUITE


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


def test_several_levels_are_compared_at_the_strictest_step_of_holm() -> None:
    one, three = detectable({0: 200, 1: 50}), detectable({0: 200, 1: 50, 4: 50, 16: 50})
    assert set(three) == {1, 4, 16}
    assert three[1] / one[1] == pytest.approx((2.39398 + 0.841621) / 2.80158, rel=1e-4)


def test_records_that_a_rotation_inserts_twice_are_counted(tmp_path: Path) -> None:
    head, tail = (
        SUITE[: SUITE.index("[perturbation.quizzes]")],
        SUITE[SUITE.index("[train]") : SUITE.index("[release]")],
    )
    arms = "[arm.standard]\nperturbations = []\n[arm.swapped]\nassignment = 'swap'\n"
    path = tmp_path / "case.toml"
    path.write_text(head + arms + tail)
    (note,) = rotation_notes(load_suite(path))
    assert "4 of its 24 inserted passages" in note
    path.write_text(head.replace("{ 0 = 20, 1 = 12, 14 = 12 }", "{ 0 = 24, 1 = 12, 14 = 12 }") + arms + tail)
    assert rotation_notes(load_suite(path)) == []


def test_levels_with_fewer_records_than_combinations_are_noted(tmp_path: Path) -> None:
    head, tail = (
        SUITE[: SUITE.index("[perturbation.quizzes]")],
        SUITE[SUITE.index("[train]") : SUITE.index("[release]")],
    )
    factors = (
        "factors = { phase = [[0, 0.5], [0.5, 1]], position = ['start', 'middle', 'end'], spacing = ['even', 'burst'] }"
    )
    path = tmp_path / "case.toml"
    path.write_text(head + f"[arm.standard]\nperturbations = []\n[arm.many]\n{factors}\n" + tail)
    assert factor_notes(load_suite(path)) == []
    path.write_text(path.read_text().replace("14 = 12", "14 = 11"))
    assert "level 14 (11)" in factor_notes(load_suite(path))[0]
