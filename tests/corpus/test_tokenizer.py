from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

import pytest
from costar.core.errors import CostarError
from costar.corpus.tokenizer import Tokenizer, train_bpe
from hypothesis import given
from hypothesis import strategies as st

EOS = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_bpe(topics.values(), 600, EOS, path)
    return Tokenizer(path, EOS)


@given(text=st.text(min_size=1))
def test_any_text_comes_back_and_never_holds_the_eos_id(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_id not in ids
    assert sum(tokenizer.byte_count(i) for i in ids) == len(text.encode())


def test_a_literal_end_of_text_stays_text(tokenizer: Tokenizer) -> None:
    text = f"before {EOS} after"
    ids = tokenizer.encode_batch([text])[0]
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == text


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("0123456789")) == 10


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_bpe(topics.values(), 600, EOS, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_tokenizer_without_the_eos_token_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.inner.save(str(path))
    with pytest.raises(CostarError, match="no token '</s>'"):
        Tokenizer(path, "</s>")
    path.write_text("{}")
    with pytest.raises(CostarError, match="tokenizers library"):
        Tokenizer(path, EOS)


def test_records_that_cannot_be_inserted_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from tokenizers import normalizers

    with pytest.raises(CostarError, match="empty text"):
        tokenizer.encode_record("  \n", "here")
    path = tmp_path / "tokenizer.json"
    tokenizer.inner.save(str(path))
    lossy = Tokenizer(path, EOS)
    lossy.inner.normalizer = normalizers.Lowercase()
    with pytest.raises(CostarError, match="decoding gives"):
        lossy.encode_record("Upper case", "here")
    path.write_text(path.read_text().replace('"special": true', '"special": false'))
    leaky = Tokenizer(path, EOS)
    with pytest.raises(CostarError, match="end-of-document id"):
        leaky.encode_record(f"a {EOS} b", "here")


def test_a_swapped_tokenizer_is_refused(built_copy: Path) -> None:
    from costar.core.suite import load_suite
    from costar.corpus.reading import open_tokenizer

    path = built_copy / "corpus" / "tokenizer.json"
    text = path.read_text()
    at = text.index('"model"')
    swapped = text[:at] + text[at:].replace('"Ġthe"', '"Ġhte"', 1)
    assert len(swapped) == len(text)
    path.write_text(swapped)
    with pytest.raises(CostarError, match="another tokenizer"):
        open_tokenizer(load_suite(built_copy / "suite.toml").corpus, built_copy / "corpus")


def test_the_index_of_another_corpus_of_equal_size_is_refused(built_copy: Path) -> None:
    import numpy as np
    from costar.corpus.reading import open_store
    from costar.corpus.store import read_idx, write_idx

    path = built_copy / "corpus" / "tokens.idx"
    index = read_idx(path)
    write_idx(path, np.roll(index.sizes, 1), index.dtype)
    with pytest.raises(CostarError, match="the index of another corpus"):
        open_store(built_copy / "corpus")
