"""What records get in an arm: levels that rotate, factors that are divided within a level, and both for whole clusters."""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.insertion import recount
from costar.insertion.assignment import Assigner
from costar.insertion.levels import Cluster, assign_levels, divide_evenly
from costar.manifests.tables import RECORDS
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small import SUITE

FOUR = [("early", "start"), ("early", "end"), ("late", "start"), ("late", "end")]


def clusters(sizes: list[int]) -> list[Cluster]:
    return [Cluster(name=f"c{i}", stratum="all", size=size) for i, size in enumerate(sizes)]


@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 99))
def test_over_n_turns_of_n_equal_levels_every_record_has_every_level_once(parts: int, each: int, seed: int) -> None:
    """A Latin square."""
    members = clusters([1] * (parts * each))
    levels = {4**part: each for part in range(parts)}
    seen = defaultdict(list)
    for turn in range(parts):
        assigned = assign_levels(members, levels, key=(seed, 0, "p"), place="", turn=Fraction(turn, parts))
        assert Counter(assigned.values()) == Counter(levels)
        for name, level in assigned.items():
            seen[name].append(level)
    assert all(sorted(found) == sorted(levels) for found in seen.values())


@given(st.integers(1, 30), st.integers(0, 99))
def test_half_a_turn_swaps_held_out_and_inserted_halves(each: int, seed: int) -> None:
    members = clusters([1] * (2 * each))
    turns = [
        assign_levels(members, {0: each, 4: each}, key=(seed, 0, "p"), place="", turn=Fraction(k, 2)) for k in (0, 1)
    ]
    assert all(turns[0][name] != turns[1][name] for name in turns[0])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=40), st.integers(1, 6), st.integers(0, 99))
def test_parts_are_as_equal_as_whole_clusters_allow(sizes: list[int], parts: int, seed: int) -> None:
    members = clusters(sizes)
    assigned = divide_evenly(members, [(part,) for part in range(parts)], (seed, "factors"))
    held = Counter(dict.fromkeys(range(parts), 0))
    for cluster in members:
        held[assigned[cluster.name]] += cluster.size
    assert max(held.values()) - min(held.values()) <= max(2 * max(sizes) - 1, 1)
    if max(sizes) == 1:
        assert max(held.values()) - min(held.values()) <= 1


def records(count: int, per_cluster: int = 1) -> pa.Table:
    rows = [
        dict.fromkeys(RECORDS.names, "")
        | {
            "record_id": f"passages/{i:04d}",
            "perturbation": "passages",
            "role": "main",
            "cluster_id": f"c{i // per_cluster}",
            "n_tokens": 10 + i % 7,
            "n_bytes": 40,
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, RECORDS)


ARMS = """
[arm.standard]
perturbations = []
[arm.perturbed]
[arm.factorial]
factors = { phase = [[0, 0.5], [0.5, 1]], position = ["start", "end"] }
[arm.swapped]
assignment = "swap"
factors = { spacing = ["even", "burst"] }
[train]
steps = 400
batch = 8
lr = 1e-3
"""


def assigner(tmp_path: Path, levels: str, count: int, per_cluster: int = 1) -> Assigner:
    """Passages only, over three arms."""
    head = SUITE[: SUITE.index("[perturbation.quizzes]")].replace("{ 0 = 20, 1 = 12, 14 = 12 }", levels)
    path = tmp_path / "case.toml"
    path.write_text(head + ARMS)
    return Assigner(load_suite(path), records(count, per_cluster))


def test_factors_are_crossed_and_divided_evenly_within_every_level(tmp_path: Path) -> None:
    case = assigner(tmp_path, "{ 0 = 40, 1 = 24, 4 = 17 }", 81)
    table = case.table(case.suite.arms["factorial"], 0).to_pylist()
    cells = Counter((r["level"], r["phase_start"], r["position"]) for r in table)
    for level, count in ((0, 40), (1, 24), (4, 17)):
        found = [cells[(level, start, position)] for start in ("0", "1/2") for position in ("start", "end")]
        assert sum(found) == count
        assert max(found) - min(found) <= 1


def test_an_arm_with_factors_has_the_levels_of_the_suite_and_a_rotated_one_its_own(tmp_path: Path) -> None:
    case = assigner(tmp_path, "{ 0 = 40, 1 = 20, 4 = 20 }", 80)
    levels = {name: case.assignment(case.suite.arms[name], 0).level for name in case.suite.arms}
    assert np.array_equal(levels["perturbed"], levels["factorial"])
    assert np.array_equal(levels["perturbed"], levels["standard"])
    assert Counter(levels["swapped"].tolist()) == Counter(levels["perturbed"].tolist())
    assert ((levels["swapped"] == 0) != (levels["perturbed"] == 0)).all()


def test_clusters_share_level_and_factors(tmp_path: Path) -> None:
    case = assigner(tmp_path, "{ 0 = 40, 2 = 24 }", 64, per_cluster=4)
    table = case.table(case.suite.arms["factorial"], 0).to_pylist()
    by_cluster = defaultdict(set)
    for number, row in enumerate(table):
        by_cluster[number // 4].add((row["level"], row["phase_start"], row["position"]))
    assert {len(found) for found in by_cluster.values()} == {1}


def test_draws_assign_independently(tmp_path: Path) -> None:
    case = assigner(tmp_path, "{ 0 = 40, 2 = 40 }", 80)
    arm = case.suite.arms["factorial"]
    one, other = case.assignment(arm, 0), case.assignment(arm, 1)
    assert 0.2 < (one.level != other.level).mean() < 0.8
    assert 0.4 < (one.part != other.part).mean() < 0.95


@settings(max_examples=20)
@given(st.integers(0, 60))
def test_a_record_more_changes_few_factors(tmp_path_factory: pytest.TempPathFactory, extra: int) -> None:
    members, key = clusters([1] * 60), (extra, "factors")
    before = divide_evenly(members, FOUR, key)
    after = divide_evenly([*members, Cluster(name="new", stratum="all", size=1)], FOUR, key)
    assert sum(before[name] != after[name] for name in before) <= 3
    names = recount.grouped([c.name for c in members], [c.name for c in members])
    assert recount.combinations_of(names, FOUR, key) == before


def test_which_combinations_get_a_record_more_is_drawn_and_keeps_every_factor_even() -> None:
    """Two records over 2 × 2 never share a phase or a position, and over draws every combination has its turn."""
    seen = Counter()
    for seed in range(60):
        parts = divide_evenly(clusters([1, 1]), FOUR, (seed, "factors")).values()
        first, second = (FOUR[part] for part in parts)
        assert first[0] != second[0]
        assert first[1] != second[1]
        seen.update(parts)
    assert min(seen[part] for part in range(4)) > 15


@given(st.lists(st.integers(1, 3), min_size=4, max_size=40), st.integers(0, 5), st.integers(0, 99))
def test_levels_agree_with_the_rule_in_words(sizes: list[int], turn: int, seed: int) -> None:
    members = [Cluster(name=f"c{i}", stratum=f"s{i % 3}", size=size) for i, size in enumerate(sizes)]
    total = sum(sizes)
    levels = {0: total - 2 * (total // 3), 1: total // 3, 4: total // 3}
    key, by_record = (seed, 0, "p"), {c.name: [f"{c.name}/{n}" for n in range(c.size)] for c in members}
    strata = {c.name: c.stratum for c in members}
    again = recount.levels_of(by_record, strata, levels, key, Fraction(turn, 6))
    try:
        assigned = assign_levels(members, levels, key=key, place="", turn=Fraction(turn, 6))
    except CostarError:
        assert -1 in again.values()
        return
    assert again == {record: assigned[name] for name, records in by_record.items() for record in records}


def test_levels_that_do_not_fit_whole_clusters_are_refused(tmp_path: Path) -> None:
    case = assigner(tmp_path, "{ 0 = 61, 2 = 3 }", 64, per_cluster=4)
    with pytest.raises(CostarError, match="cluster 'c"):
        case.assignment(case.suite.arms["perturbed"], 0)
