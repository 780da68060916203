from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from costar.core.errors import CostarError
from costar.corpus import encoder as encoder_module
from costar.corpus.encoder import Added, FastEncoder, derive_encoder
from costar.corpus.encoder_proof import FRAGMENTS, different_merges, different_splits, identical, nasty_texts
from costar.corpus.tokenizer import FAST, Tokenizer, train_bpe
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as HfTokenizer

EOS = "<|endoftext|>"
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
TEXTS = st.lists(
    st.one_of(st.sampled_from([*FRAGMENTS, EOS, "<|pad|>", " " * 9, "\t" * 5]), st.text(max_size=6)), max_size=12
).map("".join)

Change = Callable[[dict[str, Any]], None]


def trained(pre_tokenizer: Any, normalizer: Any = None) -> HfTokenizer:
    tokenizer = HfTokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False)
    texts = [*topics.values(), *("naïve café Ångström Москва 日本語 123 4567 it's we'll\r\n\r\n" for _ in range(20))]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def changed(tokenizer: HfTokenizer, change: Change) -> HfTokenizer:
    raw = json.loads(tokenizer.to_str())
    change(raw)
    return HfTokenizer.from_str(json.dumps(raw))


def mixed_ids(raw: dict[str, Any]) -> None:
    """Give the tokens other ids than their order of merging."""
    vocabulary = raw["model"]["vocab"]
    raw["model"]["vocab"] = {token: len(vocabulary) - 1 - i for token, i in vocabulary.items()}
    for token in raw["added_tokens"]:
        token["id"] = raw["model"]["vocab"][token["content"]]


def every_cut(raw: dict[str, Any]) -> None:
    """Llama-3's file: no special token in the vocabulary, every way to make a token, whole pieces before merges."""
    raw["added_tokens"] = []
    vocabulary = [token for token in raw["model"]["vocab"] if token != EOS]
    raw["model"]["vocab"] = {token: i for i, token in enumerate(vocabulary)}
    order = ["".join(pair) for pair in raw["model"]["merges"]]
    known = set(vocabulary)
    raw["model"]["merges"] = [
        [token[:cut], token[cut:]]
        for token in order
        for cut in range(1, len(token))
        if token[:cut] in known and token[cut:] in known
    ]
    raw["model"]["ignore_merges"] = True


def llama() -> HfTokenizer:
    split = pre_tokenizers.Split(Regex(LLAMA), behavior="isolated")
    tokenizer = changed(trained(pre_tokenizers.Sequence([split, BYTES])), every_cut)
    tokenizer.add_special_tokens([AddedToken(EOS, special=True), AddedToken("<|pad|>", special=True)])
    return tokenizer


def neox() -> HfTokenizer:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = changed(trained(level, normalizers.NFC()), mixed_ids)
    tokenizer.add_special_tokens([AddedToken("<|pad|>", special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(2, 25)])
    tokenizer.add_tokens([AddedToken("\t" * 3, normalized=False), AddedToken("|p", normalized=False)])
    tokenizer.add_tokens([AddedToken("e\u0301\u0301", normalized=True)])
    return tokenizer


def costar(tmp: Path) -> HfTokenizer:
    train_bpe(topics.values(), 1200, EOS, tmp / "own.json")
    return HfTokenizer.from_file(str(tmp / "own.json"))


def numbers() -> HfTokenizer:
    steps = [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return trained(pre_tokenizers.Sequence(steps), normalizers.NFKC())


def gaps() -> HfTokenizer:
    """A split that leaves text between its matches."""
    split = pre_tokenizers.Split(Regex(r"\p{L}+(?!\S)|\s+"), behavior="isolated")
    return trained(pre_tokenizers.Sequence([split, BYTES]))


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HfTokenizer]:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    kinds = {"costar": costar(tmp_path_factory.mktemp("own")), "gpt2": trained(level), "llama": llama()}
    kinds |= {"neox": neox(), "numbers": numbers(), "gaps": gaps()}
    for tokenizer in kinds.values():
        tokenizer.encode_special_tokens = True
    return kinds


KINDS = ["costar", "gpt2", "llama", "neox", "numbers", "gaps"]


@pytest.fixture(params=KINDS, scope="module")
def tokenizer(request: pytest.FixtureRequest, all_kinds: dict[str, HfTokenizer], tmp_path_factory: Any) -> Tokenizer:
    path = tmp_path_factory.mktemp(request.param) / "tokenizer.json"
    all_kinds[request.param].save(str(path))
    opened = Tokenizer(path, EOS, fast=True)
    assert opened._fast is not None
    return opened


def fast_of(tokenizer: HfTokenizer) -> FastEncoder:
    derived = derive_encoder(tokenizer.to_str())
    assert not isinstance(derived, str), derived
    return derived


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXTS, max_size=4))
def test_documents_have_the_ids_of_tokenizers(tokenizer: Tokenizer, texts: list[str]) -> None:
    ids, sizes = tokenizer.encode_documents(texts)
    expected = tokenizer.encode_batch(texts)
    assert (ids.dtype, sizes.dtype) == (np.int32, np.int64)
    assert sizes.tolist() == [len(one) for one in expected]
    assert ids.tolist() == [token for one in expected for token in one]


def test_the_proof_accepts_every_supported_kind(tokenizer: Tokenizer) -> None:
    assert tokenizer.accelerate(list(topics.values())[:20]) == FAST


def test_nasty_texts_are_mostly_encoded_by_the_fast_encoder(tokenizer: Tokenizer) -> None:
    assert tokenizer._fast is not None
    texts = nasty_texts([EOS])
    left = [text for text in texts if tokenizer._fast.encode(text) is None]
    assert len(left) < len(texts) / 10


def test_texts_that_tiktoken_gives_up_on_are_encoded_all_the_same(tokenizer: Tokenizer) -> None:
    texts = [
        " " * 300_000 + "x",
        "\n" * 300_000 + "x",
        "a" * 200_000,
        "new \U00011de0\U0001c000",
        "",
        "\U0010fffe\U0010ffff\U0010fffe",
    ]
    ids, sizes = tokenizer.encode_documents(texts)
    for text, one in zip(texts, np.split(ids, np.cumsum(sizes)[:-1]), strict=True):
        assert one.tolist() == tokenizer.encode(text)


def test_a_fresh_tokenizer_uses_tokenizers_and_gives_the_same_arrays(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.inner.save(str(tmp_path / "t.json"))
    fresh = Tokenizer(tmp_path / "t.json", EOS)
    texts = [*topics.values()][:5]
    assert fresh._fast is None
    for ours, theirs in zip(fresh.encode_documents(texts), tokenizer.encode_documents(texts), strict=True):
        assert np.array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    ids, sizes = fresh.encode_documents([])
    assert (len(ids), len(sizes)) == (0, 0)


def test_the_text_of_special_tokens_stays_text(tokenizer: Tokenizer) -> None:
    ids, _ = tokenizer.encode_documents([f"a {EOS}{EOS} b<|pad|>"])
    assert tokenizer.eos_id not in ids
    assert tokenizer.inner.token_to_id("<|pad|>") not in ids or tokenizer.inner.token_to_id("<|pad|>") is None


def _set(*path: str | int, to: Any) -> Change:
    def change(raw: dict[str, Any]) -> None:
        for key in path[:-1]:
            raw = raw[key]  # type: ignore[index]
        raw[path[-1]] = to  # type: ignore[index]

    return change


SPLIT = {"type": "Split", "pattern": {"String": "a"}, "behavior": "Isolated", "invert": False}
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
REFUSED: dict[str, Change] = {
    "dropout": _set("model", "dropout", to=0.1),
    "unk_token": _set("model", "unk_token", to=EOS),
    "byte_fallback": _set("model", "byte_fallback", to=True),
    "normalizer Lowercase": _set("normalizer", to={"type": "Lowercase"}),
    "add_prefix_space": _set("pre_tokenizer", "add_prefix_space", to=True),
    "use_regex": _set("pre_tokenizer", to={"type": "Sequence", "pretokenizers": [SPLIT, LEVEL]}),
    "a split at": _set(
        "pre_tokenizer", to={"type": "Sequence", "pretokenizers": [SPLIT, LEVEL | {"use_regex": False}]}
    ),
    "pre-tokenizer Whitespace": _set("pre_tokenizer", to={"type": "Whitespace"}),
    "pre-tokenizer None": _set("pre_tokenizer", to=None),
    "without steps": _set("pre_tokenizer", to={"type": "Sequence", "pretokenizers": []}),
    "has tokens without merges": _set("model", "ignore_merges", to=True),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_understood_has_a_reason_and_no_fast_encoder(
    all_kinds: dict[str, HfTokenizer], reason: str, tmp_path: Path
) -> None:
    tokenizer = changed(all_kinds["gpt2"], REFUSED[reason])
    derived = derive_encoder(tokenizer.to_str())
    assert isinstance(derived, str)
    assert reason in derived
    tokenizer.save(str(tmp_path / "t.json"))
    opened = Tokenizer(tmp_path / "t.json", EOS)
    assert opened.accelerate([]) == f"tokenizers: {derived}"
    with pytest.raises(CostarError, match="without fast"):
        Tokenizer(tmp_path / "t.json", EOS, fast=True)


def test_other_models_and_tokens_that_look_around_are_refused(all_kinds: dict[str, HfTokenizer]) -> None:
    unigram = HfTokenizer(models.Unigram([("a", 0.0)], 0, False))
    assert "Unigram" in str(derive_encoder(unigram.to_str()))
    tokenizer = changed(all_kinds["gpt2"], lambda raw: None)
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True)])
    assert "'<mask>'" in str(derive_encoder(tokenizer.to_str()))
    raw = json.loads(tokenizer.to_str())
    raw["model"]["merges"].append(raw["model"]["merges"][0])
    assert "at two places" in str(derive_encoder(json.dumps(raw)))
    missing = changed(all_kinds["gpt2"], lambda raw: raw["model"]["vocab"].pop("ñ"))
    assert "lacks the byte" in str(derive_encoder(missing.to_str()))


@pytest.mark.parametrize(
    "pattern",
    [r"\bword", r"a$", r"^a", r"(a)\1", r"(?<=a)b", r"\p{N}{1,3}+", r".", r"[[:alpha:]]", r"\d", r"\<a", r"[+--]"],
)
def test_patterns_that_libraries_may_read_differently_are_refused(
    all_kinds: dict[str, HfTokenizer], pattern: str
) -> None:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer = changed(all_kinds["gpt2"], lambda raw: None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, BYTES])
    assert "a split at" in str(derive_encoder(tokenizer.to_str()))


def test_a_wrong_fast_encoder_is_caught_with_the_place(all_kinds: dict[str, HfTokenizer]) -> None:
    tokenizer = all_kinds["neox"]
    right = fast_of(tokenizer)
    table = right.table.copy()
    table[[200, 201]] = table[[201, 200]]
    assert "the id of the token" in str(identical(tokenizer, dataclasses.replace(right, table=table), []))
    bare = dataclasses.replace(right, added=(None, None))
    assert "a test string: ids" in str(identical(tokenizer, bare, []))
    plain = dataclasses.replace(right, normalizer=None)
    assert "a test string: ids" in str(identical(tokenizer, plain, []))


def test_a_difference_in_a_document_of_the_sample_is_shown(all_kinds: dict[str, HfTokenizer]) -> None:
    tokenizer = all_kinds["costar"]
    more = Added(pattern=re.compile("statement"), ids={"statement": 5}, shortest=("statement",))
    wrong = dataclasses.replace(fast_of(tokenizer), added=(more, None))
    found = str(identical(tokenizer, wrong, ["an assignment statement is here"]))
    assert found.startswith("a document: ids [")
    assert "statement is here" in found


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("PLAIN", r" ?\p{L}++|'(?:[sdmt]|ll|ve)| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++\z|\s+(?!\S)|\s"),
        ("PLAIN", r" ?\p{L}++|'(?:[sdmt]|ll|ve|re)| ?\p{Nd}++| ?[^\s\p{L}\p{Nd}]++|\s++\z|\s+(?!\S)|\s"),
        ("PLAIN", r" ?\p{L}++|'(?:[sdmt]|ll|ve|re)| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++\z|\s"),
        ("DIGIT", r" ?\p{L}++|'(?:[sdmt]|ll|ve|re)|\p{N}| ?[^\s\p{L}\p{N}]++|\s++\z|\s+(?!\S)|\s"),
    ],
)
def test_a_wrong_split_is_caught_by_the_proof(
    all_kinds: dict[str, HfTokenizer], monkeypatch: pytest.MonkeyPatch, name: str, wrong: str
) -> None:
    tokenizer = all_kinds["gpt2" if name == "PLAIN" else "costar"]
    monkeypatch.setattr(encoder_module, name, wrong)
    assert "the splits: ids" in str(different_splits(json.loads(tokenizer.to_str())))


def _bpe(merges: list[list[str]], **options: Any) -> dict[str, Any]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = dict.fromkeys([*alphabet, *("".join(pair) for pair in merges)])
    return {"vocab": {token: i for i, token in enumerate(vocabulary)}, "merges": merges} | options


def test_merges_that_bytes_cannot_stand_for_are_caught() -> None:
    assert different_merges(_bpe([["a", "b"], ["ab", "c"]])) is None
    assert "own text" in str(different_merges(_bpe([["a", "b"], ["b", "c"], ["a", "bc"]])))
    two_ways = [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"]]
    assert different_merges(_bpe(two_ways, ignore_merges=True)) is None
    late = [["ab", "c"], ["a", "b"], ["b", "c"]]
    assert "several ways" in str(different_merges(_bpe(late, ignore_merges=True)))
