"""Multiple choice: is the answer the most likely of the choices, in each format, and by how many nats?

In format `letters` the letters are scored, in `cloze` the texts of the choices. A template of the suite that some arm inserts
is a format as well, if it holds the right choice (its text in a field, or its number as `{answer}`); what follows there is
scored with the choice. Twins are asked as well: they are never inserted, and their answer is another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...insertion.kinds import testset
from ..questions import MUTUAL, OPTION_METRICS, Question, question_of, requests_of_all, scores_of_all
from ..spans import split_at_attribute
from . import Context, Found, Gap, Request, Score, Subject
from .likelihood import scored_renderings

NEEDS = ("loglik",)
KINDS = ("testset",)
METRICS = {
    **OPTION_METRICS,
    **MUTUAL,
    "accuracy_norm": "the same by log-probability per character of the choice, what follows it in a template not counted",
}
SOURCE = "lm-evaluation-harness 0.4.13, multiple_choice"


def questions(context: Context) -> Iterator[Question | Gap]:
    """Every record in every format, those of the suite's templates included, or why there are no choices to compare."""
    for subject in context.subjects:
        choices = subject.fields["choices"]
        written = scored_renderings(context, subject)
        for rendering in testset.RENDERINGS:
            if rendering == "plain" and rendering not in written:
                continue  # as HellaSwag's: where it is not inserted, it is one more text of the same
            before, _ = testset.render(subject.fields, rendering)
            cloze = rendering != "letters"
            yield question_of(
                subject.record_id,
                rendering,
                f"format={rendering}",
                before[0],
                choices if cloze else list(testset.LETTERS[: len(choices)]),
                subject.fields["answer"],
                mutual=cloze,
            )
        for name in written:
            if name not in testset.RENDERINGS:
                yield _in_template(context, subject, name)


def _in_template(context: Context, subject: Subject, name: str) -> Question | Gap:
    """The question as a template of the suite writes it."""
    choices, answer = subject.fields["choices"], subject.fields["answer"]
    rendered, variant = subject.renderings[name], f"format={name}"
    as_text = [each for each in rendered.spans if subject.fields.get(each) == choices[answer]]
    shown = choices if as_text else [str(number) for number in range(len(choices))]
    found = split_at_attribute(rendered, as_text[0] if as_text else "answer", shown[answer], context.tokenizer)
    if isinstance(found, str):
        return Gap(subject.record_id, name, variant, f"no choices to compare: {found}")
    before, after = found
    place = (subject.record_id, name, variant)
    return question_of(*place, before, shown, answer, delimiter="", after=after, mutual=bool(as_text))


def requests(context: Context) -> Iterator[Request]:
    return requests_of_all(questions(context), context.tokenizer)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    return scores_of_all(questions(context), found)
