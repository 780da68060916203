"""Who has read what, one flat row for every record of a pair: what a membership benchmark is made of."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ..core.design import RunName, Suite
from ..core.parquet import read_table
from ..core.workspace import Workspace
from ..insertion.records import read_records
from ..manifests.tables import BIG, INT, STRING
from .canary import RISK, canary_of

MEND = "run `costar insert` again"
ROWS = pa.schema(
    [
        ("run", STRING),
        ("arm", STRING),
        ("draw", BIG),
        ("record_id", STRING),
        ("perturbation", STRING),
        ("risk", STRING),
        ("kind", STRING),
        ("cluster_id", STRING),
        ("stratum", STRING),
        ("level", INT),
        ("split", STRING),
        ("phase_start", STRING),
        ("phase_end", STRING),
        ("rendering", STRING),
        ("text", STRING),
        ("n_tokens", BIG),
        ("licence", STRING),
        ("source", STRING),
        ("canary", STRING),
    ]
)


def membership_rows(suite: Suite, workspace: Workspace, arm: str, model: str, draw: int) -> pa.Table:
    """The main records of the perturbations that an arm inserts, in the order of `records`; `run` is the treated one.

    `text` is the rendering that the arm inserts, of several the first; of held-out records the one that it would insert.

    Raises:
        CostarError: records or assignments are missing or damaged.
    """
    records, renderings = read_records(workspace.insertion)
    inserted = pa.array(suite.arms[arm].inserted, pa.string())
    main = pc.equal(records.column("role"), "main")
    records = records.filter(pc.and_(main, pc.is_in(records.column("perturbation"), value_set=inserted)))
    assigned = read_table(workspace.insertion / "assignments.parquet", mend=MEND)
    assigned = assigned.filter(pc.and_(pc.equal(assigned.column("arm"), arm), pc.equal(assigned.column("draw"), draw)))
    places = pc.index_in(records.column("record_id"), value_set=assigned.column("record_id").combine_chunks())
    assigned = assigned.take(places)
    rows = _rows_of(renderings, records.column("record_id"), assigned.column("rendering"))
    written = renderings.take(rows)
    test_item = pc.equal(records.column("risk"), RISK)
    columns = {name: records.column(name) for name in ROWS.names if name in records.schema.names}
    columns |= {name: assigned.column(name) for name in ("arm", "draw", "level", "split", "phase_start", "phase_end")}
    columns |= {name: written.column(name) for name in ("rendering", "text", "n_tokens")}
    columns["run"] = pa.array([str(RunName(arm=arm, model=model, draw=draw))] * len(records), pa.string())
    columns["canary"] = pc.if_else(test_item, canary_of(workspace), "")
    return pa.table({name: columns[name] for name in ROWS.names}).cast(ROWS)


def _rows_of(renderings: pa.Table, ids: pa.ChunkedArray, names: pa.ChunkedArray) -> pa.Array:
    """The row of `renderings` that each record is inserted in; of numbered renderings the first."""
    known = _keys(renderings.column("record_id"), renderings.column("rendering"))
    plain = pc.index_in(_keys(ids, names), value_set=known)
    numbered = pc.index_in(_keys(ids, pc.binary_join_element_wise(names, "0", "/")), value_set=known)
    rows = pc.coalesce(plain, numbered)
    assert rows.null_count == 0, "every record has the rendering that the arm names"
    return rows


def _keys(ids: pa.ChunkedArray, names: pa.ChunkedArray) -> pa.Array:
    """One text of record and rendering; a line break parts them, which neither has."""
    return pc.binary_join_element_wise(ids.combine_chunks(), names.combine_chunks(), "\n")
