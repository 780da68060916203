from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from costar.core.analysis import AnalysisDesign
from costar.core.errors import CostarError
from costar.core.registration import read_registered, register_analysis, registered_text
from costar.core.workspace import Workspace

NLL = ("likelihood", "", "nll_token")
FIRST = AnalysisDesign(primary={"passages": NLL}, margins={"passages": 0.05}, families="perturbation")
SECOND = replace(FIRST, margins={"passages": 0.1})


def begin_run(workspace: Workspace, run: str) -> None:
    workspace.run(run).mkdir(parents=True)
    (workspace.run(run) / "config.json").write_text("{}")


def test_an_analysis_that_is_replaced_before_any_run_leaves_no_trace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    register_analysis(FIRST, workspace)
    register_analysis(SECOND, workspace)
    register_analysis(SECOND, workspace)
    assert [(entry["sha256"], entry["runs_begun"]) for entry in read_registered(workspace)] == [(SECOND.sha256(), 0)]
    assert "fixed before training" in registered_text(read_registered(workspace))


def test_an_analysis_that_is_changed_after_runs_began_stands_beside_the_first_and_says_so(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    register_analysis(FIRST, workspace)
    begin_run(workspace, "standard.tiny.d0")
    register_analysis(SECOND, workspace)
    begin_run(workspace, "perturbed.tiny.d0")
    register_analysis(FIRST, workspace)
    found = [(entry["sha256"], entry["runs_begun"]) for entry in read_registered(workspace)]
    assert found == [(FIRST.sha256(), 0), (SECOND.sha256(), 1), (FIRST.sha256(), 2)]
    assert "after 2 runs had begun" in registered_text(read_registered(workspace))


def test_a_lost_file_counts_as_registered_after_the_runs(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    begin_run(workspace, "standard.tiny.d0")
    register_analysis(FIRST, workspace)
    assert read_registered(workspace)[0]["runs_begun"] == 1


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"sha256": "x"}]'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "analysis.json").write_text(text)
    with pytest.raises(CostarError, match=r"analysis\.json"):
        read_registered(Workspace(tmp_path))
