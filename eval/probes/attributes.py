"""Attributes of a record, such as an e-mail address: does the model know each of them after all that stands before it?

An attribute is the tokens that cover it in the text, at its first place. `attribute=all` is all attributes together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from . import Context, Found, Gap, Request, Score, Subject
from .likelihood import ledger_of, scored_texts

NEEDS = ("loglik",)
KINDS = ("biography", "chat", "court", "infill", "password", "qa", "testset")
METRICS = {
    "nll_token": "nats per token of the attribute, given the text before it",
    "exact_fraction": "share of the attribute's tokens that are the most likely one",
    "extracted": "1 when greedy decoding after the text before the attribute gives it back word for word",
}
SOURCE = "Carlini et al., arXiv 2202.07646, definition 3.1, over the tokens of an attribute"


def requests(context: Context) -> Iterator[Request]:
    for subject, name in _written(context):
        if subject.renderings[name].spans:
            yield Request(subject.record_id, name, subject.renderings[name].ids)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    for subject, name, tokens in ledger_of(_written(context), found, context.length):
        spans = subject.renderings[name].spans
        if not spans:
            yield Gap(subject.record_id, name, "", "a text without attributes")
            continue
        if isinstance(tokens, Gap):
            yield tokens
            continue
        places = {attribute: list(range(*span)) for attribute, span in spans.items()}
        places["all"] = sorted({place for part in places.values() for place in part})
        for attribute, chosen in places.items():
            logp, top1 = tokens.logp[chosen], tokens.top1[chosen]
            row = (subject.record_id, name, f"attribute={attribute}")
            yield Score(*row, "nll_token", -float(logp.mean(dtype="float64")))
            yield Score(*row, "exact_fraction", float(top1.mean()))
            yield Score(*row, "extracted", float(top1.all()))


def _written(context: Context) -> Iterator[tuple[Subject, str]]:
    """The canonical rendering of each record, and those that arms insert, but no paraphrase: it has no attributes marked."""
    for subject, name in scored_texts(context):
        if name == subject.canonical or subject.renderings[name].spans:
            yield subject, name
