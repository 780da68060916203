"""The sequences of a base: L + 1 tokens at stride L, of which neighbours share one.

Either they follow each other in the `.bin`, or they are put together from its documents as tables say. What comes after
(insertion, training, proof) reads them by number and does not see the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.workspace import read_facts
from .neox import TABLES, NeoxIndex, Pieces
from .store import TokenStore

STEM = "order"
GATHERED = 1 << 22  # tokens put together at once
FAR = 1 << 40  # no document starts there


class Windows(Protocol):
    """The S = `size` sequences of a base."""

    @property
    def store(self) -> TokenStore: ...

    @property
    def length(self) -> int: ...

    @property
    def size(self) -> int: ...

    def read(self, sequences: NDArray[np.int64]) -> NDArray[Any]:
        """The ids [n, L+1] of sequences [n], as an array of its own."""

    def boundaries(
        self, sequences: NDArray[np.int64], targets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The starts of documents nearest to a target [n], at least 1, in each sequence [n]: below it, and from it on.

        Counted from the first token of the sequence; what lies outside of it (below 1, above L) is no start in it. No
        token is read: documents end with EOS and hold none inside.
        """


def as_windows(tokens: NDArray[Any], length: int) -> NDArray[Any]:
    """A view of a token stream as its sequences [S, L+1] at stride L: neighbours share a token, nothing is copied."""
    size = max((len(tokens) - 1) // length, 0)
    return np.lib.stride_tricks.as_strided(
        tokens, (size, length + 1), (length * tokens.itemsize, tokens.itemsize), writeable=False
    )


class StoreWindows:
    """Sequence i is the tokens i·L … i·L + L of the `.bin`."""

    def __init__(self, store: TokenStore, length: int):
        self.store, self.length, self.size = store, length, store.sequences(length)
        self._view = as_windows(store.tokens, length)

    def read(self, sequences: NDArray[np.int64]) -> NDArray[Any]:
        rows: NDArray[Any] = self._view[np.asarray(sequences, np.int64)]
        return rows

    def boundaries(
        self, sequences: NDArray[np.int64], targets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        starts, origin = self.store.starts, sequences * self.length
        above = starts.search(origin + targets)
        return starts[above - 1] - origin, starts[above] - origin


@dataclass(frozen=True, kw_only=True)
class TableWindows:
    """Sequence i is sample i of NeoX's tables: the tokens i·L … i·L + L of the documents laid end to end."""

    store: TokenStore
    index: NeoxIndex

    @property
    def length(self) -> int:
        return self.index.length

    @property
    def size(self) -> int:
        return self.index.samples

    def read(self, sequences: NDArray[np.int64]) -> NDArray[Any]:
        sequences = np.asarray(sequences, np.int64)
        tokens = np.asarray(self.store.tokens)
        rows = np.empty((len(sequences), self.length + 1), tokens.dtype)
        at_once = max(1, GATHERED // (self.length + 1))
        for first in range(0, len(sequences), at_once):
            places = places_of(self.index.sample_pieces(sequences[first : first + at_once]))
            rows[first : first + at_once] = tokens.take(places).reshape(-1, self.length + 1)
        return rows

    def boundaries(
        self, sequences: NDArray[np.int64], targets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        pieces = self.index.sample_pieces(np.asarray(sequences, np.int64))
        counts = np.diff(pieces.offsets)
        before = np.cumsum(pieces.lengths) - pieces.lengths
        heads = pieces.offsets[:-1]
        # Every piece but the first of a window begins where its document does; the first begins at 0, outside [1, L].
        begins = before - np.repeat(before[heads], counts)
        below = begins < np.repeat(targets, counts)
        if not len(heads):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        under = np.maximum.reduceat(np.where(below, begins, -FAR), heads)
        return under, np.minimum.reduceat(np.where(below, FAR, begins), heads)


def places_of(pieces: Pieces) -> NDArray[np.int64]:
    """Where the tokens of windows lie in the `.bin`, one after the other."""
    before = np.cumsum(pieces.lengths) - pieces.lengths
    return np.repeat(pieces.begins - before, pieces.lengths) + np.arange(int(pieces.lengths.sum()))


@dataclass(frozen=True, kw_only=True)
class TableStream:
    """The tokens that the sequences of order tables make up, laid end to end: read like an array of S·L + 1 ids."""

    windows: TableWindows

    def __len__(self) -> int:
        return self.windows.size * self.windows.length + 1 if self.windows.size else 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.windows.store.tokens.dtype

    def __getitem__(self, wanted: slice | NDArray[np.int64]) -> NDArray[Any]:
        length = self.windows.length
        if isinstance(wanted, slice):
            begin, end, _ = wanted.indices(len(self))
            if end <= begin:
                return np.zeros(0, self.dtype)
            first, last = begin // length, min((end - 1) // length, self.windows.size - 1)
            rows = self.windows.read(np.arange(min(first, last), last + 1))
            stream = np.concatenate([rows[:, :-1].ravel(), rows[-1, -1:]])
            origin = min(first, last) * length
            return stream[begin - origin : end - origin]
        places = np.asarray(wanted, np.int64)
        sequences = np.minimum(places // length, self.windows.size - 1)
        unique, rows_of = np.unique(sequences, return_inverse=True)
        found: NDArray[Any] = self.windows.read(unique)[rows_of.reshape(places.shape), places - sequences * length]
        return found


def stream_of(windows: Windows) -> NDArray[Any]:
    """What training reads, as one array of ids: the `.bin` itself, or something that reads like it."""
    if isinstance(windows, TableWindows):
        return TableStream(windows=windows)  # type: ignore[return-value]
    return windows.store.tokens


def table_paths(folder: Path) -> list[Path]:
    """Where the tables of a corpus folder lie, whether it has some or not."""
    return [folder / f"{STEM}_{name}_idx.npy" for name in TABLES]


def has_tables(folder: Path) -> bool:
    """Whether a finished corpus is read in the order of tables."""
    facts = read_facts(folder / "corpus.json", [], mend="run `costar corpus`")
    return bool(facts.get("order", "keyed") == "table")


def open_windows(folder: Path, length: int, store: TokenStore | None = None) -> Windows:
    """The sequences of L = `length` tokens of a finished corpus folder; `store` spares opening it again.

    Raises:
        CostarError: a file is missing or cut, or belongs to another corpus.
    """
    store = store or TokenStore.open(folder)
    if not has_tables(folder):
        return StoreWindows(store, length)
    index = NeoxIndex.open(folder / STEM, store.starts, length=length, check=False)
    return TableWindows(store=store, index=index)
