"""Questions with options, scored by the log-probability of each option: texts to sequences, results to metrics.

The conventions are those of lm-evaluation-harness 0.4.13 (`multiple_choice`), so that the numbers agree with it: spaces at
the end of a context belong to the continuation, context and continuation are encoded together and split at the length of
the encoded context, EOS stands before a continuation without context only, and of equal options the first one is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

import numpy as np

from ..corpus.tokenizer import Tokenizer
from .probes import EOS, Found, Gap, Request, Score, Tokens

OPTION_METRICS = {
    "accuracy": "1 when the answer has the highest summed log-probability of all options",
    "accuracy_norm": "the same by log-probability per character of the option",
    "margin": "summed log-probability of the answer less that of the best other option, nats",
}
PROMPT = "prompt"  # the ledger's context of a continuation that follows its question, without EOS before it
MUTUAL = {"accuracy_mi": "the same by log-probability less that of the option without the question"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """`options` are (context, continuation) pairs, of which the continuations are scored; `answer` is the right one's index.

    `sizes` are the characters of each option, for `accuracy_norm`. With `mutual` the continuations are scored without
    their contexts as well.
    """

    record_id: str
    rendering: str
    variant: str
    options: tuple[tuple[str, str], ...]
    answer: int
    sizes: tuple[int, ...]
    mutual: bool = False

    def name(self, option: int, part: str = "choice") -> str:
        """The name of an option's sequence in the ledger."""
        return "/".join([self.rendering, *([self.variant] if self.variant else []), f"{part}={option}"])

    def tokens(self, found: Found, option: int) -> Tokens | str:
        """The ledger of an option after its context, or why there is none."""
        context = PROMPT if self.options[option][0].strip() else EOS
        return found.tokens(self.record_id, self.name(option), context)


def question_of(
    record_id: str,
    rendering: str,
    variant: str,
    context: str,
    choices: Sequence[str],
    answer: int,
    *,
    delimiter: str = " ",
    mutual: bool = False,
) -> Question:
    """A question whose choices follow one context, after a delimiter."""
    return Question(
        record_id=record_id,
        rendering=rendering,
        variant=variant,
        options=tuple((context, delimiter + choice) for choice in choices),
        answer=answer,
        sizes=tuple(map(len, choices)),
        mutual=mutual,
    )


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The ids of a context and of what follows it; spaces at the end of the context go over to the continuation.

    As in the harness, the context keeps the ids that it has alone where a token reaches across the border, and begins with
    BOS where the tokenizer says so.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    before = tokenizer.encode(context) if context else []
    whole = tokenizer.encode(context + continuation)
    return [*(tokenizer.prefix if context else ()), *before], whole[len(before) :]


def requests_of(question: Question, tokenizer: Tokenizer) -> Iterator[Request]:
    """The sequences that a question needs in the ledger."""
    for number, (context, continuation) in enumerate(question.options):
        before, ids = encode_pair(tokenizer, context, continuation)
        place = PROMPT if before else EOS
        yield Request(question.record_id, question.name(number), tuple(ids), place, tuple(before))
        if question.mutual:
            _, alone = encode_pair(tokenizer, "", continuation)
            yield Request(question.record_id, question.name(number, "alone"), tuple(alone))


def scores_of(question: Question, found: Found) -> Iterator[Score | Gap]:
    """`accuracy`, `accuracy_norm`, `margin` and, for a mutual question, `accuracy_mi`; or one gap."""
    place = (question.record_id, question.rendering, question.variant)
    if len(question.options) < 2:
        yield Gap(*place, f"{len(question.options)} option, a choice needs two or more")
        return
    numbers = range(len(question.options))
    parts = [question.tokens(found, number) for number in numbers]
    alone = [found.tokens(question.record_id, question.name(n, "alone")) for n in numbers if question.mutual]
    missing = [part for part in [*parts, *alone] if isinstance(part, str)]
    if missing:
        yield Gap(*place, missing[0])
        return
    totals = np.array([part.total for part in parts if isinstance(part, Tokens)])
    yield Score(*place, "accuracy", float(np.argmax(totals) == question.answer))
    if min(question.sizes) > 0:
        yield Score(*place, "accuracy_norm", float(np.argmax(totals / question.sizes) == question.answer))
    if alone:
        gained = totals - np.array([part.total for part in alone if isinstance(part, Tokens)])
        yield Score(*place, "accuracy_mi", float(np.argmax(gained) == question.answer))
    others = np.delete(totals, question.answer)
    yield Score(*place, "margin", float(totals[question.answer] - others.max()))


AT_ONCE = 1024  # questions whose texts are encoded together


@dataclass
class _Texts:
    """In place of a tokenizer: notes the texts that are asked for, and gives their ids once all are encoded together."""

    prefix: tuple[int, ...]
    ids: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def encode(self, text: str) -> tuple[int, ...]:
        return self.ids.setdefault(text, ())


def requests_of_all(questions: Iterable[Question], tokenizer: Tokenizer) -> Iterator[Request]:
    """`requests_of` of every question, in their order: many questions at a time, each text encoded once."""
    rest = iter(questions)
    numbers = list(range(tokenizer.vocab_size))  # one object for each id: the sequences may be millions
    while part := list(islice(rest, AT_ONCE)):
        texts = _Texts(tokenizer.prefix)
        for question in part:
            list(requests_of(question, cast(Tokenizer, texts)))
        encoded = tokenizer.encode_batch(list(texts.ids))
        texts.ids = {text: tuple(numbers[i] for i in ids) for text, ids in zip(texts.ids, encoded, strict=True)}
        for question in part:
            yield from requests_of(question, cast(Tokenizer, texts))
