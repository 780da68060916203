"""Multiple choice: is the answer the most likely of the choices, in each format, and by how many nats?

A choice is scored by the summed log-probability of its tokens after the question (the `acc` of lm-evaluation-harness).
In format `letters` the letters are scored, in `cloze` the texts of the choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...insertion.kinds import testset, text_of
from . import Context, Ledger, Request, Score, Subject

NEEDS = "loglik"


def _subjects(context: Context) -> Iterator[Subject]:
    return (subject for subject in context.subjects if subject.kind == "testset")


def _name(rendering: str, choice: int, answer: int) -> str:
    return rendering if choice == answer else f"{rendering}/choice={choice}"


def requests(context: Context) -> Iterator[Request]:
    for subject in _subjects(context):
        answer = subject.fields["answer"]
        for rendering in testset.RENDERINGS:
            for choice in range(len(subject.fields["choices"])):
                text = text_of(testset.render({**subject.fields, "answer": choice}, rendering))
                ids = tuple(context.tokenizer.encode(text))
                yield Request(subject.record_id, _name(rendering, choice, answer), ids)


def scores(context: Context, ledger: Ledger, model: Any) -> Iterable[Score]:
    for subject in _subjects(context):
        answer = subject.fields["answer"]
        for rendering in testset.RENDERINGS:
            start = subject.renderings[rendering].spans["answer"][0]
            names = [_name(rendering, choice, answer) for choice in range(len(subject.fields["choices"]))]
            totals = [float(ledger[(subject.record_id, name)].logp[start:].sum(dtype="float64")) for name in names]
            others = max(total for choice, total in enumerate(totals) if choice != answer)
            variant = f"format={rendering}"
            yield subject.record_id, rendering, variant, "accuracy", float(totals[answer] > others)
            yield subject.record_id, rendering, variant, "margin", totals[answer] - others
