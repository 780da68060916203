from __future__ import annotations

import pytest
from costar.corpus.tokenizer import Tokenizer
from costar.eval.questions import Question, requests_of, requests_of_all
from hypothesis import given
from hypothesis import strategies as st

from .privacy import small_tokenizer

TEXTS = st.text("ab Ω1.\n", max_size=8)
OPTIONS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@given(given_options=st.lists(OPTIONS, max_size=6), mutual=st.booleans())
def test_questions_encoded_together_ask_for_the_same_sequences(
    tokenizer: Tokenizer, given_options: list[list[tuple[str, str]]], mutual: bool
) -> None:
    questions = [
        Question(
            record_id=f"r{number}",
            rendering="text",
            variant="",
            options=tuple(options),
            answer=0,
            sizes=tuple(len(text) for _, text in options),
            mutual=mutual,
        )
        for number, options in enumerate(given_options)
    ]
    alone = [request for question in questions for request in requests_of(question, tokenizer)]
    assert list(requests_of_all(questions, tokenizer)) == alone
