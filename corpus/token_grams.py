"""Runs of token ids that occur in a long stream: found by rolling hashes, then compared id by id.

A run of n ids x hashes to Σ xⱼ·C·Bʲ modulo 2⁶⁴ with odd B (Karp and Rabin 1987). As an odd B has an inverse, the hash of
any run, however long, is the difference of two prefix sums times a power of it: a further size costs two passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import U64, keyed_hash

BLOCK = 1 << 16  # tokens at a time: the arrays of a block stay in a processor's cache
SPARSE = 5  # a table of 2⁵ bits for each run lets one token in 2⁵ through by chance
Ids = NDArray[Any]  # of any integer type, as stored


@dataclass(frozen=True, kw_only=True)
class Grams:
    """Distinct runs of `size` ids: run g has `hashes[g]`, ascending, and stands at `places[ends[g] : ends[g + 1]]`.

    `table` is a bit for each value of the upper bits of a hash, behind `shift`: set where a run has it.
    """

    size: int
    hashes: U64
    places: NDArray[np.int64]
    ends: NDArray[np.int64]
    table: NDArray[np.uint8]
    shift: np.uint64

    @property
    def counts(self) -> NDArray[np.int64]:
        """At how many places each run stands."""
        return np.diff(self.ends)


@dataclass(frozen=True, kw_only=True)
class GramIndex:
    """Runs of several sizes in flat `ids`, ready to be looked for in a stream. Equal hashes mean equal ids."""

    ids: NDArray[np.int32]
    base: int
    grams: tuple[Grams, ...]


def index_grams(ids: NDArray[np.int32], places: Mapping[int, NDArray[np.int64]]) -> GramIndex:
    """Index the runs of flat ids that begin at `places[size]`, for every size.

    Two runs that differ and hash alike would hide each other, so another base is taken until none do.
    """
    for number in count():
        base = multiplier(number)
        found = [_grams(ids, starts, size, base) for size, starts in sorted(places.items()) if len(starts)]
        if all(each is not None for each in found):
            return GramIndex(ids=ids, base=base, grams=tuple(each for each in found if each is not None))
    raise AssertionError("count() does not end")


def multiplier(number: int) -> int:
    """The base of the hashes on the given try: odd, else it had no inverse."""
    return keyed_hash("token grams", number) | 1


def find_grams(
    tokens: Ids, begin: int, end: int, index: GramIndex
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Every run of the index that begins at a place in [begin, end) of a stream, in blocks.

    Yields (k, runs [n], places [n]): numbers of runs in `index.grams[k]` and where they stand, ascending. A run may reach
    over `end`. Memory is bounded by the block and the index, whatever the length of the stream.
    """
    longest = max((each.size for each in index.grams), default=0)
    for first, last, sums, inverse in _prefix_sums(tokens, begin, end, longest, index.base):
        for number, grams in enumerate(index.grams):
            size = min(last, len(tokens) - grams.size + 1) - first
            if size <= 0:
                continue
            hashes = (sums[grams.size : grams.size + size] - sums[:size]) * inverse[:size]
            upper = hashes >> grams.shift
            bits = grams.table[upper >> np.uint64(3)] >> (upper & np.uint64(7)).astype(np.uint8)
            maybe = np.flatnonzero(bits & np.uint8(1))
            runs = np.searchsorted(grams.hashes, hashes[maybe])
            runs = np.minimum(runs, len(grams.hashes) - 1)
            hit = grams.hashes[runs] == hashes[maybe]
            runs, places = runs[hit], maybe[hit] + first
            if len(runs):
                within = np.arange(grams.size)
                own = index.ids[grams.places[grams.ends[runs]][:, None] + within]
                same = (own == tokens[places[:, None] + within]).all(axis=1)
                yield number, runs[same], places[same]


def _grams(ids: NDArray[np.int32], places: NDArray[np.int64], size: int, base: int) -> Grams | None:
    """The distinct runs at the places; None where two that differ have one hash."""
    places = np.sort(places)
    parts = []
    for first, last, sums, inverse in _prefix_sums(ids, 0, len(ids), size, base):
        within = places[slice(*np.searchsorted(places, [first, last]))] - first
        parts.append((sums[within + size] - sums[within]) * inverse[within])
    hashes = np.concatenate(parts)
    order = np.argsort(hashes, kind="stable")
    hashes, places = hashes[order], places[order]
    changes = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    ends = np.append(changes, len(hashes))
    shared = np.repeat(np.diff(ends) > 1, np.diff(ends))
    own, others = np.repeat(places[changes], np.diff(ends))[shared], places[shared]
    if any((ids[own + offset] != ids[others + offset]).any() for offset in range(size)):
        return None
    hashes = hashes[changes]
    width = min(max(int(len(hashes) - 1).bit_length() + SPARSE, 8), 34)
    upper = hashes >> np.uint64(64 - width)
    table = np.zeros(1 << (width - 3), np.uint8)
    np.bitwise_or.at(table, upper >> np.uint64(3), np.uint8(1) << (upper & np.uint64(7)).astype(np.uint8))
    return Grams(size=size, hashes=hashes, places=places, ends=ends, table=table, shift=np.uint64(64 - width))


def _prefix_sums(ids: Ids, begin: int, end: int, longest: int, base: int) -> Iterator[tuple[int, int, U64, U64]]:
    """(first, last, sums, inverse) of every block of places [first, last).

    The run of n ids at `first + p` has the hash (sums[p + n] − sums[p]) · inverse[p]; `sums` reaches as far as the longest.
    """
    room = min(BLOCK, max(end - begin, 0)) + longest
    powers, inverse = _powers(base, room), _powers(pow(base, -1, 1 << 64), room)
    powers *= np.uint64(keyed_hash("token grams", "scale") | 1)  # else the upper bits hardly knew a run's first ids
    for first in range(begin, end, BLOCK):
        last = min(first + BLOCK, end)
        block = ids[first : last + longest - 1].astype(np.uint64)
        sums = np.zeros(len(block) + 1, np.uint64)
        np.cumsum(block * powers[: len(block)], out=sums[1:])
        yield first, last, sums, inverse


def _powers(base: int, size: int) -> U64:
    """base⁰, base¹, … modulo 2⁶⁴."""
    powers = np.full(size, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)
