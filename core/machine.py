"""`machine.toml`: where things lie and what this machine is. It enters no hash of data."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import CostarError, nearest, shorten

BACKENDS = ("local", "slurm")
TIME = r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}"


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What a job array asks of a cluster. `time` is the limit of one job, as sbatch reads it ("30", "4:00:00", "2-0").

    `at_once` is how many jobs run side by side (0: as many as the cluster gives), `jobs` the most jobs of one array:
    beyond it a job does several tasks. Empty `qos` and `account` are left to the cluster.
    """

    partition: str = ""
    time: str = "24:00:00"
    cpus_per_task: int = 1
    mem_per_cpu_gb: int = 4
    qos: str = ""
    account: str = ""
    at_once: int = 0
    jobs: int = 1000


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`build` and `data` are folders; `workers` is the number of processes side by side (default: one per core).

    `backend` says where corpora are built: "local", or "slurm" as job arrays with what `slurm` asks for.
    """

    build: str = "build"
    data: str = ""
    workers: int = 0
    limit_hours: int | float = 24
    micro_batch: int = 0
    backend: str = "local"
    slurm: Slurm = field(default_factory=Slurm)

    @property
    def processes(self) -> int:
        return self.workers or available_cores()


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_machine(path: Path = Path("machine.toml")) -> Machine:
    """The settings in `machine.toml` of the working directory, or the defaults.

    Raises:
        CostarError: the file is not TOML, or has an unknown key or a value of another type.
    """
    if not path.is_file():
        return Machine()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise CostarError(str(path), found=shorten(error), expected="TOML", mend="correct the line") from None
    given = _checked(raw, Machine(), str(path))
    for key in ("build", "data"):
        if "\0" in raw.get(key, "") or len(raw.get(key, "")) > 1024:
            raise CostarError(f"{path}, {key}", found=shorten(repr(raw[key])), expected="a path", mend="correct it")
    if isinstance(table := raw.get("slurm"), dict):
        given["slurm"] = Slurm(**_checked(table, Slurm(), f"{path}, [slurm]"))
    machine = Machine(**given)
    _check_backend(machine, path)
    return machine


def _checked(raw: dict[str, Any], default: Machine | Slurm, place: str) -> dict[str, Any]:
    """The values of a table whose keys are known and whose values have the types of the defaults."""
    types = {known.name: type(getattr(default, known.name)) for known in fields(default)}
    for key, value in raw.items():
        if key not in types:
            raise CostarError(
                f"{place}, {key}",
                found="an unknown key",
                expected=f"one of {', '.join(types)}",
                mend=f"correct or remove it{nearest(key, types)}",
            )
        number = (
            isinstance(value, int | float if key == "limit_hours" else int)
            and not isinstance(value, bool)
            and value >= 0
        )
        kind = dict if types[key] is Slurm else types[key]
        if not (number if kind is int else isinstance(value, kind)):
            expected = {int: "a number, 0 or more", dict: "a table"}.get(kind, "text")
            raise CostarError(f"{place}, {key}", found=repr(value), expected=expected, mend="correct the value")
    return dict(raw)


def _check_backend(machine: Machine, path: Path) -> None:
    """The backend is known, and what goes into the lines of a job script is whole and fits on them."""
    slurm, place = machine.slurm, f"{path}, [slurm]"
    if machine.backend not in BACKENDS:
        mend = f"correct it{nearest(machine.backend, BACKENDS)}"
        known = " or ".join(BACKENDS)
        raise CostarError(f"{path}, backend", found=repr(machine.backend), expected=known, mend=mend)
    for key in ("partition", "qos", "account"):
        value = getattr(slurm, key)
        if value and not re.fullmatch(r"[A-Za-z0-9_.,:@+-]+", value):
            found = shorten(repr(value))
            raise CostarError(f"{place}, {key}", found=found, expected="a name that sbatch takes", mend="correct it")
    if not re.fullmatch(TIME, slurm.time, re.ASCII):
        expected = "minutes, hours:minutes:seconds or days-hours"
        raise CostarError(f"{place}, time", found=shorten(repr(slurm.time)), expected=expected, mend="correct it")
    for key in ("cpus_per_task", "mem_per_cpu_gb", "jobs"):
        if not getattr(slurm, key):
            raise CostarError(f"{place}, {key}", found="0", expected="1 or more", mend="correct it")
    if machine.backend == "slurm" and not slurm.partition:
        expected = "the partition for the jobs"
        mend = 'add partition = "…" (`sinfo` lists them)'
        raise CostarError(f"{place}, partition", found="nothing", expected=expected, mend=mend)
