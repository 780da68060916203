"""How far a curve of direct effects lies to the right of another: the effect of tokens, of size, of a schedule on half-doses.

Two conditions, arms or models, insert one perturbation alike, each against its own control. Their curves, as shares of the
way to perfect recall, are fitted together with one height and one slope and a half-dose each; what is told is log2 of
the ratio of the half-doses. It is carried by the levels even where neither curve reaches half-way. Measures without
perfect recall have curves of their own height, so there the two half-doses must both be told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ..core.design import ArmDesign, Suite, TrainDesign
from ..core.metrics import metric_of
from ..core.schemes import LEAST_DRAWS
from ..manifests.tables import EFFECTS
from .contrasts import Contrast, common_steps, contrasts, differences, run_label
from .curves import SHRINK, SLOPES, Moments, best_height, bounds, fit_hill, shape
from .differences import Differences
from .dose_fits import LEAST_LEVELS, distance, fit_dose, fitted_measures, own_values
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
from .resampling import Key
from .scores import Measure, Scores
from .stats import LEAST_CLUSTERS, t_interval

HALVES, STEEPS, ROUNDS = 24, 7, 16

Floats = NDArray[np.float64]
Side = tuple[Differences, Differences | None]  # treated − control, and the treated runs' own values


def shifts(suite: Suite, scores: Scores) -> list[dict[str, Any]]:
    """Rows of `effects` for every two conditions that can be compared, each at the last step of its own runs."""
    rows = []
    for treated, control in condition_pairs(suite, contrasts(suite, scores)):
        steps = [common_steps(scores, each) for each in (treated, control)]
        if all(steps):
            last = (steps[0][-1], steps[1][-1])
            for measure in fitted_measures(suite, scores, treated, last[0]):
                row = _shift_row(scores, (treated, control), last, measure)
                rows += [row] if row else []
    return rows


def condition_pairs(suite: Suite, every: Sequence[Contrast]) -> Iterator[tuple[Contrast, Contrast]]:
    """Pairs that differ in the training budget, or in schedule, rate or optimizer, or in the model and the rate that suits
    it, and in nothing else. First stands what has the larger budget; else the later arm; else the larger model."""
    pairs = [each for each in every if each.estimand == "total" and each.treated]
    order = list(suite.arms)
    for i, a in enumerate(pairs):
        for b in pairs[i + 1 :]:
            one, other = suite.arms[a.arm], suite.arms[b.arm]
            if a.perturbation != b.perturbation or not _inserts_alike(one, other, a.perturbation):
                continue
            if not _differs_in_one(one.train, other.train, a.model != b.model):
                continue
            sizes = [suite.preset(each.model).shape(1).parameters for each in (a, b)]
            ranks = [
                (arm.train.slots, order.index(arm.name), size) for arm, size in zip((one, other), sizes, strict=True)
            ]
            yield (a, b) if ranks[0] > ranks[1] else (b, a)


def _inserts_alike(a: ArmDesign, b: ArmDesign, perturbation: str) -> bool:
    """Whether both insert the same, this perturbation in the same way, and begin without weights of others or from the same."""
    placed = [(arm.inserted, arm.factors[perturbation], arm.turn, arm.init) for arm in (a, b)]
    return placed[0] == placed[1] and a.parent is None and b.parent is None


def _differs_in_one(a: TrainDesign, b: TrainDesign, other_model: bool) -> bool:
    """Whether two conditions differ in one of budget, way of training and model; a model may have its own rate."""
    budget = ("steps", "batch", "warmup", "decay")
    rates = ("lr", "lr_end")
    way = ("optimizer", "schedule", "weight_decay", *(() if other_model else rates))
    differing = [other_model, *(any(getattr(a, key) != getattr(b, key) for key in keys) for keys in (budget, way))]
    return sum(differing) == 1


def _shift_row(
    scores: Scores, pair: tuple[Contrast, Contrast], steps: tuple[int, int], measure: Measure
) -> dict[str, Any] | None:
    draws = sorted(set(pair[0].draws) & set(pair[1].draws))
    sides: list[Side] = []
    for contrast, step in zip(pair, steps, strict=True):
        found = differences(scores, contrast, step, measure)
        complete = complete_draws(found).draws.tolist() if found is not None else []
        draws = [draw for draw in draws if draw in complete] or draws
    for contrast, step in zip(pair, steps, strict=True):
        found = differences(scores, contrast, step, measure)
        if found is None or not draws:
            return None
        found = found.where(np.isin(found.draw, draws))
        sides.append((found, own_values(scores, contrast, step, measure, found)))
    names = [run_label(each.treated) for each in pair]
    numbers = fit_shift(sides[0], sides[1], measure[2], pair[0].perturbation)
    probe, variant, metric = measure
    return dict.fromkeys(EFFECTS.names) | {
        "estimand": "shift",
        "probe": probe,
        "variant": variant,
        "metric": metric,
        "perturbation": pair[0].perturbation,
        "model": pair[0].model,
        "treated": names[0],
        "control": names[1],
        "factor": "",
        "step": steps[0],
        "n": len(sides[0][0]),
        "n_clusters": len(np.unique(sides[0][0].cluster)),
        "n_runs": len(draws),
        "family": "",
        **numbers,
    }


def fit_shift(treated: Side, control: Side, metric: str, perturbation: str) -> dict[str, Any]:
    """log2 of the ratio of half-doses, treated / control: estimate, intervals and p-value, and the method in words.

    Clusters are resampled together for both sides. p is twice the smaller share of samples on one side of 0. Where all are
    on one, that can be no smaller than 2 / 1,001, which no hypothesis among 25 survives, and more samples are dear: p is
    then that of Student's t for the samples' standard error on the log scale, with the clusters of the smallest group less
    one as freedom, and at most 2 / 1,001.
    """
    smallest = math.inf
    for found, own in (treated, control):
        if not all(is_complete(found.where(found.draw == draw)) for draw in found.draws):
            return {"method": "no held-out records, or no level above 0: no shift"}
        sizes = clusters_by_level(found)
        smallest = min(smallest, sizes[0], sum(sizes.values()) - sizes[0])
        if smallest < LEAST_CLUSTERS:
            return {"method": f"fewer than {LEAST_CLUSTERS} clusters held out or inserted: no shift"}
        if detection_dose(found, metric, perturbation) is None:
            return {"method": "one of the curves is flat within noise: no shift"}
        if own is None and (censored := fit_dose(found, own, metric, perturbation).censored):
            return {"method": f"one of the half-doses is not told ({censored}): no shift"}
    drawn = _shift(treated, control, metric, (perturbation, "shift"), SAMPLES)
    low, high = percentiles(drawn[1:])
    numbers = {"estimate": float(drawn[0]), "ci_low": low, "ci_high": high, "given_low": low, "given_high": high}
    how = "curves of one height and slope" if treated[1] is not None else "curves of their own"
    text = (
        f"log2 of the ratio of half-doses; {how}; percentile interval of {SAMPLES:,} cluster bootstraps and p by them"
    )
    draws = treated[0].draws.tolist()
    if len(draws) >= LEAST_DRAWS:
        each = [_shift(_draw_of(treated, k), _draw_of(control, k), metric, (), 0)[0] for k in draws]
        over = t_interval(np.array(each)[:, None])
        numbers |= {"ci_low": float(over.low[0]), "ci_high": float(over.high[0])}
        text += f", given these runs; t-interval over {len(draws)} draws"
    tail = int(min((drawn[1:] <= 0).sum(), (drawn[1:] >= 0).sum()))
    p = min(1.0, 2 * (1 + tail) / (1 + SAMPLES))
    if not tail:
        error = max(float(drawn[1:].std(ddof=1)), 1e-300)
        p = min(p, 2 * float(student.sf(abs(float(drawn[0])) / error, smallest - 1)))
        text += " (none beyond 0: by their standard error and Student's t)"
    return {**numbers, "p_value": p, "p_adjusted": p, "method": text}


def _draw_of(side: Side, draw: int) -> Side:
    found, own = side
    return found.where(found.draw == draw), own.where(own.draw == draw) if own is not None else None


def _shift(treated: Side, control: Side, metric: str, key: Key, samples: int) -> Floats:
    """log2 ratios of half-doses [1 + samples], the first of what was observed."""
    clusters, weights = sample_weights([treated[0], control[0]], key, samples)
    sides, enough = [], True
    for found, own in (treated, control):
        means = level_means(centred(found), clusters, weights)
        enough &= len(means.levels) - 1 >= LEAST_LEVELS
        if own is not None:
            way = distance(own, metric, clusters, weights)
            way = np.where(way == 0, 1e-12, way)
            means = replace(means, means=means.means / way[:, None])
        sides.append(means)
    if treated[1] is None:
        one, other = (fit_hill(each) for each in sides)
        return one.half - other.half
    return joint_shift(sides[0], sides[1], fixed=metric_of(metric).binary or not enough)


def joint_shift(treated: LevelMeans, control: LevelMeans, *, fixed: bool) -> Floats:
    """log2 of the ratio of half-doses [S] of two curves of shares with one slope and one height of at most 1 (`fixed`: 1)."""
    sides = (treated, control)
    least, most = min(bounds(each)[0] for each in sides), max(bounds(each)[1] for each in sides)
    halves, slopes = np.linspace(least, most, HALVES), np.geomspace(*SLOPES, STEEPS)
    samples = len(treated.means)
    rest = np.full(samples, np.inf)
    best = np.zeros((samples, 3))  # log2 half-dose of each, log slope
    for slope in slopes:
        one, other = (Moments.of(each, shape(each.levels, halves[:, None], slope)) for each in sides)
        gy = (one.gy[:, :, None] + other.gy[:, None, :]).reshape(samples, -1)
        gg = (one.gg[:, :, None] + other.gg[:, None, :]).reshape(samples, -1)
        left = _left(gy, gg, fixed)
        place = left.argmin(1)
        found = left[np.arange(samples), place]
        better = found < rest
        rest[better] = found[better]
        first, second = np.divmod(place[better], HALVES)
        best[better] = np.stack([halves[first], halves[second], np.full(len(first), np.log(slope))], 1)
    wide = np.array([halves[1] - halves[0]] * 2 + [np.log(slopes[1] / slopes[0])])
    offsets = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), -1).reshape(-1, 3)
    low, high = np.array([least, least, np.log(SLOPES[0])]), np.array([most, most, np.log(SLOPES[1])])
    for turn in range(ROUNDS):
        tried = np.clip(best[:, None] + offsets * wide * 0.7 * SHRINK ** (turn / 2), low, high)
        slope = np.exp(tried[..., 2:])
        one, other = (
            Moments.of(each, shape(each.levels, tried[..., k : k + 1], slope)) for k, each in enumerate(sides)
        )
        place = _left(one.gy + other.gy, one.gg + other.gg, fixed).argmin(1)
        best = tried[np.arange(samples), place]
    return np.asarray(best[:, 0] - best[:, 1])


def _left(gy: Floats, gg: Floats, fixed: bool) -> Floats:
    """Squares left over, less what no curve changes."""
    height = best_height(gy, gg, np.ones((1, 1)), fixed)
    return np.asarray(height**2 * gg - 2 * height * gy)
