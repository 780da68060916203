"""A membership benchmark of a pair as Parquet: who was read how often, with the texts and what attacks say of them.

`release/membership/<arm>-d<draw>/<perturbation>/` has `nonmember.parquet` and one `member_<level>.parquet` a level, so
that `datasets.load_dataset(folder, perturbation)` gives them as splits. The rows are those of the release's own config
`membership`; `<attack>_treated` and `<attack>_control` are scores of both models, where they were measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...core.design import RunName, Suite
from ...core.hashing import sha256_file
from ...core.parquet import write_table
from ...core.workspace import Workspace, write_text
from ...eval.scores import Scores, load_scores
from ...insertion.build import require_insertion
from ...manifests.catalogue import score_files
from ..chosen import Chosen
from ..folders import built_from, pair_folder, pairs_of, write_folder
from ..membership import membership_rows
from ..pages import rendered

OPTIONS = ("model",)
FOLDER = "membership"
PROBE, METRIC, ATTACK = "membership", "attack_score", "attack="
HELD_OUT = "nonmember"


def write(suite: Suite, workspace: Workspace, chosen: Chosen) -> list[Path]:
    """Write the benchmark of an arm's pairs of one draw.

    Raises:
        CostarError: an arm that is not the treated one of a pair, a suite that is not built that far, or another writer.
    """
    pairs = pairs_of(suite, chosen)
    require_insertion(suite, workspace)
    scores = load_scores(suite, workspace)
    return [_write_pair(suite, workspace, treated, control, scores) for treated, control in pairs]


def _write_pair(suite: Suite, workspace: Workspace, treated: RunName, control: RunName, scores: Scores) -> Path:
    step = suite.arms[treated.arm].train.steps
    read = [sha256_file(path) for run in (treated, control) for path in sorted(_files(workspace, str(run)))]
    inputs = [str(treated), str(control), step, built_from(workspace), read]

    def fill(folder: Path) -> None:
        table = membership_rows(suite, workspace, treated.arm, treated.model, treated.draw)
        attacks = []
        for role, run in (("treated", treated), ("control", control)):
            for attack, values in attack_scores(scores, str(run), step).items():
                table = table.append_column(f"{attack}_{role}", _column(values, table.column("record_id").to_pylist()))
                attacks.append(attack)
        configs = {name: _write_splits(folder, table, name) for name in suite.arms[treated.arm].inserted}
        page = rendered(
            "membership.md.j2",
            suite=suite.name,
            name=pair_folder(suite, treated),
            treated=treated,
            control=control,
            step=step,
            configs=configs,
            attacks=sorted(set(attacks)),
        )
        write_text(folder / "README.md", page)

    return write_folder(workspace, FOLDER, pair_folder(suite, treated), inputs, fill)


def attack_scores(scores: Scores, run: str, step: int) -> dict[str, dict[str, float]]:
    """What each attack says of each record at a step, higher for a more likely member; empty where none was measured."""
    measures = sorted(scores.values.get(run, {}).get(step, {}))
    return {
        variant.removeprefix(ATTACK).replace("-", "_"): scores.by_id(run, step, (probe, variant, metric))
        for probe, variant, metric in measures
        if (probe, metric) == (PROBE, METRIC) and variant.startswith(ATTACK) and "," not in variant
    }


def _files(workspace: Workspace, run: str) -> list[Path]:
    """The files of a run's scores; none of a run that was not begun."""
    return score_files(workspace, run) if workspace.scores(run).is_dir() else []


def _column(values: dict[str, float], ids: list[Any]) -> pa.Array:
    found = np.array([values.get(record_id, np.nan) for record_id in ids], float)
    return pa.array(found, pa.float64(), mask=np.isnan(found))


def _write_splits(folder: Path, table: pa.Table, perturbation: str) -> dict[str, int]:
    """The files of a perturbation: split → rows, held-out records first, then members by level."""
    own = table.filter(pc.equal(table.column("perturbation"), perturbation))
    member = pc.equal(own.column("split"), "member")
    parts = {HELD_OUT: own.filter(pc.and_(pc.invert(member), pc.equal(own.column("level"), 0)))}
    for level in sorted(set(own.filter(member).column("level").to_pylist())):
        parts[f"member_{level}"] = own.filter(pc.and_(member, pc.equal(own.column("level"), level)))
    for name, part in parts.items():
        write_table(folder / perturbation / f"{name}.parquet", part)
    return {name: len(part) for name, part in parts.items()}
