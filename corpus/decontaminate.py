"""Word n-grams that a document shares with a record: the test for text that must not stand in the base.

Words are runs of letters and digits in lower case, so case, spacing and punctuation do not hide a copy. A record of at
least `N` words is searched by its N-grams, a shorter one of at least `LEAST` words as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import U64, keyed_hash

N = 13
LEAST = 8
WORD = re.compile(r"\w+")
BASE = np.uint64(0x9E3779B97F4A7C15)


class WordHasher:
    """Texts as hashes of their words; remembers the words it has seen."""

    def __init__(self) -> None:
        self._words: dict[str, int] = {}

    def words(self, text: str) -> U64:
        """The hash of every word of a text, in order."""
        words = self._words
        values = []
        for word in WORD.findall(text.lower()):
            if word not in words:
                words[word] = keyed_hash("word", word)
            values.append(words[word])
        return np.array(values, np.uint64)


class WordGrams:
    """Finds texts that share an n-gram with any of the records given."""

    def __init__(self, records: Iterable[str]):
        self._hashed = WordHasher().words
        grams: dict[int, list[U64]] = {}
        for text in records:
            hashes = self._hashed(text)
            size = min(N, len(hashes))
            if size >= LEAST:
                grams.setdefault(size, []).append(rolling(hashes, size))
        self._grams = {size: np.unique(np.concatenate(parts)) for size, parts in grams.items()}

    def shared(self, text: str) -> U64:
        """The hashes of the records' n-grams that occur in a text."""
        hashes = self._hashed(text)
        found = [np.zeros(0, np.uint64)]
        for size, grams in self._grams.items():
            runs = rolling(hashes, size)
            places = np.minimum(np.searchsorted(grams, runs), len(grams) - 1)
            found.append(runs[grams[places] == runs])
        return np.concatenate(found)

    def of_record(self, text: str) -> NDArray[np.uint64]:
        """The n-gram hashes by which a record is searched."""
        hashes = self._hashed(text)
        size = min(N, len(hashes))
        return rolling(hashes, size) if size >= LEAST else np.zeros(0, np.uint64)


def rolling(hashes: U64, size: int) -> U64:
    """A hash of every run of `size` words, polynomial in the word hashes modulo 2⁶⁴."""
    count = max(len(hashes) - size + 1, 0)
    total = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(size):
            total = total * BASE + hashes[offset : offset + count]
    return total
