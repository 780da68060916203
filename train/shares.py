"""What the runs of a suite share by their exposures, once those are there; before, `core/plan.py` knows a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..core.design import RunName, Suite
from ..core.workspace import Workspace, is_whole, read_marker, step_of
from ..insertion.build import insertion_is_current
from .config import RunConfig, Start, begun_runs, make_configs, wanted_or_begun
from .tree import kept_steps, plan_tree


def exact_shares(
    suite: Suite, workspace: Workspace, names: Sequence[RunName], folders: Sequence[Path] = ()
) -> dict[str, tuple[str | None, int]] | None:
    """(parent, steps shared) of every run, as training would place it beside the runs that are begun.

    None while the exposures of the suite as it is are not there. Reads headers of checkpoints to start from, which lie
    below the folders or beside the suite file; fetches and writes nothing.
    """
    built = is_whole(workspace.corpus, "tokens") and is_whole(workspace.insertion, "insert")
    if not built or not insertion_is_current(suite, workspace):
        return None
    begun = begun_runs(workspace)
    configs, edits = make_configs(suite, workspace, wanted_or_begun(suite, names, begun), folders, fetch=False)
    alike = {
        c.run: begun[c.run] for c in configs if c.run in begun and _besides_start(begun[c.run]) == _besides_start(c)
    }
    grown = plan_tree(configs, edits, alike, kept_steps(alike, {run: _finished_steps(workspace, run) for run in alike}))
    return {config.run: (config.parent_run, config.branch_step) for config in grown}


def _besides_start(config: RunConfig) -> str:
    return replace(config, start=Start()).config_sha256()


def _finished_steps(workspace: Workspace, run: str) -> list[int]:
    """The steps of a run's checkpoints, without torch."""
    folders = (workspace.run(run) / "checkpoints").glob("step-*")
    return sorted(step for each in folders if (step := step_of(each)) is not None and read_marker(each) is not None)
