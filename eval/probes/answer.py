"""Questions with a free answer: how likely is the answer after its question, and is it preferred to a wrong one?

A record may have wrong answers in one of the fields `inapt`, `foil`, `distractors` or `choices`: a text or a list of texts.
They and the answer are then compared as options, in the order of their letters, so that equal ones favour neither.
What the model answers by itself is in `answer-generation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..questions import OPTION_METRICS, Question, question_of, requests_of_all, scores_of_all
from ..spans import split_at_attribute
from . import Context, Found, Gap, Request, Score, Subject
from .likelihood import requests as likelihood_requests
from .likelihood import scored_texts

NEEDS = ("loglik",)
KINDS = ("qa",)
METRICS = {
    "nll_token": "nats per token of the answer",
    "extracted": "1 when greedy decoding after the question gives the answer word for word",
    **OPTION_METRICS,
    "accuracy_norm": "the same by log-probability per character of the answer, what follows it in the text not counted",
}
SOURCE = "Hubble (arXiv 2510.19811), ELLie and MUNCH; lm-evaluation-harness 0.4.13, loglikelihood and multiple_choice"
FOILS = ("inapt", "foil", "distractors", "choices")
PART = "part=answer"


def question(context: Context, subject: Subject, name: str) -> Question | None:
    """The answer among wrong ones; None where the record has none, or the rendering has no answer."""
    answer = str(subject.fields["answer"])
    found = split_at_attribute(subject.renderings[name], "answer", answer, context.tokenizer)
    options = sorted({answer, *foils(subject)})
    if isinstance(found, str) or len(options) < 2:
        return None
    before, after = found
    place = (subject.record_id, name, "")
    return question_of(*place, before, options, options.index(answer), delimiter="", after=after)


def questions(context: Context) -> Iterator[Question]:
    """Every question that has wrong answers."""
    asked = (question(context, subject, name) for subject, name in scored_texts(context))
    return (each for each in asked if each)


def foils(subject: Subject) -> list[str]:
    """The wrong answers of a record."""
    given: Any = next((subject.fields[name] for name in FOILS if name in subject.fields), [])
    texts = given if isinstance(given, list) else [given]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def requests(context: Context) -> Iterator[Request]:
    yield from likelihood_requests(context)
    yield from requests_of_all(questions(context), context.tokenizer)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    for subject, name in scored_texts(context):
        place = (subject.record_id, name, PART)
        tokens, span = found.tokens(subject.record_id, name), subject.renderings[name].spans.get("answer")
        if isinstance(tokens, str):
            yield Gap(*place, tokens)
        elif span is None:
            yield Gap(*place, "a rendering without answer")
        elif len(tokens.logp) > context.length:
            yield Gap(*place, f"{len(tokens.logp):,} tokens, the model reads at most {context.length:,}")
        else:
            part = tokens.part(*span)
            yield Score(*place, "nll_token", part.nll)
            yield Score(*place, "extracted", float(part.top1.all()))
    yield from scores_of_all(questions(context), found)
