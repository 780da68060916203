"""Wrong options for questions: texts of other records, or made up, drawn by keyed hash, so that no order has a say in them.

Where there are enough, the options of a record are of records with the same fate, inserted somewhere or nowhere: a model
prefers texts that it has seen, so that among inserted ones a held-out answer would be found less often than by chance.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..core.hashing import keyed_hash
from .probes import Context, Subject

OPTIONS = 10


def drawn_numbers(key: tuple[int | str, ...], size: int, count: int) -> list[int]:
    """`count` different numbers below `size` in the order drawn, all of them where there are no more."""
    if size <= count:
        return list(range(size))
    found: dict[int, None] = {}
    turn = 0
    while len(found) < count:
        found.setdefault(keyed_hash(*key, turn) % size)
        turn += 1
    return list(found)


def with_answer(wrong: Iterable[str], answer: str) -> tuple[list[str], int]:
    """The options in the order of their texts, and which is the right one."""
    options = sorted({*wrong, answer})
    return options, options.index(answer)


@dataclass(frozen=True, kw_only=True)
class Pools:
    """Different texts in sorted order, by perturbation, what they are, and whether their record is inserted (None: all)."""

    seed: int
    inserted: frozenset[str]
    texts: Mapping[tuple[str, str, bool | None], list[str]]

    def whole(self, perturbation: str, what: str) -> list[str]:
        """Every text of a perturbation."""
        return self.texts.get((perturbation, what, None), [])

    def options(self, subject: Subject, what: str, answer: str) -> tuple[list[str], int]:
        """Ten options of a record, fewer where there are not so many texts, and which is the right one."""
        fates = [self.texts.get((subject.perturbation, what, fate), []) for fate in (True, False)]
        own = subject.record_id in self.inserted
        pool = fates[not own] if min(map(len, fates)) >= OPTIONS else self.whole(subject.perturbation, what)
        at = bisect_left(pool, answer)
        skipped = at < len(pool) and pool[at] == answer
        key = (self.seed, "options", subject.record_id, what)
        numbers = drawn_numbers(key, len(pool) - skipped, OPTIONS - 1)
        return with_answer((pool[n + (skipped and n >= at)] for n in numbers), answer)


def pools_of(context: Context, values: Iterable[tuple[Subject, str, str]]) -> Pools:
    """Pools of (subject, what, text), of main records only."""
    found: dict[tuple[str, str, bool | None], set[str]] = {}
    for subject, what, text in values:
        if subject.role == "main":
            for fate in (None, subject.record_id in context.inserted_ids):
                found.setdefault((subject.perturbation, what, fate), set()).add(text)
    texts = {key: sorted(each) for key, each in found.items()}
    return Pools(seed=context.seed, inserted=context.inserted_ids, texts=texts)
