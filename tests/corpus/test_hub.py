"""Text of a data set of the Hub: a local folder in its layout is read as it lies; what is not there is refused by name."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from tests.small import SUITE, costar, write_small_suite


def test_a_folder_in_hub_layout_gives_the_same_corpus_as_its_files(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    write_small_suite(
        hub,
        SUITE.replace('source          = "files"', 'source          = "hub"').replace("base.jsonl", "people/topics"),
    )
    lines = (hub / "base.jsonl").read_text(encoding="utf-8").splitlines()
    half = len(lines) // 2
    folder = hub / "people" / "topics" / "data"
    folder.mkdir(parents=True)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[:half]).encode()))
    (folder / "b.jsonl").write_text("\n".join(lines[half:]), encoding="utf-8")
    (folder.parent / "README.md").write_text("a card")
    costar(hub, "corpus", "./small.toml")
    facts = json.loads((hub / "build" / "small" / "corpus" / "corpus.json").read_text())
    assert facts["source"] == "hub"
    table = pq.read_table(hub / "build" / "small" / "corpus" / "documents.parquet")
    kept = [row["text"] for row in table.to_pylist() if row["use"] != "dropped"]
    assert len(table) == len(lines)
    assert set(kept) <= {json.loads(line)["text"] for line in lines}
    assert {source.split("/data")[0] for source in table.column("source").to_pylist()} == {"people/topics"}
    shutil.rmtree(hub / "people")
    done = costar(hub, "corpus", "./small.toml", check=False)
    assert done.returncode == 2
    assert "people/topics" in done.stderr
    assert "put a copy of the repository there" in done.stderr
