"""Effects: paired differences between runs that differ in their arm, by level, with intervals and p-values.

- `total`: treated − control at a level. `spillover`: total at level 0. `direct`: total at the level − total at 0.
- `timing`: for a perturbation, later − earlier phase, of two arms that carry nothing else and differ in the phase only.
- `placebo`: within a run that has read nothing of a perturbation, nor its parents, level − 0: it should find nothing.

Everything is computed in numpy on sorted input, so equal scores give equal bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.design import ArmDesign, RunName, Suite, earlier_exposure
from ..core.errors import CostarError
from ..core.parquet import read_table, write_rows
from ..core.workspace import Workspace, changed_files, finish_step, output_lock, start_step
from ..manifests.tables import EFFECTS
from .scores import Measure, Scores, load_scores
from .stats import (
    LEAST_CLUSTERS,
    Clustered,
    bootstrap_differences,
    bootstrap_means,
    cluster_values,
    holm,
    label_permutation_p,
    percentile_interval,
    sign_flip_p,
)

FLIP = "percentile interval of 2,000 cluster bootstraps; p by 4,999 sign flips of clusters"
LABELS = "percentile interval of 2,000 cluster bootstraps; p by 4,999 permutations of levels within strata"
FEW = f"fewer than {LEAST_CLUSTERS} clusters: no interval"
CONSTANT = "no variation within a group: no interval"


@dataclass(frozen=True)
class Contrast:
    """Runs to compare, one (treated, control) a draw; without controls the values of the treated runs themselves."""

    treated: tuple[str, ...]
    control: tuple[str, ...]
    model: str
    perturbation: str

    def label(self, runs: tuple[str, ...]) -> str:
        return runs[0] if len(runs) == 1 else runs[0].rsplit(".", 1)[0] if runs else ""


def compute_effects(suite: Suite, workspace: Workspace) -> Path:
    """Rebuild `effects.parquet` from every score that is present."""
    path = workspace.eval / "effects.parquet"
    with output_lock(workspace.eval, "effects", wait=True):
        scores = load_scores(suite, workspace)
        rows = list(all_effects(suite, scores))
        order = sorted(
            rows,
            key=lambda row: tuple(str(row[n]) if n not in ("level", "step") else row[n] for n in EFFECTS.names[:11]),
        )
        start_step(workspace.eval, "effects")
        write_rows(path, EFFECTS, order)
        finish_step(workspace.eval, "", [path], "effects")
    return path


def read_effects(workspace: Workspace) -> list[dict[str, Any]]:
    """The rows of `effects.parquet`, refused when their bytes are not those that were computed."""
    mend = "run `costar eval` again"
    if changed_files(workspace.eval, "effects"):
        path = workspace.eval / "effects.parquet"
        raise CostarError(str(path), found="other effects than those computed", expected="its own bytes", mend=mend)
    rows: list[dict[str, Any]] = read_table(workspace.eval / "effects.parquet", mend=mend).to_pylist()
    return rows


def all_effects(suite: Suite, scores: Scores) -> Iterator[dict[str, Any]]:
    models = sorted({run.split(".")[1] for run in scores.values})
    for model in models:
        for arm in suite.arms.values():
            if arm.control:
                control = suite.arms[arm.control]
                for perturbation in arm.inserted:
                    contrast = _contrast(scores, arm, control, model, perturbation)
                    filled = arm.filler != "none"
                    yield from (_displacement if filled else _pair_effects)(contrast, scores)
            if not arm.inserted:
                for perturbation in unread(suite, arm):
                    treated = tuple(f"{arm.name}.{model}.d{draw}" for draw in range(arm.draws))
                    present = tuple(run for run in treated if run in scores.values)
                    yield from _placebo(Contrast(present, (), model, perturbation), scores)
        for later, earlier, perturbation in timing_pairs(suite):
            yield from _timing(_contrast(scores, later, earlier, model, perturbation), scores)


def unread(suite: Suite, arm: ArmDesign) -> list[str]:
    """The perturbations of which an arm's runs have read nothing, themselves or through their ancestors."""
    if earlier_exposure(arm.name, suite.arms) == "unknown":
        return []
    read: set[str] = set()
    design: ArmDesign | None = arm
    while design is not None:
        read |= set(design.inserted if design.filler == "none" else ())
        design = suite.arms[design.parent] if design.parent else None
    return [name for name in suite.perturbations if name not in read]


def _contrast(scores: Scores, treated: ArmDesign, control: ArmDesign, model: str, perturbation: str) -> Contrast:
    pairs = [
        (f"{treated.name}.{model}.d{draw}", f"{control.name}.{model}.d{draw}")
        for draw in range(min(treated.draws, control.draws))
    ]
    present = [pair for pair in pairs if all(run in scores.values for run in pair)]
    return Contrast(tuple(t for t, _ in present), tuple(c for _, c in present), model, perturbation)


def timing_pairs(suite: Suite) -> list[tuple[ArmDesign, ArmDesign, str]]:
    """(later, earlier, perturbation) of arms that insert that perturbation alone and differ in its phase only."""
    found = []
    arms = list(suite.arms.values())
    for i, a in enumerate(arms):
        for b in arms[i + 1 :]:
            if len(a.inserted) != 1 or a.inserted != b.inserted or a.train != b.train:
                continue
            name = a.inserted[0]
            if len(a.factors[name]) > 1 or len(b.factors[name]) > 1 or (a.turn, a.filler) != (b.turn, b.filler):
                continue
            if (a.parent, a.init) != (b.parent, b.init):
                continue
            one, other = a.factors[name][0], b.factors[name][0]
            if one != other and replace(one, phase=other.phase) == other:
                later, earlier = (a, b) if one.phase > other.phase else (b, a)
                found.append((later, earlier, name))
    return found


def _common_steps(scores: Scores, contrast: Contrast) -> list[int]:
    runs = contrast.treated + contrast.control
    steps = [set(scores.steps(run)) for run in runs]
    return sorted(set.intersection(*steps)) if steps else []


@dataclass(frozen=True)
class Cells:
    """The measures at one step, and the differences of every level, by cluster, and by cluster and draw."""

    measures: list[Measure]
    by_level: dict[int, Clustered]
    by_draw: dict[int, Clustered]
    records: dict[int, int]


def _cells(scores: Scores, contrast: Contrast, step: int, *, pooled: bool = False) -> Iterator[Cells]:
    """Measures that cover the same records share a group; of each pair of runs, the records that both have a value of.
    `pooled` puts every record in one cell, under level 0.
    """
    groups: dict[tuple[tuple[str, ...], ...], list[Measure]] = defaultdict(list)
    for measure in sorted(scores.values[contrast.treated[0]][step]):
        covered = [scores.values[run][step].get(measure, {}) for run in contrast.treated]
        others = [scores.values[run][step].get(measure, {}) for run in contrast.control] or covered
        pairs = tuple(
            tuple(sorted(r for r in own if scores.perturbation[r] == contrast.perturbation and r in other))
            for own, other in zip(covered, others, strict=True)
        )
        if all(pairs) and _is_own_site(measure, contrast):
            groups[pairs].append(measure)
    for pairs, measures in groups.items():
        values: dict[int, list[list[float]]] = defaultdict(list)
        clusters: dict[int, list[str]] = defaultdict(list)
        strata: dict[int, list[str]] = defaultdict(list)
        draws: dict[int, list[int]] = defaultdict(list)
        for number, treated in enumerate(contrast.treated):
            levels = scores.levels_of(treated)
            own = scores.values[treated][step]
            other = scores.values[contrast.control[number]][step] if contrast.control else None
            for record in pairs[number]:
                level = 0 if pooled else levels[record]
                row = [own[m][record] - (other[m][record] if other else 0.0) for m in measures]
                values[level].append(row)
                clusters[level].append(scores.cluster[record])
                strata[level].append(scores.stratum[record])
                draws[level].append(number)
        arrays = {level: np.array(values[level]) for level in sorted(values)}
        by_level = {level: cluster_values(own, clusters[level], strata[level]) for level, own in arrays.items()}
        by_draw = by_level
        if len(contrast.treated) > 1:
            by_draw = {
                level: cluster_values(own, clusters[level], strata[level], draws[level])
                for level, own in arrays.items()
            }
        yield Cells(measures, by_level, by_draw, {level: len(rows) for level, rows in values.items()})


def _is_own_site(measure: Measure, contrast: Contrast) -> bool:
    """Whether a measure was taken at no site, or at those of the treated arm: a control has the sites of others too."""
    sites = [part.removeprefix("site=") for part in measure[1].split(",") if part.startswith("site=")]
    return not sites or sites == [RunName.parse(contrast.treated[0]).arm]


def _rows(
    estimand: str, contrast: Contrast, cells: Cells, level: int, step: int, statistics: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """One row a measure; below ten clusters, or without any variation, points only."""
    data = cells.by_level[level]
    compared = [data.size] + ([cells.by_level[0].size] if estimand in ("direct", "placebo") else [])
    enough = min(compared) >= LEAST_CLUSTERS
    for number, (probe, variant, metric) in enumerate(cells.measures):
        estimate = float(statistics["estimate"][number])
        low, high = (float(statistics[end][number]) for end in ("low", "high"))
        constant = low == high
        interval = enough and not constant
        yield {
            "estimand": estimand,
            "probe": probe,
            "variant": variant,
            "metric": metric,
            "perturbation": contrast.perturbation,
            "model": contrast.model,
            "treated": contrast.label(contrast.treated),
            "control": contrast.label(contrast.control),
            "factor": "",
            "level": level,
            "step": step,
            "n": cells.records[level],
            "n_clusters": data.size,
            "n_runs": len(contrast.treated),
            "estimate": estimate,
            "ci_low": low if interval else None,
            "ci_high": high if interval else None,
            "p_value": float(statistics["p"][number]) if enough else None,
            **dict.fromkeys(("given_low", "given_high", "band_low", "band_high", "p_adjusted", "p_max_t")),
            "family": "",
            "margin": None,
            "p_equivalent": None,
            "method": (statistics["method"] if not constant else CONSTANT) if enough else FEW,
        }


def _mean_statistics(data: Clustered, key: tuple[int | str, ...]) -> dict[str, Any]:
    low, high = percentile_interval(bootstrap_means(data, key))
    return {"estimate": data.means, "low": low, "high": high, "p": sign_flip_p(data, key), "method": FLIP}


def _difference_statistics(cells: Cells, level: int, key: tuple[int | str, ...]) -> dict[str, Any]:
    """A level less level 0. Clusters are resampled with all their draws; labels were drawn in each draw anew."""
    data, held_out = cells.by_level[level], cells.by_level[0]
    low, high = percentile_interval(bootstrap_differences(data, held_out, key))
    p = label_permutation_p(cells.by_draw[level], cells.by_draw[0], key)
    return {"estimate": data.means - held_out.means, "low": low, "high": high, "p": p, "method": LABELS}


def _pair_effects(contrast: Contrast, scores: Scores) -> Iterator[dict[str, Any]]:
    for step in _common_steps(scores, contrast):
        for cells in _cells(scores, contrast, step):
            total: list[dict[str, Any]] = []
            direct: list[dict[str, Any]] = []
            for level, data in cells.by_level.items():
                key = (contrast.perturbation, level)
                name = "total" if level else "spillover"
                found = list(_rows(name, contrast, cells, level, step, _mean_statistics(data, key)))
                if level:
                    total += found
                else:
                    yield from found
                if level and 0 in cells.by_level:
                    statistics = _difference_statistics(cells, level, key)
                    direct += _rows("direct", contrast, cells, level, step, statistics)
            yield from _adjusted(total)
            yield from _adjusted(direct)


def _placebo(contrast: Contrast, scores: Scores) -> Iterator[dict[str, Any]]:
    """What the labels of levels find in a run that inserts nothing."""
    for step in _common_steps(scores, contrast):
        for cells in _cells(scores, contrast, step):
            rows: list[dict[str, Any]] = []
            for level in cells.by_level:
                if level and 0 in cells.by_level:
                    statistics = _difference_statistics(cells, level, (contrast.perturbation, level))
                    rows += _rows("placebo", contrast, cells, level, step, statistics)
            yield from _adjusted(rows)


def _mean_effects(
    estimand: str, contrast: Contrast, scores: Scores, *, pooled: bool = False
) -> Iterator[dict[str, Any]]:
    """Treated − control at every level, or over all records at once."""
    for step in _common_steps(scores, contrast):
        for cells in _cells(scores, contrast, step, pooled=pooled):
            rows: list[dict[str, Any]] = []
            for level, data in cells.by_level.items():
                statistics = _mean_statistics(data, (contrast.perturbation, level))
                rows += _rows(estimand, contrast, cells, level, step, statistics)
            yield from _adjusted(rows)


def _timing(contrast: Contrast, scores: Scores) -> Iterator[dict[str, Any]]:
    return _mean_effects("timing", contrast, scores)


def _displacement(contrast: Contrast, scores: Scores) -> Iterator[dict[str, Any]]:
    """Filler − control: what the loss of base text does to records, none of which either arm reads."""
    return _mean_effects("displacement", contrast, scores, pooled=True)


def _adjusted(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Holm's adjustment over the levels of one measure; level 0 is a control and stands outside the family."""
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["level"] and row["p_value"] is not None:
            families[(row["probe"], row["variant"], row["metric"])].append(row)
    for family in families.values():
        for row, adjusted in zip(family, holm([row["p_value"] for row in family]), strict=True):
            row["p_adjusted"] = adjusted
    yield from rows
