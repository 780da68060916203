"""Keyed hashes: every random choice of costar is a hash of names, never a stream that other choices can shift."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]


def keyed_hash(*parts: int | str) -> int:
    """blake2b-64 of the parts, each with its type and length, so that ("a", "b") and ("ab",) differ."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = str(part).encode()
        state.update(f"{type(part).__name__[0]}{len(data)}:".encode())
        state.update(data)
    return int.from_bytes(state.digest(), "little")


def keyed_hashes(parts: Sequence[int | str], names: Iterable[str]) -> list[int]:
    """`keyed_hash(*parts, name)` of every name, several times as fast as one by one."""
    shared = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = str(part).encode()
        shared.update(f"{type(part).__name__[0]}{len(data)}:".encode() + data)
    found = []
    for name in names:
        state, data = shared.copy(), name.encode()
        state.update(b"s%d:%b" % (len(data), data))
        found.append(int.from_bytes(state.digest(), "little"))
    return found


def keyed_seed(*parts: int | str) -> int:
    """A seed in [0, 2⁶³) for generators that take signed integers."""
    return keyed_hash(*parts) >> 1


def keyed_unit(*parts: int | str) -> float:
    """A uniform number in [0, 1) with 53 random bits."""
    return (keyed_hash(*parts) >> 11) / 2**53


def mix64(a: U64, b: U64 | int) -> U64:
    """A well-mixed uint64 of each pair (a, b): the finalizer of SplitMix64 (Steele et al. 2014) applied twice."""
    with np.errstate(over="ignore"):
        z = np.asarray(a, np.uint64) + np.asarray(b, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.uint64(0x9E3779B97F4A7C15)
        for _ in range(2):
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return z


def mulhi64(a: U64, b: U64 | int) -> U64:
    """The high 64 bits of the 128-bit products a·b: maps a uniform a onto [0, b)."""
    a = np.asarray(a, np.uint64)
    b = np.asarray(b, np.uint64)
    low32 = np.uint64(0xFFFFFFFF)
    s = np.uint64(32)
    a_low, a_high = a & low32, a >> s
    b_low, b_high = b & low32, b >> s
    carry = (a_low * b_low) >> s
    middle = a_high * b_low + carry
    middle2 = a_low * b_high + (middle & low32)
    high: U64 = a_high * b_high + (middle >> s) + (middle2 >> s)
    return high


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def sha256_json(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def row_hashes(rows: NDArray[np.integer[Any]]) -> list[bytes]:
    """blake2b-128 of each row of ids [n, L+1], taken as little-endian uint32 (invariant 5)."""
    fixed = np.ascontiguousarray(rows, dtype="<u4")
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in fixed]


def step_digest(previous: bytes, hashes: Sequence[bytes]) -> bytes:
    """The rolling digest after one step: blake2b-128 of the previous digest and the step's row hashes in row order."""
    return hashlib.blake2b(previous + b"".join(hashes), digest_size=16).digest()


EMPTY_DIGEST = bytes(16)
