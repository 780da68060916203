"""What a suite will cost and what it can show, from the suite file alone."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from . import console
from .console import token_text
from .design import ArmDesign, RunName, Suite, TrainDesign
from .models import ModelShape
from .schemes import LEAST, detectable

GIB = 2**30
RATE = """
import sys, time, numpy as np
a = np.ones((512, 512), np.float32); a @ a
best = 1e9
for _ in range(40):
    started = time.perf_counter()
    a @ a
    best = min(best, time.perf_counter() - started)
sys.stdout.write(str(2 * 512**3 / best))
"""


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
    if (a.parent, a.init) != (b.parent, b.init) or any(getattr(a.train, key) != getattr(b.train, key) for key in keys):
        return 0
    slots = a.train.slots
    first = slots
    for name in {*a.inserted, *b.inserted}:
        shared = name in a.inserted and name in b.inserted and _roster(a) == _roster(b)
        if shared and [f.rendering for f in a.factors[name]] == [f.rendering for f in b.factors[name]]:
            continue
        first = min([first, *(arm.span(name)[0] for arm in (a, b) if name in arm.inserted)])
    return first // a.train.batch


def _roster(arm: ArmDesign) -> object:
    """What decides where every copy of an arm's roster lies."""
    placed = {
        name: [(each.phase, each.position, each.spacing) for each in each_of] for name, each_of in arm.factors.items()
    }
    return placed, arm.turn, arm.filler


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


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes of memory and disk of one run, and its FLOP."""

    memory: int
    disk: int
    flops: float


def run_needs(
    shape: ModelShape, train: TrainDesign, length: int, micro_batch: int, steps: int, checkpoints: int
) -> Needs:
    """Estimates for one process that trains one run.

    Memory: parameters, gradients and optimizer state in float32 (AdamW 16 bytes a parameter, Muon 12 for matrices),
    activations of the blocks, three copies of the logits, and 600 MB for the program.
    """
    batch = min(micro_batch or train.batch, train.batch)
    tokens = batch * length
    state = 16 if train.optimizer == "adamw" else 12
    per_token = shape.layers * (18 * shape.hidden + 5 * shape.ffn) * 4 + 3 * 4 * shape.vocab_size
    scores = batch * shape.heads * length * length * 4
    memory = shape.parameters * (state + 2) + tokens * per_token + scores + 600 * 2**20
    disk = checkpoints * shape.parameters * state + shape.parameters * 4
    flops = float(shape.flops_per_token(length)) * train.batch * length * steps
    return Needs(memory=memory, disk=disk, flops=flops)


def measured_rate() -> float:
    """FLOP/s that training reaches in one process with one thread here, roughly: six tenths of a plain float32 product.

    Measured in a process of its own, since a BLAS that is loaded already keeps its number of threads.
    """
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-c", RATE], env=os.environ | single, capture_output=True, text=True, check=True
    )
    return 0.6 * float(done.stdout)


def _insertion_text(arm: ArmDesign) -> str:
    """What is special about an arm's insertion: its phases, fillers, rotation and randomized factors."""
    phases = sorted({phase for name in arm.inserted for phase in arm.phases(name)} - {(Fraction(0), Fraction(1))})
    most = max((len(arm.factors[name]) for name in arm.inserted), default=0)
    parts = [f"phase {start} to {end}" for start, end in phases[:2]] + (["…"] if len(phases) > 2 else [])
    parts += [f"filler {arm.filler}"] if arm.filler != "none" else []
    parts += [f"rotated by {arm.turn}"] if arm.turn else []
    parts += [f"{most} combinations of factors"] if most > 1 else []
    return ", ".join(parts) if arm.inserted else "nothing"


def _power_cells(levels: Mapping[int, int]) -> list[str]:
    """The smallest effect at each level, or why there is none."""
    if not levels.get(0):
        return ["no held-out records: no effect beyond them"]
    few = {level for level, count in levels.items() if count < LEAST or levels[0] < LEAST}
    sizes = detectable(levels)
    return [f"{level}×: {'too few records' if level in few else f'{size:.2f}'}" for level, size in sizes.items()]


def rotation_notes(suite: Suite) -> list[str]:
    """How many records an arm with an assignment of its own inserts that the suite's assignment inserts as well."""
    notes = []
    for arm in suite.arms.values():
        for name in arm.inserted if arm.turn else ():
            levels = suite.perturbations[name].levels
            total, inserted = sum(levels.values()), sum(count for level, count in levels.items() if level)
            first = math.ceil(total * arm.turn)
            both = sum((place - first) % total < inserted for place in range(inserted))
            if both and inserted:
                notes.append(
                    f"[arm.{arm.name}]: about {both:,} of its {inserted:,} inserted {name} are inserted by the suite's own "
                    f"assignment too ({levels.get(0, 0):,} are held out)"
                )
    return notes


def factor_notes(suite: Suite) -> list[str]:
    """Levels with fewer records than an arm has combinations of factors."""
    notes = []
    for arm in suite.arms.values():
        for name in arm.inserted:
            parts, levels = len(arm.factors[name]), suite.perturbations[name].levels
            few = [f"{level} ({count})" for level, count in levels.items() if count < parts]
            if few:
                notes.append(
                    f"[arm.{arm.name}]: {parts} combinations of factors for the records of {name} at level {', '.join(few)}"
                )
    return notes


def print_plan(suite: Suite, names: list[RunName], vocabulary: int, micro_batch: int, warnings: Sequence[str]) -> None:
    """What `costar plan` says."""
    runs = plan_runs(suite, names, vocabulary)
    tokens = token_text(sum(run.tokens for run in runs))
    console.say(f"costar {suite.name} · {len(suite.arms)} arms · {len(runs)} runs · {tokens} tokens")
    rate = measured_rate()
    rows, disk = [], 0
    for run in runs:
        train = suite.arms[run.name.arm].train
        shape = suite.preset(run.name.model).shape(vocabulary)
        checkpoints = 1 + run.steps // train.every
        needs = run_needs(shape, train, suite.corpus.sequence_length, micro_batch, run.steps, checkpoints)
        disk += needs.disk
        arm = suite.arms[run.name.arm]
        begins = f"{run.parent} @ {run.shared_steps}" if run.parent else arm.init or ""
        if arm.parent and not run.parent:
            begins = f"weights of {replace(run.name, arm=arm.parent)}"
        cells = (f"{run.parameters / 1e6:,.1f} M", run.steps, token_text(run.tokens), begins)
        hours = f"{run.flops / rate / 3600:,.2f}"
        rows.append((str(run.name), *cells, f"{run.flops:.2g}", hours, f"{needs.memory / GIB:.1f} GB"))
    columns = ("run", "parameters", "steps", "tokens", "from", "FLOP", "core hours", "memory")
    console.table(columns, rows, numeric=(1, 2, 3, 5, 6, 7))
    console.say(f"\n{tree_remark(runs)} · about {disk / GIB:.1f} GB of disk for checkpoints\n")
    load = [
        (
            arm.name,
            arm.control or "none",
            _insertion_text(arm),
            f"{slot_load(suite, arm):.1%}",
            sum(suite.perturbations[name].copies for name in arm.inserted),
        )
        for arm in suite.arms.values()
    ]
    console.table(("arm", "control", "insertion", "slots with a copy", "copies"), load, numeric=(3, 4))
    console.say(
        "\nSmallest effect beyond held-out records found with 80 % power, in standard deviations of the paired difference:"
    )
    power = [(design.name, *_power_cells(design.levels)) for design in suite.perturbations.values()]
    width = max((len(row) for row in power), default=1)
    console.table(("perturbation", *[""] * (width - 1)), [row + ("",) * (width - len(row)) for row in power])
    for warning in [*rotation_notes(suite), *factor_notes(suite), *warnings]:
        console.say(f"note: {warning}")
