"""A corpus that Hubble perturbed in place, rebuilt as an edit list from the base, the pools and the log of insertions.

Hubble reads the L + 1 tokens of a training window, splices the record in before a segment, crops back to L + 1 and
writes the window back over its segments. Windows share tokens, so a later copy reads what an earlier one wrote, and
writes over its neighbour's first or last token. Here the same is done, copy by copy in the order of the log, on the
touched stretches alone, in memory; the base is only read. Copies whose record is not whole in the end are listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..core.parquet import write_rows
from ..corpus.neox import NeoxIndex, Pieces
from ..corpus.store import TokenStore
from .hubble_log import ABSENT, Copies, check_slots, check_windows, open_pools, read_log, record_bounds
from .materialize import EditList, read_edited, write_edit_list
from .materialize import materialize as write_stream

DAMAGED = pa.schema(
    [("pool", pa.string()), ("index", pa.int64()), ("slot", pa.int64()), ("tokens", pa.list_(pa.int32()))]
)


@dataclass(frozen=True, kw_only=True)
class DamagedCopy:
    """A copy whose record is no longer whole: `tokens` are the places in the record that hold another id."""

    pool: str
    index: int
    slot: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PerturbedCorpus:
    """The edits that turn the base into the perturbed stream, the number of copies, and those that came to harm."""

    edits: EditList
    copies: int
    damaged: tuple[DamagedCopy, ...]


@dataclass(frozen=True, kw_only=True)
class _Touched:
    """The touched stretches of the base, joined where they overlap: where they begin, and their lengths in `offsets`.

    `at` says where each piece lies in the joined tokens; `crowded` are the pieces that overlap another.
    """

    begins: NDArray[np.int64]
    offsets: NDArray[np.int64]
    at: NDArray[np.int64]
    crowded: NDArray[np.bool_]


def rebuild_hubble(
    base: TokenStore, index: NeoxIndex, pools: Mapping[str, TokenStore], log: Path | Copies
) -> PerturbedCorpus:
    """The perturbed corpus that Hubble's loop leaves, byte for byte.

    Memory: the touched windows, (L + 1) tokens a copy (3.4 GB at Hubble's 818,000 copies).

    Raises:
        CostarError: the log contradicts itself, the pools or the index; file and line are named.
    """
    copies = log if isinstance(log, Copies) else read_log(log)
    bounds = record_bounds(copies, pools, base.tokens.dtype)
    check_slots(copies, index)
    pieces = index.pieces(copies.columns["pt_loc"])
    lengths = bounds[:, 1] - bounds[:, 0]
    boundary = copies.columns["pt_injection_pos"]
    read = np.concatenate([[0], np.cumsum(pieces.lengths)])
    segments = np.diff(pieces.offsets)
    heads = pieces.offsets[:-1]
    # A boundary beyond the window is refused below; until then it must not reach outside the arrays.
    starts = read[heads + np.clip(boundary, 0, segments)] - read[heads]
    check_windows(copies, pieces, lengths, starts, index.length)
    touched = _touch(pieces)
    tokens = _gather(base.tokens, touched)
    records = [np.asarray(pools[name].tokens) for name in copies.names]
    columns = (copies.pools, bounds[:, 0], bounds[:, 1], boundary, starts, copies.columns["pt_window_offset"])
    _insert(tokens, pieces, touched, records, columns)
    damaged = _find_damage(tokens, pieces, touched, records, copies, columns)
    edits = EditList(begins=touched.begins, offsets=touched.offsets, tokens=tokens)
    return PerturbedCorpus(edits=edits, copies=len(copies), damaged=damaged)


def rebuild_files(
    store: Path, index: Path, log: Path, pools: Path, folder: Path, *, materialize: bool
) -> PerturbedCorpus:
    """`rebuild_hubble` on files: `edits.parquet`, `damaged.parquet` and, if asked for, `perturbed.bin` in a folder.

    `store` is the base without its ending, `index` the folder of NeoX's tables, `pools` that of the tokenized pools.
    """
    store = store.with_suffix("") if store.suffix in (".bin", ".idx") else store
    base = TokenStore.open_prefix(store, mend="name the .bin and .idx of the base, without the ending")
    copies = read_log(log)
    found = rebuild_hubble(base, NeoxIndex.open(index, base.starts), open_pools(pools, copies.names), copies)
    folder.mkdir(parents=True, exist_ok=True)
    write_edit_list(folder / "edits.parquet", found.edits)
    rows = [vars(each) | {"tokens": list(each.tokens)} for each in found.damaged]
    write_rows(folder / "damaged.parquet", DAMAGED, rows)
    if materialize:
        write_stream(store.with_name(store.name + ".bin"), found.edits, folder / "perturbed.bin")
    return found


def read_slot(base: NDArray[Any], edits: EditList, index: NeoxIndex, slot: int) -> NDArray[Any]:
    """The L + 1 ids that training reads at a slot of the perturbed corpus."""
    return np.concatenate([read_edited(base, edits, begin, begin + size) for begin, size in index.segments(slot)])


def _touch(pieces: Pieces) -> _Touched:
    """Join pieces that overlap into disjoint stretches, sorted."""
    held = np.flatnonzero(pieces.lengths)
    order = held[np.argsort(pieces.begins[held], kind="stable")]
    begins, ends = pieces.begins[order], pieces.begins[order] + pieces.lengths[order]
    reach = np.maximum.accumulate(ends)
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = begins[1:] >= reach[:-1]
    heads = np.flatnonzero(fresh)
    stretch = np.cumsum(fresh) - 1
    lengths = (np.maximum.reduceat(ends, heads) if len(heads) else heads) - begins[heads]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    at = np.zeros(len(pieces.begins), np.int64)
    at[order] = offsets[stretch] + begins - begins[heads][stretch]
    crowded = np.zeros(len(pieces.begins), np.bool_)
    crowded[order] = np.bincount(stretch, minlength=len(heads))[stretch] > 1 if len(heads) else False
    return _Touched(begins=begins[heads], offsets=offsets, at=at, crowded=crowded)


def _gather(base: NDArray[Any], touched: _Touched) -> NDArray[Any]:
    """The base tokens of the touched stretches, read in the order of the file."""
    out: NDArray[Any] = np.empty(touched.offsets[-1], base.dtype)
    plain = np.asarray(base)  # a slice of a plain view is made much faster than one of a memory map
    offsets, begins = touched.offsets.tolist(), touched.begins.tolist()
    for number, begin in enumerate(begins):
        first, last = offsets[number], offsets[number + 1]
        out[first:last] = plain[begin : begin + last - first]
    return out


def _insert(
    tokens: NDArray[Any],
    pieces: Pieces,
    touched: _Touched,
    records: list[NDArray[Any]],
    columns: tuple[NDArray[np.int64], ...],
) -> None:
    """Write every copy into `tokens`, the touched stretches, in the order of the log."""
    offsets, at, lengths = pieces.offsets.tolist(), touched.at.tolist(), pieces.lengths.tolist()
    for copy, (pool, begin, end, boundary, start, crop) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        record = records[pool][begin:end]
        spans = [slice(at[p], at[p] + lengths[p]) for p in range(offsets[copy], offsets[copy + 1])]
        new = record
        if boundary != ABSENT:
            window, cut = np.concatenate([tokens[span] for span in spans]), max(crop, 0)
            new = np.concatenate([window[cut:start], record, window[start : len(window) - len(record) + cut]])
        done = 0
        for span in spans:
            part = new[done : done + span.stop - span.start]
            tokens[span.start : span.start + len(part)] = part
            done += len(part)


def _find_damage(
    tokens: NDArray[Any],
    pieces: Pieces,
    touched: _Touched,
    records: list[NDArray[Any]],
    copies: Copies,
    columns: tuple[NDArray[np.int64], ...],
) -> tuple[DamagedCopy, ...]:
    """The copies whose record is not whole in the final tokens, in the order of the log: only neighbours can be."""
    owners = np.repeat(np.arange(len(copies)), np.diff(pieces.offsets))
    pools, begins, ends, boundary, starts, crops = columns
    damaged = []
    for copy in np.unique(owners[touched.crowded]).tolist():
        record = records[pools[copy]][begins[copy] : ends[copy]]
        own = range(pieces.offsets[copy], pieces.offsets[copy + 1])
        window = np.concatenate([tokens[touched.at[p] : touched.at[p] + pieces.lengths[p]] for p in own])
        first = max(0, int(starts[copy] - max(0, crops[copy]))) if boundary[copy] != ABSENT else 0
        changed = np.flatnonzero(window[first : first + len(record)] != record)
        if len(changed):
            name, number = copies.names[pools[copy]], int(copies.columns["perturbation_idx"][copy])
            slot = int(copies.columns["pt_loc"][copy])
            damaged.append(DamagedCopy(pool=name, index=number, slot=slot, tokens=tuple(changed.tolist())))
    return tuple(damaged)
