"""The probes of personal data on a small model that read some of the records a hundred times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from costar.corpus.tokenizer import Tokenizer
from costar.eval.probes import Context, Subject
from costar.eval.prompts import attributes_of
from costar.eval.reader import OwnReader
from costar.insertion.kinds import biography

from ..privacy import context_of, generated, measured, reader_that_read, small_tokenizer

READ, HELD_OUT = 4, 12  # records of each kind that the model read, and that it did not
Scores = dict[tuple[str, str, str], float]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def context(tokenizer: Tokenizer) -> Context:
    subjects = [each for kind in ("biography", "court", "chat") for each in generated(kind, READ + HELD_OUT, tokenizer)]
    return context_of(subjects, tokenizer, [each.record_id for each in subjects if was_read(each)])


@pytest.fixture(scope="module")
def reader(context: Context) -> OwnReader:
    texts = [each.renderings[each.canonical].ids for each in context.subjects if was_read(each)]
    return reader_that_read(texts, context.tokenizer, 150)


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


def without(subjects: tuple[Subject, ...], **changed: Callable[[dict[str, Any]], dict[str, Any]]) -> list[Subject]:
    return [
        replace(each, fields=changed[each.kind](dict(each.fields))) if each.kind in changed else each
        for each in subjects[:1] + subjects[READ + HELD_OUT :][:1] + subjects[-1:]
    ]
