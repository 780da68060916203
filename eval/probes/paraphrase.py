"""Paraphrases: does the model prefer the sentence of the pair that may be inserted to the other one?

Both are scored as a whole, after nothing. Which of the two is inserted was drawn for every pair before training, for held-out
pairs as well, so that a model that read neither prefers it half of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...insertion.kinds import paraphrase
from ..questions import OPTION_METRICS, Question, question_of, requests_of_all, scores_of_all
from . import Context, Found, Gap, Request, Score

NEEDS = ("loglik",)
KINDS = ("paraphrase",)
METRICS = OPTION_METRICS
SOURCE = "Hubble (arXiv 2510.19811), paraphrase preference on MRPC and PAWS"


def questions(context: Context) -> Iterator[Question]:
    """The two sentences in the order of the record, so that which is inserted says nothing about it."""
    for subject in context.subjects:
        sentences = [str(subject.fields[name]) for name in paraphrase.FIELDS]
        bit = int(subject.fields["random_bit"])
        answer = 1 - bit if subject.canonical == "foil" else bit
        yield question_of(subject.record_id, subject.canonical, "", "", sentences, answer, delimiter="")


def requests(context: Context) -> Iterator[Request]:
    return requests_of_all(questions(context), context.tokenizer)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    return scores_of_all(questions(context), found)
