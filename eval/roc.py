"""Members against non-members by one score: area under the curve within strata, its interval and p-value, and the rate
of members that are found at few false alarms. For many scores of the same records at once.

Pairs are compared within a stratum of a draw only, so that differences between strata or models count for nothing.
Everything is by cluster: a cluster gets one level, so it is what is resampled and what labels are permuted by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import keyed_hash
from .stats import BOOTSTRAPS, LEAST_CLUSTERS, PERMUTATIONS, clopper_pearson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

AT_ONCE = 2**21  # weights that are held at once
LEAST_NONMEMBERS = {0.01: 100, 0.001: 10_000}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Rows [n], each a record in a draw: `strata` are those of a draw; `blocks` the clusters of a draw, which get a label
    together; `units` the clusters whatever the draw, which are resampled within `pools` [units]."""

    is_member: Bools
    draws: Ints
    strata: Ints
    blocks: Ints
    units: Ints
    pools: Ints

    @property
    def clusters(self) -> int:
        """Clusters of the smaller side."""
        return min(len(np.unique(self.units[side])) for side in (self.is_member, ~self.is_member))

    @property
    def is_enough(self) -> bool:
        return self.clusters >= LEAST_CLUSTERS


def make_trial(
    is_member: Sequence[bool], strata: Sequence[str], clusters: Sequence[str], draws: Sequence[int] | None = None
) -> Trial:
    """A trial of rows; a cluster lies in the stratum of its first row.

    In one draw a cluster is on one side, and the sides are resampled apart. In several it may be on either, so that
    whole clusters are resampled, each with all that it is in every draw.
    """
    members = np.array(is_member, bool)
    draw = np.zeros(len(members), np.int64) if draws is None else np.array(draws, np.int64)
    names = np.array(clusters, object)
    _, first, units = np.unique(names, return_index=True, return_inverse=True)
    _, own = np.unique(np.array(strata, object)[first], return_inverse=True)
    stratum = own[units]
    several = len(np.unique(draw)) > 1
    pools = own if several else own * 2 + members[first]
    return Trial(
        is_member=members,
        draws=draw,
        strata=_codes(draw, stratum),
        blocks=_codes(draw, units),
        units=units.astype(np.int64),
        pools=pools.astype(np.int64),
    )


def _codes(one: Ints, other: Ints) -> Ints:
    """A number for each different pair."""
    _, found = np.unique(one * (int(other.max(initial=0)) + 1) + other, return_inverse=True)
    return np.asarray(found, np.int64)


def midranks(values: Floats) -> Floats:
    """Ranks from 1 on along the last axis of [K, n]; equal values share their mean rank."""
    found = np.empty(values.shape)
    for row, own in enumerate(values):
        ordered = np.sort(own)
        found[row] = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right") + 1
    return found / 2


def auc(values: Floats, trial: Trial) -> Floats:
    """The chance that a member scores above a non-member of its stratum, ties by half: [K] for scores [K, n]."""
    above, pairs = np.zeros(len(values)), 0
    for stratum in np.unique(trial.strata):
        rows = trial.strata == stratum
        members = trial.is_member[rows]
        m, n = int(members.sum()), int((~members).sum())
        if m and n:
            above += midranks(values[:, rows])[:, members].sum(1) - m * (m + 1) / 2
            pairs += m * n
    return above / pairs if pairs else np.full(len(values), np.nan)


def permutation_p(values: Floats, trial: Trial, key: tuple[int | str, ...]) -> Floats:
    """One-sided p-values [K] of an area of one half or less: labels of whole clusters permuted within strata."""
    observed = auc(values, trial)
    extreme, drawn = np.zeros(len(values)), 0
    for above, pairs in _permuted(values, trial, key):
        extreme += (above >= (observed * pairs[:, None]) - 1e-9).sum(0)
        drawn += len(pairs)
    return np.asarray((1 + extreme) / (1 + drawn))


def permuted_range(values: Floats, trial: Trial, key: tuple[int | str, ...]) -> tuple[Floats, Floats]:
    """The ends [K] between which 95 % of the areas lie when labels of whole clusters are permuted within strata."""
    with np.errstate(invalid="ignore"):
        areas = np.concatenate([above / pairs[:, None] for above, pairs in _permuted(values, trial, key)])
    ends = np.nanquantile(areas, [0.025, 0.975], axis=0)
    return ends[0], ends[1]


def _permuted(values: Floats, trial: Trial, key: tuple[int | str, ...]) -> Iterator[tuple[Floats, Floats]]:
    """Pairs in the right order [P, K], and of how many [P], under permuted labels, a part of them at a time."""
    parts = []
    for stratum in np.unique(trial.strata):
        rows = np.flatnonzero(trial.strata == stratum)
        blocks, first, places = np.unique(trial.blocks[rows], return_index=True, return_inverse=True)
        inside = np.zeros((len(rows), len(blocks)))
        inside[np.arange(len(rows)), places] = 1.0
        parts.append((trial.is_member[rows][first], inside.sum(0), midranks(values[:, rows]) @ inside))
    for labels in permuted_labels([part[0] for part in parts], key):
        above, pairs = np.zeros((len(labels[0]), len(values))), np.zeros(len(labels[0]))
        for chosen, (_, sizes, ranks) in zip(labels, parts, strict=True):
            m = chosen @ sizes
            above += chosen @ ranks.T - (m * (m + 1) / 2)[:, None]
            pairs += m * (sizes.sum() - m)
        yield above, pairs


def permuted_labels(
    labels: Sequence[Bools], key: tuple[int | str, ...], total: int = PERMUTATIONS
) -> Iterator[list[Floats]]:
    """Labels of each stratum [P, blocks] in random order, a part of all permutations at a time."""
    generator = np.random.Generator(np.random.PCG64(keyed_hash("labels", *key)))
    step = max(1, AT_ONCE // max(1, sum(map(len, labels))))
    for begin in range(0, total, step):
        number = min(step, total - begin)
        yield [generator.permuted(np.tile(own.astype(np.float64), (number, 1)), axis=1) for own in labels]


def bootstrap_interval(values: Floats, trial: Trial, key: tuple[int | str, ...]) -> tuple[Floats, Floats]:
    """95 % percentile intervals [K] of the area over resampled clusters, expanded for how few clusters there are."""
    strata = [np.flatnonzero(trial.strata == stratum) for stratum in np.unique(trial.strata)]
    sides = [(rows[trial.is_member[rows]], rows[~trial.is_member[rows]]) for rows in strata]
    sides = [(members, others) for members, others in sides if len(members) and len(others)]
    if not sides:
        return np.full(len(values), np.nan), np.full(len(values), np.nan)
    samples = []
    for weights in _resampled(trial, key):
        above, pairs = np.zeros((len(weights), len(values))), np.zeros(len(weights))
        for members, others in sides:
            own, against = weights[:, members], weights[:, others]
            pairs += own.sum(1) * against.sum(1)
            for number, scores in enumerate(values):
                order = np.argsort(scores[others], kind="stable")
                ordered = scores[others][order]
                passed = np.zeros((len(weights), len(others) + 1))
                np.cumsum(against[:, order], axis=1, out=passed[:, 1:])
                low, high = (np.searchsorted(ordered, scores[members], side=side) for side in ("left", "right"))
                above[:, number] += (own * (passed[:, low] + passed[:, high])).sum(1) / 2
        with np.errstate(invalid="ignore"):
            samples.append(above / pairs[:, None])
    drawn = np.concatenate(samples)
    tail = expanded_tail(trial.clusters)
    ends = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
    return ends[0], ends[1]


def expanded_tail(clusters: int) -> float:
    """The share of resamples outside of either end: less than 2.5 %, for resamples of n clusters vary as n − 1 would, and
    their variance is itself estimated (Hesterberg 2015, section 5.3: the percentile interval made as wide as Student's)."""
    from scipy.special import ndtr, stdtrit

    if clusters < 2:
        return 0.0
    return float(ndtr(stdtrit(clusters - 1, 0.025) * np.sqrt(clusters / (clusters - 1))))


def _resampled(trial: Trial, key: tuple[int | str, ...]) -> Iterator[Floats]:
    """How often each row is drawn [B, n]: clusters with replacement, each pool by itself."""
    generator = np.random.Generator(np.random.PCG64(keyed_hash("bootstrap", *key)))
    pools = [np.flatnonzero(trial.pools == pool) for pool in np.unique(trial.pools)]
    step = max(1, AT_ONCE // max(1, len(trial.units)))
    for begin in range(0, BOOTSTRAPS, step):
        number = min(step, BOOTSTRAPS - begin)
        weights = np.zeros((number, len(trial.pools)))
        for pool in pools:
            drawn = generator.integers(0, len(pool), (number, len(pool)))
            flat = (drawn + np.arange(number)[:, None] * len(pool)).ravel()
            weights[:, pool] = np.bincount(flat, minlength=number * len(pool)).reshape(number, len(pool))
        yield weights[:, trial.units]


@dataclass(frozen=True)
class Rate:
    """Members found, with a Clopper-Pearson interval where records are independent, and false alarms that this took."""

    tpr: float
    low: float | None
    high: float | None
    fpr: float


def rate_at(scores: Floats, trial: Trial, alpha: float) -> Rate | None:
    """Members at or above the ⌊αN⌋-th largest non-member of their draw, above it where ties would pass too many.

    None where a draw has fewer non-members than it takes to know such a threshold.
    """
    found = alarms = 0
    for draw in np.unique(trial.draws):
        rows = trial.draws == draw
        members, others = scores[rows & trial.is_member], scores[rows & ~trial.is_member]
        if len(others) < LEAST_NONMEMBERS[alpha]:
            return None
        allowed = int(alpha * len(others) + 1e-9)
        threshold = np.sort(others)[-allowed]
        if (others >= threshold).sum() > allowed:
            threshold = np.nextafter(threshold, np.inf)
        found += int((members >= threshold).sum())
        alarms += int((others >= threshold).sum())
    n, held_out = int(trial.is_member.sum()), int((~trial.is_member).sum())
    low, high = clopper_pearson(found, n)
    alone = len(np.unique(trial.units[trial.is_member])) == n
    return Rate(found / n, low if alone else None, high if alone else None, alarms / held_out)


def roc_points(scores: Floats, is_member: Bools) -> tuple[Floats, Floats]:
    """False and true positive rates over all thresholds, from the highest on."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    true = np.cumsum(is_member[order])[ends] / max(1, is_member.sum())
    false = np.cumsum(~is_member[order])[ends] / max(1, (~is_member).sum())
    return np.asarray(false, np.float64), np.asarray(true, np.float64)
