"""Which record gets how many copies: whole clusters, randomized by keyed hash within strata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..core.errors import CostarError
from ..core.hashing import keyed_hashes


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Records that get one level together: `size` main records."""

    name: str
    stratum: str
    size: int


def assign_levels(
    clusters: Sequence[Cluster],
    levels: Mapping[int, int],
    *,
    key: tuple[int, int, str],
    place: str,
    turn: Fraction = Fraction(0),
) -> dict[str, int]:
    """The level of each cluster.

    Within a stratum the clusters are sorted by keyed hash and cut at the quotas, highest level first, so that a new
    cluster changes at most (number of levels − 1) others of its stratum and a raised level only adds copies; rounding of
    the quotas may move a record at a border of another stratum. `key` is (suite seed, draw, perturbation). A `turn` of
    k/n begins the sorted clusters at the k-th of n parts of a stratum's records. Where each stratum divides into n equal
    levels, every record has each level once over the n turns (a Latin square), and half a turn swaps held-out and inserted
    halves; otherwise that holds but for the records at the borders.

    Raises:
        CostarError: the levels' counts are not the number of records, or whole clusters do not fit the quotas.
    """
    total = sum(cluster.size for cluster in clusters)
    if total != sum(levels.values()):
        raise CostarError(
            place,
            found=f"{total} records",
            expected=f"{sum(levels.values())}, the sum of the levels",
            mend="correct one",
        )
    remaining = dict(sorted(levels.items(), reverse=True))
    strata: dict[str, list[Cluster]] = {}
    for cluster in clusters:
        strata.setdefault(cluster.stratum, []).append(cluster)
    assigned: dict[str, int] = {}
    for stratum in sorted(strata):
        members = by_hash(strata[stratum], (*key, "level"))
        members = rotated(members, turn)
        quotas = stratum_quotas(remaining, sum(cluster.size for cluster in members))
        if all(cluster.size == 1 for cluster in members):  # the common case, at a glance
            cut = [level for level, room in quotas.items() for _ in range(room)]
            assigned |= {cluster.name: level for cluster, level in zip(members, cut, strict=True)}
            remaining = {level: count - quotas[level] for level, count in remaining.items()}
            continue
        for cluster in members:
            level = next((lvl for lvl, room in quotas.items() if room >= cluster.size), None)
            if level is None:
                raise CostarError(
                    place,
                    found=f"cluster {cluster.name!r} of {cluster.size} records, which get one level together",
                    expected="levels with room for whole clusters; records of equal text are one cluster",
                    mend="make the clusters smaller or the levels' counts larger",
                )
            quotas[level] -= cluster.size
            remaining[level] -= cluster.size
            assigned[cluster.name] = level
    return assigned


def rotated(members: list[Cluster], turn: Fraction) -> list[Cluster]:
    """The clusters from the first that begins at or behind a share of the records on, then the ones before it."""
    total, before, first = sum(cluster.size for cluster in members), 0, 0
    while first < len(members) and before < total * turn:
        before += members[first].size
        first += 1
    return members[first:] + members[:first]


def by_hash(clusters: Sequence[Cluster], key: tuple[int | str, ...]) -> list[Cluster]:
    """Clusters in the order of their keyed hashes."""
    hashes = keyed_hashes(key, (cluster.name for cluster in clusters))
    return [clusters[i] for i in np.argsort(np.array(hashes, np.uint64), kind="stable").tolist()]


def stratum_quotas(remaining: Mapping[int, int], size: int) -> dict[int, int]:
    """The share of a stratum of `size` records in what remains of each level: largest remainders, exact in sum."""
    total = sum(remaining.values())
    exact = {level: (count * size) // total for level, count in remaining.items()}
    rests = sorted(remaining, key=lambda level: (-((remaining[level] * size) % total), level))
    for level in rests[: size - sum(exact.values())]:
        exact[level] += 1
    return exact


def divide_evenly(
    clusters: Sequence[Cluster], combinations: Sequence[Sequence[Hashable]], key: tuple[int | str, ...]
) -> dict[str, int]:
    """The combination, by number, of each cluster: sorted by keyed hash and cut as evenly as whole clusters allow.

    Which combinations get one record more is drawn by keyed hash among those that keep the values of every factor as even
    as can be: two records over 2 × 2 combinations differ in both factors.
    """
    total, parts = sum(cluster.size for cluster in clusters), len(combinations)
    room = [total // parts] * parts
    for part in _larger_parts(combinations, total % parts, key):
        room[part] += 1
    assigned: dict[str, int] = {}
    for cluster in by_hash(clusters, key):
        part = next((n for n in range(parts) if room[n] >= cluster.size), max(range(parts), key=room.__getitem__))
        room[part] -= cluster.size
        assigned[cluster.name] = part
    return assigned


def _larger_parts(combinations: Sequence[Sequence[Hashable]], count: int, key: tuple[int | str, ...]) -> list[int]:
    """`count` combinations, one after the other the one whose factor values were chosen least, ties by keyed hash."""
    drawn = keyed_hashes((*key, "more"), map(str, range(len(combinations))))
    chosen: list[int] = []
    used: Counter[tuple[int, Hashable]] = Counter()
    for _ in range(count):
        left = [part for part in range(len(combinations)) if part not in chosen]
        part = min(
            left, key=lambda part: (sum(used[value] ** 2 for value in enumerate(combinations[part])), drawn[part])
        )
        chosen.append(part)
        used.update(enumerate(combinations[part]))
    return chosen
