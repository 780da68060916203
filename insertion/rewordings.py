"""Renderings that a suite supplies beside those of a kind: templates, paraphrases given as data, and near-duplicates.

`paraphrase` takes the texts in a record's field `paraphrases`; `edited-0.1` replaces a tenth of the words of the canonical
text by other words of it, another tenth in every copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import Any

import numpy as np

from ..core.design import PerturbationDesign
from ..core.errors import CostarError, shorten
from ..core.hashing import keyed_hash, mix64
from .kinds import Fields, Kind, Pieces

PARAPHRASE = "paraphrase"
EDITED = re.compile(r"edited-(0\.(?!0+$)[0-9]{1,4})")
WORD = re.compile(r"[^\W_]+")


def is_reworded(rendering: str) -> bool:
    """Whether a rendering is made from data beside the kind: `paraphrase` or `edited-<share>`."""
    return rendering == PARAPHRASE or EDITED.fullmatch(rendering) is not None


def from_template(template: str, fields: Fields, place: str) -> Pieces:
    """The pieces of a template such as "Name: {name}", a field each attribute.

    Raises:
        CostarError: a field that the record lacks or that is no text.
    """
    pieces: list[tuple[str, str | None]] = []
    for literal, name, _, _ in Formatter().parse(template):
        if literal:
            pieces.append((literal, None))
        if name is None:
            continue
        value = fields.get(name)
        if not isinstance(value, str | int) or not str(value):
            raise CostarError(
                f"{place}, template {shorten(template, 40)!r}",
                found=f"{name} = {shorten(repr(value))}",
                expected="a field with text",
                mend="correct the template or the record",
            )
        pieces.append((str(value), name))
    return pieces


def renderings_of(design: PerturbationDesign, kind: Kind) -> list[str]:
    """The renderings of every record of a perturbation, the canonical one first: the suite's choice, or the kind's."""
    names = [*kind.RENDERINGS, *design.templates]
    return sorted(names, key=lambda name: name != design.rendering)


def pieces_of(
    fields: Mapping[str, Any], rendering: str, design: PerturbationDesign, kind: Kind, place: str = ""
) -> Pieces:
    """A record written in one rendering of its kind or by a template of the suite."""
    if rendering in design.templates:
        return from_template(design.templates[rendering], fields, place)
    return kind.render(fields, rendering)


def paraphrases(fields: Fields, place: str) -> list[str]:
    """The texts of the field `paraphrases`, none where a record has no such field.

    Raises:
        CostarError: the field is not a list of texts.
    """
    given = fields.get("paraphrases", [])
    if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
        raise CostarError(
            f"{place}, paraphrases", found=shorten(repr(given)), expected="a list of texts", mend="correct the record"
        )
    return given


def edited_copies(text: str, share: str, count: int, key: tuple[int | str, ...]) -> Iterator[str]:
    """`count` near-duplicates of a text: in each, ⌈share · words⌉ words chosen by keyed hash give way to other words of the
    same text, so that no other record has a say in them."""
    words = list(WORD.finditer(text))
    pool = sorted({match[0] for match in words})
    if words and len(pool) < 2:
        raise CostarError(
            str(key[-1]),
            found=f"one word only, {shorten(pool[0], 40)!r}",
            expected="other words to put in its place",
            mend="give a longer record, or another rendering",
        )
    numerator = int(share.split(".")[1])
    denominator = 10 ** len(share.split(".")[1])
    replaced = -(-len(words) * numerator // denominator)
    own, numbers = np.uint64(keyed_hash(*key)), np.arange(len(words), dtype=np.uint64)
    for copy in range(count):
        order = np.argsort(mix64(np.full(len(words), own), numbers + np.uint64(2 * copy << 32)), kind="stable")
        picks = mix64(np.full(len(words), own), numbers + np.uint64((2 * copy + 1) << 32)) % np.uint64(
            max(len(pool), 1)
        )
        parts, at = [], 0
        for number in sorted(order[:replaced].tolist()):
            match, pick = words[number], int(picks[number])
            other = pool[pick] if pool[pick] != match[0] else pool[(pick + 1) % len(pool)]
            parts += [text[at : match.start()], other]
            at = match.end()
        yield "".join(parts) + text[at:]


def edited_share(rendering: str) -> str | None:
    """The share in `edited-<share>`, or None."""
    match = EDITED.fullmatch(rendering)
    return match[1] if match else None


def template_names(templates: Mapping[str, str], kind_renderings: Sequence[str], place: str) -> list[str]:
    """The names of a perturbation's templates, none of them taken.

    Raises:
        CostarError: a template that cannot be read, or a name that is taken.
    """
    for name, template in templates.items():
        if name in kind_renderings or is_reworded(name) or "/" in name or not name.strip():
            raise CostarError(
                f"{place} templates.{name}",
                found=f"a name that is taken or cannot be one, {name!r}",
                expected="another name, without /",
                mend="rename it",
            )
        try:
            parsed = list(Formatter().parse(template))
        except ValueError as error:
            parsed = None
            problem: Any = error
        fields = [(field, form, change) for _, field, form, change in parsed or [] if field is not None]
        if not fields or any(not field.isidentifier() or form or change for field, form, change in fields):
            raise CostarError(
                f"{place} templates.{name}",
                found=shorten(template),
                expected="text with {field} for fields" + (f" ({problem})" if parsed is None else ""),
                mend="correct the template",
            )
    return list(templates)
