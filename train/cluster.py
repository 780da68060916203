"""Training a suite's runs as jobs of a cluster, and measuring their checkpoints there: submit what is missing, wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..core import console
from ..core.console import Update
from ..core.machine import Machine
from ..core.slurm import ClusterJob, submit_missing, tell_submitted, wait_for
from ..core.workspace import Workspace, output_lock
from .checkpoint import finished_steps, read_saved
from .config import RunConfig, begun_runs
from .jobs import Stretch, children_at, cut_runs, eval_job, missing_after, train_job, with_ancestors
from .launch import TrainQueue
from .loop import is_finished


def train_on_cluster(queue: TrainQueue, machine: Machine) -> None:
    """Bring the runs of a queue to their last steps by jobs of the cluster; what is submitted already is found again.

    Raises:
        WorkerFailed: a job's own error.
        CostarError: sbatch refuses, the queue does not answer, or a job has left without a word.
    """
    workspace = queue.workspace
    wished, begun = list(queue.configs.values()), begun_runs(workspace)
    starts = {run: c.start.parent for run, c in (begun | queue.configs).items() if c.start.parent}
    configs = with_ancestors(wished, begun, starts)
    by_run = {config.run: config for config in configs}
    stretches = {each.name: each for each in cut_runs(configs, starts)}

    def done(stretch: Stretch) -> bool:
        config = by_run[stretch.run]
        if stretch.last < config.train.steps:
            if read_saved(workspace.checkpoint(stretch.run, stretch.last)) is not None:
                return True
            waiting = [c for c in children_at(configs, stretch) if not _begun(workspace, c)]
            return not waiting and max(finished_steps(workspace, stretch.run), default=0) > stretch.last
        return is_finished(workspace, config) and queue.exported(config)

    finished = {name: done(stretch) for name, stretch in stretches.items()}
    jobs = [
        train_job(
            workspace,
            stretch,
            after=missing_after(stretch, finished),
            steps=by_run[stretch.run].train.steps,
            layout=machine.layout,
            settings=machine.slurm,
            devices=machine.devices,
        )
        for name, stretch in stretches.items()
        if not finished[name]
    ]
    wanted = [job.name for job in jobs if stretches[job.name].run in queue.configs]
    with output_lock(workspace.runs, "train"):
        submitted, found = submit_missing(jobs, wanted, machine.slurm, workspace.root)
    tell_submitted(submitted, found)
    own = [job for job in jobs if job.name in wanted]
    with console.progress("train") as update:
        wait_for(own, workspace.root, lambda job: done(stretches[job.name]), _watching(queue.progress, update))


def _begun(workspace: Workspace, config: RunConfig) -> bool:
    """Whether a run needs the checkpoint that it branches from no more."""
    return bool(finished_steps(workspace, config.run)) or is_finished(workspace, config)


def measure_on_cluster(
    workspace: Workspace, machine: Machine, targets: Sequence[str], pending: Callable[[], list[str]]
) -> None:
    """Measure checkpoints, `run:step` each, by a job each; `pending` says which of them are not measured.

    Raises: as `train_on_cluster`.
    """
    jobs = []
    for target in targets:
        run, step = target.rsplit(":", 1)
        jobs.append(eval_job(workspace, run, int(step), gpus=machine.slurm.gpus_per_node))
    names = {job.name: target for job, target in zip(jobs, targets, strict=True)}
    with output_lock(workspace.eval, "eval"):
        submitted, found = submit_missing(jobs, list(names), machine.slurm, workspace.root)
    tell_submitted(submitted, found)

    def progress() -> tuple[float, str]:
        return 1 - len(pending()) / max(len(targets), 1), f"{len(targets)} checkpoints"

    def done(job: ClusterJob) -> bool:
        return names[job.name] not in pending()

    with console.progress("eval") as update:
        wait_for(jobs, workspace.root, done, _watching(progress, update))


def _watching(progress: Callable[[], tuple[float, str]], update: Update) -> Callable[[str], None]:
    """Shows how far the work is and what the queue says."""

    def watch(remark: str) -> None:
        share, text = progress()
        update(share, "; ".join(part for part in (text, remark) if part))

    return watch
