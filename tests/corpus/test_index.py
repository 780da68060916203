"""The index of a store: opened by its ends, checked in blocks, searched where it lies, written in parts."""

from __future__ import annotations

import resource
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from costar.core.errors import CostarError
from costar.corpus import store as module
from costar.corpus.store import HEADER, MAGIC, Starts, TokenStore, check_idx, document_starts, read_idx, write_idx
from costar.corpus.windows import StoreWindows
from costar.insertion.order import FeistelOrder
from costar.insertion.splice import find_spans
from hypothesis import given
from hypothesis import strategies as st

U16 = np.dtype(np.uint16)
MANY = 100_000_000
EACH = 1_000


def write_sparse(folder: Path) -> None:
    """A store of 100 million documents that takes no room: holes, but for the ends of the index and some of its middle."""
    total = MANY * EACH
    with (folder / "tokens.bin").open("wb") as file:
        file.truncate(2 * total)
    sizes, pointers = HEADER.size, HEADER.size + 4 * MANY
    with (folder / "tokens.idx").open("wb") as file:
        file.write(HEADER.pack(MAGIC, 1, 8, MANY, MANY + 1))
        file.truncate(HEADER.size + 20 * MANY + 8)
        file.seek(sizes + 4 * (MANY - 1))
        file.write(np.array([EACH], "<i4").tobytes())
        file.seek(pointers + 8 * (MANY - 1))
        file.write(np.array([2 * (total - EACH)], "<i8").tobytes())


def test_a_hundred_million_documents_are_opened_and_planned_on_by_looking_up_what_is_needed(tmp_path: Path) -> None:
    write_sparse(tmp_path)
    length, copies = 2048, 5_000
    page = resource.getpagesize()
    before = resource.getrusage(resource.RUSAGE_SELF)
    tracemalloc.start()
    store = TokenStore.open(tmp_path)
    opened = tracemalloc.get_traced_memory()[1]
    windows = StoreWindows(store, length)
    slots = np.random.default_rng(0).integers(0, windows.size, copies)
    sequences = FeistelOrder(seed=1, draw=0, size=windows.size).sequences(slots)
    lengths = np.full(copies, 60)
    spans = find_spans(sequences, lengths, np.full(copies, 500), windows)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert len(store.sizes) == MANY
    assert len(store.tokens) == MANY * EACH
    assert opened < 1e6
    assert most < 50e6
    touched = (after.ru_minflt - before.ru_minflt + after.ru_majflt - before.ru_majflt) * page
    assert touched < 0.2 * (20 * MANY)
    assert (after.ru_inblock - before.ru_inblock) * 512 < 0.2 * (20 * MANY)
    assert (spans.begin >= 1).all()


@given(st.data())
def test_starts_are_those_of_the_documents_wherever_they_lie(data: st.DataObject) -> None:
    sizes = np.array(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=60)), np.int32)
    starts = document_starts(sizes)
    width = data.draw(st.sampled_from([1, 2, 4]))
    raw = np.zeros(2 + 8 * len(sizes), np.uint8)
    raw[2:] = (starts[:-1] * width).astype("<i8").view(np.uint8)
    pointers = np.ndarray((len(sizes),), "<i8", raw.data, 2)
    looked_up = Starts(pointers=pointers, width=width, total=int(starts[-1]))
    places = np.array(data.draw(st.lists(st.integers(0, len(sizes)), max_size=20)), np.int64)
    assert np.array_equal(looked_up[places], starts[places])
    tokens = np.array(data.draw(st.lists(st.integers(0, int(starts[-1])), max_size=80)), np.int64)
    dense = data.draw(st.sampled_from([0, module.DENSE]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DENSE", dense)
        patch.setattr(module, "SEARCHED", data.draw(st.integers(1, 90)))
        assert np.array_equal(looked_up.search(tokens), np.searchsorted(starts, tokens))


@given(st.lists(st.lists(st.integers(0, 99), max_size=9), max_size=5), st.integers(1, 7))
def test_parts_blocks_and_maps_give_the_bytes_of_one_array(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], block: int
) -> None:
    folder = tmp_path_factory.mktemp("index")
    arrays = [np.array(part, np.int32) for part in parts]
    whole = np.concatenate([np.zeros(0, np.int32), *arrays])
    starts = document_starts(whole)
    expected = HEADER.pack(MAGIC, 1, 8, len(whole), len(whole) + 1) + whole.astype("<i4").tobytes()
    expected += (starts[:-1] * 2).astype("<i8").tobytes() + np.arange(len(whole) + 1, dtype="<i8").tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        write_idx(folder / "a.idx", arrays, U16)
        write_idx(folder / "b.idx", read_idx(folder / "a.idx").sizes, U16)
        check_idx(folder / "a.idx")
    assert (folder / "a.idx").read_bytes() == (folder / "b.idx").read_bytes() == expected


@pytest.mark.parametrize(("place", "value"), [(34 + 4, 9), (34 + 4, -2), (34 + 4 * 50 + 8 * 20, 6)])
def test_an_inconsistent_entry_in_the_middle_is_found_by_the_whole_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, value: int
) -> None:
    path = tmp_path / "tokens.idx"
    write_idx(path, np.full(50, 3, np.int32), U16)
    data = bytearray(path.read_bytes())
    data[place : place + 4] = np.array([value], "<i4").tobytes()
    path.write_bytes(data)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert read_idx(path).tokens == 150
    with pytest.raises(CostarError, match="offsets that do not follow from the sizes"):
        check_idx(path)


def test_a_wrong_total_is_refused_at_opening(tmp_path: Path) -> None:
    (tmp_path / "tokens.bin").write_bytes(bytes(300))
    write_idx(tmp_path / "tokens.idx", np.full(50, 3, np.int32), U16)
    TokenStore.open(tmp_path)
    write_idx(tmp_path / "tokens.idx", np.full(49, 3, np.int32), U16)
    with pytest.raises(CostarError, match="the index is of another corpus"):
        TokenStore.open(tmp_path)


class Counted:
    """The byte offsets of many equal documents, made when asked for, and how many were."""

    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return MANY

    def __getitem__(self, asked: Any) -> np.ndarray:
        places = np.arange(*asked.indices(MANY)) if isinstance(asked, slice) else np.asarray(asked)
        self.read += len(places)
        return places.astype(np.int64) * 2 * EACH


@pytest.mark.parametrize("copies", [10, 5_000, 200_000])
def test_a_search_reads_a_small_part_of_a_large_index(copies: int) -> None:
    pointers: Any = Counted()
    starts = Starts(pointers=pointers, width=2, total=MANY * EACH)
    tokens = np.random.default_rng(0).integers(0, MANY * EACH, copies)
    assert np.array_equal(starts.search(tokens), -(-tokens // EACH))
    assert pointers.read <= 28 * copies + 100
