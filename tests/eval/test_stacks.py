from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from costar.eval import stacks
from costar.eval.contrasts import contrasts
from costar.eval.stacks import units

from .worlds import NLL, changed, simulate, world_suite

OTHER = ("extraction", "prefix=8", "extracted")


def nothing(arm: Any, step: int, levels: Any, cells: Any) -> float:
    return 0.0


def test_measures_and_steps_of_the_same_records_are_columns_of_one_stack(tmp_path: Path) -> None:
    suite = world_suite(tmp_path)
    scores = simulate(suite, nothing, measures=(NLL, OTHER))
    (total,) = [each for each in contrasts(suite, scores) if each.estimand == "total"]
    (stack,) = stacks.stacks(scores, total)
    assert stack.columns == ((10, OTHER), (10, NLL), (20, OTHER), (20, NLL))
    members = scores.subjects.members("quizzes")
    for k, (step, measure) in enumerate(stack.columns):
        sides = [scores.of(run, step, measure).at(members) for run in ("perturbed.nano.d0", "standard.nano.d0")]
        assert np.array_equal(stack.values[:, k], sides[0] - sides[1])
    gap = changed(scores, "perturbed.nano.d0", OTHER, lambda rows, values: np.where(rows == 3, np.nan, values))
    assert sorted(len(each.frame) for each in stacks.stacks(gap, total)) == [len(members) - 1, len(members)]


def test_a_stack_too_large_is_given_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = world_suite(tmp_path)
    scores = simulate(suite, nothing, measures=(NLL, OTHER))
    (total,) = [each for each in contrasts(suite, scores) if each.estimand == "total"]
    monkeypatch.setattr(stacks, "MOST_NUMBERS", 1)
    found = list(stacks.stacks(scores, total))
    assert sorted(column for each in found for column in each.columns) == sorted(
        (step, measure) for step in (10, 20) for measure in (NLL, OTHER)
    )
    assert {each.values.shape[1] for each in found} == {1}


def test_clusters_are_resampled_by_themselves_unless_there_are_very_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block got one level and stratum in every draw, blocks of a stratum are of one size, and no level has too few."""
    suite = world_suite(tmp_path, draws=2, levels="0 = 500, 4 = 300")
    scores = simulate(suite, nothing, strata=2)
    (total,) = [each for each in contrasts(suite, scores) if each.estimand == "total"]
    (stack,) = stacks.stacks(scores, total)
    frame = stack.frame
    assert np.array_equal(stack.unit, frame.cluster)
    monkeypatch.setattr(stacks, "LEAST_UNITS", 60)
    unit = units(frame)
    assert np.array_equal(unit, units(frame))
    size = 300 // 60
    for number in np.unique(unit):
        for draw in (0, 1):
            own = (unit == number) & (frame.draw == draw)
            assert 0 < own.sum() <= size
            assert len(np.unique(frame.level[own])) == len(np.unique(frame.stratum[own])) == 1
    sizes = np.bincount(unit[frame.draw == 0])
    assert (sizes == size).mean() > 0.9
    for level in (0, 4):
        assert len(np.unique(unit[(frame.draw == 1) & (frame.level == level)])) >= 60
