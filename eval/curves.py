"""Curves through means by level: Hill's, fitted to thousands of samples at once, and the monotone one without a shape.

Hill's curve (Hill 1910; Goutelle et al. 2008, eq. 2) rises from a base b at dose 0 to b + A: b + A · dʰ / (dʰ + Dʰ). With
A given it is a logistic curve in log dose with a floor and a ceiling. D and h are searched, b and A follow from them by
linear least squares (variable projection, Golub & Pereyra 1973).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from .level_means import LevelMeans

SLOPES = (0.25, 8.0)  # h: below, a curve over 30 doublings; above, a step between two levels
BELOW, ABOVE = 3.0, 6.0  # doublings below the lowest and above the highest level within which D is searched
HALVES, STEEPS = 40, 14  # points of the first grid
ROUNDS, SHRINK = 12, 0.6  # of ever finer grids of 5 × 5 around the best point

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Hill:
    """S fits, each value [S]: log2 of the dose D at half height, slope h, height A, base b, weighted squares left over."""

    half: Floats
    slope: Floats
    height: Floats
    base: Floats
    rest: Floats

    def crossing(self, rise: Floats) -> Floats:
        """log2 of the dose at which the curve has risen by `rise` [S] above its base; ∞ where it never has."""
        share = np.divide(rise, self.height, out=np.full_like(rise, np.inf), where=self.height != 0)
        reached = (share > 0) & (share < 1)
        safe = np.where(reached, share, 0.5)
        return np.where(reached, self.half + np.log2(safe / (1 - safe)) / self.slope, np.inf)

    def at(self, levels: NDArray[np.int64]) -> Floats:
        """The curves at levels [K], the first of which may be 0: [S, K]."""
        return self.base[:, None] + self.height[:, None] * shape(levels, self.half[:, None], self.slope[:, None])

    def first(self) -> Hill:
        """The fit of what was observed."""
        return Hill(**{name: value[:1] for name, value in vars(self).items()})


def shape(levels: NDArray[np.int64], half: Floats, slope: Floats) -> Floats:
    """dʰ / (dʰ + Dʰ) for doses [K] and log2 D and h that broadcast against them; 0 at dose 0."""
    logs = np.log2(np.maximum(levels, 1))
    return np.where(levels > 0, 1 / (1 + np.exp2(np.clip(slope * (half - logs), -500, 500))), 0.0)


def fit_hill(means: LevelMeans, ceiling: Floats | None = None, *, fixed: bool = False) -> Hill:
    """Hill's curve through the means of each sample, records weighted alike. Its height lies between 0 and the `ceiling`
    [S], or is the ceiling (`fixed`); without one it is free.

    The first row, what was observed, is polished by `scipy.optimize.least_squares`.
    """
    least, most = bounds(means)
    halves, slopes = np.linspace(least, most, HALVES), np.geomspace(*SLOPES, STEEPS)
    half, slope = (grid.ravel() for grid in np.meshgrid(halves, slopes))
    curves = shape(means.levels, half[:, None], slope[:, None])  # [G, K]
    best = _solved(means, curves, ceiling, fixed)[2].argmin(1)
    half, log_slope = half[best], np.log(slope[best])
    wide, steep = halves[1] - halves[0], float(np.log(slopes[1] / slopes[0]))
    offsets = np.linspace(-1, 1, 5)
    across, along = (grid.ravel() for grid in np.meshgrid(offsets, offsets))
    everyone = np.arange(len(half))
    for turn in range(ROUNDS):
        scale = SHRINK**turn
        tried = np.clip(half[:, None] + across * wide * scale, least, most)
        slopes_tried = np.clip(log_slope[:, None] + along * steep * scale, *np.log(SLOPES))
        curves = shape(means.levels, tried[..., None], np.exp(slopes_tried)[..., None])  # [S, 25, K]
        best = _solved(means, curves, ceiling, fixed)[2].argmin(1)
        half, log_slope = tried[everyone, best], slopes_tried[everyone, best]
    half[0], log_slope[0] = _polished(means, half[0], log_slope[0], ceiling, fixed)
    slope = np.exp(log_slope)
    curves = shape(means.levels, half[:, None, None], slope[:, None, None])
    height, base, rest = _solved(means, curves, ceiling, fixed)
    return Hill(half=half, slope=slope, height=height[:, 0], base=base[:, 0], rest=rest[:, 0])


def bounds(means: LevelMeans) -> tuple[float, float]:
    """Where log2 of the dose at half height is searched."""
    doses = means.levels[means.levels > 0]
    return float(np.log2(doses[0])) - BELOW, float(np.log2(doses[-1])) + ABOVE


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Weighted sums about the means, [S, 1] of the data y and [S, G] of curves g: what least squares of y on g need."""

    mean_y: Floats
    mean_g: Floats
    yy: Floats
    gy: Floats
    gg: Floats

    @classmethod
    def of(cls, means: LevelMeans, curves: Floats) -> Moments:
        """Of curves [G, K], or [S, G, K] where each sample has its own."""
        w, y = means.counts, means.means
        over = "sk,gk->sg" if curves.ndim == 2 else "sk,sgk->sg"
        total = w.sum(1, keepdims=True)
        mean_y = (w * y).sum(1, keepdims=True) / total
        mean_g = np.einsum(over, w, curves, optimize=True) / total
        away = w * (y - mean_y)
        gg = np.einsum(over, w, curves**2, optimize=True) - total * mean_g**2
        gy = np.einsum(over, away, curves, optimize=True)
        return cls(mean_y=mean_y, mean_g=mean_g, yy=(away * (y - mean_y)).sum(1, keepdims=True), gy=gy, gg=gg)


def best_height(gy: Floats, gg: Floats, ceiling: Floats | None, fixed: bool) -> Floats:
    """The height of least squares; `ceiling` broadcasts against the moments."""
    if ceiling is not None and fixed:
        return np.broadcast_to(ceiling, gy.shape)
    free = np.divide(gy, gg, out=np.zeros_like(gy), where=gg > 1e-9)
    return free if ceiling is None else np.clip(free, np.minimum(ceiling, 0), np.maximum(ceiling, 0))


def _solved(means: LevelMeans, curves: Floats, ceiling: Floats | None, fixed: bool) -> tuple[Floats, Floats, Floats]:
    """(height, base, squares left over [S, G])."""
    m = Moments.of(means, curves)
    height = best_height(m.gy, m.gg, None if ceiling is None else ceiling[:, None], fixed)
    return height, m.mean_y - height * m.mean_g, m.yy - 2 * height * m.gy + height**2 * m.gg


def _polished(
    means: LevelMeans, half: float, log_slope: float, ceiling: Floats | None, fixed: bool
) -> tuple[float, float]:
    """The observed row's log2 D and log h at the exact minimum near the grid's best point."""
    one = LevelMeans(levels=means.levels, means=means.means[:1], counts=means.counts[:1])
    given = None if ceiling is None else ceiling[:1]
    root = np.sqrt(one.counts[0])

    def left(point: Floats) -> Floats:
        curve = shape(one.levels, np.asarray(point[0]), np.exp(point[1]))
        height, base, _ = _solved(one, curve[None], given, fixed)
        return np.asarray(root * (one.means[0] - base[0, 0] - height[0, 0] * curve))

    least, most = bounds(means)
    box = ([least - 1e-9, np.log(SLOPES[0]) - 1e-9], [most + 1e-9, np.log(SLOPES[1]) + 1e-9])
    start = np.array([half, log_slope])
    done = least_squares(left, start, bounds=box, xtol=1e-10, ftol=1e-12)
    better = done.cost <= 0.5 * float((left(start) ** 2).sum())
    return (float(done.x[0]), float(done.x[1])) if better else (half, log_slope)


def lack_of_fit(
    means: LevelMeans, fits: Hill, clusters: Sequence[int], ceiling: Floats | None = None, *, fixed: bool = False
) -> float | None:
    """The p-value of what the observed means have beyond the curve; None where the curve has as many parameters as means.

    The squares left over are compared with those of samples that scatter around the fitted curve as the resampled means
    scatter around the observed ones, so clusters and unequal variances are those of the data. A bootstrap of n clusters
    scatters by (n − 1) / n of the variance, which is put right for the `clusters` of each level [K]. The p-value is
    approximate: with few clusters their own spread is not known well, and it is below .05 somewhat too often.
    """
    if len(means.levels) <= (3 if fixed else 4):
        return None
    missing = np.sqrt([n / max(1, n - 1) for n in clusters])
    around = fits.first().at(means.levels) + missing * (means.means - means.means[:1])
    counts = means.counts
    drawn = LevelMeans(levels=means.levels, means=np.where(counts > 0, around, 0.0), counts=counts)
    observed = None if ceiling is None else np.broadcast_to(ceiling[:1], ceiling.shape)  # the curve that was fitted
    rest = fit_hill(drawn, observed, fixed=fixed).rest[1:]
    return float((1 + (rest >= fits.rest[0] * (1 - 1e-9) - 1e-15).sum()) / (1 + len(rest)))


def monotone(means: LevelMeans, sign: Floats) -> Floats:
    """The closest means [S, K] that never fall with the level (`sign` [S] 1) or never rise (−1), records weighted alike.

    The max-min formula of isotonic regression (Robertson, Wright & Dykstra 1988, theorem 1.4.4).
    """
    w, y = means.counts, means.means * sign[:, None]
    k = y.shape[1]
    weight = np.concatenate([np.zeros((len(y), 1)), np.cumsum(w, 1)], 1)
    total = np.concatenate([np.zeros((len(y), 1)), np.cumsum(w * y, 1)], 1)
    found = np.empty_like(y)
    for at in range(k):
        lows = [np.min([_mean(total, weight, i, j) for j in range(at, k)], axis=0) for i in range(at + 1)]
        found[:, at] = np.max(lows, axis=0)
    return found * sign[:, None]


def _mean(total: Floats, weight: Floats, i: int, j: int) -> Floats:
    return np.asarray((total[:, j + 1] - total[:, i]) / np.maximum(weight[:, j + 1] - weight[:, i], 1e-12))


def interpolated(levels: NDArray[np.int64], rises: Floats, wanted: Floats) -> Floats:
    """log2 of the dose at which monotone rises [S, K] of levels above 0 reach `wanted` [S], straight in log dose.

    −∞ where the lowest level is beyond it already, ∞ where the highest is not.
    """
    logs, sign = np.log2(levels), np.sign(wanted)[:, None]
    beyond = rises * sign >= wanted[:, None] * sign
    first = beyond.argmax(1)
    found = np.where(beyond.any(1), -np.inf, np.inf)
    inside = beyond.any(1) & (first > 0)
    rows, right = np.flatnonzero(inside), first[inside]
    low, high = rises[rows, right - 1], rises[rows, right]
    share = (wanted[rows] - low) / (high - low)
    found[rows] = logs[right - 1] + share * (logs[right] - logs[right - 1])
    return found
