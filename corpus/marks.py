"""What the tasks of a pipeline leave in its work folder: `log/completions` of those that ended, `log/failed` of the rest.

A mark is an empty file that datatrove writes after the last step of a pipeline has returned, so a step that writes by
temporary name and rename (`workspace.replacing`) has its output in place, whole and synced, before the mark appears.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import CostarError, shorten
from ..core.workspace import explain_os_error, write_json

Output = Callable[[int], Path]


class MarkedTasks:
    """For an executor of datatrove with `folder`: a task starts with untouched steps, and its error becomes a file."""

    folder: str
    pipeline: list[Any]

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        pipeline = self.pipeline
        self.pipeline = copy.deepcopy(pipeline)  # steps count and may keep more: no task sees what another left
        try:
            return super()._run_for_rank(rank, local_rank, node_rank)  # type: ignore[misc]
        except Exception as error:
            write_failure(Path(self.folder), rank, error)
            raise
        finally:
            self.pipeline = pipeline


def log_folder(folder: Path) -> Path:
    return folder / "log"


def task_log(folder: Path, rank: int) -> Path:
    """What datatrove and the steps wrote down while the task ran."""
    return log_folder(folder) / "logs" / f"task_{rank:05d}.log"


def finished_tasks(folder: Path) -> set[int]:
    """The numbers of the tasks whose marks are there."""
    try:
        return {int(path.name) for path in (log_folder(folder) / "completions").iterdir() if path.name.isdigit()}
    except FileNotFoundError:
        return set()


def trusted_tasks(folder: Path, tasks: int, output: Output | None) -> set[int]:
    """The finished tasks; marks of another number of tasks, and marks without their `output`, are taken away."""
    log = log_folder(folder)
    split = log / "tasks.json"
    if not split.is_file() or json.loads(split.read_text(encoding="utf-8")) != tasks:
        shutil.rmtree(log, ignore_errors=True)
        write_json(split, tasks)
    finished = finished_tasks(folder)
    for rank in sorted(finished):
        if output is not None and not output(rank).is_file():
            (log / "completions" / f"{rank:05d}").unlink()
            finished.remove(rank)
    return finished


def write_failure(folder: Path, rank: int, error: Exception) -> None:
    """Keep a task's error for the process that waits for it."""
    if isinstance(error, OSError):
        error = explain_os_error(error)
    if not isinstance(error, CostarError):
        error = CostarError(
            f"task {rank}",
            found=f"{type(error).__name__}: {shorten(error)}",
            expected="a task that ends well",
            mend=f"read {task_log(folder, rank)}; the same command goes on from the finished tasks",
            exit_code=1,
        )
    write_json(log_folder(folder) / "failed" / f"{rank:05d}.json", error.facts)


def take_failure(folder: Path) -> CostarError | None:
    """The error of the first task that failed, or None. It is told once: the files go away."""
    failed = log_folder(folder) / "failed"
    paths = sorted(failed.glob("[0-9]*.json"))
    if not paths:
        return None
    facts = json.loads(paths[0].read_text(encoding="utf-8"))
    shutil.rmtree(failed, ignore_errors=True)
    return CostarError(**facts)
