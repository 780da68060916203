"""Which record gets how many copies: whole clusters, randomized by keyed hash within strata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

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
    k/n begins the sorted clusters at the k-th of n parts: over the n turns every record passes through the levels (a
    Latin square of n equal parts), and half a turn swaps inserted and held-out records where both are half.

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
        first = len(members) * turn.numerator // turn.denominator
        members = members[first:] + members[:first]
        quotas = stratum_quotas(remaining, sum(cluster.size for cluster in members))
        for cluster in members:
            level = next((lvl for lvl, room in quotas.items() if room >= cluster.size), None)
            if level is None:
                raise CostarError(
                    place,
                    found=f"cluster {cluster.name!r} of {cluster.size} records",
                    expected="levels with room for whole clusters",
                    mend="make the clusters smaller or the levels' counts larger",
                )
            quotas[level] -= cluster.size
            remaining[level] -= cluster.size
            assigned[cluster.name] = level
    return assigned


def by_hash(clusters: Sequence[Cluster], key: tuple[int | str, ...]) -> list[Cluster]:
    """Clusters in the order of their keyed hashes."""
    hashes = keyed_hashes(key, (cluster.name for cluster in clusters))
    return [clusters[i] for i in sorted(range(len(clusters)), key=hashes.__getitem__)]


def stratum_quotas(remaining: Mapping[int, int], size: int) -> dict[int, int]:
    """The share of a stratum of `size` records in what remains of each level: largest remainders, exact in sum."""
    total = sum(remaining.values())
    exact = {level: (count * size) // total for level, count in remaining.items()}
    rests = sorted(remaining, key=lambda level: (-((remaining[level] * size) % total), level))
    for level in rests[: size - sum(exact.values())]:
        exact[level] += 1
    return exact


def divide_evenly(clusters: Sequence[Cluster], parts: int, key: tuple[int | str, ...]) -> dict[str, int]:
    """The part in [0, parts) of each cluster: sorted by keyed hash and cut into parts as equal as whole clusters allow."""
    total = sum(cluster.size for cluster in clusters)
    room = [total // parts + (number < total % parts) for number in range(parts)]
    assigned: dict[str, int] = {}
    for cluster in by_hash(clusters, key):
        part = next((n for n in range(parts) if room[n] >= cluster.size), max(range(parts), key=room.__getitem__))
        room[part] -= cluster.size
        assigned[cluster.name] = part
    return assigned
