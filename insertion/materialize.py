"""An edit list over a token stream: sorted, disjoint stretches that are written over the base; read, kept, applied.

It is what an arm of costar, or a corpus perturbed in place, amounts to as one contiguous stream.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..core.parquet import read_table, write_table
from ..core.workspace import replacing
from .order import Order
from .overlay import Edits

CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class EditList:
    """Edit i writes `tokens[offsets[i] : offsets[i+1]]` at token `begins[i]` of the stream."""

    begins: NDArray[np.int64]
    offsets: NDArray[np.int64]
    tokens: NDArray[Any]

    def __post_init__(self) -> None:
        assert len(self.offsets) == len(self.begins) + 1
        assert not len(self.begins) or self.begins[0] >= 0
        assert bool((self.begins[1:] >= self.ends[:-1]).all()), "edits are sorted and disjoint"

    @property
    def ends(self) -> NDArray[np.int64]:
        return self.begins + np.diff(self.offsets)

    def sha256(self) -> str:
        """A hash of everything that the edits change, and of nothing else."""
        state = hashlib.sha256()
        for array in (self.begins, self.offsets, self.tokens):
            for first in range(0, len(array), CHUNK):
                state.update(np.ascontiguousarray(array[first : first + CHUNK], "<i8").tobytes())
        return state.hexdigest()


def list_edits(edits: Edits, order: Order, length: int, dtype: np.dtype[Any]) -> EditList:
    """The exposures of an arm by place instead of by slot: begin = sequence · L + begin in the sequence.

    One epoch only: `edits.slots` lie below the number of sequences. Neighbours never overlap, for an exposure spares
    the tokens that they share.
    """
    assert not len(edits.slots) or edits.slots.max() < order.size
    begins = order.sequences(edits.slots) * length + edits.begins
    chosen = np.argsort(begins)
    lengths = np.diff(edits.offsets)[chosen]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    source = np.repeat(edits.offsets[:-1][chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return EditList(begins=begins[chosen], offsets=offsets, tokens=edits.payload[source].astype(dtype))


def read_edited(base: NDArray[Any], edits: EditList, begin: int, end: int) -> NDArray[Any]:
    """The tokens [begin, end) of the edited stream, as an array of their own."""
    out: NDArray[Any] = np.array(base[begin:end])
    first = int(np.searchsorted(edits.ends, begin, side="right"))
    last = int(np.searchsorted(edits.begins, end, side="left"))
    _scatter(out, edits, begin, first, last)
    return out


def _scatter(out: NDArray[Any], edits: EditList, begin: int, first: int, last: int) -> None:
    """Write the edits first … last − 1 over `out`, the tokens of the stream from `begin` on; the rest is cut off."""
    if first >= last:
        return
    offsets = edits.offsets[first : last + 1]
    at = np.repeat(edits.begins[first:last] - offsets[:-1] - begin, np.diff(offsets)) + np.arange(
        offsets[0], offsets[-1]
    )
    low, high = np.searchsorted(at, (0, len(out)))
    out[at[low:high]] = edits.tokens[offsets[0] + low : offsets[0] + high]


def materialize(base: Path, edits: EditList, path: Path) -> None:
    """Write the edited stream of a `.bin` file to `path`, whole or not at all.

    The kernel copies the base, then the edits are written over it in the order of the file. The room is reserved first,
    so that a full disk shows at once.
    """
    width = edits.tokens.dtype.itemsize
    with replacing(path) as temporary, base.open("rb") as source, temporary.open("wb") as out:
        size = os.fstat(source.fileno()).st_size
        assert not len(edits.begins) or edits.ends[-1] * width <= size
        if size:
            os.posix_fallocate(out.fileno(), 0, size)
        done = 0
        while done < size:
            done += os.sendfile(out.fileno(), source.fileno(), done, size - done)
        write_edits(out.fileno(), edits)


def write_edits(target: int, edits: EditList) -> None:
    """Write edits over the copy of a base in an open file, in its order."""
    width = edits.tokens.dtype.itemsize
    data, offsets = np.ascontiguousarray(edits.tokens).view(np.uint8).data, (edits.offsets * width).tolist()
    for number, begin in enumerate((edits.begins * width).tolist()):
        os.pwrite(target, data[offsets[number] : offsets[number + 1]], begin)


def edited_documents(sizes: NDArray[np.int32], edits: EditList, eos: int) -> NDArray[np.int32]:
    """The documents of the edited stream, in tokens: every EOS ends one. Nothing but the edits is read.

    `sizes` are those of the base, whose documents end with the EOS and have none inside.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    over = np.searchsorted(edits.begins, ends - 1, side="right") - 1
    lost = over >= 0
    lost[lost] = (ends - 1)[lost] < edits.ends[over[lost]]
    written = np.flatnonzero(edits.tokens == eos)
    owner = np.searchsorted(edits.offsets, written, side="right") - 1
    new = edits.begins[owner] + written - edits.offsets[owner] + 1
    every = np.union1d(ends[~lost], new)
    if total and (not len(every) or every[-1] != total):
        every = np.append(every, total)
    return np.diff(every, prepend=0).astype(np.int32)


def write_edit_list(path: Path, edits: EditList) -> Path:
    """Keep an edit list as Parquet: begin, length, tokens. Equal lists give equal bytes."""
    values = pa.array(edits.tokens)
    columns = {
        "begin": pa.array(edits.begins, pa.int64()),
        "length": pa.array(np.diff(edits.offsets), pa.int64()),
        "tokens": pa.LargeListArray.from_arrays(pa.array(edits.offsets, pa.int64()), values),
    }
    return write_table(path, pa.table(columns))


def read_edit_list(path: Path) -> EditList:
    """The edit list of a Parquet file.

    Raises:
        CostarError: the file is missing or damaged.
    """
    table = read_table(path, mend="make the edit list again")
    lists = table.column("tokens").combine_chunks()
    offsets = np.concatenate([[0], np.cumsum(table.column("length").to_numpy())]).astype(np.int64)
    return EditList(begins=table.column("begin").to_numpy(), offsets=offsets, tokens=lists.flatten().to_numpy())
