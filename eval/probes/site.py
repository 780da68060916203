"""Each inserted record where training read it: after the very tokens that stood before its first copy.

A record after EOS alone is a text out of its place: what a model memorized it may tie to what came before. Here the ids
before the copy are those of the sequence that training read. A treated run is measured at the sites of its own arm, a
control run at the sites of every arm that it controls, under the same variant, so that they pair. Records that an arm
does not insert have no site: there are totals, no direct effects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from . import Context, Found, Gap, Request, Score, Site, Subject, Tokens
from .extraction import hits_after

NEEDS = ("loglik",)
READS = ("sites",)
KINDS = ()
METRICS = {
    "nll_token": "nats per token of the record after what stood before its first copy",
    "extracted": "1 when greedy decoding after the prefix, in place, gives the suffix back word for word",
    "exact_fraction": "share of the tokens that are the most likely one, in place",
}
SOURCE = "Hubble (arXiv 2510.19811) for the insertion; Carlini et al., arXiv 2202.07646, definition 3.1"


def placed(context: Context) -> Iterator[tuple[str, Subject, Site]]:
    """(arm, record, its site) of every inserted record."""
    for arm, sites in context.sites().items():
        for subject in context.subjects:
            if subject.record_id in sites:
                yield arm, subject, sites[subject.record_id]


def requests(context: Context) -> Iterator[Request]:
    for arm, subject, site in placed(context):
        ids = subject.renderings[site.rendering].ids
        yield Request(subject.record_id, site.rendering, ids, context=f"site/{arm}", before=site.before)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    for arm, subject, site in placed(context):
        tokens = found.tokens(subject.record_id, site.rendering, f"site/{arm}")
        place = (subject.record_id, site.rendering, f"site={arm}")
        yield from [Gap(*place, tokens)] if isinstance(tokens, str) else _scores(place, tokens, context)


def _scores(place: tuple[str, str, str], tokens: Tokens, context: Context) -> Iterator[Score]:
    top1, suffix = tokens.top1, context.design.suffix
    yield Score(*place, "nll_token", tokens.nll)
    yield Score(*place, "exact_fraction", float(top1.mean()))
    for prefix in context.design.prefixes:
        hits = hits_after(top1, prefix, suffix)
        if hits is not None:
            at = (*place[:2], f"{place[2]},prefix={prefix}")
            yield Score(*at, "extracted", float(hits.all()))
            yield Score(*at, "exact_fraction", float(hits.mean()))
