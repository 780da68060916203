"""The token store: `tokens.bin` and `tokens.idx` in the Megatron/NeoX MMIDIDX layout, read through a memory map.

`.bin` holds token ids back to back; every document ends with EOS. `.idx`, little-endian: magic, version u64 = 1, dtype
code u8, number of sequences u64, number of documents + 1 u64, sizes int32, byte offsets int64, document starts int64.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CostarError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
DTYPES: dict[int, type[np.generic]] = {4: np.int32, 8: np.uint16}
MEND = "run `costar corpus` again: it rebuilds what is damaged"


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """uint16 up to 65,536 ids, int32 above."""
    return np.dtype(np.uint16 if vocab_size <= 65_536 else np.int32)


def document_starts(sizes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where each document starts in the `.bin`, and the end of the last: [documents + 1], in tokens."""
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def write_bin(path: Path, parts: Iterable[Path], size: int) -> None:
    """Join part files into `path`, whose `size` in bytes is reserved first, so that a full disk shows at once."""
    with path.open("wb") as out:
        if size:
            os.posix_fallocate(out.fileno(), 0, size)
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(1 << 24):
                    out.write(block)
        out.flush()
        os.fsync(out.fileno())


def write_idx(path: Path, sizes: NDArray[np.int32], dtype: np.dtype[np.generic]) -> None:
    """Write the index of documents of `sizes` tokens, one sequence a document."""
    code = next(code for code, known in DTYPES.items() if np.dtype(known) == dtype)
    ends = np.cumsum(sizes, dtype=np.int64)
    pointers = (ends - sizes) * dtype.itemsize
    with path.open("wb") as out:
        out.write(HEADER.pack(MAGIC, 1, code, len(sizes), len(sizes) + 1))
        out.write(sizes.astype("<i4").tobytes())
        out.write(pointers.astype("<i8").tobytes())
        out.write(np.arange(len(sizes) + 1, dtype="<i8").tobytes())


@dataclass(frozen=True)
class TokenStore:
    """An opened store: `tokens` [T] is a read-only memory map, `sizes` the tokens of each document."""

    tokens: NDArray[np.generic]
    sizes: NDArray[np.int32]

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
        dtype, sizes = read_idx(idx_path, mend=mend)
        expected = int(sizes.sum(dtype=np.int64)) * dtype.itemsize
        found = bin_path.stat().st_size if bin_path.is_file() else None
        if found != expected:
            raise CostarError(
                str(bin_path),
                found="no such file" if found is None else f"{found:,} bytes",
                expected=f"{expected:,} bytes, as {idx_path.name} says",
                mend=f"{mend}; the file was cut short, or the index is of another corpus",
            )
        tokens = np.memmap(bin_path, dtype=dtype, mode="r") if expected else np.zeros(0, dtype)
        return cls(tokens, sizes)

    def sequences(self, length: int) -> int:
        """The number S of base sequences of L + 1 tokens at stride L: (T − 1) // L."""
        return (len(self.tokens) - 1) // length


def read_idx(path: Path, *, mend: str = MEND) -> tuple[np.dtype[np.generic], NDArray[np.int32]]:
    """The token dtype and the document sizes of an index, checked for consistency.

    Raises:
        CostarError: not an index, of another version, or with counts that do not agree.
    """

    def fail(found: str, expected: str) -> CostarError:
        return CostarError(str(path), found=found, expected=expected, mend=mend)

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise fail("no such file", "an MMIDIDX index") from None
    if len(data) < HEADER.size:
        raise fail(f"{len(data)} bytes", f"a header of {HEADER.size} bytes")
    magic, version, code, sequences, starts = HEADER.unpack_from(data)
    if magic != MAGIC or version != 1 or code not in DTYPES:
        raise fail(f"magic {magic!r}, version {version}, dtype {code}", "MMIDIDX, version 1, dtype 4 or 8")
    size = HEADER.size + 12 * sequences + 8 * starts
    if len(data) != size:
        raise fail(f"{len(data):,} bytes", f"{size:,} bytes for {sequences:,} sequences")
    dtype = np.dtype(DTYPES[code])
    sizes = np.frombuffer(data, "<i4", sequences, HEADER.size).astype(np.int32)
    pointers = np.frombuffer(data, "<i8", sequences, HEADER.size + 4 * sequences)
    ends = np.cumsum(sizes, dtype=np.int64)
    if (sizes < 0).any() or not np.array_equal(pointers, (ends - sizes) * dtype.itemsize):
        raise fail("offsets that do not follow from the sizes", "consecutive sequences")
    return dtype, sizes
