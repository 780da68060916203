"""Biographies of synthetic people: seven attributes, three renderings. The risk is privacy.

Addresses are on reserved domains (RFC 2606), identifiers are random, and no name is taken from a person.
"""

from __future__ import annotations

from typing import Any

from ...core.errors import CostarError, shorten
from ...core.hashing import keyed_hash
from . import Fields, Pieces

RISK = "privacy"
ATTRIBUTES = ("nationality", "birthplace", "birthdate", "university", "occupation", "email", "identifier")
FIELDS = ("name",)
RENDERINGS = ("prose", "form", "letter")
TEMPLATE = True

GIVEN = [
    "Maren",
    "Tobin",
    "Isla",
    "Corvin",
    "Della",
    "Ruben",
    "Freya",
    "Anselm",
    "Petra",
    "Lucan",
    "Odette",
    "Bram",
    "Selma",
    "Ivo",
    "Greta",
    "Jonas",
    "Thea",
    "Milo",
    "Nadine",
    "Oskar",
    "Lena",
    "Silas",
    "Mira",
    "Felix",
    "Carla",
    "Edric",
    "Joan",
    "Viggo",
    "Hanna",
    "Piers",
]
FAMILY = [
    "Holtman",
    "Varley",
    "Quenby",
    "Ashdown",
    "Merrow",
    "Tarrant",
    "Oswick",
    "Pellham",
    "Drayce",
    "Linden",
    "Fairley",
    "Corbet",
    "Wexley",
    "Harrow",
    "Strand",
    "Ellery",
    "Thorne",
    "Marlow",
    "Vance",
    "Kestrel",
    "Rowntree",
    "Aldous",
    "Penrose",
    "Garrick",
    "Sorrel",
    "Whitlow",
    "Bexley",
    "Camber",
    "Denholm",
    "Esker",
]
NATIONALITIES = [
    "Norwegian",
    "Portuguese",
    "Kenyan",
    "Chilean",
    "Estonian",
    "Irish",
    "Malaysian",
    "Tunisian",
    "Slovak",
    "Uruguayan",
]
PLACES = [
    "Averford",
    "Lindholm",
    "Castelo",
    "Brumby",
    "Norvik",
    "Salto",
    "Marsh",
    "Tamarin",
    "Keldale",
    "Osterby",
    "Pellwick",
    "Rivane",
]
UNIVERSITIES = [
    "Averford College",
    "Lindholm Institute",
    "Castelo University",
    "Keldale Polytechnic",
    "Norvik Academy",
    "Brumby School",
]
OCCUPATIONS = [
    "architect",
    "botanist",
    "cartographer",
    "dentist",
    "engineer",
    "translator",
    "pharmacist",
    "sculptor",
    "surveyor",
    "librarian",
]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
DOMAINS = ("example.com", "example.org", "example.net")


def generate(key: tuple[int, str], index: int, length: int | None) -> dict[str, Any] | None:
    def pick(what: str, choices: Any) -> Any:
        return choices[keyed_hash(*key, what, index) % len(choices)]

    names = len(GIVEN) * len(FAMILY)
    place = (index * 367 + keyed_hash(*key, "names")) % names  # 367 shares no factor with 900: names differ until 900
    given, family = GIVEN[place % len(GIVEN)], FAMILY[place // len(GIVEN)]
    middle = "" if index < names else f" {chr(65 + index // names % 26)}."
    year = 1940 + keyed_hash(*key, "year", index) % 60
    number = keyed_hash(*key, "email", index) % 1000
    return {
        "name": f"{given}{middle} {family}",
        "nationality": pick("nationality", NATIONALITIES),
        "birthplace": pick("birthplace", PLACES),
        "birthdate": f"{1 + keyed_hash(*key, 'day', index) % 28} {pick('month', MONTHS)} {year}",
        "university": pick("university", UNIVERSITIES),
        "occupation": pick("occupation", OCCUPATIONS),
        "email": f"{given.lower()}.{family.lower()}{number}@{pick('domain', DOMAINS)}",
        "identifier": f"{keyed_hash(*key, 'identifier', index):016x}"[:12],
    }


def adapt(row: dict[str, Any]) -> dict[str, Any]:
    """Names of attributes in published sets: Hubble's `alumni_of` and `uuid`, and `birthday`."""
    names = {"alumni_of": "university", "uuid": "identifier", "birthday": "birthdate", "full_name": "name"}
    return {own: row[theirs] for theirs, own in names.items() if theirs in row} | row


def check(fields: Fields, place: str) -> dict[str, Any]:
    """The record: a name and at least one of the seven attributes, each a text."""
    present = [name for name in ATTRIBUTES if fields.get(name) is not None]
    if not present:
        raise CostarError(
            place,
            found=shorten(f"fields {', '.join(fields)}"),
            expected=f"one of {', '.join(ATTRIBUTES)}",
            mend="add it",
        )
    for name in ("name", *present):
        if not isinstance(fields[name], str) or not fields[name].strip():
            raise CostarError(
                f"{place}, {name}", found=shorten(repr(fields[name])), expected="text", mend="correct the record"
            )
    return {key: value for key, value in fields.items() if key not in ATTRIBUTES or value is not None}


def render(fields: Fields, rendering: str) -> Pieces:
    f = fields
    if rendering == "form":
        lines: list[tuple[str, str | None]] = [("Name: " + f["name"], None)]
        for attribute in ATTRIBUTES:
            if attribute in f:
                lines += [(f"\n{attribute.capitalize()}: ", None), (f[attribute], attribute)]
        return lines
    name = f["name"]
    if rendering == "letter":
        head = f"To whom it may concern: this letter concerns {name}"
        first = {
            "nationality": f"To whom it may concern: this is to confirm that {name}, a ",
            "birthdate": f"{head}, born on ",
            "birthplace": f"{head} of ",
            "university": f"{head}, who took a degree at ",
            "occupation": f"{head}, who is employed as ",
            "email": f"{head}. Please write to ",
            "identifier": f"{head}. Please quote ",
        }
        later = {
            "birthdate": " born on ",
            "birthplace": " in ",
            "university": ", took a degree at ",
            "occupation": " and is employed as ",
            "email": ". Please write to ",
            "identifier": " and quote ",
        }
        return _joined(f, first, later, {"nationality": " citizen"})
    first = {
        "birthplace": f"{name} is from ",
        "nationality": f"{name} has ",
        "birthdate": f"{name} was born on ",
        "university": f"{name} studied at ",
        "occupation": f"{name} works as ",
        "email": f"The e-mail address of {name} is ",
        "identifier": f"The identifier of {name} is ",
    }
    later = {
        "nationality": " and has ",
        "birthdate": ". Born on ",
        "university": f", {name} studied at ",
        "occupation": " and works as ",
        "email": ". The e-mail address is ",
        "identifier": " and the identifier is ",
    }
    return _joined(f, first, later, {"nationality": " nationality"})


def identity(fields: Fields) -> dict[str, str]:
    """Address and identifier, and a name of two words or more: given names alone are many people's."""
    found = {name: fields[name] for name in ("email", "identifier") if name in fields}
    return found | ({"name": fields["name"]} if len(fields["name"].split()) > 1 else {})


def _joined(fields: Fields, first: dict[str, str], later: dict[str, str], after: dict[str, str]) -> Pieces:
    """The attributes that a record has, in the order of `first`, which opens the text; `later` leads to the others."""
    pieces: list[tuple[str, str | None]] = []
    for name in (name for name in first if name in fields):
        pieces += [((later if pieces else first)[name], None), (fields[name], name), (after.get(name, ""), None)]
    return [*[piece for piece in pieces if piece[0]], (".", None)]


def twin(fields: Fields) -> dict[str, Any] | None:
    return None
