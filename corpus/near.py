"""Near-duplicates: stretches of a document that hold most words of a record in the same order.

Hits of runs of words give places where a copy may stand; there the longest common subsequence decides. A copy keeps
most words of all kinds, also those that few other records share and the names and numbers. A look-alike (the same sentence
about somebody else) keeps the others only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import U64
from .words import I64

STRETCH = 64  # words: a longer text is searched in stretches of at least so many
LEAST = 13  # words that a stretch has at least
SHARE = 0.7  # of a stretch's words that the document has in the same order
TELLING = 0.5  # the same of its names and numbers, and of its words outside of runs that many records hold
FEW = 3  # telling words below which their share is not asked for
HITS = 0.08  # of a stretch's runs that a place must hold before it is aligned
SLACK = 0.25  # of a stretch's length by which words may have moved


@dataclass(frozen=True, kw_only=True)
class Near:
    """A stretch that a document holds: the first place in the document that was aligned, its number, words aligned."""

    at: int
    stretch: int
    aligned: int


class Stretches:
    """The parts of texts that are searched for near copies.

    `firsts`, `counts` [stretches]: place in the values and length in words; `texts` [stretches].
    """

    def __init__(
        self, values: U64, firsts: I64, counts: I64, usable: NDArray[np.bool_], *, crowded: NDArray[np.bool_], names: NDArray[np.bool_], size: int
    ):
        self._values, self._own, self._names = values, ~crowded, names
        parts = np.maximum(counts // STRETCH, 1)
        self.texts = np.repeat(np.arange(len(firsts)), parts)
        number = np.arange(len(self.texts)) - np.repeat(np.cumsum(parts) - parts, parts)
        of = self.texts
        begins = firsts[of] + counts[of] * number // parts[of]
        ends = firsts[of] + counts[of] * (number + 1) // parts[of]
        self.firsts, self.counts = begins, ends - begins
        starts_own_run = np.concatenate([[0], np.cumsum(self._own)])
        own = starts_own_run[ends] - starts_own_run[begins]
        self._need = np.maximum(2, np.ceil(HITS * np.maximum(np.minimum(own, self.counts - size + 1), 0))).astype(np.int64)
        self._usable = usable[of] & (self.counts >= LEAST) & (own >= FEW)

    def of(self, places: I64) -> I64:
        """The stretch of every place of the values."""
        return np.searchsorted(self.firsts, places, side="right") - 1

    def candidates(self, stretches: I64, documents: I64, diagonals: I64) -> Iterator[tuple[int, int, int, int]]:
        """(stretch, document, least and greatest diagonal) where enough hits lie close together.

        The hits are sorted by stretch and diagonal, the place in the document less that in the values.
        """
        if not len(stretches):
            return
        slack = np.maximum(2, SLACK * self.counts[stretches])
        new = np.ones(len(stretches), np.bool_)
        new[1:] = (stretches[1:] != stretches[:-1]) | (documents[1:] != documents[:-1])
        new[1:] |= diagonals[1:] - diagonals[:-1] > slack[1:]
        begins = np.flatnonzero(new)
        sizes = np.diff(begins, append=len(new))
        of = stretches[begins]
        for number in np.flatnonzero((sizes >= self._need[of]) & self._usable[of]):
            begin, end = begins[number], begins[number] + sizes[number] - 1
            yield int(stretches[begin]), int(documents[begin]), int(diagonals[begin]), int(diagonals[end])

    def align(self, stretch: int, low: int, high: int, document: U64, begin: int, end: int) -> Near | None:
        """The stretch at diagonals low to high of a document's words [begin, end), or None when it is not a copy."""
        first, count = int(self.firsts[stretch]), int(self.counts[stretch])
        slack = max(2, int(SLACK * count))
        start = max(low + first - slack, begin)
        window = document[start : min(high + first + count + slack, end)].tolist()
        whole = slice(first, first + count)
        words = self._values[whole]
        aligned = common_words(words.tolist(), window)
        if aligned < SHARE * count:
            return None
        for telling in (self._own[whole], self._names[whole]):
            asked = words[telling].tolist()
            if FEW <= len(asked) < count and common_words(asked, window) < TELLING * len(asked):
                return None
        return Near(at=start, stretch=stretch, aligned=aligned)


def common_words(record: list[int], window: list[int]) -> int:
    """Length of the longest common subsequence, a bit of an integer a word (Hyyrö 2004)."""
    places: dict[int, int] = {}
    for number, word in enumerate(record):
        places[word] = places.get(word, 0) | 1 << number
    full = (1 << len(record)) - 1
    state = full
    for word in window:
        here = places.get(word)
        if here:
            both = state & here
            state = ((state + both) | (state - both)) & full
    return len(record) - state.bit_count()
