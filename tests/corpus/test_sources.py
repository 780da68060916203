"""The source `files`: every shape of file gives its text or is refused by name, and memory stays bounded."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from costar.core.design import SourceDesign
from costar.core.errors import CostarError
from costar.corpus.documents import Item, RawDocument
from costar.corpus.lines import LIMIT
from costar.corpus.sources import files


def source(*paths: str, text: str = "text") -> SourceDesign:
    return SourceDesign(name="", source="files", paths=paths, text=text, megabytes=None, share=None, seed=1)


def documents(folder: Path, *paths: str, text: str = "text", limit: int = LIMIT) -> list[RawDocument]:
    chosen = source(*paths, text=text)
    return [d for item in files.items(chosen, [folder]) for d in files.read(item, chosen, limit=limit)]


def texts(folder: Path, *paths: str, text: str = "text", limit: int = LIMIT) -> list[str]:
    return [document.text for document in documents(folder, *paths, text=text, limit=limit)]


def line(text: str) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


def checked_zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def real_lines(shared_data: Path) -> bytes:
    with zstandard.open(shared_data / "base" / "wikipedia_articles.jsonl.zst", "rb") as file:
        return bytes(file.read(200_000)).rpartition(b"\n")[0] + b"\n"


@pytest.mark.parametrize("pack", [gzip.compress, checked_zst])
def test_any_flipped_bit_and_any_cut_in_packed_data_with_checksums_is_noticed(
    shared_data: Path, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    plain, dice = real_lines(shared_data), random.Random(1)
    path = tmp_path / ("a.jsonl.gz" if pack is gzip.compress else "a.jsonl.zst")
    whole = pack(plain)
    path.write_bytes(whole)
    expected = documents(tmp_path, path.name)
    assert [d.text for d in expected] == [json.loads(each)["text"] for each in plain.splitlines()]
    for _ in range(30):
        flipped = bytearray(whole)
        flipped[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        with suppress(CostarError):
            assert documents(tmp_path, path.name) == expected  # a bit of the header that says nothing of the text
        path.write_bytes(whole[: dice.randrange(len(whole))])
        with pytest.raises(CostarError, match=r"broken|0 bytes"):
            documents(tmp_path, path.name)


def test_a_flipped_bit_in_parquet_is_noticed_where_pages_have_checksums_and_never_ends_in_another_error(
    shared_data: Path, tmp_path: Path
) -> None:
    table, dice = (
        pa.table({"text": [json.loads(each)["text"] for each in real_lines(shared_data).splitlines()]}),
        random.Random(2),
    )
    for checksums in (True, False):
        pq.write_table(table, tmp_path / "a.parquet", write_page_checksum=checksums)
        whole = (tmp_path / "a.parquet").read_bytes()
        expected, silent = documents(tmp_path, "a.parquet"), 0
        for _ in range(60):
            flipped = bytearray(whole)
            flipped[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
            (tmp_path / "a.parquet").write_bytes(flipped)
            with suppress(CostarError):
                silent += documents(tmp_path, "a.parquet") != expected
            (tmp_path / "a.parquet").write_bytes(whole[: dice.randrange(len(whole))])
            with pytest.raises(CostarError):
                documents(tmp_path, "a.parquet")
        assert not (checksums and silent)


def test_an_empty_file_is_refused_where_its_format_has_a_beginning_and_gives_nothing_otherwise(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "a.jsonl.zst", "a.parquet"):
        (tmp_path / name).touch()
        with pytest.raises(CostarError, match=name):
            documents(tmp_path, name)
    (tmp_path / "a.txt").touch()
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "a.jsonl.zst").write_bytes(checked_zst(b"\n\n"))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": []}), tmp_path / "b.parquet")
    assert documents(tmp_path, "*") == [RawDocument(doc_id="a.txt", text="")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", line("é") + b'{"text": "caf\xe9"}\n', r"line 2\n  found     byte 0xe9 at offset 13"),
        ("a.txt", "première\n".encode() + b"caf\xe9", "byte 0xe9 at offset 13, in line 2"),
        ("a.txt", "text".encode("utf-16"), r"UTF-16 text[\s\S]*iconv -f UTF-16 -t UTF-8"),
        ("a.txt", "text".encode("utf-32"), "UTF-32 text"),
        ("a.txt", "text".encode("utf-16-le"), "a NUL byte at offset 1"),
        ("a.jsonl", '{"text": "x"}\n'.encode("utf-16"), "UTF-16 text"),
        ("a.jsonl", '{"text": "x"}\n'.encode("utf-16-le"), "a NUL byte"),
        ("a.jsonl", b'{"text": "a\0b"}\n', "a NUL byte at offset 11"),
        ("a.jsonl", line("x") + b'{"text": "\\ud800"}\n', "line 2"),
        ("a.jsonl", b'{"text": null}\n', "null in field 'text'"),
        ("a.jsonl", b'{"text": ["x"]}\n', r"\['x'\] in field 'text'"),
    ],
)
def test_what_is_not_text_in_utf_8_is_refused_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CostarError, match=message):
        documents(tmp_path, name)


def test_a_mark_of_utf_8_is_left_out_and_line_ends_stay_in_the_text(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.txt").write_bytes(mark + b"one\r\ntwo\r\n")
    (tmp_path / "b.jsonl").write_bytes(mark + (line("x\r\ny") + line("a\0b")).replace(b"\n", b"\r\n"))
    assert texts(tmp_path, "*") == ["one\r\ntwo\r\n", "x\r\ny", "a\0b"]


def test_members_and_frames_are_all_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line("1")) + gzip.compress(line("2")))
    (tmp_path / "b.jsonl.zst").write_bytes(
        checked_zst(line("3")) + zstandard.compress(line("4")[:5]) + checked_zst(line("4")[5:])
    )
    assert texts(tmp_path, "*") == ["1", "2", "3", "4"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_document_above_the_limit_is_refused_with_its_size_and_one_at_the_limit_is_read(
    tmp_path: Path, name: str
) -> None:
    def write(size: int) -> None:
        text = "x" * size
        if name.endswith(".parquet"):
            pq.write_table(pa.table({"text": ["a", None, text][::2]}), tmp_path / name)
        elif name.endswith(".txt"):
            (tmp_path / name).write_text(text)
        else:
            data = line("a") + line(text[12:])[:-1]
            pack: Callable[[bytes], bytes] = {"gz": gzip.compress, "st": checked_zst}.get(name[-2:], bytes)
            (tmp_path / name).write_bytes(pack(data))

    write(1000)
    assert len(texts(tmp_path, name, limit=1000)[-1]) >= 1000 - 12
    write(3001)
    with pytest.raises(
        CostarError, match=r"3,001 bytes in one piece[\s\S]*at most 1,000 bytes[\s\S]*split it"
    ) as caught:
        documents(tmp_path, name, limit=1000)
    where = {"txt": "a.txt", "uet": "a.parquet, row 2"}.get(name[-3:], f"{name}, line 2")
    assert caught.value.place.endswith(where)


def test_a_line_that_inflates_without_end_is_refused_before_it_does(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(bytes(10_000_000)))
    with pytest.raises(CostarError, match=r"line 1\n  found     more than 1,0\d\d,\d\d\d bytes"):
        documents(tmp_path, "a.jsonl.zst", limit=1000)


def test_a_gigabyte_in_one_piece_is_refused_without_being_held(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(10**9)
    with zstandard.open(tmp_path / "c.jsonl.zst", "wb") as packed:
        for _ in range(100):
            packed.write(bytes(10**7))
    code = """
import resource, sys
from pathlib import Path
from costar.core.design import SourceDesign
from costar.core.errors import CostarError
from costar.corpus.sources import files
for path in sys.argv[2:]:
    source = SourceDesign(name="", source="files", paths=(path,), text="text", megabytes=None, share=None, seed=1)
    try:
        list(files.read(files.items(source, [Path(sys.argv[1])])[0], source))
    except CostarError as error:
        assert "1,000,000,000 bytes" in error.found, error
    else:
        raise SystemExit(f"{path} was read")
sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "a.txt", "b.jsonl", "c.jsonl.zst"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 3 * LIMIT + 2**28  # buffer, line, and what Python and pyarrow take


def test_a_large_parquet_file_is_never_in_memory_at_once(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.parquet", 40_000
    with pq.ParquetWriter(
        path, pa.schema([("text", pa.string()), ("other", pa.string())]), use_dictionary=False
    ) as writer:
        table = pa.table({"text": [f"{k} " * 1500 for k in range(1000)], "other": ["x" * 100] * 1000})
        for _ in range(rows // 1000):
            writer.write_table(table)
    before, most = pa.total_allocated_bytes(), 0
    count = 0
    for count, _ in enumerate(files.read(Item(name="a", path=str(path)), source()), start=1):
        most = max(most, pa.total_allocated_bytes() - before) if count % 100 == 0 else most
    assert count == rows
    assert most < 3 * files.BATCH_BYTES  # of more than 200 MB of text


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_every_string_type_of_parquet_is_text(tmp_path: Path, kind: Any) -> None:
    pq.write_table(pa.table({"body": pa.array(["one", "twö", "one"]).cast(kind)}), tmp_path / "a.parquet")
    found = documents(tmp_path, "a.parquet", text="body")
    assert [(d.doc_id, d.text) for d in found] == [
        ("a.parquet:1", "one"),
        ("a.parquet:2", "twö"),
        ("a.parquet:3", "one"),
    ]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([b"x"]), "column 'text' of type binary"),
        (pa.array([["x"]]), "column 'text' of type list"),
        (pa.array([1]), "column 'text' of type int64"),
        (pa.array([None, "x"]), r"row 1\n  found     null in field 'text'"),
        (pa.array([None]), r"row 1\n  found     null in field 'text'"),
        (pa.array([b"caf\xe9"]).view(pa.string()), "not UTF-8"),
    ],
)
def test_a_column_without_text_is_refused(tmp_path: Path, column: Any, message: str) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(CostarError, match=message):
        documents(tmp_path, "a.parquet")


def test_folders_are_passed_over_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").mkdir()
    (tmp_path / "b.txt" / "c.txt").write_text("c")
    assert texts(tmp_path, "*.txt") == ["a"]
    assert texts(tmp_path, "**/*.txt") == ["a", "c"]
    with pytest.raises(CostarError, match="only folders"):
        documents(tmp_path, "b.txt")
    (tmp_path / "d.txt").symlink_to("gone.txt")
    with pytest.raises(CostarError, match=r"d.txt\n  found     it cannot be read \(No such file"):
        documents(tmp_path, "*.txt")
    (tmp_path / "d.txt").unlink()
    os.mkfifo(tmp_path / "e.txt")
    with pytest.raises(CostarError, match=r"e.txt\n  found     a pipe"):
        documents(tmp_path, "*.txt")


def test_a_file_that_may_not_be_read_or_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "a.jsonl", "a.jsonl.zst", "a.parquet"):
        (tmp_path / name).write_bytes(b"x")
        (item,) = files.items(source(name), [tmp_path])
        (tmp_path / name).unlink()
        with pytest.raises(CostarError, match=f"{name}\n  found     it cannot be read"):
            list(files.read(item, source(name)))
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(CostarError, match="permission denied"):
        files.items(source("a.txt"), [tmp_path])


@pytest.mark.parametrize("name", [b"a\nb.txt", b"caf\xe9.txt", b"tab\t.txt"])
def test_a_name_that_is_not_plain_text_is_refused_in_a_message_that_prints(tmp_path: Path, name: bytes) -> None:
    with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
        file.write(b"x")
    with pytest.raises(CostarError, match="a name with") as caught:
        files.items(source("*.txt"), [tmp_path])
    assert len(str(caught.value).encode().splitlines()) == 4


def test_a_file_is_read_once_whatever_names_it(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "ab.txt").write_text("1")
    (tmp_path / "x" / "ab.txt").write_text("2")
    with pytest.raises(CostarError, match=r"ab.txt\n  found     listed twice\n"):
        documents(tmp_path, "a*.txt", "*b.txt")
    assert texts(tmp_path, "**/ab.txt") == ["1", "2"]
    with pytest.raises(CostarError, match=r"a second file of the name ab\.txt"):
        files.items(source(str(tmp_path / "ab.txt"), str(tmp_path / "x" / "ab.txt")), [tmp_path / "elsewhere"])
    (tmp_path / "c.txt").symlink_to("ab.txt")
    with pytest.raises(CostarError, match=r"c.txt\n  found     listed twice: it is .*ab.txt"):
        documents(tmp_path, "*.txt")


def test_ten_thousand_files_keep_their_order_and_names(tmp_path: Path) -> None:
    names = [f"{number:05d}.txt" for number in range(10_000)]
    for name in names:
        (tmp_path / name).touch()
    assert [item.name for item in files.items(source("*.txt"), [tmp_path])] == names
