"""Utility parity of pairs: what insertions do to the loss on validation documents, sequence by sequence.

All runs are measured on the same sequences, none of which any run reads, so a pair's losses are paired. Equivalence is
tested within a margin that was set once for all suites (two one-sided tests, Schuirmann 1987).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.console import complain
from ..core.design import ArmDesign, RunName, Suite
from ..core.errors import CostarError
from ..core.parquet import read_table
from ..core.schemes import LEAST_DRAWS
from ..core.workspace import Workspace
from ..manifests.lineage import read_configs, stretches
from ..manifests.tables import EFFECTS
from .clusters import Clustered, cluster_values
from .contrasts import run_label
from .randomization import sign_flip_p
from .resampling import cluster_standard_error, mean_interval
from .stats import LEAST_CLUSTERS, equivalence_p, t_interval

MARGIN = 0.01  # nats per token within which a pair counts as equally useful

Floats = NDArray[np.float64]
Losses = dict[
    int, Floats
]  # by step: nats per token of every validation sequence [n]; of older files their mean alone [1]


def utility_effects(suite: Suite, workspace: Workspace) -> list[dict[str, Any]]:
    """Rows of `effects`: treated − control of every pair at every step that both have, in nats per token."""
    losses = validation_losses(workspace)
    rows: list[dict[str, Any]] = []
    for model in sorted({RunName.parse(run).model for run in losses}):
        for arm in suite.arms.values():
            rows += _pair_rows(arm, model, losses) if arm.control else []
    return rows


def validation_losses(workspace: Workspace) -> dict[str, Losses]:
    """The losses of every run on validation documents, those of its ancestors up to where it begins among them. What is
    damaged is left out, with a remark."""
    configs = read_configs(workspace)
    own = {run: _read_losses(workspace, run) for run in configs}
    found: dict[str, Losses] = {}
    for run in configs:
        merged: Losses = {}
        for stretch in stretches(configs, run):
            merged |= {step: v for step, v in own[stretch.owner].items() if stretch.after < step <= stretch.upto}
        if merged:
            found[run] = merged
    return found


def _read_losses(workspace: Workspace, run: str) -> Losses:
    path = workspace.run(run) / "log" / "validation.parquet"
    if not path.is_file():
        return {}
    try:
        rows = read_table(path, mend="").to_pylist()
    except CostarError:
        complain(f"{path}: damaged, so the utility of {run} is not compared")
        return {}
    return {row["step"]: np.array(row.get("losses") or [row["loss"]], np.float64) for row in rows}


def _pair_rows(arm: ArmDesign, model: str, losses: dict[str, Losses]) -> Iterator[dict[str, Any]]:
    pairs = []
    for draw in range(arm.draws):
        runs = tuple(str(RunName(arm=name or "", model=model, draw=draw)) for name in (arm.name, arm.control))
        if all(run in losses for run in runs):
            pairs.append(runs)
    steps = sorted({step for one, other in pairs for step in set(losses[one]) & set(losses[other])})
    rows = []
    for step in steps:
        measured = [[losses[run][step] for run in pair] for pair in pairs if all(step in losses[run] for run in pair)]
        row = dict.fromkeys(EFFECTS.names) | {
            "estimand": "utility",
            "probe": "validation",
            "variant": "",
            "metric": "nll_token",
            "perturbation": "",
            "model": model,
            "treated": run_label(tuple(one for one, _ in pairs)),
            "control": run_label(tuple(other for _, other in pairs)),
            "factor": "",
            "level": 0,
            "step": step,
            "n_runs": len(measured),
            "family": "",
            "margin": MARGIN,
        }
        rows.append(row | compare(measured, (arm.name, model)))
    yield from rows


def compare(runs: list[list[Floats]], key: tuple[int | str, ...]) -> dict[str, Any]:
    """The mean difference of pairs of losses, one (treated [n], control [n]) a draw, with its intervals and tests."""
    means = np.array([one.mean() - other.mean() for one, other in runs])
    numbers: dict[str, Any] = {"estimate": float(means.mean()), "n": 0, "n_clusters": 0}
    sizes = {len(losses) for pair in runs for losses in pair}
    count = min(sizes) if len(sizes) == 1 else 0
    data = _paired(runs) if count >= LEAST_CLUSTERS else None
    if data is None:
        text = f"no losses of {LEAST_CLUSTERS} sequences or more that all runs share: no interval over them"
    else:
        found = _given(data, key)
        numbers |= {"n": count * len(runs), "n_clusters": count} | found
        text = "BCa interval over sequences, p by sign flips of them, given these runs" if found else "equal losses"
    if len(runs) >= LEAST_DRAWS and (error := means.std(ddof=1) / np.sqrt(len(means))) > 0:
        interval = t_interval(means[:, None])
        numbers |= {"ci_low": float(interval.low[0]), "ci_high": float(interval.high[0])}
        p = equivalence_p(means.mean(), np.asarray(error), len(means) - 1.0, MARGIN)
        numbers["p_equivalent"] = float(p)
        text = f"t-interval and equivalence over {len(runs)} draws; {text}"
    return numbers | {"method": text}


def _paired(runs: list[list[Floats]]) -> Clustered:
    """Differences by sequence; one sequence is one cluster in all draws."""
    values = np.concatenate([one - other for one, other in runs])
    sequences = np.tile(np.arange(len(runs[0][0])), len(runs))
    draws = np.repeat(np.arange(len(runs)), len(runs[0][0])) if len(runs) > 1 else None
    return cluster_values(values[:, None], sequences, np.zeros_like(sequences), draws)


def _given(data: Clustered, key: tuple[int | str, ...]) -> dict[str, Any]:
    if not data.sums.any():
        return {}  # two runs that are one so far
    interval = mean_interval(data, ("utility", *key))
    low, high = float(interval.low[0]), float(interval.high[0])
    error, freedom = cluster_standard_error(data)
    p = float(equivalence_p(data.means, error, freedom, MARGIN)[0])
    different = float(sign_flip_p(data, ("utility", *key))[0])
    ends = {"given_low": low, "given_high": high, "ci_low": low, "ci_high": high}
    return ends | {"p_value": different, "p_adjusted": different, "p_equivalent": p}
