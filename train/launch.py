"""Which runs to train, how they hang together, and in which order processes take them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.design import RunName, Suite
from ..core.errors import CostarError
from ..core.machine import Layout
from ..core.pool import Job
from ..core.workspace import Claims, Workspace, written_elsewhere
from .branch import can_begin, spent_branches
from .checkpoint import finished_steps, remove_checkpoint
from .config import RunConfig, begun_runs, make_configs, wanted_or_begun, write_config
from .export import export_path
from .jobs import training_job, worker_arguments
from .log import log_is_whole, read_log_rows, require_log
from .loop import is_finished
from .progress import progress_text, read_progress, step_flops, time_left
from .stale import Stale, stale_error
from .starts import require_starts, start_is_ready
from .tree import kept_steps, plan_tree
from .validation import last_validation


def plan_runs(
    suite: Suite, workspace: Workspace, names: Sequence[RunName], folders: Sequence[Path] = ()
) -> list[RunConfig]:
    """The configurations of runs with their places in the run tree; those already begun keep theirs.

    Raises:
        CostarError: a run was begun with another configuration, or has a parent that is not trained.
    """
    begun = begun_runs(workspace)
    wanted = {str(name) for name in names}
    candidates = wanted_or_begun(suite, names, begun)
    configs, edits = make_configs(suite, workspace, candidates, folders)
    changed = [c.run for c in configs if c.run in begun and begun[c.run].config_sha256() != c.config_sha256()]
    if changed:
        raise stale_error(suite, [Stale(run, ("data",)) for run in changed])
    grown = plan_tree(configs, edits, begun, kept_steps(begun, {run: finished_steps(workspace, run) for run in begun}))
    for config in grown:
        if config.run not in wanted:
            write_config(workspace, config)  # a parent that trains elsewhere or later keeps where its branches begin
    found = [config for config in grown if config.run in wanted]
    require_starts(workspace, found)
    return found


class TrainQueue:
    """Hands out training jobs: of those that can start, the one with the longest work behind it.

    Each run is trained by `devices` processes. A run is claimed before it starts, so that commands side by side share
    the work: `elsewhere` has the runs that another one trains, with its name.

    Raises:
        CostarError: a run has lost a part of its log.
    """

    def __init__(self, workspace: Workspace, configs: Sequence[RunConfig], layout: Layout, devices: int = 1):
        self.workspace, self.layout, self.devices = workspace, layout, devices
        self.configs = {config.run: config for config in configs}
        for config in configs:
            write_config(workspace, config)
        self.started: set[str] = {run for run, c in self.configs.items() if self._is_done(c)}
        self.skipped = frozenset(self.started)
        self.claims = Claims()
        self.elsewhere: dict[str, str] = {}
        for run in self.configs.keys() - self.started:
            require_log(workspace, self.configs[run], max(finished_steps(workspace, run), default=0))

    def exported(self, config: RunConfig) -> bool:
        return (export_path(self.workspace, config.run, config.train.steps) / "stage.json").is_file()

    def _is_done(self, config: RunConfig) -> bool:
        """Whether nothing of a run is missing: its last checkpoint, its log, its export."""
        exported, finished = self.exported(config), is_finished(self.workspace, config)
        return exported and finished and log_is_whole(self.workspace, config)

    def next_job(self) -> Job | None:
        ready = [c for run, c in self.configs.items() if run not in self.started and self._can_start(c)]
        chosen = next((c for c in sorted(ready, key=self._work, reverse=True) if self._claim(c)), None)
        if chosen is None:
            return None
        self.started.add(chosen.run)
        self.give_up_branches()
        module, arguments = "costar.train.worker", worker_arguments(self.workspace, chosen.run, self.layout)
        return training_job(chosen.run, module, arguments, self.devices)

    def _claim(self, config: RunConfig) -> bool:
        """Whether a run is to be started here: not by another command, and not finished by one meanwhile."""
        holder = self.claims.take(self.workspace.run(config.run), f"train {config.run}")
        if holder is not None:
            self.elsewhere[config.run] = holder
            return False
        self.elsewhere.pop(config.run, None)
        if self._is_done(config):
            self.started.add(config.run)
            return False
        return True

    def require_finished(self) -> None:
        """Raises:
        CostarError: a run is not at its last step: another command trains it, or it waits for one, or nothing more can be done.
        """
        unfinished = [run for run, config in self.configs.items() if not is_finished(self.workspace, config)]
        held = next((run for run in unfinished if run in self.elsewhere), None)
        if held is not None:
            raise written_elsewhere(self.workspace.run(held), self.elsewhere[held])
        if unfinished:
            raise CostarError(
                "train",
                found=f"not finished: {', '.join(unfinished)}",
                expected="every run at its last step",
                mend="run the same command again; if it stays, put the run aside: remove its folder under runs/",
                exit_code=1,
            )

    def give_up_branches(self) -> None:
        """Remove the checkpoints that were kept for branches only, once every run that begins there has one of its own."""
        for run, step in spent_branches(self.workspace, list(self.configs.values())):
            remove_checkpoint(self.workspace.checkpoint(run, step))

    def _can_start(self, config: RunConfig) -> bool:
        return can_begin(self.workspace, config) and start_is_ready(self.workspace, config)

    def _work(self, config: RunConfig) -> int:
        done = max([config.branch_step, *finished_steps(self.workspace, config.run)])
        return (config.train.steps - done) * config.train.batch * config.shape.parameters

    def progress(self) -> tuple[float, str]:
        """The share of all work done, and a line about the runs that train and the time left."""
        found = {run: read_progress(self.workspace, c) for run, c in self.configs.items() if run not in self.skipped}
        waiting = {run: each for run, each in found.items() if each.step < each.steps}
        running = [run for run in waiting if run in self.started or run in self.elsewhere]
        total = sum((c.train.steps - c.branch_step) * step_flops(c) for c in self.configs.values())
        missing = sum((each.steps - each.step) * step_flops(self.configs[run]) for run, each in waiting.items())
        left = time_left(self.configs, waiting, running)
        return 1 - missing / max(total, 1), progress_text([found[run] for run in running], left)

    def lines(self) -> list[str]:
        """A line for each run: how far, its loss over the last steps, that on validation documents, where it began."""
        found = []
        for run, config in self.configs.items():
            rows = read_log_rows(self.workspace, run)
            own = config.train.steps - config.branch_step
            last = [row["loss"] for row in rows[-20:]]
            loss = f"loss {sum(last) / len(last):.2f}" if last else "no log"
            text = f"{run:<22} {own:>5} steps   {loss}"
            held = last_validation(self.workspace, run)
            text += f"   validation {held['loss']:.2f}" if held else ""
            if config.parent_run:
                text += f"   from {config.parent_run} @ {config.branch_step}"
            found.append(text + ("   already trained" if run in self.skipped else ""))
        return found
