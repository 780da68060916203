"""Source datatrove: what its DocumentTokenizer wrote is taken over, and is what costar makes of the same documents."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.corpus.reading import documents_of, open_store
from costar.corpus.shards import place_shards
from costar.corpus.store import TokenStore, read_idx
from datatrove.data import Document
from datatrove.pipeline.tokens import DocumentTokenizer
from hypothesis import given as drawn
from hypothesis import strategies as st

from tests.corpus.test_stored import STORED, build

EOS = "<|endoftext|>"
SHARDS = STORED.replace('"megatron"', '"datatrove"').replace('"given/tokens"', '"given"')


def tokenize(folder: Path, tokenizer: Path, texts: list[str], ranks: int) -> None:
    """What a datatrove pipeline of so many tasks leaves."""
    step = DocumentTokenizer(str(folder), str(tokenizer), eos_token=EOS, shuffle_documents=False)
    for rank in range(ranks):
        first, last = (len(texts) * (rank + k) // ranks for k in (0, 1))
        documents = (Document(text=text, id=str(number)) for number, text in enumerate(texts[first:last]))
        step.run(documents, rank=rank, world_size=ranks)


@pytest.fixture
def texts(built: Path) -> list[str]:
    dropped = set(pq.read_table(built / "corpus" / "dropped.parquet").column("doc_id").to_pylist())
    return [text for doc_id, text in documents_of(built / "corpus", "base") if doc_id not in dropped]


def prepare(folder: Path, built: Path, texts: list[str], ranks: int) -> Path:
    (folder / "given").mkdir()
    shutil.copyfile(built / "corpus" / "tokenizer.json", folder / "given" / "tokenizer.json")
    tokenize(folder / "given", folder / "given" / "tokenizer.json", texts, ranks)
    (folder / "stored.toml").write_text(SHARDS, encoding="utf-8")
    return folder


@pytest.mark.parametrize("ranks", [1, 3])
def test_shards_of_the_same_documents_are_the_store_that_costar_builds(
    tmp_path: Path, built: Path, texts: list[str], ranks: int
) -> None:
    corpus = build(prepare(tmp_path, built, texts, ranks))
    for name in ("tokens.bin", "tokens.idx"):
        assert (corpus / name).read_bytes() == (built / "corpus" / name).read_bytes()
    facts, original = (json.loads((folder / "corpus.json").read_text()) for folder in (corpus, built / "corpus"))
    for key in ("tokens", "sequences", "tokens_sha256", "tokenizer_sha256", "documents", "order"):
        assert facts[key] == original[key]
    assert (corpus / "tokens.bin").is_symlink() == (ranks == 1)
    if ranks == 1:
        assert os.path.samefile(corpus / "tokens.bin", next((tmp_path / "given").glob("*.ds")))
    open_store(corpus)


def test_a_glob_chooses_shards_and_their_order_is_that_of_the_names(
    tmp_path: Path, built: Path, texts: list[str]
) -> None:
    prepare(tmp_path, built, texts[:400], 4)
    (tmp_path / "stored.toml").write_text(SHARDS.replace('"given"', '"given/*[013]_unshuffled.ds"'), encoding="utf-8")
    store = open_store(build(tmp_path))
    parts = [
        np.fromfile(path, np.uint16) for path in sorted((tmp_path / "given").glob("*.ds")) if "2_un" not in str(path)
    ]
    assert len(parts) == 3
    assert np.array_equal(store.tokens, np.concatenate(parts))
    ends = np.flatnonzero(store.tokens == store.tokens[-1]) + 1
    assert np.array_equal(np.cumsum(store.sizes), ends)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda shard: shard.write_bytes(shard.read_bytes()[:-2]), r"unshuffled\.ds\n  found     [\d,]+ bytes"),
        (lambda shard: index(shard).unlink(), r"ds\.index\n  found     no such file"),
        (
            lambda shard: index(shard).write_bytes(index(shard).read_bytes()[:-3]),
            r"ds\.index\n  found     [\d,]+ bytes",
        ),
        (lambda shard: rewrite(shard, lambda ends: ends[:-1]), r"as 00001_unshuffled\.ds\.index says"),
        (lambda shard: rewrite(shard, lambda ends: np.r_[ends[:3], ends[2:]]), "ends that do not ascend"),
        (lambda shard: rewrite(shard, lambda ends: np.r_[ends[:3], ends[4:]]), "one at the end of every document"),
        (lambda shard: rewrite(shard, lambda ends: ends - (ends == ends[3]).astype("u8")), "one at the end of every"),
        (lambda shard: poke(shard, 5, 512), r"id 512\n  expected  ids from 0 to 511"),
        (lambda shard: poke(shard, 5, 0), "one at the end of every document"),
        (lambda shard: metadata(shard).write_text("gpt2|4\n5\n5 T"), "tokens of 4 bytes\n  expected  2"),
    ],
)
def test_damaged_shards_are_refused(
    tmp_path: Path, built: Path, texts: list[str], damage: object, message: str
) -> None:
    prepare(tmp_path, built, texts[:60], 2)
    assert callable(damage)
    damage(tmp_path / "given" / "00001_unshuffled.ds")
    with pytest.raises(CostarError, match=message):
        build(tmp_path)
    assert not (tmp_path / "build" / "corpus" / "stage-tokens.json").exists()


def index(shard: Path) -> Path:
    return shard.with_name(shard.name + ".index")


def metadata(shard: Path) -> Path:
    return shard.with_name(shard.name + ".metadata")


def rewrite(shard: Path, edit: object) -> None:
    assert callable(edit)
    edit(np.fromfile(index(shard), "<u8")).astype("<u8").tofile(index(shard))


def poke(shard: Path, place: int, token: int) -> None:
    tokens = np.fromfile(shard, np.uint16)
    tokens[place] = token if token else tokens[-1]
    tokens.tofile(shard)


def test_a_folder_without_shards_is_named(tmp_path: Path, built: Path) -> None:
    prepare(tmp_path, built, ["some text"], 1)
    (tmp_path / "given" / "00000_unshuffled.ds").unlink()
    with pytest.raises(CostarError, match=r"path 'given'\n  found     no \.ds file"):
        build(tmp_path)


def test_stores_of_shards_take_the_same_suites_as_those_of_megatron(tmp_path: Path, built: Path) -> None:
    from costar.corpus.build import check_source

    path = tmp_path / "stored.toml"
    path.write_text(SHARDS.replace('{ file = "given/tokenizer.json" }', '{ train = "bpe", vocabulary = 512 }'))
    with pytest.raises(CostarError, match="no tokenizer file"):
        check_source(load_suite(path))


@drawn(st.lists(st.lists(st.lists(st.integers(1, 99_999), max_size=5), min_size=1, max_size=6), min_size=1, max_size=4))
def test_ids_above_sixteen_bits_are_the_same_bytes_in_both_stores(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[list[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("wide")
    paths, documents = [], []
    for number, shard in enumerate(shards):
        ended = [[*document, 0] for document in shard]
        paths.append(folder / f"{number}.ds")
        np.concatenate([np.array(document, "<u4") for document in ended]).tofile(paths[-1])
        np.cumsum([len(document) for document in ended]).astype("<u8").tofile(index(paths[-1]))
        documents += ended
    if len(paths) == 1:
        (folder / "tokens.bin").symlink_to(paths[0])
    place_shards(paths, folder / "tokens.bin", folder / "tokens.idx", np.dtype(np.int32))
    store = TokenStore.open(folder)
    assert store.tokens.dtype == np.int32
    assert store.tokens.tolist() == [token for document in documents for token in document]
    assert read_idx(folder / "tokens.idx").sizes.tolist() == [len(document) for document in documents]
