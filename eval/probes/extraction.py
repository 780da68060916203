"""Extraction: does greedy decoding after the first tokens of a record reproduce the next ones word for word?

No text is generated: greedy decoding continues a record exactly when every token of the suffix is the most likely one
under teacher forcing (Carlini et al., arXiv 2202.07646, definition 3.1, by induction over the suffix).
`exact_fraction` without a prefix is the share of all tokens that are the most likely one ("exact memorization").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from . import Context, Found, Gap, Request, Score
from .likelihood import requests as likelihood_requests
from .likelihood import scored_renderings

NEEDS = ("loglik",)
KINDS = ()
METRICS = {
    "extracted": "1 when greedy decoding after the prefix gives the suffix back word for word",
    "exact_fraction": "share of the tokens that are the most likely one",
}
SOURCE = "Carlini et al., arXiv 2202.07646, definition 3.1"


def requests(context: Context) -> Iterator[Request]:
    return likelihood_requests(context)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    suffix = context.design.suffix
    for subject in context.subjects:
        for name in scored_renderings(context, subject):
            tokens = found.tokens(subject.record_id, name)
            if isinstance(tokens, str):
                yield Gap(subject.record_id, name, "", tokens)
                continue
            top1 = tokens.top1
            if len(top1) > context.length:
                yield Gap(
                    subject.record_id, name, "", f"{len(top1):,} tokens, the model reads at most {context.length:,}"
                )
                continue
            yield Score(subject.record_id, name, "", "exact_fraction", float(top1.mean()))
            for prefix in context.design.prefixes:
                if len(top1) < prefix + suffix:
                    continue
                part = top1[prefix : prefix + suffix]
                yield Score(subject.record_id, name, f"prefix={prefix}", "extracted", float(part.all()))
                yield Score(subject.record_id, name, f"prefix={prefix}", "exact_fraction", float(part.mean()))
