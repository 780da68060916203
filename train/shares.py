"""What the runs of a suite share by their exposures, once those are there; before, `core/plan.py` knows a bound."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.design import RunName, Suite
from ..core.workspace import Workspace, is_whole
from ..insertion.build import insertion_is_current
from .tree import make_configs, plan_branches


def exact_shares(
    suite: Suite, workspace: Workspace, names: Sequence[RunName]
) -> dict[str, tuple[str | None, int]] | None:
    """(parent, steps shared) of every run; None while the exposures of the suite as it is are not there."""
    built = is_whole(workspace.corpus, "tokens") and is_whole(workspace.insertion, "insert")
    if not built or not insertion_is_current(suite, workspace):
        return None
    branches = plan_branches(*make_configs(suite, workspace, names))
    return {run: (branch.parent, branch.step) for run, branch in branches.items()}
