from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.contrasts import (
    common_steps,
    contrasts,
    differences,
    interference_pairs,
    measures,
    timing_pairs,
    unread,
)
from costar.eval.scores import load_scores

from .worlds import NLL, changed, simulate, world_suite


def nothing(arm: Any, step: int, levels: Any, cells: Any) -> float:
    return 0.0


def test_timing_is_late_less_early_and_other_arms_are_not_contrasted(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    assert [(a.name, b.name, p) for a, b, p in timing_pairs(suite)] == [("late", "early", "passages")]
    timing = [each for each in contrasts(suite, load_scores(suite, Workspace(built))) if each.estimand == "timing"]
    assert [(each.treated, each.control) for each in timing] == [(("late.nano.d0",), ("early.nano.d0",))]


def test_arms_that_start_from_different_weights_are_no_timing_contrast(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    for start in ({"parent": "standard"}, {"init": "elsewhere"}):
        late = replace(suite.arms["late"], **start)
        assert timing_pairs(replace(suite, arms=dict(suite.arms) | {"late": late})) == []


def test_labels_are_a_placebo_only_where_nothing_of_the_perturbation_was_read(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    everything = list(suite.perturbations)
    assert unread(suite, suite.arms["standard"]) == everything
    assert unread(suite, suite.arms["late"]) == [name for name in everything if name != "passages"]

    def with_(**more: Any) -> Any:
        arms = dict(suite.arms)
        middle = replace(arms["standard"], name="middle", **more)
        return replace(suite, arms=arms | {"middle": middle, "child": replace(middle, name="child", parent="middle")})

    found = with_(parent="late")
    assert unread(found, found.arms["child"]) == [name for name in everything if name != "passages"]
    found = with_(init="elsewhere")
    assert unread(found, found.arms["child"]) == []
    child = replace(suite, arms=dict(suite.arms) | {"standard": replace(suite.arms["standard"], parent="late")})
    placebo = [c for c in contrasts(child, load_scores(suite, Workspace(built))) if c.estimand == "placebo"]
    assert {each.perturbation for each in placebo} == {"quizzes", "passwords"}


def test_interference_sets_all_risks_against_the_fewest_that_are_inserted_alike(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    perturbed = suite.arms["perturbed"]

    def pairs(**arms: Any) -> list[tuple[str, str, str]]:
        whole = replace(suite, arms=dict(suite.arms) | arms)
        return [(a.name, b.name, p) for a, b, p in interference_pairs(whole)]

    assert pairs() == []  # early and late insert passages in another phase
    quizzes = replace(perturbed, name="quizzes", inserted=("quizzes",))
    both = replace(perturbed, name="both", inserted=("passages", "quizzes"))
    assert pairs(quizzes=quizzes) == [("perturbed", "quizzes", "quizzes")]
    assert pairs(quizzes=quizzes, both=both) == [
        ("perturbed", "both", "passages"),
        ("perturbed", "quizzes", "quizzes"),
        ("both", "quizzes", "quizzes"),
    ]
    factors = dict(perturbed.factors) | {"quizzes": (replace(perturbed.factors["quizzes"][0], spacing="burst"),)}
    for other in ({"control": "early"}, {"factors": factors}, {"parent": "early"}, {"filler": "base"}):
        assert pairs(quizzes=replace(quizzes, **other)) == []
    more_often = replace(quizzes, train=replace(quizzes.train, every=7))
    assert pairs(quizzes=more_often) == [("perturbed", "quizzes", "quizzes")]


def test_records_of_a_randomizing_arm_are_compared_as_differences_to_the_control(tmp_path: Path) -> None:
    suite = world_suite(tmp_path, more="[arm.when]\nfactors = { phase = [[0.0, 0.5], [0.5, 1.0]] }")
    scores = simulate(suite, nothing)
    (factor,) = [each for each in contrasts(suite, scores) if each.estimand == "factor"]
    assert (factor.treated, factor.control) == (("when.nano.d0",), ("standard.nano.d0",))
    found = differences(scores, factor, 20, NLL)
    assert found is not None
    cells = scores.subjects.cells[("when", 0)]
    assert (found.cell == cells[found.record]).all()
    assert set(found.cell.tolist()) == {0, 1}


def test_differences_are_treated_less_control_of_the_records_that_both_have(tmp_path: Path) -> None:
    suite = world_suite(tmp_path, draws=2)
    scores = simulate(suite, nothing)
    scores = changed(scores, "perturbed.nano.d0", NLL, lambda rows, values: np.where(rows < 5, np.nan, values))
    scores = changed(scores, "standard.nano.d0", NLL, lambda rows, values: np.where(rows == 7, np.nan, values))
    (total,) = [each for each in contrasts(suite, scores) if each.estimand == "total"]
    found = differences(scores, total, 20, NLL)
    assert found is not None
    count = len(scores.subjects.ids)
    expected = [(0, row) for row in range(5, count) if row != 7] + [(1, row) for row in range(count)]
    assert list(zip(found.draw.tolist(), found.record.tolist(), strict=True)) == expected
    for draw in (0, 1):
        own = found.where(found.draw == draw)
        treated, control = (scores.of(f"{arm}.nano.d{draw}", 20, NLL) for arm in ("perturbed", "standard"))
        assert own.value == pytest.approx(treated.at(own.record) - control.at(own.record))
        assert (own.level == scores.subjects.levels[("perturbed", draw)][own.record]).all()
    assert (np.diff(found.cluster[found.draw == 1]) > 0).all()


def test_draws_and_steps_that_lack_a_side_are_left_out_and_named(tmp_path: Path) -> None:
    suite = world_suite(tmp_path, draws=3)
    scores = simulate(suite, nothing)
    values = dict(scores.values)
    del values["standard.nano.d0"]
    values["perturbed.nano.d1"] = {10: values["perturbed.nano.d1"][10]}
    scores = replace(scores, values=values)
    (total,) = [each for each in contrasts(suite, scores) if each.estimand == "total"]
    assert total.draws == (1, 2)
    assert total.left_out == (
        "draw 0: standard.nano.d0 not measured",
        "draw 1: perturbed.nano.d1 not measured at the last step, 20",
    )
    assert common_steps(scores, total) == [10, 20]
    assert [differences(scores, total, step, NLL).draws.tolist() for step in (10, 20)] == [[1, 2], [2]]  # type: ignore[union-attr]
    assert measures(scores, total, 20) == [NLL]


def test_a_model_that_the_arms_do_not_have_is_no_contrast(tmp_path: Path) -> None:
    suite = world_suite(tmp_path)
    scores = simulate(suite, nothing)
    one = replace(suite, models=("nano", "pico"))
    assert {each.model for each in contrasts(one, scores)} == {"nano"}
    also = replace(scores, values=dict(scores.values) | simulate(suite, nothing, model="pico").values)
    assert {each.model for each in contrasts(suite, also)} == {"nano", "pico"}


def test_sites_are_those_of_the_treated_arm(tmp_path: Path) -> None:
    own, other = (("site", f"site={arm},prefix=8", "extracted") for arm in ("perturbed", "late"))
    suite = world_suite(tmp_path)
    scores = simulate(suite, nothing, measures=(NLL, own, other))
    (total,) = [each for each in contrasts(suite, scores) if each.estimand == "total"]
    assert measures(scores, total, 20) == sorted([NLL, own])
