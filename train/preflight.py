"""What a training needs of this machine, and what is there: memory, time, disk, in one line before it starts."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..core.design import RunName, Suite
from ..core.errors import CostarError
from ..core.machine import Machine
from ..core.models import presets
from ..core.plan import GIB, Needs, measured_rate, plan_runs, run_needs
from ..core.workspace import Workspace, read_marker


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


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The one line, and how many processes fit side by side."""

    line: str
    processes: int


def preflight_runs(
    suite: Suite, workspace: Workspace, names: list[RunName], machine: Machine, *, vocabulary: int, force: bool
) -> Verdict:
    """Pre-flight of the runs that are not finished yet."""
    runs = [
        run
        for run in plan_runs(suite, names, vocabulary)
        if read_marker(workspace.checkpoint(str(run.name), run.steps)) is None
    ]
    if not runs:
        return Verdict(line="every run is trained already", processes=machine.processes)
    needs = {}
    for run in runs:
        train = suite.arms[run.name.arm].train
        shape = suite.preset(run.name.model).shape(vocabulary)
        count = 1 + run.steps // train.every
        needs[run] = run_needs(shape, train, suite.corpus.sequence_length, machine.micro_batch, run.steps, count)
    largest = max(runs, key=lambda run: needs[run].memory)
    return preflight(
        needs[largest],
        disk=sum(each.disk for each in needs.values()),
        total_flops=sum(run.flops for run in runs),
        processes=min(machine.processes, len(runs)),
        folder=workspace.root,
        model=largest.name.model,
        limit_hours=machine.limit_hours,
        force=force,
    )


def preflight(
    needs: Needs,
    *,
    disk: int,
    total_flops: float,
    processes: int,
    folder: Path,
    model: str,
    limit_hours: float,
    force: bool,
) -> Verdict:
    """Compare what the largest run, `disk` bytes for all and `total_flops` need with what is there.

    Raises:
        CostarError: memory for one run or disk cannot suffice, or the time is over `limit_hours` and not forced.
    """
    free = available_memory()
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    room = shutil.disk_usage(existing).free
    fitting = max(1, min(processes, free // needs.memory))
    hours = total_flops / (measured_rate() * fitting) / 3600
    need = f"{model}: needs {needs.memory / GIB:.1f} GB of memory a run, {disk / GIB:.1f} GB of disk, about {_hours(hours)}"
    have = f"here {free / GIB:.1f} GB, {room / GIB:.0f} GB, {fitting} run{'s' if fitting > 1 else ''} side by side"
    instead = f"try MODEL={smaller(model)}" if smaller(model) else "lower [train] batch"
    for what, needed, there in (("memory", needs.memory, free), ("disk", disk, room)):
        if needed > there:
            raise CostarError(
                f"pre-flight, {what}",
                found=have,
                expected=need,
                mend=f"{instead}, set micro_batch in machine.toml, or train on a larger machine",
                exit_code=1,
            )
    if hours > limit_hours and not force:
        raise CostarError(
            "pre-flight, time",
            found=f"{need}; {have}",
            expected=f"at most {limit_hours} h (limit_hours in machine.toml)",
            mend=f"{instead}, train on a GPU, or go ahead with --force",
            exit_code=1,
        )
    return Verdict(line=f"{need}; {have}", processes=fitting)


def _hours(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:,.0f} h"


def smaller(model: str) -> str | None:
    """The next smaller preset of the ladder, to suggest."""
    known = presets()
    if model not in known:
        return None
    ladder = sorted(known, key=lambda name: known[name].shape(1024).parameters)
    place = [name for name in ladder if "-" not in name]
    below = [n for n in place if known[n].shape(1024).parameters < known[model].shape(1024).parameters]
    return below[-1] if below else None
