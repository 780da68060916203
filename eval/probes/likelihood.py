"""Likelihood of a record after EOS: nats per token, and log-likelihood per byte (Hubble's length-normalized measure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from . import Context, Ledger, Request, Score, Subject

NEEDS = "loglik"


def scored_renderings(context: Context, subject: Subject) -> list[str]:
    """The canonical rendering, and those that some arm inserts."""
    others = context.inserted.get(subject.perturbation, frozenset())
    return [name for name in subject.renderings if name == subject.canonical or name in others]


def requests(context: Context) -> Iterator[Request]:
    for subject in context.subjects:
        for name in scored_renderings(context, subject):
            yield Request(subject.record_id, name, subject.renderings[name].ids)


def scores(context: Context, ledger: Ledger, model: Any) -> Iterable[Score]:
    for subject in context.subjects:
        for name in scored_renderings(context, subject):
            tokens = ledger[(subject.record_id, name)]
            total = float(tokens.logp.sum(dtype="float64"))
            yield subject.record_id, name, "", "nll_token", -total / len(tokens.logp)
            yield subject.record_id, name, "", "ll_byte", total / int(tokens.n_bytes.sum())
