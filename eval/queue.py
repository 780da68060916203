"""Measuring as jobs: which finished checkpoints are not measured yet, handed out a few at a time."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.design import RunName, Suite
from ..core.errors import CostarError, shorten
from ..core.pool import Job
from ..core.workspace import Workspace
from ..train.checkpoint import finished_steps
from ..train.config import RunConfig, begun_runs
from .score import Measurer


class EvalQueue:
    """Hands out measuring jobs for finished checkpoints; inherited ones belong to the run that wrote them."""

    AT_ONCE = 4  # checkpoints a job: enough to pay for starting a process

    def __init__(self, measurer: Measurer, *, runs: Sequence[str] | None = None, step: int | None = None):
        self.measurer, self.runs, self.step = measurer, runs, step
        self._handed: set[str] = set()
        self._measured: set[str] = set()

    def targets(self) -> list[tuple[RunConfig, int]]:
        """Every finished checkpoint that is asked for, of those that are kept for good."""
        found = []
        for run, config in begun_runs(self.measurer.workspace).items():
            if RunName.parse(run).arm in self.measurer.suite.arms and (self.runs is None or run in self.runs):
                steps = sorted(set(finished_steps(self.measurer.workspace, run)) & set(config.checkpoints))
                found += [(config, step) for step in steps if self.step in (None, step)]
        return found

    def require_targets(self) -> None:
        """Stop when nothing that is asked for is there to be measured."""
        if not self.targets():
            begun = ", ".join(begun_runs(self.measurer.workspace)) or "none yet"
            steps = sorted({step for _, step in EvalQueue(self.measurer, runs=self.runs).targets()})
            if self.step is not None and steps:
                raise CostarError(
                    "--step",
                    found=f"no finished checkpoint at step {self.step}",
                    expected=f"one of {', '.join(map(str, steps))}; an inherited one belongs to the run that wrote it",
                    mend="correct it",
                )
            raise CostarError(
                "eval",
                found="no finished checkpoint of that kind",
                expected=f"one of the runs begun: {begun}",
                mend="name one of them, or train first",
            )

    def pending(self) -> list[str]:
        """Those that are not measured, as `run:step`.

        One that was found measured is not looked at again: that hashes all its files, and this is asked several times a
        second beside the training.
        """
        targets = {f"{config.run}:{step}": (config, step) for config, step in self.targets()}
        unknown = [name for name in targets if name not in self._measured]
        self._measured |= {name for name in unknown if self.measurer.is_current(*targets[name])}
        return [name for name in unknown if name not in self._measured]

    def next_job(self, running: frozenset[str], slots: int) -> Job | None:
        """The next targets. Each is handed out once: one that is still not measured after that was changed meanwhile."""
        open_targets = [target for target in self.pending() if target not in self._handed]
        if not open_targets:
            return None
        share = min(self.AT_ONCE, -(-len(open_targets) // max(slots - len(running), 1)))
        targets = open_targets[:share]
        self._handed |= set(targets)
        arguments = (str(self.measurer.workspace.root), *targets)
        return Job(name=f"eval {targets[0]}", module="costar.eval.worker", arguments=arguments)


def told_measures(suite: Suite, workspace: Workspace) -> str:
    """One line on how many checkpoints are measured as the suite asks; their bytes are not looked at."""
    measurer = Measurer(suite, workspace)
    targets = EvalQueue(measurer).targets()
    asked = sum(measurer.is_as_asked(config, step) for config, step in targets)
    text = f"{asked} checkpoints measured, {len(suite.eval.probes)} probes, effects"
    left = len(targets) - asked
    runs = {config.run for config, _ in targets}
    planned = [
        str(RunName(arm=arm.name, model=model, draw=draw))
        for arm in suite.arms.values()
        for model in arm.models
        for draw in range(arm.draws)
    ]
    missing = [run for run in planned if run not in runs]
    text += f"; {left} more are not measured as the suite asks now: costar eval" if left else ""
    return text + (f"; no checkpoint of {shorten(', '.join(missing), 80)}" if missing else "")
