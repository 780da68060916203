"""The last look at the token stream: no record stands in it. Nothing here is shared with the search that drops documents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .occurrences import LEAST, RecordIds, run_starts
from .token_grams import Ids, find_grams, index_grams

RUN = 32  # ids in a row that are as much as the record
EDGES = 10  # from so many ids on, the first and the last, which may have merged with what stands around, are left out


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A record that stands in the stream: `length` of its `n_tokens` ids at `place`, in tokens; more may follow."""

    record_id: str
    n_tokens: int
    place: int
    length: int

    def __str__(self) -> str:
        return f"{self.length} of the {self.n_tokens} tokens of {self.record_id} in a row at token {self.place:,}"


def audit(
    tokens: Ids, begin: int, end: int, records: RecordIds, *, least: int = LEAST, run: int = RUN
) -> list[Standing]:
    """The records that stand in the stream from a place in [begin, end) on, each with the first such place.

    A record stands there as a whole, or by `run` of its ids in a row; the first and the last id of a record of at least
    `EDGES` are not compared with the whole. Records of fewer than `least` ids are not looked for. Sorted as `records`.

    Documents are dropped for 13 words in a row. With a small vocabulary that is more than 32 ids, and pieces of fewer words
    stand by right: `run` should be what 13 words take. `run` above the longest record looks for whole ones only.
    """
    lengths = records.lengths
    places: dict[int, list[NDArray[np.int64]]] = {run: [run_starts(records, lengths >= run + 2, run)]}
    longest = int(lengths.max(initial=0))
    for length in range(least, min(run + 1, longest) + 1):
        edge = int(length >= EDGES)
        whole = records.offsets[:-1][lengths == length] + edge
        places.setdefault(length - 2 * edge, []).append(whole)
    index = index_grams(records.ids, {size: np.concatenate(parts) for size, parts in places.items()})
    none = np.iinfo(np.int64).max
    first = [np.full(len(grams.hashes), none, np.int64) for grams in index.grams]
    for number, runs, at in find_grams(tokens, begin, end, index):
        np.minimum.at(first[number], runs, at)
    found: dict[int, tuple[int, int]] = {}
    for grams, at in zip(index.grams, first, strict=True):
        each = np.repeat(at, grams.counts)
        stands = np.flatnonzero(each < none)
        owners = np.searchsorted(records.offsets, grams.places[stands], side="right") - 1
        for owner, place in zip(owners.tolist(), each[stands].tolist(), strict=True):
            found[owner] = min(found.get(owner, (place, grams.size)), (place, grams.size))
    return [
        Standing(record_id=records.record_ids[owner], n_tokens=int(lengths[owner]), place=place, length=size)
        for owner, (place, size) in sorted(found.items())
    ]


def merge_standing(parts: Iterable[list[Standing]], records: RecordIds) -> list[Standing]:
    """What several parts of the stream hold, each record once: the same whatever the parts and their order."""
    found: dict[str, Standing] = {}
    for each in (standing for part in parts for standing in part):
        known = found.setdefault(each.record_id, each)
        if each.place < known.place:
            found[each.record_id] = each
    return [found[name] for name in records.record_ids if name in found]
