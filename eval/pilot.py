"""What a measured suite tells of the power of the next: how much treated − control scatters, and how records cluster."""

from __future__ import annotations

import math

import numpy as np

from ..core.design import Suite
from ..core.parquet import read_table
from ..core.power import Pilot
from ..core.session import Session
from ..core.workspace import Workspace, is_whole
from .contrasts import common_steps, contrasts, differences
from .differences import Differences
from .scores import Scores, load_scores


def read_pilot(session: Session, other: Session | None) -> Pilot:
    """The clusters of a suite, where they are assigned, and the spreads of its perturbations in another suite (it may be
    itself), where that has measured perturbations of the same names by the same primary measures."""
    if other is None:
        return Pilot(clusters=_clusters(session.workspace), spread={})
    place = other.workspace
    is_measured = any(place.eval.glob("scores/*/*.parquet")) and is_whole(place.insertion, "insert")
    found = spreads(other.suite, load_scores(other.suite, place)) if is_measured else {}
    ours, theirs = session.suite.eval.analysis.primary, other.suite.eval.analysis.primary
    alike = {name: each for name, each in found.items() if name in ours and ours[name] == theirs[name]}
    return Pilot(clusters=_clusters(session.workspace), spread=alike)


def _clusters(workspace: Workspace) -> dict[str, dict[int, int]]:
    """Clusters by perturbation and level, those of the first draw."""
    if not is_whole(workspace.insertion, "insert"):
        return {}
    found: dict[str, dict[int, int]] = {}
    for row in read_table(workspace.insertion / "balance.parquet", mend="run `costar insert` again").to_pylist():
        if row["draw"] == 0:
            levels = found.setdefault(row["perturbation"], {})
            levels[row["level"]] = levels.get(row["level"], 0) + row["clusters"]
    return {name: dict(sorted(levels.items())) for name, levels in found.items()}


def spreads(suite: Suite, scores: Scores) -> dict[str, float]:
    """By perturbation the standard deviation of a cluster's treated − control of the primary measure within its level, at
    the last step of the pair in which it is largest."""
    found: dict[str, float] = {}
    for contrast in contrasts(suite, scores):
        steps = common_steps(scores, contrast)
        if contrast.estimand == "total" and steps:
            measure = suite.eval.analysis.primary[contrast.perturbation]
            values = differences(scores, contrast, steps[-1], measure)
            spread = within_levels(values) if values is not None else math.nan
            if spread > found.get(contrast.perturbation, 0.0):
                found[contrast.perturbation] = spread
    return found


def within_levels(found: Differences) -> float:
    """The pooled standard deviation of cluster means within draw and level; NaN where no two clusters share one."""
    squares, freedom = 0.0, 0
    for draw in found.draws:
        for level in np.unique(found.level):
            own = found.where((found.draw == draw) & (found.level == level))
            _, places = np.unique(own.cluster, return_inverse=True)
            if len(own) and places.max() > 0:
                means = np.bincount(places, own.value) / np.bincount(places)
                squares += float(((means - means.mean()) ** 2).sum())
                freedom += len(means) - 1
    return math.sqrt(squares / freedom) if freedom else math.nan
