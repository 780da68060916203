"""Processes side by side, one a core: each with one thread, each ending with its parent."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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
REPLY = "TORCHELASTIC_ERROR_FILE"  # where a process of a launcher of torch leaves its error
FAILURE = "COSTAR_FAILURE"  # where a job of a cluster leaves its error for the command that waits
SAVED = 75  # the exit code of a worker that was told to end, saved its state and can go on (EX_TEMPFAIL)
STOPPED = "stopped by a signal with its state saved; run the same command again: it goes on from there"
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
KILLED = "ended by signal {}; run the same command again: it goes on from the last checkpoint (9: perhaps no memory was left)"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A module of costar to run with arguments; `name` says what it works on, `processes` how many GPUs it takes."""

    name: str
    module: str
    arguments: Sequence[str]
    processes: int = 1


class WorkerFailed(Exception):
    """A worker ended with an error; `text` is what it said, with the name of its work.

    `signal` is the number of the signal that ended it, 0 for none.
    """

    def __init__(self, name: str, text: str, exit_code: int, signal: int = 0):
        super().__init__(f"{name}: {text}")
        self.name, self.text, self.exit_code, self.signal = name, f"{name}\n{text}", exit_code, signal


def run_jobs(
    next_job: Callable[[frozenset[str]], Job | None],
    slots: int,
    watch: Callable[[], None],
    gpus: Sequence[str] = (),
) -> None:
    """Keep up to `slots` jobs going until `next_job` has none left and all have ended.

    `next_job` gets the names of the running jobs; `watch` is called several times a second. When a worker fails, the
    others are stopped: every stage resumes. With `gpus` (see `visible_gpus`) a job sees as many of them as it has
    processes, those with the fewest jobs.
    """
    environment = os.environ | ENVIRONMENT | {PARENT: str(os.getpid())}
    running: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
    taken: dict[str, list[str]] = {}
    try:
        while True:
            while len(running) < slots and (job := next_job(frozenset(running))) is not None:
                errors: IO[bytes] = tempfile.TemporaryFile()  # closed with its process
                command = [*python_command(), "-m", job.module, *job.arguments]
                seen = {}
                if gpus:
                    load = Counter(gpu for name in running for gpu in taken[name])
                    taken[job.name] = sorted(gpus, key=lambda gpu: load[gpu])[: job.processes]
                    seen = {"CUDA_VISIBLE_DEVICES": ",".join(taken[job.name])}
                running[job.name] = (subprocess.Popen(command, env=environment | seen, stderr=errors), errors)
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
                    found = text or (KILLED.format(-code) if code < 0 else STOPPED if code == SAVED else text)
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


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    torch is asked in a process of its own: one that has asked holds memory of every GPU.
    """
    if not any(map(os.path.exists, GPU_DRIVERS)):
        return ()
    code = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([*python_command(), "-c", code], check=False, capture_output=True, text=True)
    count = int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else 0
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named[:count] if named else map(str, range(count)))


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
        _tell(error)
        sys.exit(error.exit_code)
    except OSError as error:
        from .workspace import explain_os_error

        explained = explain_os_error(error)
        _tell(explained)
        sys.exit(explained.exit_code)


def _tell(error: CostarError) -> None:
    """Leave an error where the process that waits for it looks, and in words where nobody else prints it."""
    for key in (REPLY, FAILURE):
        if path := os.environ.get(key):
            told = _write_failure(Path(path), error)
            if told and key == REPLY:
                return
            break
    print(error, file=sys.stderr)


def _write_failure(path: Path, error: CostarError) -> bool:
    facts = {"message": str(error), "timestamp": str(int(time.time())), "facts": error.facts}
    try:
        path.write_text(json.dumps(facts), encoding="utf-8")
    except OSError:
        return False
    return True


def read_failure(told: Any) -> CostarError | None:
    """The error in what a worker left for `REPLY` or `FAILURE`, given as parsed JSON; None where there is none."""
    try:
        return CostarError(**told["facts"])
    except (KeyError, TypeError):
        return None


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
