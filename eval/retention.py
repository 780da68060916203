"""Acquired and kept: what a pair's records have learned by the end of their phase, and what of it is there later.

Both are direct effects, record by record against the control and less the held-out records, so what all runs learn or
forget is none of it. The half-life is that of a decay towards 0 through the direct effects from the end of the phase on,
e(t) = a · 2^(−t / T), in steps since then; times batch and sequence length, in tokens. It is told only where the interval
of the share kept at the last step lies below one half.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.analysis import NLL
from ..core.design import Suite
from ..core.schemes import LEAST_DRAWS
from ..manifests.tables import RETENTION
from .clusters import balanced, cluster_values
from .contrasts import Contrast, common_steps, contrasts, differences, measures, run_label
from .differences import Differences
from .level_means import SAMPLES, centred, level_means, of_complete_draws, percentiles, sample_weights
from .resampling import difference_interval, told
from .scores import Measure, Scores
from .stacks import factors
from .stats import LEAST_CLUSTERS, Interval, t_interval

SHORTEST = 4  # half-lives to the first later checkpoint, above which too little is left there to tell them
RATES, ROUNDS = 240, 5
NO_VARIATION = "; no variation at some step: no interval there"

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Records of a pair whose phase ended at step `end`: all, or those with one value of the factor, and the steps at which
    both runs were measured from then on: the first is that of what was acquired, and rows say so where it is not `end`."""

    factor: str
    end: int
    cells: NDArray[np.int64]
    steps: tuple[int, ...]


def all_retention(suite: Suite, scores: Scores) -> list[dict[str, Any]]:
    """A row for every pair, phase that ends before the last step, level and later step, of the primary measure and the loss.

    The half-life stands in the row of the last step.
    """
    rows = []
    for contrast in contrasts(suite, scores):
        for phase in ended_phases(suite, scores, contrast):
            for measure in measures(scores, contrast, phase.steps[0]):
                if measure == NLL or suite.eval.analysis.is_primary(contrast.perturbation, measure):
                    rows += list(_rows(scores, contrast, phase, measure))
    return rows


def ended_phases(suite: Suite, scores: Scores, contrast: Contrast) -> Iterator[Phase]:
    """The phases of a pair's records that ended before the last step at which both runs were measured."""
    if contrast.estimand != "total" or not contrast.treated:
        return
    arm, name = suite.arms[contrast.arm], contrast.perturbation
    steps = common_steps(scores, contrast)
    ends = [arm.end_of(each.phase) for each in arm.factors[name]]
    by_phase = [each for each in factors(suite, contrast) if each.name == "phase"]
    if not by_phase:
        groups = [("", ends[0], np.arange(len(ends)))]
    else:
        places = [np.flatnonzero(by_phase[0].value_of == k) for k in range(len(by_phase[0].values))]
        groups = [
            (f"phase={value}", ends[cells[0]], cells) for value, cells in zip(by_phase[0].values, places, strict=True)
        ]
    for factor, end, cells in groups:
        since = tuple(step for step in steps if step >= end)
        if len(since) > 1:
            yield Phase(factor=factor, end=end, cells=cells, steps=since)


def _rows(scores: Scores, contrast: Contrast, phase: Phase, measure: Measure) -> Iterator[dict[str, Any]]:
    found = series(scores, contrast, phase, measure)
    if found is None:
        return
    frame, values = found
    for level in np.unique(frame.level[frame.level > 0]).tolist():
        own = (frame.level == level) & np.isin(frame.cell, phase.cells)
        there = of_complete_draws(frame.draw, own, frame.level == 0)
        if not there.any():
            continue
        own &= there
        rows = own | (there & (frame.level == 0))
        names = dict(zip(("probe", "variant", "metric"), measure, strict=True)) | {
            "perturbation": contrast.perturbation,
            "model": contrast.model,
            "treated": run_label(contrast.treated),
            "control": run_label(contrast.control),
            "factor": phase.factor,
            "level": level,
            "phase_end": phase.end,
            "n": int(own.sum()),
            "n_clusters": len(np.unique(frame.cluster[own])),
            "n_runs": len(np.unique(frame.draw[own])),
        }
        key = (contrast.perturbation, level, phase.factor)
        for step, numbers in kept(frame.where(rows), values[rows], phase.steps, key, measure[2]):
            if phase.steps[0] != phase.end:
                numbers["method"] += f"; acquired at step {phase.steps[0]}, the first measured after the phase"
            yield dict.fromkeys(RETENTION.names) | names | {"step": step} | numbers


def series(scores: Scores, contrast: Contrast, phase: Phase, measure: Measure) -> tuple[Differences, Floats] | None:
    """The records that were measured at all steps of a phase, and their differences [n, steps]; None without any."""
    each = [differences(scores, contrast, step, measure) for step in phase.steps]
    there = [found for found in each if found is not None]
    if len(there) < len(each):
        return None
    names = [found.places for found in there]
    common = names[0][np.all([np.isin(names[0], other) for other in names], axis=0)]
    if not len(common):
        return None
    chosen = [found.where(np.isin(own, common)) for found, own in zip(there, names, strict=True)]
    return chosen[0], np.stack([found.value for found in chosen], 1)


def kept(
    frame: Differences, values: Floats, steps: tuple[int, ...], key: tuple[int | str, ...], metric: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, numbers) of each later step: what one level's records (and level 0) acquired at the first step and kept.

    Every draw has records of both. `values` [n, steps] are the differences; `key` is that of the effects at this level,
    so that intervals are theirs.
    """
    effect, given = _effects(frame, values, key, metric)
    draws = [frame.draw == draw for draw in frame.draws]
    over = [_effects_of(frame.where(own), values[own]) for own in draws]
    low, high, text = _ends(given, np.array(over))
    acquired = given is not None and ((low[0] or 0.0) > 0 or (high[0] or 0.0) < 0)
    clusters, weights = sample_weights([frame], (*key, "retention"))
    samples = _samples(frame, values, clusters, weights) if acquired else np.zeros((0, len(steps)))
    for k, step in enumerate(steps[1:], start=1):
        numbers: dict[str, Any] = {
            "acquired": effect[0],
            "acquired_low": low[0],
            "acquired_high": high[0],
            "kept": effect[k],
            "kept_low": low[k],
            "kept_high": high[k],
            "censored": "",
            "method": text,
        }
        if acquired:
            ends, how = _share_ends(samples[:, [0, k]], np.array(over)[:, [0, k]])
            numbers |= {"share": effect[k] / effect[0], "share_low": ends[0], "share_high": ends[1]}
            numbers["method"] = f"{text}; share: {how}"
        if k == len(steps) - 1:
            times = np.array(steps, np.float64) - steps[0]
            half_lost = acquired and numbers["share_high"] < 0.5
            numbers |= _half_life(samples, times, np.array(over), half_lost) if acquired else _nothing(given, low[0])
        yield step, numbers


def _effects_of(frame: Differences, values: Floats) -> Floats:
    """Direct effects [steps] of the level above 0."""
    return np.asarray(values[frame.level > 0].mean(0) - values[frame.level == 0].mean(0))


def _effects(
    frame: Differences, values: Floats, key: tuple[int | str, ...], metric: str
) -> tuple[list[float], tuple[Floats, Floats] | None]:
    """Direct effects at each step, and the ends of their intervals given these runs, where there are enough clusters."""
    sides = []
    for side in (frame.level > 0, frame.level == 0):
        own = frame.where(side)
        draws = own.draw if len(frame.draws) > 1 else None
        sides.append(cluster_values(values[side], own.cluster, own.stratum, draws))
    sides[1] = balanced(*sides)
    effect = [float(value) for value in sides[0].means - sides[1].means]
    if min(side.joint().size for side in sides) < LEAST_CLUSTERS:
        return effect, None
    interval = told(difference_interval(sides[0], sides[1], key), sides, [metric] * values.shape[1])
    return effect, (interval.low, interval.high)


def _ends(given: tuple[Floats, Floats] | None, over: Floats) -> tuple[list[float | None], list[float | None], str]:
    """The ends of intervals of effects, and what they are."""
    if len(over) >= LEAST_DRAWS:
        interval = t_interval(over)
        alike = over.std(0) <= 1e-12 * np.abs(over).max(0)
        return *_known(interval, ~alike), f"t-interval over {len(over)} draws{NO_VARIATION if alike.any() else ''}"
    if given is None:
        none: list[float | None] = [None] * over.shape[1] if over.size else []
        return none, none, f"fewer than {LEAST_CLUSTERS} clusters: no interval"
    known = np.isfinite(given[0]) & np.isfinite(given[1])
    text = "BCa interval of the cluster bootstrap, given these runs"
    return *_known(Interval(*given), known), text if known.all() else text + NO_VARIATION


def _known(interval: Interval, known: NDArray[np.bool_]) -> tuple[list[float | None], list[float | None]]:
    """The ends that are known, None elsewhere."""
    low, high = (
        [float(value) if is_known else None for value, is_known in zip(end, known, strict=True)]
        for end in (interval.low, interval.high)
    )
    return low, high


def _samples(frame: Differences, values: Floats, clusters: NDArray[np.int64], weights: Floats) -> Floats:
    """Direct effects [1 + samples, steps] of the level; clusters are the same at all steps."""
    columns = [centred(replace(frame, value=column)) for column in values.T]
    return np.stack([level_means(each, clusters, weights).direct[:, 0] for each in columns], 1)


def _share_ends(samples: Floats, over: Floats) -> tuple[tuple[float, float], str]:
    """The interval of kept / acquired from samples [S, 2] and draws [D, 2] of both."""
    if len(over) >= LEAST_DRAWS and (np.sign(over[:, 0]) == np.sign(samples[0, 0])).all():
        interval = t_interval((over[:, 1] / over[:, 0])[:, None])
        return (float(interval.low[0]), float(interval.high[0])), f"t-interval over {len(over)} draws"
    ratio = samples[1:, 1] / np.where(samples[1:, 0] == 0, np.nan, samples[1:, 0])
    return percentiles(
        ratio[np.isfinite(ratio)]
    ), f"percentile interval of {SAMPLES:,} cluster bootstraps of both steps"


def _nothing(given: tuple[Floats, Floats] | None, low: float | None) -> dict[str, Any]:
    if given is None:
        return {"censored": "too few clusters to tell"}
    return {
        "censored": "no variation: no interval to tell by" if low is None else "nothing acquired: the interval holds 0"
    }


def _half_life(samples: Floats, times: Floats, over: Floats, half_lost: bool) -> dict[str, Any]:
    """Half-life in steps from samples of effects [S, steps] at times since the end of the phase, the first observed.

    Only where the last step shows that half is lost (`half_lost`): forgetting that stops above one half has none, and a
    curve to 0 through the steps before would find one.
    """
    lives = half_lives(samples, times)
    last, first = float(times[-1]), float(times[1])
    shortest = first / SHORTEST
    found = float(lives[0])
    if found > last:
        censored = f"above {last:.0f} steps"
    elif not half_lost:
        censored = f"above {last:.0f} steps, or not shown: half may be left then"
    else:
        censored = f"below {first:.0f} steps" if found < shortest else ""
    low, high = percentiles(lives[1:])
    each = half_lives(over, times) if len(over) >= LEAST_DRAWS else np.zeros(0)
    if len(each) and ((each >= shortest) & (each <= last)).all():
        interval = t_interval(np.log2(each)[:, None])
        low, high = 2.0 ** float(interval.low[0]), 2.0 ** float(interval.high[0])
    return {
        "half_life": None if censored else found,
        "half_life_low": None if low < shortest else min(low, last),
        "half_life_high": None if high > last or not half_lost else max(high, shortest),
        "censored": censored,
    }


def half_lives(effects: Floats, times: Floats) -> Floats:
    """The half-lives [S] of least-squares decays a · 2^(−t / T) through effects [S, steps]; ∞ where nothing is lost.

    T is searched on a grid in its logarithm and around its best point; a follows from it.
    """
    gap, last = float(times[1]), float(times[-1])
    grid = np.concatenate([np.geomspace(gap / 32, 64 * last, RATES), [np.inf]])
    best = _explained(effects, times, grid[None, :]).argmax(1)
    found = grid[best]
    width = math.log(grid[1] / grid[0])
    for turn in range(ROUNDS):
        near = np.exp(np.linspace(-1, 1, 9) * width * 0.3**turn)
        tried = found[:, None] * near
        found = tried[np.arange(len(found)), _explained(effects, times, tried).argmax(1)]
    return np.where(found > 32 * last, np.inf, found)


def _explained(effects: Floats, times: Floats, lives: Floats) -> Floats:
    """Squares that a decay takes up, for half-lives [S or 1, G]: [S, G]."""
    curves = np.exp2(-times / lives[..., None])  # [·, G, steps]
    along = effects @ curves[0].T if len(lives) == 1 else np.einsum("st,sgt->sg", effects, curves)
    return np.asarray(along**2 / (curves**2).sum(-1))
