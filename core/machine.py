"""`machine.toml`: where things lie and what this machine is. It enters no hash of data."""

from __future__ import annotations

import math
import os
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import CostarError, nearest, shorten

LAYOUT_INVARIANT = "layout-invariant"
BACKENDS = ("local", "slurm")
CHOICES = {
    "backend": BACKENDS,
    "sharding": ("", "none", "full", "hybrid"),
    "determinism": ("", "data-exact", "repeatable", LAYOUT_INVARIANT),
}
TIME = r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}"


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What jobs ask of a cluster. `time` is the limit of one job, as sbatch reads it ("30", "4:00:00", "2-0").

    A run trains on `nodes` nodes, with a process for each of their `gpus_per_node` (0: on CPU, `devices` processes a
    node); `cpus_per_task` are the cores of one process, or of one task of a corpus. Of a corpus' array, `at_once` is how
    many jobs run side by side (0: as many as the cluster gives), `jobs` the most jobs: beyond it a job does several
    tasks. Empty `qos` and `account` are left to the cluster.
    """

    partition: str = ""
    time: str = "24:00:00"
    cpus_per_task: int = 1
    mem_per_cpu_gb: int = 4
    nodes: int = 1
    gpus_per_node: int = 0
    qos: str = ""
    account: str = ""
    at_once: int = 0
    jobs: int = 1000


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one run is laid out on devices. It changes no data, only floating-point results (invariant 6).

    `micro_batch` is the most sequences of one forward pass (0: all that a process has), `compile` has torch compile the
    blocks (None: on GPUs), `recompute` trades time for memory (activations are computed again in the backward pass).
    `sharding` spreads parameters and optimizer state over the processes of a run: "none" (each holds all), "full", or
    "hybrid" (within a node); empty: "full" on GPUs, "none" on CPU. `determinism` is the promise to keep; empty:
    "repeatable" on CPU, "data-exact" on GPUs. A checkpoint for restarts is written every `save_minutes`, beside those of
    the suite (0: none).
    """

    micro_batch: int = 0
    compile: bool | None = None
    recompute: bool = False
    sharding: str = ""
    determinism: str = ""
    save_minutes: int | float = 30


@dataclass(frozen=True, kw_only=True)
class Machine(Layout):
    """`build` and `data` are folders; `workers` is the number of runs side by side (default: one per core or GPU).

    `backend` says where corpora are built, runs trained and checkpoints measured: "local", or "slurm" as jobs with what
    `slurm` asks for. A run trains in `devices` processes, one a GPU (or a core).
    """

    build: str = "build"
    data: str = ""
    workers: int = 0
    devices: int = 1
    limit_hours: int | float = 24
    backend: str = "local"
    slurm: Slurm = field(default_factory=Slurm)

    @property
    def processes(self) -> int:
        return self.workers or available_cores()

    @property
    def data_folders(self) -> list[Path]:
        """Where checkpoints and files of a suite lie that are not beside it."""
        return [Path(self.data)] if self.data else []

    def runs_at_once(self, gpus: int) -> int:
        """How many runs train side by side on so many GPUs, or on the cores where there is none.

        Raises:
            CostarError: a run asks for more GPUs than there are.
        """
        if gpus and self.devices > gpus:
            found, expected = f"{self.devices} processes a run", f"at most the {gpus} GPUs that are visible here"
            raise CostarError("machine.toml, devices", found=found, expected=expected, mend="lower it")
        most = max(1, (gpus or available_cores()) // self.devices)
        return min(self.workers, most) if self.workers and gpus else self.workers or most

    @property
    def layout(self) -> Layout:
        return Layout(**{each.name: getattr(self, each.name) for each in fields(Layout)})


def resolved_sharding(layout: Layout, kind: str) -> str:
    """What the layout says or leaves open: "full" on GPUs (`kind` "cuda"), "none" on CPU and for a layout-invariant run."""
    return layout.sharding or ("full" if kind == "cuda" and layout.determinism != LAYOUT_INVARIANT else "none")


def resolved_micro_batch(layout: Layout, batch: int, processes: int) -> int:
    """Sequences of the largest forward pass of a process, whose share of the batch is an equal one.

    Where the layout leaves it open: all of them, or a quarter of the batch for a layout-invariant run, so that one, two
    and four processes sum alike.
    """
    each = math.ceil(batch / processes)
    open_to_choice = max(1, batch // 4) if layout.determinism == LAYOUT_INVARIANT else each
    return min(layout.micro_batch or open_to_choice, each)


def is_invariant(batch: int, processes: int, micro_batch: int) -> bool:
    """Whether the micro-batches of each process are a whole subtree of the sum over the batch."""
    each = batch // (processes * micro_batch)
    return each * processes * micro_batch == batch and each > 0 and (processes == 1 or not each & (each - 1))


def check_invariant(batch: int, processes: int, micro_batch: int) -> None:
    """Refuse what a layout-invariant run cannot keep its promise with.

    Raises:
        CostarError: the bits would depend on the number of processes.
    """
    if not is_invariant(batch, processes, micro_batch):
        raise CostarError(
            "machine.toml, determinism",
            found=f'"layout-invariant" with batch {batch}, {processes} processes and micro_batch {micro_batch}',
            expected="batch = processes × micro_batch × a power of two",
            mend="set micro_batch or devices accordingly, or promise repeatable only",
        )


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16."""
    return bool({"amx_bf16", "avx512_bf16"} & cpu_flags())


def cpu_flags() -> set[str]:
    """The instruction sets of the CPU, as the kernel lists them; empty where it does not."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((set(line.split(":", 1)[1].split()) for line in file if line.startswith("flags")), set())
    except OSError:
        return set()


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
        least = 1 if key == "devices" else 0
        number = (
            isinstance(value, int | float if key in ("limit_hours", "save_minutes") else int)
            and not isinstance(value, bool)
            and value >= least
        )
        kind = {Slurm: dict, type(None): bool}.get(types[key], types[key])
        if not (number if kind is int else isinstance(value, kind)):
            expected = {int: f"a number, {least} or more", dict: "a table", bool: "true or false"}.get(kind, "text")
            raise CostarError(f"{place}, {key}", found=repr(value), expected=expected, mend="correct the value")
    return dict(raw)


def _check_backend(machine: Machine, path: Path) -> None:
    """What is chosen by name is known, and what goes into the lines of a job script is whole and fits on them."""
    slurm, place = machine.slurm, f"{path}, [slurm]"
    for key, choices in CHOICES.items():
        if (value := getattr(machine, key)) not in choices:
            known = [choice for choice in choices if choice]
            mend = f"correct it{nearest(value, known)}"
            raise CostarError(f"{path}, {key}", found=repr(value), expected=" or ".join(known), mend=mend)
    if machine.determinism == LAYOUT_INVARIANT and machine.sharding not in ("", "none"):
        found, expected = f'"layout-invariant" with sharding = "{machine.sharding}"', 'sharding = "none"'
        raise CostarError(f"{path}, determinism", found=found, expected=expected, mend="change one of the two")
    for key in ("partition", "qos", "account"):
        value = getattr(slurm, key)
        if value and not re.fullmatch(r"[A-Za-z0-9_.,:@+-]+", value):
            found = shorten(repr(value))
            raise CostarError(f"{place}, {key}", found=found, expected="a name that sbatch takes", mend="correct it")
    if not re.fullmatch(TIME, slurm.time, re.ASCII):
        expected = "minutes, hours:minutes:seconds or days-hours"
        raise CostarError(f"{place}, time", found=shorten(repr(slurm.time)), expected=expected, mend="correct it")
    for key in ("cpus_per_task", "mem_per_cpu_gb", "jobs", "nodes"):
        if not getattr(slurm, key):
            raise CostarError(f"{place}, {key}", found="0", expected="1 or more", mend="correct it")
    if machine.backend == "slurm" and not slurm.partition:
        expected = "the partition for the jobs"
        mend = 'add partition = "…" (`sinfo` lists them)'
        raise CostarError(f"{place}, partition", found="nothing", expected=expected, mend=mend)
