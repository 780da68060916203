"""Likelihood of a record after EOS: nats per token, and log-likelihood per byte (Hubble's length-normalized measure).

A text that is longer than the model reads is scored in windows, as lm-evaluation-harness does (windows.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from . import Context, Found, Gap, Request, Score, Subject, Tokens, too_long

NEEDS = ("loglik",)
KINDS = ()
METRICS = {
    "nll_token": "nats per token of the record, the closing EOS not counted",
    "ll_byte": "log-likelihood per byte of UTF-8, nats",
}
SOURCE = "Hubble (arXiv 2510.19811), normalized log-likelihood"


def scored_renderings(context: Context, subject: Subject) -> list[str]:
    """The canonical rendering, and those that some arm inserts."""
    others = context.inserted.get(subject.perturbation, frozenset())
    return [name for name in subject.renderings if name == subject.canonical or name in others]


def scored_texts(context: Context) -> Iterator[tuple[Subject, str]]:
    """Every record with each of its scored renderings."""
    for subject in context.subjects:
        for name in scored_renderings(context, subject):
            yield subject, name


def ledger_of(
    texts: Iterable[tuple[Subject, str]], found: Found, most: int | None = None
) -> Iterator[tuple[Subject, str, Tokens | Gap]]:
    """The ledger of each text after EOS, or the gap in its place; with `most` texts of more tokens are gaps as well."""
    for subject, name in texts:
        tokens = found.tokens(subject.record_id, name)
        if isinstance(tokens, str):
            yield subject, name, Gap(subject.record_id, name, "", tokens)
        elif most is not None and len(tokens.logp) > most:
            yield subject, name, Gap(subject.record_id, name, "", too_long(len(tokens.logp), most))
        else:
            yield subject, name, tokens


def requests(context: Context) -> Iterator[Request]:
    for subject, name in scored_texts(context):
        yield Request(subject.record_id, name, subject.renderings[name].ids)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    for subject, name, tokens in ledger_of(scored_texts(context), found):
        if isinstance(tokens, Gap):
            yield tokens
            continue
        yield Score(subject.record_id, name, "", "nll_token", tokens.nll)
        yield Score(subject.record_id, name, "", "ll_byte", tokens.total / subject.renderings[name].n_bytes)
