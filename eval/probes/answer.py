"""Questions with a free answer: how likely is the answer after its question, and is it preferred to a wrong one?

A record may have wrong answers in one of the fields `inapt`, `foil`, `distractors` or `choices`: a text or a list of texts.
They and the answer are then compared as options, in the order of their letters, so that equal ones favour neither.
What the model answers by itself is in `answer-generation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from ..questions import OPTION_METRICS, Question, requests_of, scores_of
from ..spans import around
from . import Context, Found, Gap, Request, Score, Subject
from .likelihood import requests as likelihood_requests
from .likelihood import scored_renderings

NEEDS = ("loglik",)
KINDS = ("qa",)
METRICS = {
    "nll_token": "nats per token of the answer",
    "extracted": "1 when greedy decoding after the question gives the answer word for word",
} | OPTION_METRICS
SOURCE = "Hubble (arXiv 2510.19811), ELLie and MUNCH; lm-evaluation-harness 0.4.13, loglikelihood and multiple_choice"
FOILS = ("inapt", "foil", "distractors", "choices")
PART = "part=answer"


def renderings(context: Context) -> Iterator[tuple[Subject, str]]:
    for subject in context.of_kind(*KINDS):
        for name in scored_renderings(context, subject):
            yield subject, name


def question(context: Context, subject: Subject, name: str) -> Question | None:
    """The answer among wrong ones; None where the record has none, or the rendering has no answer."""
    answer = str(subject.fields["answer"])
    found = around(subject.renderings[name], "answer", answer, context.tokenizer)
    options = sorted({answer, *foils(subject)})
    if isinstance(found, str) or len(options) < 2:
        return None
    before, after = found
    return Question(
        record_id=subject.record_id,
        rendering=name,
        variant="",
        options=tuple((before, option + after) for option in options),
        answer=options.index(answer),
        sizes=tuple(map(len, options)),
    )


def foils(subject: Subject) -> list[str]:
    """The wrong answers of a record."""
    given: Any = next((subject.fields[name] for name in FOILS if name in subject.fields), [])
    texts = given if isinstance(given, list) else [given]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def requests(context: Context) -> Iterator[Request]:
    yield from likelihood_requests(replace(context, subjects=tuple(context.of_kind(*KINDS))))
    for subject, name in renderings(context):
        asked = question(context, subject, name)
        if asked:
            yield from requests_of(asked, context.tokenizer)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    for subject, name in renderings(context):
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
            yield Score(*place, "nll_token", -part.total / len(part.logp))
            yield Score(*place, "extracted", float(part.top1.all()))
        asked = question(context, subject, name)
        if asked:
            yield from scores_of(asked, found)
