"""The words of texts as 64-bit hashes: many texts at once by array arithmetic, or one by one.

A word is a run of letters, digits and combining marks (Unicode categories L, N, M) after NFKC, case folding and NFKC
again. So case, spacing and punctuation, typographic or plain, do not change the words. Characters of scripts written
without spaces (Chinese characters, kana, Thai, Lao, Khmer, Burmese) are words of their own. Characters that are not seen
(soft hyphens, joiners, category Cf) are left out.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import U64

I64 = NDArray[np.int64]
BASE = np.uint64(0x9E3779B97F4A7C15)
LETTER_BASE = 0xD1342543DE82EF95  # odd, so that it has an inverse modulo 2⁶⁴
BLOCK = 1 << 16  # characters hashed at once: their powers and sums stay in the processor's cache
PLAIN, NAME, OPENING = 0, 1, 2
IN_WORD, ALONE, UNSEEN, CAPITAL, DIGIT = 1, 2, 4, 8, 16
ALONE_RANGES = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


class WordHasher:
    """Single texts as hashes of their words, the same as those of `words_of`."""

    def words(self, text: str) -> U64:
        """The hash of every word of a text, in order."""
        return words_of([text]).hashes


def rolling(hashes: U64, size: int) -> U64:
    """A hash of every run of `size` words, polynomial in the word hashes modulo 2⁶⁴.

    The run at i has the hash Σ hashes[i+j]·BASE^(size-1-j). It is put together from runs of powers of two.
    """
    count = len(hashes) - size + 1
    if count <= 0 or size <= 0:
        return np.zeros(max(count, 0), np.uint64)
    total, have = hashes, 1
    with np.errstate(over="ignore"):
        for bit in bin(size)[3:]:
            total = total[: len(total) - have] * _power(have) + total[have:]
            have *= 2
            if bit == "1":
                total = total[: len(hashes) - have] * BASE + hashes[have:]
                have += 1
    return total[:count]


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(int(BASE), exponent, 1 << 64))


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of several texts, one behind the other.

    `hashes` [words]; `counts` [texts], the words of each text; `sorts` [words], NAME for numbers and capitalised words
    inside a sentence, OPENING for the first word of a sentence, else PLAIN; empty when it was not asked for.
    """

    hashes: U64
    counts: I64
    sorts: NDArray[np.uint8]


def fold(text: str) -> str:
    """A text as it is compared: NFKC, case folding, NFKC."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def words_of(texts: Sequence[str], *, sorts: bool = False) -> Words:
    """The words of texts in order, hashed by the polynomial Σ code·LETTER_BASE^i and a mix of its bits."""
    codes, starts, ends, counts = _spans([fold(text) for text in texts])
    kinds = np.zeros(0, np.uint8)
    if sorts:
        kinds = _sorts([text if text.isascii() else unicodedata.normalize("NFKC", text) for text in texts])
        if len(kinds) != len(starts):  # folding made or joined words: of none it is known what it is
            kinds = np.full(len(starts), PLAIN, np.uint8)
    return Words(hashes=_hash_spans(codes, starts, ends), counts=counts, sorts=kinds)


def _spans(texts: Sequence[str]) -> tuple[NDArray[np.integer], I64, I64, I64]:
    """Codes of the characters of all texts, start and end of every word in them, and the words of each text."""
    joined = "\n".join(texts)
    codes: NDArray[np.integer]
    if joined.isascii():
        codes = np.frombuffer(joined.encode("ascii"), np.uint8)
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
    kinds = _kinds()[codes]
    bounds = np.cumsum([len(text) + 1 for text in texts], dtype=np.int64)
    if codes.itemsize > 1 and (kinds & UNSEEN).any():
        seen = (kinds & UNSEEN) == 0
        bounds = np.concatenate([[0], np.cumsum(seen), [np.count_nonzero(seen) + 1]])[bounds]
        codes, kinds = codes[seen], kinds[seen]
    inside = np.zeros(len(codes) + 2, np.bool_)
    np.not_equal(kinds & IN_WORD, 0, out=inside[1:-1])
    if codes.itemsize > 1 and (kinds & ALONE).any():
        alone = np.zeros(len(codes) + 2, np.bool_)
        np.not_equal(kinds & ALONE, 0, out=alone[1:-1])
        cut = alone[1:] | alone[:-1]
        starts = np.flatnonzero(inside[1:] & (~inside[:-1] | cut))
        ends = np.flatnonzero(inside[:-1] & (~inside[1:] | cut))
    else:
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        starts, ends = edges[::2], edges[1::2]
    counts = np.diff(np.searchsorted(starts, bounds), prepend=0)
    return codes, starts, ends, counts


def _sorts(texts: Sequence[str]) -> NDArray[np.uint8]:
    """PLAIN, NAME or OPENING for every word of the texts."""
    codes, starts, ends, _ = _spans(texts)
    first = _kinds()[codes[starts]]
    before = np.concatenate([[0], ends])[:-1]  # the end of the word before
    stops = np.isin(codes[np.minimum(before, max(len(codes) - 1, 0))], [ord(sign) for sign in '.!?:;"“”‘\n'])
    opening = (starts - before > 2) | stops | (before == 0)
    capital = (first & CAPITAL != 0) & (ends - starts > 1)
    sorts = np.full(len(starts), PLAIN, np.uint8)
    sorts[opening] = OPENING
    sorts[capital & ~opening | (first & DIGIT != 0)] = NAME
    return sorts


def _hash_spans(codes: NDArray[np.integer], starts: I64, ends: I64) -> U64:
    """A hash of the codes of every span, block by block."""
    hashes = np.empty(len(starts), np.uint64)
    cuts = np.unique(np.searchsorted(starts, np.arange(0, len(codes) + BLOCK, BLOCK)))
    for first, last in pairwise(cuts.tolist()):
        begin, end = int(starts[first]), int(ends[last - 1])
        powers, inverses = _powers(max(end - begin, BLOCK).bit_length())
        sums = np.empty(end - begin + 1, np.uint64)
        sums[0] = 0
        np.cumsum(codes[begin:end] * powers[: end - begin], out=sums[1:])
        local = starts[first:last] - begin
        hashes[first:last] = (sums[ends[first:last] - begin] - sums[local]) * inverses[local]
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    hashes ^= hashes >> np.uint64(32)
    return hashes


@cache
def _powers(bits: int) -> tuple[U64, U64]:
    """LETTER_BASE^i and its inverse for i < 2^bits, modulo 2⁶⁴."""
    found = []
    for base in (LETTER_BASE, pow(LETTER_BASE, -1, 1 << 64)):
        powers = np.full(1 << bits, np.uint64(base))
        powers[0] = 1
        found.append(np.multiply.accumulate(powers))
    return found[0], found[1]


@cache
def _kinds() -> NDArray[np.uint8]:
    """What each code point is: a sum of IN_WORD, ALONE, UNSEEN, CAPITAL, DIGIT."""
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    for code in (*range(0x40000), *range(0xE0000, 0xE0200)):  # letters and marks of Unicode, none lies elsewhere
        category = unicodedata.category(chr(code))
        if category[0] in "LNM":
            kinds[code] = IN_WORD | (CAPITAL if category in ("Lu", "Lt") else DIGIT if category == "Nd" else 0)
        elif category == "Cf":
            kinds[code] = UNSEEN
    for first, last in ALONE_RANGES:
        kinds[first : last + 1] |= np.where(kinds[first : last + 1] & IN_WORD, np.uint8(ALONE), np.uint8(0))
    return kinds
