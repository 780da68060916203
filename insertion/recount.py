"""Levels and factors once more, record by record from the rule in words: what `verify` holds the assignments against."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction

from ..core.hashing import keyed_hash

Grouped = Mapping[str, Sequence[str]]


def levels_of(
    clusters: Grouped, strata: Mapping[str, str], levels: Mapping[int, int], key: tuple[int, int, str], turn: Fraction
) -> dict[str, int]:
    """The level of every record; `clusters` are its records by cluster, `strata` the stratum of each cluster.

    Stratum after stratum in the order of the alphabet; in each the clusters by keyed hash, begun at the turn, fill the
    stratum's shares of what is left of the levels, the highest level that has room first.
    """
    left = dict(levels)
    found: dict[str, int] = {}
    for stratum in sorted(set(strata.values())):
        members = [name for name in clusters if strata[name] == stratum]
        members.sort(key=lambda name: keyed_hash(*key, "level", name))
        size = sum(len(clusters[name]) for name in members)
        start, before = 0, 0
        while start < len(members) and Fraction(before) < size * turn:
            before, start = before + len(clusters[members[start]]), start + 1
        shares = _shares(left, size)
        for name in members[start:] + members[:start]:
            count = len(clusters[name])
            level = max((each for each, room in shares.items() if room >= count), default=-1)
            shares[level] = shares.get(level, 0) - count
            left[level] = left.get(level, 0) - count
            found |= dict.fromkeys(clusters[name], level)
    return found


def _shares(left: Mapping[int, int], size: int) -> dict[int, int]:
    """Largest remainders of left · size / total, ties to the lower level."""
    total = sum(left.values())
    exact = {level: Fraction(count * size, total) for level, count in left.items()}
    floors = {level: int(value) for level, value in exact.items()}
    order = sorted(exact, key=lambda level: (floors[level] - exact[level], level))
    for level in order[: size - sum(floors.values())]:
        floors[level] += 1
    return floors


def combinations_of(
    clusters: Grouped, combinations: Sequence[tuple[str, ...]], key: tuple[int | str, ...]
) -> dict[str, int]:
    """The number of the combination of every record of one level: clusters by keyed hash fill equal parts, one more record
    in those that keep factor values even, drawn by keyed hash."""
    size, parts = sum(len(records) for records in clusters.values()), len(combinations)
    larger: list[int] = []
    seen: Counter[tuple[int, str]] = Counter()
    while len(larger) < size % parts:
        scores = {
            part: (
                sum(seen[value] ** 2 for value in enumerate(combinations[part])),
                keyed_hash(*key, "more", str(part)),
            )
            for part in range(parts)
            if part not in larger
        }
        larger.append(min(scores, key=lambda part: scores[part]))
        seen.update(enumerate(combinations[larger[-1]]))
    room = {part: size // parts + (part in larger) for part in range(parts)}
    found: dict[str, int] = {}
    for name in sorted(clusters, key=lambda name: keyed_hash(*key, name)):
        count = len(clusters[name])
        fitting = [part for part in room if room[part] >= count]
        part = fitting[0] if fitting else max(room, key=lambda part: room[part])
        room[part] -= count
        found |= dict.fromkeys(clusters[name], part)
    return found


def grouped(ids: Sequence[str], clusters: Sequence[str]) -> dict[str, list[str]]:
    """Record ids by cluster, in their order."""
    found: dict[str, list[str]] = defaultdict(list)
    for record_id, cluster in zip(ids, clusters, strict=True):
        found[cluster].append(record_id)
    return dict(found)
