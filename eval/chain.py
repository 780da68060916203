"""Training runs as a tree, and measuring finished checkpoints: on whatever is free first here, or as jobs of a cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..core import console
from ..core.console import stage_line
from ..core.design import RunName, Suite
from ..core.errors import shorten
from ..core.machine import Machine
from ..core.pool import Job, run_jobs, visible_gpus
from ..core.slurm import check_cluster
from ..core.workspace import Workspace, output_lock
from ..insertion.build import require_insertion
from ..train.cluster import measure_on_cluster, train_on_cluster
from ..train.launch import TrainQueue, plan_runs
from ..train.preflight import preflight_runs, probed_runs
from .loading import load_probes
from .queue import EvalQueue
from .score import Measurer


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
    if measure:
        load_probes(suite)  # what is wrong with one of the user's own is told before training
    slots, gpus = 0, visible_gpus() if machine.backend == "local" else ()
    if machine.backend == "slurm":
        check_cluster()
        require_insertion(suite, workspace)
    else:
        at_once = machine.runs_at_once(len(gpus))
        verdict = preflight_runs(suite, workspace, list(names), machine, vocabulary=vocabulary, force=force)
        require_insertion(suite, workspace)
        verdict = probed_runs(verdict, suite, workspace, machine, force=force)
        stage_line("pre-flight", verdict.line)
        slots = min(verdict.processes, at_once)
    with output_lock(workspace.runs, "train", wait=True):
        configs = plan_runs(suite, workspace, list(names), machine.data_folders)
        queue = TrainQueue(workspace, configs, machine.layout, machine.devices)
    started = time.monotonic()
    if machine.backend == "slurm":
        train_on_cluster(queue, machine)
        if measure:
            measure_runs(suite, workspace, machine, runs=None, step=None)
    else:
        _train_here(queue, EvalQueue(Measurer(suite, workspace)) if measure else None, slots, gpus)
    queue.give_up_branches()
    for line in queue.lines():
        stage_line("train", line)
    queue.require_finished()
    stage_line("", "all runs" + (" and measurements" if measure else ""), time.monotonic() - started)


def _train_here(queue: TrainQueue, measuring: EvalQueue | None, slots: int, gpus: Sequence[str]) -> None:
    """Train and measure on this machine, up to `slots` jobs at a time."""

    def next_job(running: frozenset[str]) -> Job | None:
        job = queue.next_job()
        return job if job or measuring is None else measuring.next_job(running, slots)

    def progress() -> tuple[float, str]:
        share, remark = queue.progress()
        if share < 1 or measuring is None:
            return share, remark
        return share, f"{len(measuring.pending())} of {len(measuring.targets())} checkpoints to be measured"

    with console.progress("train", estimate=False) as update:
        run_jobs(next_job, slots, lambda: update(*progress()), gpus)


def measure_runs(
    suite: Suite, workspace: Workspace, machine: Machine, *, runs: Sequence[str] | None, step: int | None
) -> None:
    """Measure finished checkpoints that were not yet measured: of all runs or of some, at all steps or at one.

    Raises:
        CostarError: there is no such checkpoint, or a probe of the user's own is none.
    """
    gpus = visible_gpus() if machine.backend == "local" else ()
    slots = min(machine.processes, len(gpus)) if gpus else machine.processes
    queue = EvalQueue(Measurer(suite, workspace), runs=None if runs is None else list(runs), step=step)
    queue.require_targets()
    pending = queue.pending()
    if machine.backend == "slurm":
        check_cluster()
        measure_on_cluster(workspace, machine, pending, queue.pending)
        return
    total = len(pending)
    with console.progress("eval") as update:
        run_jobs(
            lambda running: queue.next_job(running, slots),
            slots,
            lambda: update(1 - len(queue.pending()) / max(total, 1), f"{total} checkpoints"),
            gpus,
        )
    if left := queue.pending():
        console.complain(f"{shorten(', '.join(left))}: what is measured changed meanwhile; run the same command again")
