"""A user's own text: .txt (a document a file), .jsonl (also .zst, .gz) and .parquet (a document a row), by path or glob."""

from __future__ import annotations

import glob
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ...core.design import SourceDesign
from ...core.errors import CostarError, shorten
from ..documents import Item, RawDocument

ONE_PARAGRAPH_A_LINE = False
SUFFIXES = (".txt", ".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet")


def items(source: SourceDesign, folders: Sequence[Path]) -> list[Item]:
    """The files of every pattern, in the order of the patterns and sorted within one."""
    found: list[Item] = []
    for pattern in source.paths:
        hits: list[Path] = []
        for folder in folders:
            hits = sorted(Path(hit) for hit in glob.glob(str(folder / pattern), recursive=True) if Path(hit).is_file())
            if hits:
                break
        if not hits:
            raise CostarError(
                f"[corpus] path {pattern!r}",
                found="no file",
                expected=f"files below {' or '.join(str(folder) for folder in folders)}",
                mend="correct the pattern, or set `data` in machine.toml",
            )
        for hit in hits:
            if not hit.name.endswith(SUFFIXES):
                raise CostarError(
                    str(hit), found="an unknown kind of file", expected=" ".join(SUFFIXES), mend="narrow the pattern"
                )
            name = str(hit.relative_to(folder)) if hit.is_relative_to(folder) else hit.name
            found.append(Item(name=name, path=str(hit)))
    names = [item.name for item in found]
    for item in found:
        if names.count(item.name) > 1:
            raise CostarError(item.path, found="listed twice", expected="each file once", mend="correct [corpus] path")
    return found


def facts(source: SourceDesign) -> dict[str, object]:
    return {"differs": []}


def read(item: Item, source: SourceDesign) -> Iterator[RawDocument]:
    """The documents of one file.

    Raises:
        CostarError: a line that is not JSON, a missing field, bytes that are not UTF-8; with file and line.
    """
    path = Path(item.path)
    if path.name.endswith(".parquet"):
        yield from _read_parquet(path, item, source)
    elif path.name.endswith(".txt"):
        yield RawDocument(doc_id=item.name, text=_decoded(path.read_bytes(), f"{path}"))
    else:
        for number, line in numbered_lines(path):
            row = parsed_line(line, f"{path}, line {number}")
            yield RawDocument(doc_id=f"{item.name}:{number}", text=_text_of(row, source.text, f"{path}, line {number}"))


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a .jsonl, .jsonl.zst or .jsonl.gz file that are not blank, counted from 1."""
    packed = {".zst": "zstd", ".gz": "gzip"}.get(path.suffix)
    try:
        with pa.input_stream(str(path), compression=packed) as stream:
            for number, line in enumerate(io.BufferedReader(stream), start=1):
                if line.strip():
                    yield number, line
    except OSError as error:
        if packed is None:
            raise
        raise CostarError(
            str(path), found=f"broken {packed} data ({error})", expected="a whole file", mend="copy the file again"
        ) from None


def parsed_line(line: bytes, place: str) -> dict[str, object]:
    """One JSON object."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        _decoded(line, place)
        raise CostarError(
            place, found=f"{shorten(line.decode(), 60)} ({error})", expected="a JSON object", mend="correct the line"
        ) from None
    if not isinstance(row, dict):
        raise CostarError(place, found=shorten(line.decode(), 60), expected="a JSON object", mend="correct the line")
    return row


def _decoded(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CostarError(
            place,
            found=f"byte 0x{data[error.start]:02x} at offset {error.start}, which is not UTF-8",
            expected="UTF-8 text",
            mend="convert the file",
        ) from None


def _text_of(row: dict[str, object], field: str, place: str) -> str:
    text = row.get(field)
    if not isinstance(text, str):
        raise CostarError(
            place,
            found=f"fields {', '.join(row) or 'none'}",
            expected=f"text in field {field!r}",
            mend="set [corpus] text to the name of the field",
        )
    return text


def _read_parquet(path: Path, item: Item, source: SourceDesign) -> Iterator[RawDocument]:
    try:
        file = pq.ParquetFile(path)
        if source.text not in file.schema_arrow.names:
            _text_of(dict.fromkeys(file.schema_arrow.names), source.text, str(path))
        number = 0
        for batch in file.iter_batches(1024, columns=[source.text]):
            for text in batch.column(0).to_pylist():
                number += 1
                yield RawDocument(
                    doc_id=f"{item.name}:{number}",
                    text=_text_of({source.text: text}, source.text, f"{path}, row {number}"),
                )
    except (pa.ArrowInvalid, OSError) as error:
        raise CostarError(
            str(path), found=f"not a whole Parquet file ({error})", expected="Parquet", mend="copy the file again"
        ) from None
