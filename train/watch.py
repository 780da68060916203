"""Watching the loss of a run: what stops it, what is only remarked, and which records were inserted where it happened.

Everything is a function of the rows of the log, so a resumed run and a branch decide as an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pyarrow.compute as pc

from ..core.errors import CostarError
from ..core.workspace import Workspace
from ..insertion.overlay import read_exposures
from .branch import inherited_rows
from .checkpoint import finished_steps
from .config import RunConfig

WINDOW = 32  # steps: their median ignores up to 15 outliers
GIVEN_BACK = 0.4  # share of what was learned
LEAST = 0.5  # nats
NOISE = 4.0  # standard deviations of a step's loss
SPIKE = 8.0  # of the same, for one step
NAMED = 5  # records in a message


@dataclass(frozen=True)
class Verdict:
    """Something happened in the steps `began` to `step`, both included; `stops` a run, or is only remarked."""

    began: int
    step: int
    found: str
    stops: bool = field(kw_only=True)


class Watch:
    """The verdict on each row of a run's log, given all rows before it. Rows must come in the order of steps.

    Let c be the loss of guessing all ids alike (ln V), or that of step 0 where it is higher. b is the lowest median of
    `WINDOW` consecutive losses so far (before the first window the loss of step 0, if that is lower), and s their robust
    standard deviation, 1.4826 times the median distance from b.

    A run diverged when the median of its last `WINDOW` losses is above b + max(0.4 (c - b), 4 s, 0.5): it lost two fifths
    of all that it had learned, more than half of the last 32 steps agree, and neither small batches (s) nor a beginning
    at which there is little to lose (0.5 nats) explain it. A model that knows no more than how frequent each id is has
    lost more than that, if it had learned anything worth keeping. A loss that rises and comes back within a dozen steps
    never stops a run, nor does a phase that ends, where memorized text gives way to new text, or a rate that rises again.

    A rise is such a median above b + max(4 s, 0.5); a spike a single loss above m + max(8 s, 0.5), where m and s are those
    of the `WINDOW` losses before it. Each is remarked once: a rise until the median is back below its limit, a spike until
    a loss is back below m + max(4 s, 0.5) of its own window, and none within a rise.
    """

    def __init__(self, vocab_size: int):
        self.ceiling = math.log(vocab_size)
        self.best, self.spread = math.inf, 0.0
        self.last: deque[Mapping[str, Any]] = deque(maxlen=WINDOW)
        self.spiking = self.rising = False

    @classmethod
    def after(cls, workspace: Workspace, config: RunConfig, rows: Sequence[Mapping[str, Any]], step: int) -> Watch:
        """The watch of a run that goes on at `step` after the `rows` of its own log, those of its ancestors before them.

        A run may have trained steps of an ancestor again: then its own rows count.
        """
        watch = cls(config.shape.vocab_size)
        begin = rows[0]["step"] if rows else step
        earlier = [row for row in inherited_rows(workspace, config) if row["step"] < begin]
        for row in [*earlier, *rows]:
            watch.judge(row)
        return watch

    def judge(self, row: Mapping[str, Any]) -> Verdict | None:
        """What is to be said of the next row, or nothing."""
        loss, norm = row["loss"], row["grad_norm"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return Verdict(row["step"], row["step"], f"loss {loss}, gradient norm {norm}", stops=True)
        if self.best == math.inf:
            self.ceiling, self.best = max(self.ceiling, loss), loss
        remark = self._spike(row)
        self.last.append(row)
        if len(self.last) < WINDOW:
            return remark
        losses = [each["loss"] for each in self.last]
        middle = median(losses)
        least = self.best + max(NOISE * self.spread, LEAST)
        limit = max(least, self.best + GIVEN_BACK * (self.ceiling - self.best))
        found = f"a loss of {middle:.2f} over the last {WINDOW} steps, after {self.best:.2f}"
        if middle > limit:
            began = next(each["step"] for each in self.last if each["loss"] > limit)
            return Verdict(began, row["step"], found, stops=True)
        rose, self.rising = self.rising, middle > least
        if self.rising and not rose:
            began = next(each["step"] for each in self.last if each["loss"] > least)
            return Verdict(began, row["step"], found, stops=False)
        if middle < self.best:
            self.best, self.spread = middle, robust_deviation(losses, middle)
        return None if self.rising else remark

    def _spike(self, row: Mapping[str, Any]) -> Verdict | None:
        if len(self.last) < WINDOW:
            return None
        losses = [each["loss"] for each in self.last]
        middle = median(losses)
        spread = robust_deviation(losses, middle)
        if self.spiking:
            self.spiking = row["loss"] > middle + max(NOISE * spread, LEAST)
            return None
        self.spiking = row["loss"] > middle + max(SPIKE * spread, LEAST)
        found = f"loss {row['loss']:.2f}, after {middle:.2f} over the {WINDOW} steps before"
        return Verdict(row["step"], row["step"], found, stops=False) if self.spiking else None


def robust_deviation(values: Iterable[float], middle: float) -> float:
    """An estimate of the standard deviation that outliers do not move: 1.4826 times the median distance from `middle`."""
    return 1.4826 * median(abs(value - middle) for value in values)


def remark_of(workspace: Workspace, config: RunConfig, verdict: Verdict) -> str:
    """One line on a spike or a rise: the run, the step, the slots that were read and records in them."""
    return f"{config.run}, step {verdict.step}: {verdict.found}, on {_slots_text(workspace, config, verdict)}"


def stopping_error(workspace: Workspace, config: RunConfig, verdict: Verdict) -> CostarError:
    """Why a run stops, where it began, and the checkpoint to go back to: the last before it began."""
    finished = finished_steps(workspace, config.run)
    sound = [step for step in finished if step <= verdict.began]
    step = max(sound, default=config.branch_step)
    owner = config.run if sound or not step else config.parent_run
    place = f"the checkpoint of {owner} at step {step}" if step else "initialization"
    again = "remove the later checkpoints" if len(sound) < len(finished) else "run the same command again"
    began = f"steps {verdict.began} to {verdict.step}" if verdict.began < verdict.step else f"step {verdict.step}"
    return CostarError(
        f"run {config.run}, {began}",
        found=f"{verdict.found}, on {_slots_text(workspace, config, verdict)}",
        expected="finite numbers, and no loss that gives back two fifths of what was learned",
        mend=f"lower lr or lengthen warmup; if a device failed, {again}: training goes on from {place}",
    )


def _slots_text(workspace: Workspace, config: RunConfig, verdict: Verdict) -> str:
    """'slots 16 to 23, with passages/0004, …': the slots that began it and up to five records inserted in them."""
    first, last = verdict.began * config.train.batch, (verdict.step + 1) * config.train.batch - 1
    exposures = read_exposures(workspace, config.arm, config.draw)
    slots = exposures.column("slot")
    inside = exposures.filter(pc.and_(pc.greater_equal(slots, first), pc.less_equal(slots, last))).sort_by("slot")
    records = list(dict.fromkeys(inside.column("record_id").to_pylist()))
    named = ", ".join(records[:NAMED]) + (f" and {len(records) - NAMED} more" if len(records) > NAMED else "")
    return f"slots {first} to {last}" + (f", which hold {named}" if records else ", which hold no record")
