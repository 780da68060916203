from __future__ import annotations

import pytest
from costar.corpus.tokenizer import Tokenizer
from costar.eval.probes import Found, Gap, Generated, Score, answer, answer_generation, likelihood

from tests.eval.subjects import certain, context_of, found_of, random_reader, subject_of

ITEM = {"question": "What is George Rankin's occupation?", "answers": ["politician", "pol"]}


@pytest.mark.parametrize("rendering", ["question", "plain"])
def test_the_answer_alone_is_measured(tokenizer: Tokenizer, rendering: str) -> None:
    subject = subject_of("qa", ITEM, tokenizer, canonical=rendering)
    ids = subject.renderings[rendering].ids
    start, end = subject.renderings[rendering].spans["answer"]
    assert tokenizer.decode(list(ids[start:end])).strip() == "politician"
    logps = [-3.0] * start + [-0.25] * (end - start)
    context = context_of([subject], tokenizer)
    found = Found(ledger={(subject.record_id, rendering, "eos"): certain(ids, logps)})
    assert list(answer.scores(context, found)) == [
        Score(subject.record_id, rendering, "part=answer", "nll_token", 0.25),
        Score(subject.record_id, rendering, "part=answer", "extracted", 1.0),
    ]


def test_a_text_longer_than_the_context_is_a_gap(tokenizer: Tokenizer) -> None:
    """It was scored in windows, so that its answer does not follow the question that was asked."""
    subject = subject_of("qa", ITEM, tokenizer)
    ids = subject.renderings[subject.canonical].ids
    found = Found(ledger={(subject.record_id, subject.canonical, "eos"): certain(ids, [-0.25] * len(ids))})
    (gap,) = answer.scores(context_of([subject], tokenizer, length=len(ids) - 1), found)
    assert isinstance(gap, Gap)
    assert (gap.variant, gap.reason) == (
        "part=answer",
        f"{len(ids)} tokens, the model reads at most {len(ids) - 1}",
    )
    assert all(
        isinstance(each, Score) for each in answer.scores(context_of([subject], tokenizer, length=len(ids)), found)
    )


def test_it_shares_the_ledger_of_the_likelihood(tokenizer: Tokenizer) -> None:
    context = context_of([subject_of("qa", ITEM, tokenizer)], tokenizer)
    assert list(answer.requests(context)) == list(likelihood.requests(context))


@pytest.mark.parametrize(
    "foils",
    [
        {"inapt": "botanist"},
        {"distractors": ["botanist", "dentist"]},
        {"choices": ["botanist", "politician", "dentist"]},
    ],
)
def test_wrong_answers_make_it_a_question_with_options(tokenizer: Tokenizer, foils: dict[str, object]) -> None:
    subject = subject_of("qa", ITEM | foils, tokenizer)
    asked = answer.question(context_of([subject], tokenizer), subject, "question")
    assert asked is not None
    assert asked.options[asked.answer][1].strip() == "politician"
    assert sorted(len(option[1].strip()) for option in asked.options) == sorted(
        map(len, {"politician", "botanist", *([] if "inapt" in foils else ["dentist"])})
    )
    context = context_of([subject], tokenizer)
    results = list(answer.scores(context, found_of(answer, context, random_reader())))
    assert {each.metric for each in results if isinstance(each, Score)} == set(answer.METRICS)


def test_wrong_answers_that_are_the_right_one_are_no_options(tokenizer: Tokenizer) -> None:
    subject = subject_of("qa", ITEM | {"inapt": "politician"}, tokenizer)
    assert answer.question(context_of([subject], tokenizer), subject, "question") is None


@pytest.mark.parametrize("probe", [answer, answer_generation])
def test_a_rendering_without_the_answer_is_a_gap(tokenizer: Tokenizer, probe: object) -> None:
    subject = subject_of("qa", ITEM, tokenizer, templates={"bare": "{question}"}, canonical="bare")
    context = context_of([subject], tokenizer)
    module = answer if probe is answer else answer_generation
    (gap,) = module.scores(context, found_of(module, context, random_reader()))
    assert isinstance(gap, Gap)
    assert gap.reason == "a rendering without answer"


def test_the_prompt_is_everything_before_the_answer(tokenizer: Tokenizer) -> None:
    subject = subject_of("qa", ITEM, tokenizer)
    context = context_of([subject], tokenizer)
    (prompt,) = answer_generation.prompts(context)
    assert tokenizer.decode(list(prompt.ids)) == "Question: What is George Rankin's occupation?\nAnswer:"
    assert (prompt.new_tokens, prompt.stops) == (50, ("\n",))
    (short,) = answer_generation.prompts(context_of([subject], tokenizer, length=40))
    assert 1 + len(short.ids) + short.new_tokens == 40


def test_an_answer_is_compared_as_squad_does(tokenizer: Tokenizer) -> None:
    context = context_of([subject_of("qa", ITEM, tokenizer)], tokenizer)
    (prompt,) = answer_generation.prompts(context)
    for text, exact, begins in ((" A Politician.", 1, 1), (" politician and poet", 0, 1), (" poet", 0, 0)):
        found = Found(ledger={}, generated={prompt.key: Generated((1,), text)})
        scores = {s.metric: s.value for s in answer_generation.scores(context, found) if isinstance(s, Score)}
        assert (scores["exact_match"], scores["prefix_match"]) == (exact, begins)
        assert set(scores) == set(answer_generation.METRICS)
