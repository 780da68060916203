"""Where branches begin, in the files of a built suite: found, confirmed by the digest, and given up when not needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import CostarError
from ..core.hashing import EMPTY_DIGEST, row_hashes, step_digest
from ..core.parquet import read_table
from ..core.workspace import Workspace, changed_files
from ..insertion.overlay import Overlay
from .checkpoint import finished_steps, read_saved
from .config import RunConfig, begun_runs, read_config
from .log import read_log_rows

LAST = 4  # steps before a branch that are read again
SPREAD = 4  # further steps, evenly over what is inherited


def lineage(workspace: Workspace, config: RunConfig) -> list[tuple[str, int, int]]:
    """(run, after, upto) of the ancestors of a run, nearest first: who trained its steps in (after, upto] before it began."""
    found, upto = [], config.branch_step
    while config.parent_run:
        config = read_config(workspace, config.parent_run)
        after = config.branch_step if config.parent_run else 0
        if after < upto:
            found.append((config.run, after, upto))
        upto = min(upto, after)
    return found


def beginning(workspace: Workspace, config: RunConfig) -> tuple[str, int, Path] | None:
    """The checkpoint that a run without one of its own goes on from: who wrote it, its step, its folder.

    The one at its branch, or, where that was removed or damaged, the nearest before it: the steps between are trained
    again, to the same bits. None: from initialization.
    """
    for owner, after, upto in lineage(workspace, config):
        kept = read_config(workspace, owner).kept  # others are for restarts: their run takes them away
        for step in reversed(finished_steps(workspace, owner)):
            folder = workspace.checkpoint(owner, step)
            if after < step <= upto and step in kept and not changed_files(folder):
                return owner, step, folder
    return None


def can_begin(workspace: Workspace, config: RunConfig) -> bool:
    """Whether a run can train now: from a checkpoint of its own, from its branch, or since its parent is past that."""
    if not config.parent_run or not config.branch_step or finished_steps(workspace, config.run):
        return True
    return max(finished_steps(workspace, config.parent_run), default=0) >= config.branch_step


def spent_branches(workspace: Workspace, configs: Sequence[RunConfig]) -> list[tuple[str, int]]:
    """(run, step) of the checkpoints that were kept for branches only, and that nothing needs any more.

    Every run that begins there has a checkpoint of its own, and the run that wrote it has a later one to go on from.
    """
    known = begun_runs(workspace) | {config.run: config for config in configs}
    finished = {run: finished_steps(workspace, run) for run in known}
    spent = []
    for config in configs:
        for step in set(config.branches) & set(finished[config.run]) - set(config.checkpoints):
            begin_here = [
                run for run, each in known.items() if (each.parent_run, each.branch_step) == (config.run, step)
            ]
            if max(finished[config.run]) > step and all(finished[run] for run in begin_here):
                spent.append((config.run, step))
    return sorted(spent)


def confirm_branch(workspace: Workspace, config: RunConfig, overlay: Overlay, step: int | None = None) -> None:
    """Read rows of a run's own again and compare them with the digests of those who trained its first `step` steps.

    A logged digest hangs on the one before it and on the rows of its step, so any step can be confirmed by itself: here
    the last ones, the last with an edit, and a few evenly before. `step` is where the run begins (default: its branch).

    Raises:
        CostarError: the digests are not there, or a row is not the one that was trained on.
    """
    step = config.branch_step if step is None else step
    if not step:
        return
    owner, logged = _inherited_digests(workspace, config, step)
    batch = config.train.batch
    edited = overlay.edits.slots[: np.searchsorted(overlay.edits.slots, step * batch)]
    chosen = {*range(max(step - LAST, 0), step), *(step * part // (SPREAD + 1) for part in range(1, SPREAD + 1))}
    chosen |= {int(edited[-1]) // batch} if len(edited) else set()
    for each in sorted(chosen, reverse=True):
        before = logged.get(each - 1) if each else EMPTY_DIGEST.hex()
        if before is None or each not in logged:
            raise CostarError(
                f"run {config.run}",
                found=f"no digest of step {each if before else each - 1} in the log of {owner} or its ancestors",
                expected=f"the log of the {step:,} steps that it begins with",
                mend=f"put log/log.parquet back, or archive {owner} and train it again",
            )
        rows = overlay.sequences(np.arange(each * batch, (each + 1) * batch))
        if step_digest(bytes.fromhex(before), row_hashes(rows)).hex() != logged[each]:
            raise _differs(config, f"other rows at step {each} than {owner}, from whose step {step} it was to begin")
    saved = read_saved(workspace.checkpoint(owner, step))
    if saved is not None and saved.data_digest != logged[step - 1]:
        raise _differs(config, f"a checkpoint of {owner} at step {step} that read other rows than its log says")


def inherited_rows(workspace: Workspace, config: RunConfig) -> list[dict[str, Any]]:
    """The rows of the log that a branch has from its ancestors, up to where it begins."""
    found: list[dict[str, Any]] = []
    for owner, after, upto in lineage(workspace, config):
        found = [row for row in read_log_rows(workspace, owner) if after <= row["step"] < upto] + found
    return found


def _differs(config: RunConfig, found: str) -> CostarError:
    return CostarError(
        f"run {config.run}",
        found=found,
        expected="the same rows up to there",
        mend="run `costar verify`; then `costar train` on the suite, which plans the run anew",
    )


def _inherited_digests(workspace: Workspace, config: RunConfig, upto: int) -> tuple[str, dict[int, str]]:
    """The run that trained the last of the first `upto` steps, and the logged digest after each of them."""
    owners = [(owner, after, min(end, upto)) for owner, after, end in lineage(workspace, config) if after < upto]
    logged: dict[int, str] = {}
    for owner, after, end in owners:
        path = workspace.run(owner) / "log" / "log.parquet"
        if path.is_file():
            table = read_table(path, mend="train the run again", columns=["step", "data_digest"])
            steps, digests = table.column("step").to_pylist(), table.column("data_digest").to_pylist()
            logged |= {s: digest for s, digest in zip(steps, digests, strict=True) if after <= s < end}
    return owners[0][0] if owners else config.run, logged
