"""Wrong options for questions: texts of other records, or made up, drawn by keyed hash, so that no order has a say in them.

Where there are enough, the options of a record are of records with the same fate, inserted by the same arms and draws: a
model prefers texts that it has seen, so that among inserted ones a held-out answer would be found less often than by chance.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..core.hashing import keyed_hash
from .assigned import ArmDraw
from .probes import Context, Subject

OPTIONS = 10
Fate = frozenset[ArmDraw]  # the arms and draws that insert a record
NOWHERE: Fate = frozenset()


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
    """Different texts in sorted order: those of a perturbation, by what they are, and those of each fate in it."""

    seed: int
    fates: Mapping[str, Fate]
    texts: Mapping[tuple[str, str], list[str]]
    by_fate: Mapping[tuple[str, str], Mapping[Fate, list[str]]]

    def whole(self, perturbation: str, what: str) -> list[str]:
        """Every text of a perturbation."""
        return self.texts.get((perturbation, what), [])

    def options(self, subject: Subject, what: str, answer: str) -> tuple[list[str], int]:
        """Ten options of a record, fewer where there are not so many texts, and which is the right one."""
        pools = self.by_fate.get((subject.perturbation, what), {})
        pool = pools.get(self.fates.get(subject.record_id, NOWHERE)) or self.whole(subject.perturbation, what)
        at = bisect_left(pool, answer)
        skipped = at < len(pool) and pool[at] == answer
        key = (self.seed, "options", subject.record_id, what)
        numbers = drawn_numbers(key, len(pool) - skipped, OPTIONS - 1)
        return with_answer((pool[n + (skipped and n >= at)] for n in numbers), answer)


def pools_of(context: Context, values: Iterable[tuple[Subject, str, str]]) -> Pools:
    """Pools of (subject, what, text), of main records only."""
    found: dict[tuple[str, str], dict[Fate, set[str]]] = {}
    for subject, what, text in values:
        if subject.role == "main":
            fates = found.setdefault((subject.perturbation, what), {})
            fates.setdefault(context.fates.get(subject.record_id, NOWHERE), set()).add(text)
    return Pools(
        seed=context.seed,
        fates=context.fates,
        texts={key: sorted(set().union(*fates.values())) for key, fates in found.items()},
        by_fate={key: _with_rare_ones_together(fates) for key, fates in found.items()},
    )


def _with_rare_ones_together(fates: Mapping[Fate, set[str]]) -> dict[Fate, list[str]]:
    """The texts of each fate; the fates with the fewest share theirs, as many as it takes to have enough."""
    order = sorted(fates, key=lambda fate: (len(fates[fate]), sorted(fates[fate])))
    rare: set[str] = set()
    shared: list[Fate] = []
    for fate in order:
        if len(rare if shared else fates[fate]) >= OPTIONS:
            break
        rare |= fates[fate]
        shared.append(fate)
    pool = sorted(rare)
    return {fate: pool if fate in shared else sorted(own) for fate, own in fates.items()}
