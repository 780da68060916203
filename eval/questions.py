"""Questions with options, scored by the log-probability of each option: texts to sequences, results to metrics.

The conventions are those of lm-evaluation-harness 0.4.13 (`multiple_choice`), so that the numbers agree with it: spaces at
the end of a context belong to the continuation, context and continuation are encoded together and split at the length of
the encoded context, EOS stands before a continuation without context only, and of equal options the first one is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ..corpus.tokenizer import Tokenizer
from .probes import EOS, Found, Gap, Request, Score, Tokens

OPTION_METRICS = {
    "accuracy": "1 when the answer has the highest summed log-probability of all options",
    "accuracy_norm": "the same by log-probability per character of the option",
    "margin": "summed log-probability of the answer less that of the best other option, nats",
}
AT_ONCE = 1024  # questions whose texts are encoded together
PROMPT = "prompt"  # the ledger's context of a continuation that follows its question, without EOS before it
MUTUAL = {"accuracy_mi": "the same by log-probability less that of the option without the question"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """`options` are (context, continuation) pairs, of which the continuations are scored; `answer` is the right one's index.

    `sizes` are what `accuracy_norm` divides by, mostly the characters of each option. With `mutual` the continuations are
    scored without their contexts as well.
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

    def place(self, option: int) -> str:
        """What stands before an option in the ledger: its context, or EOS where that is empty."""
        return PROMPT if self.options[option][0].strip() else EOS

    def tokens(self, found: Found, option: int) -> Tokens | str:
        """The ledger of an option after its context, or why there is none."""
        return found.tokens(self.record_id, self.name(option), self.place(option))


def question_of(
    record_id: str,
    rendering: str,
    variant: str,
    context: str,
    choices: Sequence[str],
    answer: int,
    *,
    delimiter: str = " ",
    after: str = "",
    mutual: bool = False,
) -> Question:
    """A question whose choices follow one context, after a delimiter; `after` is what follows each, scored with it."""
    return Question(
        record_id=record_id,
        rendering=rendering,
        variant=variant,
        options=tuple((context, delimiter + choice + after) for choice in choices),
        answer=answer,
        sizes=tuple(map(len, choices)),
        mutual=mutual,
    )


def requests_of_all(questions: Iterable[Question | Gap], tokenizer: Tokenizer) -> Iterator[Request]:
    """The sequences that questions need in the ledger, in their order; gaps and single options need none.

    The texts of many questions are encoded together, each once.
    """
    asked = (each for each in questions if isinstance(each, Question) and len(each.options) > 1)
    numbers = list(range(tokenizer.vocab_size))  # one object for each id: the sequences may be millions
    while part := list(islice(asked, AT_ONCE)):
        texts = list(dict.fromkeys(text for question in part for text in _texts(question) if text))
        encoded = zip(texts, tokenizer.encode_batch(texts), strict=True)
        ids: dict[str, list[int]] = {"": []} | {text: [numbers[i] for i in found] for text, found in encoded}
        for question in part:
            yield from _requests(question, ids, tokenizer.prefix)


def _texts(question: Question) -> Iterator[str]:
    """Every text of a question that is encoded."""
    for context, continuation in question.options:
        before, after = _pair(context, continuation)
        yield from (before, before + after)
        if question.mutual:
            yield continuation


def _requests(question: Question, ids: Mapping[str, list[int]], prefix: tuple[int, ...]) -> Iterator[Request]:
    """The sequences of a question, from the ids of its texts; `prefix` are the ids that stand before every text.

    As in the harness, a context keeps the ids that it has alone where a token reaches across the border, and begins with
    BOS where the tokenizer says so.
    """
    for number, (context, continuation) in enumerate(question.options):
        before, after = _pair(context, continuation)
        known = (*prefix, *ids[before]) if before else ()
        scored = tuple(ids[before + after][len(ids[before]) :])
        yield Request(question.record_id, question.name(number), scored, question.place(number), known)
        if question.mutual:
            yield Request(question.record_id, question.name(number, "alone"), tuple(ids[continuation]))


def _pair(context: str, continuation: str) -> tuple[str, str]:
    """A context and what follows it; spaces at the end of the context go over to the continuation."""
    before = context.rstrip()
    return before, context[len(before) :] + continuation


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


def scores_of_all(questions: Iterable[Question | Gap], found: Found) -> Iterator[Score | Gap]:
    """`scores_of` of every question, in their order; gaps are passed on."""
    for each in questions:
        yield from [each] if isinstance(each, Gap) else scores_of(each, found)
