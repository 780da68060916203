"""Membership scores by formula: each takes what a model says of one text, and is higher for a more likely member."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOWEST = 0.2  # share of the tokens that Min-K % looks at
LEAST_VARIANCE = 1e-6
CLIPPED = 0.01  # the most that a token counts in DC-PDD
ENOUGH = 8  # runs without a record from which on its own spread is used


def mean_logp(logp: NDArray[np.floating]) -> float:
    """Nats per token: the loss, negated (Yeom et al., arXiv 1709.01604)."""
    return float(np.mean(logp, dtype=np.float64))


def zlib_ratio(logp: NDArray[np.floating], text: str) -> float:
    """Nats per token over the bytes that zlib makes of the text (Carlini et al., arXiv 2012.07805)."""
    return mean_logp(logp) / len(zlib.compress(text.encode(), 6))


def min_k(values: NDArray[np.floating], share: float = LOWEST) -> float:
    """The mean of the lowest values, at least one (Min-K %, arXiv 2310.16789)."""
    kept = max(1, int(share * len(values)))
    return float(np.sort(np.asarray(values, np.float64))[:kept].mean())


def min_k_plus_plus(
    logp: NDArray[np.floating], mean: NDArray[np.floating], variance: NDArray[np.floating], share: float = LOWEST
) -> float:
    """Min-K % of log-probabilities in standard deviations from what the model expects (arXiv 2404.02936)."""
    spread = np.sqrt(np.maximum(np.asarray(variance, np.float64), LEAST_VARIANCE))
    return min_k((np.asarray(logp, np.float64) - mean) / spread, share)


def recall_ratio(after_prefix: float, alone: float) -> float:
    """Log-likelihood after texts that were not read over that without them (ReCaLL, arXiv 2406.15968)."""
    return after_prefix / alone


def dc_pdd(logp: NDArray[np.floating], ids: NDArray[np.integer], counts: NDArray[np.int64]) -> float:
    """Divergence from token frequencies (DC-PDD, arXiv 2409.14781): the mean of p·log(1/frequency), at most 0.01 each,
    over the first occurrences of the text's ids; `counts` [V] are of the base and get one more each."""
    _, first = np.unique(ids, return_index=True)
    frequency = (counts[ids[first]] + 1) / (counts.sum() + len(counts))
    return float(np.minimum(np.exp(np.asarray(logp, np.float64)[first]) * -np.log(frequency), CLIPPED).mean())


def lira(scores: Floats, out: Floats) -> Floats:
    """Offline LiRA, one-sided (Carlini et al., arXiv 2112.03570): Φ⁻¹ of the share of models without a record that would
    score it lower, for scores [n] and those of R models without each record [n, R], NaN where a model has read it.

    A record with two models or more has a mean; its own spread counts from eight on, before that the pooled one.
    Φ itself would be 1 for all that lies far out, so the standardized score is given: the order is the same.
    """
    present = np.isfinite(out)
    number = present.sum(1)
    filled = np.where(present, out, 0.0)
    mean = filled.sum(1) / np.maximum(number, 1)
    squares = np.where(present, out - mean[:, None], 0.0) ** 2
    kept = number >= 2
    freedom = (number[kept] - 1).sum()
    pooled = np.sqrt(squares[kept].sum() / freedom) if freedom else np.nan
    own = np.sqrt(squares.sum(1) / np.maximum(number - 1, 1))
    spread = np.maximum(np.where(number >= ENOUGH, own, pooled), np.sqrt(LEAST_VARIANCE))
    return np.where(kept, (scores - mean) / spread, np.nan)


def rmia(scores: Floats, out: Floats, is_population: NDArray[np.bool_]) -> Floats:
    """Offline RMIA with γ = 1 (Zarifzadeh et al., arXiv 2312.03262): the share of a held-out population whose
    probability over its mean in models without it is no larger than the record's own. Scores as for `lira`."""
    present = np.isfinite(out)
    number = present.sum(1)
    shift = np.where(present, out, -np.inf).max(1, initial=-np.inf)
    shift = np.where(np.isfinite(shift), shift, 0.0)
    mean = np.where(present, np.exp(out - shift[:, None]), 0.0).sum(1) / np.maximum(number, 1)
    with np.errstate(divide="ignore"):
        ratio = np.where(number >= 2, scores - shift - np.log(mean), np.nan)
    usable = is_population & np.isfinite(ratio)
    population = np.sort(ratio[usable])
    below = np.searchsorted(population, ratio, side="right") - usable
    others = np.maximum(len(population) - usable, 1)
    return np.where(np.isfinite(ratio), below / others, np.nan)
