"""Parquet in one way: one writer, fixed row groups, a given schema, replaced as a whole. Equal rows give equal bytes.

Every page has a checksum, so that a flipped bit is an error and not another value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import CostarError
from .workspace import replacing

ROW_GROUP = 65_536


def write_table(path: Path, table: pa.Table) -> Path:
    """Write a table; the same rows in the same order always give the same bytes."""
    with replacing(path) as temporary:
        texts = [field.name for field in table.schema if pa.types.is_string(field.type)]  # numbers repeat too little
        pq.write_table(
            table,
            temporary,
            row_group_size=ROW_GROUP,
            compression="zstd",
            use_dictionary=texts,
            store_schema=False,
            write_page_checksum=True,
        )
    return path


def write_rows(path: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> Path:
    columns = {name: [row[name] for row in rows] for name in schema.names}
    return write_table(path, pa.table(columns, schema=schema))


def read_table(path: Path, *, mend: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one Parquet file.

    Raises:
        CostarError: the file is missing, cut short, damaged or not Parquet.
    """
    chosen = list(columns) if columns else None
    try:
        return pq.read_table(path, columns=chosen, partitioning=None, page_checksum_verification=True)
    except FileNotFoundError:
        raise CostarError(str(path), found="no such file", expected="a Parquet file", mend=mend) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise CostarError(
            str(path), found=f"not a whole Parquet file ({error})", expected="a Parquet file", mend=mend
        ) from None
