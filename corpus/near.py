"""Near-duplicates: stretches of a document that hold most words of a record in the same order.

Hits of runs of words give places where a copy may stand; there the fewest edits decide. In a copy any word may be changed.
In a look-alike, the same sentence about somebody else, the words changed are names and numbers, or those outside of the
phrases that many records share: when most of the missing words are such and chance would hardly choose them, it is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import U64
from .words import I64, NAME, PLAIN

STRETCH = 64  # words: a longer text is searched in stretches of at least so many
LEAST = 9  # words that a stretch has at least
LEAST_ALIGNED = 8  # words that are aligned at least
SHORT = 13  # words below which a stretch may have fewer edits, and every name and number must be there
SHARE, SHARE_SHORT = 0.3, 0.2  # edits (words inserted, deleted, replaced) for each word of a stretch, at most
TELLING = 0.5  # share of the telling words (names and numbers, or words outside of crowded runs) that may be missing
FEW = 3  # telling words below which their share is not asked for
SINGLE = 25  # words below which one hit is enough for a place to be aligned
HITS = 0.08  # of a stretch's runs that a place must hold before it is aligned
CHANCE = 0.05  # probability of so many names among the missing words, below which the text is on somebody else
SLACK = 0.25  # of a stretch's length by which words may have moved


class Stretches:
    """The parts of texts that are searched for near copies.

    `firsts`, `counts` [stretches]: place in the values and length in words; `texts` [stretches].
    """

    def __init__(
        self,
        values: U64,
        firsts: I64,
        counts: I64,
        usable: NDArray[np.bool_],
        *,
        crowded: NDArray[np.bool_],
        sorts: NDArray[np.uint8],
        size: int,
    ):
        self._values, self._own, self._sorts = values, ~crowded, sorts
        parts = np.maximum(counts // STRETCH, 1)
        self.texts = np.repeat(np.arange(len(firsts)), parts)
        number = np.arange(len(self.texts)) - np.repeat(np.cumsum(parts) - parts, parts)
        of = self.texts
        begins = firsts[of] + counts[of] * number // parts[of]
        ends = firsts[of] + counts[of] * (number + 1) // parts[of]
        self.firsts, self.counts = begins, ends - begins
        owned = np.concatenate([[0], np.cumsum(self._own)])
        own = owned[ends] - owned[begins]
        runs = np.maximum(np.minimum(own, self.counts - size + 1), 0)
        self._need = np.maximum(np.where(self.counts < SINGLE, 1, 2), HITS * runs).astype(np.int64)
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

    def align(self, stretch: int, low: int, high: int, document: U64, begin: int, end: int) -> int:
        """Words of a stretch less its edits, at diagonals low to high of a document's words [begin, end); 0 when no copy."""
        first, count = int(self.firsts[stretch]), int(self.counts[stretch])
        slack = max(2, int(SLACK * count))
        start = max(low + first - slack, begin)
        window = document[start : min(high + first + count + slack, end)].tolist()
        whole = slice(first, first + count)
        words, own, sorts = self._values[whole], self._own[whole], self._sorts[whole]
        edits, stop = least_edits(words.tolist(), window)
        if edits > (SHARE if count >= SHORT else SHARE_SHORT) * count or count - edits < LEAST_ALIGNED:
            return 0
        window = window[max(0, stop - count - edits) : stop]
        for telling, others in ((own, ~own), (sorts == NAME, sorts == PLAIN)):
            asked, rest = words[telling].tolist(), words[others].tolist()
            missing, rest_missing = (len(some) - common_words(some, window) for some in (asked, rest))
            odd = len(asked) >= FEW and missing > TELLING * len(asked)
            if missing > rest_missing and (odd or chance_of(missing, len(asked), rest_missing, len(rest)) < CHANCE):
                return 0
            if count < SHORT and telling is not own and missing:
                return 0
        return count - edits


def chance_of(missing: int, telling: int, rest_missing: int, rest: int) -> float:
    """Probability that at least `missing` of `telling` words are among all that are missing, when any word may be missing.

    The upper tail of the hypergeometric distribution.
    """
    drawn = missing + rest_missing
    ways = sum(math.comb(telling, k) * math.comb(rest, drawn - k) for k in range(missing, min(telling, drawn) + 1))
    return ways / math.comb(telling + rest, drawn)


def least_edits(record: Sequence[int], window: Sequence[int]) -> tuple[int, int]:
    """Fewest words to insert, delete or replace in a record so that it stands somewhere in the window; and where it ends.

    The bit-parallel search of Myers (1999), as Hyyrö (2003) gives it, with a bit of an integer a word.
    """
    places = _places(record)
    full, last = (1 << len(record)) - 1, 1 << (len(record) - 1)
    plus, minus = full, 0
    edits = best = len(record)
    stop = 0
    for number, word in enumerate(window, start=1):
        here = places.get(word, 0)
        diagonal = (((here & plus) + plus) ^ plus) | here | minus
        up = minus | ~(diagonal | plus)
        down = plus & diagonal
        edits += bool(up & last) - bool(down & last)
        if edits < best:
            best, stop = edits, number
        up <<= 1
        plus = ((down << 1) | ~(diagonal | up)) & full
        minus = up & diagonal & full
    return best, stop


def common_words(record: Sequence[int], window: Sequence[int]) -> int:
    """Length of the longest common subsequence, a bit of an integer a word (Hyyrö 2004)."""
    places = _places(record)
    full = (1 << len(record)) - 1
    state = full
    for word in window:
        here = places.get(word)
        if here:
            both = state & here
            state = ((state + both) | (state - both)) & full
    return len(record) - state.bit_count()


def _places(record: Sequence[int]) -> dict[int, int]:
    """The places of every word, as bits."""
    places: dict[int, int] = {}
    for number, word in enumerate(record):
        places[word] = places.get(word, 0) | 1 << number
    return places
