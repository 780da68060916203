"""Proof of a placement: one assignment of slots alone satisfies it, so nothing is replayed to check it.

Slots are distinct and inside their phases, every copy sits at the proposal of its attempt, and each earlier proposal is
held by a copy of lower rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..core.hashing import U64
from . import reference
from .placement import RANK_SALT, record_key

SHOWN = 5  # problems of one kind that are listed one by one


@dataclass(frozen=True, kw_only=True)
class PlacedRoster:
    """A whole roster with its slots, from the files: per copy its record, copy number, slot and attempt, and per record
    (numbers into `ids`) its perturbation's ordinal, its phase [lo, hi) and its spacing."""

    ids: Sequence[str]
    ordinal: NDArray[np.int64]
    lo: NDArray[np.int64]
    hi: NDArray[np.int64]
    spacing: NDArray[np.object_]
    record: NDArray[np.int32]
    copy: NDArray[np.int32]
    slot: NDArray[np.int64]
    attempt: NDArray[np.int64]

    def name(self, number: Any) -> str:
        return f"{self.ids[self.record[number]]} copy {self.copy[number]}"


def keys_of(placed: PlacedRoster, seed: int, draw: int) -> tuple[U64, U64]:
    """The key of every copy and the hash of its record."""
    hashes = np.array([record_key(seed, draw, record_id) for record_id in placed.ids], np.uint64)[placed.record]
    return reference.mix(hashes, placed.copy.astype(np.uint64)), hashes


def certify(placed: PlacedRoster, seed: int, draw: int) -> Iterator[str]:
    """What is wrong with a placement; nothing if it is the one of the algorithm."""
    key, hashes = keys_of(placed, seed, draw)
    lo, hi = placed.lo[placed.record], placed.hi[placed.record]
    rank = _ranks(placed, key, hi - lo)
    by_slot = np.argsort(placed.slot, kind="stable")
    taken = placed.slot[by_slot]
    shared = np.flatnonzero(taken[1:] == taken[:-1])
    yield from _listed(
        shared, lambda i: f"{placed.name(by_slot[i])} and {placed.name(by_slot[i + 1])} share slot {taken[i]}"
    )
    outside = np.flatnonzero((placed.slot < lo) | (placed.slot >= hi))
    yield from _listed(
        outside, lambda i: f"{placed.name(i)} at slot {placed.slot[i]}, outside its phase {lo[i]} to {hi[i]}"
    )
    first = reference.first_proposals(key, hashes, placed.copy, placed.spacing[placed.record])
    for attempt in range(int(placed.attempt.max(initial=0)) + 1):
        now = np.flatnonzero(placed.attempt >= attempt)
        wanted = reference.proposals(key[now], first[now], lo[now], hi[now], attempt)
        here = placed.attempt[now] == attempt
        wrong = now[here & (wanted != placed.slot[now])]
        yield from _listed(
            wrong, lambda i: f"{placed.name(i)} at slot {placed.slot[i]} is not its proposal {placed.attempt[i]}"
        )
        refused, asked = now[~here], wanted[~here]
        found = np.minimum(np.searchsorted(taken, asked), len(taken) - 1)
        holder = by_slot[found]
        weak = refused[(taken[found] != asked) | (rank[holder] >= rank[refused])]
        yield from _listed(weak, lambda i: f"{placed.name(i)} was refused a slot without a stronger holder")


def _ranks(placed: PlacedRoster, key: U64, width: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rank of every copy: width of the phase, ordinal, keyed hash, record id, copy."""
    alphabetical = np.empty(len(placed.ids), np.int64)
    alphabetical[pc.sort_indices(pa.array(placed.ids, pa.string())).to_numpy()] = np.arange(len(placed.ids))
    keys = (
        placed.copy,
        alphabetical[placed.record],
        reference.mix(key, RANK_SALT),
        placed.ordinal[placed.record],
        width,
    )
    rank = np.empty(len(key), np.int64)
    rank[np.lexsort(keys)] = np.arange(len(key))
    return rank


def _listed(numbers: NDArray[np.int64], text: object) -> Iterator[str]:
    """The first few problems of a kind, and how many more there are."""
    assert callable(text)
    for number in numbers[:SHOWN].tolist():
        yield text(number)
    if len(numbers) > SHOWN:
        yield f"and {len(numbers) - SHOWN:,} more like this: {text(int(numbers[-1]))}"
