"""Questions with a free answer, such as PopQA's. The risk is testset."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from ...core.errors import CostarError, shorten
from . import Fields, Pieces, testset

RISK = "testset"
FIELDS = ("question", "answer")
RENDERINGS = ("question", "plain")
PROSE = ("question", "answer")
ENDS = ["combe", "thorpe", "minster", "bury", "cross", "burn", "worth", "ness"]  # no item of `testset` has one


def adapt(row: dict[str, Any]) -> dict[str, Any]:
    """Published shapes: a list of `answers` or `possible_answers`, of which the first counts; `context` and `continuation`."""
    if "answer" not in row:
        answers = row.get("answers", row.get("possible_answers"))
        if isinstance(answers, str) and answers.startswith("["):  # PopQA's own files hold the list as JSON
            with suppress(json.JSONDecodeError, RecursionError):
                answers = json.loads(answers)
        if isinstance(answers, list) and answers:
            return row | {"answer": answers[0]}
        if {"context", "continuation"} <= set(row):
            return row | {"question": row.get("question", row["context"]), "answer": row["continuation"]}
    return row


def generate(key: tuple[int, str], index: int, length: int | None) -> dict[str, Any] | None:
    """The index-th question, as in the kind `testset` without its choices, about a place that is in none of its items."""
    item = testset.generate(key, index, length, ENDS)
    answer = item["choices"][item["answer"]]
    return {"question": item["question"], "answer": answer}


def check(fields: Fields, place: str) -> dict[str, Any]:
    for name in FIELDS:
        value = fields[name]
        if not isinstance(value, str | int | float) or isinstance(value, bool) or not str(value).strip():
            raise CostarError(
                f"{place}, {name}", found=shorten(repr(value)), expected="text", mend="correct the record"
            )
    return dict(fields) | {name: str(fields[name]) for name in FIELDS}


def render(fields: Fields, rendering: str) -> Pieces:
    if rendering == "plain":
        return [(fields["question"], None), (f" {fields['answer']}", "answer")]
    return [(f"Question: {fields['question']}\nAnswer:", None), (f" {fields['answer']}", "answer")]


def twin(fields: Fields) -> dict[str, Any] | None:
    return None
