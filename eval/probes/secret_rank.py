"""The rank of a secret among its candidates, and its exposure in bits: log2(candidates) − log2(rank).

Carlini et al., "The Secret Sharer" (arXiv 1802.08232), definitions 3 and 4. Candidates share the carrier before the
secret and are scored by the tokens of the secret alone, through a trie. Up to a million candidates the rank is exact.
Above, it is the rank among a keyed sample, and the variant states the size of the sample, which bounds the exposure.
The other secrets of the perturbation that some arm inserts are no candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from ...core.hashing import keyed_hash
from ..reader import Reader
from ..trie import candidate_logps, sequence_logps
from . import Context, Found, Gap, Score, Subject

NEEDS = ("weights",)
KINDS = ("password",)
METRICS = {
    "rank": "rank of the secret among its candidates, 1 the likeliest",
    "exposure_bits": "log2(candidates) − log2(rank)",
}
SOURCE = "Carlini et al., arXiv 1802.08232, definitions 3 and 4"
EXACT = 1_000_000
SAMPLE = 4095


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    assert found.reader is not None
    for subject in context.subjects:
        others = [
            other.fields["secret"]
            for other in context.subjects
            if other.record_id != subject.record_id
            and other.perturbation == subject.perturbation
            and other.record_id in context.fates
            and other.fields["alphabet"] == subject.fields["alphabet"]
            and len(other.fields["secret"]) == len(subject.fields["secret"])
        ]
        name = subject.canonical
        if not symbols_stand_alone(subject, context):
            yield Gap(
                subject.record_id, name, "", "the symbols of its alphabet have other tokens where the secret stands"
            )
            continue
        rank, candidates, variant = secret_rank(subject, others, context, found.reader)
        if not rank:
            yield Gap(subject.record_id, name, variant, "logits that are not numbers (NaN or infinite)")
            continue
        yield Score(subject.record_id, name, variant, "rank", float(rank))
        yield Score(subject.record_id, name, variant, "exposure_bits", math.log2(candidates) - math.log2(rank))


def secret_rank(subject: Subject, others: list[str], context: Context, reader: Reader) -> tuple[int, int, str]:
    """(rank, candidates, variant) of a secret. Of equal candidates those that come first in the alphabet rank higher; the
    rank is 0 where log-probabilities are no numbers."""
    rendered = subject.renderings[subject.canonical]
    start, end = rendered.spans["secret"]
    alphabet, secret = subject.fields["alphabet"], subject.fields["secret"]
    prefix = [reader.begin, *rendered.ids[:start]]
    symbols = [_symbol_id(symbol, subject, context) for symbol in alphabet]
    depth = end - start
    space = len(alphabet) ** depth
    if space <= EXACT:
        logps = candidate_logps(reader, prefix, symbols, depth)
        own = _number(secret, alphabet)
        if not np.isfinite(logps).all():
            return 0, space, ""
        excluded = np.zeros(space, bool)
        excluded[[_number(other, alphabet) for other in others if other != secret]] = True
        ahead = (logps > logps[own]) | ((logps == logps[own]) & (np.arange(space) < own))
        return 1 + int((ahead & ~excluded).sum()), space - int(excluded.sum()), ""
    taken = {_number(other, alphabet) for other in [*others, secret]}
    base = len(alphabet)
    numbers: list[int] = []
    attempt = 0
    while len(numbers) < SAMPLE:
        digits = [keyed_hash("candidate", subject.record_id, attempt, place) % base for place in range(depth)]
        number = _number("".join(alphabet[digit] for digit in digits), alphabet)
        attempt += 1
        if number not in taken:
            taken.add(number)
            numbers.append(number)
    rows = [
        [symbols[digit] for digit in _digits(n, len(alphabet), depth)] for n in [_number(secret, alphabet), *numbers]
    ]
    logps = sequence_logps(reader, prefix, torch.tensor(rows))
    if not np.isfinite(logps).all():
        return 0, SAMPLE + 1, f"sampled={SAMPLE}"
    return 1 + int((logps[1:] > logps[0]).sum()), SAMPLE + 1, f"sampled={SAMPLE}"


def symbols_stand_alone(subject: Subject, context: Context) -> bool:
    """Whether each symbol of the secret has the one token, where it stands, that the candidates are made of."""
    rendered = subject.renderings[subject.canonical]
    start, end = rendered.spans["secret"]
    own = [_symbol_id(symbol, subject, context) for symbol in subject.fields["secret"]]
    return own == list(rendered.ids[start:end])


def _number(secret: str, alphabet: str) -> int:
    value = 0
    for symbol in secret:
        value = value * len(alphabet) + alphabet.index(symbol)
    return value


def _digits(number: int, base: int, depth: int) -> list[int]:
    return [number // base**place % base for place in range(depth - 1, -1, -1)]


def _symbol_id(symbol: str, subject: Subject, context: Context) -> int:
    """The id of a symbol where the secret stands: checked to be one token when the record was built."""
    before = str(subject.fields["carrier"]).split("{secret}")[0]
    return context.tokenizer.encode(before + symbol)[-1]
