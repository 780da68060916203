from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from costar.core.errors import CostarError
from costar.corpus.store import TokenStore, read_idx, token_dtype, write_bin, write_idx
from hypothesis import given
from hypothesis import strategies as st


def write_store(folder: Path, documents: list[list[int]], vocab: int = 1024) -> None:
    dtype = token_dtype(vocab)
    part = folder / "part"
    part.write_bytes(b"".join(np.array(d, dtype).tobytes() for d in documents))
    write_bin(folder / "tokens.bin", [part], part.stat().st_size)
    write_idx(folder / "tokens.idx", np.array([len(d) for d in documents], np.int32), dtype)


@given(
    st.lists(st.lists(st.integers(0, 1023), min_size=1, max_size=9), min_size=1, max_size=9),
    st.sampled_from([1024, 90_000]),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], vocab: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    write_store(folder, documents, vocab)
    store = TokenStore.open(folder)
    assert store.tokens.tolist() == [token for document in documents for token in document]
    assert store.sizes.tolist() == [len(document) for document in documents]
    assert store.tokens.dtype == token_dtype(vocab)


def test_index_has_the_megatron_layout(tmp_path: Path) -> None:
    """Read by the description of the format alone, as another program would."""
    write_store(tmp_path, [[1, 2, 3], [4, 5]])
    data = (tmp_path / "tokens.idx").read_bytes()
    assert data[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack_from("<QBQQ", data, 9) == (1, 8, 2, 3)
    assert struct.unpack_from("<2i2q3q", data, 34) == (3, 2, 0, 6, 0, 1, 2)
    assert len(data) == 34 + 12 * 2 + 8 * 3


def test_a_real_megatron_index_is_read(shared_data: Path) -> None:
    index = read_idx(shared_data / "megatron" / "tokensmith_data_tokenized_text_document.idx")
    found = (index.dtype, len(index.sizes), int(index.sizes.sum()), int(index.sizes.max()))
    assert found == (np.uint16, 21_990, 4_571_196, 1_009)
    assert index.tokens == 4_571_196


def test_a_truncated_bin_is_named(tmp_path: Path) -> None:
    write_store(tmp_path, [[1, 2, 3], [4, 5]])
    path = tmp_path / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CostarError, match=r"tokens.bin\n  found     7 bytes\n  expected  10 bytes"):
        TokenStore.open(tmp_path)


def test_the_index_of_another_corpus_is_named(tmp_path: Path) -> None:
    write_store(tmp_path, [[1, 2, 3], [4, 5]])
    write_idx(tmp_path / "tokens.idx", np.array([3, 3], np.int32), np.dtype(np.uint16))
    with pytest.raises(CostarError, match="of another corpus"):
        TokenStore.open(tmp_path)


@pytest.mark.parametrize("cut", [5, 30, 40, -1])
def test_a_damaged_index_is_named(tmp_path: Path, cut: int) -> None:
    write_store(tmp_path, [[1, 2, 3], [4, 5]])
    path = tmp_path / "tokens.idx"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CostarError, match=r"tokens\.idx"):
        TokenStore.open(tmp_path)
