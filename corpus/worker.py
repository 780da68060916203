"""A process that runs tasks: `python -m costar.corpus.worker EXECUTOR [LOG]`, started by `executors` or as a Slurm job."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import dill

from ..core.pool import worker_main


def run_pickled(arguments: list[str]) -> None:
    """Run the tasks of an executor that the waiting process stored. With `LOG` all that is printed goes there."""
    path, *log = arguments
    if log:
        Path(log[0]).parent.mkdir(parents=True, exist_ok=True)
        with open(log[0], "wb") as file:
            sys.stdout.flush()
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
    with open(path, "rb") as file:
        executor = dill.load(file)
    executor.run()


if __name__ == "__main__":
    worker_main(run_pickled, sys.argv[1:])
