"""Resampling by cluster, for many measures at once: every statistic is a product with a weight matrix.

Clusters (a document, a person) are the units of randomization, so they are the units of resampling too
(Cameron & Miller 2015, section VI, for the pairs cluster bootstrap; Fisher's sign-flip and label permutation tests).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, binomtest
from scipy.stats import t as student

from ..core.hashing import keyed_hash
from ..core.schemes import LEAST

BOOTSTRAPS = 2000
PERMUTATIONS = 4999
LEAST_CLUSTERS = LEAST

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Ends [K] of intervals."""

    low: Floats
    high: Floats


@dataclass(frozen=True)
class Clustered:
    """Values of M measures summed by cluster: `sums` [C, M], `counts` [C], each cluster's stratum and name [C]."""

    sums: Floats
    counts: Floats
    strata: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def means(self) -> Floats:
        return np.asarray(self.sums.sum(0) / self.counts.sum())

    @property
    def size(self) -> int:
        return len(self.counts)


def cluster_values(
    values: Floats, clusters: Sequence[str], strata: Sequence[str], draws: Sequence[int] | None = None
) -> Clustered:
    """Values [n, M] of records, each with its cluster and stratum, summed by cluster in the order of the names.

    With `draws`, clusters and strata are those of a draw: levels are drawn within them, in each draw anew.
    """
    if draws is not None:
        clusters, strata = (
            [f"{draw:06d}/{name}" for draw, name in zip(draws, names, strict=True)] for names in (clusters, strata)
        )
    names, places = np.unique(np.array(clusters, dtype=object), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, places, values)
    counts = np.bincount(places, minlength=len(names)).astype(float)
    stratum = dict(zip(clusters, strata, strict=True))
    return Clustered(sums, counts, tuple(stratum[name] for name in names), tuple(names))


def _generator(*key: int | str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(keyed_hash("resampling", *key)))


def bootstrap_means(data: Clustered, key: tuple[int | str, ...]) -> Floats:
    """Means [BOOTSTRAPS, M] over clusters drawn with replacement."""
    weights = _generator("bootstrap", *key).multinomial(data.size, np.full(data.size, 1 / data.size), BOOTSTRAPS)
    return np.asarray((weights @ data.sums) / (weights @ data.counts)[:, None])


def bootstrap_differences(treated: Clustered, held_out: Clustered, key: tuple[int | str, ...]) -> Floats:
    """Differences of means [BOOTSTRAPS, M] of two groups.

    Groups without a common cluster are resampled apart. Where several draws put a cluster into both, the clusters of the
    union are resampled together, so that what they share is shared in every sample.
    """
    if not set(treated.names) & set(held_out.names):
        return bootstrap_means(treated, key) - bootstrap_means(held_out, (*key, "held out"))
    union = sorted({*treated.names, *held_out.names})
    place = {name: number for number, name in enumerate(union)}
    weights = _generator("bootstrap", *key).multinomial(len(union), np.full(len(union), 1 / len(union)), BOOTSTRAPS)
    means = []
    for group in (treated, held_out):
        own = weights[:, [place[name] for name in group.names]]
        means.append((own @ group.sums) / np.maximum(own @ group.counts, 1e-12)[:, None])
    return np.asarray(means[0] - means[1])


def percentile_interval(samples: Floats) -> tuple[Floats, Floats]:
    """95 % percentile intervals of samples [B, M]."""
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    return low, high


def sign_flip_p(data: Clustered, key: tuple[int | str, ...]) -> Floats:
    """Two-sided p-values [M] of a mean of zero: signs of whole clusters flipped at random."""
    signs = _generator("signs", *key).integers(0, 2, (PERMUTATIONS, data.size)) * 2.0 - 1.0
    drawn = np.abs(signs @ data.sums) / data.counts.sum()
    return _p_value(np.abs(data.means), drawn)


def label_permutation_p(treated: Clustered, held_out: Clustered, key: tuple[int | str, ...]) -> Floats:
    """Two-sided p-values [M] of equal means: labels of whole clusters permuted within strata.

    In several draws these are the clusters and strata of each: a cluster may be treated in one and held out in another.
    """
    sums = np.concatenate([treated.sums, held_out.sums])
    counts = np.concatenate([treated.counts, held_out.counts])
    strata = np.array(treated.strata + held_out.strata, dtype=object)
    generator = _generator("labels", *key)
    labels = np.zeros((PERMUTATIONS, len(counts)))
    is_treated = np.arange(len(counts)) < treated.size
    for stratum in sorted(set(strata)):
        members = np.flatnonzero(strata == stratum)
        chosen = int(is_treated[members].sum())
        ranks = generator.random((PERMUTATIONS, len(members))).argsort(1).argsort(1)
        labels[:, members] = ranks < chosen
    drawn = np.abs(_difference(labels, sums, counts))
    observed = np.abs(treated.means - held_out.means)
    return _p_value(observed, drawn)


def _difference(labels: Floats, sums: Floats, counts: Floats) -> Floats:
    inside = (labels @ sums) / (labels @ counts)[:, None]
    outside = ((1 - labels) @ sums) / ((1 - labels) @ counts)[:, None]
    return np.asarray(inside - outside)


def _p_value(observed: Floats, drawn: Floats) -> Floats:
    """(1 + draws at least as extreme) / (1 + draws); a tolerance counts equal values as equal."""
    extreme = (drawn >= observed * (1 - 1e-12) - 1e-15).sum(0)
    return np.asarray((1 + extreme) / (1 + len(drawn)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def mcnemar_p(treated_only: int, control_only: int) -> float:
    """McNemar's exact two-sided p-value: a binomial test of one half among the discordant pairs; 1 where there are none."""
    return min(1.0, 2 * float(binom.cdf(min(treated_only, control_only), treated_only + control_only, 0.5)))


def t_interval(estimates: Floats, level: float = 0.95) -> Interval:
    """Intervals [K] of the mean of S draws' estimates [S, K]: Student's t with S − 1 degrees of freedom.

    Infinite where there is one draw.
    """
    draws = len(estimates)
    mean = estimates.mean(0)
    if draws < 2:
        return Interval(np.full_like(mean, -np.inf), np.full_like(mean, np.inf))
    half = student.isf((1 - level) / 2, draws - 1) * estimates.std(0, ddof=1) / np.sqrt(draws)
    return Interval(mean - half, mean + half)


def equivalence_p(estimate: Floats, standard_error: Floats, freedom: Floats | float, margin: float) -> Floats:
    """p-values of two one-sided t-tests (Schuirmann 1987): small where the effect lies within ±margin.

    Without any variation it is 0 inside the margin and 1 outside of it.
    """
    assert margin > 0, margin
    estimate, standard_error = np.asarray(estimate, float), np.asarray(standard_error, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (margin - np.abs(estimate)) / standard_error
        sure = np.where(np.abs(estimate) < margin, 0.0, 1.0)
        return np.asarray(np.where(standard_error == 0, sure, student.sf(t, freedom)))


def wilson(found: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927)."""
    ends = binomtest(found, n).proportion_ci(level, method="wilson")
    return float(ends.low), float(ends.high)


def clopper_pearson(found: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share (Clopper & Pearson 1934)."""
    ends = binomtest(found, n).proportion_ci(level, method="exact")
    return float(ends.low), float(ends.high)
