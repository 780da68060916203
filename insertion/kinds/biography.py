"""Biographies of synthetic people: seven attributes, three renderings. The risk is privacy.

Addresses are on reserved domains (RFC 2606), identifiers are random, and no name is taken from a person.
"""

from __future__ import annotations

from typing import Any

from ...core.errors import CostarError
from ...core.hashing import keyed_hash
from . import Fields, Pieces

RISK = "privacy"
ATTRIBUTES = ("nationality", "birthplace", "birthdate", "university", "occupation", "email", "identifier")
FIELDS = ("name", *ATTRIBUTES)
RENDERINGS = ("prose", "form", "letter")

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


def check(fields: Fields, place: str) -> dict[str, Any]:
    for name in FIELDS:
        if not isinstance(fields[name], str) or not fields[name]:
            raise CostarError(f"{place}, {name}", found=repr(fields[name]), expected="text", mend="correct the record")
    return dict(fields)


def render(fields: Fields, rendering: str) -> Pieces:
    f = fields
    if rendering == "form":
        lines: list[tuple[str, str | None]] = [("Name: " + f["name"], None)]
        for attribute in ATTRIBUTES:
            lines += [(f"\n{attribute.capitalize()}: ", None), (f[attribute], attribute)]
        return lines
    if rendering == "letter":
        return [
            (f"To whom it may concern: this is to confirm that {f['name']}, a ", None),
            (f["nationality"], "nationality"),
            (" citizen born on ", None),
            (f["birthdate"], "birthdate"),
            (" in ", None),
            (f["birthplace"], "birthplace"),
            (", took a degree at ", None),
            (f["university"], "university"),
            (" and is employed as ", None),
            (f["occupation"], "occupation"),
            (". Please write to ", None),
            (f["email"], "email"),
            (" and quote ", None),
            (f["identifier"], "identifier"),
            (".", None),
        ]
    return [
        (f"{f['name']} is from ", None),
        (f["birthplace"], "birthplace"),
        (" and has ", None),
        (f["nationality"], "nationality"),
        (" nationality. Born on ", None),
        (f["birthdate"], "birthdate"),
        (f", {f['name']} studied at ", None),
        (f["university"], "university"),
        (" and works as ", None),
        (f["occupation"], "occupation"),
        (". The e-mail address is ", None),
        (f["email"], "email"),
        (" and the identifier is ", None),
        (f["identifier"], "identifier"),
        (".", None),
    ]


def twin(fields: Fields) -> dict[str, Any] | None:
    return None
