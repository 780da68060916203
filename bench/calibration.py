"""Calibration: where nothing is, tests at 5 % find something in 5 %, and intervals at 95 % hold the truth in 95 %.

    OMP_NUM_THREADS=1 python bench/calibration.py [--small] [--suite build/demo]

Worlds whose truth is known are simulated, each column of an analysis one world, and analysed by the functions that compute
effects. `coverage` has the shares of intervals that hold the truth: ours, plain BCa without the correction for few clusters
and for constant groups, and the percentile interval; `found` the shares of p-values at most 0.05 where there is no effect,
those of `any level` by families in which a level without an effect is found. With `--suite`, levels are drawn anew over the
real scores of its runs that read no record (null suites). Everything is seeded. The figures are printed as JSON; each part
goes to standard error as it is done.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from costar.eval.clusters import Clustered, cluster_values
from costar.eval.randomization import label_permutation_p, max_t_p, sign_flip_p
from costar.eval.resampling import (
    bca,
    cluster_standard_error,
    difference_interval,
    influence,
    mean_interval,
    resamples,
    sampled_means,
    simultaneous_band,
)
from costar.eval.stats import Interval, equivalence_p, holm, t_interval
from costar.insertion.levels import Cluster, assign_levels
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rng = np.random.Generator

ALPHA = 0.05
KINDS = {
    "normal": 0.0,
    "exponential": 1.0,
    "lognormal": float(np.exp(0.5)),
    "share 0.3": 0.3,
    "share 0.05": 0.05,
    "unequal clusters": 0.0,
}
"""What is drawn, and its true mean."""
SIZES = (1, 1, 2, 3, 5, 8)
BATCH = 250
BASE = 1_000_000  # from here on clusters of the held-out level are numbered


def drawn_values(kind: str, clusters: Ints, columns: int, rng: Rng) -> Floats:
    """Values [n, columns] of records in clusters numbered from 0; unequal clusters have an intraclass correlation of 0.3."""
    shape = (len(clusters), columns)
    if kind.startswith("share"):
        return (rng.random(shape) < KINDS[kind]).astype(float)
    if kind == "lognormal":
        return rng.lognormal(size=shape)
    if kind == "exponential":
        return rng.exponential(size=shape)
    if kind == "unequal clusters":
        shared = rng.normal(size=(int(clusters.max()) + 1, columns))
        return np.asarray(np.sqrt(0.3) * shared[clusters] + np.sqrt(0.7) * rng.normal(size=shape))
    return rng.normal(size=shape)


def drawn_group(kind: str, number: int, columns: int, rng: Rng, first: int = 0) -> Clustered:
    """A level of `number` clusters, named from `first`."""
    sizes = rng.choice(SIZES, number) if kind == "unequal clusters" else np.ones(number, int)
    clusters = np.repeat(np.arange(number), sizes)
    values = drawn_values(kind, clusters, columns, rng)
    return cluster_values(values, clusters + first, np.zeros(len(clusters), np.int64))


def batches(worlds: int) -> Iterator[tuple[int, int]]:
    """(number, worlds) of each batch."""
    for number, start in enumerate(range(0, worlds, BATCH)):
        yield number, min(BATCH, worlds - start)


def held(interval: Interval, truth: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which intervals hold the truth, and which there are: without any variation none is given."""
    return (interval.low <= truth) & (truth <= interval.high), interval.high > interval.low


def coverage(kind: str, clusters: int, held_out: int, worlds: int, rng: Rng) -> dict[str, float]:
    """Shares of intervals that hold the mean of one level, or its difference from `held_out` clusters of level 0."""
    covered: dict[str, list[float]] = {"ours": [], "plain BCa": [], "percentile": []}
    given: list[float] = []
    truth = KINDS[kind] if not held_out else 0.0
    for batch, columns in batches(worlds):
        key = (kind, clusters, batch)
        group = drawn_group(kind, clusters, columns, rng)
        other = drawn_group(kind, held_out, columns, rng, BASE) if held_out else None
        found = {"ours": difference_interval(group, other, key) if other else mean_interval(group, key)}
        samples = sampled_means([group, *([other] if other else [])], key, resamples(clusters + held_out))
        own = samples[0] - samples[1] if other else samples[0]
        estimate = group.means - (other.means if other else 0.0)
        found["percentile"] = Interval(*np.quantile(own, [ALPHA / 2, 1 - ALPHA / 2], axis=1))
        plain = np.full(columns, norm.isf(ALPHA / 2))
        found["plain BCa"] = bca(own, estimate, influence(group, other).acceleration, plain)
        given += held(found["ours"], truth)[1].tolist()
        for name, interval in found.items():
            inside, there = held(interval, truth)
            covered[name] += inside[there].tolist()
    return {name: round(float(np.mean(each)), 4) for name, each in covered.items()} | {"given": float(np.mean(given))}


def band_coverage(kind: str, clusters: int, held_out: int, worlds: int, rng: Rng) -> dict[str, float]:
    """Shares of worlds in which the bands of five levels, and the single intervals, hold at every level at once."""
    together: dict[str, list[float]] = {"band": [], "single intervals": []}
    truth = KINDS[kind] if not held_out else 0.0
    for batch, columns in batches(worlds):
        key = (kind, clusters, batch)
        groups = [drawn_group(kind, clusters, columns, rng, 1000 * level) for level in range(5)]
        other = drawn_group(kind, held_out, columns, rng, BASE) if held_out else None
        bands = simultaneous_band(groups, other, key)
        single = [
            difference_interval(group, other, (*key, n)) if other else mean_interval(group, (*key, n))
            for n, group in enumerate(groups)
        ]
        for name, intervals in zip(together, (bands, single), strict=True):
            together[name] += np.all([held(each, truth)[0] for each in intervals], axis=0).tolist()
    return {name: round(float(np.mean(each)), 4) for name, each in together.items()}


def draws_coverage(draws: int, clusters: int, spread: float, worlds: int, rng: Rng) -> dict[str, float]:
    """A level's effect varies by draw with a standard deviation of `spread`: intervals given the runs, and over the draws.

    Of the draws' clusters a third is at the level in each; a cluster behaves alike in all of its draws.
    """
    covered: dict[str, list[bool]] = {"given these runs": [], "over draws": []}
    for batch, columns in batches(worlds):
        of_cluster = 0.5 * rng.normal(size=(3 * clusters, columns))
        rows, names, numbers = [], [], []
        for draw in range(draws):
            members = rng.permutation(3 * clusters)[:clusters]
            shift = spread * rng.normal(size=columns)
            rows.append(of_cluster[members] + shift + rng.normal(size=(clusters, columns)))
            names.append(members)
            numbers.append(np.full(clusters, draw))
        values, cluster = np.concatenate(rows), np.concatenate(names)
        data = cluster_values(values, cluster, np.zeros_like(cluster), np.concatenate(numbers))
        given = mean_interval(data, (draws, clusters, batch))
        over = t_interval(np.array([own.mean(0) for own in rows]))
        covered["given these runs"] += held(given, 0.0)[0].tolist()
        covered["over draws"] += held(over, 0.0)[0].tolist()
    return {name: round(float(np.mean(each)), 4) for name, each in covered.items()}


def pairs_found(kind: str, clusters: int, worlds: int, rng: Rng) -> float:
    """The share of sign-flip p-values at most 0.05 where signs mean nothing; of a share, exact McNemar."""
    found: list[bool] = []
    for batch, columns in batches(worlds):
        own, other = (
            drawn_group(kind, clusters, columns, np.random.default_rng(seed)) for seed in rng.integers(2**62, size=2)
        )
        if kind == "unequal clusters":
            other = Clustered(other.sums[: own.size], own.counts, own.strata, own.names)
        data = Clustered(own.sums - other.sums, own.counts, own.strata, own.names)
        found += (sign_flip_p(data, (kind, clusters, batch)) <= ALPHA).tolist()
    return round(float(np.mean(found)), 4)


class Assignment:
    """Clusters of a perturbation, of which the levels are drawn by the suite's own function."""

    def __init__(self, sizes: Ints, strata: Ints, levels: dict[int, int]):
        self.sizes, self.strata, self.levels = sizes, strata, levels
        self._clusters = [
            Cluster(name=f"c{n:05d}", stratum=f"s{stratum}", size=int(size))
            for n, (size, stratum) in enumerate(zip(sizes, strata, strict=True))
        ]

    def drawn(self, draw: int, seed: int = 1) -> Ints:
        """The level of each cluster [C] in a draw."""
        found = assign_levels(self._clusters, self.levels, key=(seed, draw, "calibration"), place="calibration")
        return np.array([found[cluster.name] for cluster in self._clusters], np.int64)

    def grouped(self, sums: Floats, drawn: Ints) -> dict[int, Clustered]:
        """Cluster sums [C, K] by level."""
        names = np.arange(len(drawn))
        return {
            level: Clustered(sums[at], self.sizes[at].astype(float), self.strata[at], names[at])
            for level in sorted(self.levels)
            for at in [np.flatnonzero(drawn == level)]
        }


EQUAL = Assignment(np.ones(72, np.int64), np.arange(72) % 3, {0: 36, 1: 12, 4: 12, 16: 12})
UNEQUAL = Assignment(
    np.tile(np.array([1, 1, 1, 1, 2, 2, 3, 1, 1, 4]), 8), np.repeat([0, 1], 40), {0: 68, 1: 22, 4: 22, 16: 24}
)


def labels_found(
    assignment: Assignment, redraws: int, columns: int, rng: Rng, effects: dict[int, float] | None = None
) -> dict[str, float]:
    """Levels drawn again and again over values that depend on cluster and size: how often is a level found that has no effect?

    `any level …` are familywise; `effects` adds to the values of some levels, which are then not counted.
    """
    effects = effects or {}
    found: dict[str, list[bool]] = {"label permutation": [], "any level, Holm": [], "any level, max-T": []}
    for draw in range(redraws):
        drawn = assignment.drawn(draw)
        own = rng.lognormal(size=(len(drawn), columns)) * assignment.sizes[:, None] ** 1.5
        own += np.array([effects.get(int(level), 0.0) for level in drawn])[:, None] * assignment.sizes[:, None]
        groups = assignment.grouped(own, drawn)
        held_out = groups.pop(0)
        p = np.array([label_permutation_p(group, held_out, (draw, level)) for level, group in groups.items()])
        adjusted = np.array([holm(column) for column in p.T.tolist()]).T
        max_t = np.array(max_t_p(list(groups.values()), held_out, (draw,)))
        null = [place for place, level in enumerate(groups) if level not in effects]
        found["label permutation"] += np.ravel(p[null] <= ALPHA).tolist()
        found["any level, Holm"] += np.any(adjusted[null] <= ALPHA, axis=0).tolist()
        found["any level, max-T"] += np.any(max_t[null] <= ALPHA, axis=0).tolist()
    return {name: round(float(np.mean(each)), 4) for name, each in found.items()}


def flips_found(clusters: int, worlds: int, draws: int, shift: float, rng: Rng) -> dict[str, float]:
    """The same for paired differences of four levels in several draws; the last level's is shifted, and not counted."""
    found: dict[str, list[bool]] = {"any level, Holm": [], "any level, max-T": []}
    for batch, columns in batches(worlds):
        of_cluster = rng.normal(size=(4 * clusters, columns))
        rows: dict[int, list[tuple[Floats, Ints, int]]] = {level: [] for level in range(4)}
        for draw in range(draws):
            order = rng.permutation(4 * clusters).reshape(4, clusters)
            for level, members in enumerate(order):
                values = of_cluster[members] + 0.5 * rng.normal(size=(clusters, columns)) + shift * (level == 3)
                rows[level].append((values, members, draw))
        groups = []
        for parts in rows.values():
            cluster = np.concatenate([members for _, members, _ in parts])
            draw_of = np.concatenate([np.full(len(members), draw) for _, members, draw in parts])
            values = np.concatenate([own for own, _, _ in parts])
            groups.append(cluster_values(values, cluster, np.zeros_like(cluster), draw_of))
        single = np.array([sign_flip_p(group, (batch, level)) for level, group in enumerate(groups)])
        adjusted = np.array([holm(column) for column in single.T.tolist()]).T
        max_t = np.array(max_t_p(groups, None, (batch,)))
        null = range(3 if shift else 4)
        found["any level, Holm"] += np.any(adjusted[list(null)] <= ALPHA, axis=0).tolist()
        found["any level, max-T"] += np.any(max_t[list(null)] <= ALPHA, axis=0).tolist()
    return {name: round(float(np.mean(each)), 4) for name, each in found.items()}


def equivalence_found(clusters: int, worlds: int, rng: Rng) -> float:
    """The share found equivalent where the effect is the margin itself, which is the worst case."""
    group = drawn_group("normal", clusters, worlds, rng)
    error, freedom = cluster_standard_error(group)
    return round(float((equivalence_p(group.means + 1.0, error, freedom, 1.0) <= ALPHA).mean()), 4)


def null_suite(built: Path, redraws: int) -> dict[str, Any]:
    """Levels drawn again over the real scores of runs that read no record, perturbation by perturbation, at the last step.

    Shares are over redraws, levels and measures; measures without any variation are left out.
    """
    from costar.core.suite import load_suite
    from costar.core.workspace import Workspace
    from costar.eval.scores import load_scores

    suite = load_suite(built / "suite.toml")
    scores = load_scores(suite, Workspace(built))
    subjects = scores.subjects
    readers = {name for name, arm in suite.arms.items() if arm.inserted or arm.parent or arm.init}
    found: dict[str, Any] = {}
    for run in sorted(run for run in scores.values if run.split(".")[0] not in readers and scores.values[run]):
        measures = scores.values[run][scores.steps(run)[-1]]
        for name, design in suite.perturbations.items():
            rows = subjects.members(name)
            columns = [measures[each].at(rows) for each in sorted(measures)]
            values = np.array([each for each in columns if np.isfinite(each).all() and each.std() > 0]).T
            if not values.size:
                continue
            clusters, strata = subjects.cluster[rows], subjects.stratum[rows]
            data = cluster_values(values, clusters, strata)
            assignment = Assignment(data.counts.astype(np.int64), data.strata, dict(design.levels))
            p_values, families = [], []
            for draw in range(redraws):
                groups = assignment.grouped(data.sums, assignment.drawn(draw, seed=2))
                held_out = groups.pop(0)
                p = np.array([label_permutation_p(own, held_out, (run, draw, level)) for level, own in groups.items()])
                p_values.append((p <= ALPHA).mean())
                families.append(
                    (np.array(max_t_p(list(groups.values()), held_out, (run, draw))) <= ALPHA).any(0).mean()
                )
            found[f"{run} {name}"] = {
                "measures": values.shape[1],
                "label permutation": round(float(np.mean(p_values)), 4),
                "any level, max-T": round(float(np.mean(families)), 4),
                "standard error": round(float(np.std(p_values) / np.sqrt(redraws)), 4),
            }
    return found


def _every_kind(
    covered: Callable[[str, int, int, int, Rng], Any], numbers: tuple[int, ...], held_out: int, worlds: int, rng: Rng
) -> dict[str, dict[int, Any]]:
    return {kind: {n: covered(kind, n, held_out, worlds, rng) for n in numbers} for kind in KINDS}


def timed(name: str, figures: dict[str, Any], ask: Callable[[], Any]) -> None:
    start = time.process_time()
    figures[name] = ask()
    figures["seconds"][name] = round(time.process_time() - start, 1)
    print(name, json.dumps(figures[name], ensure_ascii=False), file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few worlds of each")
    parser.add_argument("--suite", type=Path, help="a built suite, for null suites over its real scores")
    options = parser.parse_args()
    worlds, redraws = (500, 40) if options.small else (1_500, 100)
    numbers = (10, 40) if options.small else (10, 12, 15, 20, 30, 60)
    rng = np.random.default_rng(8)
    figures: dict[str, Any] = {"worlds": worlds, "redraws": redraws, "cpu": platform.machine(), "seconds": {}}
    for name, held_out in (("coverage of a mean", 0), ("coverage of a difference from 100", 100)):
        timed(
            name,
            figures,
            partial(_every_kind, coverage, numbers, held_out, worlds, rng),
        )
    for name, held_out in (("coverage of bands", 0), ("coverage of bands, differences from 60", 60)):
        timed(
            name,
            figures,
            partial(_every_kind, band_coverage, (12, 30), held_out, worlds // 2, rng),
        )
    timed(
        "coverage with a level × draw effect",
        figures,
        lambda: {
            f"{draws} draws, spread {spread}": draws_coverage(draws, 30, spread, worlds, rng)
            for draws in (3, 5)
            for spread in (0.0, 0.5)
        },
    )
    timed(
        "found by sign flips",
        figures,
        lambda: {kind: {n: pairs_found(kind, n, worlds, rng) for n in (10, 12, 30, 100)} for kind in KINDS},
    )
    timed(
        "found among levels without an effect",
        figures,
        lambda: {
            f"{name}, {which}": labels_found(assignment, redraws, 20, rng, effects)
            for name, assignment in (("equal clusters", EQUAL), ("unequal clusters", UNEQUAL))
            for which, effects in (
                ("none has", {}),
                ("the highest has", {16: 20.0}),
                ("two have", {16: 20.0, 4: -20.0}),
            )
        },
    )
    timed(
        "found among paired levels",
        figures,
        lambda: {
            f"{draws} draws, shift {shift}": flips_found(15, worlds // 2, draws, shift, rng)
            for draws in (1, 3)
            for shift in (0.0, 3.0)
        },
    )
    timed(
        "found equivalent at the margin",
        figures,
        lambda: {n: equivalence_found(n, worlds, rng) for n in (10, 30, 100)},
    )
    if options.suite:
        timed("found in null suites", figures, lambda: null_suite(options.suite, redraws))
    print(json.dumps(figures, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
