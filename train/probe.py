"""A few real steps of a run, to know how long it takes: `python -m costar.train.probe BUILD FOLDER NAME`.

FOLDER is a temporary one of the asking process. `<name>.json` in it holds the run's configuration and layout;
`<name>.answer.json` gets what was measured. Nothing is written into the suite. Probes that are to run side by side wait
for each other before they measure, since what runs beside a run takes its share of the memory's bandwidth.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.machine import Layout
from ..core.pool import run_jobs, visible_gpus, worker_main
from ..core.workspace import Workspace, write_json
from .config import RunConfig
from .jobs import training_job

if TYPE_CHECKING:
    from .trainer import Trainer

STEPS = 5  # the first is a warm-up
LEAST_SECONDS = 2.0  # short steps are repeated for so long …
MOST_SECONDS = 60.0  # … and long ones end after so long


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Seconds of a step and of everything before the first, peak bytes of memory of a device, and its name."""

    step_seconds: float
    start_seconds: float
    memory: int
    device: str


def run_probes(workspace: Workspace, config: RunConfig, layout: Layout, side_by_side: int, devices: int = 1) -> Probe:
    """What so many equal runs side by side measured, each in `devices` processes: median of seconds, most of memory.

    Raises:
        WorkerFailed: one of them ended with an error.
    """
    names = [f"probe-{number}" for number in range(side_by_side)]
    with tempfile.TemporaryDirectory(prefix="costar-probe-") as temporary:
        folder = Path(temporary)
        for name in names:
            write_json(folder / f"{name}.json", {"config": config.to_json(), "layout": asdict(layout), "all": names})
        waiting = [
            training_job(name, "costar.train.probe", (str(workspace.root), temporary, name), devices) for name in names
        ]
        run_jobs(lambda running: waiting.pop() if waiting else None, side_by_side, lambda: None, visible_gpus())
        answers = [Probe(**json.loads((folder / f"{name}.answer.json").read_text(encoding="utf-8"))) for name in names]
    return Probe(
        step_seconds=statistics.median(answer.step_seconds for answer in answers),
        start_seconds=statistics.median(answer.start_seconds for answer in answers),
        memory=max(answer.memory for answer in answers),
        device=answers[0].device,
    )


def main(arguments: list[str]) -> None:
    import torch

    from ..insertion.overlay import open_overlay
    from .identity import pick_device
    from .trainer import Trainer
    from .world import join_world, leave_world

    torch.set_num_threads(1)
    workspace, folder, name = Workspace(Path(arguments[0])), Path(arguments[1]), arguments[2]
    asked = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    config, layout = RunConfig.from_json(asked["config"]), Layout(**asked["layout"])
    overlay = open_overlay(
        workspace, config.arm, config.draw, seed=config.seed, length=config.sequence_length, eos=config.eos_id
    )
    world = join_world(pick_device())
    trainer = Trainer(config, overlay, layout, world)
    started = process_seconds()
    seconds = timed_steps(trainer, folder, name, asked["all"])
    device = torch.cuda.get_device_name() if world.device.type == "cuda" else "CPU"
    memory = max(world.gather(peak_memory()))
    if world.is_first:
        answer = Probe(step_seconds=seconds, start_seconds=started, memory=memory, device=device)
        write_json(folder / f"{name}.answer.json", asdict(answer))
    leave_world()


def timed_steps(trainer: Trainer, folder: Path, name: str, together: Sequence[str]) -> float:
    """Median seconds of a step after the first, while the others of `together` step too."""
    world = trainer.world
    trainer.train_step()
    if world.is_first:
        (folder / f"{name}.ready").touch()
    while not all((folder / f"{each}.ready").exists() for each in together):
        time.sleep(0.01)
    seconds: list[float] = []
    going = trainer.step < trainer.config.train.steps
    while going:
        before = time.perf_counter()
        trainer.train_step()
        seconds.append(time.perf_counter() - before)
        going = sum(seconds) < (MOST_SECONDS if len(seconds) < STEPS - 1 else LEAST_SECONDS)
        going = world.gather(going)[0] and trainer.step < trainer.config.train.steps
    return statistics.median(seconds) if seconds else 0.0


def peak_memory() -> int:
    """The most bytes that this process held: of its GPU with what the driver adds, or resident ones on CPU."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        beside = total - free - torch.cuda.memory_reserved()
        return torch.cuda.max_memory_allocated() + max(0, beside)
    return status_bytes("VmHWM")


def status_bytes(key: str) -> int:
    """A size of this process from the kernel, such as VmHWM, its largest resident set."""
    import resource

    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def process_seconds() -> float:
    """Seconds since this process was started; 0 where the kernel does not say."""
    import os

    try:
        ticks = Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[19]
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    worker_main(main, sys.argv[1:])
