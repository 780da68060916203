"""How far runs are, how fast, and how long the rest takes: read from the files that their processes write."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..core.console import duration_text, token_text
from ..core.workspace import Workspace
from .config import RunConfig
from .log import last_log_row, log_path, speed_path, tail_rows

RECENT = 20  # steps over which speed is averaged
QUIET = 120.0  # seconds without a new row after which a run no longer counts as training
SHOWN = 3  # runs in one line of progress


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """`step` updates of `steps` are done (those of its ancestors among them); `loss`, `rate` in tokens/s and `mfu` are
    None where nothing is known; `rate` and `mfu` are those of the last steps, whenever they were."""

    run: str
    step: int
    steps: int
    loss: float | None
    rate: float | None
    mfu: float | None

    def speed_text(self) -> str:
        """'5.2 k tokens/s, MFU 41 %', as far as it is known."""
        rate = [] if self.rate is None else [f"{token_text(self.rate)} tokens/s"]
        return ", ".join(rate + ([] if self.mfu is None else [f"MFU {100 * self.mfu:.0f} %"]))


def read_progress(workspace: Workspace, config: RunConfig) -> RunProgress:
    """How far a run is."""
    row = last_log_row(workspace, config.run)
    speeds = tail_rows(speed_path(workspace, config.run))[-RECENT:]
    seconds = sum(each["seconds"] for each in speeds)
    tokens = len(speeds) * config.train.batch * config.sequence_length
    used = [each["mfu"] for each in speeds if each.get("mfu") is not None]
    return RunProgress(
        run=config.run,
        step=row["step"] + 1 if row else config.branch_step,
        steps=config.train.steps,
        loss=row["loss"] if row else None,
        rate=tokens / seconds if seconds > 0 else None,
        mfu=sum(used) / len(used) if used else None,
    )


def progress_text(found: list[RunProgress], left: float | None) -> str:
    """The runs that train, in one line, and the time left for all work."""
    parts = []
    for each in found[:SHOWN]:
        loss = "" if each.loss is None else f"loss {each.loss:.2f}"
        speed = each.speed_text().replace(",", "")
        parts.append(" ".join(part for part in (each.run, f"{each.step}/{each.steps}", loss, speed) if part))
    parts += [f"{len(found) - SHOWN} more"] if len(found) > SHOWN else []
    parts += [f"about {duration_text(left)} left"] if left is not None else []
    return ", ".join(parts)


def step_flops(config: RunConfig) -> int:
    """FLOP of one step of a run."""
    return config.train.batch * config.sequence_length * config.shape.flops_per_token(config.sequence_length)


def time_left(
    configs: Mapping[str, RunConfig], progress: Mapping[str, RunProgress], running: Collection[str]
) -> float | None:
    """Seconds until all runs are at their last steps; None while no running one has a speed.

    The FLOP of all missing steps over what the `running` runs do a second together; but at least the longest chain of
    runs that wait for each other over what the fastest does. `progress` has the runs that are not finished.
    """
    rates = []
    for run in running:
        rate = progress[run].rate
        if rate is not None:
            rates.append(rate * configs[run].shape.flops_per_token(configs[run].sequence_length))
    if not rates:
        return None

    def chain(run: str, upto: int) -> int:
        if run not in progress:
            return 0
        config, step = configs[run], progress[run].step
        before = chain(config.parent_run, config.branch_step) if config.parent_run and step == config.branch_step else 0
        return before + max(upto - step, 0) * step_flops(config)

    missing = sum((each.steps - each.step) * step_flops(configs[run]) for run, each in progress.items())
    longest = max(chain(run, each.steps) for run, each in progress.items())
    return max(missing / sum(rates), longest / max(rates))


def status_text(workspace: Workspace, config: RunConfig) -> str:
    """'at step 48, loss 3.10', and for a run that trains now its speed and time left; nothing before its first step."""
    found = read_progress(workspace, config)
    if found.loss is None:
        return ""
    text = f"at step {found.step}, loss {found.loss:.2f}"
    age = time.time() - log_path(workspace, config.run).stat().st_mtime
    tokens = config.train.batch * config.sequence_length
    if found.step >= found.steps or found.rate is None or age > max(QUIET, 5 * tokens / found.rate):
        return text
    left = (found.steps - found.step) * tokens / found.rate
    return f"{text}, {found.speed_text()}, about {duration_text(left)} left"
