"""Every kind: its records check, render and mark their attributes; published shapes are read; mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from costar.core.errors import CostarError
from costar.core.plugins import plugin_names
from costar.core.suite import load_suite
from costar.corpus.reading import open_tokenizer
from costar.corpus.tokenizer import Tokenizer
from costar.insertion.kinds import adapted, load_kind, text_of
from costar.insertion.origins import Record
from costar.insertion.records import rendering_row
from hypothesis import given
from hypothesis import strategies as st

KINDS = plugin_names("costar.insertion.kinds")
GENERATED = [kind for kind in KINDS if load_kind(kind, place="").generate((1, "p"), 0, None)]
RISKS = {
    "passage": "copyright",
    "paraphrase": "copyright",
    "biography": "privacy",
    "court": "privacy",
    "chat": "privacy",
    "testset": "testset",
    "qa": "testset",
    "infill": "testset",
    "password": "secret",
}
GIVEN: dict[str, dict[str, Any]] = {  # records as a user would give them
    "passage": {"text": "A letter — to the editor."},
    "paraphrase": {"sentence1": "The cat sat.", "sentence2": "Sat the cat.", "label": 1},
    "biography": {"name": "Zoë Vale", "occupation": "botanist", "birthdate": "1 May 1950"},
    "court": {
        "text": "Zoë Vale, of Rome, complained. Rome was silent.",
        "attributes": {"name": "Zoë Vale", "at": "Rome"},
    },
    "chat": {"turns": ["Hello.", "Hi, who are you?", "A botanist."]},
    "testset": {
        "question": "Which?",
        "choices": ["one", "two"],
        "answer": "B",
        "twin_question": "What?",
        "twin_answer": 0,
    },
    "qa": {"question": "How many?", "answer": 42},
    "infill": {"sentence": "Ann told Bea that _ was late.", "options": ["Ann", "Bea"], "answer": 1},
    "password": {"secret": "4711", "alphabet": "0123456789", "carrier": "Say {secret}."},
}


def made(kind: str, row: dict[str, Any], place: str = "file, line 3") -> dict[str, Any]:
    module = load_kind(kind, place="")
    return module.check(adapted(module, dict(row)), place)


def text(kind: str, row: dict[str, Any], rendering: str | None = None) -> str:
    module = load_kind(kind, place="")
    return text_of(module.render(made(kind, row), rendering or module.RENDERINGS[0]))


@pytest.fixture(scope="module")
def tokenizer(built: Path) -> Tokenizer:
    return open_tokenizer(load_suite(built / "suite.toml").corpus, built / "corpus")


def assert_holds(kind: str, fields: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Every rendering is text that comes back, and every span decodes to its attribute."""
    module = load_kind(kind, place="")
    record = Record(record_id="r", role="main", cluster="r", fields=fields, source="", place="r")
    for rendering in module.RENDERINGS:
        pieces = module.render(fields, rendering)
        row = rendering_row(record, rendering, pieces, tokenizer)
        assert tokenizer.decode(row["token_ids"]) == row["text"]
        marked = [(value, attribute) for value, attribute in pieces if attribute is not None]
        assert [span["attribute"] for span in row["spans"]] == [attribute for _, attribute in marked]
        for span, (value, _) in zip(row["spans"], marked, strict=True):
            found = tokenizer.decode(row["token_ids"][span["start"] : span["end"]])
            assert value.strip() in found
            assert len(found) <= len(value) + 20  # whole tokens at the borders, no more


def test_every_kind_has_a_risk_and_an_example_here() -> None:
    assert {kind: load_kind(kind, place="").RISK for kind in KINDS} == RISKS
    assert set(GIVEN) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_record_settles_at_once_and_its_spans_decode_to_its_attributes(kind: str, tokenizer: Tokenizer) -> None:
    fields = made(kind, GIVEN[kind])
    assert made(kind, fields) == fields
    assert_holds(kind, fields, tokenizer)


@pytest.mark.parametrize("kind", GENERATED)
def test_generated_records_settle_at_once_and_their_spans_decode(kind: str, tokenizer: Tokenizer) -> None:
    module = load_kind(kind, place="")
    for index in range(25):
        fields = module.generate((3, "p"), index, None)
        assert fields is not None
        assert made(kind, fields) == fields | made(kind, fields)
        assert made(kind, made(kind, fields)) == made(kind, fields)
        assert_holds(kind, made(kind, fields), tokenizer)


@pytest.mark.parametrize("kind", GENERATED)
def test_a_generator_gives_texts_that_differ(kind: str) -> None:
    module = load_kind(kind, place="")
    texts = set()
    for index in range(2000):
        fields = module.generate((1, "p"), index, None)
        assert fields is not None
        texts |= {text_of(module.render(module.check(fields, ""), module.RENDERINGS[0]))}
    assert len(texts) == 2000


@pytest.mark.parametrize("kind", ["testset", "infill"])
def test_twins_are_no_main_record_and_differ_from_each_other(kind: str) -> None:
    module = load_kind(kind, place="")
    mains, twins = [], []
    for index in range(1500):
        fields = module.generate((5, "p"), index, None)
        assert fields is not None
        twin = module.twin(module.check(fields, ""))
        assert twin is not None
        for rendering in module.RENDERINGS:
            mains.append(text_of(module.render(fields, rendering)))
            twins.append(text_of(module.render(module.check(twin, ""), rendering)))
    assert len(set(twins)) == len(twins)
    assert not set(mains) & set(twins)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("testset", "infill")])
def test_kinds_without_a_twin_have_none(kind: str) -> None:
    assert load_kind(kind, place="").twin(made(kind, GIVEN[kind])) is None


def test_the_twin_of_a_gap_turns_the_answer_around() -> None:
    module = load_kind("infill", place="")
    for index in range(100):
        fields = module.generate((2, "p"), index, None)
        assert fields is not None
        twin = module.twin(fields)
        assert twin is not None
        assert twin["options"] == fields["options"]
        assert twin["answer"] == 1 - fields["answer"]


def test_winogrande_as_published_becomes_a_gap() -> None:
    row = {"sentence": "Ann told Bea that _ was late.", "option1": "Ann", "option2": "Bea"}
    assert made("infill", row | {"answer": "1"})["answer"] == 0
    assert made("infill", row | {"answer": 2})["answer"] == 1
    assert text("infill", row | {"answer": "2"}) == "Ann told Bea that Bea was late."
    choice = "Ann told Bea that _ was late.\nA. Ann\nB. Bea\nAnswer: B"
    assert text("infill", row | {"answer": "2"}, "choice") == choice
    for wrong in ("", "3", None, 0, ["1"]):
        with pytest.raises(CostarError, match="line 3, answer"):
            made("infill", row | {"answer": wrong})


def test_two_contexts_with_one_continuation_become_a_gap_at_a_word() -> None:
    row = {
        "context_options": ["Sara was better than Sam so Sara", "Sara was better than Sam so Sam"],
        "continuation": "got the case.",
        "answer": 1,
    }
    fields = made("infill", row)
    assert fields["sentence"] == "Sara was better than Sam so _ got the case."
    assert fields["options"] == ["Sara", "Sam"]
    assert text("infill", row) == "Sara was better than Sam so Sam got the case."
    same = row | {"context_options": ["the same", "the same"]}
    with pytest.raises(CostarError, match="line 3, options"):
        made("infill", same)


def test_hellaswag_and_piqa_as_published_become_choices() -> None:
    swag = {"ind": 4, "ctx": "A man", "endings": ["sits.", "stands.", "runs.", "walks."], "label": "2"}
    assert text("testset", swag) == "Question: A man\nAnswer: runs."
    piqa = {"goal": "Open a jar.", "sol1": "Turn the lid.", "sol2": "Turn the glass.", "label": 0}
    assert text("testset", piqa, "letters").endswith("\nA. Turn the lid.\nB. Turn the glass.\nAnswer: A")
    with pytest.raises(CostarError, match="line 3, answer"):
        made("testset", swag | {"label": ""})  # its test split has no labels


def test_a_wrong_choice_may_stand_twice_as_in_mmlu_and_arc() -> None:
    row = {"question": "How?", "choices": ["faster", "slower", "faster"], "answer": 1}
    assert text("testset", row) == "Question: How?\nAnswer: slower"
    with pytest.raises(CostarError, match="the right choice once, 'faster'"):
        made("testset", row | {"answer": 2})


@pytest.mark.parametrize("answer", ["²", "9" * 5000, "٣", 3, -1, "D", "", None, 1.0, [0], "\ud7ff"])
def test_an_answer_that_names_no_choice_is_refused(answer: object) -> None:
    with pytest.raises(CostarError, match="line 3, answer") as error:
        made("testset", GIVEN["testset"] | {"choices": ["one", "two", "three"], "answer": answer})
    assert len(str(error.value)) < 400


def test_popqa_as_published_takes_the_first_of_its_answers() -> None:
    expected = "Question: Who?\nAnswer: politician"
    for answers in ({"answers": ["politician", "pol."]}, {"possible_answers": ["politician"]}):
        assert text("qa", {"question": "Who?"} | answers) == expected
    assert text("qa", {"question": "Who?", "possible_answers": '["politician", "pol."]'}) == expected
    with pytest.raises(CostarError, match="answer"):
        made("qa", {"question": "Who?", "answers": [["politician"]]})


def test_a_context_and_its_continuation_become_question_and_answer() -> None:
    row = {"context": "The native language of Ada is", "continuation": "French"}
    assert text("qa", row, "plain") == "The native language of Ada is French"


def test_yago_biographies_as_published_have_a_university_and_an_identifier() -> None:
    row = {"full_name": "Ada Vale", "alumni_of": "Norvik Academy", "uuid": "1a2b", "birthday": "1950-05-01"}
    assert text("biography", row, "form") == (
        "Name: Ada Vale\nBirthdate: 1950-05-01\nUniversity: Norvik Academy\nIdentifier: 1a2b"
    )


@given(st.sets(st.sampled_from(load_kind("biography", place="").ATTRIBUTES), min_size=1))  # type: ignore[attr-defined]
def test_a_biography_without_some_attributes_holds_the_others_once_in_every_rendering(present: set[str]) -> None:
    module = load_kind("biography", place="")
    whole = module.generate((4, "p"), 11, None)
    assert whole is not None
    fields = made("biography", {key: whole[key] if key in {*present, "name"} else None for key in whole})
    for rendering in module.RENDERINGS:
        pieces = module.render(fields, rendering)
        assert sorted(attribute for _, attribute in pieces if attribute) == sorted(present)
        assert whole["name"] in text_of(pieces)
        assert "None" not in text_of(pieces)
        assert "  " not in text_of(pieces)


def test_either_sentence_of_a_pair_is_inserted_and_the_other_is_its_foil() -> None:
    module = load_kind("paraphrase", place="")
    for bit in (0, 1, True):
        fields = made("paraphrase", GIVEN["paraphrase"] | {"random_bit": bit})
        pair = [text_of(module.render(fields, rendering)) for rendering in module.RENDERINGS]
        assert pair == [fields["sentence2" if bit else "sentence1"], fields["sentence1" if bit else "sentence2"]]
    bits = [made("paraphrase", {"sentence1": f"a {i}", "sentence2": f"b {i}"})["random_bit"] for i in range(200)]
    assert 70 < sum(bits) < 130


def test_a_chat_names_its_user_alone() -> None:
    turns = [{"speaker": "User 1", "text": "Hello."}, {"speaker": "User 2", "text": "Hi."}]
    assert text("chat", {"turns": turns, "username": "vale_7"}) == "vale_7: Hello.\nUser 2: Hi."
    assert text("chat", {"turns": turns, "username": "User 2"}) == "User 1: Hello.\nUser 2: Hi."
    spans = load_kind("chat", place="").render(made("chat", {"turns": turns, "username": "User 2"}), "chat")
    assert [attribute for _, attribute in spans if attribute] == ["username"]


@pytest.mark.parametrize(
    ("username", "persona"),
    [(None, ["I sail."]), ("vale_7", ["I sail."]), ("User 1", ["I sail."]), ("User 2", ["I knit."])],
)
def test_a_persona_is_that_of_the_speaker_who_has_the_username(username: str | None, persona: list[str]) -> None:
    turns = [{"speaker": "User 1", "text": "Hello."}, {"speaker": "User 2", "text": "Hi."}]
    row = {"turns": turns, "persona1": ["I sail."], "persona2": ["I knit."]} | (
        {"username": username} if username else {}
    )
    assert made("chat", row)["persona"] == persona
    assert made("chat", row | {"persona": ["I ski."]})["persona"] == ["I ski."]


def test_an_attribute_of_a_case_is_marked_where_it_first_stands() -> None:
    pieces = load_kind("court", place="").render(made("court", GIVEN["court"]), "case")
    assert [piece for piece in pieces if piece[1]] == [("Zoë Vale", "name"), ("Rome", "at")]
    assert text_of(pieces) == GIVEN["court"]["text"]
    without = {"text": "A case.", "attributes": {"name": None}}
    assert made("court", without)["attributes"] == {}


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("passage", {"text": ["x"]}, "text"),
        ("paraphrase", {"sentence2": "The  cat sat."}, "two sentences"),
        ("paraphrase", {"label": 0}, "label"),
        ("paraphrase", {"random_bit": 2}, "random_bit"),
        ("biography", {"occupation": None, "birthdate": None}, "occupation"),
        ("biography", {"birthdate": 1950}, "birthdate"),
        ("biography", {"name": 5}, "name"),
        ("court", {"text": 1}, "text"),
        ("court", {"attributes": ["name"]}, "attributes"),
        ("court", {"attributes": {"name": "Ada"}}, "attributes, name"),
        ("court", {"attributes": {"name": "Zoë Vale", "family": "Vale"}}, "attributes, family"),
        ("chat", {"turns": ["alone"]}, "turns"),
        ("chat", {"turns": "a text"}, "turns"),
        ("chat", {"turns": ["Hello.", {"speaker": "x"}]}, "turns, number 2"),
        ("chat", {"turns": ["Hello.", {"speaker": "a\nb", "text": "Hi."}]}, "turns, number 2"),
        ("chat", {"username": "a\nb"}, "username"),
        ("testset", {"question": 1}, "question"),
        ("testset", {"choices": ["one"]}, "choices"),
        ("testset", {"choices": ["one", "two", "two"]}, "choices"),
        ("testset", {"choices": ["one", " "]}, "choices"),
        ("testset", {"choices": {"text": ["one", "two"]}}, "choices"),
        ("qa", {"answer": True}, "answer"),
        ("qa", {"answer": {"value": "x"}}, "answer"),
        ("infill", {"sentence": "no gap"}, "sentence"),
        ("infill", {"sentence": "two _ gaps _"}, "sentence"),
        ("infill", {"options": ["Ann"]}, "options"),
        ("infill", {"options": ["Ann", "Ann"]}, "options"),
        ("infill", {"answer": 2}, "answer"),
        ("infill", {"twin_sentence": "Ann _.", "twin_answer": None}, "twin_answer"),
        ("password", {"secret": "47x1"}, "secret"),
        ("password", {"alphabet": "01234567890"}, "secret"),
        ("password", {"carrier": "no place"}, "carrier"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_field(kind: str, change: dict[str, Any], field: str) -> None:
    with pytest.raises(CostarError) as error:
        made(kind, GIVEN[kind] | change)
    assert error.value.exit_code == 2
    assert error.value.place.startswith("file, line 3")
    assert field in error.value.place + error.value.expected
    assert error.value.mend
