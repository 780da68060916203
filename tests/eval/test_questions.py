from __future__ import annotations

from collections.abc import Iterator

from costar.corpus.tokenizer import Tokenizer
from costar.eval.probes import Found, Gap, Request
from costar.eval.questions import Question, question_of, requests_of_all, scores_of_all
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.text("ab Ω1.\n", max_size=8)
OPTIONS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)


def by_hand(question: Question, tokenizer: Tokenizer) -> Iterator[Request]:
    """The conventions of the harness, one text at a time."""
    for number, (context, continuation) in enumerate(question.options):
        before = tokenizer.encode(context.rstrip()) if context.rstrip() else []
        ids = tokenizer.encode(context + continuation)[len(before) :]
        place = "prompt" if before else "eos"
        yield Request(question.record_id, f"text/choice={number}", tuple(ids), place, tuple(before))
        if question.mutual:
            yield Request(question.record_id, f"text/alone={number}", tuple(tokenizer.encode(continuation)))


@given(given_options=st.lists(OPTIONS, max_size=6), mutual=st.booleans())
def test_questions_encoded_together_ask_for_the_sequences_of_each(
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
    wanted = [
        request for question in questions if len(question.options) > 1 for request in by_hand(question, tokenizer)
    ]
    assert list(requests_of_all([Gap("r", "text", "", "no reason"), *questions], tokenizer)) == wanted
    for question in questions:
        alone = [request for request in wanted if request.record_id == question.record_id]
        assert list(requests_of_all([question], tokenizer)) == alone


@given(given_options=st.lists(OPTIONS, max_size=6))
def test_every_question_has_its_scores_or_a_gap_in_its_place(given_options: list[list[tuple[str, str]]]) -> None:
    questions = [
        question_of(f"r{number}", "text", "", "", [text for _, text in options], 0)
        for number, options in enumerate(given_options)
    ]
    gap = Gap("r", "text", "", "no reason")
    results = list(scores_of_all([gap, *questions], Found(ledger={})))
    assert results[0] == gap
    assert [each.record_id for each in results[1:]] == [question.record_id for question in questions]
