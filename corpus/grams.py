"""An index of the runs of a few values (words or token ids) in the texts of records, to find them in long documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import U64
from .words import I64, rolling

Places = NDArray[np.signedinteger[Any]]
TEXT_END, DOCUMENT_END = np.uint64(1), np.uint64(2)  # stand between texts, between documents: no run matches over them
REPEATS = 16  # places of a run per record that may hold it, before it counts as one that many hold
CHUNK = 1 << 20  # places looked up at once


def laid_out(values: U64, counts: I64, end: np.uint64) -> tuple[U64, I64]:
    """Values of several texts with `end` before the first, between two, and behind the last; and where each text starts."""
    firsts = np.cumsum(counts) - counts + np.arange(1, len(counts) + 1)
    out = np.full(len(values) + len(counts) + 1, end)
    out[np.arange(len(values)) + np.repeat(np.arange(1, len(counts) + 1), counts)] = values
    return out, firsts


def spread(firsts: I64, counts: I64) -> I64:
    """The numbers first, first + 1, … (count of them) of every pair, one behind the other."""
    steps = np.repeat(firsts - (np.cumsum(counts) - counts), counts)
    return steps + np.arange(len(steps))


class GramIndex:
    """Where the runs of `size` values stand in texts; runs that more than `crowd` records hold are left out.

    `values` [n] and `firsts` [texts] are as `laid_out` gives them, `counts` [texts] the lengths, `records` [texts] the
    record of each text, in ascending order. A text whose every run is left out keeps its rarest one, and is in `common`
    [texts]. `crowded` [n] marks the values that runs left out cover.
    """

    def __init__(self, values: U64, firsts: I64, counts: I64, records: I64, *, size: int, crowd: int):
        self.values, self.size = values, size
        kind = np.int32 if len(values) < 2**31 else np.int64
        places: Places = spread(firsts, np.maximum(counts - size + 1, 0)).astype(kind)
        grams = rolling(values, size)[places]
        order = np.argsort(grams, kind="stable")
        grams, places = grams[order], places[order]
        del order
        edges = np.flatnonzero(np.concatenate([grams[1:] != grams[:-1], [True]])[: len(grams)]) + 1
        sizes = np.diff(edges, prepend=0)
        owners = records.astype(np.int32)[np.searchsorted(firsts, places, side="right") - 1]
        new = np.ones(len(grams), np.bool_)
        new[1:] = (owners[1:] != owners[:-1]) | (grams[1:] != grams[:-1])
        del owners
        held = np.diff(np.cumsum(new)[edges - 1], prepend=0)  # records that hold each run
        many = np.repeat((held > crowd) | (sizes > REPEATS * crowd), sizes)
        self.crowded = _covered(places[many], size, len(values))
        kept = ~many
        self.common = np.zeros(len(firsts), np.bool_)
        self._keep_rarest(kept, places, np.repeat(held, sizes), firsts, counts)
        grams, places = grams[kept], places[kept]
        edges = np.flatnonzero(np.concatenate([[True], grams[1:] != grams[:-1]])[: len(grams)])
        self.grams = grams[edges]
        self.edges = np.append(edges, len(grams)).astype(np.int64)
        self.places = places
        bits = max(int(len(self.grams) * 24).bit_length(), 16)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << (bits - 3), np.uint8)
        slots = self.grams >> self._shift
        rows = np.flatnonzero(np.diff(slots >> np.uint64(3), prepend=np.uint64(1 << 63)))
        if len(rows):
            ones = np.left_shift(np.uint8(1), (slots & np.uint64(7)).astype(np.uint8))
            self._table[slots[rows] >> np.uint64(3)] = np.bitwise_or.reduceat(ones, rows)

    def _keep_rarest(self, kept: NDArray[np.bool_], places: Places, held: I64, firsts: I64, counts: I64) -> None:
        """Keep one run of every text that has none, and note these texts."""
        texts = np.searchsorted(firsts, places, side="right") - 1
        has = np.zeros(len(firsts), np.bool_)
        has[texts[kept]] = True
        self.common = ~has & (counts >= self.size)
        loose = np.flatnonzero(self.common[texts])
        loose = loose[np.lexsort((held[loose], texts[loose]))]
        first = np.ones(len(loose), np.bool_)
        first[1:] = texts[loose][1:] != texts[loose][:-1]
        kept[loose[first]] = True

    def hits(self, document: U64) -> tuple[I64, I64]:
        """Every pair (place in `document`, place in `values`) at which the same run of `size` values starts."""
        found: list[tuple[I64, I64]] = []
        for start in range(0, max(len(document) - self.size + 1, 0), CHUNK):
            runs = rolling(document[start : start + CHUNK + self.size - 1], self.size)
            slots = (runs >> self._shift).view(np.int64)
            maybe = np.flatnonzero((self._table[slots >> 3] >> (slots & 7).astype(np.uint8)) & 1)
            wanted = runs[maybe]
            numbers = np.minimum(np.searchsorted(self.grams, wanted), max(len(self.grams) - 1, 0))
            exact = self.grams[numbers] == wanted if len(self.grams) else np.zeros(0, np.bool_)
            maybe, numbers = maybe[exact] + start, numbers[exact]
            counts = self.edges[numbers + 1] - self.edges[numbers]
            found.append((np.repeat(maybe, counts), self.places[spread(self.edges[numbers], counts)].astype(np.int64)))
        return _joined(found)

    def matches(self, document: U64, at: I64, places: I64) -> tuple[I64, I64, I64]:
        """The longest equal stretches around hits sorted by diagonal: start in the document, start in `values`, length.

        Hits of a diagonal that follow each other count once. Values beyond the runs are compared one by one.
        """
        first = np.ones(len(at), np.bool_)
        first[1:] = (at[1:] - at[:-1] != 1) | (places[1:] - places[:-1] != 1)
        at, places = at[first], places[first]
        left = _grow(document, self.values, at - 1, places - 1, -1)
        right = _grow(document, self.values, at + self.size, places + self.size, 1)
        return at - left, places - left, left + self.size + right


def _grow(document: U64, values: U64, at: I64, places: I64, step: int) -> I64:
    """How many values are equal from each pair of places on, in steps of 1 or −1; ends differ, so none runs over."""
    grown = np.zeros(len(at), np.int64)
    alive = np.arange(len(at))
    far = 0
    while len(alive):
        alive = alive[document[at[alive] + far] == values[places[alive] + far]]
        grown[alive] += 1
        far += step
    return grown


def _covered(places: Places, size: int, count: int) -> NDArray[np.bool_]:
    """Which of `count` values lie in a run that starts at one of the places."""
    covered = np.zeros(count, np.bool_)
    for offset in range(size):
        covered[places + offset] = True
    return covered


def _joined(parts: Sequence[tuple[I64, I64]]) -> tuple[I64, I64]:
    empty: NDArray[Any] = np.zeros(0, np.int64)
    return tuple(np.concatenate([empty, *side]) for side in zip(*parts, strict=True)) if parts else (empty, empty)  # type: ignore[return-value]
