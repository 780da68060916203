"""Asking for the attributes of a record: the texts that lead to one, and the mean of what was found over all.

An attribute is asked for after the record's own text before it, after an introduction, or after the name alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..core.errors import shorten
from ..corpus.tokenizer import Tokenizer
from ..insertion.kinds import Pieces, biography, text_of
from .probes import Context, Gap, Prompt, Score, Subject
from .spans import split_at_attribute

PROMPTS = ("full", "intro", "name")
FIRST = "nationality"


class Lead(NamedTuple):
    """The text before an attribute, the attribute, and the text behind it."""

    before: str
    value: str
    after: str


def attributes_of(subject: Subject) -> dict[str, str]:
    """The attributes of a biography or a court case, by name."""
    if subject.kind == "court":
        return dict(subject.fields.get("attributes", {}))
    return {name: subject.fields[name] for name in biography.ATTRIBUTES if name in subject.fields}


def lead_to(subject: Subject, attribute: str, prompt: str, tokenizer: Tokenizer) -> Lead | str:
    """What leads to an attribute in the canonical rendering, or why nothing does.

    `full` is the record's own text. `name` is the text of a record that has the name and the attribute only, `intro` of
    one with the nationality as well, which comes first.
    """
    if prompt == "full":
        value = attributes_of(subject)[attribute]
        found = split_at_attribute(subject.renderings[subject.canonical], attribute, value, tokenizer)
        return found if isinstance(found, str) else Lead(found[0], value, found[1])
    rendering, fields = subject.canonical, subject.fields
    if rendering not in biography.RENDERINGS:
        return f"the rendering {shorten(rendering, 40)}; a lead-in is known for {', '.join(biography.RENDERINGS)}"
    if prompt == "name":
        return _cut(biography.render(_only(fields, "name", attribute), rendering), attribute)
    if FIRST not in fields:
        return f"no {FIRST} to introduce the person with"
    pieces = biography.render(_only(fields, "name", FIRST, attribute), rendering)
    order = [name for _, name in pieces if name]
    if order.index(FIRST) < order.index(attribute):
        return _cut(pieces, attribute)
    introduction = text_of(biography.render(_only(fields, "name", FIRST), rendering))
    lead = _cut(biography.render(_only(fields, "name", attribute), rendering), attribute)
    return lead._replace(before=f"{introduction} {lead.before}")


def prompt_after(
    text: str, place: tuple[str, str, str], context: Context, *, new_tokens: int, stops: tuple[str, ...]
) -> Prompt:
    """A prompt for what follows a text: at most so many tokens, and no more than the context has room for."""
    ids = tuple(context.tokenizer.encode(text))
    room = context.length - 1 - len(ids)
    return Prompt(*place, ids, max(1, min(new_tokens, room)), stops)


def means_over_attributes(results: Iterable[Score | Gap]) -> Iterator[Score | Gap]:
    """The results, and for each record, prompt and metric the mean of those with `attribute=…` at the end, `attribute=all`."""
    values: dict[tuple[str, str, str, str], list[float]] = {}
    for each in results:
        yield each
        if isinstance(each, Score):
            prompt, _, _ = each.variant.rpartition("attribute=")
            values.setdefault((each.record_id, each.rendering, f"{prompt}attribute=all", each.metric), []).append(
                each.value
            )
    for place, found in values.items():
        yield Score(*place, sum(found) / len(found))


def _only(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names}


def _cut(pieces: Pieces, attribute: str) -> Lead:
    """The pieces of a text, cut before and behind an attribute."""
    number = next(n for n, (_, name) in enumerate(pieces) if name == attribute)
    return Lead(text_of(pieces[:number]), pieces[number][0], text_of(pieces[number + 1 :]))
