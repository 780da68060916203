"""Processes side by side, one a core: each with one thread, each ending with its parent."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from .errors import CostarError

# A second thread that spins at barriers makes a step slower, not faster, when both cores are busy.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


PARENT = "COSTAR_PARENT"
KILLED = "ended by signal {}; run the same command again: it goes on from the last checkpoint (9: perhaps no memory was left)"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A module of costar to run with arguments; `name` says what it works on."""

    name: str
    module: str
    arguments: Sequence[str]


class WorkerFailed(Exception):
    """A worker ended with an error; `text` is what it said, with the name of its work.

    `signal` is the number of the signal that ended it, 0 for none.
    """

    def __init__(self, name: str, text: str, exit_code: int, signal: int = 0):
        super().__init__(f"{name}: {text}")
        self.name, self.text, self.exit_code, self.signal = name, f"{name}\n{text}", exit_code, signal


def run_jobs(next_job: Callable[[frozenset[str]], Job | None], slots: int, watch: Callable[[], None]) -> None:
    """Keep up to `slots` processes busy until `next_job` has none left and all have ended.

    `next_job` gets the names of the running jobs; `watch` is called several times a second. When a worker fails, the
    others are stopped: every stage resumes.
    """
    environment = os.environ | ENVIRONMENT | {PARENT: str(os.getpid())}
    running: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
    try:
        while True:
            while len(running) < slots and (job := next_job(frozenset(running))) is not None:
                errors: IO[bytes] = tempfile.TemporaryFile()  # closed with its process
                command = [*python_command(), "-m", job.module, *job.arguments]
                running[job.name] = (subprocess.Popen(command, env=environment, stderr=errors), errors)
            if not running:
                return
            time.sleep(0.2)
            watch()
            for name, (process, errors) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[name]
                errors.seek(0)
                text = errors.read().decode(errors="replace").strip()
                errors.close()
                if code:
                    found = text or (KILLED.format(-code) if code < 0 else text)
                    exit_code = code if code in (1, 2) else 1
                    raise WorkerFailed(name, found or f"exit code {code}", exit_code, signal=max(0, -code))
                if text:
                    from .console import complain

                    complain(text)
    finally:
        for process, errors in running.values():
            process.kill()
            process.wait()
            errors.close()


def python_command() -> list[str]:
    """This interpreter, for a worker that imports what this process would: no files of the working directory unless
    this process reads them too."""
    here = {"", os.getcwd()} & set(sys.path)
    return [sys.executable] if here else [sys.executable, "-P"]


def worker_main(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Run a worker's main so that it ends with its parent and says what went wrong in one message."""
    _die_with_parent(int(os.environ.get(PARENT, os.getppid())))
    try:
        main(arguments)
    except CostarError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        from .workspace import explain_os_error

        explained = explain_os_error(error)
        print(explained, file=sys.stderr)
        sys.exit(explained.exit_code)


@functools.cache
def children_end_with_parent() -> None:
    """From here on the forked children of this process end with it: one that lived on would hold its locks."""
    os.register_at_fork(after_in_child=lambda: _die_with_parent(os.getppid()))


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies: an orphan must not go on writing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
