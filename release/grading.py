"""`costar score`: a submission against a release, as a table and as `grades.json` and `grades.parquet` beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..core import console
from ..core.parquet import write_rows
from ..core.workspace import output_lock, write_json
from . import extraction_grades, membership_grades, unlearning_grades
from .released import Released, open_pair, release_facts
from .submissions import Submission, check_release, files_sha256, read_submission
from .sums import require_whole

GRADES = pa.schema(
    [
        ("name", pa.string()),
        ("task", pa.string()),
        ("run", pa.string()),
        ("perturbation", pa.string()),
        ("level", pa.int32()),
        ("metric", pa.string()),
        ("n", pa.int64()),
        ("n_members", pa.int64()),
        ("value", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("floor_low", pa.float64()),
        ("floor_high", pa.float64()),
        ("baseline", pa.float64()),
        ("above_floor", pa.bool_()),
        ("p_value", pa.float64()),
        ("queries", pa.float64()),
        ("method", pa.string()),
    ]
)
GRADERS: dict[str, Callable[[Submission, Released], Iterator[dict[str, Any]]]] = {
    "membership": membership_grades.grade_membership,
    "extraction": extraction_grades.grade_extraction,
    "unlearning": unlearning_grades.grade_unlearning,
}
LEGENDS = {
    "membership": membership_grades.LEGEND,
    "extraction": extraction_grades.LEGEND,
    "unlearning": unlearning_grades.LEGEND,
}


def grade(submission: Path, release: Path, sealed: Path | None = None) -> list[dict[str, Any]]:
    """The grades of a submission, rows of `GRADES`; written beside it as well.

    Raises:
        CostarError: the submission is malformed or of another release, a file of the release that it is graded with is
            damaged, or the labels are withheld.
    """
    own = read_submission(submission)
    facts = release_facts(release)
    check_release(own, facts)
    require_whole(release, facts["release_id"], _opened(own, facts))
    released = open_pair(release, facts, own.run, sealed)
    about = {"name": own.name, "task": own.task, "run": own.run}
    found = GRADERS[own.task](own, released)
    rows = [dict.fromkeys(GRADES.names) | about | {k: v for k, v in row.items() if k in GRADES.names} for row in found]
    with output_lock(submission, "score"):
        write_rows(submission / "grades.parquet", GRADES, rows)
        write_json(
            submission / "grades.json",
            {
                "version": 1,
                "release_id": facts["release_id"],
                "submission": {"tier": own.tier, "prefix": own.prefix, "notes": own.notes} | about,
                "files": files_sha256(own),
                "grades": [{key: value for key, value in row.items() if key not in about} for row in rows],
            },
        )
    return rows


def _opened(own: Submission, facts: dict[str, Any]) -> list[str]:
    """The paths of a release that graders open, or how they begin."""
    runs = [pair[role] for pair in facts["pairs"] if pair["treated"] == own.run for role in ("treated", "control")]
    folders = {"membership": [], "extraction": [f"models/{own.run}/"], "unlearning": [f"models/{run}/" for run in runs]}
    return ["data/membership.parquet", "data/scores.parquet", *folders[own.task]]


def print_grades(rows: list[dict[str, Any]]) -> None:
    """The grades as a table, and what its columns mean."""
    cells = []
    for row in rows:
        interval, floor = (
            _span(row[low], row[high]) for low, high in (("ci_low", "ci_high"), ("floor_low", "floor_high"))
        )
        level = "all" if row["level"] is None else row["level"]
        above = {None: "", True: "yes", False: "no"}[row["above_floor"]]
        value = "" if row["value"] is None else f"{row['value']:.3f}"
        baseline = "" if row["baseline"] is None else f"{row['baseline']:.3f}"
        cells.append((row["perturbation"], level, row["metric"], row["n"], value, interval, floor, baseline, above))
    titles = ("perturbation", "level", "metric", "records", "value", "95 % interval", "floor", "baseline", "above")
    console.table(titles, cells, numeric=(3, 4, 5, 6, 7))
    console.say(LEGENDS[rows[0]["task"]])


def _span(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"{'' if low is None else f'{low:.3f}'} … {'' if high is None else f'{high:.3f}'}"
