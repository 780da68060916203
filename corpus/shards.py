"""Shards of datatrove's DocumentTokenizer as a token store: `*.ds`, tokens back to back, each with `*.ds.index`.

The index holds the end of each document in tokens, u64 little-endian. Tokens are uint16, above 65,536 ids uint32, whose
bytes are those of costar's int32. `*.ds.metadata`, where it lies beside, names the tokenizer and the bytes of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CostarError
from ..core.workspace import replacing
from .store import write_bin, write_idx

BLOCK = 1 << 22
MEND = "copy the shard and its index again, or tokenize it anew"


def place_shards(shards: Sequence[Path], bin_path: Path, idx_path: Path, dtype: np.dtype[Any]) -> None:
    """Write `idx_path` for shards in their order, and `bin_path` as a link to the one shard or joined from several.

    Raises:
        CostarError: an index is missing, damaged or of another shard, or tokens have another width than `dtype`.
    """
    for shard in shards:
        _check_shard(shard, dtype)
    if len(shards) == 1:
        with replacing(idx_path) as new_idx:
            write_idx(new_idx, _Sizes(shards), dtype)
        return
    with replacing(bin_path) as new_bin, replacing(idx_path) as new_idx:
        write_bin(new_bin, shards, sum(shard.stat().st_size for shard in shards))
        write_idx(new_idx, _Sizes(shards), dtype)


class _Sizes(Sequence[NDArray[np.int32]]):
    """The document sizes of each shard, made when they are asked for: one shard at a time is in memory."""

    def __init__(self, shards: Sequence[Path]):
        self._shards = shards

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, number: Any) -> Any:
        ends = _read_ends(self._shards[number])
        sizes = np.empty(len(ends), np.int32)
        for first in range(0, len(ends), BLOCK):
            part = ends[first : first + BLOCK].astype(np.int64)
            sizes[first : first + BLOCK] = np.diff(part, prepend=int(ends[first - 1]) if first else 0)
        return sizes


def _read_ends(shard: Path) -> NDArray[np.uint64]:
    """The ends of a shard's documents, mapped."""
    path = index_of(shard)
    size = path.stat().st_size if path.is_file() else None
    if size is None or size % 8:
        raise CostarError(
            str(path),
            found="no such file" if size is None else f"{size:,} bytes",
            expected="the ends of the documents, 8 bytes each",
            mend="tokenize with save_index = True" if size is None else MEND,
        )
    if not size:
        return np.zeros(0, np.uint64)
    return np.asarray(np.memmap(path, "<u8", mode="r"))


def index_of(shard: Path) -> Path:
    """`x.ds.index` of `x.ds`."""
    return shard.with_name(shard.name + ".index")


def _check_shard(shard: Path, dtype: np.dtype[Any]) -> None:
    """A shard and its index fit each other and the tokenizer."""
    ends = _read_ends(shard)
    metadata = shard.with_name(shard.name + ".metadata")
    if metadata.is_file():
        width = metadata.read_text(encoding="utf-8", errors="replace").split("\n")[0].rpartition("|")[2]
        if width.isdigit() and int(width) != dtype.itemsize:
            raise CostarError(
                str(metadata),
                found=f"tokens of {width} bytes",
                expected=f"{dtype.itemsize}, for the vocabulary of the tokenizer",
                mend="name the tokenizer that the shards were made with",
            )
    for first in range(0, len(ends), BLOCK):
        part = ends[max(0, first - 1) : first + BLOCK]
        if (part[1:] <= part[:-1]).any() or part[0] == 0 or np.diff(part).max(initial=0) > np.iinfo(np.int32).max:
            raise CostarError(
                str(index_of(shard)),
                found="ends that do not ascend",
                expected="the end of each document, in tokens",
                mend=MEND,
            )
    expected = int(ends[-1]) * dtype.itemsize if len(ends) else 0
    if shard.stat().st_size != expected:
        raise CostarError(
            str(shard),
            found=f"{shard.stat().st_size:,} bytes",
            expected=f"{expected:,} bytes, as {index_of(shard).name} says",
            mend=f"{MEND}; or name the tokenizer that it was made with",
        )
