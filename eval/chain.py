"""Training runs as a tree, and measuring finished checkpoints on whichever core is free first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ..core import console
from ..core.console import stage_line
from ..core.design import RunName, Suite
from ..core.errors import CostarError
from ..core.machine import Machine
from ..core.pool import Job, run_jobs
from ..core.workspace import Workspace, output_lock
from ..insertion.build import require_insertion
from ..train.launch import TrainQueue, plan_runs
from ..train.preflight import preflight_runs
from .score import EvalQueue, Measurer


def train_runs(
    suite: Suite,
    workspace: Workspace,
    machine: Machine,
    names: Sequence[RunName],
    *,
    vocabulary: int,
    force: bool,
    measure: bool,
) -> None:
    """Train runs to their last steps; with `measure` also evaluate what they leave.

    Raises:
        CostarError: they do not fit this machine, an earlier stage is missing, or a run did not finish.
    """
    verdict = preflight_runs(suite, workspace, list(names), machine, vocabulary=vocabulary, force=force)
    stage_line("pre-flight", verdict.line)
    require_insertion(suite, workspace)
    slots = verdict.processes
    folders = [Path(machine.data)] if machine.data else []
    with output_lock(workspace.runs, "train"):
        queue = TrainQueue(workspace, plan_runs(suite, workspace, list(names), folders), machine.micro_batch)
    started = time.monotonic()
    measuring = EvalQueue(Measurer(suite, workspace)) if measure else None

    def next_job(running: frozenset[str]) -> Job | None:
        job = queue.next_job()
        return job if job or measuring is None else measuring.next_job(running, slots)

    with console.progress("train") as update:
        run_jobs(next_job, slots, lambda: update(*queue.progress()))
    for line in queue.lines():
        stage_line("train", line)
    if queue.unfinished():
        raise CostarError(
            "train",
            found=f"not finished: {', '.join(queue.unfinished())}",
            expected="every run at its last step",
            mend="run the same command again; if it stays, put the run aside: remove its folder under runs/",
            exit_code=1,
        )
    stage_line("", "all runs" + (" and measurements" if measure else ""), time.monotonic() - started)


def measure_runs(
    suite: Suite, workspace: Workspace, machine: Machine, *, runs: Sequence[str] | None, step: int | None
) -> None:
    """Measure finished checkpoints that were not yet measured: of all runs or of some, at all steps or at one.

    Raises:
        CostarError: there is no such checkpoint.
    """
    slots = machine.processes
    queue = EvalQueue(Measurer(suite, workspace), runs=None if runs is None else list(runs), step=step)
    queue.require_targets()
    total = len(queue.pending())
    with console.progress("eval") as update:
        run_jobs(
            lambda running: queue.next_job(running, slots),
            slots,
            lambda: update(1 - len(queue.pending()) / max(total, 1), f"{total} checkpoints"),
        )
