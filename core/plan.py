"""What a suite will cost and what it can show, from the suite file alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from . import console
from .console import token_text
from .design import ArmDesign, RunName, Suite
from .machine import Machine
from .needs import device_of, gpus_here, measured_rate, run_needs, size_text
from .power import NO_PILOT, Pilot, power_table, verdict_notes
from .schedule import shared_rates, training_besides_rates


@dataclass(frozen=True)
class PlannedRun:
    """A run with the earlier run it can start from. `flops` are those of its own steps, `whole_flops` of all of them.

    `shared_steps` is a bound from the rates and the phases; where the exposures are there, it is what they say.
    """

    name: RunName
    steps: int
    parent: str | None
    shared_steps: int
    tokens: int
    parameters: int
    flops: float
    whole_flops: float


Shares = Mapping[str, tuple[str | None, int]]


def plan_runs(suite: Suite, names: list[RunName], vocab_size: int, exact: Shares | None = None) -> list[PlannedRun]:
    """The runs in order, each with the longest stretch it shares with an earlier one: as `exact` says, or a bound."""
    planned: list[PlannedRun] = []
    for name in names:
        arm = suite.arms[name.arm]
        parent, shared = exact[str(name)] if exact else _longest(suite, name, planned)
        shape = suite.preset(name.model).shape(vocab_size)
        length = suite.corpus.sequence_length
        whole = float(shape.flops_per_token(length)) * arm.train.slots * length
        planned.append(
            PlannedRun(
                name=name,
                steps=arm.train.steps,
                parent=parent,
                shared_steps=shared,
                tokens=arm.train.slots * length,
                parameters=shape.parameters,
                flops=whole * (1 - shared / arm.train.steps),
                whole_flops=whole,
            )
        )
    return planned


def _longest(suite: Suite, name: RunName, planned: Sequence[PlannedRun]) -> tuple[str | None, int]:
    """The earlier run that trains the last step of the longest stretch that a run shares, and that stretch."""
    parent, longest = None, 0
    for other in planned:
        if (other.name.model, other.name.draw) == (name.model, name.draw):
            shared = shared_steps(suite.arms[name.arm], suite.arms[other.name.arm])
            if shared > max(longest, other.shared_steps):
                parent, longest = str(other.name), shared
    return parent, longest


def shared_steps(a: ArmDesign, b: ArmDesign) -> int:
    """Steps that two arms share for certain: until their rates differ, or an insertion of one can begin that the other lacks."""
    if (a.parent, a.init) != (b.parent, b.init) or training_besides_rates(a.train) != training_besides_rates(b.train):
        return 0
    placed_alike = _roster(a) == _roster(b) and a.train.slots == b.train.slots
    first = min(a.train.slots, b.train.slots)
    for name in {*a.inserted, *b.inserted}:
        shared = name in a.inserted and name in b.inserted and placed_alike
        if shared and [f.rendering for f in a.factors[name]] == [f.rendering for f in b.factors[name]]:
            continue
        first = min([first, *(arm.span(name)[0] for arm in (a, b) if name in arm.inserted)])
    return min(first // a.train.batch, shared_rates(a.train, b.train))


def _roster(arm: ArmDesign) -> object:
    """What decides where every copy of an arm's roster lies."""
    placed = {
        name: [(each.phase, each.position, each.spacing) for each in each_of] for name, each_of in arm.factors.items()
    }
    return placed, arm.turn, arm.filler


def suite_title(suite: Suite, runs: Sequence[PlannedRun]) -> str:
    """'costar demo · 4 arms × tiny (1.4 M parameters) × 1 draw · 1.5 M tokens a run'."""
    sizes = ", ".join(sorted({f"{run.name.model} ({run.parameters / 1e6:.1f} M parameters)" for run in runs}))
    draws = f"{suite.draws} draw{'s' if suite.draws > 1 else ''}"
    return (
        f"costar {suite.name} · {len(suite.arms)} arms × {sizes} × {draws} · {token_text(runs[0].tokens)} tokens a run"
    )


def full_runs(runs: list[PlannedRun]) -> float:
    """The price of the tree in full runs: the share of all FLOP that is left, times the runs. Their order is no matter."""
    return len(runs) * sum(run.flops for run in runs) / sum(run.whole_flops for run in runs)


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


def _insertion_text(arm: ArmDesign) -> str:
    """What is special about an arm's insertion: its phases, fillers, rotation and randomized factors."""
    phases = sorted({phase for name in arm.inserted for phase in arm.phases(name)} - {(Fraction(0), Fraction(1))})
    most = max((len(arm.factors[name]) for name in arm.inserted), default=0)
    parts = [f"phase {start} to {end}" for start, end in phases[:2]] + (["…"] if len(phases) > 2 else [])
    parts += [f"filler {arm.filler}"] if arm.filler != "none" else []
    parts += [f"rotated by {arm.turn}"] if arm.turn else []
    parts += [f"{most} combinations of factors"] if most > 1 else []
    return ", ".join(parts) if arm.inserted else "nothing"


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


def _draws_together(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """One row for all draws of an arm and model that have the same to say."""
    found: dict[tuple[Any, ...], list[RunName]] = {}
    for name, *cells in rows:
        said = tuple(str(cell).replace(f".d{name.draw} ", " ") for cell in cells)
        found.setdefault((name.arm, name.model, *said), []).append(name)
    return [
        (str(names[0]), *said) if len(names) == 1 else (f"{arm}.{model} × {len(names)} draws", *said)
        for (arm, model, *said), names in found.items()
    ]


def print_plan(
    suite: Suite,
    names: list[RunName],
    vocabulary: int,
    machine: Machine,
    warnings: Sequence[str],
    exact: Shares | None = None,
    pilot: Pilot = NO_PILOT,
) -> None:
    """What `costar plan` says; `exact` has what runs share by their exposures, where those are there, `pilot` what is known
    of clusters and of the spread of effects."""
    runs = plan_runs(suite, names, vocabulary, exact)
    tokens = token_text(sum(run.tokens for run in runs))
    console.say(f"costar {suite.name} · {len(suite.arms)} arms · {len(runs)} runs · {tokens} tokens")
    gpus = gpus_here()
    rate, device = measured_rate(gpus), device_of(gpus)
    rows, disk = [], 0
    for run in runs:
        train = suite.arms[run.name.arm].train
        shape = suite.preset(run.name.model).shape(vocabulary)
        checkpoints = 1 + run.steps // train.every
        needs = run_needs(
            shape,
            train,
            suite.corpus.sequence_length,
            machine.layout,
            steps=run.steps,
            checkpoints=checkpoints,
            devices=machine.devices,
            device=device,
        )
        disk += needs.disk
        arm = suite.arms[run.name.arm]
        begins = f"{run.parent} @ {run.shared_steps}" if run.parent else arm.init or ""
        if arm.parent and not run.parent:
            begins = f"weights of {replace(run.name, arm=arm.parent)}"
        cells = (f"{run.parameters / 1e6:,.1f} M", run.steps, token_text(run.tokens), begins)
        hours = f"{run.flops / rate / 3600:,.2f}"
        rows.append((run.name, *cells, f"{run.flops:.2g}", hours, size_text(needs.memory)))
    columns = ("run", "parameters", "steps", "tokens", "from", "FLOP", "GPU hours" if gpus else "core hours", "memory")
    console.table(columns, _draws_together(rows), numeric=(1, 2, 3, 5, 6, 7))
    told = "by the exposures" if exact else "by the phases: at least this, exact once the exposures are there"
    sharing = f" ({told})" if any(run.parent for run in runs) else ""
    console.say(f"\n{tree_remark(runs)}{sharing} · about {size_text(disk)} of disk for checkpoints\n")
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
        "\nSmallest effects found with 80 % power (sd: standard deviations of treated − control over records; turn right: "
        "least share of 0/1 answers):"
    )
    headers, power = power_table(suite, pilot)
    console.table(headers, power)
    for warning in [*verdict_notes(suite), *rotation_notes(suite), *factor_notes(suite), *warnings]:
        console.say(f"note: {warning}")
