"""What a training needs of this machine, and what is there: memory, time, disk, in one line before it starts."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import CostarError
from ..core.models import presets
from ..core.plan import GIB, Needs, measured_rate


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
    """The one line, and the hours that the training will take."""

    line: str
    hours: float


def preflight(
    needs: Needs, *, total_flops: float, processes: int, folder: Path, model: str, limit_hours: float, force: bool
) -> Verdict:
    """Compare what `processes` runs side by side need with what is there.

    Raises:
        CostarError: memory or disk cannot suffice, or the time is over `limit_hours` and not forced.
    """
    free = available_memory()
    together = needs.memory * processes
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    disk = shutil.disk_usage(existing).free
    rate = measured_rate() * processes
    hours = total_flops / rate / 3600
    need = f"{model}: needs {together / GIB:.1f} GB of memory, {needs.disk / GIB:.1f} GB of disk, about {_hours(hours)}"
    have = f"here {free / GIB:.1f} GB, {disk / GIB:.0f} GB"
    instead = f"try MODEL={smaller(model)}" if smaller(model) else "lower [train] batch"
    for what, needed, there in (("memory", needs.memory, free), ("disk", needs.disk, disk)):
        if needed > there:
            raise CostarError(
                f"pre-flight, {what}",
                found=f"{have}",
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
    return Verdict(line=f"{need}; {have}", hours=hours)


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
