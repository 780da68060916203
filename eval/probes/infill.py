"""Sentences with a gap: is the right option the likelier one, in both formats, whichever of them was inserted?

In format `sentence` the gap is filled by each option in turn and what follows it is scored, the same text each time (partial
evaluation, Trinh and Le, arXiv 1806.02847); where nothing follows, the option is scored. `accuracy_norm` divides by the
characters up to the gap's end, as the harness does, and there is no `accuracy_mi`, for the text that is scored is the same.
In format `choice` the letters are scored. A record that was inserted in one format is measured in the other as well, and so
are twins, whose answer is the other option.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...insertion.kinds import infill
from ..questions import MUTUAL, OPTION_METRICS, Question, question_of, requests_of_all, scores_of_all
from . import Context, Found, Gap, Request, Score, Subject

NEEDS = ("loglik",)
KINDS = ("infill",)
METRICS = {
    **OPTION_METRICS,
    **MUTUAL,
    "accuracy_norm": "the same per character: of the sentence up to the gap's end, or of the option where that itself is scored",
}
SOURCE = "lm-evaluation-harness 0.4.13, winogrande; Hubble (arXiv 2510.19811), winogrande_hubble tasks"


def questions(context: Context) -> Iterator[Question]:
    """Every record in both formats."""
    for subject in context.subjects:
        yield _sentence(subject)
        before, _ = infill.render(subject.fields, "choice")
        letters = list(infill.LETTERS)
        answer = subject.fields["answer"]
        yield question_of(subject.record_id, "choice", "format=choice", before[0], letters, answer, mutual=True)


def _sentence(subject: Subject) -> Question:
    before, after = subject.fields["sentence"].split(infill.GAP)
    options, answer = subject.fields["options"], subject.fields["answer"]
    if not after.strip():
        return question_of(subject.record_id, "sentence", "format=sentence", before, options, answer, delimiter="")
    return Question(  # by hand: the options are contexts here, and their sizes what the harness takes
        record_id=subject.record_id,
        rendering="sentence",
        variant="format=sentence",
        options=tuple((before + option, after) for option in options),
        answer=answer,
        sizes=tuple(len(before + option) for option in options),
    )


def requests(context: Context) -> Iterator[Request]:
    return requests_of_all(questions(context), context.tokenizer)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    return scores_of_all(questions(context), found)
