"""Closed forms of statistics: adjusted p-values, exact tests and intervals of counts, t-intervals, equivalence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, binomtest
from scipy.stats import t as student

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


def clopper_pearson(found: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share (Clopper & Pearson 1934)."""
    ends = binomtest(found, n).proportion_ci(level, method="exact")
    return float(ends.low), float(ends.high)
