"""The exposures of an arm as edits of the store, whatever order the corpus is read in.

With order tables a sequence is pieces of the `.bin`, and so is what a copy overwrites. Neighbours never overlap, for an
exposure spares the tokens that they share, as long as the tables read no document twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CostarError
from ..corpus.neox import NeoxIndex
from ..corpus.windows import TableWindows, places_of
from .materialize import EditList, list_edits
from .overlay import Edits, Overlay, ranges

COPIES = 1 << 10
BLOCK = 1 << 22


def edit_list(overlay: Overlay) -> EditList:
    """The edits of an arm by place in the `.bin`; one epoch only.

    Raises:
        CostarError: order tables that read a document twice: a copy in one of its places would be in the other, too.
    """
    windows, dtype = overlay.windows, overlay.store.tokens.dtype
    if not isinstance(windows, TableWindows):
        return list_edits(overlay.edits, overlay.order, overlay.length, dtype)
    _refuse_repeats(windows.index)
    edits = overlay.edits
    places = _places(edits, windows.index)
    # A stretch ends where the next token lies elsewhere, or belongs to another copy.
    fresh = np.ones(len(places), np.bool_)
    fresh[1:] = np.diff(places) != 1
    fresh[edits.offsets[:-1]] = True
    heads = np.flatnonzero(fresh)
    lengths = np.diff(heads, append=len(places))
    chosen = np.argsort(places[heads])
    source = np.repeat(heads[chosen], lengths[chosen]) + ranges(lengths[chosen])
    offsets = np.concatenate([[0], np.cumsum(lengths[chosen])]).astype(np.int64)
    return EditList(begins=places[heads[chosen]], offsets=offsets, tokens=edits.payload[source].astype(dtype))


def _places(edits: Edits, index: NeoxIndex) -> NDArray[np.int64]:
    """Where each token of the payload lies in the `.bin`."""
    places = np.empty(len(edits.payload), np.int64)
    lengths = np.diff(edits.offsets)
    for first in range(0, len(edits.slots), COPIES):
        part = slice(first, first + COPIES)
        windows = places_of(index.pieces(edits.slots[part])).reshape(-1, index.length + 1)
        row = np.repeat(np.arange(len(windows)), lengths[part])
        column = np.repeat(edits.begins[part], lengths[part]) + ranges(lengths[part])
        places[edits.offsets[first] : edits.offsets[first] + len(row)] = windows[row, column]
    return places


def _refuse_repeats(index: NeoxIndex) -> None:
    seen = np.zeros(len(index.starts) - 1, np.bool_)
    for first in range(0, len(index.doc_idx), BLOCK):
        block = np.asarray(index.doc_idx[first : first + BLOCK])
        seen[block] = True
    if int(seen.sum()) < len(index.doc_idx):
        raise CostarError(
            "--export megatron",
            found=f"order tables that read {len(index.doc_idx) - int(seen.sum()):,} documents again",
            expected="every document once: a copy written into one reading of it would be in the other, too",
            mend="read the arm as an overlay, with costar.torch_dataset",
        )
