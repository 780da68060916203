"""Values of records summed by cluster, for many measures at once: what is resampled and what labels are exchanged of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAW = 2**32  # names and strata of draw d are numbered from d · DRAW
NUMBERS = 2**25  # numbers held at once: 256 MB


@dataclass(frozen=True)
class Clustered:
    """Values of K columns summed by cluster, ascending by name: `sums` [C, K], `counts` [C] records.

    `names` and `strata` [C] are numbers; in draw d they are d · DRAW + number, as levels are drawn in each draw anew.
    """

    sums: Floats
    counts: Floats
    strata: Ints
    names: Ints

    @property
    def means(self) -> Floats:
        """The means over records [K]."""
        return np.asarray(self.sums.sum(0) / self.counts.sum())

    @property
    def size(self) -> int:
        """How many clusters, those of several draws counted in each."""
        return len(self.counts)

    def columns(self, part: slice | Ints) -> Clustered:
        """The same of some columns."""
        return Clustered(self.sums[:, part], self.counts, self.strata, self.names)

    def joint(self) -> Clustered:
        """The same with each cluster's draws put together: what is resampled, as one cluster behaves alike in all."""
        if not self.size or self.names[-1] < DRAW:
            return self
        names, first, places = np.unique(self.names % DRAW, return_index=True, return_inverse=True)
        counts = np.bincount(places, self.counts, len(names)).astype(np.float64)
        return Clustered(_sum_rows(self.sums, places, len(names)), counts, self.strata[first] % DRAW, names)


def cluster_values(values: Floats, clusters: Ints, strata: Ints, draws: Ints | None = None) -> Clustered:
    """Values [n, K] of records, each with the number of its cluster and of its stratum [n], summed by cluster.

    With `draws` [n], clusters and strata are those of a draw. Intervals and sign flips put the draws of a cluster
    together again; only what draws labels anew keeps them apart. Numbers are below 2³²; values are never NaN.
    """
    offset = np.zeros(len(values), np.int64) if draws is None else np.asarray(draws, np.int64) * DRAW
    names, first, places = np.unique(clusters + offset, return_index=True, return_inverse=True)
    counts = np.bincount(places, minlength=len(names)).astype(np.float64)
    return Clustered(_sum_rows(values, places, len(names)), counts, (strata + offset)[first], names)


def balanced(group: Clustered, held_out: Clustered) -> Clustered:
    """The held-out records weighted so that draws count in them as in `group`: mean − mean is then that of the draws'
    own differences, weighted by the records of `group`, and what runs of a draw drift by cancels.

    Both have records in every draw (`level_means.of_complete_draws`). `held_out` itself where draws count alike already.
    """
    own, other = group.names // DRAW, held_out.names // DRAW
    draws, place = np.unique(other, return_inverse=True)
    assert np.array_equal(draws, np.unique(own)), "every draw has records of both"
    mine, theirs = np.bincount(np.searchsorted(draws, own), group.counts), np.bincount(place, held_out.counts)
    weights = (mine / mine.sum()) / (theirs / theirs.sum())
    if np.allclose(weights, 1.0, rtol=0, atol=1e-9):
        return held_out
    weight = weights[place]
    return replace(held_out, sums=held_out.sums * weight[:, None], counts=held_out.counts * weight)


def _sum_rows(values: Floats, places: Ints, count: int) -> Floats:
    """Rows [n, K] summed by place, [count, K], each sum in the order of its rows."""
    if not count:
        return np.zeros((0, values.shape[1]))
    order = np.argsort(places, kind="stable")
    starts = np.searchsorted(places[order], np.arange(count))
    sums = np.empty((count, values.shape[1]))
    for part in parts(values.shape[1], len(values)):
        sums[:, part] = np.add.reduceat(values[:, part][order], starts, axis=0)
    return sums


def parts(width: int, cells: int) -> list[slice]:
    """The columns in pieces of at most NUMBERS / cells."""
    step = max(1, NUMBERS // max(1, cells))
    return [slice(start, min(width, start + step)) for start in range(0, width, step)]
