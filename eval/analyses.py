"""What is computed from scores for all pairs: effects, half-doses, retention, verdicts. Scores are read once, and the tables
are written in one step, so that none of them is ever older than another."""

from __future__ import annotations

from typing import Any

from ..core.design import Suite
from ..core.errors import CostarError
from ..core.parquet import read_table, write_rows
from ..core.workspace import Workspace, changed_files, finish_step, output_lock, read_marker, start_step
from ..manifests.tables import DOSE_FITS, EFFECTS, HYPOTHESES, RETENTION
from .dose_fits import all_dose_fits
from .effects import effect_rows
from .hypotheses import verdicts
from .retention import all_retention
from .scores import Scores, load_scores

TABLES = {"effects": EFFECTS, "dose_fits": DOSE_FITS, "retention": RETENTION, "hypotheses": HYPOTHESES}
STEP = "effects"
MEND = "run `costar eval` again"


def compute_analyses(suite: Suite, workspace: Workspace, scores: Scores | None = None) -> Scores:
    """Rebuild the tables from every score that is present (or from `scores`), which is returned."""
    scores = scores or load_scores(suite, workspace)
    with output_lock(workspace.eval, STEP, wait=True):
        effects = effect_rows(suite, workspace, scores)
        found = {
            "effects": effects,
            "dose_fits": all_dose_fits(suite, scores),
            "retention": all_retention(suite, scores),
            "hypotheses": verdicts(suite.hypotheses, effects),
        }
        start_step(workspace.eval, STEP)
        paths = []
        for name, schema in TABLES.items():
            paths.append(workspace.eval / f"{name}.parquet")
            write_rows(paths[-1], schema, found[name])
        finish_step(workspace.eval, "", paths, STEP)
    return scores


def require_analyses(workspace: Workspace) -> None:
    """The tables that `costar eval` computed, all of them, with their own bytes.

    Raises:
        CostarError: they are missing, were not finished, changed, or are those of another version.
    """
    place = workspace.eval
    if not (place / "effects.parquet").is_file():
        raise CostarError(
            str(place), found="no measured pair", expected="scores and effects", mend="run `costar eval` first"
        )
    if read_marker(place, STEP) is None or not all((place / f"{name}.parquet").is_file() for name in TABLES):
        raise CostarError(str(place), found="effects that were not finished", expected="all tables", mend=MEND)
    for name in changed_files(place, STEP):
        path = str(place / name)
        raise CostarError(path, found="other bytes than those computed", expected="its own bytes", mend=MEND)
    for name, schema in TABLES.items():
        table = read_table(place / f"{name}.parquet", mend=MEND)
        if table.column_names != schema.names:
            path = str(place / f"{name}.parquet")
            raise CostarError(path, found="the columns of another version", expected=", ".join(schema.names), mend=MEND)


def read_analysis(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    """The rows of one of the tables.

    Raises:
        CostarError: as `require_analyses`.
    """
    require_analyses(workspace)
    rows: list[dict[str, Any]] = read_table(workspace.eval / f"{name}.parquet", mend=MEND).to_pylist()
    return rows
