"""Several processes for one run: `python -m costar.train.torchrun PROCESSES MODULE [ARGUMENT …]`, on every node of it.

This is torch's own launcher (`torchrun`) without its restarts and walls of text: the first error of a process is the error of
all, in its words and with its exit code; a signal to save is passed on; and no process outlives the launcher. The processes
find each other as under `torchrun`, which can start the same module.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from ..core.console import complain
from ..core.errors import CostarError
from ..core.pool import KILLED, PARENT, SAVED, python_command, read_failure, worker_main

PASSED_ON = (signal.SIGUSR2, signal.SIGTERM)


def main(arguments: list[str]) -> None:
    """Start the processes and wait for them.

    Raises:
        CostarError: that of the process that failed first, or one of them was killed.
    """
    parser = argparse.ArgumentParser(prog="costar.train.torchrun")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--endpoint", default="localhost:0", help="HOST:PORT of the first node; port 0: any free one")
    parser.add_argument("--id", default="", help="what tells this launch from others")
    parser.add_argument(
        "--logs", default="", help="a folder for what the processes say; otherwise it is kept until the end"
    )
    parser.add_argument("processes", type=int, help="on each node")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    os.environ[PARENT] = str(os.getpid())
    for signum in PASSED_ON:
        signal.signal(signum, _pass_on)
    with tempfile.TemporaryDirectory(prefix="costar-ranks-") as folder:
        _launch(given, Path(given.logs) / socket.gethostname() if given.logs else Path(folder))


def _launch(given: argparse.Namespace, logs: Path) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)
    name = given.id or uuid.uuid4().hex
    config = LaunchConfig(
        min_nodes=given.nodes,
        max_nodes=given.nodes,
        nproc_per_node=given.processes,
        run_id=name,
        rdzv_backend="c10d",
        rdzv_endpoint=given.endpoint,
        max_restarts=0,
        local_addr="localhost" if given.nodes == 1 else None,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ERR),
        signals_to_handle="SIGINT",
    )
    program, *options = python_command()
    try:
        elastic_launch(config, program)(*options, "-m", given.module, *given.arguments)
    except ChildFailedError as error:
        _raise_first(error.failures, given.nodes * given.processes, logs)
    if said := _said(logs, 0):
        complain(said)


def _pass_on(signum: int, frame: FrameType | None) -> None:
    """Tell the processes to save and end; before there are any, end."""
    children = [
        int(child)
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text(encoding="ascii").split()
    ]
    if not children:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    for child in children:
        os.kill(child, signum)


def _raise_first(failures: Mapping[int, Any], world: int, logs: Path) -> None:
    """End as the process did that brought down the others: one with an error to tell, one that was killed, any other."""
    for failure in failures.values():
        if error := read_failure(failure.error_file_data):
            raise error
    if SAVED in {failure.exitcode for failure in failures.values()}:  # all took part; one may have been ended after it
        sys.exit(SAVED)
    for rank, failure in failures.items():
        if failure.exitcode < 0 and -failure.exitcode not in PASSED_ON:
            found, *mend = KILLED.format(-failure.exitcode).split("; ", 1)
            expected = "processes that run to their end"
            raise CostarError(
                f"process {rank + 1} of {world}", found=found, expected=expected, mend=" ".join(mend), exit_code=1
            )
    first = min(failures.values(), key=lambda failure: failure.timestamp)
    complain(_said(logs, first.local_rank) or f"exit code {first.exitcode}")
    sys.exit(first.exitcode if first.exitcode in (1, 2) else 1)


def _said(logs: Path, rank: int) -> str:
    """What a process of this node wrote to its standard error."""
    paths = sorted(logs.glob(f"*/attempt_0/{rank}/stderr.log"), key=lambda path: path.stat().st_mtime)
    return paths[-1].read_text(encoding="utf-8", errors="replace").strip() if paths else ""


if __name__ == "__main__":
    worker_main(main, sys.argv[1:])
