from __future__ import annotations

from pathlib import Path

import numpy as np
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.insertion.overlay import Edits
from costar.train.launch import plan_runs
from costar.train.tree import first_difference
from hypothesis import given
from hypothesis import strategies as st


def edits(entries: list[tuple[int, int]]) -> Edits:
    """Edits of one token at (slot, value)."""
    entries = sorted(entries)
    slots, values = (np.array([e[k] for e in entries], np.int64) for k in (0, 1))
    return Edits(slots, np.ones_like(slots), np.arange(len(slots) + 1), values)


ENTRIES = st.dictionaries(st.integers(0, 29), st.integers(0, 2), max_size=12)


@given(ENTRIES, ENTRIES)
def test_first_difference_is_the_first_slot_that_reads_differently(a: dict[int, int], b: dict[int, int]) -> None:
    expected = next((slot for slot in range(30) if a.get(slot) != b.get(slot)), 30)
    assert first_difference(edits(list(a.items())), edits(list(b.items())), 30) == expected


def test_the_tree_of_a_built_suite_is_the_one_of_its_exposures(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    configs = {config.arm: config for config in plan_runs(suite, Workspace(built), suite.runs())}
    late = configs["late"]
    assert (late.parent_run, late.branch_step) == ("standard.nano.d0", 48)
    assert 48 in configs["standard"].checkpoints
    assert configs["perturbed"].parent_run is None
    assert all(step > 48 for step in late.checkpoints)
