from __future__ import annotations

from costar.corpus.tokenizer import Tokenizer
from costar.eval.probes import Context, Found, Gap, Score, infill
from costar.eval.questions import requests_of_all

from tests.eval.subjects import certain, context_of, found_of, random_reader, subject_of

ITEM = {
    "sentence": "Tobin thanked Maren for the coat, since _ had sewn it.",
    "options": ["Tobin", "Maren"],
    "answer": 1,
}
TWIN = ITEM | {"sentence": "Tobin thanked Maren for the coat, since _ had wanted it.", "answer": 0}


def after_option(context: Context, option: str, letter: str) -> dict[tuple[str, str], float]:
    """The scores where the rest of the sentence is likeliest after one option, and one letter is the likeliest."""
    ledger = {}
    for question in infill.questions(context):
        for request, (before, continuation) in zip(
            [r for r in requests_of_all([question], context.tokenizer) if "choice=" in r.rendering],
            question.options,
            strict=True,
        ):
            wanted = before.endswith(option) or continuation.strip() == letter
            part = request.ids[request.start :]
            ledger[request.key] = certain(part, [-0.1 if wanted else -4.0] * len(part), request.start)
        for request in requests_of_all([question], context.tokenizer):
            part = request.ids[request.start :]
            ledger.setdefault(request.key, certain(part, [-1.0] * len(part), request.start))
    results = infill.scores(context, Found(ledger=ledger))
    return {(each.variant, each.metric): each.value for each in results if isinstance(each, Score)}


def test_both_formats_are_scored_whichever_is_inserted(tokenizer: Tokenizer) -> None:
    for canonical in ("sentence", "choice"):
        context = context_of([subject_of("infill", ITEM, tokenizer, canonical=canonical)], tokenizer)
        found = after_option(context, "Maren", "A")
        assert found[("format=sentence", "accuracy")] == 1
        assert found[("format=choice", "accuracy")] == 0
        assert {metric for _, metric in found} == set(infill.METRICS)


def test_the_same_text_is_scored_after_each_option(tokenizer: Tokenizer) -> None:
    """As lm-evaluation-harness does for winogrande: the sentence up to the option is context, the rest is scored."""
    context = context_of([subject_of("infill", ITEM, tokenizer)], tokenizer)
    sentence, _ = infill.questions(context)
    assert sentence.options == (
        ("Tobin thanked Maren for the coat, since Tobin", " had sewn it."),
        ("Tobin thanked Maren for the coat, since Maren", " had sewn it."),
    )
    assert sentence.sizes == tuple(len(before) for before, _ in sentence.options)


def test_where_nothing_follows_the_option_itself_is_scored(tokenizer: Tokenizer) -> None:
    item = {"sentence": "The coat was sewn by _", "options": ["Tobin", "Maren"], "answer": 1}
    context = context_of([subject_of("infill", item, tokenizer)], tokenizer)
    sentence, _ = infill.questions(context)
    assert sentence.options == (("The coat was sewn by ", "Tobin"), ("The coat was sewn by ", "Maren"))
    results = list(infill.scores(context, found_of(infill, context, random_reader())))
    assert not [each for each in results if isinstance(each, Gap)]


def test_who_repeats_the_answer_of_the_item_is_wrong_about_its_twin(tokenizer: Tokenizer) -> None:
    for fields, right in ((ITEM, 1), (TWIN, 0)):
        context = context_of([subject_of("infill", fields, tokenizer)], tokenizer)
        found = after_option(context, "Maren", "B")
        assert found[("format=sentence", "accuracy")] == found[("format=choice", "accuracy")] == right


def test_a_gap_at_the_beginning_needs_no_context(tokenizer: Tokenizer) -> None:
    item = {"sentence": "_ sewed the coat.", "options": ["Tobin", "Maren"], "answer": 1}
    context = context_of([subject_of("infill", item, tokenizer)], tokenizer)
    results = list(infill.scores(context, found_of(infill, context, random_reader())))
    assert {each.variant for each in results if isinstance(each, Score)} == {"format=sentence", "format=choice"}
