"""Which slot a copy takes: deferred acceptance over the whole roster of a suite.

The roster holds every copy of every perturbation with its phase, whether or not an arm inserts it. Each copy proposes
slots in an order that is its own; a slot keeps the copy of the least rank, and the others propose again. The result
does not depend on the order of the proposals, so an arm is a filter of its roster and nothing else moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..core.design import ArmDesign, Phase, Suite, phase_slots
from ..core.errors import CostarError
from ..core.hashing import U64, keyed_hash, keyed_hashes, mix64, mulhi64

WALK = 64
RANK_SALT = 0xFFFF_FFFF_FFFF_FFFF
WALK_SALT = 0xFFFF_FFFF_FFFF_FFFE
STRIDE_SALT = 0xFFFF_FFFF_FFFF_FFFD
POSITION_SALT = 0xFFFF_FFFF_FFFF_FFFC
SPACING_SALT = 0xFFFF_FFFF_FFFF_FFFB
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ divided by the golden ratio


@dataclass(frozen=True)
class Roster:
    """Copies in the order of their ranks: record number, copy number, key, the uint64 behind the first proposal, and the
    slots [lo, hi) of their phase."""

    record: NDArray[np.int32]
    copy: NDArray[np.int32]
    key: U64
    first: U64
    lo: NDArray[np.int32]
    hi: NDArray[np.int32]


def record_keys(seed: int, draw: int, record_ids: Iterable[str]) -> U64:
    """`record_key` of every record [n]."""
    return np.array(keyed_hashes((seed, draw, "record"), record_ids), np.uint64)


def record_key(seed: int, draw: int, record_id: str) -> int:
    """h of a record: nothing of an arm, level, phase or budget is in it."""
    return keyed_hash(seed, draw, "record", record_id)


@dataclass(frozen=True)
class Copies:
    """Every copy of a suite's records, by the order of their perturbations, then by keyed hash: record number, copy
    number, key, hash of the record. Arms that share an assignment share it."""

    record: NDArray[np.int32]
    copy: NDArray[np.int32]
    key: U64
    record_hash: U64


def sorted_copies(
    record_ids: Sequence[str], ordinals: NDArray[np.int64], levels: NDArray[np.int64], *, seed: int, draw: int
) -> Copies:
    """The copies of the records given (arrays [records]): ordinal, mix64(key, "rank"), record id, copy."""
    hashes = record_keys(seed, draw, record_ids)
    by_id = pc.sort_indices(pa.array(record_ids, pa.string())).to_numpy().astype(np.int32)
    each = levels[by_id]
    record = np.repeat(by_id, each)
    copy = (np.arange(len(record)) - np.repeat(np.cumsum(each) - each, each)).astype(np.int32)
    key = mix64(hashes[record], copy.astype(np.uint64))
    order = stable_order(mix64(key, RANK_SALT))
    order = order[np.argsort(ordinals[record[order]].astype(np.uint16), kind="stable")]
    record = record[order]
    return Copies(record=record, copy=copy[order], key=key[order], record_hash=hashes[record])


def stable_order(values: U64) -> NDArray[np.int64]:
    """A stable argsort: the fast unstable one, unless two of the values are equal."""
    order = np.argsort(values)
    ordered = values[order]
    return np.argsort(values, kind="stable") if (ordered[1:] == ordered[:-1]).any() else order


def make_roster(copies: Copies, lo: NDArray[np.int64], hi: NDArray[np.int64], spacing: NDArray[np.object_]) -> Roster:
    """Copies in the order of their ranks, narrow phases first; `lo`, `hi` and `spacing` are per record."""
    widths = hi - lo
    record, copy, key, hashes = copies.record, copies.copy, copies.key, copies.record_hash
    sizes, size = np.unique(widths, return_inverse=True)
    if len(sizes) > 1:
        order = np.argsort(size[record].astype(np.uint16), kind="stable")
        record, copy, key, hashes = record[order], copy[order], key[order], hashes[order]
    first = first_proposals(key, hashes, copy, spacing, record)
    low, high = (end.astype(np.int32)[record] for end in (lo, hi))  # a run has fewer than 2³¹ slots
    return Roster(record=record, copy=copy, key=key, first=first, lo=low, hi=high)


def first_proposals(
    key: U64, record_hash: U64, copy: NDArray[np.int32], spacing: NDArray[np.object_], record: NDArray[np.int32]
) -> U64:
    """The uint64 u behind each copy's first proposal, lo + mulhi64(u, width): spacing is nothing but this choice.

    `uniform`: a hash of the copy. `even`: a hash of the record plus copy · φ modulo 1, so that copies keep apart.
    `burst`: a centre of the record plus a small hash, so that copies fall within a 32nd of the phase. `spacing` is per
    record, the other arrays per copy.
    """
    first = mix64(key, 0)
    for name in ("even", "burst"):
        chosen = np.flatnonzero((spacing == name)[record])
        if len(chosen):
            centre = mix64(record_hash[chosen], SPACING_SALT)
            with np.errstate(over="ignore"):
                even = centre + copy[chosen].astype(np.uint64) * GOLDEN
            near = centre - (centre >> np.uint64(5)) + (first[chosen] >> np.uint64(5))  # stays below 2⁶⁴
            first[chosen] = even if name == "even" else near
    return first


def proposals(
    key: U64, first: U64, lo: NDArray[np.int32], hi: NDArray[np.int32], attempt: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The slot that each copy proposes at an attempt: hashes first, from the 64th on a walk that meets every slot."""
    width = (hi - lo).astype(np.uint64)
    slots = mulhi64(np.where(attempt == 0, first, mix64(key, attempt.astype(np.uint64))), width)
    late = np.flatnonzero(attempt >= WALK)
    if len(late):
        w, k = width[late], key[late]
        start = mulhi64(mix64(k, WALK_SALT), w)
        stride = mulhi64(mix64(k, STRIDE_SALT), w)
        while (shared := np.flatnonzero(np.gcd(stride, w) != 1)).size:
            stride[shared] = (stride[shared] + np.uint64(1)) % w[shared]
        # steps · stride stays below 2⁶⁴ as long as a phase has at most 2³² slots
        steps = (attempt[late] - WALK).astype(np.uint64) % w
        slots[late] = (start + steps * stride % w) % w
    found: NDArray[np.int64] = slots.astype(np.int64) + lo
    return found


def place(roster: Roster, slots: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Slot and attempt of every copy of a roster, over slots [0, slots). The copies are in rank order already."""
    count = len(roster.record)
    owner = np.full(slots, count, np.int32)
    attempt = np.zeros(count, np.int64)
    slot = np.full(count, -1, np.int64)
    active = np.arange(count, dtype=np.int32)
    while len(active):
        wanted = proposals(
            roster.key[active], roster.first[active], roster.lo[active], roster.hi[active], attempt[active]
        )
        before = owner[wanted]
        np.minimum.at(owner, wanted, active)
        after = owner[wanted]
        won = after == active
        slot[active[won]] = wanted[won]
        evicted = np.unique(before[(before != after) & (before < count)])
        refused = np.concatenate([active[~won], evicted])
        attempt[refused] += 1
        active = np.unique(refused)
    return slot, attempt


def position_target(key: U64, room: NDArray[np.int64], position: NDArray[np.object_]) -> NDArray[np.int64]:
    """Position targets in [1, room]: the start, the middle, the end, or by keyed hash (balanced)."""
    balanced = 1 + mulhi64(mix64(key, POSITION_SALT), room.astype(np.uint64)).astype(np.int64)
    fixed = {"start": np.ones_like(room), "middle": (room + 1) // 2, "end": room}
    return np.select([position == name for name in fixed], list(fixed.values()), balanced)


def check_load(arm: ArmDesign, copies: Mapping[tuple[str, Phase], int], place_name: str) -> list[str]:
    """Check that a roster fits its slots (Hall's condition); the warnings where a phase is over half full.

    `copies` counts the roster by perturbation and phase.

    Raises:
        CostarError: some stretch of training has more copies than slots.
    """
    bounds = {group: phase_slots(group[1], arm.train.slots) for group in copies}
    for (name, _), (lo, hi) in bounds.items():
        if hi <= lo:
            raise CostarError(
                place_name,
                found=f"a phase of {name!r} without a slot",
                expected="at least one slot",
                mend="widen the phase or lengthen the run",
            )
    warnings = []
    starts = sorted({lo for lo, _ in bounds.values()})
    ends = sorted({hi for _, hi in bounds.values()})
    for a in starts:
        for b in ends:
            inside = [group for group, (lo, hi) in bounds.items() if a <= lo and hi <= b]
            load = sum(copies[group] for group in inside)
            if b > a and load > b - a:
                names = ", ".join(dict.fromkeys(name for name, _ in inside))
                raise CostarError(
                    place_name,
                    found=f"{load:,} copies of {names} in the {b - a:,} slots from {a:,}",
                    expected=f"at most {b - a:,}, one copy a slot",
                    mend="lower the levels, widen the phase, train for more steps, or take a perturbation out of the suite",
                )
            if b > a and load > (b - a) / 2:
                warnings.append(
                    f"{place_name}: {load / (b - a):.0%} of slots {a:,} to {b:,} carry a copy; half is a good limit"
                )
    return warnings


def planned_copies(suite: Suite, arm: ArmDesign) -> dict[tuple[str, Phase], int]:
    """The roster of an arm by perturbation and phase, from the suite file alone, before the draw: each cohort as large as it
    may become."""
    counts: dict[tuple[str, Phase], int] = {}
    for name, design in suite.perturbations.items():
        factors = arm.factors[name]
        for level, records in design.levels.items():
            for phase in arm.phases(name):
                share = -(-records * sum(each.phase == phase for each in factors) // len(factors))
                if level * share:
                    counts[(name, phase)] = counts.get((name, phase), 0) + level * share
    return counts


def check_suite(suite: Suite) -> list[str]:
    """`check_load` for every arm, from the suite file alone."""
    warnings: list[str] = []
    for arm in suite.arms.values():
        if arm.inserted:
            warnings += check_load(arm, planned_copies(suite, arm), f"[arm.{arm.name}]")
    return sorted(set(warnings), key=warnings.index)
