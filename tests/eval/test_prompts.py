from __future__ import annotations

import pytest
from costar.corpus.tokenizer import Tokenizer
from costar.eval.probes import Subject
from costar.eval.prompts import Lead, attributes_of, lead_to
from costar.insertion.kinds import biography

from tests.eval.subjects import generated, subject_of


def lead(subject: Subject, attribute: str, prompt: str, tokenizer: Tokenizer) -> Lead:
    found = lead_to(subject, attribute, prompt, tokenizer)
    assert isinstance(found, Lead)
    return found


@pytest.mark.parametrize("rendering", biography.RENDERINGS)
def test_prompts_tell_nothing_but_what_they_are_named_after(rendering: str, tokenizer: Tokenizer) -> None:
    for person in generated("biography", 20, tokenizer, rendering):
        mine = attributes_of(person)
        for attribute, value in mine.items():
            name = lead(person, attribute, "name", tokenizer)
            assert name.value == value
            assert person.fields["name"] in name.before
            assert not any(text in name.before for text in mine.values())
            if attribute != "nationality":
                intro = lead(person, attribute, "intro", tokenizer)
                told = [which for which, text in mine.items() if text in intro.before]
                assert told == ["nationality"], (attribute, intro.before)
            full = lead(person, attribute, "full", tokenizer)
            assert full.before + value + full.after == person.renderings[rendering].text


def test_the_full_prompt_of_a_court_case_ends_at_the_attribute(tokenizer: Tokenizer) -> None:
    for case in generated("court", 10, tokenizer):
        for attribute, value in case.fields["attributes"].items():
            full = lead(case, attribute, "full", tokenizer)
            assert full.before + value + full.after == case.fields["text"]
            assert len(full.before) == case.fields["text"].index(value)


def test_a_template_of_the_suite_has_a_full_prompt_only(tokenizer: Tokenizer) -> None:
    fields = generated("biography", 1, tokenizer)[0].fields
    card = {"card": "{name}, {occupation}, writes from {email}."}
    person = subject_of("biography", fields, tokenizer, templates=card, canonical="card")
    assert lead(person, "email", "full", tokenizer) == (
        f"{fields['name']}, {fields['occupation']}, writes from ",
        fields["email"],
        ".",
    )
    assert "card" in str(lead_to(person, "email", "name", tokenizer))
    assert "without birthdate" in str(lead_to(person, "birthdate", "full", tokenizer))
