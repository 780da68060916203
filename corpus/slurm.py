"""The tasks of a pipeline as one Slurm job array: submitted once, found again after a kill, waited for here.

The name of the array is a function of the work folder, so the queue itself tells whether it is there, even when the
process that submitted it was killed before it could note the number.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dill
from datatrove.executor import SlurmPipelineExecutor

from ..core.errors import CostarError
from ..core.hashing import sha256_json
from ..core.machine import Slurm
from ..core.pool import ENVIRONMENT, python_command
from ..core.slurm import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    PATIENCE,
    SETTLING,
    ask_queue,
    last_lines,
    queue_text,
    sbatch,
)
from ..core.workspace import replacing, write_json, write_text
from .marks import MarkedTasks, Output, finished_tasks, log_folder, take_failure, trusted_tasks


class SlurmTasks(MarkedTasks, SlurmPipelineExecutor):
    """datatrove's Slurm executor with a script of its own and without the extra job that adds up its statistics."""

    def __init__(self, pipeline: Sequence[Any], settings: Slurm, tasks: int, ranks: int, folder: Path, name: str):
        super().__init__(
            list(pipeline),
            tasks=tasks,
            time=settings.time,
            partition=settings.partition,
            cpus_per_task=settings.cpus_per_task,
            mem_per_cpu_gb=settings.mem_per_cpu_gb,
            workers=settings.at_once or -1,
            job_name=name,
            qos=settings.qos,
            sbatch_args={"account": settings.account} if settings.account else None,
            logging_dir=str(log_folder(folder)),
            slurm_logs_folder=str(log_folder(folder) / "slurm"),
            tasks_per_job=math.ceil(ranks / settings.jobs),
        )
        self.folder = str(folder)

    def script(self, ranks: int) -> str:
        """The job script for the array that runs so many tasks."""
        jobs = math.ceil(ranks / self.tasks_per_job)
        options = {**self.get_sbatch_args(jobs), "output": str(log_folder(Path(self.folder)) / "slurm" / "%A_%a.log")}
        options.pop("error")  # one log for both streams
        lines = [
            f"#SBATCH --{key}" + (f"={shlex.quote(str(value))}" if value else "") for key, value in options.items()
        ]
        paths = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        command = [
            *python_command(),
            "-m",
            "costar.corpus.worker",
            str(log_folder(Path(self.folder)) / "executor.pik"),
        ]
        return "\n".join(
            [
                "#!/bin/bash",
                *lines,
                "",
                f"# {ranks} tasks of a costar corpus in {jobs} jobs; a task that has ended is not run again.",
                *(f"export {key}={shlex.quote(value)}" for key, value in (ENVIRONMENT | paths).items()),
                f"cd {shlex.quote(os.getcwd())}",
                shlex.join(command),  # no exec: the shell says in the log by which signal it ended
                "",
            ]
        )


def run_on_slurm(
    pipeline: Sequence[Any],
    settings: Slurm,
    *,
    tasks: int,
    folder: Path,
    name: str,
    watch: Callable[[str], None],
    output: Output | None,
) -> None:
    """Run the tasks that have not ended as a job array and wait for it; an array of an earlier call is waited for first.

    Raises:
        CostarError: a task's own; sbatch refused the array; or jobs ended and their tasks did not.
    """
    job = job_name(folder)
    if queued(job) != []:
        _wait(job, folder, tasks, watch)
        _settled(folder, tasks)
    ranks = sorted(set(range(tasks)) - trusted_tasks(folder, tasks, output))
    if not ranks:
        return
    take_failure(folder)
    _submit(SlurmTasks(pipeline, settings, tasks, len(ranks), folder, job), ranks, folder)
    _wait(job, folder, tasks, watch)
    missing = sorted(set(range(tasks)) - _settled(folder, tasks))
    if failure := take_failure(folder):
        raise failure
    if missing:
        raise _silent_end(name, folder, missing, tasks)


def job_name(folder: Path) -> str:
    """The name of the job array of a work folder: of letters, digits and hyphens."""
    word = re.sub(r"[^A-Za-z0-9]+", "-", folder.name.removeprefix(".work")).strip("-")
    return f"costar-{word}-{sha256_json(str(folder.resolve()))[:8]}"


def cancel_job(folder: Path) -> None:
    """Cancel the array that works in a folder, if one was submitted, and wait until it has left the queue."""
    if not (log_folder(folder) / "job.json").is_file() or shutil.which("scancel") is None:
        return
    job = job_name(folder)
    subprocess.run(["scancel", "--quiet", f"--name={job}"], check=False, capture_output=True)
    for _ in range(PATIENCE):
        if not queued(job):
            return
        time.sleep(FIRST_PAUSE)


def queued(job: str) -> list[str] | None:
    """The jobs of an array that run or wait, each as 'state|reason'; None when the queue does not answer."""
    return ask_queue("--array", f"--name={job}", "--format=%T|%r")


def _submit(executor: SlurmTasks, ranks: Sequence[int], folder: Path) -> None:
    """Write what the jobs read, then hand the script to sbatch."""
    log = log_folder(folder)
    script = log / "job.slurm"
    (log / "slurm").mkdir(parents=True, exist_ok=True)
    with replacing(log / "executor.pik") as temporary:
        temporary.write_bytes(dill.dumps(executor))
    write_json(log / "ranks_to_run.json", list(ranks))
    write_text(script, executor.script(len(ranks)))
    facts = {"name": executor.job_name, "id": "", "tasks_per_job": executor.tasks_per_job}
    write_json(log / "job.json", facts)
    write_json(log / "job.json", facts | {"id": sbatch(script)})


def _wait(job: str, folder: Path, tasks: int, watch: Callable[[str], None]) -> None:
    """Until all tasks have ended or the array has left the queue; a task's error ends the array at once."""
    pause, silent, empty, remark = FIRST_PAUSE, 0, 0, ""
    while True:
        watch(remark)
        if failure := take_failure(folder):
            cancel_job(folder)
            raise failure
        if len(finished_tasks(folder)) == tasks:
            return
        rows = queued(job)
        empty = empty + 1 if rows == [] else 0
        if empty == 2:  # a controller that was just started may know the jobs a moment later
            return
        silent = silent + 1 if rows is None else 0
        if silent == PATIENCE:
            raise CostarError(
                f"job array {job}",
                found="no answer from squeue",
                expected="the state of the jobs",
                mend="run the same command again when Slurm answers: the array is found again",
                exit_code=1,
            )
        remark = "no answer from squeue" if rows is None else queue_text(rows)
        time.sleep(pause)
        pause = min(pause * 1.3, LONGEST_PAUSE)


def _settled(folder: Path, tasks: int) -> set[int]:
    """The finished tasks, once the marks of a network file system have come through."""
    until = time.monotonic() + SETTLING
    while len(finished := finished_tasks(folder)) < tasks and time.monotonic() < until:
        failed = log_folder(folder) / "failed"
        if any(failed.glob("*.json")):
            break
        time.sleep(FIRST_PAUSE)
    return finished


def _silent_end(name: str, folder: Path, missing: Sequence[int], tasks: int) -> CostarError:
    """The error of jobs that ended without a word: out of time or memory, cancelled, or never started."""
    log = log_folder(folder)
    job = json.loads((log / "job.json").read_text(encoding="utf-8"))
    ranks = json.loads((log / "ranks_to_run.json").read_text(encoding="utf-8"))
    path = log / "slurm" / f"{job['id']}_{ranks.index(missing[0]) // job['tasks_per_job']}.log"
    end = f"{path} ends: {last_lines(path)}" if path.is_file() else f"no {path}: cancelled, or no node sees this folder"
    return CostarError(
        f"{name}, job array {job['id']}",
        found=f"{len(missing)} of {tasks} tasks did not end, the first is task {missing[0]}; {end}",
        expected="jobs that run to their end",
        mend="run the same command again: it goes on from the finished tasks; more time or memory: [slurm] in machine.toml",
        exit_code=1,
    )
