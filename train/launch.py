"""Which runs to train, how they hang together, and in which order processes take them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.design import RunName, Suite
from ..core.errors import CostarError, shorten
from ..core.pool import Job
from ..core.workspace import Workspace
from .checkpoint import finished_steps, read_saved
from .config import RunConfig, begun_runs, make_config, write_config
from .loop import is_finished
from .tree import Branch, grow, plan_branches


@dataclass(frozen=True)
class Stale:
    """A trained run that an edit of the suite touches, and the keys that changed."""

    run: str
    keys: tuple[str, ...]


def stale_runs(suite: Suite, workspace: Workspace) -> list[Stale]:
    """Begun runs of this suite whose relevant keys differ from the suite file as it is now (invariant 10)."""
    found = []
    for run, config in begun_runs(workspace).items():
        name = RunName.parse(run)
        if name.arm not in suite.arms:
            continue
        now = suite.relevant_spec(name)
        keys = sorted(key for key in {*now, *config.spec} if now.get(key) != config.spec.get(key))
        if keys:
            found.append(Stale(run, tuple(keys)))
    return found


def refuse_stale(suite: Suite, workspace: Workspace) -> None:
    """Stop before anything is built when the edit of a suite would make a trained run stale."""
    stale = stale_runs(suite, workspace)
    if stale:
        raise stale_error(suite, stale)


def stale_error(suite: Suite, stale: Sequence[Stale]) -> CostarError:
    keys = sorted({key for each in stale for key in each.keys})
    return CostarError(
        f"{suite.path}",
        found=f"changed since training: {shorten(', '.join(keys), 300)}; runs touched: {', '.join(s.run for s in stale)}",
        expected="the suite that these runs were trained with",
        mend="undo the edit, rename the suite file (a new suite), or put the runs aside with --archive",
    )


def archive_runs(workspace: Workspace, runs: Sequence[str]) -> list[Path]:
    """Move runs and what was measured on them to `archive/<run>-<configuration>/`."""
    moved = []
    for run in runs:
        folder = workspace.run(run)
        sha = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config_sha256"][:8]
        target = workspace.root / "archive" / f"{run}-{sha}"
        number = 1
        while target.exists():
            number += 1
            target = workspace.root / "archive" / f"{run}-{sha}-{number}"
        target.mkdir(parents=True)
        places = {"run": folder, "ledger": workspace.eval / "ledger" / f"run={run}", "scores": workspace.scores(run)}
        for name, place in places.items():
            if place.exists():
                place.rename(target / name)
        moved.append(target)
    return moved


def protected_tokens(workspace: Workspace) -> list[tuple[str, str]]:
    """(run, hash of the tokens it reads) of every begun run."""
    return [(run, config.tokens_sha256) for run, config in begun_runs(workspace).items()]


def protected_edits(workspace: Workspace) -> list[tuple[str, str, int, str]]:
    """(run, arm, draw, hash of the edits it reads) of every begun run."""
    return [(run, c.arm, c.draw, c.overlay_sha256) for run, c in begun_runs(workspace).items()]


def plan_runs(suite: Suite, workspace: Workspace, names: Sequence[RunName]) -> list[RunConfig]:
    """The configurations of runs with their places in the run tree; those already begun keep theirs.

    Raises:
        CostarError: a run was begun with another configuration.
    """
    begun = begun_runs(workspace)
    wanted = {str(name) for name in names}
    candidates = [n for n in _all_names(suite, names) if str(n) in wanted or str(n) in begun]
    made = {str(name): make_config(suite, workspace, name) for name in candidates}
    configs = [config for config, _ in made.values()]
    changed = [c.run for c in configs if c.run in begun and begun[c.run].config_sha256() != c.config_sha256()]
    if changed:
        raise stale_error(suite, [Stale(run, ("data",)) for run in changed])
    branches = plan_branches(configs, {run: overlay.edits for run, (_, overlay) in made.items()})
    for run, branch in branches.items():
        if run in begun:
            branches[run] = Branch(begun[run].parent_run, begun[run].branch_step)
        elif branch.parent in begun:
            branches[run] = _reachable(workspace, begun[branch.parent], branch)
    return [config for config in grow(configs, branches) if config.run in wanted or config.run in begun]


def _all_names(suite: Suite, names: Sequence[RunName]) -> list[RunName]:
    """The suite's runs, then those of models beside the suite, all in the order of the arms."""
    models = sorted({name.model for name in names} - set(suite.models))
    return [*suite.runs(), *(name for model in models for name in suite.runs(model=model))]


def _reachable(workspace: Workspace, parent: RunConfig, branch: Branch) -> Branch:
    """A branch from a run that already trains: at the step asked for, or the nearest checkpoint before it."""
    steps = finished_steps(workspace, parent.run)
    if branch.step in steps or branch.step > max(steps, default=0):
        return branch
    earlier = [step for step in steps if step < branch.step]
    return Branch(parent.run, max(earlier)) if earlier and max(earlier) > 0 else Branch(None, 0)


class TrainQueue:
    """Hands out training jobs: of those that can start, the one with the longest work behind it."""

    def __init__(self, workspace: Workspace, configs: Sequence[RunConfig], micro_batch: int):
        self.workspace, self.micro_batch = workspace, micro_batch
        self.configs = {config.run: config for config in configs}
        for config in configs:
            write_config(workspace, config)
        self.started: set[str] = {run for run, c in self.configs.items() if is_finished(workspace, c) and self.exported(c)}
        self.skipped = frozenset(self.started)

    def exported(self, config: RunConfig) -> bool:
        from .export import export_path

        return (export_path(self.workspace, config.run, config.train.steps) / "stage.json").is_file()

    def next_job(self) -> Job | None:
        ready = [c for run, c in self.configs.items() if run not in self.started and self._can_start(c)]
        if not ready:
            return None
        chosen = max(ready, key=self._work)
        self.started.add(chosen.run)
        arguments = (str(self.workspace.root), chosen.run, str(self.micro_batch))
        return Job(name=chosen.run, module="costar.train.worker", arguments=arguments)

    def _can_start(self, config: RunConfig) -> bool:
        if config.parent_run is None or config.branch_step == 0:
            return True
        from .loop import locate_checkpoint

        _, folder = locate_checkpoint(self.workspace, config, config.branch_step)
        return read_saved(folder) is not None

    def _work(self, config: RunConfig) -> int:
        return (config.train.steps - config.branch_step) * config.train.batch * config.shape.parameters

    def progress(self) -> tuple[float, str]:
        """The share of all steps done, and a line about the runs that train."""
        done = total = 0
        remarks = []
        for run, config in self.configs.items():
            steps = config.train.steps - config.branch_step
            total += steps
            row = last_log_row(self.workspace, run)
            own = row["step"] + 1 - config.branch_step if row else 0
            done += steps if run in self.skipped else own
            if row and run not in self.skipped and own < steps:
                remarks.append(f"{run} {row['step'] + 1}/{config.train.steps} loss {row['loss']:.2f}")
        return done / max(total, 1), ", ".join(remarks)


def last_log_row(workspace: Workspace, run: str) -> dict[str, float] | None:
    """The last whole line of a run's log, read from its end."""
    path = workspace.run(run) / "log" / "log.jsonl"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 2048))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    for line in reversed(lines[:-1]):
        try:
            row: dict[str, float] = json.loads(line)
        except json.JSONDecodeError:
            continue
        return row
    return None
