"""Suites and scores without training: the real assignment of simulated records, and values with a known truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def world_suite(
    folder: Path, *, draws: int = 1, levels: str = "0 = 60, 1 = 30, 4 = 30", more: str = "", evaluation: str = ""
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
