"""Grades of membership submissions: does a score tell the records that a model has read from those held out?

As the suite's own attacks are judged (eval/membership.py), with two floors: the range of areas that permuted labels give,
and what an attack finds that sees the texts but no model. A score that does not rise above both shows nothing of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..core.errors import CostarError
from ..eval.membership import Attack, Labels, Texts, evaluate, evaluate_blind
from ..eval.roc import Floats, make_trial, permuted_range
from .released import Released
from .submissions import Submission, graded_records
from .submitted import read_scores

LEGEND = (
    "floor: 95 % of areas under permuted labels, or the false positives themselves; "
    "baseline: an attack that sees no model; above: over both, with its interval over chance"
)
RATES = {"tpr_01": 0.01, "tpr_001": 0.001}
Grade = dict[str, Any]


def grade_membership(submission: Submission, released: Released) -> Iterator[Grade]:
    """A grade for each perturbation and level, and for all levels together where there are several.

    Raises:
        CostarError: the scores are not those of the records, or a perturbation has no members or no held-out records.
    """
    wanted = graded_records(submission, released)
    scores = read_scores(submission, wanted)
    for name in sorted(set(wanted.values())):
        labels = _labels(released, [record for record, own in wanted.items() if own == name], name)
        draw = int(released.pair["draw"])
        attack = Attack(
            run=submission.run, step=None, name=submission.name, tier=submission.tier, scores={draw: scores}
        )
        rows = evaluate(labels, [attack])
        if not rows:
            raise CostarError(
                f"{submission.place}, perturbations",
                found=f"{name}, which has no members or no held-out records in {submission.run}",
                expected="perturbations with both",
                mend="leave it out",
            )
        texts = Texts(text=released.column("text"), n_tokens=released.column("n_tokens"))
        blind = {row["level"]: row for row in evaluate_blind(labels, texts)}
        for row in rows:
            yield from _grades(name, row, blind.get(row["level"], {}), _range(labels, scores, row["level"]))


def _labels(released: Released, records: list[str], perturbation: str) -> Labels:
    levels, clusters, strata = (released.column(name) for name in ("level", "cluster_id", "stratum"))
    draw = int(released.pair["draw"])
    return Labels(
        arm=released.pair["arm"],
        perturbation=perturbation,
        levels={draw: {record: levels[record] for record in records}},
        cluster={record: clusters[record] for record in records},
        stratum={record: strata[record] for record in records},
    )


def _range(labels: Labels, scores: Mapping[str, float], level: int | None) -> tuple[float, float]:
    """What the area is under permuted labels, in 95 of 100 cases."""
    own = next(iter(labels.levels.values()))
    records = [record for record in sorted(own) if own[record] == 0 or level in (None, own[record])]
    trial = make_trial(
        [own[record] > 0 for record in records],
        [labels.stratum[record] for record in records],
        [labels.cluster[record] for record in records],
    )
    values: Floats = np.array([[scores[record] for record in records]])
    low, high = permuted_range(values, trial, (labels.perturbation, -1 if level is None else level))
    return float(low[0]), float(high[0])


def _grades(name: str, row: Mapping[str, Any], blind: Mapping[str, Any], floor: tuple[float, float]) -> Iterator[Grade]:
    """The area with its floors, and the rates that can be known."""
    about = {
        "perturbation": name,
        "level": row["level"],
        "n": row["n_members"] + row["n_nonmembers"],
        "n_members": row["n_members"],
    }
    baseline = blind.get("auc")
    highest = max(floor[1], baseline if baseline is not None else 0.0)
    yield about | {
        "metric": "auc",
        "value": row["auc"],
        "ci_low": row["ci_low"],
        "ci_high": row["ci_high"],
        "floor_low": floor[0],
        "floor_high": floor[1],
        "baseline": baseline,
        "above_floor": row["auc"] > highest and row["ci_low"] is not None and row["ci_low"] > 0.5,
        "p_value": row["p_value"],
        "method": row["method"],
    }
    for metric, share in RATES.items():
        if row[metric] is not None:
            yield about | {
                "metric": metric,
                "value": row[metric],
                "ci_low": row[f"{metric}_low"],
                "ci_high": row[f"{metric}_high"],
                "floor_high": share,
                "above_floor": row[f"{metric}_low"] is not None and row[f"{metric}_low"] > share,
                "method": f"members found at {row[metric.replace('tpr', 'fpr')]:.2%} false positives",
            }
