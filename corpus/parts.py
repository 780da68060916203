"""Part files of a step: one a task, written whole or not at all, each with a sum that the next step checks."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..core.errors import CostarError
from ..core.hashing import sha256_file, sha256_json
from ..core.workspace import replacing, write_text

GROUP_BYTES = 16 << 20  # a row group of text: what a task holds in memory at once
GROUP_ROWS = 65_536


def part_path(folder: Path, name: str, rank: int, suffix: str) -> Path:
    """Where a task of a step writes."""
    return folder / f"{name}-{rank:05d}{suffix}"


def shares_of(sizes: Sequence[int], tasks: int) -> list[range]:
    """Consecutive items for every task, about equal in size: the parts one after the other are the items in order."""
    total = sum(sizes)
    bounds, before, number = [0], 0, 0
    for task in range(1, tasks):
        while number < len(sizes) and (2 * before + sizes[number]) * tasks <= 2 * total * task:
            before += sizes[number]
            number += 1
        bounds.append(number)
    bounds.append(len(sizes))
    return [range(first, last) for first, last in itertools.pairwise(bounds)]


class PartWriter:
    """Rows to one Parquet file, a row group at a time."""

    def __init__(self, out: pq.ParquetWriter, schema: pa.Schema):
        self._out, self._schema = out, schema
        self._rows: dict[str, list[Any]] = {name: [] for name in schema.names}
        self._held = 0

    def add(self, n_bytes: int, *values: Any) -> None:
        """One row, in the order of the schema; `n_bytes` is about what it takes in memory."""
        for column, value in zip(self._rows.values(), values, strict=True):
            column.append(value)
        self._held += n_bytes
        if self._held >= GROUP_BYTES or len(next(iter(self._rows.values()))) >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        count = len(next(iter(self._rows.values())))
        if count:
            self._out.write_table(pa.table(self._rows, schema=self._schema), row_group_size=count)
        self._rows = {name: [] for name in self._schema.names}
        self._held = 0


@contextlib.contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file written a row group at a time; equal groups give equal bytes."""
    texts = [field.name for field in schema if pa.types.is_string(field.type) and field.name != "text"]
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression="zstd", compression_level=1, use_dictionary=texts, store_schema=False
        ) as out,
    ):
        yield out


@contextlib.contextmanager
def writing_part(path: Path, schema: pa.Schema) -> Iterator[PartWriter]:
    """A writer of rows; the file takes its name when the block ends well."""
    with table_writer(path, schema) as out:
        writer = PartWriter(out, schema)
        yield writer
        writer.flush()
    seal(path)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """A part that is one array (.npy)."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    seal(path)


def seal(path: Path) -> None:
    """Write down the sum of a finished part."""
    write_text(path.with_name(path.name + ".sha256"), sha256_file(path))


def checked(path: Path) -> Path:
    """A part whose bytes are those that its task wrote.

    Raises:
        CostarError: it is missing, or was changed between two steps.
    """
    seal_path = path.with_name(path.name + ".sha256")
    whole = path.is_file() and seal_path.is_file()
    if not whole or sha256_file(path) != seal_path.read_text(encoding="utf-8"):
        raise CostarError(
            str(path),
            found="other bytes than its task wrote" if whole else "no such part",
            expected="the parts of a step as they were written",
            mend=f"remove {path.parent} and run the same command again",
            exit_code=1,
        )
    return path


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a checked part in batches of bounded size."""
    yield from row_batches(checked(path), columns)


def row_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, one row group in memory at a time: `iter_batches` would fetch all of them ahead."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, columns=list(columns) if columns else None).to_batches(2048)


def join_parts(path: Path, parts: Sequence[Path], schema: pa.Schema) -> Path:
    """One Parquet file of all parts in order. Where row groups end depends on the rows alone, not on the parts.

    The schema has a column `n_bytes` and a column `text`.
    """
    with table_writer(path, schema) as out:
        pending: pa.Table = schema.empty_table()
        for part in parts:
            with pq.ParquetFile(checked(part), pre_buffer=False) as file:
                for group in range(file.num_row_groups):
                    pending = pa.concat_tables([pending, file.read_row_group(group).cast(schema)])
                    while (count := _whole_group(pending)) is not None:
                        out.write_table(pending.slice(0, count).combine_chunks(), row_group_size=count)
                        pending = pending.slice(count)
        if len(pending):
            out.write_table(pending.combine_chunks(), row_group_size=len(pending))
    return path


def _whole_group(table: pa.Table) -> int | None:
    """How many of the first rows make a row group; None when there are too few."""
    kept = pc.not_equal(table.column("text"), "").to_numpy()
    held = np.cumsum(table.column("n_bytes").to_numpy() * kept)
    full = int(np.searchsorted(held, GROUP_BYTES)) + 1
    count = min(full, GROUP_ROWS)
    return count if count <= len(table) else None


def code_sha256(modules: Sequence[str]) -> str:
    """A hash of modules of this room by their source text."""
    return sha256_json([sha256_file(Path(__file__).parent / f"{name}.py") for name in modules])
