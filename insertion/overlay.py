"""What training reads: base tokens plus an arm's exposures, joined while reading. Nothing is copied.

Needs numpy and pyarrow only, so a training process imports no tokenizer and no database.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..core.parquet import read_table
from ..core.workspace import Workspace, check_files, corpus_facts
from ..corpus.store import TokenStore
from .order import Order

MEND = "run `costar insert` again"


@dataclass(frozen=True)
class Edits:
    """Exposures of one arm and draw, sorted by slot: where each begins and what it writes (flat, with offsets [n+1])."""

    slots: NDArray[np.int64]
    begins: NDArray[np.int64]
    offsets: NDArray[np.int64]
    payload: NDArray[np.int64]

    def sha256(self) -> str:
        """A hash of everything that the edits change, and of nothing else."""
        state = hashlib.sha256()
        for array in (self.slots, self.begins, self.offsets, self.payload):
            state.update(np.ascontiguousarray(array, "<i8").tobytes())
        return state.hexdigest()


class Overlay:
    """Sequences of one arm and draw by slot."""

    def __init__(self, store: TokenStore, length: int, order: Order, edits: Edits):
        self.store, self.length, self.order, self.edits = store, length, order, edits
        self._stride = np.arange(length + 1)

    def base(self, sequences: NDArray[np.int64]) -> NDArray[Any]:
        """The base sequences [n, L+1], unedited."""
        rows: NDArray[Any] = self.store.tokens[np.asarray(sequences, np.int64)[:, None] * self.length + self._stride]
        return rows

    def sequences(self, slots: NDArray[np.int64]) -> NDArray[Any]:
        """The ids [n, L+1] that training reads at the slots [n]."""
        slots = np.asarray(slots, np.int64)
        rows = self.base(self.order.sequences(slots))
        edits = self.edits
        if len(edits.slots):
            found = np.minimum(np.searchsorted(edits.slots, slots), len(edits.slots) - 1)
            for row in np.flatnonzero(edits.slots[found] == slots):
                edit = found[row]
                text = edits.payload[edits.offsets[edit] : edits.offsets[edit + 1]]
                begin = edits.begins[edit]
                rows[row, begin : begin + len(text)] = text
        return rows


def read_edits(exposures: pa.Table, renderings: pa.Table, eos: int) -> Edits:
    """The edits of an exposures table: EOS unless a document starts there, the record's ids, EOS."""
    ids: dict[tuple[str, str], NDArray[np.int64]] = {}
    keys = zip(renderings.column("record_id").to_pylist(), renderings.column("rendering").to_pylist(), strict=True)
    lists = renderings.column("token_ids").combine_chunks()
    values, ends = lists.values.to_numpy(), lists.offsets.to_numpy()
    for number, key in enumerate(keys):
        ids[key] = values[ends[number] : ends[number + 1]]
    columns = [exposures.column(name).to_pylist() for name in ("record_id", "rendering", "at_boundary")]
    slots = exposures.column("slot").to_numpy()
    order = np.argsort(slots, kind="stable")
    end = np.array([eos])
    pieces = []
    for record_id, rendering, at_boundary in zip(*columns, strict=True):
        record = ids[(record_id, rendering)]
        pieces.append(np.concatenate([record, end] if at_boundary else [end, record, end]))
    begins = exposures.column("start").to_numpy().astype(np.int64) - ~np.array(columns[2], dtype=bool)
    pieces = [pieces[i] for i in order]
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)])
    payload = np.concatenate(pieces).astype(np.int64) if pieces else np.zeros(0, np.int64)
    return Edits(slots[order], begins[order], offsets.astype(np.int64), payload)


def read_exposures(workspace: Workspace, arm: str, draw: int) -> pa.Table:
    """The exposures of an arm and draw, from its finished Parquet file."""
    check_files(workspace.insertion, "insert", mend=MEND)
    return read_table(workspace.exposures(arm, draw) / "exposures.parquet", mend=MEND)


def open_overlay(workspace: Workspace, arm: str, draw: int, *, seed: int, length: int, eos: int) -> Overlay:
    """The overlay of an arm and draw of a built suite.

    Raises:
        CostarError: the corpus or the insertion is missing, cut short or half-written.
    """
    check_files(workspace.corpus, "tokens", mend="run `costar corpus` again")
    store = TokenStore.open(workspace.corpus)
    renderings = read_table(workspace.insertion / "renderings.parquet", mend=MEND)
    edits = read_edits(read_exposures(workspace, arm, draw), renderings, eos)
    return Overlay(store, length, Order(seed=seed, draw=draw, size=store.sequences(length)), edits)


def open_suite_overlay(workspace: Workspace, arm: str, draw: int, *, seed: int) -> Overlay:
    """`open_overlay` with the facts of the built corpus."""
    check_files(workspace.corpus, "tokens", mend="run `costar corpus` again")
    facts = corpus_facts(workspace)
    return open_overlay(workspace, arm, draw, seed=seed, length=facts["sequence_length"], eos=facts["eos_id"])


def exposures_path(workspace: Workspace, arm: str, draw: int) -> Path:
    return workspace.exposures(arm, draw) / "exposures.parquet"
