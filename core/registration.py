"""What a suite's analysis was when runs began: registered beside what is built, and never taken back."""

from __future__ import annotations

import json
from typing import Any

from .analysis import AnalysisDesign
from .errors import CostarError
from .workspace import Workspace, write_json

FILE = "analysis.json"


def register_analysis(analysis: AnalysisDesign, workspace: Workspace) -> None:
    """Add an analysis to those of a built suite, with how many runs had begun before it was known.

    One that was replaced before any run began leaves no trace.
    """
    known = read_registered(workspace)
    sha256 = analysis.sha256()
    if known and known[-1]["sha256"] == sha256:
        return
    begun = len(list(workspace.runs.glob("*/config.json")))
    kept = [entry for entry in known if entry["runs_begun"] or begun]
    write_json(workspace.root / FILE, [*kept, {"sha256": sha256, "plan": analysis.plain(), "runs_begun": begun}])


def read_registered(workspace: Workspace) -> list[dict[str, Any]]:
    """The analyses of a built suite, the first one first: `sha256`, `plan`, `runs_begun`.

    Raises:
        CostarError: the file is damaged.
    """
    path = workspace.root / FILE
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(entries, list) and all({"sha256", "plan", "runs_begun"} <= entry.keys() for entry in entries):
            return entries
    except (ValueError, AttributeError, TypeError):
        pass
    raise CostarError(
        str(path),
        found="no list of registered analyses",
        expected="what `costar` wrote",
        mend="remove it: the analysis then counts as registered after the runs that began",
    )


def registered_text(entries: list[dict[str, Any]]) -> str:
    """One sentence on whether the analysis was fixed before training."""
    if not entries:
        return "The analysis was not registered."
    last = entries[-1]
    name = f"analysis {last['sha256'][:12]}"
    if not last["runs_begun"]:
        return f"Primary measures, families, margins and hypotheses were fixed before training ({name})."
    begun = "1 run" if last["runs_begun"] == 1 else f"{last['runs_begun']} runs"
    return f"The {name} was changed or registered after {begun} had begun: read it as exploratory."
