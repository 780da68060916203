"""The base once more, from its files: what `verify` holds the rows that training reads against.

Sequences are cut from the tokens themselves. Of a corpus with order tables, the documents are laid end to end as doc_idx
says and counted through, so sample_idx, by which training finds them, is tested and not trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CostarError
from ..corpus.neox import NeoxIndex
from ..corpus.ordered import check_tables
from ..corpus.store import TokenStore, check_idx
from ..corpus.windows import STEM, table_paths
from . import reference

HEADER = 34  # bytes of an .idx before its sizes
STRIDE = 256  # documents between two whose place in the stream is kept
BLOCK = STRIDE << 12


class ReferenceBase(Protocol):
    """The sequences of a base and their order."""

    def sequences(self, draw: int, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The base sequence that is read at each slot [n]."""

    def rows(self, sequences: NDArray[np.int64]) -> NDArray[Any]:
        """The ids [n, L+1] of sequences [n], as an array of its own."""


def open_reference(corpus: Path, facts: dict[str, Any], seed: int) -> ReferenceBase:
    """The base of a corpus folder, by the facts in its `corpus.json`."""
    dtype = np.dtype(np.uint16 if facts["vocab_size"] <= 65_536 else np.int32)
    tokens = np.asarray(np.memmap(corpus / "tokens.bin", dtype=dtype, mode="r"))
    if facts.get("order", "keyed") == "table":
        return _Laid(corpus, tokens, facts["sequence_length"])
    return _Cut(tokens, facts["sequence_length"], seed)


def check_indexes(corpus: Path, facts: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the index of a store, or with its order tables, read from end to end."""
    try:
        check_idx(corpus / "tokens.idx")
        if facts.get("order", "keyed") == "table":
            starts = TokenStore.open(corpus).starts
            check_tables(NeoxIndex.open(corpus / STEM, starts, length=facts["sequence_length"]), str(corpus))
    except CostarError as error:
        yield f"{error.place}: {error.found}, expected {error.expected}"


class _Cut:
    """Sequences that follow each other in the `.bin`, in a keyed order."""

    def __init__(self, tokens: NDArray[Any], length: int, seed: int):
        self._windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::length]
        self._seed = seed

    def sequences(self, draw: int, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        return reference.sequences_at(self._seed, draw, len(self._windows), slots)

    def rows(self, sequences: NDArray[np.int64]) -> NDArray[Any]:
        return np.array(self._windows[sequences])


class _Laid:
    """Sequences of the documents laid end to end, in the order of shuffle_idx whatever the draw."""

    def __init__(self, corpus: Path, tokens: NDArray[Any], length: int):
        self._tokens, self._length = tokens, length
        doc, _, shuffle = (np.asarray(np.load(path, mmap_mode="r")) for path in table_paths(corpus))
        self._doc, self._shuffle = doc, shuffle
        path = corpus / "tokens.idx"
        count = int(np.fromfile(path, "<u8", 1, offset=18)[0])
        self._sizes = np.asarray(np.memmap(path, "<i4", "r", HEADER, (count,)))
        self._begins = np.asarray(np.memmap(path, "<i8", "r", HEADER + 4 * count, (count,)))
        sums = [np.zeros(1, np.int64)]
        for first in range(0, len(doc), BLOCK):
            sizes = self._sizes[doc[first : first + BLOCK]].astype(np.int64)
            sums.append(np.add.reduceat(sizes, np.arange(0, len(sizes), STRIDE)))
        self._kept = np.cumsum(np.concatenate(sums))

    def sequences(self, draw: int, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._shuffle[slots].astype(np.int64)

    def rows(self, sequences: NDArray[np.int64]) -> NDArray[Any]:
        rows = np.empty((len(sequences), self._length + 1), self._tokens.dtype)
        kept = np.searchsorted(self._kept, sequences * self._length, side="right") - 1
        for number, (sequence, near) in enumerate(zip(sequences.tolist(), kept.tolist(), strict=True)):
            self._lay(rows[number], sequence * self._length, near)
        return rows

    def _lay(self, row: NDArray[Any], wanted: int, near: int) -> None:
        """Fill a row with the stream from a token on, counting from the last document whose place is known."""
        place, width = near * STRIDE, self._tokens.dtype.itemsize
        ends = self._kept[near] + np.cumsum(self._sizes[self._doc[place : place + STRIDE]], dtype=np.int64)
        skipped = int(np.searchsorted(ends, wanted, side="right"))
        offset = wanted - int(ends[skipped - 1] if skipped else self._kept[near])
        place, done = place + skipped, 0
        while done < len(row):
            document = int(self._doc[place])
            begin = int(self._begins[document]) // width
            part = self._tokens[begin + offset : begin + int(self._sizes[document])][: len(row) - done]
            row[done : done + len(part)] = part
            done, place, offset = done + len(part), place + 1, 0
