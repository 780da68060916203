"""Templates, paraphrases and near-duplicates: what a suite supplies beside the renderings of a kind."""

from __future__ import annotations

import math
from fractions import Fraction
from pydoc_data.topics import topics

import pytest
from costar.core.errors import CostarError
from costar.insertion.kinds import text_of
from costar.insertion.rewordings import (
    WORD,
    edited_copies,
    edited_share,
    from_template,
    is_reworded,
    paraphrases,
    template_names,
)
from hypothesis import given
from hypothesis import strategies as st

TEXT = topics["assignment"]


@given(
    st.text(max_size=300),
    st.sampled_from(["0.1", "0.25", "0.5", "0.999", "0.0001"]),
    st.lists(st.text("abcdefgh", min_size=1, max_size=3), min_size=2, unique=True),
)
def test_exactly_the_share_of_the_words_differs_and_nothing_else(some: str, share: str, others: list[str]) -> None:
    text = " ".join([some, *others])
    words = WORD.findall(text)
    for edited in edited_copies(text, share, 3, ("edited", "r")):
        found = WORD.findall(edited)
        assert len(found) == len(words)
        changed = sum(a != b for a, b in zip(found, words))
        assert changed == math.ceil(Fraction(share) * len(words))
        assert WORD.sub("", edited) == WORD.sub("", text)
        assert set(found) <= set(words)


def test_every_copy_has_other_words_changed_and_always_the_same() -> None:
    copies = list(edited_copies(TEXT, "0.1", 40, ("edited-0.1", "r")))
    assert len(set(copies)) == 40
    assert TEXT not in copies
    assert copies == list(edited_copies(TEXT, "0.1", 40, ("edited-0.1", "r")))
    assert copies[:7] == list(edited_copies(TEXT, "0.1", 7, ("edited-0.1", "r")))  # a raised level only adds
    assert not set(copies) & set(edited_copies(TEXT, "0.1", 40, ("edited-0.1", "other")))


def test_a_text_without_words_stays_and_one_word_alone_cannot_be_edited() -> None:
    assert list(edited_copies("!? …", "0.5", 2, ("edited", "r"))) == ["!? …", "!? …"]
    with pytest.raises(CostarError, match=r"^na/7"):
        list(edited_copies("na na na", "0.5", 2, ("edited-0.5", "na/7")))


def test_only_a_share_between_0_and_1_names_a_near_duplicate() -> None:
    assert [edited_share(name) for name in ("edited-0.1", "edited-0.0001", "edited-0.99")] == ["0.1", "0.0001", "0.99"]
    for name in (
        "edited-0",
        "edited-0.0",
        "edited-0.000",
        "edited-1.0",
        "edited-.1",
        "edited-0.12345",
        "edited-0.1 ",
        "edited",
    ):
        assert not is_reworded(name)
    assert is_reworded("paraphrase")


def test_paraphrases_are_the_texts_of_the_record_or_none() -> None:
    assert paraphrases({"paraphrases": ["one", "two"]}, "here") == ["one", "two"]
    assert paraphrases({}, "here") == []
    for wrong in ("one", [1], ["one", " "], [["one"]], {"0": "one"}, 3):
        with pytest.raises(CostarError, match="here, paraphrases"):
            paraphrases({"paraphrases": wrong}, "here")


def test_a_template_marks_each_field_and_keeps_braces() -> None:
    pieces = from_template("{{x}} {name} is {age}, {name}.", {"name": "Ada {b}", "age": 7}, "here")
    assert text_of(pieces) == "{x} Ada {b} is 7, Ada {b}."
    assert [attribute for _, attribute in pieces if attribute] == ["name", "age", "name"]


@pytest.mark.parametrize("value", [None, "", ["a"], {"a": 1}, 1.5])
def test_a_template_over_a_field_without_text_names_record_and_field(value: object) -> None:
    for fields in ({"name": value}, {}):
        with pytest.raises(CostarError, match=r"file, line 3, template '{name}'\n  found     name = "):
            from_template("{name}", fields, "file, line 3")


@pytest.mark.parametrize(
    "template", ["", "no field", "{", "}", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a b}", "{a} {", "{{a}}"]
)
def test_a_template_that_would_not_be_read_as_written_is_refused(template: str) -> None:
    with pytest.raises(CostarError, match=r"here templates\.mine"):
        template_names({"mine": template}, ["text"], "here")


@pytest.mark.parametrize("name", ["text", "paraphrase", "edited-0.1", "a/b", "", " "])
def test_a_template_needs_a_name_of_its_own(name: str) -> None:
    with pytest.raises(CostarError, match="templates"):
        template_names({name: "{a}"}, ["text"], "here")
    assert template_names({"mine": "{a}"}, ["text"], "here") == ["mine"]


@given(st.text(max_size=30))
def test_any_template_is_read_or_refused(template: str) -> None:
    try:
        template_names({"mine": template}, [], "here")
    except CostarError:
        return
    fields = dict.fromkeys(template.replace("{", " ").replace("}", " ").split(), "value")
    assert "value" in text_of(from_template(template, fields, "here"))
