"""A given store with order tables, from the suite file to training: read in their order, and proven."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import costar as package
import numpy as np
import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError, StaleRuns
from costar.core.suite import load_suite
from costar.core.workspace import Workspace, corpus_facts, finish_step, read_marker
from costar.corpus.build import build_documents, build_store, build_tokenizer
from costar.corpus.executors import Backend
from costar.corpus.neox import NeoxIndex, build_sample_index, index_stem, save_index
from costar.corpus.store import TokenStore
from costar.corpus.windows import open_windows, table_paths
from costar.insertion.build import build_insertion
from costar.insertion.overlay import open_suite_overlay, read_exposures, read_renderings
from costar.insertion.records import build_records
from costar.insertion.verify import verify_insertion

from tests.corpus.test_stored import STORED
from tests.small import costar, search_stream

LENGTH, STEPS = 128, 24
ORDERED = STORED.replace('"given/tokens"', '"given/tokens"\nindex           = "given/order"').replace(
    "steps       = 96", f"steps       = {STEPS}"
)
ORDERED = ORDERED.replace("every = 24", "every = 12")


def write_tables(folder: Path, doc_idx: np.ndarray, *, length: int = LENGTH, name: str = "train") -> NeoxIndex:
    """NeoX's tables of these documents in a folder, under NeoX's names."""
    store = TokenStore.open_prefix(folder / "given" / "tokens", mend="")
    table = build_sample_index(np.array(store.sizes), doc_idx.astype(np.int32), length)
    shuffle = np.random.default_rng(1).permutation(len(table) - 1).astype(np.uint32)
    index = NeoxIndex(
        doc_idx=doc_idx.astype(np.int32), sample_idx=table, shuffle_idx=shuffle, starts=store.starts, length=length
    )
    if name == "train":
        shutil.rmtree(folder / "given" / "order", ignore_errors=True)
    (folder / "given" / "order").mkdir(exist_ok=True)
    stem = index_stem(folder / "given" / "order" / "base", slots=len(shuffle) - 1, length=length, seed=1234, name=name)
    save_index(stem, index, slots=len(shuffle) - 1)
    return index


@pytest.fixture
def given(built: Path, tmp_path: Path) -> Path:
    """A suite file over a store of another tool, its tokenizer, and tables of most documents in shuffled order."""
    (tmp_path / "given").mkdir()
    for name in ("tokens.bin", "tokens.idx", "tokenizer.json"):
        shutil.copyfile(built / "corpus" / name, tmp_path / "given" / name)
    (tmp_path / "ordered.toml").write_text(ORDERED, encoding="utf-8")
    count = len(TokenStore.open(built / "corpus").sizes)
    write_tables(tmp_path, np.random.default_rng(0).permutation(count)[: count - 7])
    return tmp_path


def build(folder: Path, protected: list[tuple[str, str]] | None = None) -> Workspace:
    """`costar corpus` and `costar insert`, in one process."""
    suite, place = load_suite(folder / "ordered.toml"), Workspace(folder / "build")
    build_documents(suite, place.corpus, [folder], Backend())
    build_tokenizer(suite.corpus, place.corpus, [folder])
    build_records(suite, place.corpus, place.insertion, [folder])
    build_store(suite, place.corpus, place.insertion, Backend(), protected or [], [folder])
    search_stream(suite, place)
    build_insertion(suite, place, [])
    return place


def literal_rows(folder: Path, doc_idx: list[int]) -> list[list[int]]:
    """Every sample: documents laid end to end, cut into L + 1 tokens at stride L."""
    store = TokenStore.open_prefix(folder / "given" / "tokens", mend="")
    ends = np.cumsum(store.sizes, dtype=np.int64)
    documents = [store.tokens[end - size : end].tolist() for end, size in zip(ends, store.sizes, strict=True)]
    stream = [token for document in doc_idx for token in documents[document]]
    return [stream[at : at + LENGTH + 1] for at in range(0, len(stream) - LENGTH, LENGTH)]


def expected_rows(folder: Path, place: Workspace, arm: str, index: NeoxIndex) -> np.ndarray:
    """What training should read at every slot: the sample of shuffle_idx, with the copies written in."""
    samples = literal_rows(folder, index.doc_idx.tolist())
    assert len(samples) == index.samples
    eos = corpus_facts(place)["eos_id"]
    texts = {(r["record_id"], r["rendering"]): r["token_ids"] for r in read_renderings(place).to_pylist()}
    rows = [list(samples[number]) for number in index.shuffle_idx.tolist()]
    for copy in read_exposures(place, arm, 0).to_pylist():
        row, start = rows[copy["slot"]], copy["start"]
        if copy["at_boundary"]:
            assert row[start - 1] == eos
        else:
            assert eos not in row[: LENGTH - 1 - copy["length"]]
            row[start - 1] = eos
        text = texts[(copy["record_id"], copy["rendering"])]
        row[start : start + len(text) + 1] = [*text, eos]
        assert start >= 1
        assert start + len(text) + 1 <= LENGTH
    return np.array(rows)


@pytest.mark.parametrize("repeated", [False, True])
def test_training_reads_the_samples_of_the_tables_in_their_order_with_the_copies_written_in(
    given: Path, repeated: bool
) -> None:
    """A document that is read twice may carry a copy in one of its places: nothing is written to the store."""
    count = len(TokenStore.open_prefix(given / "given" / "tokens", mend="").sizes)
    chosen = np.random.default_rng(2).permutation(count)[: count // 2]
    doc_idx = np.concatenate([chosen, chosen[::-1]]) if repeated else chosen
    index = write_tables(given, doc_idx)
    place = build(given)
    suite = load_suite(given / "ordered.toml")
    assert len(read_exposures(place, "perturbed", 0)) == 60
    slots = np.arange(index.samples)
    for arm in ("perturbed", "standard"):
        overlay = open_suite_overlay(place, arm, 0, seed=suite.seed)
        assert np.array_equal(overlay.sequences(slots), expected_rows(given, place, arm, index))
    proof = verify_insertion(suite, place, lambda share, remark: None)
    assert proof.problems == []
    assert (proof.exposures, proof.sequences) == (60, 2 * 8 * STEPS - 60)


def test_the_built_folder_says_what_order_it_has_and_holds_its_tables(given: Path) -> None:
    place = build(given)
    facts, marker = corpus_facts(place), read_marker(place.corpus, "tokens")
    assert marker is not None
    assert facts["order"] == "table"
    tables = table_paths(place.corpus)
    for path, name in zip(tables, ("doc", "sample", "shuffle"), strict=True):
        assert path.is_symlink()
        assert marker["files"][path.name]["sha256"] == facts["order_sha256"][name]
    assert facts["sequences"] == open_windows(place.corpus, LENGTH).size
    assert str(given) not in json.dumps(facts)
    tables[1].resolve().write_bytes(tables[1].read_bytes()[:-4])
    with pytest.raises(CostarError, match=r"order_sample_idx\.npy"):
        open_suite_overlay(place, "perturbed", 0, seed=7)


def test_other_tables_are_another_corpus_and_none_are_costars_order(given: Path) -> None:
    before = corpus_facts(build(given))
    count = len(TokenStore.open_prefix(given / "given" / "tokens", mend="").sizes)
    write_tables(given, np.random.default_rng(5).permutation(count)[: count - 7])
    with pytest.raises(StaleRuns, match=r"perturbed\.nano\.d0"):
        build(given, [("perturbed.nano.d0", before["tokens_sha256"])])
    after = corpus_facts(build(given))
    assert before["tokens_sha256"] != after["tokens_sha256"]
    (given / "ordered.toml").write_text(ORDERED.replace('index           = "given/order"', ""), encoding="utf-8")
    place = build(given)
    assert corpus_facts(place)["order"] == "keyed"
    assert not any(path.exists() for path in table_paths(place.corpus))
    store = TokenStore.open(place.corpus)
    assert corpus_facts(place)["sequences"] == store.sequences(LENGTH) > after["sequences"]


def test_a_budget_beyond_the_tables_is_refused_before_anything_is_placed(given: Path) -> None:
    index = write_tables(given, np.arange(60))
    assert index.samples < 8 * STEPS
    with pytest.raises(CostarError, match=f"192 slots of arm standard\n  expected  at most {index.samples} slots"):
        build(given)
    assert not (given / "build" / "insertion" / "exposures").exists()


def test_tables_of_another_length_split_or_place_are_named(given: Path) -> None:
    count = len(TokenStore.open_prefix(given / "given" / "tokens", mend="").sizes)
    write_tables(given, np.arange(count - 7, count), name="valid")
    with pytest.raises(CostarError, match=r"(?s)_train_indexmap.*_valid_indexmap.*prefix of one"):
        build(given)
    prefix = ORDERED.replace('"given/order"', '"given/order/base_train"')
    (given / "ordered.toml").write_text(prefix, encoding="utf-8")
    build(given)
    (given / "ordered.toml").write_text(ORDERED.replace('"given/order"', '"given/nothing"'), encoding="utf-8")
    with pytest.raises(CostarError, match="index 'given/nothing'\n  found     no such tables"):
        build(given)
    write_tables(given, np.arange(count), length=64)
    (given / "ordered.toml").write_text(ORDERED, encoding="utf-8")
    with pytest.raises(CostarError, match="found     L = 64\n  expected  L = 128"):
        build(given)


def test_damaged_tables_are_refused_when_they_are_taken_over(given: Path) -> None:
    path = next((given / "given" / "order").glob("*_sample_idx.npy"))
    table = np.load(path)
    table[40, 1] ^= 1
    np.save(path, table)
    with pytest.raises(CostarError, match="sample 40 of sample_idx at another token"):
        build(given)
    assert read_marker(given / "build" / "corpus", "tokens") is None


def remark(folder: Path) -> None:
    marker = read_marker(folder, "tokens")
    assert marker is not None
    finish_step(folder, marker["input"], [folder / name for name in marker["files"]], "tokens")


def edit_table(place: Workspace, number: int, edit: Any) -> None:
    path = table_paths(place.corpus)[number].resolve()
    table = np.load(path)
    edit(table)
    np.save(path, table)


def swap(table: np.ndarray) -> None:
    table[[3, 5]] = table[[5, 3]]


def test_verify_finds_tables_that_were_changed_behind_its_back(given: Path) -> None:
    suite = load_suite(given / "ordered.toml")
    place = build(given)
    edit_table(place, 2, swap)
    proof = verify_insertion(suite, place, lambda share, remark: None)
    assert ["its bytes are not those" in problem for problem in proof.problems] == [True]
    remark(place.corpus)
    exposed = set(read_exposures(place, "perturbed", 0).column("slot").to_pylist()) & {3, 5}
    proof = verify_insertion(suite, place, lambda share, remark: None)
    assert bool(proof.problems) == bool(exposed)  # another order of untouched slots is an order of its own
    edit_table(place, 1, lambda table: table.__setitem__((9, 1), 0))
    remark(place.corpus)
    assert "sample 9 of sample_idx" in verify_insertion(suite, place, lambda share, remark: None).problems[0]


def test_a_reader_that_does_not_follow_the_tables_is_found(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from costar.corpus.windows import TableWindows

    suite, place = load_suite(given / "ordered.toml"), build(given)
    right = TableWindows.read
    monkeypatch.setattr(TableWindows, "read", lambda self, numbers: right(self, (numbers + 1) % self.size))
    assert verify_insertion(suite, place, lambda share, remark: None).problems


def test_an_export_is_read_through_the_given_tables_as_training_reads_it(given: Path) -> None:
    from costar.release.exported import verify_exports
    from costar.release.forms.megatron import export_megatron

    suite, place = load_suite(given / "ordered.toml"), build(given)
    folder = export_megatron(suite, place, "perturbed", 0)
    store = TokenStore.open(folder)
    index = NeoxIndex.open(folder, store.starts)
    rows = open_suite_overlay(place, "perturbed", 0, seed=suite.seed).sequences(np.arange(index.samples))
    assert [index.window(store.tokens, slot).tolist() for slot in range(index.samples)] == rows.tolist()
    assert (folder / "tokens.idx").read_bytes() == (given / "given" / "tokens.idx").read_bytes()
    for path in (given / "given" / "order").iterdir():
        made = next(folder.glob(f"*_{path.name.split('_ac_')[1]}"))
        assert np.array_equal(np.load(made), np.load(path))
    assert verify_exports(suite, place, lambda share, remark: None) == (1, [])
    base = TokenStore.open(place.corpus).tokens
    with (folder / "tokens.bin").open("r+b") as file:
        file.seek(2 * 1234)
        file.write(np.array([base[1234] ^ 1], np.uint16).tobytes())
    _, problems = verify_exports(suite, place, lambda share, remark: None)
    assert "1 tokens are not those of the arm, the first at 1,234" in problems[0]


def test_an_export_of_documents_that_are_read_twice_is_refused(given: Path) -> None:
    from costar.release.forms.megatron import export_megatron

    write_tables(given, np.concatenate([np.arange(500), np.arange(100)]))
    place = build(given)
    with pytest.raises(CostarError, match="read 100 documents again"):
        export_megatron(load_suite(given / "ordered.toml"), place, "perturbed", 0)


@pytest.mark.slow
def test_the_command_line_builds_proves_trains_and_reads_an_ordered_corpus(given: Path) -> None:
    for verb in ("corpus", "insert", "train", "verify"):
        costar(given, verb, "./ordered.toml")
    assert "current, skipped" in costar(given, "corpus", "./ordered.toml").stdout
    built = given / "build" / "ordered"
    index = NeoxIndex.open(
        given / "given" / "order", TokenStore.open_prefix(given / "given" / "tokens", mend="").starts
    )
    rows = expected_rows(given, Workspace(built), "perturbed", index)
    suite = package.open(str(built))
    assert np.array_equal(suite.sequences("perturbed", [0, 5, 191]), rows[[0, 5, 191]])
    items = package.torch_dataset(str(built), arm="perturbed")
    assert np.array_equal(items[17].numpy(), rows[17])
    assert os.path.samefile(table_paths(built / "corpus")[0], next((given / "given" / "order").glob("*_doc_idx.npy")))
    log = pq.read_table(built / "runs" / "perturbed.nano.d0" / "log" / "log.parquet", partitioning=None)
    assert len(log) == STEPS
