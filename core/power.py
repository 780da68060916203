"""What a suite can find: the smallest effects that 4 of 5 studies of its size would detect, before anything is trained.

Everything is at the strictest step of Holm's adjustment over the tests of a family, α = 5 %, two-sided. Effects are in
standard deviations of treated − control over records of one level, or in a measure's own units where a pilot, another
measured suite or this one, tells that spread. A cluster counts as one record: nothing is known of what its records share, so
once the records are assigned this errs on the safe side. Before, where no pilot tells the clusters, every record counts by
itself; if records share clusters, true effects must then be larger than what stands here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, nct
from scipy.stats import t as student

from .analysis import measure_text
from .design import ArmDesign, Suite
from .schemes import ALPHA, LEAST, LEAST_DRAWS, POWER, least_effect

CHECKED = ("extraction", "choice", "infill")  # probes with 0/1 measures


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """What is known of a suite beyond its file: by perturbation the clusters of every level, where they were assigned, and
    the spread of treated − control of the primary measure where it was measured, in its own units."""

    clusters: Mapping[str, Mapping[int, int]]
    spread: Mapping[str, float]


NO_PILOT = Pilot(clusters={}, spread={})


def detectable(levels: Mapping[int, float], compared: int | None = None) -> dict[int, float]:
    """Per level the smallest direct effect that is found, given these runs; NaN without held-out records.

    `levels` has the independent records of each; `compared` tests are adjusted together, by default one a level.
    """
    held_out, family = levels.get(0, 0), compared or sum(level > 0 for level in levels)
    return {
        level: least_effect(count, held_out, family) if held_out else math.nan
        for level, count in levels.items()
        if level
    }


def detectable_over_draws(levels: Mapping[int, float], draws: int, compared: int | None = None) -> dict[int, float]:
    """Per level the smallest direct effect whose t-interval over draws leaves out 0, if runs differ by their records alone;
    what they differ by otherwise comes on top.

    The power of a t-test on `draws` estimates, by the noncentral t-distribution with draws − 1 degrees of freedom.
    """
    assert draws >= LEAST_DRAWS
    held_out, family = levels.get(0, 0), compared or sum(level > 0 for level in levels)
    shift = _noncentrality(draws - 1, family)
    return {
        level: shift * math.sqrt((1 / count + 1 / held_out) / draws) if held_out else math.nan
        for level, count in levels.items()
        if level
    }


def _noncentrality(freedom: int, compared: int) -> float:
    """The expected t at which a two-sided t-test at α / compared rejects in 4 of 5 cases; the far tail is left out."""
    critical = float(student.isf(ALPHA / (2 * compared), freedom))
    return float(brentq(lambda shift: nct.sf(critical, freedom, shift) - POWER, 0.0, 20 * critical))


def detectable_timing(levels: Mapping[int, float]) -> dict[int, float]:
    """Per level the smallest difference of two phases that is found: the same records in both arms, so one group."""
    family = sum(level > 0 for level in levels)
    return {level: least_effect(count, math.inf, family) for level, count in levels.items() if level}


def detectable_turns(records: int, compared: int, back: float = 0.0) -> float:
    """The smallest share of records that turn from wrong to right which McNemar's exact test finds, when the share `back`
    turns the other way (Connor 1987); 1 where even all would not do.
    """
    if turns_power(records, 1.0 - back, back, compared) < POWER:
        return 1.0
    return float(brentq(lambda share: turns_power(records, share, back, compared) - POWER, 1e-9, 1.0 - back, xtol=1e-6))


def turns_power(records: int, share: float, back: float, compared: int = 1) -> float:
    """The power of McNemar's exact test at α / compared, for the shares of records that turn right, and back."""
    turned = np.arange(records + 1)
    most = binom.ppf(ALPHA / (2 * compared), turned, 0.5)  # of the rarer kind, so that the test just does not reject
    most = np.where(binom.cdf(most, turned, 0.5) > ALPHA / (2 * compared), most - 1, most)
    both = share + back
    rejecting = binom.cdf(most, turned, back / both) if both else np.zeros(len(turned))
    return float((binom.pmf(turned, records, min(1.0, both)) * np.where(most >= 0, rejecting, 0.0)).sum())


def power_table(suite: Suite, pilot: Pilot = NO_PILOT) -> tuple[list[str], list[tuple[str, ...]]]:
    """Headers and a row for each perturbation; columns that no perturbation has anything for are left out. "Turn right" is
    the least share of records whose 0/1 answer must turn from wrong to right, by McNemar's test, none turning back."""
    headers = ["perturbation", "in", "beyond held-out records", "late − early", "over draws", "turn right"]
    rows = [_row(suite, name, pilot) for name in suite.perturbations]
    used = [column for column in range(len(headers)) if column < 3 or any(row[column] for row in rows)]
    return [headers[column] for column in used], [tuple(row[column] for column in used) for row in rows]


def verdict_notes(suite: Suite) -> list[str]:
    """What the table does not say of the suite's hypotheses: their verdicts take more than it reckons with."""
    if not suite.hypotheses:
        return []
    draws = max(arm.draws for arm in suite.arms.values())
    test = f"a one-sided t-test over {draws} draws" if draws >= LEAST_DRAWS else "randomization given the runs"
    count = len(suite.hypotheses)
    own = "1 hypothesis" if count == 1 else f"{count} hypotheses"
    return [
        f"{own}: a verdict is stricter than these sizes: {test}, Holm within the finding, an interval that leaves out 0"
    ]


def _row(suite: Suite, name: str, pilot: Pilot) -> tuple[str, ...]:
    design = suite.perturbations[name]
    levels = dict(pilot.clusters.get(name) or design.levels)
    arms = [arm for arm in suite.arms.values() if name in arm.inserted and arm.control and arm.filler == "none"]
    draws = max((arm.draws for arm in arms), default=1)
    spread = pilot.spread.get(name)
    unit = f"{measure_text(suite.eval.analysis.primary[name])} (sd {spread:.2g})" if spread else "sd"
    scale = spread or 1.0
    few = {level for level, count in levels.items() if min(count, levels.get(0, 0)) < LEAST}
    if not levels.get(0):
        return name, unit, "no held-out records: no effect beyond them", "", "", ""
    family = _family(suite, name)
    pooled = {level: count * draws for level, count in levels.items()}
    found = detectable(pooled, family)
    cells = [f"{level}×: {'too few' if level in few else _number(scale * size)}" for level, size in found.items()]
    enough = [level for level in found if level not in few]
    timing = detectable_timing({level: levels[level] * draws for level in enough}) if _is_timed(arms, name) else {}
    over = detectable_over_draws(levels, draws, family) if draws >= LEAST_DRAWS else {}
    turns = [detectable_turns(levels[level] * draws, len(found)) for level in enough] if _is_checked(suite) else []
    return (
        name,
        unit,
        "  ".join(cells),
        _range(list(timing.values())) + (" sd" if timing and spread else ""),
        _range([scale * over[level] for level in enough if level in over]),
        _range([100 * share for share in turns], ".0f") + " %" if turns else "",
    )


def _family(suite: Suite, name: str) -> int:
    """How many direct effects are adjusted together."""
    if suite.eval.analysis.families == "perturbation":
        return sum(level > 0 for level in suite.perturbations[name].levels)
    pairs = [arm for arm in suite.arms.values() if arm.control and arm.filler == "none"]
    return sum(
        len(arm.models) * sum(level > 0 for level in suite.perturbations[each].levels)
        for arm in pairs
        for each in arm.inserted
    )


def _is_timed(arms: list[ArmDesign], name: str) -> bool:
    """Whether two arms insert a perturbation alone in different phases."""
    alone = [arm.phases(name) for arm in arms if len(arm.inserted) == 1 and len(arm.phases(name)) == 1]
    return any(phases != alone[0] for phases in alone)


def _is_checked(suite: Suite) -> bool:
    return any(probe in suite.eval.probes for probe in CHECKED)


def _number(value: float, form: str = "") -> str:
    return format(value, form or (".2f" if value >= 0.1 else ".2g"))


def _range(values: list[float], form: str = "") -> str:
    """'0.12' or '0.12 to 0.3'."""
    if not values:
        return ""
    low, high = _number(min(values), form), _number(max(values), form)
    return low if low == high else f"{low} to {high}"
