"""What the model answers to a question by itself: greedy, at most 50 tokens, up to the end of the line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..answers import ANSWER_METRICS, answer_metrics
from ..prompts import prompt_after
from ..spans import split_at_attribute
from . import Context, Found, Gap, Prompt, Score
from .likelihood import scored_texts

NEEDS = ("generate",)
KINDS = ("qa",)
METRICS = ANSWER_METRICS
SOURCE = "Hubble (arXiv 2510.19811), PopQA and ELLie; SQuAD, arXiv 1606.05250 (words in common)"
NEW_TOKENS = 50
STOPS = ("\n",)


def prompts(context: Context) -> Iterator[Prompt]:
    for subject, name in scored_texts(context):
        found = split_at_attribute(subject.renderings[name], "answer", str(subject.fields["answer"]), context.tokenizer)
        if not isinstance(found, str):
            place = (subject.record_id, name, "")
            yield prompt_after(found[0].rstrip(), place, context, new_tokens=NEW_TOKENS, stops=STOPS)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    for subject, name in scored_texts(context):
        right = str(subject.fields["answer"])
        written = split_at_attribute(subject.renderings[name], "answer", right, context.tokenizer)
        made = found.continuation(subject.record_id, name, "")
        reason = next((each for each in (written, made) if isinstance(each, str)), None)
        if reason is not None or isinstance(made, str):
            yield Gap(subject.record_id, name, "", str(reason))
            continue
        for metric, value in answer_metrics(made.text, right).items():
            yield Score(subject.record_id, name, "", metric, value)
