"""What was assigned: the level of every record in each arm and draw, its factors, and the records that these insert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..core.design import FACTORS, ArmDesign, Suite
from ..core.parquet import read_table
from ..core.workspace import Workspace
from ..insertion.origins import TWIN

ArmDraw = tuple[str, int]
Codes = NDArray[np.int64]
MEND = "run `costar insert` again"


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """By arm and draw: record → level, also of records that the arm does not insert, and the records that it inserts."""

    levels: Mapping[ArmDraw, dict[str, int]]
    members: Mapping[ArmDraw, frozenset[str]]


def read_assigned(workspace: Workspace) -> Assigned:
    """The assignments of a built suite.

    Raises:
        CostarError: they are missing or damaged.
    """
    table = read_table(workspace.insertion / "assignments.parquet", mend=MEND)
    levels: dict[ArmDraw, dict[str, int]] = {}
    members: dict[ArmDraw, set[str]] = {}
    columns = (table.column(name).to_pylist() for name in ("arm", "draw", "record_id", "level", "split"))
    for arm, draw, record_id, level, split in zip(*columns, strict=True):
        levels.setdefault((arm, draw), {})[record_id] = level
        own = members.setdefault((arm, draw), set())
        if split == "member":
            own.add(record_id)
    return Assigned(levels=levels, members={key: frozenset(own) for key, own in members.items()})


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """The main records [N] of a suite as columns of codes, and what each got in every arm and draw.

    A record's row is its place among the main records. `perturbation`, `cluster` and `stratum` [N] number the names in
    `perturbations` (in suite order), `clusters` and `strata` (sorted). `levels` [N] are also those of records that an arm
    does not insert. `cells` [N], only of arms that randomize a factor, number `arm.combinations(perturbation)`; 0 for
    records of perturbations with one combination.
    """

    ids: tuple[str, ...]
    perturbation: Codes
    perturbations: tuple[str, ...]
    cluster: Codes
    clusters: tuple[str, ...]
    stratum: Codes
    strata: tuple[str, ...]
    levels: Mapping[ArmDraw, Codes]
    cells: Mapping[ArmDraw, Codes]

    def members(self, perturbation: str) -> Codes:
        """The rows of a perturbation's records, ascending."""
        return np.flatnonzero(self.perturbation == self.perturbations.index(perturbation))


def read_subjects(suite: Suite, workspace: Workspace, records: pa.Table) -> Subjects:
    """The main records of a table of records, with what was assigned to them.

    Raises:
        CostarError: the assignments are missing or damaged.
    """
    mains = records.filter(pc.equal(records.column("role"), "main"))
    names = mains.column("perturbation").to_pylist()
    cluster, clusters = _coded(mains.column("cluster_id"))
    stratum, strata = _coded(mains.column("stratum"))
    order = {name: number for number, name in enumerate(suite.perturbations)}
    perturbation = np.array([order[name] for name in names], np.int64)
    levels, cells = _assigned(suite, workspace, mains.column("record_id"), perturbation)
    return Subjects(
        ids=tuple(mains.column("record_id").to_pylist()),
        perturbation=perturbation,
        perturbations=tuple(suite.perturbations),
        cluster=cluster,
        clusters=clusters,
        stratum=stratum,
        strata=strata,
        levels=levels,
        cells=cells,
    )


def _coded(column: pa.ChunkedArray) -> tuple[Codes, tuple[str, ...]]:
    """Texts [N] as places among their sorted values."""
    names = sorted(pc.unique(column).to_pylist())
    return pc.index_in(column, pa.array(names, pa.string())).to_numpy().astype(np.int64), tuple(names)


def _assigned(
    suite: Suite, workspace: Workspace, ids: pa.ChunkedArray, perturbation: Codes
) -> tuple[dict[ArmDraw, Codes], dict[ArmDraw, Codes]]:
    """Levels and cells [N] by arm and draw."""
    table = read_table(workspace.insertion / "assignments.parquet", mend=MEND)
    table = table.filter(pc.invert(pc.ends_with(table.column("record_id"), TWIN)))
    table = table.append_column("row", pc.index_in(table.column("record_id"), ids.combine_chunks()))
    arms, draws = (table.column(name).dictionary_encode().combine_chunks() for name in ("arm", "draw"))
    levels: dict[ArmDraw, Codes] = {}
    cells: dict[ArmDraw, Codes] = {}
    codes = arms.indices.to_numpy().astype(np.int64) * len(draws.dictionary) + draws.indices.to_numpy()
    for code in np.unique(codes).tolist():
        arm, draw = divmod(code, len(draws.dictionary))
        key = (arms.dictionary[arm].as_py(), draws.dictionary[draw].as_py())
        own = table.filter(pa.array(codes == code))
        rows = own.column("row").to_numpy()
        assert len(rows) == len(ids), "an assignment has every main record"
        levels[key] = np.empty(len(ids), np.int64)
        levels[key][rows] = own.column("level").to_numpy()
        design = suite.arms.get(key[0])
        if design is not None and any(len(design.factors[name]) > 1 for name in design.inserted):
            cells[key] = np.zeros(len(ids), np.int64)
            cells[key][rows] = _cells(suite, design, own, perturbation[rows])
    return levels, cells


def _cells(suite: Suite, arm: ArmDesign, assigned: pa.Table, perturbation: Codes) -> Codes:
    """The combination [n] of factors of each row of assignments."""
    columns = {name: np.array(assigned.column(name).to_pylist(), object) for name in FACTORS[1:]}
    ends = (assigned.column(name).to_pylist() for name in ("phase_start", "phase_end"))
    columns["phase"] = np.array([f"{start}-{end}" for start, end in zip(*ends, strict=True)], object)
    found = np.zeros(len(assigned), np.int64)
    for ordinal, name in enumerate(suite.perturbations):
        combinations = arm.combinations(name)
        if name in arm.inserted and len(combinations) > 1:
            own = np.flatnonzero(perturbation == ordinal)
            varying = [place for place in range(len(FACTORS)) if len({each[place] for each in combinations}) > 1]
            number = {tuple(each[place] for place in varying): n for n, each in enumerate(combinations)}
            texts = [_named(columns[FACTORS[place]][own], [each[place] for each in combinations]) for place in varying]
            found[own] = [number[key] for key in zip(*texts, strict=True)]
    return found


def _named(texts: NDArray[np.object_], values: Sequence[str]) -> list[str]:
    """Texts as the arm names them: the canonical rendering has its own name in assignments, and may have none there."""
    return [text if text in values else "" for text in texts]
