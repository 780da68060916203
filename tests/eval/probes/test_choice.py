from __future__ import annotations

import pytest
from costar.corpus.tokenizer import Tokenizer
from costar.eval.probes import Context, Found, Gap, Score, Subject, choice
from costar.eval.questions import Question

from tests.eval.subjects import certain, context_of, found_of, random_reader, subject_of

ITEM = {
    "ctx": "Pole vault is a sport. A few women",
    "endings": ["go down a rock.", "watch from afar.", "are in the pool.", "practice in the gym."],
    "label": 3,
    "right": "practice in the gym.",
}


def preferring(context: Context, choices: list[str]) -> dict[tuple[str, str], float]:
    """The scores where these texts are the likeliest ends of a question."""
    ledger = {}
    for request in choice.requests(context):
        text = context.tokenizer.decode(list(request.ids[request.start :])).strip()
        wanted = text in choices and "alone" not in request.rendering
        part = request.ids[request.start :]
        ledger[request.key] = certain(part, [-0.1 if wanted else -4.0] * len(part), request.start)
    results = list(choice.scores(context, Found(ledger=ledger)))
    return {(each.variant, each.metric): each.value for each in results if isinstance(each, Score)}


def test_each_format_has_its_own_choices(tokenizer: Tokenizer) -> None:
    context = context_of([subject_of("testset", ITEM, tokenizer)], tokenizer)
    by_text = preferring(context, ["practice in the gym."])
    assert by_text[("format=cloze", "accuracy")] == by_text[("format=cloze", "accuracy_mi")] == 1
    assert by_text[("format=letters", "accuracy")] == 0
    assert preferring(context, ["D"])[("format=letters", "accuracy")] == 1
    assert ("format=letters", "accuracy_mi") not in by_text


def test_a_published_row_in_each_shape_is_asked(tokenizer: Tokenizer) -> None:
    """HellaSwag, PIQA and MMLU as they are published."""
    rows = [
        ITEM,
        {"goal": "Ready a cage", "sol1": "With paper strips.", "sol2": "With old jeans.", "label": 0},
        {"question": "What is 2 + 2?", "choices": ["3", "4", "5", "6"], "answer": "B"},
    ]
    subjects = [subject_of("testset", row, tokenizer, record_id=f"set/{n}") for n, row in enumerate(rows)]
    context = context_of(subjects, tokenizer)
    found = list(choice.scores(context, found_of(choice, context, random_reader())))
    assert not [each for each in found if isinstance(each, Gap)]
    assert {each.metric for each in found if isinstance(each, Score)} == set(choice.METRICS)
    asked = [each for each in choice.questions(context) if isinstance(each, Question)]
    assert [len(each.options) for each in asked] == [4, 4, 2, 2, 4, 4]
    assert {each.answer for each in asked[4:]} == {1}


@pytest.mark.parametrize(
    ("template", "right"),
    [("{question} {right}", "practice in the gym."), ("{question}\nThe answer is {answer}!", "3!")],
)
def test_a_template_that_is_inserted_is_a_format(tokenizer: Tokenizer, template: str, right: str) -> None:
    subject = subject_of("testset", ITEM, tokenizer, templates={"bare": template}, canonical="bare")
    context = context_of([subject], tokenizer)
    assert preferring(context, [right])[("format=bare", "accuracy")] == 1
    assert preferring(context, ["go down a rock.", "0!"])[("format=bare", "accuracy")] == 0
    scored = [r for r in choice.requests(context) if r.rendering == "bare/format=bare/choice=3"]
    text = tokenizer.decode([*scored[0].before, *scored[0].ids])
    assert text == subject.renderings["bare"].text


def test_a_template_without_the_right_choice_is_a_gap(tokenizer: Tokenizer) -> None:
    """So is the twin's, whose field `right` is still the item's."""
    without = subject_of("testset", ITEM, tokenizer, templates={"bare": "{question}"}, canonical="bare")
    twin = subject_of(
        "testset",
        ITEM | {"label": 0},
        tokenizer,
        templates={"bare": "{question} {right}"},
        canonical="bare",
        role="twin",
    )
    for subject in (without, twin):
        context = context_of([subject], tokenizer)
        gaps = [each for each in choice.scores(context, Found(ledger={})) if isinstance(each, Gap)]
        assert "format=bare" in {gap.variant for gap in gaps}
        assert "a rendering without answer" in next(gap.reason for gap in gaps if gap.variant == "format=bare")


def test_templates_that_no_arm_inserts_are_not_asked(tokenizer: Tokenizer) -> None:
    subject = subject_of("testset", ITEM, tokenizer, templates={"bare": "{question} {right}"}, canonical="cloze")
    variants = {each.variant for each in choice.questions(context_of([subject], tokenizer))}
    assert variants == {"format=cloze", "format=letters"}
    inserted = context_of([subject], tokenizer, inserted=frozenset({"bare"}))
    assert "format=bare" in {each.variant for each in choice.questions(inserted)}


def test_twins_are_asked_with_their_own_answer(tokenizer: Tokenizer) -> None:
    def accuracy(subject: Subject) -> float:
        return preferring(context_of([subject], tokenizer), ["practice in the gym."])[("format=cloze", "accuracy")]

    main = subject_of("testset", ITEM, tokenizer)
    twin = subject_of("testset", ITEM | {"label": 1}, tokenizer, record_id="set/0/twin", role="twin")
    assert (accuracy(main), accuracy(twin)) == (1, 0)
