"""The order in which NeoX and Megatron read a store: the tables doc_idx, sample_idx and shuffle_idx.

Documents are laid end to end in the order of `doc_idx`. Sample j is the tokens j·L … j·L + L of that stream: L + 1
tokens, of which neighbours share one. `sample_idx[j]` says where token j·L lies: place in `doc_idx`, offset in that
document. Training reads sample `shuffle_idx[slot]` at `slot`. NeoX keeps the tables beside the store, under the name
`<prefix>_<name>_indexmap_<N>ns_<L>sl_<seed>s_packedpi_ac_{doc,sample,shuffle}_idx.npy`.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CostarError
from ..core.workspace import replacing
from .store import Starts, document_starts

TABLES = ("doc", "sample", "shuffle")
BLOCK = 1 << 22
Table = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Windows as stretches of the `.bin`: those of window i are `offsets[i] … offsets[i+1]`, in reading order."""

    offsets: NDArray[np.int64]
    begins: NDArray[np.int64]
    lengths: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class NeoxIndex:
    """The three tables over a store whose document d is the tokens `starts[d] … starts[d+1]`.

    `doc_idx` [documents read], `sample_idx` [samples + 1, 2], `shuffle_idx` [samples], or one entry longer (see
    `save_index`); `length` is L.
    """

    doc_idx: Table
    sample_idx: Table
    shuffle_idx: Table
    starts: NDArray[np.int64] | Starts
    length: int

    @classmethod
    def open(
        cls, place: Path, starts: NDArray[np.int64] | Starts, *, length: int | None = None, check: bool = True
    ) -> NeoxIndex:
        """Map the one triple of tables in a folder, or the one whose name begins with a prefix.

        `starts` are those of the store's documents; `length` is L where the name of the files does not say it. Without
        `check`, tables that were checked before are opened without reading them.

        Raises:
            CostarError: not exactly one triple, a damaged table, or tables that disagree with each other or the store.
        """
        stem = find_stem(place)
        named = re.search(r"_(\d+)sl_", stem.name + "_")
        if named is None and length is None:
            found, mend = "a name without <L>sl", "give the sequence length, or keep the names that NeoX gave"
            raise CostarError(str(stem), found=found, expected="the sequence length", mend=mend)
        if named is not None and length not in (None, int(named[1])):
            mend = "give the length of these files, or the files of this length"
            raise CostarError(str(stem), found=f"L = {named[1]}", expected=f"L = {length}", mend=mend)
        arrays = [_load(stem.with_name(f"{stem.name}_{name}_idx.npy")) for name in TABLES]
        index = cls(
            doc_idx=arrays[0],
            sample_idx=arrays[1],
            shuffle_idx=arrays[2],
            starts=starts,
            length=int(named[1]) if named else int(length or 0),
        )
        if check:
            index.check(str(stem))
        return index

    @property
    def samples(self) -> int:
        return len(self.sample_idx) - 1

    def check(self, place: str) -> None:
        """Hold the tables against each other and against the store, block by block.

        Raises:
            CostarError: they disagree; `place` is named.
        """

        def fail(found: str, expected: str) -> CostarError:
            mend = "take the index files that NeoX made for this store, this sequence length and these documents"
            return CostarError(place, found=found, expected=expected, mend=mend)

        if (self.doc_idx.ndim, self.shuffle_idx.ndim) != (1, 1) or self.sample_idx.ndim != 2:
            shapes = f"shapes {self.doc_idx.shape}, {self.sample_idx.shape}, {self.shuffle_idx.shape}"
            raise fail(shapes, "[documents], [samples + 1, 2], [samples]")
        if self.sample_idx.shape[1] != 2 or len(self.shuffle_idx) - self.samples not in (0, 1):
            found = f"sample_idx {self.sample_idx.shape} and shuffle_idx {self.shuffle_idx.shape}"
            raise fail(found, "[samples + 1, 2] and [samples]")
        documents, tokens = len(self.starts) - 1, 0
        for block in _blocks(self.doc_idx):
            if len(block) and (block.min() < 0 or block.max() >= documents):
                raise fail(f"document {block.max():,} in doc_idx", f"documents 0 … {documents - 1:,} of the store")
            tokens += int((self.starts[block + 1] - self.starts[block]).sum())
        if self.samples != max(0, tokens - 1) // self.length:
            expected = f"{max(0, tokens - 1) // self.length:,}, as {tokens:,} tokens and L = {self.length} give"
            raise fail(f"{self.samples:,} samples", expected)
        for block in _blocks(self.sample_idx):
            if block.min() < 0 or block[:, 0].max() >= len(self.doc_idx):
                raise fail(f"place {block[:, 0].max():,} in sample_idx", f"below {len(self.doc_idx):,}")
            read = self.doc_idx[block[:, 0]].astype(np.int64)
            wrong = np.flatnonzero(block[:, 1] >= self.starts[read + 1] - self.starts[read])
            if len(wrong):
                place_, offset = block[wrong[0]].tolist()
                raise fail(f"offset {offset:,} at place {place_:,} of sample_idx", "an offset inside its document")
        for block in _blocks(self.shuffle_idx):
            if len(block) and (block.min() < 0 or block.max() >= self.samples):
                raise fail(f"sample {block.max():,} in shuffle_idx", f"below {self.samples:,}")

    def pieces(self, slots: NDArray[np.int64]) -> Pieces:
        """Where the windows that are read at the slots [n] lie in the `.bin`, in tokens.

        An empty document inside a window is a piece of no tokens: it counts as a segment.

        Raises:
            CostarError: a window does not come to L + 1 tokens.
        """
        return self.sample_pieces(self.shuffle_idx[np.asarray(slots, np.int64)].astype(np.int64))

    def sample_pieces(self, samples: NDArray[np.int64]) -> Pieces:
        """`pieces` by the numbers of the samples [n] instead of the slots at which they are read."""
        first = self.sample_idx[samples].astype(np.int64)
        last = self.sample_idx[samples + 1].astype(np.int64)
        counts = last[:, 0] - first[:, 0] + 1
        ends = np.cumsum(counts)
        heads, tails = ends - counts, ends - 1
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first[:, 0] - heads, counts)
        documents = self.doc_idx[places].astype(np.int64)
        begins, stops = self.starts[documents], self.starts[documents + 1]
        stops[tails] = begins[tails] + last[:, 1] + 1
        begins[heads] += first[:, 1]
        offsets = np.concatenate([[0], ends]).astype(np.int64)
        pieces = Pieces(offsets=offsets, begins=begins, lengths=stops - begins)
        totals = np.add.reduceat(pieces.lengths, heads) if len(heads) else heads
        wrong = np.flatnonzero(totals != self.length + 1)
        if len(wrong):
            raise CostarError(
                f"sample {int(samples[wrong[0]])} of sample_idx",
                found=f"{int(totals[wrong[0]]):,} tokens",
                expected=f"L + 1 = {self.length + 1:,} tokens",
                mend="the index belongs to another store: take the one that NeoX made for this .idx",
            )
        return pieces

    def segments(self, slot: int) -> list[tuple[int, int]]:
        """The pieces (offset in the `.bin`, length), in tokens, of the window of L + 1 tokens read at a slot."""
        pieces = self.pieces(np.array([slot]))
        return list(zip(pieces.begins.tolist(), pieces.lengths.tolist(), strict=True))

    def window(self, tokens: NDArray[Any], slot: int) -> NDArray[Any]:
        """The L + 1 ids of `tokens` [T] that NeoX reads at a slot."""
        return np.concatenate([tokens[begin : begin + length] for begin, length in self.segments(slot)])

    def slot_of(self, sample: int) -> int:
        """The slot at which a sample is read."""
        return int(self._slots[sample])

    def slots_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The slot at which each sample [n] is read."""
        return self._slots[samples]

    @cached_property
    def _slots(self) -> NDArray[np.int64]:
        slots = np.empty(self.samples, np.int64)
        slots[self.shuffle_idx[: self.samples]] = np.arange(self.samples)
        return slots


def build_sample_index(sizes: NDArray[np.int32], doc_idx: Table, length: int) -> Table:
    """Where the windows begin [samples + 1, 2]: place in `doc_idx` and offset there of token j·L, as NeoX counts.

    int32 while both columns together have fewer than 2³¹ numbers, else int64: NeoX's own rule.
    """
    read = sizes[doc_idx].astype(np.int64)
    ends = np.cumsum(read)
    samples = max(0, int(ends[-1]) - 1) // length if len(ends) else 0
    narrow = 2 * (samples + 1) < np.iinfo(np.int32).max
    index = np.zeros((samples + 1, 2), np.int32 if narrow else np.int64)
    for first in range(0, samples + 1, BLOCK):
        tokens = np.arange(first, min(first + BLOCK, samples + 1), dtype=np.int64) * length
        places = np.minimum(np.searchsorted(ends, tokens, side="right"), max(0, len(ends) - 1))
        index[first : first + BLOCK, 0] = places
        if len(ends):
            index[first : first + BLOCK, 1] = tokens - (ends[places] - read[places])
    return index


def arm_index(sizes: NDArray[np.int32], sequences: NDArray[np.int64], length: int) -> NeoxIndex:
    """The tables with which NeoX reads base sequence `sequences[slot]` at each slot of one epoch.

    Documents stay in the order of the store, so sample i is sequence i: the tokens i·L … i·L + L. `sizes` are the true
    documents of the materialized arm, `sequences` [S] a permutation of all its sequences.
    """
    doc_idx = np.arange(len(sizes), dtype=np.int32)
    narrow = len(sequences) < np.iinfo(np.uint32).max - 1
    return NeoxIndex(
        doc_idx=doc_idx,
        sample_idx=build_sample_index(sizes, doc_idx, length),
        shuffle_idx=sequences.astype(np.uint32 if narrow else np.int64),
        starts=document_starts(sizes),
        length=length,
    )


def index_stem(prefix: Path, *, slots: int, length: int, seed: int, name: str = "train") -> Path:
    """The path that NeoX gives the tables of a store `prefix`, up to `_doc_idx.npy` and its sisters.

    `slots` is train_iters × train_batch_size, `seed` NeoX's own: it looks for exactly this name.
    """
    return prefix.with_name(f"{prefix.name}_{name}_indexmap_{slots}ns_{length}sl_{seed}s_packedpi_ac")


def save_index(stem: Path, index: NeoxIndex, *, slots: int) -> list[Path]:
    """Write the three tables and return their paths. `slots` is what training will read.

    NeoX takes a shuffle_idx of n entries for n − 1 samples. Where training reads all of them, one entry that nobody
    reads is added; NeoX then warns that the lengths differ.
    """
    assert slots <= index.samples
    shuffle = index.shuffle_idx
    if slots == len(shuffle):
        shuffle = np.append(shuffle, shuffle[:1])
    paths = []
    for name, table in zip(TABLES, (index.doc_idx, index.sample_idx, shuffle), strict=True):
        path = stem.with_name(f"{stem.name}_{name}_idx.npy")
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, table, allow_pickle=False)
        paths.append(path)
    return paths


def find_stem(place: Path) -> Path:
    """The common path of the one triple of tables at `place`: a folder, or a beginning of their names.

    Raises:
        CostarError: no triple, or several.
    """
    folder, beginning = (place, "") if place.is_dir() else (place.parent, place.name)
    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob(f"{glob.escape(beginning)}*_idx.npy")):
        match = re.fullmatch(r"(.+)_(doc|sample|shuffle)_idx\.npy", path.name)
        if match is not None and (not beginning or match[1] == beginning or match[1].startswith(f"{beginning}_")):
            found.setdefault(match[1], set()).add(match[2])
    whole = [stem for stem, names in found.items() if len(names) == len(TABLES)]
    if len(whole) != 1:
        lines = [f"{stem}_{{{','.join(sorted(names))}}}_idx.npy" for stem, names in found.items()]
        raise CostarError(
            str(place),
            found="; ".join(lines) or "no index files",
            expected="one triple of doc_idx, sample_idx and shuffle_idx",
            mend="give the prefix of one triple, such as the path up to _doc_idx.npy, and copy what is missing",
        )
    return folder / whole[0]


def _load(path: Path) -> Table:
    try:
        table: Table = np.load(path, mmap_mode="r", allow_pickle=False)
        kind = table.dtype.kind
    except (OSError, ValueError, EOFError) as error:
        expected, mend = "a table of integers (.npy)", "copy the file again"
        raise CostarError(str(path), found=f"not a whole table ({error})", expected=expected, mend=mend) from None
    if kind not in "iu":
        mend = "take the index files that NeoX made"
        raise CostarError(str(path), found=f"numbers of type {table.dtype}", expected="integers", mend=mend)
    return table


def _blocks(table: Table) -> Iterator[NDArray[np.int64]]:
    """A mapped table in blocks of memory."""
    for first in range(0, len(table), BLOCK):
        yield np.asarray(table[first : first + BLOCK]).astype(np.int64)
