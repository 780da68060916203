"""A user's own text: .txt (a document a file), .jsonl (also .zst, .gz) and .parquet (a document a row), by path or glob.

A .txt is taken byte for byte, Windows line ends too; only a mark of UTF-8 at its start is left out. Documents are
UTF-8, without a limit on their number and of at most 256 MiB each. A flipped bit in a .parquet is noticed where its
writer stored checksums of pages; without them, which is usual, most are not.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...core.design import SourceDesign
from ...core.errors import CostarError, shorten
from ..documents import Item, RawDocument
from ..lines import LIMIT, decoded, numbered_lines, parsed_line, too_long, unreadable

ONE_PARAGRAPH_A_LINE = False
SUFFIXES = (".txt", ".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet")
BATCH_BYTES = 32 * 2**20  # text of a Parquet file in memory at once, about
BATCH_ROWS = 1024


def items(source: SourceDesign, folders: Sequence[Path]) -> list[Item]:
    """The files of every pattern, in the order of the patterns and sorted within one. Folders are passed over.

    Raises:
        CostarError: a pattern without files; a broken link, a pipe, a file of another kind, one that may not be read or
            whose name is not plain text; a file that is listed twice, or two files of one name.
    """
    found: list[Item] = []
    by_name: dict[str, str] = {}
    by_place: dict[tuple[int, int], str] = {}
    for pattern in source.paths:
        hits, folder = _hits(pattern, folders)
        for hit, status in hits:
            name = os.path.relpath(hit, folder) if Path(hit).is_relative_to(folder) else os.path.basename(hit)
            _check_file(hit, name)
            twin = by_place.setdefault((status.st_dev, status.st_ino), hit)
            if twin is not hit:
                as_what = "" if twin == hit else f": it is {twin}"
                raise CostarError(
                    hit, found=f"listed twice{as_what}", expected="each file once", mend="correct [corpus] path"
                )
            if by_name.setdefault(name, hit) is not hit:
                raise CostarError(
                    hit,
                    found=f"a second file of the name {name}, beside {by_name[name]}",
                    expected="names that differ: they are the names of documents",
                    mend="rename one, or put both below `data`",
                )
            found.append(Item(name=name, path=hit))
    return found


def _hits(pattern: str, folders: Sequence[Path]) -> tuple[list[tuple[str, os.stat_result]], Path]:
    """The files of a pattern, sorted, and the first folder that has any."""
    for folder in folders:
        hits, others = [], []
        for hit in sorted(_matches(folder, pattern), key=Path):
            try:
                status = os.stat(hit)
            except OSError as error:
                raise unreadable(Path(hit), error) from None
            if stat.S_ISREG(status.st_mode):
                hits.append((hit, status))
            elif not stat.S_ISDIR(status.st_mode):
                raise CostarError(
                    hit, found="a pipe, socket or device", expected="a file", mend="narrow the pattern, or remove it"
                )
            else:
                others.append(hit)
        if hits:
            return hits, folder
        if others:
            raise CostarError(
                f"[corpus] path {pattern!r}",
                found=f"no file, only folders ({shorten(others[0])})",
                expected="files",
                mend='add what to read of it, as in "folder/**/*.jsonl"',
            )
    raise CostarError(
        f"[corpus] path {pattern!r}",
        found="no file",
        expected=f"files below {' or '.join(str(folder) for folder in folders)}",
        mend="correct the pattern, or set `data` in machine.toml",
    )


def _check_file(path: str, name: str) -> None:
    if not name.isprintable():  # control characters, and bytes that are not UTF-8
        raise CostarError(
            ascii(path),
            found="a name with line ends or bytes that are not UTF-8",
            expected="a plain name",
            mend="rename it",
        )
    if not name.endswith(SUFFIXES):
        raise CostarError(path, found="an unknown kind of file", expected=" ".join(SUFFIXES), mend="narrow the pattern")
    if not os.access(path, os.R_OK):
        raise unreadable(Path(path), PermissionError(13, "permission denied"))


def _matches(folder: Path, pattern: str) -> list[str]:
    """The file of this very name, or those that the pattern matches."""
    literal = folder / pattern
    return [str(literal)] if literal.is_file() else glob.glob(str(literal), recursive=True)


def facts(source: SourceDesign, items: Sequence[Item] = ()) -> dict[str, object]:
    return {"differs": []}


def read(item: Item, source: SourceDesign, *, limit: int = LIMIT) -> Iterator[RawDocument]:
    """The documents of one file, in memory one at a time (of a Parquet file, about 32 MiB).

    Raises:
        CostarError: a line that is not JSON, a missing field or one without text, bytes that are not UTF-8, a document
            or line of more than `limit` bytes, a file that is cut off or gone; with file and line.
    """
    path = Path(item.path)
    if path.name.endswith(".parquet"):
        yield from parquet_documents(path, item, source.text, limit=limit)
    elif path.name.endswith(".txt"):
        yield RawDocument(doc_id=item.name, text=decoded(_bytes_of(path, limit), str(path)))
    else:
        for number, line in numbered_lines(path, limit=limit):
            place = f"{path}, line {number}"
            yield RawDocument(
                doc_id=f"{item.name}:{number}", text=text_of(parsed_line(line, place), source.text, place)
            )


def _bytes_of(path: Path, limit: int) -> bytes:
    try:
        if (size := path.stat().st_size) > limit:
            raise too_long(str(path), size, limit)
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def text_of(row: dict[str, object], field: str, place: str) -> str:
    """The text in a field of a row; refused, with `place`, where there is none."""
    text = row.get(field)
    if isinstance(text, str):
        return text
    if field in row:
        raise CostarError(
            place,
            found=f"{shorten(repr(text), 40)} in field {field!r}" if text is not None else f"null in field {field!r}",
            expected=f"text in field {field!r}",
            mend="take out or fill such rows, or set [corpus] text to another field",
        )
    raise CostarError(
        place,
        found=f"fields {shorten(', '.join(row)) or 'none'}",
        expected=f"text in field {field!r}",
        mend="set [corpus] text to the name of the field",
    )


def parquet_documents(opened: Path | BinaryIO, item: Item, field: str, *, limit: int = LIMIT) -> Iterator[RawDocument]:
    """The documents of a Parquet file, a row each. `opened` is the file itself, by path or open for reading.

    No thread of Arrow's reads: one that still holds a Python file when the interpreter ends takes the process with it.

    Raises:
        CostarError: as `read` does.
    """
    path = item.path
    try:
        with pq.ParquetFile(opened, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as file:
            if field not in file.schema_arrow.names:
                text_of(dict.fromkeys(file.schema_arrow.names), field, path)
            kind = file.schema_arrow.field(field).type
            if not _is_text(kind):
                raise CostarError(
                    path,
                    found=f"column {field!r} of type {kind}",
                    expected="a column of strings",
                    mend="cast the column to string, or set [corpus] text to another column",
                )
            number = 0
            for group in range(file.num_row_groups):
                rows = _rows_at_once(file, group, field)
                for batch in file.iter_batches(rows, row_groups=[group], columns=[field], use_threads=False):
                    texts = batch.column(0)
                    texts = texts.cast(pa.large_string()) if pa.types.is_string_view(texts.type) else texts
                    _check_sizes(texts, number, path, limit)
                    for text in texts.to_pylist():
                        number += 1
                        row = {field: text}
                        yield RawDocument(
                            doc_id=f"{item.name}:{number}", text=text_of(row, field, f"{path}, row {number}")
                        )
    except UnicodeDecodeError as error:
        raise CostarError(
            path, found=f"text that is not UTF-8 ({error.reason})", expected="UTF-8", mend="copy the file again"
        ) from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(Path(path), error) from None
        raise CostarError(
            path,
            found=f"not a whole Parquet file ({shorten(error)})",
            expected="Parquet",
            mend="copy the file again",
        ) from None


def _check_sizes(texts: pa.Array, before: int, path: str, limit: int) -> None:
    """Refuse a text of more than `limit` bytes; `before` rows of the file came earlier."""
    strings = texts.dictionary if pa.types.is_dictionary(texts.type) else texts
    if pa.types.is_null(strings.type) or (pc.max(pc.binary_length(strings)).as_py() or 0) <= limit:
        return
    for place, text in enumerate(texts):
        size = len((text.as_py() or "").encode())
        if size > limit:
            raise too_long(f"{path}, row {before + place + 1}", size, limit)


def _is_text(kind: pa.DataType) -> bool:
    """Strings of any kind; a column of nulls only has none to say what it is."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(value)
        or pa.types.is_large_string(value)
        or pa.types.is_string_view(value)
        or pa.types.is_null(value)
    )


def _rows_at_once(file: pq.ParquetFile, group: int, field: str) -> int:
    """So many rows that about BATCH_BYTES of text are in memory, by the mean of the row group."""
    about = file.metadata.row_group(group)
    columns = (about.column(k) for k in range(about.num_columns))
    size = next((c.total_uncompressed_size for c in columns if c.path_in_schema == field), 0)
    return int(max(1, min(BATCH_ROWS, BATCH_BYTES * about.num_rows // max(size, 1))))
