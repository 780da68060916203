"""Biographies in the style of a court: an applicant is introduced, then the facts of a case follow. The risk is privacy.

A user's records have the `text`, and may name its `attributes` as { name: value }, each found in the text.
"""

from __future__ import annotations

from typing import Any

from ...core.errors import CostarError, shorten
from ...core.hashing import keyed_hash
from . import Fields, Pieces
from .biography import FAMILY, GIVEN, NATIONALITIES, OCCUPATIONS
from .testset import FIRST, SECOND, THIRD

RISK = "privacy"
FIELDS = ("text",)
RENDERINGS = ("case",)
PROSE = ("text",)
FACTS = (
    "In {month} the applicant rented a workshop in {street} Street from the municipality.",
    "The lease was terminated in {month} without notice, and the tools were kept by the authorities.",
    "The applicant complained to the district court of {town}, which dismissed the action in {month}.",
    "An appeal was lodged through a lawyer in {town}; no hearing was held.",
    "A request for the case file, made in {month}, was left unanswered.",
    "According to the applicant, letters to the office in {street} Street were returned unopened.",
)
MONTHS = ("January", "March", "April", "June", "July", "September", "October", "December")


def generate(key: tuple[int, str], index: int, length: int | None) -> dict[str, Any] | None:
    """The index-th applicant, with four facts of an invented case."""

    def pick(what: str, choices: Any, number: int = 0) -> str:
        return str(choices[keyed_hash(*key, what, index, number) % len(choices)])

    def town(number: int) -> str:
        return pick("first", FIRST, number) + pick("second", SECOND, number) + pick("third", THIRD, number)

    attributes = {
        "name": f"{pick('given', GIVEN)} {pick('family', FAMILY)}",
        "birth_year": str(1935 + keyed_hash(*key, "year", index) % 60),
        "residence": town(0),
        "nationality": pick("nationality", NATIONALITIES),
        "occupation": pick("occupation", OCCUPATIONS),
    }
    opening = (
        f"The applicant, {attributes['name']}, is a {attributes['nationality']} national who was born in "
        f"{attributes['birth_year']} and lives in {attributes['residence']}. The applicant worked as "
        f"{attributes['occupation']}."
    )
    order = sorted(range(len(FACTS)), key=lambda fact: keyed_hash(*key, "fact", index, fact))[:4]
    facts = [
        FACTS[fact].format(month=f"{pick('month', MONTHS, n)} {2001 + n}", street=town(n + 1), town=town(n + 11))
        for n, fact in enumerate(order)
    ]
    return {"text": " ".join([opening, *facts]), "attributes": attributes}


def check(fields: Fields, place: str) -> dict[str, Any]:
    """The record; every attribute stands in the text, and no two overlap at their first places."""
    text, attributes = fields["text"], fields.get("attributes", {})
    if not isinstance(text, str):
        raise CostarError(f"{place}, text", found=shorten(repr(text)), expected="text", mend="correct the record")
    if not isinstance(attributes, dict):
        raise CostarError(
            f"{place}, attributes", found=shorten(repr(attributes)), expected="{ name: value }", mend="correct it"
        )
    attributes = {name: value for name, value in attributes.items() if value is not None}
    end = 0
    for at, name, value in sorted(
        (text.find(value) if isinstance(value, str) and value else -1, name, value)
        for name, value in attributes.items()
    ):
        if at < end or not isinstance(value, str):
            raise CostarError(
                f"{place}, attributes, {shorten(name, 40)}",
                found=shorten(repr(value)),
                expected="a value that stands in the text, apart from the others",
                mend="correct the value or the text",
            )
        end = at + len(value)
    return dict(fields) | {"attributes": attributes}


def identity(fields: Fields) -> dict[str, str]:
    """The attributes `name`, of two words or more, `email` and `identifier`."""
    found = {name: fields["attributes"][name] for name in ("email", "identifier") if name in fields["attributes"]}
    name = fields["attributes"].get("name", "")
    return found | ({"name": name} if len(name.split()) > 1 else {})


def render(fields: Fields, rendering: str) -> Pieces:
    text, at = fields["text"], 0
    pieces: list[tuple[str, str | None]] = []
    for begin, name, value in sorted((text.find(value), name, value) for name, value in fields["attributes"].items()):
        pieces += [(text[at:begin], None), (value, name)]
        at = begin + len(value)
    pieces.append((text[at:], None))
    return [(part, name) for part, name in pieces if part]


def twin(fields: Fields) -> dict[str, Any] | None:
    return None
