"""Small corpora for tests: a suite over files, and its steps run in this process's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from costar.core.design import Suite
from costar.core.suite import load_suite
from costar.corpus.build import build_documents
from costar.corpus.executors import Backend

HEAD = """
[suite]
seed   = 3
models = ["tiny"]

[arm.standard]

[train]
steps = 1
batch = 1
lr    = 1e-3
"""
PLAIN = '[corpus]\nsource = "files"\npath = "*.jsonl"\n'
SETTINGS = 'sequence_length = 64\ntokenizer = { train = "bpe", vocabulary = 400 }\n'


def write_suite(folder: Path, corpus: str = PLAIN, keys: str = "") -> Suite:
    """A suite without perturbations; `corpus` begins the table [corpus], `keys` are more of its keys."""
    tables = corpus.split("\n[", 1)
    text = tables[0] + "\n" + SETTINGS + keys + ("\n[" + tables[1] if len(tables) > 1 else "")
    path = folder / "made.toml"
    path.write_text(HEAD + text)
    return load_suite(path)


def write_lines(path: Path, texts: Sequence[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def documents(suite: Suite, folder: Path, out: str = "corpus", workers: int = 1) -> pa.Table:
    """`documents.parquet` of a suite, built in `folder/out`."""
    build_documents(suite, folder / out, [folder], Backend(workers=workers))
    return pq.read_table(folder / out / "documents.parquet", partitioning=None)
