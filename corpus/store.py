"""The token store: `tokens.bin` and `tokens.idx` in the Megatron/NeoX MMIDIDX layout, read through memory maps.

`.bin` holds token ids back to back; every document ends with EOS. `.idx`, little-endian: magic, version u64 = 1, dtype
code u8, number of sequences u64, number of documents + 1 u64, sizes int32, byte offsets int64, document starts int64.
Opening reads the ends of the index alone, whatever its size; `check_idx` reads all of it, block by block.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CostarError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
DTYPES: dict[int, type[np.generic]] = {4: np.int32, 8: np.uint16}
MEND = "run `costar corpus` again: it rebuilds what is damaged"
BLOCK = 1 << 20  # documents worked on at once
SEARCHED = 1 << 16  # tokens looked up at once
DENSE = 64  # documents a token, up to which a stretch of the index is read instead of searched by halves


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """uint16 up to 65,536 ids, int32 above."""
    return np.dtype(np.uint16 if vocab_size <= 65_536 else np.int32)


def document_starts(sizes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where each document starts in the `.bin`, and the end of the last: [documents + 1], in tokens."""
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


@dataclass(frozen=True, kw_only=True)
class Starts:
    """`document_starts` without the array: looked up in a map of the byte offsets of an index.

    `pointers` [documents] lie in a file whose numbers are not aligned: numpy gathers from it as it is, but copies all of
    it to search it. `width` is the bytes of a token, `total` the tokens of all documents.
    """

    pointers: NDArray[np.int64]
    width: int
    total: int

    @classmethod
    def of(cls, sizes: NDArray[np.int32]) -> Starts:
        """The starts of documents in memory."""
        starts = document_starts(sizes)
        return cls(pointers=starts[:-1], width=1, total=int(starts[-1]))

    def __len__(self) -> int:
        return len(self.pointers) + 1

    def __getitem__(self, places: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Where documents [n] start, in tokens; the end of the last one at the number of documents."""
        places = np.asarray(places)
        found = np.full(places.shape, self.total, np.int64)
        inside = places < len(self.pointers)
        found[inside] = self.pointers[places[inside]] // self.width
        return found

    def search(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """For places in the stream [n], none beyond its end: how many documents start before each."""
        order = np.argsort(tokens)
        found = np.empty(len(tokens), np.int64)
        for first in range(0, len(tokens), SEARCHED):
            part = order[first : first + SEARCHED]
            wanted = tokens[part] * self.width
            low, high = self._halve(wanted[[0, -1]], 0, len(self.pointers)).tolist()
            if high - low <= DENSE * len(part):
                found[part] = low + np.searchsorted(np.array(self.pointers[low:high]), wanted)
            else:
                found[part] = self._halve(wanted, low, high)
        return found

    def _halve(self, wanted: NDArray[np.int64], first: int, last: int) -> NDArray[np.int64]:
        """The places in [first, last] of the pointers before which every smaller one lies, by gathers alone."""
        low, high = np.full(len(wanted), first), np.full(len(wanted), last)
        for _ in range((last - first).bit_length()):
            middle = (low + high) // 2
            smaller = self.pointers[np.minimum(middle, len(self.pointers) - 1)] < wanted
            undecided = low < high
            low = np.where(undecided & smaller, middle + 1, low)
            high = np.where(undecided & ~smaller, middle, high)
        return low


def write_bin(path: Path, parts: Iterable[Path], size: int) -> str:
    """Join part files into `path`, whose `size` in bytes is reserved first, so that a full disk shows at once; its sha256."""
    state = hashlib.sha256()
    with path.open("wb") as out:
        if size:
            os.posix_fallocate(out.fileno(), 0, size)
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(1 << 24):
                    state.update(block)
                    out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return state.hexdigest()


def write_idx(path: Path, parts: NDArray[np.int32] | Sequence[NDArray[np.int32]], dtype: np.dtype[np.generic]) -> None:
    """Write the index of documents, one sequence a document. Memory: one block of documents, however many there are.

    `parts` are their sizes in tokens, in one array or in several that follow each other; memory maps are welcome.
    """
    code = next(code for code, known in DTYPES.items() if np.dtype(known) == dtype)
    arrays = [parts] if isinstance(parts, np.ndarray) else parts
    count = sum(len(part) for part in arrays)
    with path.open("wb") as out:
        out.write(HEADER.pack(MAGIC, 1, code, count, count + 1))
        for block in _blocks(arrays):
            out.write(block.astype("<i4").data)
        begin = 0
        for block in _blocks(arrays):
            ends = begin + np.cumsum(block, dtype=np.int64)
            out.write(((ends - block) * dtype.itemsize).astype("<i8").data)
            begin = int(ends[-1])
        for first in range(0, count + 1, BLOCK):
            out.write(np.arange(first, min(first + BLOCK, count + 1), dtype="<i8").data)


def _blocks(arrays: Sequence[NDArray[np.int32]]) -> Iterator[NDArray[np.int32]]:
    for array in arrays:
        for first in range(0, len(array), BLOCK):
            yield array[first : first + BLOCK]


@dataclass(frozen=True)
class TokenStore:
    """An opened store: `tokens` [T] is a read-only memory map, `sizes` the tokens of each document.

    `pointers` are the byte offsets of the documents, None where the sizes are in memory.
    """

    tokens: NDArray[np.generic]
    sizes: NDArray[np.int32]
    pointers: NDArray[np.int64] | None = None

    @classmethod
    def open(cls, folder: Path) -> TokenStore:
        """Open `folder/tokens.bin` and `.idx`.

        Raises:
            CostarError: a file is missing or cut, or the index belongs to another corpus.
        """
        return cls.open_prefix(folder / "tokens", mend=MEND)

    @classmethod
    def open_prefix(cls, prefix: Path, *, mend: str) -> TokenStore:
        """Open `<prefix>.bin` and `<prefix>.idx`, by whatever program they were made.

        Raises:
            CostarError: a file is missing or cut, or the index belongs to another corpus.
        """
        bin_path, idx_path = (prefix.with_name(prefix.name + suffix) for suffix in (".bin", ".idx"))
        index = read_idx(idx_path, mend=mend)
        expected = index.tokens * index.dtype.itemsize
        found = bin_path.stat().st_size if bin_path.is_file() else None
        if found != expected:
            raise CostarError(
                str(bin_path),
                found="no such file" if found is None else f"{found:,} bytes",
                expected=f"{expected:,} bytes, as {idx_path.name} says",
                mend=f"{mend}; the file was cut short, or the index is of another corpus",
            )
        tokens = np.memmap(bin_path, dtype=index.dtype, mode="r") if expected else np.zeros(0, index.dtype)
        return cls(tokens, index.sizes, index.pointers)

    @cached_property
    def starts(self) -> Starts:
        """Where the documents start."""
        if self.pointers is None:
            return Starts.of(self.sizes)
        return Starts(pointers=self.pointers, width=self.tokens.dtype.itemsize, total=len(self.tokens))

    def sequences(self, length: int) -> int:
        """The number S of base sequences of L + 1 tokens at stride L: (T − 1) // L."""
        return (len(self.tokens) - 1) // length


@dataclass(frozen=True, kw_only=True)
class TokenIndex:
    """An opened index: the type of the tokens, and per document its size in tokens and its offset in bytes, both mapped."""

    dtype: np.dtype[np.generic]
    sizes: NDArray[np.int32]
    pointers: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """The tokens of all documents, as the last entry says."""
        return int(self.pointers[-1]) // self.dtype.itemsize + int(self.sizes[-1]) if len(self.sizes) else 0


def read_idx(path: Path, *, mend: str = MEND) -> TokenIndex:
    """Map an index. Its header, its size and its first and last entries are checked; `check_idx` checks the others.

    Raises:
        CostarError: not an index, of another version, or with counts that do not agree.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            data = file.read(HEADER.size)
    except (FileNotFoundError, NotADirectoryError):
        raise _fail(path, "no such file", "an MMIDIDX index", mend) from None
    if len(data) < HEADER.size:
        raise _fail(path, f"{len(data)} bytes", f"a header of {HEADER.size} bytes", mend)
    magic, version, code, sequences, starts = HEADER.unpack(data)
    if magic != MAGIC or version != 1 or code not in DTYPES:
        found = f"magic {magic!r}, version {version}, dtype {code}"
        raise _fail(path, found, "MMIDIDX, version 1, dtype 4 or 8", mend)
    expected = HEADER.size + 12 * sequences + 8 * starts
    if size != expected:
        raise _fail(path, f"{size:,} bytes", f"{expected:,} bytes for {sequences:,} sequences", mend)
    index = TokenIndex(
        dtype=np.dtype(DTYPES[code]),
        sizes=_map(path, np.dtype("<i4"), sequences, HEADER.size),
        pointers=_map(path, np.dtype("<i8"), sequences, HEADER.size + 4 * sequences),
    )
    if sequences and (index.pointers[0] != 0 or index.pointers[-1] % index.dtype.itemsize or index.sizes[-1] < 0):
        raise _inconsistent(path, mend)
    return index


def check_idx(path: Path, *, mend: str = MEND) -> None:
    """Read a whole index, block by block: no size is negative, and every offset follows from the sizes before it.

    Raises:
        CostarError: what `read_idx` raises, or offsets that do not follow.
    """
    index = read_idx(path, mend=mend)
    begin = 0
    for first in range(0, len(index.sizes), BLOCK):
        sizes = np.array(index.sizes[first : first + BLOCK])
        ends = begin + np.cumsum(sizes, dtype=np.int64)
        expected = (ends - sizes) * index.dtype.itemsize
        if (sizes < 0).any() or not np.array_equal(index.pointers[first : first + BLOCK], expected):
            raise _inconsistent(path, mend)
        begin = int(ends[-1])


def _map(path: Path, dtype: np.dtype[Any], count: int, offset: int) -> NDArray[Any]:
    """A read-only view of numbers in a file, as a plain array: slices of a memmap object cost far more."""
    if not count:
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r", offset=offset, shape=(count,)))


def _fail(path: Path, found: str, expected: str, mend: str) -> CostarError:
    return CostarError(str(path), found=found, expected=expected, mend=mend)


def _inconsistent(path: Path, mend: str) -> CostarError:
    return _fail(path, "offsets that do not follow from the sizes", "consecutive sequences", mend)
