"""What was assigned: the level of every record in each arm and draw, and the records that these insert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..core.parquet import read_table
from ..core.workspace import Workspace

ArmDraw = tuple[str, int]


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
    table = read_table(workspace.insertion / "assignments.parquet", mend="run `costar insert` again")
    levels: dict[ArmDraw, dict[str, int]] = {}
    members: dict[ArmDraw, set[str]] = {}
    columns = (table.column(name).to_pylist() for name in ("arm", "draw", "record_id", "level", "split"))
    for arm, draw, record_id, level, split in zip(*columns, strict=True):
        levels.setdefault((arm, draw), {})[record_id] = level
        own = members.setdefault((arm, draw), set())
        if split == "member":
            own.add(record_id)
    return Assigned(levels=levels, members={key: frozenset(own) for key, own in members.items()})
