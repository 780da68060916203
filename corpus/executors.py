"""A datatrove pipeline run as a fixed number of tasks, on processes of this machine or as a Slurm job array.

The number of tasks is the caller's and is part of what the input hash covers; workers and backend change nothing but
the time. A task that ended in an earlier, killed call is not run again.

datatrove's own pool is not used: it waits for ever when one of its processes is killed, and its processes live on when
their parent is killed. Here a worker is a process of `core.pool`, which loads the executor as a Slurm job does.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dill
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from ..core.console import Update
from ..core.errors import CostarError
from ..core.machine import Machine, Slurm
from ..core.pool import Job, WorkerFailed, run_jobs
from ..core.slurm import check_cluster, last_lines
from ..core.workspace import replacing
from .marks import MarkedTasks, Output, finished_tasks, log_folder, take_failure, trusted_tasks
from .slurm import cancel_job, run_on_slurm

SMALL = 8_000_000  # bytes that are worked through before other processes would have started


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Where tasks run: on `workers` processes here or, with `slurm`, as a job array of that cluster; with `inline` in this
    process, for work that takes less time than a process takes to start."""

    workers: int = 1
    slurm: Slurm | None = None
    inline: bool = False

    def sized(self, size: int) -> Backend:
        """The same for `size` bytes to work through."""
        return replace(self, inline=size < SMALL and self.slurm is None)


class LocalTasks(MarkedTasks, LocalPipelineExecutor):
    """One worker's share of the tasks: what no other worker of the same call has taken yet."""

    def __init__(self, pipeline: Sequence[Any], folder: Path, tasks: int, ranks: Sequence[int], claims: Path):
        super().__init__(list(pipeline), tasks=tasks, logging_dir=str(log_folder(folder)))
        self.folder, self.ranks, self.claims = str(folder), ranks, str(claims)

    def run(self) -> None:
        for rank in _claimed(Path(self.claims), self.ranks):
            self._run_for_rank(rank)


def backend_of(machine: Machine) -> Backend:
    """What machine.toml chooses. Call it before any work.

    Raises:
        CostarError: the backend is Slurm and its commands are not on the PATH.
    """
    if machine.backend == "local":
        return Backend(workers=machine.processes)
    check_cluster()
    return Backend(workers=machine.processes, slurm=machine.slurm)


def run_tasks(
    pipeline: Sequence[PipelineStep],
    *,
    tasks: int,
    folder: Path,
    name: str,
    backend: Backend,
    progress: Update | None = None,
    output: Output | None = None,
) -> None:
    """Run every task of a pipeline that has not ended yet; all have ended when this returns.

    The rule for steps: the last one writes the task's output by temporary name and rename (`workspace.replacing`), so
    that it is whole before datatrove marks the task as ended, and a task's output depends on its rank and `tasks`
    alone. Steps travel to other processes by dill: they hold paths and numbers, no open files.

    Args:
        tasks: into how many the work is split, 1 or more.
        folder: the step's work folder (see `resumable_folder`); for Slurm on a file system that every node sees.
        name: letters, digits and hyphens; in messages, job names and scripts.
        progress: gets the share of the tasks that have ended while they run.
        output: the file that a task leaves. A mark whose file is missing is then not believed.

    Raises:
        CostarError: a task's own, with its exit code; or a worker or job that ended without a word (exit code 1).
    """
    folder = folder.resolve()

    def watch(remark: str = "") -> None:
        if progress is not None:
            done = len(finished_tasks(folder))
            progress(done / tasks, f"{done} of {tasks} tasks{f'; {remark}' if remark else ''}")

    if backend.slurm is not None and not backend.inline:
        run_on_slurm(pipeline, backend.slurm, tasks=tasks, folder=folder, name=name, watch=watch, output=output)
    else:
        cancel_job(folder)
        ranks = sorted(set(range(tasks)) - trusted_tasks(folder, tasks, output))
        if ranks and backend.inline:
            _run_inline(pipeline, tasks, ranks, folder)
        elif ranks:
            _run_here(pipeline, tasks, ranks, folder, name, backend.workers, watch)
    watch()


def _run_inline(pipeline: Sequence[PipelineStep], tasks: int, ranks: Sequence[int], folder: Path) -> None:
    """Run tasks one after the other in this process, without datatrove's log lines."""
    take_failure(folder)
    logger.disable("datatrove")
    with tempfile.TemporaryDirectory(prefix="claims-", dir=log_folder(folder)) as claims:
        try:
            LocalTasks(pipeline, folder, tasks, ranks, Path(claims)).run()
        except Exception:
            failure = take_failure(folder)
            if failure is None:
                raise
            raise failure from None


def _run_here(
    pipeline: Sequence[PipelineStep],
    tasks: int,
    ranks: Sequence[int],
    folder: Path,
    name: str,
    workers: int,
    watch: Callable[[], None],
) -> None:
    """Run tasks on processes that end with this one. The first that fails stops the others: finished tasks are kept."""
    take_failure(folder)
    pickled = log_folder(folder) / "executor.pik"
    with tempfile.TemporaryDirectory(prefix="claims-", dir=log_folder(folder)) as claims:
        with replacing(pickled) as temporary:
            temporary.write_bytes(dill.dumps(LocalTasks(pipeline, folder, tasks, ranks, Path(claims))))
        logs = {
            f"worker {i + 1}": log_folder(folder) / f"worker-{i + 1}.log"
            for i in range(min(max(1, workers), len(ranks)))
        }
        waiting = [
            Job(name=worker, module="costar.corpus.worker", arguments=[str(pickled), str(log)])
            for worker, log in logs.items()
        ]
        try:
            run_jobs(lambda running: waiting.pop(0) if waiting else None, len(waiting), watch)
        except WorkerFailed as error:
            raise take_failure(folder) or _silent_end(error, name, folder, logs[error.name], tasks) from None
    if missing := sorted(set(range(tasks)) - finished_tasks(folder)):
        raise CostarError(
            f"{name}, task {missing[0]}",
            found="its worker ended without an error, and without the task's end",
            expected="steps that return or raise",
            mend="take the call that ends the process out of the step",
            exit_code=1,
        )


def _silent_end(error: WorkerFailed, name: str, folder: Path, log: Path, tasks: int) -> CostarError:
    """The error of a worker that could not say what went wrong: it was killed, or never began."""
    finished = len(finished_tasks(folder))
    memory = " (perhaps no memory was left: fewer `workers` in machine.toml need less)"
    found = f"ended by signal {error.signal}{memory}" if error.signal else f"ended early; {log} ends: {last_lines(log)}"
    if not error.signal and not log.is_file():
        found = f"did not start: {error.text.splitlines()[-1]}"
    return CostarError(
        f"{name}, {error.name}",
        found=found,
        expected="a worker that ends by itself",
        mend=f"run the same command again: it goes on from {finished} of {tasks} finished tasks",
        exit_code=1,
    )


def _claimed(claims: Path, ranks: Sequence[int]) -> Iterator[int]:
    """The ranks that nobody took before: each is taken by the worker that makes its file."""
    for rank in ranks:
        try:
            os.close(os.open(claims / str(rank), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            continue
        yield rank


def resumable_folder(parent: Path, step: str, input_hash: str) -> Path:
    """The work folder of a step and its inputs, kept when the step is killed: `.work-<step>-<start of the hash>`.

    Work folders of the same step with other inputs are taken away, and their jobs are cancelled. Call it with the lock
    on `parent` held, and remove the folder when the step is done.

    Args:
        step: letters and hyphens, starting with a letter.
        input_hash: of all that the tasks' outputs depend on, their number included; 12 characters or more.
    """
    if not re.fullmatch(r"[a-z][a-z-]*", step) or len(input_hash) < 12:
        raise ValueError(f"step {step!r}, hash {input_hash!r}")
    folder = parent / f".work-{step}-{input_hash[:12]}"
    drop_work(parent, step, but=folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def drop_work(parent: Path, step: str, but: Path | None = None) -> None:
    """Take away the work folders of a step, `but` one, and cancel their jobs: also what a build left that was killed between
    its last word and this."""
    for other in parent.glob(f".work-{step}-????????????"):
        if other != but:
            for job in other.glob("**/log/job.json"):
                cancel_job(job.parent.parent)
            shutil.rmtree(other, ignore_errors=True)
