"""What training reads: base tokens plus an arm's exposures, joined while reading. Nothing is copied.

Needs numpy and pyarrow only, so a training process imports no tokenizer and no database.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..core.errors import CostarError
from ..core.parquet import read_table
from ..core.workspace import Workspace, check_files, corpus_facts
from ..corpus.store import TokenStore
from ..corpus.windows import Windows, open_windows
from .order import Order, make_order
from .renderings import Texts, rendering_rows

MEND = "run `costar insert` again"
CHUNK = 65_536
HASHED = 1 << 22


@dataclass(frozen=True)
class Edits:
    """Exposures of one arm and draw, sorted by slot: where each begins and what it writes (flat, with offsets [n+1])."""

    slots: NDArray[np.int64]
    begins: NDArray[np.int64]
    offsets: NDArray[np.int64]
    payload: NDArray[np.int32]

    def sha256(self) -> str:
        """A hash of everything that the edits change, and of nothing else."""
        state = hashlib.sha256()
        for array in (self.slots, self.begins, self.offsets, self.payload):
            for first in range(0, len(array), HASHED):
                state.update(np.ascontiguousarray(array[first : first + HASHED], "<i8").tobytes())
        return state.hexdigest()


class Overlay:
    """Sequences of one arm and draw by slot."""

    def __init__(self, windows: Windows, order: Order, edits: Edits):
        self.windows, self.order, self.edits = windows, order, edits

    @property
    def store(self) -> TokenStore:
        return self.windows.store

    @property
    def length(self) -> int:
        """L: a sequence has L + 1 tokens."""
        return self.windows.length

    def base(self, sequences: NDArray[np.int64]) -> NDArray[Any]:
        """The base sequences [n, L+1], unedited."""
        return self.windows.read(sequences)

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
    """The edits of an exposures table: EOS unless a document starts there, the record's ids, EOS.

    Raises:
        CostarError: an exposure of a rendering that is not there.
    """
    rows = rendering_rows(exposures, renderings)
    if (rows < 0).any():
        missing = exposures.slice(int(np.flatnonzero(rows < 0)[0]), 1).to_pylist()[0]
        raise CostarError(
            "renderings.parquet",
            found=f"no {missing['rendering']} of {missing['record_id']}",
            expected="every rendering that the exposures name",
            mend=MEND,
        )
    slots = exposures.column("slot").to_numpy()
    order = np.argsort(slots, kind="stable")
    slots, rows = slots[order], rows[order]
    before = (~exposures.column("at_boundary").combine_chunks().to_numpy(zero_copy_only=False))[order].astype(np.int64)
    begins = exposures.column("start").to_numpy().astype(np.int64)[order] - before
    texts = Texts.of(renderings)
    lengths = texts.lengths(rows)
    offsets = np.concatenate([[0], np.cumsum(lengths + before + 1)])
    payload = np.full(offsets[-1], eos, np.int32)
    for first in range(0, len(rows), CHUNK):
        part = slice(first, first + CHUNK)
        within = ranges(lengths[part])
        target = np.repeat(offsets[:-1][part] + before[part], lengths[part]) + within
        payload[target] = texts.values[np.repeat(texts.ends[rows[part]], lengths[part]) + within]
    return Edits(slots, begins, offsets, payload)


def ranges(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 … n − 1 for every length n, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def read_exposures(workspace: Workspace, arm: str, draw: int) -> pa.Table:
    """The exposures of an arm and draw, from its finished Parquet file."""
    check_files(workspace.insertion, "insert", mend=MEND)
    return read_table(workspace.exposures(arm, draw) / "exposures.parquet", mend=MEND)


def read_renderings(workspace: Workspace) -> pa.Table:
    """Every text that an exposure may be written in: of records, and of the fillers that take their places."""
    columns = ["record_id", "rendering", "token_ids"]
    paths = [workspace.insertion / name for name in ("renderings.parquet", "fillers.parquet")]
    return pa.concat_tables([read_table(path, mend=MEND, columns=columns) for path in paths if path.is_file()])


def open_overlay(workspace: Workspace, arm: str, draw: int, *, seed: int, length: int, eos: int) -> Overlay:
    """The overlay of an arm and draw of a built suite.

    Raises:
        CostarError: the corpus or the insertion is missing, cut short or half-written.
    """
    check_files(workspace.corpus, "tokens", mend="run `costar corpus` again")
    windows = open_windows(workspace.corpus, length)
    edits = read_edits(read_exposures(workspace, arm, draw), read_renderings(workspace), eos)
    return Overlay(windows, make_order(windows, seed=seed, draw=draw), edits)


def open_suite_overlay(workspace: Workspace, arm: str, draw: int, *, seed: int) -> Overlay:
    """`open_overlay` with the facts of the built corpus."""
    check_files(workspace.corpus, "tokens", mend="run `costar corpus` again")
    facts = corpus_facts(workspace)
    return open_overlay(workspace, arm, draw, seed=seed, length=facts["sequence_length"], eos=facts["eos_id"])
