"""The run tree as jobs of a cluster: each trains one run from one step to another, and follows the one it begins from.

A run whose children branch off is cut where they begin, so that a child starts as soon as its checkpoint is there.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from ..core.machine import Layout, Slurm
from ..core.pool import Job
from ..core.slurm import ClusterJob, command_line
from ..core.workspace import Workspace
from .config import RunConfig

PORTS = 20000  # the ports of launches over several nodes: from here, by the number of the job


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The part of a run that one job trains: from the state at step `first` to the checkpoint at step `last`.

    `after` is the stretch that leaves the state at `first`, or the weights to start from; None where nothing is needed.
    """

    run: str
    first: int
    last: int
    after: str | None

    @property
    def name(self) -> str:
        return stretch_name(self.run, self.last)


def stretch_name(run: str, last: int) -> str:
    return f"{run}@{last}"


def cut_runs(configs: Sequence[RunConfig], starts: Mapping[str, str] = MappingProxyType({})) -> list[Stretch]:
    """The stretches of runs, parents before their children; every run's parent is among the runs.

    `starts` names, for runs that start from the last weights of another, that run. A run that equals its parent to the
    end has one stretch of no steps, which exports it.
    """
    by_run = {config.run: config for config in configs}
    cuts = {config.run: {config.train.steps} for config in configs}
    for config in configs:
        if config.parent_run and config.branch_step:
            cuts[owner_of(by_run, config, config.branch_step)].add(config.branch_step)
    stretches: list[Stretch] = []
    done: set[str] = set()

    def add(config: RunConfig) -> None:
        if config.run in done:
            return
        done.add(config.run)
        first, after = 0, None
        if config.parent_run and config.branch_step:
            owner = owner_of(by_run, config, config.branch_step)
            add(by_run[owner])
            first, after = config.branch_step, stretch_name(owner, config.branch_step)
        elif source := starts.get(config.run):
            add(by_run[source])
            after = stretch_name(source, by_run[source].train.steps)
        for last in sorted(cuts[config.run]):
            stretches.append(Stretch(run=config.run, first=first, last=last, after=after))
            first, after = last, stretches[-1].name

    for config in configs:
        add(config)
    return stretches


def owner_of(by_run: Mapping[str, RunConfig], config: RunConfig, step: int) -> str:
    """The run that writes the checkpoint that a run has at a step: itself or an ancestor."""
    while config.parent_run and step <= config.branch_step:
        config = by_run[config.parent_run]
    return config.run


def children_at(configs: Sequence[RunConfig], stretch: Stretch) -> list[RunConfig]:
    """The runs that begin where a stretch ends."""
    by_run = {config.run: config for config in configs}
    branches = [c for c in configs if c.parent_run and c.branch_step == stretch.last]
    return [c for c in branches if owner_of(by_run, c, c.branch_step) == stretch.run]


def with_ancestors(
    configs: Sequence[RunConfig], begun: Mapping[str, RunConfig], starts: Mapping[str, str] = MappingProxyType({})
) -> list[RunConfig]:
    """The runs and those begun ones that they branch or start from."""
    found = {config.run: config for config in configs}
    waiting = list(configs)
    while waiting:
        config = waiting.pop()
        for parent in (config.parent_run, starts.get(config.run)):
            if parent and parent not in found:
                found[parent] = begun[parent]
                waiting.append(begun[parent])
    return list(found.values())


def missing_after(stretch: Stretch, finished: Mapping[str, bool]) -> str | None:
    """The stretch that has to end first, None when its checkpoint is there already."""
    return None if stretch.after is None or finished[stretch.after] else stretch.after


def train_job(
    workspace: Workspace,
    stretch: Stretch,
    *,
    after: str | None,
    steps: int,
    layout: Layout,
    settings: Slurm,
    devices: int,
) -> ClusterJob:
    """The job of a stretch of a run of so many steps; `devices` are the processes of a node without GPUs."""
    processes = settings.gpus_per_node or devices
    stop = stretch.last if stretch.last < steps else None
    arguments = worker_arguments(workspace, stretch.run, layout, stop)
    script = job_folder(workspace, stretch.run) / f"step-{stretch.last:06d}.slurm"
    if processes * settings.nodes == 1:
        command = command_line("costar.train.worker", arguments)
    else:
        command = launcher_line(arguments, processes, settings.nodes, script.with_suffix(".ranks"))
    where = f"{processes} process{'es' if processes > 1 else ''} on {settings.nodes} node{'s' if settings.nodes > 1 else ''}"
    return ClusterJob(
        name=stretch.name,
        says=f"Run {stretch.run}, from step {stretch.first} to step {stretch.last} of {steps}, in {where}.",
        command=command,
        script=script,
        after=after,
        nodes=settings.nodes,
        processes=processes,
        gpus=settings.gpus_per_node,
    )


def launcher_line(arguments: Sequence[str], processes: int, nodes: int, logs: Path) -> str:
    """The words by which every node starts its processes of a run."""
    options = ["--logs", str(logs)]
    launcher = command_line("costar.train.torchrun", options)
    meeting = f' --nodes {nodes} --endpoint "$head:$(({PORTS} + SLURM_JOB_ID % {PORTS}))" --id "$SLURM_JOB_ID"'
    rest = shlex.join([str(processes), "costar.train.worker", *arguments])
    return f"{launcher}{meeting if nodes > 1 else ''} {rest}"


def training_job(name: str, module: str, arguments: Sequence[str], devices: int) -> Job:
    """A job of this machine that trains in so many processes."""
    if devices == 1:
        return Job(name=name, module=module, arguments=arguments)
    launched = (str(devices), module, *arguments)
    return Job(name=name, module="costar.train.torchrun", arguments=launched, processes=devices)


def worker_arguments(workspace: Workspace, run: str, layout: Layout, stop: int | None = None) -> tuple[str, str, str]:
    """What `costar.train.worker` is started with: the build folder, the run, and how it is laid out and where it stops."""
    return str(workspace.root.resolve()), run, json.dumps({"layout": asdict(layout), "stop": stop})


def eval_job(workspace: Workspace, run: str, step: int, *, gpus: int) -> ClusterJob:
    """The job that measures one checkpoint."""
    target = f"{run}:{step}"
    return ClusterJob(
        name=f"eval {target}",
        says=f"Measures run {run} at step {step}.",
        command=command_line("costar.eval.worker", [str(workspace.root.resolve()), target]),
        script=job_folder(workspace, run) / f"eval-{step:06d}.slurm",
        gpus=min(gpus, 1),
    )


def job_folder(workspace: Workspace, run: str) -> Path:
    """Where a run's scripts, their logs and their numbers lie."""
    return workspace.run(run).resolve() / "jobs"
