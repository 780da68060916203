"""Source megatron: the token store of another tool is linked, never copied, and refused where it does not fit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.corpus.build import build_documents, build_store, build_tokenizer, check_source
from costar.corpus.executors import Backend
from costar.corpus.reading import open_store
from costar.corpus.store import TokenStore, token_dtype, write_idx
from costar.corpus.stored import check_store
from costar.corpus.tokenizer import Tokenizer
from costar.insertion.records import build_records
from tokenizers import Tokenizer as HfTokenizer

from tests.small import SUITE, costar

CORPUS = """[corpus]
source          = "megatron"
path            = "given/tokens"
sequence_length = 128
tokenizer       = { file = "given/tokenizer.json" }
"""
REST = SUITE[SUITE.index("[perturbation.quizzes]") : SUITE.index("[arm.early]")]
STORED = SUITE[: SUITE.index("[corpus]")] + CORPUS + "\n" + REST + SUITE[SUITE.index("[train]") : SUITE.index("[eval]")]


@pytest.fixture
def given(built: Path, tmp_path: Path) -> Path:
    """A folder with a suite file over a pair and its tokenizer as another tool would leave them."""
    (tmp_path / "given").mkdir()
    for name in ("tokens.bin", "tokens.idx", "tokenizer.json"):
        shutil.copyfile(built / "corpus" / name, tmp_path / "given" / name)
    (tmp_path / "stored.toml").write_text(STORED, encoding="utf-8")
    return tmp_path


def build(folder: Path) -> Path:
    """The steps of `costar corpus`, in one process."""
    suite = load_suite(folder / "stored.toml")
    corpus, insertion = folder / "build" / "corpus", folder / "build" / "insertion"
    check_source(suite)
    build_documents(suite, corpus, [folder], Backend())
    build_tokenizer(suite.corpus, corpus, [folder])
    build_records(suite, corpus, insertion, [folder])
    build_store(suite, corpus, insertion, Backend(), [], [folder])
    return corpus


def rewrite(folder: Path, documents: list[list[int]], dtype: type[np.generic] = np.uint16) -> None:
    """Another pair, as wide as asked."""
    np.concatenate([np.array(document, dtype) for document in documents]).tofile(folder / "given" / "tokens.bin")
    sizes = np.array([len(document) for document in documents], np.int32)
    write_idx(folder / "given" / "tokens.idx", sizes, np.dtype(dtype))


@pytest.fixture
def documents(built: Path) -> list[list[int]]:
    store = TokenStore.open(built / "corpus")
    ends = np.cumsum(store.sizes, dtype=np.int64)
    return [store.tokens[end - size : end].tolist() for end, size in zip(ends, store.sizes, strict=True)]


def test_a_pair_of_another_tool_is_built_on_by_the_command_line_without_a_copy(given: Path, built: Path) -> None:
    done = costar(given, "corpus", "./stored.toml")
    corpus = given / "build" / "stored" / "corpus"
    for name in ("tokens.bin", "tokens.idx"):
        assert (corpus / name).is_symlink()
        assert os.path.samefile(corpus / name, given / "given" / name)
    facts, original = (json.loads((folder / "corpus.json").read_text()) for folder in (corpus, built / "corpus"))
    for key in ("tokens", "sequences", "tokens_sha256", "tokenizer_sha256", "vocab_size", "eos_id", "documents"):
        assert facts[key] == original[key]
    assert "no document is dropped because it holds a record" in done.stdout
    costar(given, "insert", "./stored.toml")
    assert "current, skipped" in costar(given, "corpus", "./stored.toml").stdout


def test_the_linked_store_is_read_as_it_is(given: Path, built: Path) -> None:
    store = open_store(build(given))
    assert np.array_equal(store.tokens, TokenStore.open(built / "corpus").tokens)


def test_a_given_store_that_was_cut_later_is_named(given: Path) -> None:
    corpus = build(given)
    path = given / "given" / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CostarError, match=r"tokens\.bin"):
        open_store(corpus)


@pytest.mark.parametrize("missing", ["tokens.idx", "tokens.bin", "tokenizer.json"])
def test_a_missing_file_is_named(given: Path, missing: str) -> None:
    (given / "given" / missing).unlink()
    with pytest.raises(CostarError, match=f"given/{missing}|no file given/{missing}"):
        build(given)


def test_an_index_of_another_store_is_refused(given: Path, documents: list[list[int]]) -> None:
    write_idx(given / "given" / "tokens.idx", np.array([3, 4], np.int32), np.dtype(np.uint16))
    with pytest.raises(CostarError, match="the index is of another corpus"):
        build(given)


def test_ids_beyond_the_vocabulary_are_refused(given: Path, documents: list[list[int]]) -> None:
    rewrite(given, [[512, *documents[0]], *documents[1:]])
    with pytest.raises(CostarError, match=r"given/tokens\.bin\n  found     id 512\n  expected  ids from 0 to"):
        build(given)


def without_ends(documents: list[list[int]], eos: int) -> Iterator[tuple[str, list[list[int]]]]:
    yield "none", [document[:-1] for document in documents]
    yield "one missing", [documents[0][:-1], *documents[1:]]
    yield "inside", [[eos, *documents[0]], *documents[1:]]
    yield "at the beginning instead", [[eos, *document[:-1]] for document in documents]


def test_documents_that_do_not_end_with_the_end_or_hold_it_inside_are_refused(
    given: Path, documents: list[list[int]]
) -> None:
    eos = documents[0][-1]
    for name, changed in without_ends(documents, eos):
        rewrite(given, changed)
        with pytest.raises(CostarError, match=r"one at the end of every document, and none inside") as error:
            build(given)
        assert "given/tokens.bin" in error.value.place, name


def test_the_wrong_tokenizer_is_refused(given: Path, tmp_path: Path) -> None:
    """A smaller vocabulary, another end of documents, and one that needs wider ids."""
    path = given / "given" / "tokenizer.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    inner = HfTokenizer.from_file(str(path))
    inner.add_special_tokens(["<|other|>"])
    inner.save(str(path))
    (given / "stored.toml").write_text(STORED.replace('json" }', 'json", eos = "<|other|>" }'), encoding="utf-8")
    with pytest.raises(CostarError, match="0 end-of-document ids 512"):
        build(given)
    (given / "stored.toml").write_text(STORED, encoding="utf-8")
    vocab = {token: number for token, number in whole["model"]["vocab"].items() if number < 400}
    merges = [pair for pair in whole["model"]["merges"] if "".join(pair) in vocab]
    whole["model"] |= {"vocab": vocab, "merges": merges}
    path.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(CostarError, match="ids from 0 to 399\n  mend      name the tokenizer"):
        build(given)


def test_ids_of_another_width_than_the_vocabulary_needs_are_refused(
    given: Path, documents: list[list[int]], built: Path
) -> None:
    rewrite(given, documents, np.int32)
    tokenizer = Tokenizer(built / "corpus" / "tokenizer.json", "<|endoftext|>")
    store = TokenStore.open_prefix(given / "given" / "tokens", mend="")
    with pytest.raises(CostarError, match=f"int32\n  expected  {token_dtype(512)}"):
        check_store(store, tokenizer, "here", lambda share, what: None)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('{ from = "generator" }', '{ from = "corpus", tokens = 20 }', "held-out text for quizzes"),
        ("[arm.perturbed]", '[arm.perturbed]\nfiller = "base"', "held-out text for filler of perturbed"),
        ('{ file = "given/tokenizer.json" }', '{ train = "bpe", vocabulary = 512 }', "no tokenizer file"),
    ],
)
def test_what_a_store_of_tokens_cannot_give_is_refused_before_anything_is_read(
    given: Path, old: str, new: str, found: str
) -> None:
    assert old in STORED
    (given / "stored.toml").write_text(STORED.replace(old, new, 1), encoding="utf-8")
    (given / "given" / "tokens.bin").unlink()
    with pytest.raises(CostarError, match=found) as error:
        build(given)
    assert error.value.place == "[corpus] source 'megatron'"
    assert not (given / "build").exists()


def test_the_command_line_refuses_it_too_and_leaves_nothing_behind(given: Path) -> None:
    (given / "stored.toml").write_text(STORED.replace("[arm.perturbed]", '[arm.perturbed]\nfiller = "base"'))
    for verb in ("plan", "corpus"):
        done = costar(given, verb, "./stored.toml", check=False)
        assert done.returncode == 2
        assert "held-out text for filler of perturbed" in done.stderr
    assert not (given / "build" / "stored" / "corpus").exists()


@pytest.mark.parametrize(
    ("path", "message"), [('["a", "b"]', "2 paths"), ("[]", "0 paths"), ('"given/absent"', "absent.bin")]
)
def test_one_pair_is_named_without_its_ending(given: Path, path: str, message: str) -> None:
    (given / "stored.toml").write_text(STORED.replace('"given/tokens"', path), encoding="utf-8")
    with pytest.raises(CostarError, match=message):
        build(given)


def test_another_pair_in_its_place_is_taken_over(given: Path, documents: list[list[int]]) -> None:
    corpus = build(given)
    before = json.loads((corpus / "corpus.json").read_text())["tokens_sha256"]
    rewrite(given, documents[:-3])
    assert json.loads((build(given) / "corpus.json").read_text())["tokens_sha256"] != before
    assert np.array_equal(open_store(corpus).tokens, np.concatenate(documents[:-3]))
