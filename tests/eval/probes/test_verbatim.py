from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from costar.corpus.tokenizer import Tokenizer
from costar.eval.probes import Context, Found, Gap, Generated, Score, Subject, extraction, verbatim
from costar.eval.reader import OwnReader

from tests.eval.subjects import context_of, found_of, random_reader, subject_of

TEXTS = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.",
    "Call me Ishmael. Some years ago, never mind how long precisely, I thought I would sail about a little.",
    "All happy families are alike; each unhappy family is unhappy in its own way, and so on and so forth.",
)


@pytest.fixture(scope="module")
def reader() -> OwnReader:
    return random_reader()


def known_to(reader: OwnReader, subject: Subject, prefix: int, *, wrong_at: int | None = None) -> Subject:
    """The subject with what the model itself writes after the prefix; one token of it may be another."""
    start = subject.renderings["text"].ids[:prefix]
    (rest,) = reader.generate([[0, *start]], 30)
    if wrong_at is not None:
        rest[wrong_at] = (rest[wrong_at] + 1) % 500 + 5
    return replace(subject, renderings={"text": replace(subject.renderings["text"], ids=(*start, *rest))})


def subjects(tokenizer: Tokenizer, reader: OwnReader) -> list[Subject]:
    """Passages that the model does not know, one that it does, and one that it knows but for one word."""
    plain = [subject_of("passage", {"text": t}, tokenizer, record_id=f"set/{n}") for n, t in enumerate(TEXTS)]
    known = known_to(reader, replace(plain[0], record_id="set/known"), 8)
    return [*plain, known, known_to(reader, replace(plain[1], record_id="set/almost"), 8, wrong_at=12)]


def values(context: Context, found: Found) -> dict[tuple[str, str, str], float]:
    results = [each for each in verbatim.scores(context, found) if isinstance(each, Score)]
    return {(each.record_id, each.variant, each.metric): each.value for each in results}


def test_exact_match_is_the_extraction_of_the_whole_rest(tokenizer: Tokenizer, reader: OwnReader) -> None:
    """What is read off the ledger and what the model writes are the same fact, whatever the prefix."""
    chosen = subjects(tokenizer, reader)
    prefixes = (4, 8, 12, 16, 24, 32)
    context = context_of(chosen, tokenizer, prefixes=prefixes)
    written, ledger = found_of(verbatim, context, reader), found_of(extraction, context, reader)
    found = values(context, written)
    verdicts = set()
    for subject in chosen:
        tokens = ledger.tokens(subject.record_id, "text")
        assert not isinstance(tokens, str)
        for prefix in prefixes:
            exact = found[(subject.record_id, f"prefix={prefix}", "exact_match")]
            assert exact == bool(tokens.top1[prefix:].all())
            verdicts.add(exact)
    assert verdicts == {0.0, 1.0}


def test_a_known_passage_scores_one_in_everything(tokenizer: Tokenizer, reader: OwnReader) -> None:
    context = context_of(subjects(tokenizer, reader), tokenizer)
    found = values(context, found_of(verbatim, context, reader))
    known = {metric: value for (record, _, metric), value in found.items() if record == "set/known"}
    assert set(known) <= set(verbatim.METRICS)
    assert set(known.values()) == {1.0}
    assert all(0 <= value <= 1 for value in found.values())


def test_running_free_differs_from_teacher_forcing_after_a_wrong_word(tokenizer: Tokenizer, reader: OwnReader) -> None:
    subject = subjects(tokenizer, reader)[-1]
    context = context_of([subject], tokenizer)
    found = values(context, found_of(verbatim, context, reader))
    assert found[("set/almost", "prefix=8", "exact_match")] == 0
    rest = subject.renderings["text"].ids[8:]
    (own,) = reader.generate([[0, *subject.renderings["text"].ids[:8]]], len(rest))
    assert found[("set/almost", "prefix=8", "match_fraction")] == np.mean(np.array(own) == np.array(rest))


def test_the_continuation_ends_with_the_passage_or_the_context(tokenizer: Tokenizer) -> None:
    long = subject_of("passage", {"text": " ".join(TEXTS * 3)}, tokenizer)
    n = len(long.renderings["text"].ids)
    context = context_of([long], tokenizer, prefixes=(8, 100, n, n + 5), length=100)
    prompts = list(verbatim.prompts(context))
    assert [(prompt.variant, prompt.new_tokens) for prompt in prompts] == [("prefix=8", 91)]
    rest = long.renderings["text"].ids[8:99]
    found = Found(ledger={}, generated={prompts[0].key: Generated((*rest, 7, 7), "")})
    results = list(verbatim.scores(context, found))
    assert {each.value for each in results if isinstance(each, Score)} == {1.0}
    assert [each.variant for each in results if isinstance(each, Gap)] == [
        "prefix=100",
        f"prefix={n}",
        f"prefix={n + 5}",
    ]


def test_nearly_the_passage_is_approximate(tokenizer: Tokenizer) -> None:
    rest = tuple(range(10, 60))
    close, far = (*rest[:-2], 1, 2), rest[::2]
    assert verbatim.token_metrics(close, rest)["approximate"] == 1
    assert verbatim.token_metrics(close, rest)["exact_match"] == 0
    assert verbatim.token_metrics(far, rest)["approximate"] == 0
    assert verbatim.token_metrics((), rest) == {"exact_match": 0.0, "match_fraction": 0.0, "approximate": 0.0}


def test_what_was_not_written_is_a_gap(tokenizer: Tokenizer) -> None:
    subject = subject_of("passage", {"text": "Привет, мир! " * 8}, tokenizer)
    context = context_of([subject], tokenizer)
    (gap,) = verbatim.scores(context, Found(ledger={}))
    assert isinstance(gap, Gap)
    assert gap.reason == "not asked for"
    (prompt,) = verbatim.prompts(context)
    results = list(verbatim.scores(context, Found(ledger={}, generated={prompt.key: Generated((), "")})))
    assert [each.reason for each in results if isinstance(each, Gap)] == [
        "rouge_l needs words of the letters a to z or digits; the rest has none"
    ]
