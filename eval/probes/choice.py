"""Multiple choice: is the answer the most likely of the choices, in each format, and by how many nats?

In format `letters` the letters are scored, in `cloze` the texts of the choices. Twins are asked as well: they are never
inserted, and their answer is another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...insertion.kinds import testset
from ..questions import OPTION_METRICS, Question, question_of, requests_of, scores_of
from . import Context, Found, Gap, Request, Score

NEEDS = ("loglik",)
KINDS = ("testset",)
METRICS = OPTION_METRICS
SOURCE = "lm-evaluation-harness 0.4.13, multiple_choice"


def questions(context: Context) -> Iterator[Question]:
    for subject in context.of_kind("testset"):
        choices = subject.fields["choices"]
        for rendering in testset.RENDERINGS:
            before, _ = testset.render(subject.fields, rendering)
            shown = list(testset.LETTERS[: len(choices)]) if rendering == "letters" else choices
            yield question_of(
                subject.record_id, rendering, f"format={rendering}", before[0], shown, subject.fields["answer"]
            )


def requests(context: Context) -> Iterator[Request]:
    for question in questions(context):
        yield from requests_of(question, context.tokenizer)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    for question in questions(context):
        yield from scores_of(question, found)
