from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from costar.core.design import ArmDesign, phase_slots
from costar.core.errors import CostarError
from costar.core.hashing import mix64
from costar.core.suite import find_suite, load_suite
from costar.insertion import reference
from costar.insertion.placement import (
    Roster,
    check_load,
    first_proposals,
    make_roster,
    place,
    position_target,
    proposals,
    record_key,
    sorted_copies,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.insertion import oracle

Placed = dict[tuple[str, int], int]


def roster(records: list[tuple[str, int, int, int, int]]) -> tuple[list[str], Roster]:
    """A roster of (record, ordinal, level, lo, hi)."""
    ids = [r[0] for r in records]
    ordinals, levels, lo, hi = (np.array([r[k] for r in records], np.int64) for k in (1, 2, 3, 4))
    copies = sorted_copies(ids, ordinals, levels, seed=5, draw=0)
    return ids, make_roster(copies, lo, hi, np.full(len(ids), "uniform", object))


def placed(records: list[tuple[str, int, int, int, int]], slots: int) -> Placed:
    ids, entries = roster(records)
    where, _ = place(entries, slots)
    return {(ids[r], c): int(s) for r, c, s in zip(entries.record.tolist(), entries.copy.tolist(), where)}


@st.composite
def suites(draw: st.DrawFn) -> tuple[list[tuple[str, int, int, int, int]], int]:
    """Records in up to three phases, at most full."""
    slots = draw(st.integers(20, 200))
    third = slots // 3
    phases = draw(
        st.lists(st.sampled_from([(0, slots), (0, third), (third, 2 * third)]), min_size=1, max_size=3, unique=True)
    )
    records: list[tuple[str, int, int, int, int]] = []
    for ordinal, (lo, hi) in enumerate(phases):
        room = (hi - lo) // len(phases)
        while room > 0 and draw(st.booleans()):
            level = draw(st.integers(1, room))
            records.append((f"p{ordinal}/{len(records)}", ordinal, level, lo, hi))
            room -= level
    return records, slots


@settings(max_examples=60)
@given(suites())
def test_slots_are_distinct_inside_the_phase_and_certified(
    case: tuple[list[tuple[str, int, int, int, int]], int],
) -> None:
    records, slots = case
    ids, entries = roster(records)
    where, attempts = place(entries, slots)
    assert len(set(where.tolist())) == len(where)
    holder = {int(s): i for i, s in enumerate(where)}
    for i, (r, c) in enumerate(zip(entries.record.tolist(), entries.copy.tolist())):
        _, _, _, lo, hi = records[r]
        key = oracle.mix(record_key(5, 0, ids[r]), c)
        first = oracle.first_proposal(key, record_key(5, 0, ids[r]), c, "uniform")
        assert lo <= where[i] < hi
        assert oracle.proposal(key, first, lo, hi, int(attempts[i])) == where[i]
        for earlier in range(int(attempts[i])):
            assert holder[oracle.proposal(key, first, lo, hi, earlier)] < i


@settings(max_examples=40)
@given(suites(), st.randoms())
def test_the_order_of_the_records_does_not_matter(
    case: tuple[list[tuple[str, int, int, int, int]], int], random: object
) -> None:
    records, slots = case
    shuffled = list(records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert placed(records, slots) == placed(shuffled, slots)


def test_a_full_phase_is_filled_to_the_last_slot() -> None:
    where = placed([("a", 0, 40, 0, 64), ("b", 0, 24, 0, 64)], 64)
    assert sorted(where.values()) == list(range(64))


def test_an_added_record_moves_only_copies_that_it_outranks_and_few_of_them() -> None:
    records = [(f"p/{i}", 0, 4, 0, 2000) for i in range(150)]
    before, after = placed(records, 2000), placed([*records, ("p/new", 0, 4, 0, 2000)], 2000)
    moved = [key for key in before if before[key] != after[key]]
    assert len(moved) <= 8
    ids, entries = roster([*records, ("p/new", 0, 4, 0, 2000)])
    ranks = {(ids[r], c): i for i, (r, c) in enumerate(zip(entries.record.tolist(), entries.copy.tolist()))}
    strongest = min(ranks[("p/new", c)] for c in range(4))
    assert all(ranks[key] > strongest for key in moved)


def test_the_same_copy_has_the_same_relative_time_in_every_phase_and_budget() -> None:
    key = np.array([oracle.mix(record_key(5, 0, f"r{i}"), i) for i in range(200)], np.uint64)
    zero = np.zeros(200, np.int64)
    first = mix64(key, 0)
    whole = proposals(key, first, zero, zero + 10_000, zero) / 10_000
    half = proposals(key, first, zero + 5_000, zero + 10_000, zero) - 5_000
    longer = proposals(key, first, zero, zero + 50_000, zero) / 50_000
    assert np.abs(whole - half / 5_000).max() < 1e-3
    assert np.abs(whole - longer).max() < 1e-3


@given(st.integers(1, 200), st.integers(0, 2**64 - 1))
def test_proposals_meet_every_slot(width: int, key: int) -> None:
    attempts = np.arange(64 + width)
    array = np.full(len(attempts), key, np.uint64)
    lo = np.full(len(attempts), 7)
    slots = proposals(array, mix64(array, 0), lo, lo + width, attempts)
    assert set(slots[64:].tolist()) == set(range(7, 7 + width))
    assert [oracle.proposal(key, oracle.mix(key, 0), 7, 7 + width, int(a)) for a in attempts] == slots.tolist()
    one, low = array[:1], lo[:1]
    again = [reference.proposals(one, mix64(one, 0), low, low + width, int(a))[0] for a in attempts[::7]]
    assert again == slots[::7].tolist()


LATE = (Fraction(1, 2), Fraction(1))


def late() -> ArmDesign:
    return load_suite(find_suite("demo")).arms["late"]


def test_more_copies_than_slots_are_refused_with_both_numbers() -> None:
    with pytest.raises(
        CostarError, match="3,000 copies of passages in the 2,928 slots from 2,928\n  expected  at most 2,928"
    ):
        check_load(late(), {("passages", LATE): 3000}, "[arm.late]")


def test_crossing_phases_that_cannot_be_filled_are_refused() -> None:
    """Each alone fits, together they do not (Hall's condition)."""
    arm, half, quarter = late(), (Fraction(0), Fraction(1, 2)), (Fraction(0), Fraction(1, 4))
    slots = phase_slots(quarter, arm.train.slots)[1]
    check_load(arm, {("a", quarter): slots, ("b", half): slots}, "here")
    with pytest.raises(CostarError, match="copies of a, b, c"):
        check_load(arm, {("a", quarter): slots - 10, ("b", half): slots + 1, ("c", quarter): 10}, "here")


def test_above_half_load_is_a_warning() -> None:
    assert check_load(late(), {("passages", LATE): 1464}, "x") == []
    assert "half is a good limit" in check_load(late(), {("passages", LATE): 1465}, "x")[0]


@given(st.integers(0, 2**64 - 1), st.integers(0, 300), st.sampled_from(["uniform", "even", "burst"]))
def test_first_proposals_agree_with_plain_integers(record_hash: int, copy: int, spacing: str) -> None:
    key = oracle.mix(record_hash, copy)
    keys, hashes = (np.array([value], np.uint64) for value in (key, record_hash))
    copies, names = np.array([copy]), np.array([spacing], object)
    expected = oracle.first_proposal(key, record_hash, copy, spacing)
    assert int(first_proposals(keys, hashes, copies, names, np.array([0]))[0]) == expected
    assert int(reference.first_proposals(keys, hashes, copies, names)[0]) == expected


def gaps(spacing: str) -> np.ndarray:
    """Distances between the neighbouring copies of each of 200 records with 16 copies in 100,000 slots."""
    zero = np.zeros(200, np.int64)
    ids = [f"r{i}" for i in range(200)]
    copies = sorted_copies(ids, zero, zero + 16, seed=1, draw=0)
    entries = make_roster(copies, zero, zero + 100_000, np.full(200, spacing, object))
    slots, _ = place(entries, 100_000)
    return np.array([np.diff(np.sort(slots[entries.record == record])) for record in range(200)])


def test_even_copies_keep_apart_and_bursts_keep_together() -> None:
    """Only the first proposal is spaced: the few copies that lose it fall back to a hash."""
    tenth = {spacing: np.quantile(gaps(spacing), 0.1) for spacing in ("even", "uniform")}
    assert tenth["even"] > 100_000 / 16 / 2 > 3 * tenth["uniform"]
    assert np.median(gaps("burst").sum(axis=1)) < 100_000 / 30


@given(st.integers(0, 2**64 - 1), st.integers(1, 2000))
def test_position_targets_are_in_range_and_agree_with_plain_integers(key: int, room: int) -> None:
    for position in ("balanced", "start", "middle", "end"):
        target = int(position_target(np.array([key], np.uint64), np.array([room]), np.array([position], object))[0])
        assert 1 <= target <= room
        assert target == oracle.position_target(key, room, position)
        names = np.array([position], object)
        assert target == reference.position_targets(np.array([key], np.uint64), np.array([room]), names)[0]
