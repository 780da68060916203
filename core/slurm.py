"""Jobs of a Slurm cluster: what its commands say, a readable script a job, submitting what is missing, waiting.

The name of a job is a function of what it makes and of the build folder, so the queue itself tells whether it is there, even
when the command that submitted it was killed before it could note the number.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .console import say
from .errors import CostarError, shorten
from .hashing import sha256_json
from .machine import Slurm
from .pool import ENVIRONMENT, FAILURE, PARENT, SAVED, WorkerFailed, python_command, read_failure
from .workspace import write_json, write_text

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0  # seconds between two looks at the queue
PATIENCE = 20  # looks in a row that the queue may leave without an answer
SETTLING = 10.0  # seconds that a file may take to be seen from here, after its job has left the queue
NEVER = "DependencyNeverSatisfied"
GRACE = 120  # seconds before the limit of time at which a job is told to save and end


@dataclass(frozen=True, kw_only=True)
class ClusterJob:
    """One job: `command` is what each of its nodes runs, in the words of the shell. `script` lies beside its log and its
    number; `after` is the name of the job that has to end well before; `processes` run on each of `nodes`."""

    name: str
    says: str
    command: str
    script: Path
    after: str | None = None
    nodes: int = 1
    processes: int = 1
    gpus: int = 0

    @property
    def log(self) -> Path:
        return self.script.with_suffix(".log")

    @property
    def failure(self) -> Path:
        return self.script.with_suffix(".failure")


def check_cluster() -> None:
    """Refuse a machine without the commands of Slurm.

    Raises:
        CostarError: one is not on the PATH.
    """
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise CostarError(
            "machine.toml, backend",
            found=f"no {', '.join(missing)} on the PATH",
            expected="the commands of Slurm",
            mend='run it where jobs are submitted, or set backend = "local"',
        )


def ask_queue(*options: str) -> list[str] | None:
    """The lines of squeue about one's own jobs; None when it does not answer."""
    command = ["squeue", "--me", "--noheader", *options]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return None
    return None if done.returncode else done.stdout.split("\n")[:-1]


def sbatch(script: Path, *options: str) -> str:
    """Submit a script; the number of its job.

    Raises:
        CostarError: sbatch refused it.
    """
    environment = {key: value for key, value in os.environ.items() if key != PARENT}
    command = ["sbatch", "--parsable", "--export=ALL", *options, str(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise CostarError(
            "machine.toml, [slurm]",
            found=shorten(done.stderr, 300),
            expected="a job that sbatch takes",
            mend=f"correct the settings; the script is {script}",
        )
    return done.stdout.strip().split(";")[0]


def queue_text(rows: Sequence[str]) -> str:
    """How many jobs are in which state, and why they wait when none runs; rows are 'state|reason'."""
    states = Counter(row.split("|")[0].lower() for row in rows)
    text = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    reasons = sorted({row.partition("|")[2] for row in rows} - {"None", ""})
    return text if states["running"] or not reasons else f"{text} ({', '.join(reasons)})"


def script_text(job: ClusterJob, settings: Slurm, root: Path) -> str:
    """The job script. It may be submitted by hand: it goes on from the last checkpoint."""
    options = {
        "job-name": queue_name(root, job.name),
        "partition": settings.partition,
        "qos": settings.qos,
        "account": settings.account,
        "time": settings.time,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": settings.cpus_per_task * job.processes,
        "mem-per-cpu": f"{settings.mem_per_cpu_gb}G",
        "gpus-per-node": job.gpus or "",
        "output": job.log,
        "open-mode": "append",
        "signal": f"USR2@{GRACE}",  # without B: Slurm tells the step itself, on every node
    }
    lines = [f"#SBATCH --{key}={shlex.quote(str(value))}" for key, value in options.items() if value != ""]
    paths = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    exports = ENVIRONMENT | paths | {FAILURE: str(job.failure)}
    head = ['head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'] if job.nodes > 1 else []
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            "#SBATCH --requeue",
            "",
            f"# {job.says}",
            *([f"# It needs what {job.after} leaves."] if job.after else []),
            "",
            *(f"export {key}={shlex.quote(value)}" for key, value in exports.items()),
            f"cd {shlex.quote(os.getcwd())}",
            *head,
            'srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \\',
            f"  {job.command}",
            "code=$?",
            "",
            f"# {SAVED}: told to end, and its state is saved; it goes on when the queue gives it time again.",
            f'if [ "$code" = {SAVED} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
            'exit "$code"',
            "",
        ]
    )


def queue_name(root: Path, name: str) -> str:
    """The name of a job in the queue: of letters, digits and hyphens, another one for every build folder."""
    word = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
    return f"costar-{word}-{sha256_json([str(root.resolve()), name])[:8]}"


def command_line(module: str, arguments: Sequence[str]) -> str:
    """The words by which a shell starts a module of costar as this process would."""
    return shlex.join([*python_command(), "-m", module, *arguments])


def submit_missing(
    jobs: Sequence[ClusterJob], wanted: Sequence[str], settings: Slurm, root: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Submit those of the `wanted` jobs that are not in the queue; (submitted, found there), as numbers by name.

    `jobs` come in an order in which each follows the one it is `after`; those that are not wanted are looked up only. A job
    that waits for one that has to be submitted anew is submitted anew too.

    Raises:
        CostarError: the queue does not answer, sbatch refuses, or a job is neither wanted nor there and another needs it.
    """
    there = _queued(jobs, root)
    if there is None:
        raise _no_answer("nothing was submitted; run the same command again when Slurm answers")
    submitted: dict[str, str] = {}
    found = {name: number for name, (number, _) in there.items()}
    known = {job.name for job in jobs}
    for job in jobs:
        if job.name in found and (job.after in submitted or there[job.name][1] == NEVER):
            subprocess.run(["scancel", "--quiet", found.pop(job.name)], check=False, capture_output=True)
        if job.name in found or job.name not in wanted:
            continue
        numbers = submitted | found
        if job.after is not None and job.after not in numbers:
            assert job.after in known, job.after
            raise CostarError(
                job.name,
                found=f"it begins where {job.after} ends, which is neither trained nor in the queue",
                expected="its parent trained first",
                mend="train the parent too, or first",
            )
        job.failure.unlink(missing_ok=True)
        write_text(job.script, script_text(job, settings, root))
        after = [f"--dependency=afterok:{numbers[job.after]}"] if job.after is not None else []
        submitted[job.name] = sbatch(job.script, *after, "--kill-on-invalid-dep=yes")
        write_json(job.script.with_suffix(".json"), {"id": submitted[job.name], "name": job.name, "after": job.after})
    return submitted, found


def wait_for(
    jobs: Sequence[ClusterJob], root: Path, done: Callable[[ClusterJob], bool], watch: Callable[[str], None]
) -> None:
    """Until all jobs have left what they are for; `watch` gets a line about the queue.

    Raises:
        WorkerFailed: a job's own error, with its exit code; the others go on.
        CostarError: a job has left the queue without a word, or the queue does not answer for long.
    """
    pause, silent, remark = FIRST_PAUSE, 0, ""
    missing_since: dict[str, float] = {}
    open_jobs = list(jobs)
    while True:
        watch(remark)
        rows = _queued(open_jobs, root)
        open_jobs = [job for job in open_jobs if not done(job)]
        if not open_jobs:
            return
        silent = silent + 1 if rows is None else 0
        if silent == PATIENCE:
            raise _no_answer("run the same command again when Slurm answers: the jobs are found again")
        now = time.monotonic()
        gone = [job for job in open_jobs if rows is not None and job.name not in rows]
        missing_since = {job.name: missing_since.get(job.name, now) for job in gone}
        for job in gone:
            if job.failure.is_file() or now - missing_since[job.name] > SETTLING:
                raise _failed(job, len(rows or {}))
        remark = "no answer from squeue" if rows is None else queue_text([state for _, state in _states(rows)])
        time.sleep(FIRST_PAUSE if gone else pause)
        pause = min(pause * 1.3, LONGEST_PAUSE)


def tell_submitted(submitted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Lines about what was submitted and what was in the queue already."""
    for name, number in submitted.items():
        say(f"  job {number}: {name}")
    if found:
        say(f"  in the queue already: {', '.join(f'{name} (job {number})' for name, number in found.items())}")
    if submitted or found:
        say("  they go on without this command; the same command finds them again")


def _queued(jobs: Sequence[ClusterJob], root: Path) -> dict[str, tuple[str, str]] | None:
    """(number, 'state|reason' or NEVER) of those jobs that run or wait; None when the queue does not answer."""
    names = {queue_name(root, job.name): job.name for job in jobs}
    lines = ask_queue("--format=%i|%j|%T|%r")
    if lines is None:
        return None
    rows = {}
    for line in lines:
        number, name, state, reason = line.split("|", 3)
        if name in names:
            rows[names[name]] = (number, NEVER if reason == NEVER else f"{state}|{reason}")
    return rows


def _states(rows: Mapping[str, tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, state) for name, (_, state) in rows.items() if state != NEVER]


def _failed(job: ClusterJob, others: int) -> Exception:
    """The error that a job left, or that it left none."""
    rest = f"; {others} other jobs go on in the queue" if others else ""
    try:
        error = read_failure(json.loads(job.failure.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        error = None
    if error is not None:
        return WorkerFailed(job.name, f"{error}{rest}", error.exit_code)
    end = (
        f"{job.log} ends: {last_lines(job.log)}" if job.log.is_file() else f"no {job.log}: cancelled, or never started"
    )
    return CostarError(
        job.name,
        found=f"the job has left the queue before its end; {end}{rest}",
        expected="a job that runs to its end",
        mend="run the same command again: it goes on from the last checkpoint; more time or memory: [slurm] in machine.toml",
        exit_code=1,
    )


def _no_answer(mend: str) -> CostarError:
    found, expected = "no answer from squeue", "the state of the jobs"
    return CostarError("the queue of Slurm", found=found, expected=expected, mend=mend, exit_code=1)


def last_lines(path: Path, lines: int = 3) -> str:
    """The end of a log on one line, or that there is none."""
    try:
        text = path.read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return "no log"
    kept = [line.strip() for line in text.splitlines() if line.strip()][-lines:]
    return shorten(" / ".join(kept), 500) or "an empty log"
