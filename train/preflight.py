"""What a training needs of this machine, and what is there: memory, time, disk, in one line before it starts.

Memory and disk follow from shapes. Time is first estimated from FLOP, which refuses what is hopeless within seconds;
where training takes longer than a probe is worth, a few real steps of every kind of run say how long it takes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.console import duration_text
from ..core.design import RunName, Suite, TrainDesign
from ..core.errors import CostarError
from ..core.machine import LAYOUT_INVARIANT, Machine, check_invariant, resolved_micro_batch
from ..core.models import ModelShape, presets
from ..core.needs import (
    Device,
    Gpus,
    Needs,
    checkpoint_bytes,
    device_of,
    fitting_change,
    gpus_here,
    measured_rate,
    run_needs,
    size_text,
)
from ..core.plan import plan_runs
from ..core.workspace import Workspace, read_marker
from .config import Start, make_config, planned_checkpoints
from .makespan import makespan
from .probe import Probe, run_probes
from .shares import exact_shares

PROBE_FROM = 120.0  # seconds of training by the estimate from FLOP, below which a probe costs more than it tells
HOPELESS = 4.0  # the estimate from FLOP may be wrong by this factor before a probe is not worth its time


@dataclass(frozen=True, kw_only=True)
class Supply:
    """What this machine has: bytes of memory (of one GPU; on CPU for all runs together) and disk, and places for `slots`
    runs side by side."""

    device: Device
    gpus: Gpus | None
    memory: int
    disk: int
    slots: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is left to do for one run: its own steps from `first` on, after `parent` has come to the step `branch`."""

    name: RunName
    shape: ModelShape
    train: TrainDesign
    length: int
    first: int
    parent: str | None
    branch: int
    checkpoints: int

    @property
    def steps(self) -> int:
        return self.train.steps - self.first

    @property
    def step_flops(self) -> float:
        return float(self.shape.flops_per_token(self.length)) * self.train.batch * self.length

    @property
    def kind(self) -> tuple[object, ...]:
        """What decides how long a step takes."""
        return (self.shape, self.train.batch, self.train.optimizer, self.length)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The one line, how many runs train side by side, and the estimate of the whole queue in seconds."""

    processes: int
    seconds: float = 0.0
    model: str = ""
    need: str = ""
    have: str = ""
    probed: str = ""
    tasks: tuple[Task, ...] = ()

    @property
    def line(self) -> str:
        if not self.tasks:
            return "every run is trained already"
        runs = f"{self.processes} run{'s' if self.processes > 1 else ''} side by side"
        time = f"about {duration_text(self.seconds)}{self.probed}"
        return f"{self.model}: needs {self.need}, {time}; {self.have}, {runs}"


def available_memory() -> int:
    """Bytes that a new process can use: the kernel's estimate, or the limit of the control group if that is lower."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8").strip()
        if limit != "max":
            free = min(free, int(limit) - int(used))
    except OSError:
        pass
    return free


def supply_here(folder: Path, machine: Machine) -> Supply:
    """What is there for runs whose files go below `folder`."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    gpus = gpus_here()
    return Supply(
        device=device_of(gpus),
        gpus=gpus,
        memory=gpus.free if gpus else available_memory(),
        disk=shutil.disk_usage(existing).free,
        slots=machine.runs_at_once(gpus.count if gpus else 0),
    )


def open_tasks(
    suite: Suite, workspace: Workspace, names: Sequence[RunName], vocabulary: int, folders: Sequence[Path] = ()
) -> list[Task]:
    """What is left of the runs that are not finished: without steps and checkpoints that are there."""
    tasks = []
    for run in plan_runs(suite, list(names), vocabulary, exact_shares(suite, workspace, names, folders)):
        train = suite.arms[run.name.arm].train
        kept = planned_checkpoints(suite, run.name.arm)
        there = [step for step in kept if read_marker(workspace.checkpoint(str(run.name), step)) is not None]
        if train.steps in there:
            continue
        branches = 1 if run.parent else 0  # the parent keeps the state that this run starts from
        missing = [step for step in kept if step not in there and (step > run.shared_steps or not run.parent)]
        tasks.append(
            Task(
                name=run.name,
                shape=suite.preset(run.name.model).shape(vocabulary),
                train=train,
                length=suite.corpus.sequence_length,
                first=max([run.shared_steps, *there]),
                parent=run.parent,
                branch=run.shared_steps,
                checkpoints=len(missing) + branches,
            )
        )
    return tasks


def preflight_runs(
    suite: Suite, workspace: Workspace, names: list[RunName], machine: Machine, *, vocabulary: int, force: bool
) -> Verdict:
    """Pre-flight of the runs that are not finished yet, from the suite file alone.

    Raises:
        CostarError: the layout does not go with a batch, memory for one run or disk for all cannot suffice, or the time
            is hopelessly over `limit_hours`.
    """
    tasks = open_tasks(suite, workspace, names, vocabulary, machine.data_folders)
    if not tasks:
        return Verdict(processes=machine.processes)
    return preflight(tasks, supply_here(workspace.root, machine), machine, force=force)


def preflight(tasks: Sequence[Task], supply: Supply, machine: Machine, *, force: bool) -> Verdict:
    """Compare what tasks need with what is there; the time is the estimate from FLOP.

    Raises:
        CostarError: as `preflight_runs` does.
    """
    check_layout(tasks, machine)
    needs = {task: task_needs(task, machine, supply.device) for task in tasks}
    largest = max(tasks, key=lambda task: needs[task].memory)
    slots = fitting_slots(needs[largest].memory, supply, len(tasks))
    rate = measured_rate(supply.gpus) * machine.devices
    seconds = queue_seconds(tasks, {task.kind: task.step_flops / rate for task in tasks}, slots)
    restarts = 2 * slots * checkpoint_bytes(largest.shape, largest.train.optimizer)
    restarts *= 0 < 60 * machine.save_minutes < seconds
    disk = sum(each.disk for each in needs.values()) + restarts
    verdict = Verdict(
        processes=slots,
        seconds=seconds,
        model=largest.name.model,
        need=f"{size_text(needs[largest].memory)} of memory a run, {size_text(disk)} of disk",
        have=f"here {size_text(supply.memory)}, {size_text(supply.disk)}",
        tasks=tuple(tasks),
    )
    for what, needed, there in (("memory", needs[largest].memory, supply.memory), ("disk", disk, supply.disk)):
        if needed > there:
            raise CostarError(
                f"pre-flight, {what}",
                found=f"{verdict.have}{f' on each {supply.gpus.name}' if supply.gpus else ''}",
                expected=f"{verdict.model}: needs {verdict.need}",
                mend=memory_mend(largest, machine, supply) if what == "memory" else disk_mend(largest.name.model),
                exit_code=1,
            )
    check_time(verdict, HOPELESS * machine.limit_hours, machine.limit_hours, force=force)
    return verdict


def check_layout(tasks: Sequence[Task], machine: Machine) -> None:
    """Every process of a run has a sequence of each batch, and a layout-invariant run can keep its promise.

    Raises:
        CostarError: a run has fewer, or cannot.
    """
    for task in sorted(tasks, key=lambda each: each.train.batch):
        batch = task.train.batch
        if machine.devices > batch:
            raise CostarError(
                "machine.toml, devices",
                found=f"{machine.devices} processes a run, and {task.name} with batch {batch}",
                expected=f"devices of at most {batch}: a sequence of every batch for each process",
                mend=f"set devices = {batch} or fewer, or raise [train] batch",
            )
        if machine.determinism == LAYOUT_INVARIANT:
            check_invariant(batch, machine.devices, resolved_micro_batch(machine.layout, batch, machine.devices))


def probed_runs(verdict: Verdict, suite: Suite, workspace: Workspace, machine: Machine, *, force: bool) -> Verdict:
    """A verdict with the time, and at least the memory, that a few real steps of every kind of run took.

    It is the one given where training is estimated shorter than `PROBE_FROM`, or so long that only `force` let it pass.
    The corpus and the insertion are finished.

    Raises:
        CostarError: the time is over `limit_hours` and not forced.
    """
    if not PROBE_FROM <= verdict.seconds <= 3600 * HOPELESS * machine.limit_hours:
        return verdict
    found: dict[tuple[object, ...], Probe] = {}
    for task in verdict.tasks:
        if task.kind not in found and task.steps:
            config, _ = make_config(suite, workspace, task.name, machine.data_folders, fetch=False)
            config = replace(config, start=Start())  # a step takes the same time with any weights
            found[task.kind] = run_probes(workspace, config, machine.layout, verdict.processes, machine.devices)
    start = max(probe.start_seconds for probe in found.values())
    each = {kind: probe.step_seconds for kind, probe in found.items()}
    seconds = queue_seconds(verdict.tasks, each, verdict.processes, start=start)
    peak = max(probe.memory for probe in found.values())
    probed = replace(verdict, seconds=seconds, probed=f" (probe: {min(each.values()):.3g} s a step, {size_text(peak)})")
    check_time(probed, machine.limit_hours, machine.limit_hours, force=force)
    return probed


def check_time(verdict: Verdict, most: float, limit_hours: float, *, force: bool) -> None:
    """Refuse what takes over `most` hours, unless forced; the message names the limit."""
    if verdict.seconds <= 3600 * most or force:
        return
    below = smaller(verdict.model)
    raise CostarError(
        "pre-flight, time",
        found=verdict.line,
        expected=f"at most {limit_hours} h (limit_hours in machine.toml)",
        mend=f"{f'try MODEL={below}' if below else 'lower [train] batch'}, train on a GPU, or go ahead with --force",
        exit_code=1,
    )


def task_needs(task: Task, machine: Machine, device: Device) -> Needs:
    """What a run needs: on CPU the memory of all its processes, on GPUs that of each."""
    needs = run_needs(
        task.shape,
        task.train,
        task.length,
        machine.layout,
        steps=task.steps,
        checkpoints=task.checkpoints,
        devices=machine.devices,
        device=device,
    )
    return replace(needs, memory=needs.memory * (machine.devices if device.kind == "cpu" else 1))


def fitting_slots(memory: int, supply: Supply, runs: int) -> int:
    """How many runs train side by side: at least one, on CPU as many as fit into memory."""
    most = min(supply.slots, runs)
    return most if supply.gpus else max(1, min(most, supply.memory // memory))


def queue_seconds(
    tasks: Sequence[Task], step_seconds: Mapping[tuple[object, ...], float], slots: int, *, start: float = 0.0
) -> float:
    """Seconds from the first step to the end of the last run; every run takes `start` before its first step."""
    by_name = {str(task.name): task for task in tasks}
    works = {run: start + task.steps * step_seconds.get(task.kind, 0.0) for run, task in by_name.items()}
    after = {}
    for run, task in by_name.items():
        parent = by_name.get(task.parent or "")
        if parent is not None and task.branch > parent.first:
            after[run] = (str(parent.name), start + (task.branch - parent.first) * step_seconds.get(parent.kind, 0.0))
    return makespan(works, after, slots)


def memory_mend(task: Task, machine: Machine, supply: Supply) -> str:
    """The first setting with which a run fits, or the next smaller model."""
    change = fitting_change(
        task.shape,
        task.train,
        task.length,
        machine.layout,
        devices=machine.devices,
        most_devices=supply.gpus.count if supply.gpus else machine.devices,
        device=supply.device,
        room=supply.memory // (1 if supply.gpus else machine.devices),
    )
    if change:
        memory = change.memory * (1 if supply.gpus else machine.devices)
        return f"{change.settings} in machine.toml needs {size_text(memory)}"
    below = smaller(task.name.model)
    return f"no layout fits: {f'try MODEL={below}' if below else 'a smaller model'}, or train on a larger machine"


def disk_mend(model: str) -> str:
    """What to do where checkpoints do not fit."""
    below = smaller(model)
    instead = f"try MODEL={below}, " if below else ""
    return f"{instead}keep fewer checkpoints ([train] checkpoints), or set build in machine.toml to a larger disk"


def smaller(model: str) -> str | None:
    """The next smaller preset of the ladder, to suggest."""
    known = presets()
    if model not in known:
        return None
    ladder = sorted(known, key=lambda name: known[name].shape(1024).parameters)
    place = [name for name in ladder if "-" not in name]
    below = [n for n in place if known[n].shape(1024).parameters < known[model].shape(1024).parameters]
    return below[-1] if below else None
