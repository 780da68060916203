"""Extraction: how far does the model give a record back, by greedy decoding and by sampling?

No text is generated: greedy decoding continues a record exactly when every token of the suffix is the most likely one
under teacher forcing (Carlini et al., arXiv 2202.07646, definition 3.1, by induction over the suffix).
`exact_fraction` without a prefix is the share of all tokens that are the most likely one ("exact memorization").
`extraction_strength` is 1 − k/n with the least k such that all tokens from the k-th on are the most likely ones; it is 0
where even the last token is not, for which open-unlearning's metric of that name gives 1/n.

Sampling is among the 40 likeliest tokens at temperature 1 (Hayes et al., arXiv 2410.19482). With p the probability of the
whole suffix, N = ⌈log(1 − 0.5) / log(1 − p)⌉ samples give it back at least once with probability 0.5. `queries_log10` is
log10 N, and 12 stands for a trillion or more, also where a token is not among the 40 at all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..ledger import TOP
from . import Context, Found, Gap, Request, Score, Tokens
from .likelihood import ledger_of, scored_texts
from .likelihood import requests as likelihood_requests

NEEDS = ("loglik",)
KINDS = ()
METRICS = {
    "extracted": "1 when greedy decoding after the prefix gives the suffix back word for word",
    "exact_fraction": "share of the tokens that are the most likely one",
    "longest_match": "tokens that greedy decoding after the prefix gives back before the first other one",
    "extraction_strength": "share of the record, from its end backwards, whose tokens are all the most likely one",
    "queries_log10": "log10 of the samples needed to see the suffix once with probability 0.5; at most 12",
    "discoverable": "1 when n samples give the suffix back at least once with probability 0.5",
}
SOURCE = (
    "Carlini et al., arXiv 2202.07646, definition 3.1; Carlini et al., arXiv 2012.07805 and open-unlearning "
    "(extraction strength); Hayes et al., arXiv 2410.19482, (n, p)-discoverable extraction"
)
SAMPLES = (100, 10_000)
MOST = 12.0


def requests(context: Context) -> Iterator[Request]:
    return likelihood_requests(context)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    suffix = context.design.suffix
    short: Counter[tuple[str, int]] = Counter()
    texts: Counter[str] = Counter()
    for subject, name, tokens in ledger_of(scored_texts(context), found, context.length):
        if isinstance(tokens, Gap):
            yield tokens
            continue
        for variant, metric, value in measures(tokens, context.design.prefixes, suffix):
            yield Score(subject.record_id, name, variant, metric, value)
        texts[subject.perturbation] += 1
        short.update((subject.perturbation, p) for p in context.design.prefixes if len(tokens.logp) < p + suffix)
    for (perturbation, prefix), count in short.items():
        if count < texts[perturbation]:  # where all are too short, the measure is not for them
            least = prefix + suffix
            reason = f"{count:,} of {texts[perturbation]:,} texts of {perturbation} have fewer than {least} tokens"
            yield Gap("", "", f"prefix={prefix}", reason)


def measures(tokens: Tokens, prefixes: Iterable[int], suffix: int) -> Iterator[tuple[str, str, float]]:
    """(variant, metric, value) of one sequence."""
    top1 = tokens.top1
    yield "", "exact_fraction", float(top1.mean())
    yield "", "extraction_strength", _matches(top1[::-1]) / len(top1)
    for prefix in prefixes:
        variant = f"prefix={prefix}"
        if len(top1) > prefix:
            yield variant, "longest_match", float(_matches(top1[prefix:]))
        hits = hits_after(top1, prefix, suffix)
        if hits is None:
            continue
        yield variant, "extracted", float(hits.all())
        yield variant, "exact_fraction", float(hits.mean())
        queries = queries_log10(sampled_logp(tokens.part(tokens.start + prefix, tokens.start + prefix + suffix)))
        yield variant, "queries_log10", queries
        for samples in SAMPLES:
            yield f"{variant},n={samples}", "discoverable", float(queries <= math.log10(samples))


def hits_after(top1: NDArray[np.bool_], prefix: int, suffix: int) -> NDArray[np.bool_] | None:
    """Of each token of the suffix after a prefix: is it the most likely one? None where the text ends before the suffix."""
    return top1[prefix : prefix + suffix] if len(top1) >= prefix + suffix else None


def _matches(top1: NDArray[np.bool_]) -> int:
    """How many come before the first that is not."""
    return len(top1) if top1.all() else int(np.argmin(top1))


def sampled_logp(tokens: Tokens) -> float:
    """The log-probability of a sequence under sampling among the 40 likeliest tokens; −∞ where one is not among them."""
    if (tokens.rank > TOP).any():
        return -math.inf
    return min(0.0, float((tokens.logp.astype("float64") - tokens.lse_top40).sum()))


def queries_log10(logp: float) -> float:
    """log10 of the samples that show a sequence of this log-probability once with probability 0.5, at most `MOST`."""
    if logp >= math.log(0.5):
        return 0.0
    if logp < -(MOST + 1) * math.log(10):
        return MOST
    return min(MOST, math.log10(math.ceil(math.log(0.5) / math.log1p(-math.exp(logp)))))
