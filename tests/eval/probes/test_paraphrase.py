from __future__ import annotations

import pytest
from costar.corpus.tokenizer import Tokenizer
from costar.eval.probes import Found, Gap, Score, Subject, paraphrase

from tests.eval.subjects import certain, context_of, found_of, random_reader, subject_of

PAIR = {
    "sentence1": 'Amrozi accused his brother, whom he called "the witness", of deliberately distorting his evidence.',
    "sentence2": 'Referring to him as only "the witness", Amrozi accused his brother of deliberately distorting it.',
}


def preferring(subject: Subject, tokenizer: Tokenizer, text: str) -> dict[str, float]:
    """The scores where a text is likelier than every other."""
    context = context_of([subject], tokenizer)
    ledger = {}
    for request in paraphrase.requests(context):
        wanted = tokenizer.decode(list(request.ids)) == text
        ledger[request.key] = certain(request.ids, [-0.1 if wanted else -4.0] * len(request.ids))
    results = list(paraphrase.scores(context, Found(ledger=ledger)))
    assert not any(isinstance(each, Gap) for each in results)
    return {each.metric: each.value for each in results if isinstance(each, Score)}


@pytest.mark.parametrize("bit", [0, 1])
@pytest.mark.parametrize("canonical", ["sentence", "foil"])
def test_the_sentence_that_may_be_inserted_is_the_answer(tokenizer: Tokenizer, bit: int, canonical: str) -> None:
    subject = subject_of("paraphrase", PAIR | {"random_bit": bit}, tokenizer, canonical=canonical)
    inserted = subject.renderings[canonical].text
    other = next(text for text in PAIR.values() if text != inserted)
    known, unknown = preferring(subject, tokenizer, inserted), preferring(subject, tokenizer, other)
    assert known["accuracy"] == known["accuracy_norm"] == 1
    assert unknown["accuracy"] == unknown["accuracy_norm"] == 0
    assert known["margin"] > 0 > unknown["margin"]


def test_a_whole_sentence_is_scored_after_nothing(tokenizer: Tokenizer) -> None:
    """As in the likelihood of a record: the sum over all tokens of the sentence as it is inserted."""
    subject = subject_of("paraphrase", PAIR | {"random_bit": 1}, tokenizer)
    context = context_of([subject], tokenizer)
    assert [request.ids for request in paraphrase.requests(context)] == [
        tuple(tokenizer.encode(PAIR["sentence1"])),
        subject.renderings["sentence"].ids,
    ]
    assert all(request.start == 0 for request in paraphrase.requests(context))


def test_a_model_that_read_neither_is_right_for_one_of_the_two_bits(tokenizer: Tokenizer) -> None:
    reader = random_reader()
    found = []
    for bit in (0, 1):
        context = context_of([subject_of("paraphrase", PAIR | {"random_bit": bit}, tokenizer)], tokenizer)
        results = paraphrase.scores(context, found_of(paraphrase, context, reader))
        found.append({each.metric: each.value for each in results if isinstance(each, Score)})
    assert found[0]["accuracy"] + found[1]["accuracy"] == 1
    assert found[0]["margin"] == pytest.approx(-found[1]["margin"])
