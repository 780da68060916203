"""The run tree: as few steps as any, every checkpoint that a run wants, and a kept one where each branch begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from costar.core.design import TrainDesign
from costar.core.models import presets
from costar.core.schedule import lr_at
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.insertion.overlay import Edits
from costar.train.config import RunConfig
from costar.train.launch import plan_runs
from costar.train.tree import Branch, first_difference, plan_branches, plan_tree
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.designs import run_config, train_design


def edits(entries: Mapping[int, int]) -> Edits:
    """Edits of `value + 1` tokens at each slot: {slot: value}."""
    slots = np.array(sorted(entries), np.int64)
    values = np.array([entries[slot] for slot in slots], np.int64)
    offsets = np.concatenate([[0], np.cumsum(values + 1)])
    return Edits(slots, np.ones_like(slots), offsets, np.repeat(values, values + 1).astype(np.int32))


ENTRIES = st.dictionaries(st.integers(0, 29), st.integers(0, 2), max_size=12)
DESIGN = train_design(steps=400, batch=2, lr=1e-2, warmup=2, every=100)


@given(ENTRIES, ENTRIES, st.integers(1, 30))
def test_first_difference_is_the_first_slot_that_reads_differently(
    a: dict[int, int], b: dict[int, int], slots: int
) -> None:
    expected = next((slot for slot in range(slots) if a.get(slot) != b.get(slot)), slots)
    for begin in {0, expected // 2, expected}:
        assert first_difference(edits(a), edits(b), slots, begin) == expected


@given(st.integers(0, 2999), st.integers(0, 2))
def test_a_difference_far_into_many_edits_is_found_whatever_it_is(number: int, what: int) -> None:
    slots = np.arange(3000, dtype=np.int64) * 2
    one = Edits(slots, np.ones_like(slots), np.arange(3001) * 3, np.arange(9000, dtype=np.int32))
    parts = [one.slots.copy(), one.begins.copy(), one.payload.copy()]
    parts[what][3 * number + 2 if what == 2 else number] += 1
    other = Edits(parts[0], parts[1], one.offsets, parts[2])
    assert first_difference(one, other, 10_000) == first_difference(other, one, 10_000) == 2 * number
    assert first_difference(one, one, 10_000) == 10_000


def config(run: str, train: TrainDesign, checkpoints: Sequence[int] = (), **changes: object) -> RunConfig:
    return run_config(run, train=train, checkpoints=tuple(checkpoints), **changes)


Planned = tuple[list[RunConfig], dict[str, Edits], dict[str, dict[int, int]]]


@st.composite
def suites(draw: st.DrawFn, *, most: int = 8, longest: int = 400) -> Planned:
    """Runs of a few budgets, schedules and seeds whose edits leave a few trunks here and there."""
    steps = st.sampled_from([longest // 2, longest // 2 + 3, longest])
    slot = st.sampled_from(
        sorted({0, 7, longest // 3, longest // 3 + 2, longest // 2, longest, longest + 5, 2 * longest - 1})
    )
    configs, entries = [], {}
    for number in range(draw(st.integers(1, most))):
        budget = draw(steps)
        schedule = draw(st.sampled_from(["constant", "constant", "wsd", "cosine"]))
        train = replace(DESIGN, steps=budget, schedule=schedule, decay=budget // 5 if schedule == "wsd" else 0)
        wanted = {budget, *draw(st.sets(st.integers(0, budget), max_size=3))}
        run = f"r{number}"
        configs.append(config(run, train, sorted(wanted), seed=draw(st.sampled_from([1, 1, 1, 2]))))
        found = draw(st.dictionaries(slot, st.integers(0, 1), max_size=4))
        entries[run] = {at: value for at, value in found.items() if at < train.slots}
    return configs, {run: edits(found) for run, found in entries.items()}, entries


def steps_of(config: RunConfig, entries: Mapping[int, int]) -> list[tuple[object, ...]]:
    """A run as the string of its steps: the rate of each, and what it reads."""
    batch = config.train.batch
    rows = [
        tuple(entries.get(slot) for slot in range(step * batch, (step + 1) * batch))
        for step in range(config.train.steps)
    ]
    return [(config.seed, lr_at(config.train, step), row) for step, row in enumerate(rows)]


def least_steps(configs: Sequence[RunConfig], entries: Mapping[str, Mapping[int, int]]) -> int:
    """The number of distinct beginnings of runs: no schedule of shared training can have fewer steps."""
    nodes: dict[tuple[int, tuple[object, ...]], int] = {}
    for each in configs:
        node = 0
        for symbol in steps_of(each, entries[each.run]):
            node = nodes.setdefault((node, symbol), len(nodes) + 1)
    return len(nodes)


@settings(max_examples=60)
@given(suites())
def test_the_tree_trains_as_few_steps_as_any_in_whatever_order_arms_are_listed(planned: Planned) -> None:
    configs, read, entries = planned
    least = least_steps(configs, entries)
    for order in (configs, configs[::-1]):
        branches = plan_branches(order, read)
        assert sum(each.train.steps - branches[each.run].step for each in order) == least
        for each in order:
            parent, step = branches[each.run].parent, branches[each.run].step
            if parent:
                other = next(c for c in configs if c.run == parent)
                assert steps_of(each, entries[each.run])[:step] == steps_of(other, entries[parent])[:step]
                assert branches[parent].step < step


def owner_of(grown: Mapping[str, RunConfig], run: str, step: int) -> RunConfig:
    """The run that writes a checkpoint of a run, found as training and the manifest find it."""
    found = grown[run]
    while found.parent_run and step <= found.branch_step:
        found = grown[found.parent_run]
    return found


@settings(max_examples=60)
@given(suites())
def test_every_run_begins_at_a_kept_checkpoint_and_replays_at_most_a_hundredth(planned: Planned) -> None:
    configs, read, _ = planned
    branches = plan_branches(configs, read)
    grown = {each.run: each for each in plan_tree(configs, read)}
    for run, each in grown.items():
        assert 0 <= branches[run].step - each.branch_step <= each.train.steps // 100
        assert not set(each.branches) & set(each.checkpoints)
        if each.parent_run:
            parent = grown[each.parent_run]
            assert each.branch_step in parent.kept
            assert each.branch_step > parent.branch_step
    begins = {(each.parent_run, each.branch_step) for each in grown.values()}
    assert all((run, step) in begins for run, each in grown.items() for step in each.branches)


@settings(max_examples=60)
@given(suites())
def test_every_checkpoint_that_a_run_wants_is_kept_by_whoever_trains_that_step(planned: Planned) -> None:
    configs, read, _ = planned
    grown = {each.run: each for each in plan_tree(configs, read)}
    for each in configs:
        for step in each.checkpoints:
            assert step in owner_of(grown, each.run, step).checkpoints


def test_branches_close_behind_a_kept_checkpoint_begin_there() -> None:
    at = {"trunk": 800, "a": 402, "b": 404, "c": 420, "d": 3}  # slots of the first edit, two a step
    configs = [config(run, DESIGN, [100, 200, 400]) for run in at]
    grown = {each.run: each for each in plan_tree(configs, {run: edits({slot: 1}) for run, slot in at.items()})}
    assert {run: (each.parent_run, each.branch_step) for run, each in grown.items()} == {
        "trunk": (None, 0),
        "a": ("trunk", 200),  # a permanent one
        "b": ("trunk", 200),
        "c": ("trunk", 210),  # more than a hundredth of 400 steps after it
        "d": (None, 0),  # initialization is as good
    }
    assert grown["trunk"].branches == (210,)
    assert grown["trunk"].checkpoints == (100, 200, 400)
    assert grown["d"].checkpoints == (100, 200, 400)


def test_a_shorter_run_that_nothing_tells_apart_is_inherited_wholly_and_measured_at_its_own_steps() -> None:
    long, short = config("long", DESIGN, [400]), config("short", replace(DESIGN, steps=150), [50, 150])
    read = {run: edits({}) for run in ("long", "short")}
    grown = plan_tree([long, short], read)
    assert (grown[1].parent_run, grown[1].branch_step, grown[1].checkpoints) == ("long", 150, ())
    assert grown[0].checkpoints == (50, 150, 400)
    grown = plan_tree([short, long], read)
    assert (grown[1].parent_run, grown[1].branch_step, grown[1].checkpoints) == ("short", 150, (400,))


def test_a_run_added_later_begins_where_those_already_trained_left_something() -> None:
    at = {"old": 800, "child": 400, "new": 500}
    configs = {run: config(run, DESIGN, [400]) for run in at}
    read = {run: edits({slot: 1}) for run, slot in at.items()}
    old, child = plan_tree([configs["old"], configs["child"]], read)
    assert (old.branches, child.parent_run, child.branch_step) == ((200,), "old", 200)
    begun = {"old": old, "child": child}
    order = [configs["new"], configs["old"], configs["child"]]

    def new(finished: Mapping[str, Sequence[int]]) -> tuple[Branch, tuple[int, ...]]:
        grown = {each.run: each for each in plan_tree(order, read, begun, finished)}
        assert grown["child"] == child
        return Branch(grown["new"].parent_run, grown["new"].branch_step), grown["old"].branches

    assert new({"old": [200], "child": [400]}) == (Branch("old", 250), (200, 250))
    assert new({"old": [200, 400], "child": [400]}) == (Branch("old", 200), (200,))
    assert new({"old": [200, 230, 400], "child": [400]}) == (Branch("old", 230), (200, 230))
    assert new({"old": [400], "child": [400]}) == (Branch(None, 0), (200,))


def test_a_parent_that_lost_its_checkpoints_does_not_become_a_child_of_its_child() -> None:
    configs = [config(run, DESIGN, [400]) for run in ("old", "child")]
    read = {"old": edits({}), "child": edits({400: 1})}
    begun = {each.run: each for each in plan_tree(configs, read)}
    grown = plan_tree(configs, read, begun, {"old": [], "child": [400]})
    assert [each.parent_run for each in grown] == [None, "old"]


def test_anything_but_rates_and_edits_that_differs_keeps_runs_apart() -> None:
    one, same = config("one", DESIGN), config("two", DESIGN)
    read = {"one": edits({}), "two": edits({})}
    assert plan_branches([one, same], read)["two"] == Branch("one", 400)
    apart = [
        replace(same, model="other"),
        replace(same, draw=1),
        replace(same, tokens_sha256="x"),
        replace(same, shape=presets()["15m"].shape(512)),
        replace(same, train=replace(DESIGN, weight_decay=0.2)),
        replace(same, train=replace(DESIGN, optimizer="muon")),
        replace(same, train=replace(DESIGN, batch=4)),
        replace(same, train=replace(DESIGN, lr=2e-2)),
    ]
    for other in apart:
        assert plan_branches([one, other], read)["two"] == Branch(None, 0)


def test_the_tree_of_a_built_suite_is_the_one_of_its_exposures(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    configs = {config.arm: config for config in plan_runs(suite, Workspace(built), suite.runs())}
    late = configs["late"]
    assert (late.parent_run, late.branch_step) == ("standard.nano.d0", 48)
    assert 48 in configs["standard"].checkpoints
    assert configs["perturbed"].parent_run is None
    assert all(step > 48 for step in late.checkpoints)
