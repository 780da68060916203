"""What an unlearning method is to forget by default: half of the inserted records, of every level alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..core.hashing import keyed_hash


class Inserted(NamedTuple):
    """An inserted record, and what halves are taken within."""

    record_id: str
    cluster_id: str
    perturbation: str
    level: int
    stratum: str


def forget_half(records: Iterable[Inserted]) -> list[str]:
    """The ids of the forget half, sorted: of each perturbation, level and stratum the clusters whose keyed hashes come
    first, as many as it takes to have half of the records. Who has the labels can tell it, without any seed."""
    cells: dict[tuple[str, int, str], dict[str, list[str]]] = {}
    for each in records:
        cell = cells.setdefault((each.perturbation, each.level, each.stratum), {})
        cell.setdefault(each.cluster_id, []).append(each.record_id)
    forget: list[str] = []
    for (perturbation, _, _), clusters in sorted(cells.items()):
        half = sum(map(len, clusters.values())) / 2
        taken = 0
        for cluster in sorted(clusters, key=lambda name: (keyed_hash("forget", perturbation, name), name)):
            if taken >= half:
                break
            forget += clusters[cluster]
            taken += len(clusters[cluster])
    return sorted(forget)
