"""Intervals by resampling whole clusters, for many measures at once.

Clusters (a document, a person) are the units of randomization, so they are the units of resampling too. Every function
takes K columns (measures, steps) of the same records, works through them in pieces of bounded memory, and is a function
of its data and its `key`: equal input, equal bits. Intervals are BCa (Efron 1987, section 3), with the critical value of
Student's t for the number of clusters and the spread that a bootstrap of few clusters lacks (Hesterberg 2015, section
3.2); those that hold together are by max-|t|. p-values are in `randomization.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from ..core.hashing import keyed_hash
from ..core.metrics import metric_of
from .clusters import Clustered, Floats, Ints, parts
from .stats import Interval

Key = tuple[int | str, ...]

MOST_RESAMPLES, LEAST_RESAMPLES, WORK = 10_000, 2_000, 20_000_000
CELLS = 2**21  # resampled cells held at once


def resamples(clusters: int) -> int:
    """How many samples or redraws: 10,000 up to 2,000 clusters, then fewer, 2,000 at the least."""
    return max(LEAST_RESAMPLES, min(MOST_RESAMPLES, WORK // max(1, clusters)))


def mean_interval(data: Clustered, key: Key, level: float = 0.95) -> Interval:
    """The interval of the mean over records: BCa over clusters.

    The bias is the normal quantile of the share of samples below the mean, ties counted half; the acceleration is that of
    the cluster jackknife. Where BCa is undefined (all samples on one side) the interval is the percentile one.

    Where all clusters have the same value a bootstrap sees no variation. Of values in [−1, 1] (a share, a difference of
    shares) the interval is then that value ± what C equal ones may hide, the end c² / (C + c²) of Wilson's interval of
    none in C; of other values it is NaN.
    """
    return _intervals([data], None, key, level, simultaneous=False)[0]


def difference_interval(treated: Clustered, held_out: Clustered, key: Key, level: float = 0.95) -> Interval:
    """The interval of mean − mean of two groups, as `mean_interval`.

    Groups without a common cluster are resampled apart. Where several draws put a cluster into both, the clusters of the
    union are resampled together, so that what they share is shared in every sample. Where one group is constant, what it
    may hide is added to the distances of the ends from the estimate as squares are (Zou & Donner 2008).
    """
    return _intervals([treated], held_out, key, level, simultaneous=False)[0]


def simultaneous_band(
    groups: Sequence[Clustered], held_out: Clustered | Sequence[Clustered] | None, key: Key, level: float = 0.95
) -> list[Interval]:
    """One interval a group that hold all at once, in each column: of its mean, or of its mean less the held-out one's
    (its own, where there is a sequence of them).

    The critical value is that of the largest |t| over the groups in joint samples, at least that of one interval; the
    intervals are BCa at that value, so a band has the shape of the single intervals. Those have samples of their own:
    `with_single` widens a band by what a few thousand samples leave to chance.
    """
    return _intervals(groups, held_out, key, level, simultaneous=True)


def with_single(band: Interval, single: Interval) -> Interval:
    """The band that contains the single interval too."""
    return Interval(np.minimum(band.low, single.low), np.maximum(band.high, single.high))


def told(interval: Interval, groups: Sequence[Clustered], metrics: Sequence[str]) -> Interval:
    """The interval [K], NaN for a metric [K] without bounds where a group does not vary: equal shares hide no more than
    their number allows, equal losses could hide anything."""
    still = np.array([not metric_of(metric).bounded for metric in metrics])
    alike = np.zeros(len(still), bool)
    for group in groups:
        values = group.sums / group.counts[:, None]
        alike |= np.ptp(values, axis=0) <= 1e-12 * np.abs(values).max(0)
    return Interval(*(np.where(still & alike, np.nan, end) for end in (interval.low, interval.high)))


def cluster_standard_error(group: Clustered, held_out: Clustered | None = None) -> tuple[Floats, Floats]:
    """Standard errors [K] of a mean, or of a difference of means, and their degrees of freedom [K].

    By the cluster jackknife (Cameron & Miller 2015, section III.C: CV3); the freedom of one group is its clusters less one
    (unequal ones count for fewer), of two that of Welch (1947). A constant group adds what it may hide, as in
    `mean_interval`. NaN for one cluster.
    """
    group, held_out = group.joint(), held_out.joint() if held_out is not None else None
    errors, freedom = [], []
    for part in parts(group.sums.shape[1], 3 * (group.size + (held_out.size if held_out is not None else 0))):
        some, other = group.columns(part), held_out.columns(part) if held_out is not None else None
        found = influence(some, other)
        normal = np.full(len(found.error), norm.isf(0.025))
        errors.append(np.hypot(found.error, np.sqrt(_hidden(some, other, normal)) / normal))
        freedom.append(found.freedom)
    return np.concatenate(errors), np.concatenate(freedom)


def _intervals(
    groups: Sequence[Clustered],
    held_out: Clustered | Sequence[Clustered] | None,
    key: Key,
    level: float,
    *,
    simultaneous: bool,
) -> list[Interval]:
    given = [held_out] * len(groups) if held_out is None or isinstance(held_out, Clustered) else held_out
    apart = list({id(each): each for each in given if each is not None}.values())
    base_of = [next((k for k, each in enumerate(apart) if each is own), None) for own in given]
    joint = [group.joint() for group in groups]
    bases = [each.joint() for each in apart]
    width = joint[0].sums.shape[1]
    every = [*joint, *bases]
    number = resamples(sum(group.size for group in every))
    found = []
    for part in parts(width, number * len(every) + 3 * sum(group.size for group in every)):
        some = [group.columns(part) for group in joint]
        others = [base.columns(part) for base in bases]
        found.append(_intervals_of_some(some, others, base_of, key, number, level, simultaneous=simultaneous))
    return [
        Interval(*(np.concatenate([getattr(piece[g], end) for piece in found]) for end in ("low", "high")))
        for g in range(len(groups))
    ]


def _intervals_of_some(
    groups: list[Clustered],
    bases: list[Clustered],
    base_of: list[int | None],
    key: Key,
    number: int,
    level: float,
    *,
    simultaneous: bool,
) -> list[Interval]:
    drawn = sampled_means([*groups, *bases], key, number)
    samples, drawn_bases = drawn[: len(groups)], drawn[len(groups) :]
    samples = [own if k is None else own - drawn_bases[k] for own, k in zip(samples, base_of, strict=True)]
    held_out = [None if k is None else bases[k] for k in base_of]
    estimates = [
        group.means - (base.means if base is not None else 0.0) for group, base in zip(groups, held_out, strict=True)
    ]
    normal = np.full(len(estimates[0]), norm.isf((1 - level) / 2))
    if simultaneous and len(groups) > 1:
        normal = np.maximum(normal, _joint_critical(samples, estimates, level))
    found = []
    for group, base, own, estimate in zip(groups, held_out, samples, estimates, strict=True):
        moments = influence(group, base)
        interval = bca(own, estimate, moments.acceleration, moments.widened(normal))
        hidden = _hidden(group, base, normal)
        found.append(
            Interval(
                np.where(hidden == 0, interval.low, estimate - np.sqrt((estimate - interval.low) ** 2 + hidden)),
                np.where(hidden == 0, interval.high, estimate + np.sqrt((interval.high - estimate) ** 2 + hidden)),
            )
        )
    return found


def _hidden(group: Clustered, held_out: Clustered | None, critical: Floats) -> Floats:
    """The squared distance [K] from its value at which the mean of a constant group may lie, summed over the groups:
    0 of groups that vary, NaN where values leave [−1, 1]."""
    every = [group, *([held_out] if held_out is not None else [])]
    hidden, bounded = np.zeros(len(critical)), np.ones(len(critical), bool)
    for own in every:
        values = own.sums / own.counts[:, None]
        low, high = values.min(0), values.max(0)
        furthest = np.maximum(np.abs(low), np.abs(high))
        hidden += np.where(high - low <= 1e-12 * furthest, (critical**2 / (own.size + critical**2)) ** 2, 0.0)
        bounded &= furthest <= 1 + 1e-12
    return np.where(bounded | (hidden == 0), hidden, np.nan)


def _joint_critical(samples: list[Floats], estimates: list[Floats], level: float) -> Floats:
    """The quantile [K] of the largest |t| over groups, t by the spread of the samples [K, B] of each."""
    largest = np.zeros(samples[0].shape)
    for own, estimate in zip(samples, estimates, strict=True):
        spread = own.std(axis=1)[:, None]
        distance = np.abs(own - estimate[:, None])
        np.maximum(largest, np.divide(distance, spread, out=np.zeros_like(distance), where=spread > 0), out=largest)
    return np.asarray(np.quantile(largest, level, axis=1))


def bca(samples: Floats, estimate: Floats, acceleration: Floats, critical: Floats) -> Interval:
    """BCa intervals of samples [K, B] (sorted in place) of estimates [K], at normal quantiles ±`critical` [K].

    Efron 1987, equations 3.8 and 3.9. Where that is undefined: the samples' quantiles at Φ(±critical).
    """
    tolerance = 1e-12 * np.maximum(np.abs(samples).max(axis=1), np.abs(estimate))[:, None]
    samples.sort(axis=1)
    below = (samples < estimate[:, None] - tolerance).mean(axis=1)
    tied = (samples <= estimate[:, None] + tolerance).mean(axis=1) - below
    with np.errstate(all="ignore"):
        bias = norm.ppf(below + tied / 2)
        ends = []
        for sign in (-1, 1):
            moved = bias + sign * critical
            rest = 1 - acceleration * moved
            corrected = np.where(rest > 0, bias + moved / rest, np.nan)
            ends.append(norm.cdf(corrected))
    defined = np.isfinite(ends[0]) & np.isfinite(ends[1])
    low, high = (
        _quantiles(samples, np.where(defined, end, norm.cdf(sign * critical)))
        for sign, end in zip((-1, 1), ends, strict=True)
    )
    return Interval(low, high)


def _quantiles(ordered: Floats, shares: Floats) -> Floats:
    """The quantile of each row [K, B] at its own share [K], between neighbours in proportion."""
    place = shares * (ordered.shape[1] - 1)
    left = np.minimum(place.astype(np.int64), ordered.shape[1] - 2)
    rows = np.arange(len(ordered))
    below, above = ordered[rows, left], ordered[rows, left + 1]
    return np.asarray(below + (above - below) * (place - left))


@dataclass(frozen=True)
class Influence:
    """What the cluster jackknife says of a statistic [K]: its acceleration, standard error, degrees of freedom, and the
    factor by which a bootstrap's variance is too small."""

    acceleration: Floats
    error: Floats
    freedom: Floats
    factor: Floats

    def widened(self, normal: Floats) -> Floats:
        """The critical values [K] for the normal ones: Student's t at the same tail, times the missing spread."""
        return np.asarray(np.sqrt(self.factor) * student.isf(norm.sf(normal), self.freedom))


def influence(group: Clustered, held_out: Clustered | None) -> Influence:
    """By delete-one-cluster values; two groups without a common cluster as two samples, else as one of their union.

    Of n_i records in its clusters a group counts as (Σn)² / Σn² clusters (Kish 1965), which is C where they are equal.
    """
    if held_out is None:
        blocks, counts = [_jackknife(group)], [group.counts]
    elif not np.isin(group.names, held_out.names).any():
        blocks, counts = [_jackknife(group), -_jackknife(held_out)], [group.counts, held_out.counts]
    else:
        names = np.union1d(group.names, held_out.names)
        one, other = _among(group, names), _among(held_out, names)
        blocks, counts = [_jackknife(one) - _jackknife(other)], [one.counts + other.counts]
    sizes = [max(1.5, own.sum() ** 2 / (own**2).sum()) for own in counts]
    squares = [(block**2).sum(0) for block in blocks]
    unbiased = [square * n / (n - 1) for square, n in zip(squares, sizes, strict=True)]
    biased, variance = np.sum(squares, axis=0), np.sum(unbiased, axis=0)
    below = np.sum([own**2 / (n - 1) for own, n in zip(unbiased, sizes, strict=True)], axis=0)
    with np.errstate(all="ignore"):
        cubes = np.sum([(block**3).sum(0) for block in blocks], axis=0)
        acceleration = np.where(biased > 0, cubes / (6 * biased**1.5), 0.0)
        factor = np.where(biased > 0, variance / biased, 1.0)
        freedom = np.where(biased > 0, variance**2 / below, min(sizes) - 1)
    return Influence(acceleration, np.sqrt(variance), freedom, factor)


def _jackknife(group: Clustered) -> Floats:
    """(C − 1) / C · (mean of the delete-one means − each of them) [C, K]: a cluster's pull on the mean."""
    left = group.counts.sum() - group.counts
    values = group.sums.sum(0) - group.sums
    with np.errstate(all="ignore"):
        values /= left[:, None]
    values -= values.mean(0)
    return np.asarray(-(group.size - 1) / group.size * values)


def _among(group: Clustered, names: Ints) -> Clustered:
    """The group as part of more clusters, of which the others have no records."""
    places = np.searchsorted(names, group.names)
    sums, counts = np.zeros((len(names), group.sums.shape[1])), np.zeros(len(names))
    sums[places], counts[places] = group.sums, group.counts
    return Clustered(sums, counts, np.zeros(len(names), np.int64), names)


def sampled_means(groups: list[Clustered], key: Key, number: int) -> list[Floats]:
    """Means [K, number] of each group over clusters drawn with replacement: the clusters of each group apart, or where
    groups share any, those of all together."""
    names = np.unique(np.concatenate([group.names for group in groups]))
    if len(names) == sum(group.size for group in groups):
        return [_means_of([group], group.names, (*key, g), number)[0] for g, group in enumerate(groups)]
    return _means_of(groups, names, (*key, "together"), number)


def _means_of(groups: list[Clustered], names: Ints, key: Key, number: int) -> list[Floats]:
    """Means [K, number] of groups over the named clusters drawn with replacement; a group's own where it has none."""
    places = [np.searchsorted(names, group.names) for group in groups]
    found = [np.empty((group.sums.shape[1], number)) for group in groups]
    start = 0
    for weights in _weights(len(names), key, number):
        stop = start + len(weights)
        for group, place, out in zip(groups, places, found, strict=True):
            own = weights[:, place] if len(groups) > 1 else weights
            counts = own @ group.counts
            means = (own @ group.sums) / np.maximum(counts, 0.5)[:, None]
            means[counts == 0] = group.means
            out[:, start:stop] = means.T
        start = stop
    return found


def _weights(clusters: int, key: Key, number: int) -> Iterator[Floats]:
    """How often each cluster is in each sample: rows [·, C] until there are `number`."""
    drawing = generator("bootstrap", *key)
    rows = max(1, CELLS // clusters)
    for start in range(0, number, rows):
        count = min(rows, number - start)
        drawn = drawing.integers(0, clusters, (count, clusters))
        drawn += np.arange(count)[:, None] * clusters
        yield np.bincount(drawn.ravel(), minlength=count * clusters).reshape(count, clusters).astype(np.float64)


def generator(*key: int | str) -> np.random.Generator:
    """Random numbers that are a function of the key."""
    return np.random.Generator(np.random.PCG64(keyed_hash("resampling", *key)))
