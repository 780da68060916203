"""The run tree: runs that read the same at the same rates up to a step share that part of training.

Two runs of the same model, draw, seed and start are equal up to the first step at which their rates or their edits
differ, whatever their budgets. The later one then starts from the earlier one's checkpoint at that step, and the result
is the same bits as if it had been trained alone, on one numeric identity.

A run is a string of steps, so a suite is a trie: the steps to train are its nodes, in whatever order runs are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from ..core.hashing import sha256_json
from ..core.schedule import shared_rates, training_besides_rates
from ..insertion.overlay import Edits
from .config import RunConfig, with_tree

PLACEMENT = ("run", "arm", "train", "overlay_sha256", "checkpoints", "branches", "parent_run", "branch_step", "spec")
REPLAYED = 100  # a run may train one part in so many again rather than have its parent keep one more checkpoint
AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Branch:
    """Where a run begins: at step 0 of its own, or at a step of its parent."""

    parent: str | None
    step: int


ALONE = Branch(None, 0)


def first_difference(a: Edits, b: Edits, slots: int, begin: int = 0) -> int:
    """The first slot below `slots` that two runs read differently; `slots` if there is none.

    They are known to read the same below `begin`. Looks no further than the difference, in growing parts.
    """
    count = min(len(a.slots), len(b.slots))
    number, size = int(np.searchsorted(a.slots, begin)), 64
    while number < count and a is not b and min(a.slots[number], b.slots[number]) < slots:
        last = min(number + size, count)
        same = _same_edits(a, b, number, last)
        number += same
        if number < last:
            return int(min(a.slots[number], b.slots[number], slots))
        size = min(2 * size, AT_ONCE)
    rest = [int(edits.slots[count]) for edits in (a, b) if len(edits.slots) > count]
    return min([slots, *rest])


def _same_edits(a: Edits, b: Edits, first: int, last: int) -> int:
    """How many edits from `first` on, and before `last`, are the same in both."""
    part, bounds = slice(first, last), slice(first, last + 1)
    differs = (a.slots[part] != b.slots[part]) | (a.begins[part] != b.begins[part])
    differs |= np.diff(a.offsets[bounds]) != np.diff(b.offsets[bounds])
    alike = int(np.argmax(differs)) if differs.any() else last - first
    ends = a.offsets[first : first + alike + 1]
    shift = int(b.offsets[first] - ends[0])
    tokens = a.payload[ends[0] : ends[-1]] != b.payload[ends[0] + shift : ends[-1] + shift]
    if not tokens.any():
        return alike
    return int(np.searchsorted(ends, ends[0] + np.argmax(tokens), side="right")) - 1


def shared_steps(a: RunConfig, b: RunConfig, edits: Mapping[str, Edits], begin: int = 0) -> int:
    """Steps that two runs of one kin share, known to be at least `begin`."""
    batch, slots = a.train.batch, min(a.train.slots, b.train.slots)
    read = first_difference(edits[a.run], edits[b.run], slots, begin * batch)
    return min(read // batch, shared_rates(a.train, b.train))


@dataclass
class _Node:
    """A run in the trie, with the runs that leave it, by the number of steps they share with it."""

    config: RunConfig
    leaving: dict[int, list[_Node]] = field(default_factory=dict)


@dataclass
class _Tries:
    """The runs added so far. Each new one is compared along one path only."""

    edits: Mapping[str, Edits]
    roots: dict[str, list[_Node]] = field(default_factory=dict)

    def add(self, config: RunConfig) -> tuple[str | None, int]:
        """A run added earlier with which this one shares the most steps, and how many."""
        siblings = self.roots.setdefault(_kin(config), [])
        run: str | None = None
        longest = 0
        while True:
            for node in siblings:
                shared = shared_steps(config, node.config, self.edits, longest)
                if shared > longest:
                    run, longest, siblings = node.config.run, shared, node.leaving.setdefault(shared, [])
                    break
            else:
                siblings.append(_Node(config))
                return run, longest


def _kin(config: RunConfig) -> str:
    """What two runs must have in common before they can share steps: everything but placement, rates and edits."""
    state = {key: value for key, value in asdict(config).items() if key not in PLACEMENT}
    return sha256_json(state | {"train": training_besides_rates(config.train)})


def plan_branches(
    configs: Sequence[RunConfig], edits: Mapping[str, Edits], placed: Mapping[str, Branch] | None = None
) -> dict[str, Branch]:
    """For each run the run that trains the last step of the longest stretch it shares, and that stretch.

    Runs in `placed` keep their places; the others are placed after them, in order.
    """
    tries, branches = _Tries(edits), dict(placed or {})
    for config in sorted(configs, key=lambda each: each.run not in branches):
        other, step = tries.add(config)
        if config.run not in branches:
            owner = _owner(branches, other, step)
            branches[config.run] = Branch(owner, step) if owner and step else ALONE
    return branches


def _owner(branches: Mapping[str, Branch], run: str | None, step: int) -> str | None:
    """The run that trains the last of the first `step` steps of a run: itself or an ancestor; None where it was removed."""
    while run and (branch := branches.get(run)):
        if not branch.parent or step > branch.step:
            return run
        run = branch.parent
    return None


def plan_tree(
    configs: Sequence[RunConfig],
    edits: Mapping[str, Edits],
    begun: Mapping[str, RunConfig] | None = None,
    finished: Mapping[str, Sequence[int]] | None = None,
) -> list[RunConfig]:
    """The configurations with their places in the tree, and what each run keeps for itself and for others.

    Every checkpoint that a run wants is kept by whichever run trains that step. `begun` and `finished` are the runs that
    have a configuration, and the steps of their checkpoints: a run with checkpoints, and its ancestors, keep their places.
    """
    begun, finished = begun or {}, finished or {}
    placed = _placed(begun, finished)
    branches = plan_branches(configs, edits, placed)
    begins = _thin(configs, branches, placed, _wanted(configs, branches), finished)
    wanted = _wanted(configs, begins)
    grown = []
    for config in configs:
        branch = begins[config.run]
        earlier = set(begun[config.run].checkpoints) if config.run in placed and config.run in begun else set()
        written = earlier & set(finished.get(config.run, ()))
        others = {each.step for each in begins.values() if each.parent == config.run}
        checkpoints = wanted[config.run] | written
        grown.append(
            with_tree(config, parent=branch.parent, branch_step=branch.step, checkpoints=checkpoints, branches=others)
        )
    return grown


def kept_steps(begun: Mapping[str, RunConfig], finished: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The finished checkpoints of runs that stay: those for restarts go while their run trains."""
    return {run: [step for step in finished[run] if step in config.kept] for run, config in begun.items()}


def _placed(begun: Mapping[str, RunConfig], finished: Mapping[str, Sequence[int]]) -> dict[str, Branch]:
    """The places of runs that have checkpoints, and of their ancestors."""
    fixed = {run for run in begun if finished.get(run)}
    while more := {begun[run].parent_run or run for run in fixed} & set(begun) - fixed:
        fixed |= more
    return {run: Branch(begun[run].parent_run, begun[run].branch_step) for run in begun if run in fixed}


def _wanted(configs: Sequence[RunConfig], branches: Mapping[str, Branch]) -> dict[str, set[int]]:
    """The permanent steps of every run, with those that its heirs want of it."""
    found: dict[str, set[int]] = {run: set() for run in branches}
    for config in configs:
        for step in config.checkpoints:
            owner = _owner(branches, config.run, step)
            if owner:
                found[owner].add(step)
    return found


def _thin(
    configs: Sequence[RunConfig],
    branches: Mapping[str, Branch],
    placed: Mapping[str, Branch],
    wanted: Mapping[str, set[int]],
    finished: Mapping[str, Sequence[int]],
) -> dict[str, Branch]:
    """Where runs begin: at their branch, or at a checkpoint at most a hundredth of their steps before it.

    In the order of their steps, so that parents come before children. Where a parent is past the branch and kept nothing
    there, a run begins at the nearest checkpoint before it, however far.
    """
    begins, kept = dict(placed), {run: set(steps) for run, steps in wanted.items()}
    for config in sorted(configs, key=lambda each: branches[each.run].step):
        branch = branches[config.run]
        if config.run in placed:
            continue
        near = _nearest(branch, begins, kept, finished)
        written = max(finished.get(branch.parent or "", ()), default=0)
        if branch.step > written and branch.step - near.step > config.train.steps // REPLAYED:
            near = branch
        begins[config.run] = near
        if near.parent:
            kept[near.parent].add(near.step)
    return begins


def _nearest(
    branch: Branch, begins: Mapping[str, Branch], kept: Mapping[str, set[int]], finished: Mapping[str, Sequence[int]]
) -> Branch:
    """The last checkpoint that is there, or will be, at or before a branch: of its parent or of an ancestor."""
    run, upto = branch.parent, branch.step
    while run and (begin := begins.get(run)):
        there = set(finished.get(run, ()))
        there |= {step for step in kept[run] if step > max(there, default=0)}
        steps = [step for step in there if begin.step < step <= upto]
        if steps:
            return Branch(run, max(steps))
        run, upto = begin.parent, min(upto, begin.step)
    return ALONE
