from __future__ import annotations

import itertools

import pytest
from costar.eval.overlap import bleu, common_length, edit_distance, edit_similarity, rouge_l, words
from hypothesis import given
from hypothesis import strategies as st

SEQUENCES = st.lists(st.integers(0, 3), max_size=70)


def table(a: list[int], b: list[int], *, common: bool) -> int:
    """The textbook dynamic programme of both measures."""
    rows = [[0 if common else i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        same = a[i - 1] == b[j - 1]
        if common:
            rows[i][j] = rows[i - 1][j - 1] + 1 if same else max(rows[i - 1][j], rows[i][j - 1])
        else:
            rows[i][j] = min(rows[i - 1][j - 1] + (not same), rows[i - 1][j] + 1, rows[i][j - 1] + 1)
    return rows[-1][-1]


@given(SEQUENCES, SEQUENCES)
def test_both_measures_equal_the_textbook_table(a: list[int], b: list[int]) -> None:
    assert common_length(a, b) == common_length(b, a) == table(a, b, common=True)
    assert edit_distance(a, b) == edit_distance(b, a) == table(a, b, common=False)


@given(SEQUENCES)
def test_a_sequence_is_wholly_like_itself_and_unlike_strangers(a: list[int]) -> None:
    strangers = [each + 10 for each in a]
    assert edit_similarity(a, a) == 1
    assert rouge_l(a, a) == bleu(a, a) == (1.0 if a else 0.0)
    assert rouge_l(a, strangers) == bleu(a, strangers) == 0
    assert edit_similarity(a, strangers) == (0.0 if a else 1.0)


def test_known_values() -> None:
    """Values of rouge_score 0.1.2, without stemming, and of nltk 3.10's sentence_bleu."""
    answer, right = words("The cat's mat, on the DOG!"), words("the cat sat on the mat")
    assert answer == ["the", "cat", "s", "mat", "on", "the", "dog"]
    assert rouge_l(answer, right) == pytest.approx(8 / 13)
    given_, wanted = (
        ["the", "cat", "sat", "on", "the", "mat", "today"],
        ["the", "cat", "sat", "on", "a", "mat", "today"],
    )
    assert bleu(given_, wanted) == pytest.approx((6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25)
    assert bleu(wanted[:5], wanted) == pytest.approx(2.718281828 ** (1 - 7 / 5))


def test_other_scripts_have_no_words() -> None:
    assert words("Ω — привет!") == []
