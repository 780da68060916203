"""Sequences by number: cut from the .bin, or laid out by tables, against the definition token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from costar.core.errors import CostarError
from costar.corpus.neox import NeoxIndex
from costar.corpus.ordered import check_tables
from costar.corpus.store import TokenStore
from costar.corpus.windows import StoreWindows, TableWindows, Windows
from costar.insertion.order import TableOrder
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus.test_neox import index_of, layouts


def literal_boundaries(starts: list[int], sequence: int, target: int, length: int) -> tuple[int | None, int | None]:
    """The starts of documents nearest to a target in a sequence, looked for one by one."""
    inside = [start - sequence * length for start in starts if 1 <= start - sequence * length <= length]
    below = [place for place in inside if place < target]
    over = [place for place in inside if place >= target]
    return (max(below) if below else None), (min(over) if over else None)


def check_windows(windows: Windows, stream: list[int], starts: list[int]) -> None:
    """`starts` are the places of the stream at which a document starts."""
    length = windows.length
    numbers = np.arange(windows.size)
    rows = [stream[number * length : number * length + length + 1] for number in range(windows.size)]
    assert windows.size == max(0, len(stream) - 1) // length
    assert windows.read(numbers).tolist() == rows
    assert windows.read(numbers[::-1]).tolist() == rows[::-1]
    for target in range(1, length):
        below, over = windows.boundaries(numbers, np.full(len(numbers), target))
        for number in range(windows.size):
            found = int(below[number]), int(over[number])
            expected = literal_boundaries(starts, number, target, length)
            assert (found[0] if found[0] >= 1 else None) == expected[0]
            assert (found[1] if found[1] <= length else None) == expected[1]


@given(layouts())
def test_tables_lay_out_the_documents_in_their_order(layout: tuple[list[int], list[int], int]) -> None:
    sizes, doc_idx, length = layout
    index = index_of(sizes, doc_idx, length)
    check_tables(index, "here")
    begins = np.cumsum([0, *sizes]).tolist()
    stream = [begins[document] + offset for document in doc_idx for offset in range(sizes[document])]
    read = np.cumsum([0, *(sizes[document] for document in doc_idx)]).tolist()
    store = TokenStore(np.arange(sum(sizes), dtype=np.uint16), np.array(sizes, np.int32))
    windows = TableWindows(store=store, index=index)
    check_windows(windows, stream, read[1:])
    order = TableOrder(index=index)
    slots = np.arange(windows.size)
    assert order.slots(order.sequences(slots), 0).tolist() == slots.tolist()
    with pytest.raises(CostarError, match="the samples of the order tables"):
        order.sequences(np.array([windows.size]))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 9))
def test_a_store_is_cut_at_every_lth_token(sizes: list[int], length: int) -> None:
    store = TokenStore(np.arange(sum(sizes), dtype=np.uint16), np.array(sizes, np.int32))
    check_windows(StoreWindows(store, length), list(range(sum(sizes))), np.cumsum(sizes).tolist())


def changed(index: NeoxIndex, table: str, place: object, value: object) -> NeoxIndex:
    tables = {name: np.array(getattr(index, name)) for name in ("doc_idx", "sample_idx", "shuffle_idx")}
    tables[table][place] = value
    return NeoxIndex(**tables, starts=index.starts, length=index.length)


@pytest.mark.parametrize(
    ("table", "place", "value", "message"),
    [
        ("sample_idx", (2, 1), 0, "sample 2 of sample_idx at another token"),
        ("sample_idx", (3, 0), 5, "sample 3 of sample_idx at another token"),
        ("shuffle_idx", 1, 0, "never reads sample"),
        ("doc_idx", slice(0, 2), [1, 4], "of sample_idx at another token"),
    ],
)
def test_tables_that_were_damaged_are_refused(table: str, place: object, value: object, message: str) -> None:
    index = index_of([3, 5, 1, 9, 2, 7], [4, 1, 3, 0, 5, 2], 4)
    if table == "shuffle_idx":
        value = index.shuffle_idx[0]
    with pytest.raises(CostarError, match=message):
        check_tables(changed(index, table, place, value), "here")


def test_blocks_of_documents_are_joined_without_a_seam(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from costar.corpus import ordered

    generator = np.random.default_rng(0)
    sizes, doc_idx = generator.integers(0, 9, 50), generator.permutation(50)
    index = index_of(sizes.tolist(), doc_idx.tolist(), 7)
    for block in (1, 3, 8):
        monkeypatch.setattr(ordered, "BLOCK", block)
        check_tables(index, "here")
        with pytest.raises(CostarError, match="sample 20 of sample_idx"):
            check_tables(changed(index, "sample_idx", (20, 1), index.sample_idx[20, 1] + 1), "here")
