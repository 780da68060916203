"""Processes side by side, one a core: each with one thread, each ending with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from .devices import has_gpu_driver
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


class Stopped(Exception):
    """The command, or one of its workers, was asked to end; all have ended, and what they had done is saved."""

    def __init__(self) -> None:
        super().__init__("stopped; what was trained is saved; the same command goes on from here")


class _Worker:
    """A running job, and what it says on its error stream: lines at once, its own error at its end."""

    def __init__(self, job: Job, environment: Mapping[str, str], folder: Path, gpus: Sequence[str]):
        self.name, self.gpus = job.name, gpus
        self._said: IO[bytes] = tempfile.TemporaryFile(dir=folder)
        self._read, self._error = 0, folder / f"{uuid.uuid4().hex}.json"
        seen = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        command = [*python_command(), "-m", job.module, *job.arguments]
        whole = {**environment, **seen, REPLY: str(self._error)}
        self.process = subprocess.Popen(command, env=whole, stderr=self._said)

    def remarks(self) -> str:
        """The whole lines that are new, up to a traceback, which is kept for the end."""
        lines = self._unread().split(b"\n")[:-1]
        told = list(itertools.takewhile(lambda line: b"Traceback (most recent call last)" not in line, lines))
        self._read += sum(len(line) + 1 for line in told)
        return b"\n".join(told).decode(errors="replace").strip()

    def end(self, *, stopping: bool) -> WorkerFailed | None:
        """Why the worker failed, if it did, once it has ended; what else it said is told. One that was asked to end may
        have saved its state, or may have had none to save."""
        from .console import complain

        code = self.process.wait()
        text, error = self._unread().decode(errors="replace").strip(), self._left()
        self._said.close()
        if code in (0, SAVED) or (stopping and code == -signal.SIGTERM):
            if text:
                complain(text)
            return None
        found = "\n".join(part for part in (text, error) if part)
        found = found or (KILLED.format(-code) if code < 0 else f"exit code {code}")
        return WorkerFailed(self.name, found, code if code in (1, 2) else 1, signal=max(0, -code))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._said.close()

    def _unread(self) -> bytes:
        """The worker writes where the file ends, so this process must not move its place in it."""
        descriptor = self._said.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size - self._read, self._read)

    def _left(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return str(read_failure(json.loads(self._error.read_text(encoding="utf-8"))) or "")
        return ""


def run_jobs(
    next_job: Callable[[frozenset[str]], Job | None],
    slots: int,
    watch: Callable[[], None],
    gpus: Sequence[str] = (),
) -> None:
    """Keep up to `slots` jobs going until `next_job` has none left and all have ended.

    `next_job` gets the names of the running jobs; `watch` is called several times a second. When a worker fails or
    saves its state and ends, or this process gets SIGTERM, nothing more is started and the others are asked to end too:
    every stage resumes. With `gpus` (see `visible_gpus`) a job sees as many of them as it has processes, those with the
    fewest jobs.

    Raises:
        WorkerFailed: the first that failed.
        Stopped: this process or a worker was asked to end.
    """
    from .console import complain

    environment = os.environ | ENVIRONMENT | {PARENT: str(os.getpid())}
    running: dict[str, _Worker] = {}
    reason: Exception | None = None
    with tempfile.TemporaryDirectory(prefix="costar-") as folder, _asked_to_end() as asked:
        try:
            while True:
                while reason is None and len(running) < slots and (job := next_job(frozenset(running))) is not None:
                    load = Counter(gpu for worker in running.values() for gpu in worker.gpus)
                    chosen = sorted(gpus, key=lambda gpu: load[gpu])[: job.processes]
                    running[job.name] = _Worker(job, environment, Path(folder), chosen)
                if not running:
                    if reason is not None:
                        raise reason
                    return
                time.sleep(0.2)
                watch()
                before = reason
                for name, worker in list(running.items()):
                    if (code := worker.process.poll()) is None:
                        if said := worker.remarks():
                            complain(said)
                        continue
                    del running[name]
                    failure = worker.end(stopping=reason is not None)
                    if failure is not None and (reason is None or isinstance(reason, Stopped)):
                        reason = failure
                    elif code == SAVED and reason is None:
                        reason = Stopped()
                if asked and reason is None:
                    reason = Stopped()
                if before is None and reason is not None:
                    for worker in running.values():
                        worker.process.terminate()
        finally:
            for worker in running.values():
                worker.kill()


@contextlib.contextmanager
def _asked_to_end() -> Iterator[list[int]]:
    """A list that SIGTERM fills; a second one ends this process, and its workers with it."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    torch is asked in a process of its own: one that has asked holds memory of every GPU.
    """
    if not has_gpu_driver():
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
