"""Suites and scores without training: the real assignment of simulated records, and values with a known truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from costar.core.design import ArmDesign, Suite
from costar.core.suite import load_suite
from costar.eval.assigned import Codes, Subjects
from costar.eval.scores import Measure, Scores, Values
from costar.insertion.assignment import Assigner
from numpy.typing import NDArray

NLL: Measure = ("likelihood", "", "nll_token")
Floats = NDArray[np.float64]
Effect = Callable[[ArmDesign, int, Codes, Codes], Floats | float]
"""(arm, step, level [N], combination of factors [N]) → what the arm's runs add to the value of each record."""

SUITE = """
[suite]
seed   = 1
draws  = {draws}
models = ["nano"]
[model.nano]
layers = 1
hidden = 8
heads  = 1
ffn    = 8
[corpus]
source          = "files"
path            = "base.jsonl"
sequence_length = 64
tokenizer       = {{ train = "bpe", vocabulary = 512 }}
[perturbation.quizzes]
kind    = "testset"
records = {{ from = "generator" }}
levels  = {{ {levels} }}
[arm.standard]
perturbations = []
[arm.perturbed]
{more}
[train]
steps = 20
batch = 8
lr    = 1e-3
[eval]
probes   = ["likelihood", "extraction", "choice"]
prefixes = [8]
{eval}
"""

LOSS_FIRST = 'primary = { testset = "likelihood nll_token" }'


def world_suite(
    folder: Path,
    *,
    draws: int = 1,
    levels: str = "0 = 60, 1 = 30, 4 = 30",
    more: str = "",
    evaluation: str = LOSS_FIRST,
) -> Suite:
    """A suite of one perturbation and a pair of arms; `more` follows `[arm.perturbed]`, `evaluation` stands in `[eval]`."""
    path = folder / "world.toml"
    path.write_text(SUITE.format(draws=draws, levels=levels, more=more, eval=evaluation))
    return load_suite(path)


def subjects_of(suite: Suite, *, per_cluster: int = 1, strata: int = 1) -> Subjects:
    """Records of all perturbations as the suite's own assignment divides them, clusters and strata in turn."""
    names = [name for name, design in suite.perturbations.items() for _ in range(design.records)]
    cluster = np.arange(len(names)) // per_cluster
    stratum = cluster % strata
    table = pa.table(
        {
            "record_id": [f"r{i:06d}" for i in range(len(names))],
            "role": ["main"] * len(names),
            "perturbation": names,
            "n_tokens": [10] * len(names),
            "cluster_id": [f"c{i:06d}" for i in cluster],
            "stratum": [f"s{i}" for i in stratum],
        }
    )
    assigner = Assigner(suite, table)
    keys = [(arm, draw) for arm in suite.arms.values() for draw in range(arm.draws)]
    found = {(arm.name, draw): assigner.assignment(arm, draw) for arm, draw in keys}
    several = {arm.name for arm in suite.arms.values() if any(len(own) > 1 for own in arm.factors.values())}
    return Subjects(
        ids=tuple(table.column("record_id").to_pylist()),
        perturbation=np.array([list(suite.perturbations).index(name) for name in names], np.int64),
        perturbations=tuple(suite.perturbations),
        cluster=cluster.astype(np.int64),
        clusters=tuple(f"c{i:06d}" for i in range(cluster.max() + 1)),
        stratum=stratum.astype(np.int64),
        strata=tuple(f"s{i}" for i in range(strata)),
        levels={key: each.level for key, each in found.items()},
        cells={key: each.part for key, each in found.items() if key[0] in several},
    )


def simulate(
    suite: Suite,
    effect: Effect,
    *,
    steps: Sequence[int] = (10, 20),
    measures: Sequence[Measure] = (NLL,),
    per_cluster: int = 1,
    strata: int = 1,
    noise: float = 0.1,
    seed: int = 0,
    model: str = "nano",
) -> Scores:
    """Scores of every run: how hard a record is, the same in all of them, plus the arm's effect, plus noise."""
    generator = np.random.default_rng(seed)
    subjects = subjects_of(suite, per_cluster=per_cluster, strata=strata)
    count = len(subjects.ids)
    rows = np.arange(count)
    hard = generator.normal(3.0, 0.5, (len(measures), count))
    values: dict[str, dict[int, dict[Measure, Values]]] = {}
    for arm in suite.arms.values():
        for draw in range(arm.draws):
            levels = subjects.levels[(arm.name, draw)]
            cells = subjects.cells.get((arm.name, draw), np.zeros(count, np.int64))
            values[f"{arm.name}.{model}.d{draw}"] = {
                step: {
                    measure: Values(
                        rows=rows,
                        values=hard[k] + effect(arm, step, levels, cells) + noise * generator.normal(size=count),
                    )
                    for k, measure in enumerate(measures)
                }
                for step in steps
            }
    return Scores(values=values, subjects=subjects)


def second_draw(scores: Scores, other: Codes | None = None) -> Scores:
    """The same scores and a second draw of every run, in which each record has the score and levels of the row `other`."""
    subjects = scores.subjects
    other = np.arange(len(subjects.ids)) if other is None else other
    again = {
        run.replace(".d0", ".d1"): {
            step: {measure: moved(values, other) for measure, values in measures.items()}
            for step, measures in steps.items()
        }
        for run, steps in scores.values.items()
    }
    levels, cells = (
        dict(own) | {(arm, 1): codes[other] for (arm, _), codes in own.items()}
        for own in (subjects.levels, subjects.cells)
    )
    return replace(scores, values=dict(scores.values) | again, subjects=replace(subjects, levels=levels, cells=cells))


def moved(values: Values, other: Codes) -> Values:
    """The values that rows have when each gets that of another, where that one has any."""
    rows = np.arange(len(other))
    found = values.at(other)
    there = np.isfinite(found)
    return Values(rows=rows[there], values=found[there])


def changed(scores: Scores, run: str, measure: Measure, change: Callable[[Codes, Floats], Floats]) -> Scores:
    """Scores with those of one measure of a run changed at every step; what becomes NaN is a gap."""
    steps = {}
    for step, measures in scores.values[run].items():
        own = measures[measure]
        found = change(own.rows, own.values)
        there = np.isfinite(found)
        steps[step] = dict(measures) | {measure: Values(rows=own.rows[there], values=found[there])}
    return replace(scores, values=dict(scores.values) | {run: steps})


def swapped(scores: Scores, perturbation: str) -> Codes:
    """Every row, those of a perturbation in reverse."""
    members = scores.subjects.members(perturbation)
    other = np.arange(len(scores.subjects.ids))
    other[members] = members[::-1]
    return other


def names(scores: Scores, rows: Codes) -> set[str]:
    """The ids of some rows."""
    return {scores.subjects.ids[row] for row in rows.tolist()}


def kept(scores: Scores, *measures: Measure) -> Scores:
    """The scores of some measures alone."""
    values = {
        run: {step: {m: own[m] for m in measures if m in own} for step, own in steps.items()}
        for run, steps in scores.values.items()
    }
    return replace(scores, values=values)
