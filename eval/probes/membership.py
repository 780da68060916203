"""Membership: how likely each attack finds it that the model has read a record. Higher is more likely, for all of them.

`loss`, `zlib`, `min-k`, `min-k-plus-plus` and `dc-pdd` read the ledger of the canonical rendering. `recall` reads it a
second time after a prefix: records of the same perturbation that no arm and draw inserts, in the order of a keyed hash up
to the first that does not fit, at most eight and half the context together, each between EOS as documents are in training
(the first after BOS where a model has it). Those records get no `recall` score: were short ones preferred, the records
that are held out would be the longer ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ...core.hashing import keyed_hash
from ..attacks import dc_pdd, mean_logp, min_k, min_k_plus_plus, recall_ratio, zlib_ratio
from . import Context, Found, Gap, Request, Score, Subject, Tokens
from .likelihood import requests as likelihood_requests

NEEDS = ("loglik",)
KINDS = ()
READS = ("counts",)
METRICS = {"attack_score": "the score of an attack; higher: more likely a member"}
SOURCE = (
    "arXiv 1709.01604 (loss), 2012.07805 (zlib), 2310.16789 (Min-K %), 2404.02936 (Min-K %++), 2406.15968 (ReCaLL), "
    "2409.14781 (DC-PDD)"
)

METRIC = "attack_score"
PREFIXED = "recall"
MOST = 8


def prefixes(context: Context) -> dict[str, list[Subject]]:
    """The records of each perturbation that stand before the others in `recall`; none where all are inserted somewhere."""
    found: dict[str, list[Subject]] = {}
    room: dict[str, int] = {}
    free = [s for s in context.subjects if s.role == "main" and s.record_id not in context.fates]
    for subject in sorted(free, key=lambda s: keyed_hash(context.seed, PREFIXED, s.record_id)):
        chosen = found.setdefault(subject.perturbation, [])
        left = room.setdefault(subject.perturbation, context.length // 2 - 1)
        size = len(subject.renderings[subject.canonical].ids) + 1
        fits = size <= left and len(chosen) < MOST
        room[subject.perturbation] = left - size if fits else 0
        if fits:
            chosen.append(subject)
    return found


def requests(context: Context) -> Iterator[Request]:
    yield from likelihood_requests(context)
    eos = context.tokenizer.eos_id
    standing = prefixes(context)
    before = {
        name: (context.begin, *(i for s in chosen for i in (*s.renderings[s.canonical].ids, eos)))
        for name, chosen in standing.items()
        if chosen
    }
    used = {subject.record_id for chosen in standing.values() for subject in chosen}
    for subject in context.subjects:
        if subject.role == "main" and subject.perturbation in before and subject.record_id not in used:
            ids = subject.renderings[subject.canonical].ids
            yield Request(subject.record_id, subject.canonical, ids, PREFIXED, before[subject.perturbation])


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    counts = context.counts()
    before = prefixes(context)
    standing = {subject.record_id for chosen in before.values() for subject in chosen}
    mains = [subject for subject in context.subjects if subject.role == "main"]
    for name in sorted({subject.perturbation for subject in mains}):
        if not before.get(name):
            reason = f"no record of {name} is never inserted, or the first drawn does not fit into half the context"
            yield Gap("", "", f"attack={PREFIXED}", reason)
    for subject in mains:
        place = (subject.record_id, subject.canonical)
        tokens = found.tokens(*place)
        if isinstance(tokens, str):
            yield Gap(*place, "", tokens)
            continue
        text = subject.renderings[subject.canonical].text
        for attack, score in _alone(tokens, text).items():
            yield Score(*place, f"attack={attack}", METRIC, score)
        if int(tokens.token_id.max()) < len(counts):
            yield Score(*place, "attack=dc-pdd", METRIC, dc_pdd(tokens.logp, tokens.token_id, counts))
        else:
            yield Gap(*place, "attack=dc-pdd", "no counts of the base for this model's tokens")
        if before.get(subject.perturbation) and subject.record_id not in standing:
            yield _recall(subject, tokens, found)


def _alone(tokens: Tokens, text: str) -> dict[str, float]:
    """The attacks that read the record by itself."""
    return {
        "loss": mean_logp(tokens.logp),
        "zlib": zlib_ratio(tokens.logp, text),
        "min-k": min_k(tokens.logp),
        "min-k-plus-plus": min_k_plus_plus(tokens.logp, tokens.mean_logp, tokens.var_logp),
    }


def _recall(subject: Subject, tokens: Tokens, found: Found) -> Score | Gap:
    place = (subject.record_id, subject.canonical, f"attack={PREFIXED}")
    after = found.tokens(subject.record_id, subject.canonical, PREFIXED)
    if isinstance(after, str):
        return Gap(*place, after)
    if not np.isfinite(tokens.total) or tokens.total == 0:
        return Gap(*place, f"a log-likelihood of {tokens.total}")
    return Score(*place, METRIC, recall_ratio(after.total, tokens.total))
