"""Which runs to train, how they hang together, and in which order processes take them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..core.design import RunName, Suite
from ..core.pool import Job
from ..core.workspace import Workspace
from .checkpoint import finished_steps, read_saved
from .config import RunConfig, begun_runs, make_config, write_config
from .export import export_path
from .loop import is_finished, locate_checkpoint
from .stale import Stale, stale_error
from .starts import require_starts, start_is_ready
from .tree import Branch, grow, plan_branches


def plan_runs(
    suite: Suite, workspace: Workspace, names: Sequence[RunName], folders: Sequence[Path] = ()
) -> list[RunConfig]:
    """The configurations of runs with their places in the run tree; those already begun keep theirs.

    Raises:
        CostarError: a run was begun with another configuration, or has a parent that is not trained.
    """
    begun = begun_runs(workspace)
    wanted = {str(name) for name in names}
    candidates = [n for n in _all_names(suite, names) if str(n) in wanted or str(n) in begun]
    made = {str(name): make_config(suite, workspace, name, folders) for name in candidates}
    configs = [config for config, _ in made.values()]
    changed = [c.run for c in configs if c.run in begun and begun[c.run].config_sha256() != c.config_sha256()]
    if changed:
        raise stale_error(suite, [Stale(run, ("data",)) for run in changed])
    branches = plan_branches(configs, {run: overlay.edits for run, (_, overlay) in made.items()})
    for run, branch in branches.items():
        if run in begun and finished_steps(workspace, run):
            branches[run] = Branch(begun[run].parent_run, begun[run].branch_step)
        elif branch.parent in begun:
            branches[run] = _reachable(workspace, begun[branch.parent], branch)
    grown = grow(configs, branches)
    for config in grown:
        if config.run not in wanted and not is_finished(workspace, config):
            write_config(
                workspace, config
            )  # a parent that trains elsewhere or later keeps where its new branches begin
    found = [config for config in grown if config.run in wanted]
    require_starts(workspace, found)
    return found


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
        self.started: set[str] = {
            run for run, c in self.configs.items() if is_finished(workspace, c) and self.exported(c)
        }
        self.skipped = frozenset(self.started)

    def exported(self, config: RunConfig) -> bool:
        return (export_path(self.workspace, config.run, config.train.steps) / "stage.json").is_file()

    def unfinished(self) -> list[str]:
        """Runs whose last checkpoint is not there."""
        return [run for run, config in self.configs.items() if not is_finished(self.workspace, config)]

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
            return start_is_ready(self.workspace, config)
        _, folder = locate_checkpoint(self.workspace, config, config.branch_step)
        return read_saved(folder) is not None

    def _work(self, config: RunConfig) -> int:
        done = max([config.branch_step, *finished_steps(self.workspace, config.run)])
        return (config.train.steps - done) * config.train.batch * config.shape.parameters

    def progress(self) -> tuple[float, str]:
        """The share of all steps done, and a line about the runs that train."""
        done = total = 0
        remarks = []
        for run, config in self.configs.items():
            steps = config.train.steps - config.branch_step
            total += steps
            row = last_log_row(self.workspace, run)
            own = int(row["step"]) + 1 - config.branch_step if row else 0
            done += steps if run in self.skipped else own
            if row and run not in self.skipped and own < steps:
                remarks.append(f"{run} {int(row['step']) + 1}/{config.train.steps} loss {row['loss']:.2f}")
        return done / max(total, 1), ", ".join(remarks)

    def lines(self) -> list[str]:
        """A line for each run: how far, its loss over the last steps, its speed, where it began."""
        found = []
        for run, config in self.configs.items():
            rows = read_log_rows(self.workspace, run)
            own = config.train.steps - config.branch_step
            last = [row["loss"] for row in rows[-20:]]
            loss = f"loss {sum(last) / len(last):.2f}" if last else "no log"
            text = f"{run:<22} {own:>5} steps   {loss}"
            if config.parent_run:
                text += f"   from {config.parent_run} @ {config.branch_step}"
            found.append(text + ("   already trained" if run in self.skipped else ""))
        return found


def read_log_rows(workspace: Workspace, run: str) -> list[dict[str, float]]:
    """The rows of a run's log so far; a line that is being written is left out."""
    path = workspace.run(run) / "log" / "log.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


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
