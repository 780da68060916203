"""Kinds of records, one file each, found by name.

A kind is a module with

- `RISK`: copyright, privacy, testset or secret;
- `FIELDS`: the fields a record must have;
- `RENDERINGS`: the ways to write it, the canonical one first;
- `generate(key, index, length)`: the fields of the index-th synthetic record, or None where a kind has no generator;
- `check(fields, place)`: the fields in their final form, or an error;
- `render(fields, rendering)`: pieces of text, each with the attribute it belongs to or None;
- `twin(fields)`: the fields of the record's partner that is never inserted, or None;
- `adapt(row)`, where there is one: a row in the shape of a published data set, with the fields of the kind;
- `PROSE`, where there are any: the fields of which 13 words in a row are a passage that only records of one origin share;
- `TEMPLATE = True`, where most words of every record are those of a template;
- `identity(fields)`, where there is one: the values that name one person or item, such as an e-mail address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from ...core.plugins import load_plugin

Fields = Mapping[str, Any]
Pieces = Sequence[tuple[str, str | None]]


class Kind(Protocol):
    RISK: str
    FIELDS: tuple[str, ...]
    RENDERINGS: tuple[str, ...]

    def generate(self, key: tuple[int, str], index: int, length: int | None) -> dict[str, Any] | None: ...
    def check(self, fields: Fields, place: str) -> dict[str, Any]: ...
    def render(self, fields: Fields, rendering: str) -> Pieces: ...
    def twin(self, fields: Fields) -> dict[str, Any] | None: ...


def load_kind(name: str, *, place: str) -> Kind:
    return cast(Kind, load_plugin("costar.insertion.kinds", name, place=place))


def kind_source(name: str) -> Path:
    """The file of a kind: what it says enters the hash of the records made by it."""
    return Path(__file__).with_name(name.replace("-", "_") + ".py")


def adapted(kind: Kind, row: dict[str, Any]) -> dict[str, Any]:
    """A user's row with the fields of the kind, where the kind knows its shape."""
    adapt = getattr(kind, "adapt", None)
    return adapt(row) if adapt else row


def prose_of(kind: Kind, fields: Fields) -> tuple[str, ...]:
    """The texts of a record's own words, each for itself."""
    return tuple(text for name in getattr(kind, "PROSE", ()) if name in fields for text in _texts(fields[name]))


def identities_of(kind: Kind, fields: Fields) -> tuple[tuple[str, str], ...]:
    """(what, value) of all that identifies one person or item."""
    identity = getattr(kind, "identity", None)
    return tuple(identity(fields).items()) if identity else ()


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping | list):
        return [text for each in (value.values() if isinstance(value, Mapping) else value) for text in _texts(each)]
    return [value] if isinstance(value, str) else []


def text_of(pieces: Pieces) -> str:
    return "".join(text for text, _ in pieces)
