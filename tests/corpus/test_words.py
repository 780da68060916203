"""The words of many texts at once are those of the rule, letter by letter."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
from costar.corpus.words import ALONE_RANGES, BASE, NAME, OPENING, PLAIN, rolling, words_of
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus.planting import BASES, base_texts

TEXTS = st.lists(
    st.text(st.one_of(st.characters(), st.sampled_from("aB ß.’-\u00ad\u0301漢字かไทยＡ①ﬁİ\n")), max_size=40)
)


def plain_words(text: str) -> list[str]:
    """The rule, one character after the other."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words, word = [], ""
    for letter in [*folded, " "]:
        category = unicodedata.category(letter)
        if category == "Cf":
            continue
        alone = category[0] in "LNM" and any(first <= ord(letter) <= last for first, last in ALONE_RANGES)
        if category[0] in "LNM" and not alone:
            word += letter
            continue
        words += [each for each in (word, letter if alone else "") if each]
        word = ""
    return words


def assert_same_words(texts: list[str]) -> None:
    words = words_of(texts)
    plain = [plain_words(text) for text in texts]
    assert words.counts.tolist() == [len(each) for each in plain]
    numbers: dict[str, int] = {}
    flat = [word for each in plain for word in each]
    for word, value in zip(flat, words.hashes.tolist(), strict=True):
        assert numbers.setdefault(word, value) == value
    assert len(set(numbers.values())) == len(numbers)


@given(TEXTS)
def test_words_are_those_of_the_rule_for_any_text(texts: list[str]) -> None:
    assert_same_words(texts)


def test_words_are_those_of_the_rule_for_real_text(shared_data: Path) -> None:
    for name in BASES:
        assert_same_words([text[:40_000] for text in base_texts(shared_data, 12, [name])])


def test_words_do_not_depend_on_the_other_texts_or_on_where_they_stand(shared_data: Path) -> None:
    texts = base_texts(shared_data, 6)
    together = words_of(texts).hashes
    assert np.array_equal(together, np.concatenate([words_of([text]).hashes for text in texts]))


def test_a_word_longer_than_a_block_is_one_word() -> None:
    words = words_of(["x" * 300_000 + " y", "y"])
    assert words.counts.tolist() == [2, 1]
    assert words.hashes[1] == words.hashes[2]


def test_case_punctuation_width_and_unseen_characters_do_not_change_words() -> None:
    plain = words_of(["the otter's old key - straße"]).hashes
    for text in ("THE OTTER’S\nold\u00a0key — STRASSE", "“The ot\u00adter`s” (old) ｋｅｙ… Straße!"):
        assert np.array_equal(words_of([text]).hashes, plain)


def test_names_and_numbers_inside_a_sentence_are_told_from_openings() -> None:
    sorts = words_of(["Then Anna Lee saw 12 boats. Two sank"], sorts=True).sorts.tolist()
    assert sorts == [OPENING, NAME, NAME, PLAIN, NAME, PLAIN, OPENING, PLAIN]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40), st.integers(1, 14))
def test_runs_are_polynomials_of_their_words(values: list[int], size: int) -> None:
    expected = [
        sum(value * int(BASE) ** (size - 1 - j) for j, value in enumerate(values[i : i + size])) % 2**64
        for i in range(len(values) - size + 1)
    ]
    assert rolling(np.array(values, np.uint64), size).tolist() == expected
