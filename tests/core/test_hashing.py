from __future__ import annotations

import numpy as np
from costar.core.hashing import keyed_hash, mix64, mulhi64, row_hashes, step_digest
from costar.insertion import reference
from hypothesis import given
from hypothesis import strategies as st

U64 = st.integers(0, 2**64 - 1)


@given(U64, U64)
def test_mix64_equals_the_plain_integer_form(a: int, b: int) -> None:
    assert int(mix64(np.array([a], np.uint64), np.array([b], np.uint64))[0]) == reference.mix(a, b)


@given(U64, U64)
def test_mulhi64_is_the_high_half_of_the_product(a: int, b: int) -> None:
    assert int(mulhi64(np.array([a], np.uint64), np.array([b], np.uint64))[0]) == (a * b) >> 64


def test_keyed_hash_tells_parts_and_types_apart() -> None:
    assert len({keyed_hash("a", "b"), keyed_hash("ab"), keyed_hash("a", "b", ""), keyed_hash(1), keyed_hash("1")}) == 5


def test_digest_is_the_one_of_the_contract() -> None:
    """blake2b-128 over the ids as little-endian uint32, then over the previous digest and the row hashes."""
    import hashlib

    rows = np.array([[1, 2], [3, 70_000]], np.int32)
    expected = [hashlib.blake2b(row.astype("<u4").tobytes(), digest_size=16).digest() for row in rows]
    assert row_hashes(rows) == expected
    assert step_digest(b"x" * 16, expected) == hashlib.blake2b(b"x" * 16 + b"".join(expected), digest_size=16).digest()


def test_row_hashes_do_not_depend_on_the_stored_width() -> None:
    rows = np.array([[5, 6, 7]])
    assert row_hashes(rows.astype(np.uint16)) == row_hashes(rows.astype(np.int64))
