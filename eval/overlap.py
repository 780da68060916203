"""How much two sequences have in common: longest common subsequence, edit distance, n-grams.

The two distances keep a row of the dynamic programme in the bits of one whole number, so a text of a thousand characters
takes a thousand steps (Myers 1999 and Hyyrö 2003 and 2004).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence

ORDERS = 4
NO_WORD = re.compile(r"[^a-z0-9]+")


def _places(symbols: Sequence[Hashable]) -> dict[Hashable, int]:
    """The places of each symbol as bits."""
    found: dict[Hashable, int] = {}
    for place, symbol in enumerate(symbols):
        found[symbol] = found.get(symbol, 0) | 1 << place
    return found


def common_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence."""
    places, whole = _places(a), (1 << len(a)) - 1
    row = whole
    for symbol in b:
        hits = row & places.get(symbol, 0)
        row = (row + hits | row - hits) & whole
    return len(a) - row.bit_count()


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and replacements that turn one into the other (Levenshtein)."""
    if not a:
        return len(b)
    places, whole, last = _places(a), (1 << len(a)) - 1, 1 << len(a) - 1
    up, down, distance = whole, 0, len(a)  # bits: the column grows, or falls, from one row to the next
    for symbol in b:
        equal = places.get(symbol, 0)
        diagonal = ((equal & up) + up ^ up) | equal | down
        right, left = down | whole & ~(diagonal | up), up & diagonal
        distance += bool(right & last) - bool(left & last)
        right, left = right << 1 | 1, left << 1
        up, down = (left | ~(equal | down | right)) & whole, right & (equal | down) & whole
    return distance


def edit_similarity(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """1 − edit distance / the longer length; 1 for two empty sequences."""
    return 1 - edit_distance(a, b) / max(len(a), len(b), 1)


def words(text: str) -> list[str]:
    """Runs of the letters a to z and of digits, in lower case, as the package `rouge_score` has them without stemming."""
    return NO_WORD.sub(" ", text.lower()).split()


def rouge_l(answer: Sequence[Hashable], right: Sequence[Hashable]) -> float:
    """ROUGE-L of one text against one other: the F1 of their longest common subsequence (Lin 2004)."""
    common = common_length(answer, right)
    return 2 * common / (len(answer) + len(right)) if common else 0.0


def bleu(answer: Sequence[Hashable], right: Sequence[Hashable]) -> float:
    """BLEU of one sequence against one other, 1- to 4-grams, unsmoothed (Papineni et al. 2002).

    A right sequence of fewer than four symbols is compared by the n-grams that it has.
    """
    if not answer or not right:
        return 0.0
    total = 0.0
    orders = range(1, min(ORDERS, len(right)) + 1)
    for n in orders:
        given, wanted = (Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (answer, right))
        common = (given & wanted).total()
        if not common:
            return 0.0
        total += math.log(common / given.total())
    return math.exp(total / len(orders) + min(0.0, 1 - len(right) / len(answer)))
