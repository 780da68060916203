"""Where the records occur in the token stream by nature: every maximal match of at least `N` tokens, and what it covers.

A match is a run of a record's ids that stands in the stream and can be lengthened on neither side. It holds no end of a
document, as records hold no EOS. A record of fewer than `N` ids, but at least `LEAST`, is looked for as a whole.

Ids that stand at more than `CROWD` places of the records are a phrase of a template: they count for the coverage of all
that hold them, but a match of nothing else is not listed, or a frequent phrase would be listed for every record. No
more than `CROWD` matches begin at one place for that reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..core.errors import CostarError
from ..core.parquet import read_table
from ..manifests.tables import COVERAGE, OCCURRENCES
from .token_grams import GramIndex, Ids, find_grams, index_grams

N = 13
LEAST = 5
CROWD = 50
PAIRS = 1 << 16  # matches looked at together
STRIDE = 32  # tokens compared together
MEND = "run `costar corpus` again"


@dataclass(frozen=True, kw_only=True)
class RecordIds:
    """The canonical texts of records as ids: record r holds `ids[offsets[r] : offsets[r + 1]]`."""

    record_ids: tuple[str, ...]
    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every record."""
        return np.diff(self.offsets)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a part of the stream holds of the records.

    Match m: `length[m]` ids of record `record[m]` from its place `within[m]` on stand at `place[m]` of the stream; sorted
    by record, place and place within. `seen` [len(ids)]: whether the run that is looked for from this id on was found.
    """

    record: NDArray[np.int64]
    place: NDArray[np.int64]
    within: NDArray[np.int64]
    length: NDArray[np.int64]
    seen: NDArray[np.bool_]


def load_record_ids(records: Path, renderings: Path) -> RecordIds:
    """The records of all roles from `records.parquet`, in its order, with the ids of their canonical renderings.

    Raises:
        CostarError: a table cannot be read, or has a record without a rendering of its text.
    """
    table = read_table(records, mend=MEND, columns=["record_id", "text"])
    rows = read_table(renderings, mend=MEND, columns=["record_id", "text", "token_ids"])
    record = pc.index_in(rows["record_id"], value_set=table["record_id"].combine_chunks())
    same = pc.equal(rows["text"], table["text"].take(record)).combine_chunks().fill_null(False)
    canonical = np.flatnonzero(same.to_numpy(zero_copy_only=False))
    first = np.full(len(table), -1, np.int64)
    first[record.combine_chunks().fill_null(-1).to_numpy()[canonical][::-1]] = canonical[::-1]
    names = table["record_id"].to_pylist()
    if (first < 0).any():
        raise CostarError(
            str(renderings),
            found=f"no rendering of {names[int(np.argmin(first))]} that is its text",
            expected="the canonical rendering of every record",
            mend=MEND,
        )
    lists = rows["token_ids"].combine_chunks().take(pa.array(first))
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int64)
    return RecordIds(record_ids=tuple(names), ids=lists.flatten().to_numpy(), offsets=offsets)


def find_occurrences(tokens: Ids, begin: int, end: int, records: RecordIds) -> Found:
    """The matches of a part of the stream, from `begin` up to `end`, in tokens.

    `tokens` [T] is the whole stream: a match is read beyond the borders, and belongs to the one part in which its first
    run of `N` ids begins that is not a phrase of a template. So parts that make up the stream find every match once.
    """
    index = index_grams(records.ids, _searched(records))
    rare = np.zeros(len(records.ids), np.bool_)
    for grams in index.grams:
        rare[grams.places] = np.repeat(grams.counts <= CROWD, grams.counts)
    rare_before = np.concatenate([[0], np.cumsum(rare)])
    met = [np.zeros(len(grams.hashes), np.bool_) for grams in index.grams]
    found = []
    for number, runs, places in find_grams(tokens, begin, end, index):
        met[number][runs] = True
        for place, at in _pairs(index, number, runs, places):
            owner = np.searchsorted(records.offsets, at, side="right") - 1
            start = records.offsets[owner]
            follows = (at > start) & rare[at - 1] & (place > 0) & (tokens[place - 1] == records.ids[at - 1])
            found.append(_maximal(tokens, records, place[~follows], at[~follows], owner[~follows], rare_before))
    seen = np.zeros(len(records.ids), np.bool_)
    for grams, mask in zip(index.grams, met, strict=True):
        seen[grams.places] = np.repeat(mask, grams.counts)
    return _sorted(found, seen)


def merge_found(parts: Sequence[Found]) -> Found:
    """What several parts of the stream hold, at least one of them: the same whatever the parts and their order."""
    rows = [np.stack([part.record, part.place, part.within, part.length]) for part in parts]
    return _sorted(rows, np.logical_or.reduce([part.seen for part in parts]))


def occurrence_table(found: Found, records: RecordIds, length: int) -> pa.Table:
    """The table `OCCURRENCES`: where a match begins, as sequence of `length` tokens and place in it, in tokens.

    Sorted by record, in the order of `records`, then by place. A match is cut nowhere: it may run over the end of its
    sequence, and one that begins in the rest behind the last whole sequence has that sequence's number plus one. Where
    several places of a record match at one place of the stream, the longest match stands for them.
    """
    order = np.lexsort([-found.length, found.place, found.record])
    record, place, match = found.record[order], found.place[order], found.length[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (record[1:] != record[:-1]) | (place[1:] != place[:-1])
    record, place, match = record[first], place[first], match[first]
    names = pa.array(records.record_ids, pa.string()).take(pa.array(record))
    columns = [names, *(pa.array(values) for values in (place // length, place % length, match))]
    types = zip(columns, OCCURRENCES.types, strict=True)
    return pa.table([values.cast(kind) for values, kind in types], schema=OCCURRENCES)


def coverage_table(found: Found, records: RecordIds) -> pa.Table:
    """The table `COVERAGE`, a row for each record, in their order.

    `longest` is the length of its longest match, at least that of a run that was found, else 0; of a match that is not
    listed only that run counts. `coverage` is the share of its runs of `N` ids that occur; of a record with fewer ids
    1.0 if it occurs whole, else 0.0; null below `LEAST` ids, which are not looked for. `occurrences` counts its rows in
    `OCCURRENCES`.
    """
    lengths = records.lengths
    longest = np.zeros(len(lengths), np.int64)
    np.maximum.at(longest, found.record, found.length)
    before = np.concatenate([[0], np.cumsum(found.seen)])
    seen = before[records.offsets[1:]] - before[records.offsets[:-1]]
    longest = np.maximum(longest, np.where(seen > 0, np.minimum(lengths, N), 0))
    places = np.unique(np.stack([found.record, found.place]), axis=1)[0]
    columns = [
        pa.array(records.record_ids, pa.string()),
        pa.array(lengths),
        pa.array(longest),
        pa.array(seen / np.maximum(lengths - N + 1, 1), mask=lengths < LEAST),
        pa.array(np.bincount(places, minlength=len(lengths))),
    ]
    return pa.table([values.cast(kind) for values, kind in zip(columns, COVERAGE.types, strict=True)], schema=COVERAGE)


def run_starts(records: RecordIds, which: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    """Where, in the flat ids, the runs of `size` ids begin that the records of a mask hold."""
    counts = np.maximum(records.lengths - size + 1, 0) * which
    ends = np.cumsum(counts)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    starts: NDArray[np.int64] = np.repeat(records.offsets[:-1], counts) + within
    return starts


def _searched(records: RecordIds) -> dict[int, NDArray[np.int64]]:
    """By size, the runs that are looked for."""
    places = {size: records.offsets[:-1][records.lengths == size] for size in range(LEAST, N)}
    return places | {N: run_starts(records, records.lengths >= N, N)}


def _pairs(
    index: GramIndex, number: int, runs: NDArray[np.int64], places: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(place in the stream, place in the flat ids) of every run that is no phrase of a template, a few at a time."""
    grams = index.grams[number]
    counts = grams.counts[runs]
    kept = counts <= CROWD
    runs, places, counts = runs[kept], places[kept], counts[kept]
    for first in range(0, len(runs), PAIRS // CROWD):
        part = slice(first, first + PAIRS // CROWD)
        ends = np.cumsum(counts[part])
        within = np.arange(ends[-1]) - np.repeat(ends - counts[part], counts[part])
        own = grams.places[np.repeat(grams.ends[runs[part]], counts[part]) + within]
        yield np.repeat(places[part], counts[part]), own


def _maximal(
    tokens: Ids,
    records: RecordIds,
    place: NDArray[np.int64],
    at: NDArray[np.int64],
    owner: NDArray[np.int64],
    rare_before: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Rows of `Found` [4, n]: the matches whose first run that is no phrase of a template is the given one."""
    start, end = records.offsets[owner], records.offsets[owner + 1]
    before = _agreement(tokens, place - 1, records.ids, at - 1, at - start, -1)
    behind = _agreement(tokens, place, records.ids, at, end - at, 1)
    rows: NDArray[np.int64] = np.stack([owner, place - before, at - before - start, before + behind])
    return rows[:, rare_before[at] == rare_before[at - before]]


def _agreement(
    tokens: Ids,
    place: NDArray[np.int64],
    ids: NDArray[np.int32],
    at: NDArray[np.int64],
    limit: NDArray[np.int64],
    step: int,
) -> NDArray[np.int64]:
    """How many ids agree from `place` in the stream and `at` in the records on, forwards or backwards, at most `limit`."""
    limit = np.minimum(limit, len(tokens) - place if step > 0 else place + 1)
    agreed = np.zeros(len(place), np.int64)
    active = np.flatnonzero(limit > 0)
    within = np.arange(STRIDE)
    while len(active):
        offset = np.minimum(agreed[active][:, None] + within, limit[active][:, None] - 1) * step
        same = tokens[place[active][:, None] + offset] == ids[at[active][:, None] + offset]
        run = np.where(same.all(axis=1), STRIDE, np.argmin(same, axis=1))
        agreed[active] = np.minimum(agreed[active] + run, limit[active])
        active = active[(run == STRIDE) & (agreed[active] < limit[active])]
    return agreed


def _sorted(rows: Sequence[NDArray[np.int64]], seen: NDArray[np.bool_]) -> Found:
    record, place, within, length = np.concatenate([np.zeros((4, 0), np.int64), *rows], axis=1)
    order = np.lexsort([within, place, record])
    return Found(record=record[order], place=place[order], within=within[order], length=length[order], seen=seen)
