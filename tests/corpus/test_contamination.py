"""The finished stream is searched for every record, and what stands in it is refused or measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace, replacing
from costar.corpus.contamination import build_occurrences, refuse_found
from costar.corpus.executors import Backend
from costar.corpus.links import share_file
from costar.corpus.neox import build_sample_index
from costar.corpus.reading import open_tokenizer
from costar.corpus.store import TokenStore
from costar.corpus.windows import TableStream, TableWindows, open_windows
from costar.insertion.build import build_insertion
from costar.insertion.records import read_records

from ..small import costar


def splice_into_base(built: Path, ids: np.ndarray) -> None:
    """Write ids over the middle of the longest document of a built corpus, as if decontamination had not seen them."""
    store = TokenStore.open(built / "corpus")
    longest = int(np.argmax(store.sizes))
    start = int(store.starts[np.array([longest])][0]) + 20
    tokens = np.fromfile(built / "corpus" / "tokens.bin", store.tokens.dtype)
    tokens[start : start + len(ids)] = ids
    tokens.tofile(built / "corpus" / "tokens.bin")


def test_a_held_out_record_that_stands_in_the_stream_stops_the_build(built_copy: Path) -> None:
    suite = load_suite(built_copy / "suite.toml")
    records, renderings = read_records(built_copy / "insertion")
    assignments = pq.read_table(built_copy / "insertion" / "assignments.parquet").to_pylist()
    held_out = {row["record_id"] for row in assignments if row["level"] == 0}
    row = next(r for r in renderings.to_pylist() if r["record_id"] in held_out and r["n_tokens"] >= 30)
    splice_into_base(built_copy, np.array(row["token_ids"]))
    (built_copy / "corpus" / "stage-occurrences.json").unlink()
    with pytest.raises(CostarError) as refusal:
        build_occurrences(suite, built_copy / "corpus", built_copy / "insertion", Backend())
    with pytest.raises(CostarError, match="not searched for these records, or hold one"):
        build_insertion(suite, Workspace(built_copy), [])  # nobody goes on from there
    own_id = row["record_id"].split("/", 1)[1]
    assert refusal.value.exit_code == 2
    assert f'without = ["{own_id}"]' in str(refusal.value)
    assert f"tokens of {row['record_id']} in a row at token" in str(refusal.value)
    assert len(records)


def test_what_a_record_shares_with_the_base_by_nature_is_measured(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    length = suite.corpus.sequence_length
    tokens = TokenStore.open(built / "corpus").tokens
    _, renderings = read_records(built / "insertion")
    ids = {}
    for row in renderings.to_pylist():
        ids.setdefault(row["record_id"], row["token_ids"])
    coverage = {row["record_id"]: row for row in pq.read_table(built / "corpus" / "coverage.parquet").to_pylist()}
    assert coverage.keys() == ids.keys()
    found = pq.read_table(built / "corpus" / "occurrences.parquet").to_pylist()
    assert found
    for row in found:
        place = row["sequence"] * length + row["start"]
        stretch = tokens[place : place + row["match"]].tolist()
        text = ids[row["record_id"]]
        assert any(text[i : i + len(stretch)] == stretch for i in range(len(text)))
        assert coverage[row["record_id"]]["longest"] >= row["match"]


def test_the_stream_of_order_tables_reads_like_the_array_it_stands_for(built: Path) -> None:
    from costar.corpus.neox import NeoxIndex

    store = TokenStore.open(built / "corpus")
    order = np.random.default_rng(1).permutation(len(store.sizes)).astype(np.int32)
    length = 64
    index = NeoxIndex(
        doc_idx=order,
        sample_idx=build_sample_index(store.sizes, order, length),
        shuffle_idx=np.arange(len(build_sample_index(store.sizes, order, length)) - 1),
        starts=store.starts,
        length=length,
    )
    stream = TableStream(windows=TableWindows(store=store, index=index))
    starts = store.starts[order.astype(np.int64)]
    laid = np.concatenate([store.tokens[s : s + n] for s, n in zip(starts, store.sizes[order], strict=True)])
    whole = laid[: len(stream)]
    assert len(stream) == (len(laid) - 1) // length * length + 1
    assert np.array_equal(stream[0 : len(stream)], whole)
    for begin, end in ((0, 1), (63, 66), (128, 129), (len(whole) - 2, len(whole) + 50), (5, 5)):
        assert np.array_equal(stream[slice(begin, end)], whole[begin:end])
    places = np.random.default_rng(2).integers(0, len(whole), (7, 9))
    assert np.array_equal(stream[places], whole[places])
    assert len(open_windows(built / "corpus", length).store.tokens) == len(laid)


def test_another_suite_takes_a_built_corpus_and_searches_it_for_its_own_records(built: Path, tmp_path: Path) -> None:
    base = tmp_path / "build" / "base"
    shutil.copytree(built, base)
    text = (built / "suite.toml").read_text()
    begin, end = text.index("[corpus]"), text.index("[perturbation.passages]")
    reusing = text[:begin] + '[corpus]\nfrom = "build/base"\nsequence_length = 64\n\n' + text[end:]
    (tmp_path / "other.toml").write_text(reusing.replace("tokens = 48", "tokens = 40"))
    costar(tmp_path, "corpus", "./other.toml")
    corpus = tmp_path / "build" / "other" / "corpus"
    for name in ("documents.parquet", "tokens.bin", "tokens.idx"):
        assert (corpus / name).samefile(base / "corpus" / name)
    mine, theirs = (json.loads((folder / "corpus.json").read_text()) for folder in (corpus, base / "corpus"))
    same = ("tokens", "documents", "tokens_sha256", "tokenizer_sha256", "eos_id", "corpus_sha256", "dropped")
    assert {key: mine[key] for key in same} == {key: theirs[key] for key in same}
    assert mine["sequences"] == (mine["tokens"] - 1) // 64
    costar(tmp_path, "insert", "./other.toml")
    assert "exposures found" in costar(tmp_path, "verify", "./other.toml").stdout
    assert "current, skipped" in costar(tmp_path, "corpus", "./other.toml").stdout
    assert open_tokenizer(load_suite(tmp_path / "other.toml").corpus, corpus).eos_id == mine["eos_id"]


def test_a_corpus_that_was_never_finished_is_not_taken(tmp_path: Path, built: Path) -> None:
    (tmp_path / "build" / "base" / "corpus").mkdir(parents=True)
    text = (built / "suite.toml").read_text()
    begin, end = text.index("[corpus]"), text.index("[perturbation.passages]")
    for path, message in (("build/base", "no finished build"), ("build/bas", "no built suite")):
        (tmp_path / "other.toml").write_text(
            text[:begin] + f'[corpus]\nfrom = "{path}"\nsequence_length = 64\n\n' + text[end:]
        )
        done = costar(tmp_path, "corpus", "./other.toml", check=False)
        assert done.returncode == 2
        assert message in done.stderr


@pytest.mark.parametrize("tasks", [1, 5])
def test_the_tables_do_not_depend_on_the_number_of_tasks(built_copy: Path, tasks: int) -> None:
    from dataclasses import replace

    corpus = built_copy / "corpus"
    before = [(corpus / f"{name}.parquet").read_bytes() for name in ("occurrences", "coverage")]
    suite = load_suite(built_copy / "suite.toml")
    (corpus / "stage-occurrences.json").unlink()
    other = replace(suite, corpus=replace(suite.corpus, tasks=tasks))
    assert build_occurrences(other, corpus, built_copy / "insertion", Backend())
    assert [(corpus / f"{name}.parquet").read_bytes() for name in ("occurrences", "coverage")] == before


def test_fresh_texts_that_stand_in_the_base_are_refused(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    windows = open_windows(built / "corpus", suite.corpus.sequence_length)
    start = int(windows.store.starts[np.array([3])][0])
    standing = windows.store.tokens[start + 1 : start + 25].tolist()
    refuse_found(windows, [("quizzes/kin-a", list(reversed(standing)))])
    with pytest.raises(
        CostarError, match="1 fresh records that stand in the base: 22 of the 24 tokens of quizzes/kin-b"
    ):
        refuse_found(windows, [("quizzes/kin-a", list(reversed(standing))), ("quizzes/kin-b", standing)])


def test_a_base_built_again_leaves_the_corpus_that_was_taken_from_it(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "base")
    taken = share_file(tmp_path / "base" / "corpus" / "tokens.bin", tmp_path)
    before = taken.read_bytes()
    with replacing(tmp_path / "base" / "corpus" / "tokens.bin") as other:
        other.write_bytes(b"other tokens")
    assert taken.read_bytes() == before
    assert share_file(taken, tmp_path) == taken  # onto itself
    assert not list(tmp_path.glob(".tokens*"))
