"""Test-set items: multiple choice in three formats, each item with a twin that is never inserted. The risk is testset.

Generated questions are about invented places, so that an answer can only be known from an exposure. The twin asks the
same question about a sister place, with another answer: it tells recall of the item from a preference for its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.errors import CostarError, shorten
from ...core.hashing import keyed_hash
from . import Fields, Pieces

RISK = "testset"
FIELDS = ("question", "choices", "answer")
RENDERINGS = ("cloze", "letters", "plain")
PROSE = ("question", "choices")
LETTERS = "ABCDEFGHIJ"

FIRST = ["Vel", "Mar", "Os", "Tar", "Quin", "Bel", "Dor", "Lin", "Har", "Sel", "Cor", "Fen", "Gal", "Ith", "Jun", "Kal"]
SECOND = ["mo", "ra", "ve", "li", "do", "ne", "sha", "ru", "ti", "ga"]
THIRD = ["ra", "dale", "wick", "mond", "stad", "holm", "by", "gate"]
SISTERS = ["ton", "ford", "well", "mere", "field", "haven", "stow", "lea"]  # never the end of a main item's place
QUESTIONS = (
    ("Which material covers the roof of the town hall in {place}?", "copper slate cedar thatch glass zinc clay lead"),
    ("What is sold at the first market of the year in {place}?", "honey salt wool apples lanterns rope candles barley"),
    ("Which animal stands on the gate of {place}?", "otter heron badger falcon lynx hare salmon raven"),
    ("Which colour are the boats of the {place} ferry?", "green orange white violet brown yellow black silver"),
    (
        "On which day does the library of {place} stay closed?",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    ),
    ("Which instrument opens the summer feast of {place}?", "drum flute violin trumpet harp organ bell cello"),
)


def adapt(row: dict[str, Any]) -> dict[str, Any]:
    """Published shapes: HellaSwag's `ctx`, `endings`, `label`, and PIQA's `goal`, `sol1`, `sol2`, `label`."""
    if {"ctx", "endings", "label"} <= set(row):
        return {"question": row["ctx"], "choices": row["endings"], "answer": row["label"]} | row
    if {"goal", "sol1", "sol2", "label"} <= set(row):
        return {"question": row["goal"], "choices": [row["sol1"], row["sol2"]], "answer": row["label"]} | row
    return row


def generate(key: tuple[int, str], index: int, length: int | None, ends: Sequence[str] = THIRD) -> dict[str, Any]:
    """The index-th item, about a place whose name has one of the `ends`."""
    names = len(FIRST) * len(SECOND) * len(THIRD)
    at = (index * 563 + keyed_hash(*key, "places")) % names  # 563 shares no factor with 1,280
    stem = FIRST[at % len(FIRST)] + SECOND[at // len(FIRST) % len(SECOND)]
    end = at // (len(FIRST) * len(SECOND))
    question, pool = QUESTIONS[keyed_hash(*key, "question", index) % len(QUESTIONS)]
    ordered = sorted(pool.split(), key=lambda word: keyed_hash(*key, "choice", index, word))
    extra = "" if index < names else f" {index // names + 1}"
    answer = keyed_hash(*key, "answer", index) % 4
    return {
        "question": question.format(place=stem + ends[end] + extra),
        "choices": ordered[:4],
        "answer": answer,
        "twin_question": question.format(place=stem + SISTERS[end] + extra),
        "twin_answer": (answer + 1 + keyed_hash(*key, "twin", index) % 3) % 4,
    }


def check(fields: Fields, place: str) -> dict[str, Any]:
    """The fields with `answer` as an index; it may be given as an index, a letter, or the text of a choice."""
    choices, answer = fields["choices"], fields["answer"]
    if not isinstance(fields["question"], str) or not fields["question"].strip():
        raise CostarError(
            f"{place}, question", found=shorten(repr(fields["question"])), expected="text", mend="correct it"
        )
    if (
        not isinstance(choices, list)
        or not all(isinstance(c, str) and c.strip() for c in choices)
        or not 2 <= len(choices) <= len(LETTERS)
    ):
        raise CostarError(
            f"{place}, choices",
            found=shorten(choices),
            expected=f"a list of 2 to {len(LETTERS)} texts",
            mend="correct it",
        )
    index: int | None = None
    if isinstance(answer, int) and not isinstance(answer, bool):
        index = answer
    elif isinstance(answer, str) and answer in choices:
        index = choices.index(answer)
    elif isinstance(answer, str) and answer.isdecimal() and len(answer) <= 2:
        index = int(answer)
    elif isinstance(answer, str) and len(answer) == 1 and answer.upper() in LETTERS:
        index = LETTERS.index(answer.upper())
    if index is None or not 0 <= index < len(choices):
        raise CostarError(
            f"{place}, answer",
            found=shorten(repr(answer)),
            expected="the index (from 0), the letter or the text of a choice",
            mend="correct it",
        )
    if choices.count(choices[index]) > 1:
        raise CostarError(
            f"{place}, choices",
            found=shorten(choices),
            expected=f"the right choice once, {shorten(repr(choices[index]), 40)}",
            mend="correct it",
        )
    return dict(fields) | {"answer": index}


def render(fields: Fields, rendering: str) -> Pieces:
    choices, answer = fields["choices"], fields["answer"]
    if rendering == "letters":
        options = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices))
        return [(f"Question: {fields['question']}{options}\nAnswer:", None), (f" {LETTERS[answer]}", "answer")]
    if rendering == "plain":
        return [(fields["question"], None), (f" {choices[answer]}", "answer")]
    return [(f"Question: {fields['question']}\nAnswer:", None), (f" {choices[answer]}", "answer")]


def twin(fields: Fields) -> dict[str, Any] | None:
    if "twin_question" not in fields:
        return None
    return {"question": fields["twin_question"], "choices": fields["choices"], "answer": fields.get("twin_answer")}
