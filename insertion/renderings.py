"""The texts of records as token ids: which row of `renderings` a copy is written in.

A rendering is one text, or several numbered ones `name/0`, `name/1`, …, of which copy c takes the one numbered c modulo
their count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True)
class Texts:
    """Token ids of every rendering: row k holds `values[ends[k] : ends[k + 1]]`."""

    values: NDArray[np.int32]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, renderings: pa.Table) -> Texts:
        lists = renderings.column("token_ids").combine_chunks()
        return cls(lists.values.to_numpy(), lists.offsets.to_numpy().astype(np.int64))

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.ends[rows + 1] - self.ends[rows]


def base_name(rendering: str) -> str:
    """The name that a suite file gives: without a number."""
    return rendering.split("/", maxsplit=1)[0]


def rendering_index(
    renderings: pa.Table, record_ids: pa.Array
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each name the first row of every record [n] and how many are numbered; −1 and 0 where it has none."""
    record = pc.index_in(renderings.column("record_id"), value_set=record_ids).combine_chunks()
    known = np.flatnonzero(~record.is_null().to_numpy(zero_copy_only=False))
    record = record.fill_null(-1).to_numpy()
    coded = renderings.column("rendering").combine_chunks().dictionary_encode()
    bases = [base_name(name) for name in coded.dictionary.to_pylist()]
    code = coded.indices.to_numpy()
    found = {}
    for name in sorted(set(bases)):
        wanted = np.flatnonzero([base == name for base in bases])
        rows = known[np.isin(code[known], wanted)]
        first = np.full(len(record_ids), -1, np.int64)
        first[record[rows][::-1]] = rows[::-1]
        found[name] = (first, np.bincount(record[rows], minlength=len(record_ids)))
    return found


def rendering_rows(exposures: pa.Table, renderings: pa.Table) -> NDArray[np.int64]:
    """The row of `renderings` [n] that each exposure [n] is written in; −1 where there is none."""
    keys = [
        pc.binary_join_element_wise(
            table.column("record_id").combine_chunks(), table.column("rendering").combine_chunks(), "\n"
        )
        for table in (exposures, renderings)
    ]
    rows: NDArray[np.int64] = pc.index_in(keys[0], value_set=keys[1]).fill_null(-1).to_numpy().astype(np.int64)
    return rows
