"""Extraction: does greedy decoding after the first tokens of a record reproduce the next ones word for word?

No text is generated: greedy decoding continues a record exactly when every token of the suffix is the most likely one
under teacher forcing (Carlini et al., arXiv 2202.07646, definition 3.1, by induction over the suffix).
`exact_fraction` without a prefix is the share of all tokens that are the most likely one ("exact memorization").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from . import Context, Ledger, Request, Score
from .likelihood import requests as likelihood_requests
from .likelihood import scored_renderings

NEEDS = "loglik"


def requests(context: Context) -> Iterator[Request]:
    return likelihood_requests(context)


def scores(context: Context, ledger: Ledger, model: Any) -> Iterable[Score]:
    suffix = context.design.suffix
    for subject in context.subjects:
        for name in scored_renderings(context, subject):
            top1 = ledger[(subject.record_id, name)].top1
            yield subject.record_id, name, "", "exact_fraction", float(top1.mean())
            for prefix in context.design.prefixes:
                if len(top1) < prefix + suffix:
                    continue
                found = top1[prefix : prefix + suffix]
                yield subject.record_id, name, f"prefix={prefix}", "extracted", float(found.all())
                yield subject.record_id, name, f"prefix={prefix}", "exact_fraction", float(found.mean())
