"""What a suite will cost and what it can show, from the suite file alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .design import ArmDesign, RunName, Suite, phase_slots

POWER_Z = 1.959964 + 0.841621  # two-sided 5 %, power 80 %


@dataclass(frozen=True)
class PlannedRun:
    """A run with the earlier run it can start from; `shared_steps` is a bound from the phases, exact after `insert`."""

    name: RunName
    steps: int
    parent: str | None
    shared_steps: int
    tokens: int
    parameters: int
    flops: float


def plan_runs(suite: Suite, names: list[RunName], vocab_size: int) -> list[PlannedRun]:
    """The runs in order, each with the longest stretch it shares with an earlier one."""
    planned: list[PlannedRun] = []
    for name in names:
        arm = suite.arms[name.arm]
        best: tuple[int, str | None] = (0, None)
        for other in planned:
            if (other.name.model, other.name.draw) == (name.model, name.draw):
                shared = shared_steps(arm, suite.arms[other.name.arm])
                if shared > max(best[0], other.shared_steps):
                    best = (shared, str(other.name))
        shape = suite.preset(name.model).shape(vocab_size)
        length = suite.corpus.sequence_length
        tokens = arm.train.slots * length
        own = (arm.train.steps - best[0]) * arm.train.batch * length
        planned.append(
            PlannedRun(
                name=name,
                steps=arm.train.steps,
                parent=best[1],
                shared_steps=best[0],
                tokens=tokens,
                parameters=shape.parameters,
                flops=float(shape.flops_per_token(length)) * own,
            )
        )
    return planned


def shared_steps(a: ArmDesign, b: ArmDesign) -> int:
    """Steps before the first slot at which two arms can differ: no insertion of one begins earlier that the other lacks."""
    keys = [key for key in vars(a.train) if key not in ("every", "also")]
    if any(getattr(a.train, key) != getattr(b.train, key) for key in keys):
        return 0
    slots = a.train.slots
    first = slots
    for name in {*a.inserted, *b.inserted}:
        same = name in a.inserted and name in b.inserted
        if same and a.phases == b.phases and a.renderings[name] == b.renderings[name]:
            continue
        first = min([first, *(phase_slots(arm.phases[name], slots)[0] for arm in (a, b) if name in arm.inserted)])
    return first // a.train.batch


def full_runs(runs: list[PlannedRun]) -> float:
    """The price of the tree in full runs."""
    return sum(1 - run.shared_steps / run.steps for run in runs)


def tree_remark(runs: list[PlannedRun]) -> str:
    """'4 runs for the price of 3.5: late shares half of standard', or why nothing is shared."""
    sharing = [run for run in runs if run.parent]
    if not sharing:
        return f"{len(runs)} runs, none shares steps: every arm differs from the start"
    named = ", ".join(
        f"{run.name} shares {run.shared_steps} of {run.steps} steps with {run.parent}" for run in sharing[:3]
    )
    more = f" and {len(sharing) - 3} more" if len(sharing) > 3 else ""
    return f"{len(runs)} runs for the price of {full_runs(runs):.4g}: {named}{more}"


def slot_load(suite: Suite, arm: ArmDesign) -> float:
    """The share of an arm's slots that carry a copy."""
    return sum(suite.perturbations[name].copies for name in arm.inserted) / arm.train.slots


def detectable(levels: Mapping[int, int]) -> dict[int, float]:
    """Per level the smallest direct effect that is found in 4 of 5 studies at p < .05, in standard deviations.

    Two groups of n and n₀ records: (z₀.₉₇₅ + z₀.₈) · √(1/n + 1/n₀).
    """
    held_out = levels.get(0, 0)
    return {
        level: POWER_Z * math.sqrt(1 / count + 1 / held_out) if held_out else math.nan
        for level, count in levels.items()
        if level
    }
