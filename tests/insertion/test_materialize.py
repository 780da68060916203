from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from costar.core.errors import CostarError
from costar.corpus.neox import arm_index
from costar.corpus.store import TokenStore
from costar.corpus.windows import StoreWindows
from costar.insertion.materialize import (
    EditList,
    edited_documents,
    list_edits,
    materialize,
    read_edit_list,
    read_edited,
    write_edit_list,
)
from costar.insertion.order import FeistelOrder
from costar.insertion.overlay import Edits, Overlay
from costar.insertion.splice import find_spans
from hypothesis import given
from hypothesis import strategies as st

EOS = 0


@st.composite
def arms(draw: st.DrawFn) -> Overlay:
    """An overlay over a random store; most sequences carry a copy, so neighbours do."""
    length = draw(st.integers(8, 24))
    sizes = draw(st.lists(st.integers(1, 30), min_size=2, max_size=12).filter(lambda s: sum(s) > 2 * length))
    tokens = np.arange(sum(sizes)) % 60 + 1
    tokens[np.cumsum(sizes) - 1] = EOS
    dtype = draw(st.sampled_from([np.uint16, np.int32]))
    store = TokenStore(tokens.astype(dtype), np.array(sizes, np.int32))
    windows, size = StoreWindows(store, length), store.sequences(length)
    order = FeistelOrder(seed=draw(st.integers(0, 99)), draw=0, size=size)
    slots = np.array(sorted(draw(st.sets(st.integers(0, size - 1), min_size=size // 2))), np.int64)
    begins, payload, offsets = [], [], [0]
    for sequence in order.sequences(slots):
        n = draw(st.integers(1, length - 3))
        one = (np.array([sequence]), np.array([n]), np.array([draw(st.integers(1, length - 1 - n))]))
        spans = find_spans(*one, windows)
        begins.append(int(spans.begin[0]))
        payload += ([] if spans.at_boundary[0] else [EOS]) + [70] * n + [EOS]
        offsets.append(len(payload))
    edits = Edits(slots, np.array(begins, np.int64), np.array(offsets), np.array(payload, np.int64))
    return Overlay(windows, order, edits)


def scan(stream: np.ndarray) -> list[int]:
    """The documents of a stream, by looking at every token."""
    ends = np.flatnonzero(stream == EOS) + 1
    return np.diff(np.union1d(ends, [len(stream)]), prepend=0).tolist()


@given(arms())
def test_materialized_bytes_are_the_overlay_and_neox_reads_its_rows(
    tmp_path_factory: pytest.TempPathFactory, overlay: Overlay
) -> None:
    folder = tmp_path_factory.mktemp("out")
    store, path = overlay.store, folder / "tokens.bin"
    edits = list_edits(overlay.edits, overlay.order, overlay.length, store.tokens.dtype)
    (folder / "base.bin").write_bytes(store.tokens.tobytes())
    materialize(folder / "base.bin", edits, path)
    stream = np.fromfile(path, store.tokens.dtype)
    slots = np.arange(overlay.order.size)
    rows = overlay.sequences(slots)
    for row, sequence in zip(rows, overlay.order.sequences(slots), strict=True):
        begin = sequence * overlay.length
        assert np.array_equal(stream[begin : begin + overlay.length + 1], row)
        assert np.array_equal(read_edited(store.tokens, edits, begin, begin + overlay.length + 1), row)
    tail = overlay.order.size * overlay.length
    assert np.array_equal(stream[tail:], store.tokens[tail:])
    sizes = edited_documents(store.sizes, edits, EOS)
    assert sizes.tolist() == scan(stream)
    index = arm_index(sizes, overlay.order.sequences(slots), overlay.length)
    index.check("here")
    assert np.array_equal(np.stack([index.window(stream, slot) for slot in slots]), rows)


def some_edits() -> EditList:
    tokens = np.array([9, 8, 7, 6], np.uint16)
    return EditList(begins=np.array([2, 5]), offsets=np.array([0, 3, 4]), tokens=tokens)


def test_edits_are_kept_whole_and_equal_lists_give_equal_bytes(tmp_path: Path) -> None:
    paths = [write_edit_list(tmp_path / name, some_edits()) for name in ("a.parquet", "b.parquet")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    read = read_edit_list(paths[0])
    assert read.sha256() == some_edits().sha256()
    assert read.tokens.dtype == np.uint16


def test_an_empty_list_changes_nothing(tmp_path: Path) -> None:
    empty = EditList(begins=np.zeros(0, np.int64), offsets=np.zeros(1, np.int64), tokens=np.zeros(0, np.uint16))
    base = np.array([3, 0, 4, 5, 0], np.uint16)
    (tmp_path / "base.bin").write_bytes(base.tobytes())
    materialize(tmp_path / "base.bin", empty, tmp_path / "tokens.bin")
    assert (tmp_path / "tokens.bin").read_bytes() == base.tobytes()
    assert edited_documents(np.array([2, 3], np.int32), empty, EOS).tolist() == [2, 3]
    assert read_edit_list(write_edit_list(tmp_path / "e.parquet", empty)).sha256() == empty.sha256()


def test_edits_that_overlap_cannot_be_made() -> None:
    with pytest.raises(AssertionError):
        EditList(begins=np.array([2, 4]), offsets=np.array([0, 3, 4]), tokens=np.zeros(4, np.uint16))


@pytest.mark.parametrize(("begin", "end"), [(0, 8), (3, 4), (5, 6), (1, 3), (6, 8), (4, 4)])
def test_any_stretch_of_the_stream_can_be_read(begin: int, end: int) -> None:
    base = np.arange(10, 18, dtype=np.uint16)
    assert read_edited(base, some_edits(), begin, end).tolist() == [10, 11, 9, 8, 7, 6, 16, 17][begin:end]
    assert base.tolist() == list(range(10, 18))


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_bytes(b"PAR1")
    with pytest.raises(CostarError, match="not a whole Parquet file"):
        read_edit_list(tmp_path / "e.parquet")
