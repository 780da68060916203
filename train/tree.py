"""The run tree: runs that read the same up to a step share that part of training.

Two runs of the same model, draw, seed and training design are equal up to the first slot at which their edits differ.
The later one then starts from the earlier one's checkpoint at that step, and the result is the same bits as if it had
been trained alone, on one numeric identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..insertion.overlay import Edits
from .config import RunConfig, with_tree


@dataclass(frozen=True)
class Branch:
    """Where a run begins: at step 0 of its own, or at a step of its parent."""

    parent: str | None
    step: int


def first_difference(a: Edits, b: Edits, slots: int) -> int:
    """The first slot below `slots` that two runs read differently; `slots` if there is none."""
    count = min(len(a.slots), len(b.slots))
    for number in range(count):
        same = (
            a.slots[number] == b.slots[number]
            and a.begins[number] == b.begins[number]
            and np.array_equal(
                a.payload[a.offsets[number] : a.offsets[number + 1]],
                b.payload[b.offsets[number] : b.offsets[number + 1]],
            )
        )
        if not same:
            return int(min(a.slots[number], b.slots[number], slots))
    rest = [int(edits.slots[count]) for edits in (a, b) if len(edits.slots) > count]
    return min([slots, *rest])


def plan_branches(configs: Sequence[RunConfig], edits: Mapping[str, Edits]) -> dict[str, Branch]:
    """For each run, in order, the earlier run with which it shares the most steps, and how many."""
    branches: dict[str, Branch] = {}
    for number, config in enumerate(configs):
        best = Branch(None, 0)
        for other in configs[:number]:
            if _kin(config) != _kin(other):
                continue
            difference = first_difference(edits[config.run], edits[other.run], config.train.slots)
            step = min(difference // config.train.batch, config.train.steps)
            if step > best.step:
                best = Branch(other.run, step)
        while best.parent and best.step <= branches[best.parent].step:
            best = Branch(branches[best.parent].parent, best.step)
        branches[config.run] = best
    return branches


def _kin(config: RunConfig) -> tuple[object, ...]:
    """What two runs must have in common before they can share steps."""
    train = tuple(value for key, value in vars(config.train).items() if key not in ("every", "also"))
    return (config.model, config.shape, config.draw, config.seed, config.start.key, train, config.tokens_sha256)


def grow(configs: Sequence[RunConfig], branches: Mapping[str, Branch]) -> list[RunConfig]:
    """The configurations with their places in the tree: parents keep a checkpoint where a child begins."""
    return [
        with_tree(
            config,
            parent=branches[config.run].parent,
            branch_step=branches[config.run].step,
            extra={b.step for b in branches.values() if b.parent == config.run},
        )
        for config in configs
    ]
