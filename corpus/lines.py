"""Lines of text files as bytes, plain or packed, with bounded memory; and what can be said when they are not text.

What can be noticed of damage: a packed file that was cut off, and any flipped bit where the format holds a checksum
(.gz always, .zst where the writer asked for one, as the `zstd` program does). Elsewhere a flipped bit shows only when it
breaks the JSON or the UTF-8.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa

from ..core.errors import CostarError, shorten

LIMIT = 256 * 2**20  # bytes of one document or line
MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
BUFFER = 1 << 20


def numbered_lines(path: Path, *, limit: int = LIMIT) -> Iterator[tuple[int, bytes]]:
    """The lines of a .jsonl, .jsonl.zst or .jsonl.gz file that are not blank, counted from 1, without a mark of UTF-8.

    All members of a .gz and all frames of a .zst are read.

    Raises:
        CostarError: a file that cannot be read, broken or cut packed data, a line of more than `limit` bytes.
    """
    packed = {".zst": "zstd", ".gz": "gzip"}.get(path.suffix)
    try:
        if packed and not path.stat().st_size:
            raise CostarError(
                str(path), found="0 bytes", expected=f"{packed} data", mend="copy the file again, or remove it"
            )
        with pa.input_stream(str(path), compression=packed) as stream:
            reader, number = io.BufferedReader(stream, BUFFER), 0
            while line := reader.readline(limit + 1):
                number += 1
                if len(line) > limit and not line.endswith(b"\n"):
                    more = _length_of_rest(reader, 15 * limit)
                    raise too_long(f"{path}, line {number}", len(line) + more, limit, exact=more < 15 * limit)
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line.strip():
                    yield number, line
    except OSError as error:
        if packed is None or error.errno is not None:
            raise unreadable(path, error) from None
        raise CostarError(
            str(path),
            found=f"broken {packed} data ({shorten(error)})",
            expected="a whole file",
            mend="copy the file again, or pack it again with the usual settings",
        ) from None


def _length_of_rest(reader: io.BufferedReader, most: int) -> int:
    """How many bytes of the line are left, counted up to about `most`: packed data may inflate without end."""
    count = 0
    while count < most and (piece := reader.readline(BUFFER)):
        count += len(piece)
        if piece.endswith(b"\n"):
            break
    return count


def too_long(place: str, size: int, limit: int, *, exact: bool = True) -> CostarError:
    """The refusal of a document or line of `size` bytes, or of more."""
    return CostarError(
        place,
        found=f"{'' if exact else 'more than '}{size:,} bytes in one piece",
        expected=f"at most {limit:,} bytes a document, so that it fits into memory",
        mend="split it into several documents: more files, lines or rows",
    )


def unreadable(path: Path, error: OSError) -> CostarError:
    """The refusal of a file that the system does not let be read."""
    return CostarError(
        str(path),
        found=f"it cannot be read ({error.strerror or shorten(error)})",
        expected="a file that is there and may be read",
        mend="correct its permissions, put it back, or narrow the pattern",
    )


def parsed_line(line: bytes, place: str) -> dict[str, object]:
    """One JSON object.

    Raises:
        CostarError: other bytes, half a surrogate pair among them; `place` is named.
    """
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        start = decoded(line, place)[:60]
        raise CostarError(
            place, found=f"{shorten(start, 60)} ({error})", expected="a JSON object", mend="correct the line"
        ) from None
    if not isinstance(row, dict):
        raise CostarError(
            place,
            found=shorten(line[:240].decode(errors="replace"), 60),
            expected="a JSON object",
            mend="correct the line",
        )
    return row


def decoded(data: bytes, place: str) -> str:
    """Text of bytes in UTF-8, byte for byte but for a mark at the start; line ends stay as they are.

    Raises:
        CostarError: another encoding or a NUL byte; with the line and the offset of the byte.
    """
    name = next((name for mark, name in MARKS if data.startswith(mark)), None)
    if name:
        raise CostarError(
            place,
            found=f"{name} text",
            expected="UTF-8 text",
            mend=f"convert the file: iconv -f {name} -t UTF-8",
        )
    at = data.find(b"\0")
    if at >= 0:
        raise CostarError(
            place,
            found=f"a NUL byte at {_offset(data, at)}",
            expected="UTF-8 text, neither UTF-16 nor binary data",
            mend="convert the file, or narrow the pattern",
        )
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CostarError(
            place,
            found=f"byte 0x{data[error.start]:02x} at {_offset(data, error.start)}, which is not UTF-8",
            expected="UTF-8 text",
            mend="convert the file",
        ) from None


def _offset(data: bytes, at: int) -> str:
    line = data.count(b"\n", 0, at)
    return f"offset {at}" + (f", in line {line + 1}" if line else "")
