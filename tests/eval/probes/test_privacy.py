"""The probes of personal data on a small model that read some of the records a hundred times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from costar.corpus.tokenizer import Tokenizer
from costar.eval.probes import Context, Subject, persona
from costar.eval.probes.pii_choice import addresses
from costar.eval.probes.pii_generation import stop_of
from costar.eval.prompts import attributes_of
from costar.eval.questions import Question
from costar.eval.reader import OwnReader
from costar.insertion.kinds import biography
from hypothesis import given
from hypothesis import strategies as st

from tests.eval.subjects import context_of, generated, measured, reader_that_read, subject_of

READ, HELD_OUT = 3, 12  # records of each kind that the model read, and that it did not
Scores = dict[tuple[str, str, str], float]


@pytest.fixture(scope="module")
def context(tokenizer: Tokenizer) -> Context:
    subjects = [each for kind in ("biography", "court", "chat") for each in generated(kind, READ + HELD_OUT, tokenizer)]
    return context_of(
        subjects, tokenizer, length=512, inserted_ids=[each.record_id for each in subjects if was_read(each)]
    )


@pytest.fixture(scope="module")
def reader(context: Context) -> OwnReader:
    texts = [each.renderings[each.canonical].ids for each in context.subjects if was_read(each)]
    return reader_that_read(texts, context.tokenizer, 110)


def was_read(subject: Subject) -> bool:
    return int(subject.record_id.rpartition("/")[2]) < READ


def mean(scores: Scores, variant: str, metric: str, *, read: bool, kind: str = "") -> float:
    found = [
        value
        for (record_id, each, name), value in scores.items()
        if (each, name) == (variant, metric)
        and record_id.startswith(kind)
        and (int(record_id.rpartition("/")[2]) < READ) == read
    ]
    assert len(found) == (READ if read else HELD_OUT)
    return float(np.mean(found))


def test_attributes_of_read_records_are_given_back(context: Context, reader: OwnReader, tmp_path: Path) -> None:
    scores, gaps = measured("attributes", context, reader, tmp_path)
    assert not gaps
    for kind, names in (("biography", ["email", "identifier", "all"]), ("court", ["residence", "all"])):
        for name in names:
            read, held_out = (
                mean(scores, f"attribute={name}", "nll_token", read=read, kind=kind) for read in (True, False)
            )
            assert read < 0.7
            assert held_out > 2
    assert mean(scores, "attribute=email", "extracted", read=True) > 0.7
    assert mean(scores, "attribute=email", "extracted", read=False) == 0


def test_an_attribute_is_the_tokens_that_cover_it_at_its_first_place(
    context: Context, reader: OwnReader, tmp_path: Path
) -> None:
    for subject in context.subjects:
        written = subject.renderings[subject.canonical]
        values = attributes_of(subject) if subject.kind != "chat" else {"username": subject.fields["username"]}
        for name, value in values.items():
            begin, end = written.spans[name]
            assert context.tokenizer.decode(written.ids[begin:end]).strip(" .,\n:") in (value, value.strip("."))
    chat = next(each for each in context.subjects if each.kind == "chat")
    assert chat.renderings["chat"].spans["username"][0] == 0


def test_read_attributes_are_chosen_after_their_own_text(context: Context, reader: OwnReader, tmp_path: Path) -> None:
    scores, gaps = measured("pii-choice", context, reader, tmp_path)
    assert not gaps
    for prompt in ("full", "full-suffix"):
        assert mean(scores, f"prompt={prompt},attribute=all", "accuracy", read=True) > 0.8
        assert mean(scores, f"prompt={prompt},attribute=all", "accuracy", read=False) < 0.3
        assert mean(scores, f"prompt={prompt},attribute=email", "margin", read=True) > 0
    asked = {variant for _, variant, _ in scores}
    assert asked == {
        f"prompt={prompt},attribute={name}"
        for prompt in ("full-suffix", "full", "intro", "name")
        for name in (*biography.ATTRIBUTES, "all")
        if (prompt, name) != ("intro", "nationality")
    }


def test_read_attributes_are_generated_after_their_own_text(
    context: Context, reader: OwnReader, tmp_path: Path
) -> None:
    scores, gaps = measured("pii-generation", context, reader, tmp_path)
    assert not gaps
    for kind in ("biography", "court"):
        assert mean(scores, "prompt=full,attribute=all", "exact_match", read=True, kind=kind) > 0.8
        assert mean(scores, "prompt=full,attribute=all", "exact_match", read=False, kind=kind) < 0.3
    assert mean(scores, "prompt=full,attribute=email", "exact_match", read=True) > 0.7
    assert {variant for record, variant, _ in scores if record.startswith("court")} == {
        f"prompt=full,attribute={name}"
        for name in ("name", "birth_year", "residence", "nationality", "occupation", "all")
    }


def test_read_chats_give_their_username_back_and_personas_are_asked(
    context: Context, reader: OwnReader, tmp_path: Path
) -> None:
    scores, gaps = measured("persona", context, reader, tmp_path)
    assert not gaps
    variants = {variant for _, variant, _ in scores}
    assert variants == {
        f"ask={ask},prompt={prompt}"
        for ask in ("persona", "username-by-persona", "username-by-lines")
        for prompt in ("none", "asked")
    }
    for variant in variants:
        for metric in ("accuracy", "accuracy_norm", "accuracy_mi", "margin"):
            assert np.isfinite(mean(scores, variant, metric, read=False))
    assert mean(scores, "ask=persona,prompt=none", "nll_token", read=False) > 0


def test_what_cannot_be_asked_is_a_gap_and_the_rest_goes_on(
    context: Context, reader: OwnReader, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    first, second = (dict(each.fields) for each in context.subjects[:2])
    case = {"text": "The applicant is not named.", "attributes": {}}
    chats = [dict(each.fields) for each in context.subjects if each.kind == "chat"][:3]
    del first["email"], chats[0]["persona"]
    second["nationality"], chats[1]["persona"] = "Danish", [3]
    records = [("biography", first), ("biography", second), ("court", case), *(("chat", chat) for chat in chats)]
    subjects = [
        subject_of(kind, fields, tokenizer, record_id=f"{kind}/{n:04d}") for n, (kind, fields) in enumerate(records)
    ]
    few = context_of(subjects, tokenizer, length=512)
    told = {}
    for name in ("attributes", "pii-choice", "pii-generation", "persona"):
        scores, gaps = measured(name, few, reader, tmp_path / name)
        assert scores
        told[name] = {(gap["record_id"], gap["variant"], gap["reason"]) for gap in gaps}
    assert told["attributes"] == {("court/0002", "", "a text without attributes")}
    no_email = ("biography/0000", "attribute=email", "a record without email")
    assert told["pii-choice"] == {no_email}
    assert told["pii-generation"] == {no_email, ("court/0002", "", "a record without attributes")}
    alone = "1 option, a choice needs two or more"
    assert told["persona"] == {
        ("chat/0003", "ask=persona", "a record without persona, a list of texts"),
        ("chat/0004", "ask=persona", "a record without persona, a list of texts"),
        ("chat/0005", "ask=persona,prompt=none", alone),
        ("chat/0005", "ask=persona,prompt=asked", alone),
    }


def test_a_single_value_is_no_choice(context: Context, reader: OwnReader, tmp_path: Path) -> None:
    alone = replace(context, subjects=context.subjects[:1])
    scores, gaps = measured("pii-choice", alone, reader, tmp_path)
    assert {variant for _, variant, _ in scores} == {
        f"prompt={prompt},attribute={name}"
        for prompt in ("full-suffix", "full", "intro", "name")
        for name in ("email", "all")
    }
    assert {gap["reason"] for gap in gaps} == {"1 option, a choice needs two or more"}


@given(
    name=st.sampled_from(["Maren Holtman", "Ö. Łukasz", "Anna", "李 明"]),
    stem=st.sampled_from(["maren.holtman", "mh", "x-7y"]),
    digits=st.text("0123456789", max_size=4),
    domain=st.sampled_from([*biography.DOMAINS, "elsewhere.example"]),
    key=st.integers(0, 1000),
)
def test_addresses_are_nine_others_like_the_right_one(name: str, stem: str, digits: str, domain: str, key: int) -> None:
    right = f"{stem}{digits}@{domain}"
    found = addresses(name, right, (key,))
    assert right not in found
    assert len(found) == len(set(found)) == (9 if digits or domain in biography.DOMAINS else len(found))
    own = {domain} if domain not in biography.DOMAINS else set(biography.DOMAINS)
    assert {each.rpartition("@")[2] for each in found} <= own
    if digits:
        assert {len(each.rpartition("@")[0]) for each in found} == {len(stem + digits)}


def test_a_right_address_is_one_of_ten_alike() -> None:
    """Whatever a model prefers in numbers and domains: the right one has it as often as any other."""
    for preferred in (lambda at: at.rpartition("@")[2], lambda at: at[:-12], lambda at: at.encode()[::-1]):
        best = 0
        for number in range(2000):
            person = biography.generate((7, "people"), number, None)
            assert person is not None
            others = addresses(person["name"], person["email"], (number,))
            tops = max(map(preferred, [*others, person["email"]]))
            winners = [each for each in (*others, person["email"]) if preferred(each) == tops]
            best += (person["email"] in winners) / len(winners)
        assert abs(best / 2000 - 0.1) < 4 * (0.09 / 2000) ** 0.5


@given(st.text("ab ,.", max_size=12), st.lists(st.text("ab ,.", max_size=6), max_size=5))
def test_an_answer_ends_at_no_text_that_a_right_one_has(after: str, values: list[str]) -> None:
    stop = stop_of(after, "\n".join(values))
    assert after.startswith(stop)
    assert not stop or not any(stop in value for value in values)


@pytest.mark.parametrize(
    ("after", "values", "stop"),
    [
        (" and has Irish nationality.", "Salto\nMarsh", " and"),
        (". The e-mail address is", "engineer", "."),
        (" and the identifier is 1.", "rock and roll\nother", " and the"),
        (".", "anna@example.com", ""),
    ],
)
def test_an_answer_ends_where_the_text_goes_on(after: str, values: str, stop: str) -> None:
    assert stop_of(after, values) == stop


def test_persona_questions_do_not_depend_on_the_order_of_the_chats(context: Context) -> None:
    def asked(subjects: tuple[Subject, ...]) -> dict[tuple[str, str], Question]:
        chats = tuple(each for each in subjects if each.kind == "chat")
        found = persona.questions(replace(context, subjects=chats))
        return {(each.record_id, each.variant): each for each in found if isinstance(each, Question)}

    questions = asked(context.subjects)
    assert questions == asked(context.subjects[::-1])
    for question in questions.values():
        fields = next(each.fields for each in context.subjects if each.record_id == question.record_id)
        texts = [text for _, text in question.options]
        is_persona = question.variant.startswith("ask=persona")
        assert texts[question.answer] == (" ".join(fields["persona"]) if is_persona else fields["username"])
        assert len({tuple(sorted(text.split(". "))) for text in texts}) == len(texts)
        assert fields["username"] not in question.options[0][0] or is_persona
