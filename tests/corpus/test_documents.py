from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
import zstandard
from costar.core.design import CorpusDesign, SourceDesign
from costar.core.errors import CostarError
from costar.corpus.documents import RawDocument
from costar.corpus.sources import files, installed_docs


def design(*paths: str, text: str = "text") -> CorpusDesign:
    source = SourceDesign(name="", source="files", paths=paths, text=text, megabytes=None, share=None, seed=1)
    return CorpusDesign(
        sources=(source,),
        reuse=None,
        index=None,
        quality=(),
        deduplicate="exact",
        validation=Decimal(0),
        tasks=4,
        held_out=Decimal("0.1"),
        sequence_length=64,
        tokenizer_file=None,
        vocabulary=300,
        eos="<|endoftext|>",
    )


def test_every_format_gives_the_same_text(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.txt").write_text("première\n")
    line = json.dumps({"body": "première\n"})
    (tmp_path / "b.jsonl").write_text(line)
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(line.encode()))
    pq.write_table(pa.table({"body": ["première\n"]}), tmp_path / "d.parquet")
    chosen = design("*.*", text="body")
    texts = [d.text for item in files.items(chosen.sources[0], [tmp_path]) for d in files.read(item, chosen.sources[0])]
    assert texts == ["première\n"] * 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "ok"}\n{"text": "cut', r"a.jsonl, line 2\n  found     \{\"text\": \"cut"),
        ("a.jsonl", b'{"text": "ok"}\n[1]\n', "line 2"),
        ("a.jsonl", b'{"body": "x"}\n', "expected  text in field 'text'"),
        ("a.jsonl", b'{"text": "\xff"}\n', "line 1\n  found     byte 0xff at offset 10"),
        ("a.txt", b"good \xe9 bad", "byte 0xe9 at offset 5"),
        ("a.jsonl.zst", zstandard.compress(b'{"text": "x"}\n')[:-4], "broken zstd data"),
        ("a.parquet", b"PAR1 nothing", "not a whole Parquet file"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    chosen = design(name)
    with pytest.raises(CostarError, match=message):
        [d for item in files.items(chosen.sources[0], [tmp_path]) for d in files.read(item, chosen.sources[0])]


def test_a_pattern_without_files_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CostarError, match="no file"):
        files.items(design("*.jsonl").sources[0], [tmp_path])
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(CostarError, match="an unknown kind of file"):
        files.items(design("a.csv").sources[0], [tmp_path])


def test_installed_docs_are_prose_in_a_fixed_order_and_nothing_is_imported(tmp_path: Path) -> None:
    chosen = design()
    items = installed_docs.items(chosen.sources[0], [])
    assert items == installed_docs.items(chosen.sources[0], [])
    names = [item.name for item in items]
    assert "python:argparse.py" in names
    assert not any("/tests/" in name or "/test/" in name for name in names)
    item = next(item for item in items if item.name == "python:this.py")
    assert list(installed_docs.read(item, chosen.sources[0])) == [RawDocument(doc_id="python:this.py", text="")]
    (text,) = [
        d.text for d in installed_docs.read(next(i for i in items if i.name == "python:heapq.py"), chosen.sources[0])
    ]
    assert "heap" in text
    assert all(len(line) >= 80 for line in text.split("\n"))


def test_topics_are_documents_of_their_own() -> None:
    item = next(i for i in installed_docs.items(design().sources[0], []) if i.name == "python:pydoc_data/topics.py")
    found = {d.doc_id for d in installed_docs.read(item, design().sources[0])}
    assert "python:pydoc_data/topics.py:assert" in found


def test_real_base_files_are_read(shared_data: Path) -> None:
    chosen = design("base/us_president_speeches.jsonl.zst", "base/wikipedia_articles.jsonl.zst")
    documents = [
        d for item in files.items(chosen.sources[0], [shared_data]) for d in files.read(item, chosen.sources[0])
    ]
    assert len(documents) == 150
