"""The estimates of one contrast: means of differences by cell, and cells less held-out records, for many measures at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..core.analysis import AnalysisDesign
from ..core.design import Suite
from ..core.schemes import LEAST_DRAWS
from .clusters import Clustered, balanced, cluster_values
from .contrasts import Contrast
from .differences import Floats, Rows
from .level_means import of_complete_draws
from .randomization import is_paired, label_arrangements, label_permutation_p, max_t_p, sign_flip_p
from .resampling import cluster_standard_error, difference_interval, mean_interval, simultaneous_band, told, with_single
from .stacks import Cell, Mask, Stack, factors, level_cells, value_cells
from .stats import LEAST_CLUSTERS, Interval, equivalence_p, t_interval

FEW_ARRANGEMENTS = math.log10(20)
FEW_SIGNS = 6  # clusters: of five, the two most extreme of 32 patterns of signs have p = 1/16
NUMBERS = (
    "estimate",
    "ci_low",
    "ci_high",
    "given_low",
    "given_high",
    "band_low",
    "band_high",
    "p_value",
    "p_max_t",
    "margin",
    "p_equivalent",
)
BCA = "95 % BCa interval of the cluster bootstrap"
FLIPS = "p by sign flips of clusters"
MCNEMAR = "p by McNemar's exact test"
LABELS = "p by redrawing levels within strata"
VALUES = "p by redrawing the factor within levels"
TOO_FEW = ", of which there are too few for p to reach 0.05"
FEW = f"fewer than {LEAST_CLUSTERS} clusters: no interval"
CONSTANT = "no variation within a group: no interval"
ALIKE = "no variation between draws: no interval over them"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One cell of an estimand. `numbers` has a value for each column [K] of its stack, NaN where there is none: `estimate`,
    `ci_low`, `ci_high`, `given_low`, `given_high`, `band_low`, `band_high`, `p_value`, `p_max_t`, `margin`, `p_equivalent`.
    `method` [K] says what they are, and why one is missing.
    """

    estimand: str
    level: int
    factor: str
    n: int
    n_clusters: int
    n_runs: int
    numbers: Mapping[str, Floats]
    method: tuple[str, ...]


def estimates(suite: Suite, contrast: Contrast, stack: Stack, *, brief: bool = False) -> Iterator[Estimate]:
    """Everything that a contrast estimates of a stack. `brief`: without what holds for several levels at once."""
    maker = _Maker(contrast=contrast, stack=stack, analysis=suite.eval.analysis, brief=brief)
    cells = level_cells(stack.frame)
    read, held_out = [cell for cell in cells if cell.level], [cell for cell in cells if not cell.level]
    if contrast.estimand == "displacement":
        yield from maker.means("displacement", [Cell(level=0, factor="", rows=np.ones(len(stack.frame), bool))])
    elif contrast.estimand == "placebo":
        yield from maker.against("placebo", read, held_out)
    elif contrast.estimand == "factor":
        for factor in factors(suite, contrast):
            for cell in read:
                values = value_cells(stack.frame, factor, cell)
                named = [replace(each, factor=f"{each.factor} − {factor.values[0]}") for each in values[1:]]
                others = factor.others_of[stack.frame.cell]
                yield from maker.against("factor", [each for each in named if each.rows.any()], values[:1], others)
    elif contrast.estimand == "total":
        yield from maker.means("spillover", held_out)
        yield from maker.means("total", read)
        yield from maker.against("direct", read, held_out)
        if not brief:
            apart = replace(maker, brief=True)
            for factor in factors(suite, contrast):
                some = [each for cell in read for each in value_cells(stack.frame, factor, cell) if each.rows.any()]
                yield from apart.means("total", some)
                yield from apart.against("direct", some, held_out)
    else:  # timing, interference
        yield from maker.means(contrast.estimand, held_out)
        yield from maker.means(contrast.estimand, read)


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Estimates of the cells of one stack. Cells of one call are judged together: bands and max-T are over them."""

    contrast: Contrast
    stack: Stack
    analysis: AnalysisDesign
    brief: bool

    def means(self, estimand: str, cells: Sequence[Cell]) -> Iterator[Estimate]:
        """The mean of each cell."""
        data = [self._clustered(cell.rows) for cell in cells]
        enough = [each.joint().size >= LEAST_CLUSTERS for each in data]
        bands, joint = self._together(data, enough, None, None)
        for k, (cell, own) in enumerate(zip(cells, data, strict=True)):
            found = {"estimate": own.means} | joint[k]
            found["p_value"] = sign_flip_p(own, self._key(cell))
            if enough[k]:
                found |= self._ends(mean_interval(own, self._key(cell)), bands[k], [own])
                found["p_equivalent"] = self._equivalent(own.means, *cluster_standard_error(own))
            few = TOO_FEW if own.joint().size < FEW_SIGNS else ""
            tests = [(MCNEMAR if column else FLIPS) + few for column in is_paired(own.joint())]
            yield self._estimate(estimand, cell, found, self._by_draw(cell.rows, None), tests)

    def against(
        self, estimand: str, cells: Sequence[Cell], base: Sequence[Cell], strata: Rows | None = None
    ) -> Iterator[Estimate]:
        """The mean of each cell less that of the base, over the draws that have records of both. Labels are drawn again
        within `strata` [n], by default those of the assignment."""
        if not base or not base[0].rows.any():
            return
        bases: dict[bytes, Clustered] = {}
        used, data, held_out, weighted = [], [], [], []
        for cell in cells:
            there = of_complete_draws(self.stack.frame.draw, cell.rows, base[0].rows)
            if there.any():
                used.append(replace(cell, rows=cell.rows & there))
                data.append(self._clustered(used[-1].rows, strata))
                key = there.tobytes()  # one base of cells that have the same draws
                held_out.append(bases.setdefault(key, self._clustered(base[0].rows & there, strata)))
                weighted.append(balanced(data[-1], held_out[-1]))
        enough = [
            min(own.joint().size, other.joint().size) >= LEAST_CLUSTERS
            for own, other in zip(data, held_out, strict=True)
        ]
        bands, joint = self._together(data, enough, weighted, self._clustered(base[0].rows, strata))
        for k, (cell, own, other) in enumerate(zip(used, data, weighted, strict=True)):
            found = {"estimate": own.means - other.means} | joint[k]
            found["p_value"] = label_permutation_p(own, held_out[k], self._key(cell))
            if enough[k]:
                found |= self._ends(difference_interval(own, other, self._key(cell)), bands[k], [own, other])
                error = cluster_standard_error(own, other)
                found["p_equivalent"] = self._equivalent(found["estimate"], *error)
            text = VALUES if strata is not None else LABELS
            if label_arrangements(own, held_out[k]) < FEW_ARRANGEMENTS:
                text += TOO_FEW
            by_draw = self._by_draw(cell.rows, base[0].rows)
            yield self._estimate(estimand, cell, found, by_draw, [text] * len(self.stack.columns))

    def _key(self, cell: Cell) -> tuple[int | str, ...]:
        return (self.contrast.perturbation, cell.level, cell.factor)

    def _clustered(self, rows: Mask, strata: Rows | None = None) -> Clustered:
        own = self.stack.where(rows)
        draws = own.frame.draw if len(self.stack.frame.draws) > 1 else None
        strata = own.frame.stratum if strata is None else strata[rows]
        return cluster_values(own.values, own.unit, strata, draws)

    def _together(
        self,
        data: Sequence[Clustered],
        enough: Sequence[bool],
        weighted: Sequence[Clustered] | None,
        base: Clustered | None,
    ) -> tuple[list[Interval | None], list[dict[str, Floats]]]:
        """The band of each group that has `enough` clusters, and max-T of all: labels are drawn again within draws, so
        max-T needs no weights."""
        if self.brief or not data:
            return [None] * len(data), [{} for _ in data]
        some = [k for k, is_enough in enumerate(enough) if is_enough]
        bands: list[Interval | None] = [None] * len(data)
        if some:
            own, others = [data[k] for k in some], [weighted[k] for k in some] if weighted is not None else None
            for k, band in zip(some, simultaneous_band(own, others, (self.contrast.perturbation, "band")), strict=True):
                bands[k] = band
        return bands, [{"p_max_t": p} for p in max_t_p(data, base, (self.contrast.perturbation, "max-t"))]

    def _ends(self, interval: Interval, band: Interval | None, groups: Sequence[Clustered]) -> dict[str, Floats]:
        """The ends of an interval, and of the band that contains it."""
        metrics = [measure[2] for _, measure in self.stack.columns]
        single = told(interval, groups, metrics)
        found = {"given_low": single.low, "given_high": single.high}
        if band is None:
            return found
        wide = with_single(band, single)
        return found | {"band_low": wide.low, "band_high": wide.high}

    def _by_draw(self, rows: Mask, base: Mask | None) -> Floats:
        """The estimate of every draw [S, K] that has one."""
        found = []
        for draw in self.stack.frame.draws.tolist():
            of_draw = self.stack.frame.draw == draw
            sides = [of_draw & side for side in (rows, base) if side is not None]
            if all(side.any() for side in sides):
                means = [self.stack.values[side].mean(0) for side in sides]
                found.append(means[0] - means[1] if len(means) > 1 else means[0])
        return np.array(found)

    def _primary(self) -> Mask:
        """Which columns [K] are of the primary measure."""
        name = self.contrast.perturbation
        return np.array([self.analysis.is_primary(name, measure) for _, measure in self.stack.columns])

    def _equivalent(self, estimate: Floats, error: Floats, freedom: Floats | float) -> Floats:
        """p-values [K] of the primary measure's effect being within its margin, NaN where there is no margin."""
        margin = self.analysis.margins.get(self.contrast.perturbation, math.nan)
        if not margin > 0:
            return np.full(len(estimate), np.nan)
        return np.where(self._primary(), equivalence_p(estimate, error, freedom, margin), np.nan)

    def _estimate(
        self,
        estimand: str,
        cell: Cell,
        found: dict[str, Floats],
        by_draw: Floats,
        tests: Sequence[str],
    ) -> Estimate:
        width, runs = len(self.stack.columns), len(by_draw)
        margin = self.analysis.margins.get(self.contrast.perturbation, math.nan)
        numbers = {name: found.get(name, np.full(width, np.nan)) for name in NUMBERS}
        numbers["margin"] = np.where(self._primary(), margin, np.nan)
        none = CONSTANT if "given_low" in found else FEW
        known = np.isfinite(numbers["given_low"])
        given = [f"{BCA if each else none}; {test}" for each, test in zip(known, tests, strict=True)]
        if runs >= LEAST_DRAWS:
            interval = t_interval(by_draw)
            spread = by_draw.std(0, ddof=1) / math.sqrt(runs)
            alike = spread <= 1e-12 * np.abs(by_draw).max(0)
            numbers["ci_low"], numbers["ci_high"] = (
                np.where(alike, np.nan, end) for end in (interval.low, interval.high)
            )
            again = self._equivalent(by_draw.mean(0), spread, runs - 1.0)
            numbers["p_equivalent"] = np.where(alike, np.nan, again)
            over = [ALIKE if each else f"t-interval over {runs} draws" for each in alike]
            method = [f"{one}; given these runs: {other}" for one, other in zip(over, given, strict=True)]
        else:
            numbers["ci_low"], numbers["ci_high"] = numbers["given_low"], numbers["given_high"]
            pair = "pair of runs" if self.contrast.control else "run"
            these = f"this {pair}" if runs == 1 else "these runs"
            method = [f"given {these}: {text}" for text in given]
        return Estimate(
            estimand=estimand,
            level=cell.level,
            factor=cell.factor,
            n=int(cell.rows.sum()),
            n_clusters=len(np.unique(self.stack.frame.cluster[cell.rows])),
            n_runs=runs,
            numbers=numbers,
            method=tuple(method),
        )
