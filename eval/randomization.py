"""p-values by drawing again what chance decided, for many measures at once.

- Treated and control run of one record: which is which is a matter of names under the null, so the signs of differences
  are flipped, cluster by cluster (Fisher). With 0/±1 and one record a cluster that is McNemar's test, taken exactly.
- Levels: labels of whole clusters are exchanged among clusters of one draw, stratum and size. The assignment sorts the
  clusters of a stratum at random and fills levels with whole clusters, so clusters of equal size are exchangeable in it,
  and those of unequal size are not: the largest seldom fit what is left. Given which sizes a level got, the test is exact.
- Several levels at once: the largest |t| (max-T, Westfall & Young 1993), with strong control of the familywise error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from .clusters import Clustered, Floats, Ints, parts
from .resampling import CELLS, Key, generator, resamples
from .stats import holm, mcnemar_p

EXACT_CLUSTERS = 12  # up to so many, all sign patterns are taken
CLOSED_LEVELS = 6  # 63 sets of levels to test
CLOSED_DRAWS = 999  # redraws for each set of more than one level
SETTLED = 0.5  # adjusted p-values from here on are as good as any larger one
SLACK = 1e-9
SINGLE = 1e-5  # slack where sums are made in single precision


def sign_flip_p(data: Clustered, key: Key) -> Floats:
    """Two-sided p-values [K] of no effect: signs of whole clusters flipped, those of several draws together.

    Up to 12 clusters all patterns are taken, else random ones, and the p-value is (1 + as extreme) / (1 + drawn). Columns
    of −1, 0 and 1 with one record a cluster have McNemar's exact p-value.
    """
    data = data.joint()
    paired = is_paired(data)
    found = np.ones(data.sums.shape[1])
    for column in np.flatnonzero(paired):
        found[column] = mcnemar_p(int((data.sums[:, column] > 0).sum()), int((data.sums[:, column] < 0).sum()))
    for part in parts(data.sums.shape[1], data.size + CELLS // max(1, data.size)):
        left = np.arange(data.sums.shape[1])[part]
        left = left[~paired[left]]
        if len(left):
            sums = data.sums[:, left]
            extreme, drawn = np.zeros(len(left)), 0
            observed = np.abs(sums.sum(0)) - SLACK * np.abs(sums).sum(0)
            for signs in _signs(data.size, key):
                extreme += (np.abs(signs @ sums) >= observed).sum(0)
                drawn += len(signs)
            found[left] = extreme / drawn
    return found


def is_paired(data: Clustered) -> NDArray[np.bool_]:
    """Which columns [K] are 0/±1 of single records."""
    if not (data.counts == 1).all():
        return np.zeros(data.sums.shape[1], bool)
    return np.asarray(((data.sums == 0) | (np.abs(data.sums) == 1)).all(0))


def _signs(clusters: int, key: Key) -> Iterator[Floats]:
    """Signs [·, C]: every pattern once where there are few, else the observed one and random ones."""
    if clusters <= EXACT_CLUSTERS:
        patterns = np.arange(2**clusters)[:, None] >> np.arange(clusters) & 1
        yield np.asarray(1.0 - 2.0 * patterns, np.float64)
        return
    yield np.ones((1, clusters))
    drawing, number, rows = generator("signs", *key), resamples(clusters) - 1, max(1, CELLS // clusters)
    for start in range(0, number, rows):
        yield np.asarray(drawing.integers(0, 2, (min(rows, number - start), clusters), np.int8) * 2.0 - 1.0, np.float64)


def label_permutation_p(treated: Clustered, held_out: Clustered, key: Key) -> Floats:
    """Two-sided p-values [K] of no difference between two levels: labels exchanged within draw, stratum and size.

    The statistic is the difference of means, values taken less their cell's mean, over its own standard error, so that
    spreads that differ between levels do not pass for a difference of means (Janssen 1997; Chung & Romano 2013), and at
    least over that of a common spread, or few records that happen to be alike would be the most extreme of all. Where no
    two clusters could have been exchanged the p-value is 1.
    """
    return _closed_p([treated], held_out, key, resamples(treated.size + held_out.size) - 1)


def label_arrangements(treated: Clustered, held_out: Clustered) -> float:
    """log10 of how many arrangements of two levels `label_permutation_p` draws from: below 1.3 it cannot reach 0.05."""
    labels, cells = _labels([treated], held_out)
    total = np.bincount(cells)
    chosen = np.bincount(cells, labels == 1)
    ways = gammaln(total + 1) - gammaln(chosen + 1) - gammaln(total - chosen + 1)
    return float(ways.sum() / np.log(10))


def max_t_p(groups: Sequence[Clustered], held_out: Clustered | None, key: Key) -> list[Floats]:
    """p-values [K] of every group (level), adjusted for all of them: the familywise error is controlled strongly, that is
    also when some levels have effects and others none.

    Without `held_out`: signs flipped, each cluster's in all groups and draws together. The joint law of some groups'
    statistics does not depend on the others (subset pivotality), so Westfall & Young's step-down is exact.

    With it: closed testing (Marcus, Peritz & Gabriel 1976). For each set of levels the labels of these and level 0 alone are
    exchanged, which is exact whatever the other levels do; a level's p-value is the largest among the sets that contain it.
    Sets of which every level has 0.5 or more already are not tested, which changes no p-value below. Above six levels:
    Holm's adjustment of `label_permutation_p`.
    """
    if held_out is None:
        return _flipped_together(groups, key)
    number = resamples(sum(group.size for group in groups) + held_out.size) - 1
    single = [
        _closed_p([group], held_out, (*key, place), number if len(groups) == 1 else max(number // 2, CLOSED_DRAWS))
        for place, group in enumerate(groups)
    ]
    if len(groups) > CLOSED_LEVELS:
        adjusted = np.array([holm(column) for column in np.array(single).T.tolist()]).T
        return [np.asarray(row) for row in adjusted]
    found = np.array(single)
    for size in range(len(groups), 1, -1):
        for chosen in itertools.combinations(range(len(groups)), size):
            at = np.array(chosen)
            left = np.flatnonzero((found[at] < SETTLED).any(0))
            if len(left):
                some = [groups[place].columns(left) for place in chosen]
                p = _closed_p(some, held_out.columns(left), (*key, *chosen), CLOSED_DRAWS)
                found[at[:, None], left] = np.maximum(found[at[:, None], left], p)
    return list(found)


def _flipped_together(groups: Sequence[Clustered], key: Key) -> list[Floats]:
    joint = [group.joint() for group in groups]
    names = np.unique(np.concatenate([group.names for group in joint]))
    places = [np.searchsorted(names, group.names) for group in joint]
    width = joint[0].sums.shape[1]
    found = np.ones((len(groups), width))
    for part in parts(width, len(groups) * (len(names) + CELLS // len(names))):
        sums = [group.sums[:, part] for group in joint]
        scales = np.array([np.sqrt((own**2).sum(0)) for own in sums])
        scales[scales == 0] = np.inf
        observed = np.array([np.abs(own.sum(0)) for own in sums]) / scales
        order = np.argsort(-observed, axis=0, kind="stable")
        ordered = np.take_along_axis(observed, order, 0)
        extreme, drawn = np.zeros(observed.shape), 0
        for signs in _signs(len(names), key):
            flipped = np.array([np.abs(signs[:, at] @ own) for at, own in zip(places, sums, strict=True)])
            flipped /= scales[:, None, :]
            flipped = np.take_along_axis(flipped, order[:, None, :], 0)
            largest = np.maximum.accumulate(flipped[::-1], axis=0)[::-1]  # over a group and those below it
            extreme += (largest >= ordered[:, None, :] * (1 - SLACK)).sum(1)
            drawn += len(signs)
        adjusted = np.maximum.accumulate(extreme / drawn, axis=0)
        np.put_along_axis(found[:, part], order, adjusted, 0)
    return list(found)


def _labels(groups: Sequence[Clustered], held_out: Clustered) -> tuple[Ints, Ints]:
    """Of all clusters, held-out ones first: the group (0 held-out, then 1, …) and the cell of draw, stratum and size."""
    every = [held_out, *groups]
    labels = np.repeat(np.arange(len(every)), [group.size for group in every])
    strata = np.concatenate([group.strata for group in every])
    counts = np.concatenate([group.counts for group in every]).astype(np.int64)
    cells = np.unique(np.stack([strata, counts]), axis=1, return_inverse=True)[1].reshape(-1)
    return labels, cells


def _closed_p(groups: Sequence[Clustered], held_out: Clustered, key: Key, number: int) -> Floats:
    """p-values [K] of no difference between any of some levels and level 0: the largest |t| among redrawn labels."""
    labels, cells = _labels(groups, held_out)
    first = np.full(cells.max() + 1, -1)
    first[cells] = labels
    mixed = np.isin(cells, np.unique(cells[labels != first[cells]]))  # other clusters could not have been otherwise
    width = held_out.sums.shape[1]
    found = np.ones(width)
    if not mixed.any():
        return found
    records = np.array([float(group.counts.sum()) for group in (held_out, *groups)])
    members = np.bincount(labels[mixed], minlength=len(records)).astype(np.float64)
    order = np.argsort(cells[mixed], kind="stable")
    labels = labels[mixed][order]
    starts = np.flatnonzero(np.diff(cells[mixed][order], prepend=-1))
    for part in parts(width, 4 * len(labels) + 12 * min(number, CELLS // len(labels))):
        sums = np.concatenate([group.sums[:, part] for group in (held_out, *groups)])[mixed][order]
        both = _centred(sums, starts)
        observed = _largest_t(labels[None], both, records, members)[0]
        extreme = np.zeros(len(observed))
        for redrawn in _redrawn(labels, starts, key, number):
            extreme += (_largest_t(redrawn, both, records, members) >= observed * (1 - SINGLE)).sum(0)
        found[part] = (1 + extreme) / (1 + number)
    return found


def _centred(sums: Floats, starts: Ints) -> NDArray[np.float32]:
    """Cluster sums less their cell's mean, and their squares [n, 2K], in units of the largest: t has no unit."""
    sizes = np.diff(starts, append=len(sums))
    values = sums - np.repeat(np.add.reduceat(sums, starts, axis=0) / sizes[:, None], sizes, axis=0)
    scale = np.abs(values).max(0)
    rounding = 1e-12 * np.abs(sums).max(0)
    values /= np.where(scale > rounding, scale, np.inf)
    return np.concatenate([values, values**2], axis=1).astype(np.float32)


def _redrawn(labels: Ints, starts: Ints, key: Key, number: int) -> Iterator[NDArray[np.int8]]:
    """Labels [·, n] exchanged within cells, which lie together, until there are `number`."""
    drawing = generator("labels", *key)
    rows = max(1, CELLS // len(labels))
    stops = [*starts[1:].tolist(), len(labels)]
    for begin in range(0, number, rows):
        drawn = np.tile(labels.astype(np.int8), (min(rows, number - begin), 1))
        for start, stop in zip(starts.tolist(), stops, strict=True):
            drawn[:, start:stop] = drawing.permuted(drawn[:, start:stop], axis=1)
        yield drawn


def _largest_t(labels: NDArray[Any], both: NDArray[np.float32], records: Floats, members: Floats) -> Floats:
    """The largest |t| over groups [rows, K] of labels [rows, n]: differences of means in units of their standard errors."""
    width = both.shape[1] // 2
    rest = both.sum(0, dtype=np.float64)
    common = rest[width:] / members.sum()
    sums = []
    for group in range(1, len(records)):
        own = ((labels == group).astype(np.float32) @ both).astype(np.float64)
        sums.append(own)
        rest = rest - own
    mean, variance = _mean_and_variance(rest, width, records[0], members[0])
    largest = np.zeros(mean.shape)
    for group, own in enumerate(sums, 1):
        mine, spread = _mean_and_variance(own, width, records[group], members[group])
        pooled = common * (members[group] / records[group] ** 2 + members[0] / records[0] ** 2)
        distance, error = np.abs(mine - mean), np.sqrt(np.maximum(spread + variance, pooled))
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(distance > SINGLE * error, distance / error, 0.0)
        np.maximum(largest, t, out=largest)
    return largest


def _mean_and_variance(sums: Floats, width: int, records: float, members: float) -> tuple[Floats, Floats]:
    """Of a group's mean over records, from the sums of cluster values and of their squares [·, 2K]."""
    total, squares = sums[:, :width], sums[:, width:]
    spread = squares - total**2 / max(1.0, members)
    return total / records, np.where(spread > SINGLE * squares, spread, 0.0) / records**2
