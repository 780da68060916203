"""What a measured suite tells of the power of the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from costar.core.machine import Machine
from costar.core.session import Session
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.pilot import read_pilot, spreads

from .worlds import simulate, world_suite


@pytest.mark.parametrize(("per_cluster", "noise"), [(1, 0.2), (1, 0.6), (3, 0.6)])
def test_the_spread_is_that_of_a_clusters_difference_within_its_level(
    tmp_path: Path, per_cluster: int, noise: float
) -> None:
    """Both runs have the noise, and a cluster's mean has it over its records; what levels do to it is no spread."""
    suite = world_suite(tmp_path, levels="0 = 600, 1 = 300, 4 = 300")
    scores = simulate(
        suite,
        lambda arm, step, level, cell: -2.0 * level,
        measures=(suite.eval.analysis.primary["quizzes"],),
        per_cluster=per_cluster,
        noise=noise,
    )
    assert spreads(suite, scores)["quizzes"] == pytest.approx(noise * (2 / per_cluster) ** 0.5, rel=0.1)


def test_a_built_suite_is_its_own_pilot_and_that_of_others_with_the_same_measures(built: Path, tmp_path: Path) -> None:
    suite = load_suite(built / "suite.toml")
    own = Session(suite=suite, workspace=Workspace(built), machine=Machine())
    known = read_pilot(own, own)
    assert known.clusters["passages"] == suite.perturbations["passages"].levels
    assert set(known.spread) <= set(suite.perturbations)
    assert known.spread["passages"] > 0
    unbuilt = replace(own, workspace=Workspace(tmp_path))
    assert read_pilot(unbuilt, own).clusters == {}
    assert read_pilot(unbuilt, own).spread == known.spread
    assert read_pilot(unbuilt, unbuilt).spread == {}
    analysis = replace(suite.eval.analysis, primary={"passages": ("extraction", "prefix=8", "extracted")})
    other = replace(suite, eval=replace(suite.eval, analysis=analysis))
    assert read_pilot(replace(unbuilt, suite=other), own).spread == {}
