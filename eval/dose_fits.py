"""Half-doses: how many copies take a record half-way, by the curve of direct effects over the levels.

Where a measure says what perfect recall is (a loss of 0 nats, a share of 1), half-way lies between the held-out records
of the treated runs and that: "copies at half-way from level 0 to perfect recall", a quantity that does not depend on
whether the levels reach the plateau. Elsewhere it is half of the curve's own plateau, which the levels must show.
The curve is Hill's; for 0/1 measures with its height given, which is a logistic curve in log dose from the held-out share
to 1. Where the data refuse the curve, means are interpolated monotonely instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.analysis import NLL
from ..core.design import Suite
from ..core.metrics import metric_of
from ..core.schemes import LEAST_DRAWS
from .contrasts import Contrast, common_steps, contrasts, differences, measures, run_label
from .curves import SLOPES, fit_hill, interpolated, lack_of_fit, monotone, shape
from .differences import Differences
from .level_means import (
    SAMPLES,
    LevelMeans,
    centred,
    clusters_by_level,
    complete_draws,
    detection_dose,
    is_complete,
    level_means,
    percentiles,
    sample_weights,
)
from .scores import TWINS, Measure, Scores
from .stats import LEAST_CLUSTERS, t_interval

PLATEAU = 0.9  # of the height, which the highest level must reach before the height is believed
REFUSED = 0.05  # the p-value of the lack of fit below which a curve is not used
LEAST_LEVELS = 3  # above 0, for a curve: it has a dose, a slope and mostly a height

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class DoseFit:
    """A fit. Doses are copies; what the data do not carry is None, with the reason in `censored` or `method`."""

    curve: str
    half_dose: float | None
    low: float | None
    high: float | None
    censored: str
    detection_dose: int | None
    largest: float | None
    slope: float | None
    fit_p: float | None
    method: str


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """log2 half-doses of samples [S] (±∞ beyond the levels), and what the observed curve is."""

    name: str
    halves: Floats
    height: float | None
    slope: float | None
    fit_p: float | None
    plateau: bool


def fit_dose(found: Differences, own: Differences | None, metric: str, perturbation: str) -> DoseFit:
    """The half-dose of differences `found` of one measure. `own` holds the treated runs' own values of the same records,
    by which a measure with perfect recall knows how far they are from it; None where the measure is of another kind.
    """
    found = complete_draws(found)
    own = own.where(np.isin(own.draw, found.draws)) if own is not None else None
    if not is_complete(found):
        return _nothing("no held-out records, or no level above 0")
    levels = np.unique(found.level)
    sizes = clusters_by_level(found)
    if sizes[0] < LEAST_CLUSTERS or sum(sizes.values()) - sizes[0] < LEAST_CLUSTERS:
        return _nothing(f"fewer than {LEAST_CLUSTERS} clusters held out or inserted: no fit")
    detected = detection_dose(found, metric, perturbation)
    if own is None and len(levels) - 1 < LEAST_LEVELS:
        return _nothing(f"{len(levels) - 1} levels above 0: no plateau can be told", detected)
    clusters, weights = sample_weights([found], (perturbation,))
    if own is not None and abs(distance(own, metric, clusters, weights[:1])[0]) < 1e-9:
        return _nothing("held-out records are at perfect recall already", detected)
    curve = _curve(found, own, metric, clusters, weights)
    if detected is None:
        return _nothing("no level's band leaves out 0: no curve", None, "no effect found", curve.fit_p)
    return _judged(curve, found, own, metric, detected)


def _nothing(reason: str, detected: int | None = None, censored: str = "", fit_p: float | None = None) -> DoseFit:
    return DoseFit(
        curve="none",
        half_dose=None,
        low=None,
        high=None,
        censored=censored or "not fitted",
        detection_dose=detected,
        largest=None,
        slope=None,
        fit_p=fit_p,
        method=reason,
    )


def distance(own: Differences, metric: str, clusters: NDArray[np.int64], weights: Floats) -> Floats:
    """How far the held-out records of the treated runs are from perfect recall under each sample's weights [S]."""
    held_out = own.where(own.level == 0)
    perfect = metric_of(metric).perfect
    assert perfect is not None, "only of measures with perfect recall"
    return perfect - level_means(held_out, clusters, weights).means[:, 0]


def _curve(
    found: Differences, own: Differences | None, metric: str, clusters: NDArray[np.int64], weights: Floats
) -> _Curve:
    means = level_means(centred(found), clusters, weights)
    perfect = distance(own, metric, clusters, weights) if own is not None else None
    fixed = metric_of(metric).binary and perfect is not None
    if len(means.levels) - 1 < LEAST_LEVELS:
        return _interpolation(means, perfect, None, "too few levels for a curve")
    fits = fit_hill(means, perfect, fixed=fixed)
    sizes = list(clusters_by_level(found).values())
    fit_p = lack_of_fit(means, fits, sizes, perfect, fixed=fixed) if len(weights) > 1 else None
    if fit_p is not None and fit_p < REFUSED:
        return _interpolation(means, perfect, fit_p, "the curve does not fit")
    if fits.slope[0] >= SLOPES[1] * 0.999:
        return _interpolation(means, perfect, fit_p, "a step between two levels")
    halves = fits.half if perfect is None else fits.crossing(perfect / 2)
    top = float(shape(means.levels[-1:], fits.half[:1], fits.slope[:1])[0])
    name = "logistic in log dose" if fixed else "Hill"
    return _Curve(
        name=name,
        halves=halves,
        height=float(fits.height[0]),
        slope=float(fits.slope[0]),
        fit_p=fit_p,
        plateau=top >= PLATEAU,
    )


def _interpolation(means: LevelMeans, perfect: Floats | None, fit_p: float | None, reason: str) -> _Curve:
    """Half-way between monotone means; without perfect recall to go by, half of the highest level's, if that is a plateau."""
    sign = np.where(means.means[:, -1] >= means.means[:, 0], 1.0, -1.0) if perfect is None else np.sign(perfect)
    smooth = monotone(means, sign)
    rises = smooth[:, 1:] - smooth[:, :1]
    wanted = rises[:, -1] / 2 if perfect is None else perfect / 2
    plateau = rises.shape[1] > 1 and abs(rises[0, -2]) >= PLATEAU * abs(rises[0, -1])
    halves = interpolated(means.levels[1:], rises, wanted)
    name = f"monotone interpolation: {reason}"
    height = float(rises[0, -1]) if plateau else None
    return _Curve(name=name, halves=halves, height=height, slope=None, fit_p=fit_p, plateau=plateau)


def _judged(curve: _Curve, found: Differences, own: Differences | None, metric: str, detected: int) -> DoseFit:
    """What of a curve the levels carry."""
    doses = np.unique(found.level[found.level > 0])
    least, most = int(doses[0]), int(doses[-1])
    half = float(curve.halves[0])
    goal = "half-way to perfect recall" if own is not None else "half-way to its plateau"
    censored = ""
    if own is None and not curve.plateau:
        censored = f"no plateau up to {most}"
    elif half > math.log2(most) + 1e-9:
        censored = f"above {most}"
    elif half < math.log2(least) - 1e-9:
        censored = f"below {least}"
    low, high, method = _interval(curve, found, own, metric)
    ends: list[float | None] = [None, None]
    if not censored.startswith(
        "no"
    ):  # an end beyond the levels is open; one that the whole interval lies beyond is theirs
        ends[0] = None if low < math.log2(least) else 2.0 ** min(low, math.log2(most))
        ends[1] = None if high > math.log2(most) else 2.0 ** max(high, math.log2(least))
    return DoseFit(
        curve=f"{curve.name}; {goal}",
        half_dose=None if censored else 2.0**half,
        low=ends[0],
        high=ends[1],
        censored=censored,
        detection_dose=detected,
        largest=curve.height if curve.plateau else None,
        slope=curve.slope,
        fit_p=curve.fit_p,
        method=f"{method}; an end beyond the levels is left open",
    )


def _interval(curve: _Curve, found: Differences, own: Differences | None, metric: str) -> tuple[float, float, str]:
    """Ends in log2 copies: over draws where there are enough and each has a half-dose, else given these runs."""
    given = percentiles(curve.halves[1:])
    text = f"percentile interval of {SAMPLES:,} cluster bootstraps on log dose, given these runs"
    if len(found.draws) < LEAST_DRAWS:
        return *given, text
    halves = []
    for draw in found.draws:
        one, other = found.where(found.draw == draw), own.where(own.draw == draw) if own is not None else None
        clusters, weights = sample_weights([one], (), 0)
        alone = _curve(one, other, metric, clusters, weights)
        halves.append(float(alone.halves[0]) if alone.plateau or own is not None else math.inf)
    if not np.isfinite(halves).all():
        return *given, f"{text}: not every draw has a half-dose"
    over = t_interval(np.array(halves)[:, None])
    return float(over.low[0]), float(over.high[0]), f"t-interval over the log half-doses of {len(halves)} draws"


def all_dose_fits(suite: Suite, scores: Scores) -> list[dict[str, Any]]:
    """A row for every pair, measure and step: of the last step that both runs have, and of the end of a phase before it."""
    rows = []
    for contrast in contrasts(suite, scores):
        for step in fitted_steps(suite, scores, contrast):
            for measure in fitted_measures(suite, scores, contrast, step):
                row = _fitted(scores, contrast, step, measure)
                rows += [row] if row else []
    return rows


def fitted_steps(suite: Suite, scores: Scores, contrast: Contrast) -> list[int]:
    """The steps of a pair at which half-doses are asked for; none for other contrasts."""
    steps = common_steps(scores, contrast) if contrast.estimand == "total" else []
    end = suite.arms[contrast.arm].phase_end(contrast.perturbation) if steps else 0
    return [step for step in steps if step in (end, steps[-1])]


def fitted_measures(suite: Suite, scores: Scores, contrast: Contrast, step: int) -> list[Measure]:
    """The primary measure, the loss, and shares of right answers and of extracted records; not those of twins."""
    analysis = suite.eval.analysis
    return [
        measure
        for measure in measures(scores, contrast, step)
        if analysis.is_primary(contrast.perturbation, measure)
        or measure == NLL
        or (metric_of(measure[2]).binary and TWINS not in measure[1])
    ]


def own_values(
    scores: Scores, contrast: Contrast, step: int, measure: Measure, found: Differences
) -> Differences | None:
    """The treated runs' own values of the records of `found`; None where nobody knows what perfect recall is."""
    if metric_of(measure[2]).perfect is None:
        return None
    own = differences(scores, replace(contrast, control=()), step, measure)
    assert own is not None, "what has differences has values"
    return own.where(np.isin(own.places, found.places))


def _fitted(scores: Scores, contrast: Contrast, step: int, measure: Measure) -> dict[str, Any] | None:
    found = differences(scores, contrast, step, measure)
    if found is None:
        return None
    runs = {"treated": run_label(contrast.treated), "control": run_label(contrast.control)}
    own = own_values(scores, contrast, step, measure, found)
    fit = fit_dose(found, own, measure[2], contrast.perturbation)
    return {
        **dict(zip(("probe", "variant", "metric"), measure, strict=True)),
        "perturbation": contrast.perturbation,
        "model": contrast.model,
        **runs,
        "step": step,
        "n": len(found),
        "n_clusters": len(np.unique(found.cluster)),
        "n_runs": len(complete_draws(found).draws),
        "ci_low": fit.low,
        "ci_high": fit.high,
        **{name: value for name, value in vars(fit).items() if name not in ("low", "high")},
    }
