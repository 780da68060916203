"""Tokens are those of the documents in their order, whatever the tasks; validation documents are apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from costar.corpus.store import TokenStore
from costar.corpus.tokenizer import Tokenizer
from costar.corpus.tokens import with_eos
from hypothesis import given
from hypothesis import strategies as st

from ..small import SUITE, costar, write_small_suite


@given(st.lists(st.tuples(st.lists(st.integers(1, 400), max_size=7), st.booleans()), max_size=9))
def test_every_chosen_document_is_followed_by_eos(documents: list[tuple[list[int], bool]]) -> None:
    ids = np.array([i for text, _ in documents for i in text], np.int32)
    lengths = np.array([len(text) for text, _ in documents], np.int64)
    chosen = np.array([kept for _, kept in documents], np.bool_)
    expected = [i for text, kept in documents if kept for i in (*text, 0)]
    assert with_eos(ids, lengths, chosen, 0, np.dtype(np.uint16)).tolist() == expected


@pytest.fixture(scope="module")
def two_ways(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A corpus with validation documents, built as 2 and as 7 tasks."""
    found = []
    for tasks in (2, 7):
        folder = tmp_path_factory.mktemp(f"tasks-{tasks}")
        write_small_suite(folder, SUITE.replace("validation      = 0.02", f"validation = 0.1\ntasks = {tasks}"))
        costar(folder, "corpus", "./small.toml")
        found.append(folder / "build" / "small" / "corpus")
    return found


def test_tokens_do_not_depend_on_the_number_of_tasks(two_ways: list[Path]) -> None:
    for name in ("tokens.bin", "tokens.idx", "validation.bin", "validation.idx", "tokenizer.json", "dropped.parquet"):
        assert (two_ways[0] / name).read_bytes() == (two_ways[1] / name).read_bytes()


def test_base_and_validation_hold_their_documents_and_nothing_else(two_ways: list[Path]) -> None:
    folder = two_ways[0]
    facts = json.loads((folder / "corpus.json").read_text())
    tokenizer = Tokenizer(folder / "tokenizer.json", facts["eos"])
    dropped = set(pq.read_table(folder / "dropped.parquet").column("doc_id").to_pylist())
    rows = [r for r in pq.read_table(folder / "documents.parquet").to_pylist() if r["doc_id"] not in dropped]
    for prefix, use, name in (("tokens", "base", "documents"), ("validation", "validation", "validation_documents")):
        store = TokenStore.open_prefix(folder / prefix, mend="")
        texts = [row["text"] for row in rows if row["use"] == use]
        expected = [i for text in texts for i in (*tokenizer.encode(text), tokenizer.eos_id)]
        assert store.tokens.tolist() == expected
        assert facts[name] == len(texts) == len(store.sizes)
