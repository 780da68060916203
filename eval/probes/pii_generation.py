"""Personal data by generation: the greedy continuation of a prompt up to an attribute, compared with the attribute.

The prompts are those of `pii-choice`; a court case has the full one only. An answer ends at a new line and at what
follows the attribute in the text: at the shortest beginning of that, in words, which stands in no value of the attribute
in the perturbation, so that the answer itself decides nothing. `attribute=all` is the mean over a record's attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ...insertion.kinds import biography
from ..answers import ANSWER_METRICS, answer_metrics
from ..prompts import FIRST, PROMPTS, Lead, attributes_of, lead_to, means_over_attributes, prompt_after
from . import Context, Found, Gap, Prompt, Score, Subject

NEEDS = ("generate",)
KINDS = ("biography", "court")
METRICS = ANSWER_METRICS
SOURCE = "Hubble (arXiv 2510.19811), generation on YAGO and ECtHR biographies"
NEW_TOKENS = 30
WORD = re.compile(r"\s*(?:\w+|[^\w\s]+)")


class Asked(NamedTuple):
    """A prompt with the right answer."""

    prompt: Prompt
    right: str


def prompts(context: Context) -> Iterator[Prompt]:
    return (each.prompt for each in _asked(context) if isinstance(each, Asked))


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    return means_over_attributes(_scores(context, found))


def _scores(context: Context, found: Found) -> Iterator[Score | Gap]:
    for each in _asked(context):
        if isinstance(each, Gap):
            yield each
            continue
        answer = found.continuation(*each.prompt.key)
        if isinstance(answer, str):
            yield Gap(*each.prompt.key, answer)
            continue
        for metric, value in answer_metrics(answer.text, each.right).items():
            yield Score(*each.prompt.key, metric, value)


def _asked(context: Context) -> Iterator[Asked | Gap]:
    values: dict[tuple[str, str], dict[str, None]] = {}
    for subject in context.subjects:
        for attribute, value in attributes_of(subject).items():
            values.setdefault((subject.perturbation, attribute), {})[value] = None
    known = {key: "\n".join(found) for key, found in values.items()}
    for subject in context.subjects:
        mine = attributes_of(subject)
        wanted = biography.ATTRIBUTES if subject.kind == "biography" else mine
        if not wanted:
            yield Gap(subject.record_id, subject.canonical, "", "a record without attributes")
        for attribute in wanted:
            if attribute in mine:
                yield from _of_attribute(context, subject, attribute, known[subject.perturbation, attribute])
            elif (subject.perturbation, attribute) in known:
                yield Gap(
                    subject.record_id, subject.canonical, f"attribute={attribute}", f"a record without {attribute}"
                )


def _of_attribute(context: Context, subject: Subject, attribute: str, known: str) -> Iterator[Asked | Gap]:
    whole = lead_to(subject, attribute, "full", context.tokenizer)
    for prompt in PROMPTS if subject.kind == "biography" else ("full",):
        if prompt == "intro" and attribute == FIRST:
            continue
        place = (subject.record_id, subject.canonical, f"prompt={prompt},attribute={attribute}")
        lead = whole if prompt == "full" else lead_to(subject, attribute, prompt, context.tokenizer)
        if isinstance(lead, str):
            yield Gap(*place, lead)
            continue
        ends = {stop_of(each.after, known) for each in (lead, whole) if isinstance(each, Lead)} - {""}
        # The space before an answer is a part of its first token, as it was in training.
        needed = len(context.tokenizer.encode(" " + lead.value))
        before, stops = lead.before.rstrip(" "), ("\n", *sorted(ends))
        prompted = prompt_after(before, place, context, new_tokens=max(NEW_TOKENS, needed), stops=stops)
        yield Asked(prompted, lead.value)


def stop_of(after: str, known: str) -> str:
    """The shortest beginning of a text, in words, that stands nowhere in `known`; empty where there is none."""
    end = 0
    while match := WORD.match(after, end):
        end = match.end()
        if after[:end] not in known:
            return after[:end]
    return ""
