"""Parts are whole, in order, and the next step reads only what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.corpus.parts import checked, join_parts, part_path, read_batches, shares_of, write_array, writing_part
from hypothesis import given
from hypothesis import strategies as st

ROWS = pa.schema([("name", pa.string()), ("n_bytes", pa.int64()), ("text", pa.string())])


@given(st.lists(st.integers(0, 10**6), max_size=60), st.integers(1, 40))
def test_shares_are_the_items_in_order(sizes: list[int], tasks: int) -> None:
    shares = shares_of(sizes, tasks)
    assert len(shares) == tasks
    assert [number for share in shares for number in share] == list(range(len(sizes)))


def test_equal_items_are_shared_evenly() -> None:
    assert [len(share) for share in shares_of([7] * 32, 16)] == [2] * 16


def test_joined_parts_are_their_rows_in_order_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    for rank in range(3):
        with writing_part(part_path(tmp_path, "a", rank, ".parquet"), ROWS) as part:
            for number in range(rank * 2):
                part.add(9 << 20, f"{rank}-{number}", 9 << 20, "x" * 100)
    parts = [part_path(tmp_path, "a", rank, ".parquet") for rank in range(3)]
    first = join_parts(tmp_path / "one.parquet", parts, ROWS)
    second = join_parts(tmp_path / "two.parquet", parts, ROWS)
    assert first.read_bytes() == second.read_bytes()
    assert pq.read_table(first).column("name").to_pylist() == ["1-0", "1-1", "2-0", "2-1", "2-2", "2-3"]
    assert pq.ParquetFile(first).num_row_groups == 3  # two rows of nine megabytes make a group, whatever their parts


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_part_that_changed_between_two_steps_is_named(tmp_path: Path, damage: str) -> None:
    path = part_path(tmp_path, "a", 0, ".parquet")
    with writing_part(path, ROWS) as part:
        part.add(1, "a", 4, "text")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[:-3] if damage == "cut" else data)
    if damage == "remove":
        path.unlink()
    with pytest.raises(CostarError, match=r"a-00000\.parquet\n"):
        list(read_batches(path))


def test_an_array_comes_back(tmp_path: Path) -> None:
    path = part_path(tmp_path, "a", 7, ".npy")
    write_array(path, np.arange(5))
    assert np.load(checked(path)).tolist() == [0, 1, 2, 3, 4]
