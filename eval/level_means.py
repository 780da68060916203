"""Means by level of treated − control, resampled by cluster: the first row of everything is what was observed.

Doses, forgetting and their half-values are functions of such means, computed again for every sample of clusters
(pairs cluster bootstrap, Cameron & Miller 2015, section VI; percentile intervals, Efron & Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .clusters import Clustered, balanced, cluster_values
from .differences import Differences
from .resampling import Key, difference_interval, generator, simultaneous_band, told, with_single
from .stats import LEAST_CLUSTERS

SAMPLES = 1000
ENDS = (0.025, 0.975)

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LevelMeans:
    """Means [S, K] of K levels, ascending, and the records [S, K] behind each; row 0 is observed, the others resampled.

    A sample may leave a level without records: its mean is 0 then, and its number tells.
    """

    levels: Rows
    means: Floats
    counts: Floats

    @property
    def direct(self) -> Floats:
        """Each level above 0 less level 0, [S, K − 1]."""
        assert self.levels[0] == 0
        return np.asarray(self.means[:, 1:] - self.means[:, :1])


def of_complete_draws(draw: Rows, one: Mask, other: Mask) -> Mask:
    """Which rows [n] are of draws that have records of both: elsewhere what a draw's runs drift by would stand alone."""
    return np.asarray(np.isin(draw, np.intersect1d(draw[one], draw[other])))


def complete_draws(found: Differences) -> Differences:
    """Without draws that lack held-out records or others."""
    return found.where(of_complete_draws(found.draw, found.level > 0, found.level == 0))


def centred(found: Differences) -> Differences:
    """Without what a draw's runs differ by in their held-out records, so that complete draws can stand in one mean."""
    value = found.value.copy()
    for draw in found.draws:
        own = found.draw == draw
        value[own] -= found.value[own & (found.level == 0)].mean()
    return Differences(**vars(found) | {"value": value})


def sample_weights(sides: Sequence[Differences], key: Key, samples: int = SAMPLES) -> tuple[Rows, Floats]:
    """The clusters [C] of all sides, and how often each is in a sample [1 + samples, C]; once in the first.

    Clusters are drawn together for all sides. Where each has one level throughout, they are drawn within that level, so
    that levels keep their size; where several draws put them into several, from all.
    """
    clusters = np.unique(np.concatenate([side.cluster for side in sides]))
    lowest, highest = np.full(len(clusters), np.iinfo(np.int64).max), np.full(len(clusters), -1)
    for side in sides:
        places = np.searchsorted(clusters, side.cluster)
        np.minimum.at(lowest, places, side.level)
        np.maximum.at(highest, places, side.level)
    groups = lowest if (lowest == highest).all() else np.zeros(len(clusters), np.int64)
    drawing = generator("level means", *key)
    weights = np.ones((1 + samples, len(clusters)))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        chances = np.full(len(members), 1 / len(members))
        weights[1:, members] = drawing.multinomial(len(members), chances, samples)
    return clusters, weights


def level_means(found: Differences, clusters: Rows, weights: Floats) -> LevelMeans:
    """Means of every level under the weights [S, C] of the clusters [C], among which are all of `found`."""
    levels, columns = np.unique(found.level, return_inverse=True)
    rows = np.searchsorted(clusters, found.cluster)
    sums, counts = np.zeros((2, len(clusters), len(levels)))
    np.add.at(sums, (rows, columns), found.value)
    np.add.at(counts, (rows, columns), 1.0)
    drawn = weights @ counts
    return LevelMeans(levels=levels, means=(weights @ sums) / np.maximum(drawn, 1e-12), counts=drawn)


def is_complete(found: Differences) -> bool:
    """Whether there are held-out records and others."""
    return bool((found.level == 0).any() and (found.level > 0).any())


def clusters_by_level(found: Differences) -> dict[int, int]:
    """How many clusters every level has."""
    return {int(level): len(np.unique(found.cluster[found.level == level])) for level in np.unique(found.level)}


def detection_dose(found: Differences, metric: str, perturbation: str) -> int | None:
    """The lowest level whose simultaneous 95 % band around its direct effect leaves out 0: the bands of `effects`."""
    several = len(found.draws) > 1
    sides: dict[int, tuple[Clustered, Clustered]] = {}
    bases: dict[bytes, Clustered] = {}
    for level in np.unique(found.level[found.level > 0]).tolist():
        there = of_complete_draws(found.draw, found.level == level, found.level == 0)
        groups = []
        for side in (level, 0):
            own = found.where(there & (found.level == side))
            groups.append(cluster_values(own.value[:, None], own.cluster, own.stratum, own.draw if several else None))
        own_side, held_out = groups
        if min(own_side.joint().size, held_out.joint().size) >= LEAST_CLUSTERS:
            held_out = bases.setdefault(there.tobytes(), held_out)  # one base of levels that have the same draws
            sides[level] = own_side, balanced(own_side, held_out)
    if not sides:
        return None
    treated, held = zip(*sides.values(), strict=True)
    bands = simultaneous_band(treated, held, (perturbation, "band"))
    for level, band in zip(sides, bands, strict=True):
        single = told(difference_interval(*sides[level], (perturbation, level, "")), sides[level], [metric])
        wide = with_single(band, single)
        if wide.low[0] > 0 or wide.high[0] < 0:
            return level
    return None


def percentiles(samples: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of samples [S], which may hold ±∞: ends are values that occur, never means of two."""
    low, high = np.quantile(samples, ENDS, method="inverted_cdf")
    return float(low), float(high)
