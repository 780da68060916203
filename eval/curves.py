"""Curves through means by level: Hill's, fitted to thousands of samples at once, and the monotone one without a shape.

Hill's curve (Hill 1910; Goutelle et al. 2008, eq. 2) rises from a base b at dose 0 to b + A: b + A · dʰ / (dʰ + Dʰ). With
A given it is a logistic curve in log dose with a floor and a ceiling. D and h are searched, b and A follow from them by
linear least squares (variable projection, Golub & Pereyra 1973).
"""

from __future__ import annotations

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


def fit_hill(means: LevelMeans, height: Floats | None = None) -> Hill:
    """Hill's curve through the means of each sample, records weighted alike; with `height` [S], that height is given.

    The first row, what was observed, is polished by `scipy.optimize.least_squares`.
    """
    least, most = _bounds(means)
    halves, slopes = np.linspace(least, most, HALVES), np.geomspace(*SLOPES, STEEPS)
    half, slope = (grid.ravel() for grid in np.meshgrid(halves, slopes))
    curves = shape(means.levels, half[:, None], slope[:, None])  # [G, K]
    best = _rest(means, curves, height).argmin(1)
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
        best = _rest(means, curves, height).argmin(1)
        half, log_slope = tried[everyone, best], slopes_tried[everyone, best]
    half[0], log_slope[0] = _polished(means, half[0], log_slope[0], height)
    slope = np.exp(log_slope)
    curves = shape(means.levels, half[:, None, None], slope[:, None, None])
    _, found, base, rest = _solved(means, curves, height)
    return Hill(half=half, slope=slope, height=found[:, 0], base=base[:, 0], rest=rest[:, 0])


def _bounds(means: LevelMeans) -> tuple[float, float]:
    doses = means.levels[means.levels > 0]
    return float(np.log2(doses[0])) - BELOW, float(np.log2(doses[-1])) + ABOVE


def _rest(means: LevelMeans, curves: Floats, height: Floats | None) -> Floats:
    return _solved(means, curves, height)[3]


def _solved(means: LevelMeans, curves: Floats, height: Floats | None) -> tuple[Floats, Floats, Floats, Floats]:
    """(weight [S, 1], height, base, squares left over [S, G]) of curves [G, K], or [S, G, K] where each sample has its own."""
    w, y = means.counts, means.means
    over = "sk,gk->sg" if curves.ndim == 2 else "sk,sgk->sg"
    total = w.sum(1, keepdims=True)
    mean_y = (w * y).sum(1, keepdims=True) / total
    away = w * (y - mean_y)
    mean_g = np.einsum(over, w, curves, optimize=True) / total
    spread = np.einsum(over, w, curves**2, optimize=True) - total * mean_g**2
    along = np.einsum(over, away, curves, optimize=True)
    squares = (away * (y - mean_y)).sum(1, keepdims=True)
    if height is None:
        found = np.divide(along, spread, out=np.zeros_like(along), where=spread > 1e-9 * total)
    else:
        found = np.broadcast_to(height[:, None], along.shape)
    return total, found, mean_y - found * mean_g, squares - 2 * found * along + found**2 * spread


def _polished(means: LevelMeans, half: float, log_slope: float, height: Floats | None) -> tuple[float, float]:
    """The observed row's log2 D and log h at the exact minimum near the grid's best point."""
    one = LevelMeans(levels=means.levels, means=means.means[:1], counts=means.counts[:1])
    given = None if height is None else height[:1]
    root = np.sqrt(one.counts[0])

    def left(point: Floats) -> Floats:
        curve = shape(one.levels, np.asarray(point[0]), np.exp(point[1]))
        _, found, base, _ = _solved(one, curve[None], given)
        return np.asarray(root * (one.means[0] - base[0, 0] - found[0, 0] * curve))

    least, most = _bounds(means)
    bounds = ([least - 1e-9, np.log(SLOPES[0]) - 1e-9], [most + 1e-9, np.log(SLOPES[1]) + 1e-9])
    start = np.array([half, log_slope])
    done = least_squares(left, start, bounds=bounds, xtol=1e-10, ftol=1e-12)
    better = done.cost <= 0.5 * float((left(start) ** 2).sum())
    return (float(done.x[0]), float(done.x[1])) if better else (half, log_slope)


def lack_of_fit(means: LevelMeans, fits: Hill, height: Floats | None = None) -> float | None:
    """The p-value of what the observed means have beyond the curve; None where the curve has as many parameters as means.

    The squares left over are compared with those of samples that scatter around the fitted curve as the resampled means
    scatter around the observed ones, so clusters and unequal variances are those of the data.
    """
    parameters = 4 if height is None else 3
    if len(means.levels) <= parameters:
        return None
    around = fits.first().at(means.levels) + means.means - means.means[:1]
    counts = means.counts
    drawn = LevelMeans(levels=means.levels, means=np.where(counts > 0, around, 0.0), counts=counts)
    rest = fit_hill(drawn, height).rest[1:]
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
        lows = [
            np.min([_mean(total, weight, i, j) for j in range(at, k)], axis=0) for i in range(at + 1)
        ]
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
