"""`verify` finds every kind of damage to an insertion, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from costar.core.suite import load_suite
from costar.core.workspace import Workspace, finish_step, read_marker
from costar.insertion.verify import verify_insertion
from costar.manifests.tables import EXPOSURES

Rows = list[dict[str, Any]]


def problems(built: Path) -> list[str]:
    return verify_insertion(load_suite(built / "suite.toml"), Workspace(built), lambda share, remark: None).problems


def test_an_untouched_suite_is_verified(built: Path) -> None:
    proof = verify_insertion(load_suite(built / "suite.toml"), Workspace(built), lambda share, remark: None)
    assert proof.problems == []
    assert proof.exposures == 12 + 168 + 20 + 40 + 2 * (12 + 168)
    assert proof.sequences == 4 * 768 - proof.exposures


def remark(folder: Path, step: str) -> None:
    """Write the marker anew, as someone would who wants the damage to go unnoticed."""
    marker = read_marker(folder, step)
    assert marker is not None
    finish_step(folder, marker["input"], [folder / name for name in marker["files"]], step)


def shift_slot(rows: Rows) -> Rows:
    rows[5]["slot"] += 1
    return rows


def swap_records(rows: Rows) -> Rows:
    a, b = next(
        (i, j)
        for i in range(len(rows))
        for j in range(i)
        if rows[i]["record_id"] != rows[j]["record_id"] and rows[i]["length"] == rows[j]["length"]
    )
    rows[a]["record_id"], rows[b]["record_id"] = rows[b]["record_id"], rows[a]["record_id"]
    rows[a]["copy"], rows[b]["copy"] = rows[b]["copy"], rows[a]["copy"]
    return rows


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shift_slot, "slot"),
        (swap_records, "expected"),
        (lambda rows: rows[1:], "is missing at slot"),
        (lambda rows: [*rows, {**rows[0], "copy": 99}], "copy 99 at slot"),
        (lambda rows: [{**row, "start": row["start"] + (i == 3)} for i, row in enumerate(rows)], ": start is"),
    ],
)
def test_damaged_exposures_are_named(built_copy: Path, damage: Callable[[Rows], Rows], message: str) -> None:
    path = built_copy / "insertion" / "exposures" / "arm=perturbed" / "draw=0" / "exposures.parquet"
    rows = damage(pq.read_table(path, partitioning=None).to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, EXPOSURES), path)
    assert "its bytes are not those" in problems(built_copy)[0]
    remark(built_copy / "insertion", "insert")
    assert any("arm perturbed" in problem and message in problem for problem in problems(built_copy))


def test_a_flipped_base_token_is_named(built_copy: Path) -> None:
    path = built_copy / "corpus" / "tokens.bin"
    tokens = np.fromfile(path, np.uint16)
    tokens[1000] ^= 1
    tokens.tofile(path)
    assert problems(built_copy) == [f"{path}: its bytes are not those that were built"]


def test_an_overlay_that_changes_a_token_beside_the_span_is_named(
    built_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a mock of the parts under test: the reader is made wrong on purpose, and the proof has to notice."""
    from costar.insertion.overlay import Overlay

    right = Overlay.sequences

    def wrong(self: Overlay, slots: Any) -> Any:
        rows = right(self, slots)
        rows[:, 0] = np.where(np.asarray(slots) == 17, rows[:, 0] ^ 1, rows[:, 0])
        return rows

    monkeypatch.setattr(Overlay, "sequences", wrong)
    assert any("slot 17" in problem for problem in problems(built_copy))


def test_wrong_levels_are_named(built_copy: Path) -> None:
    folder = built_copy / "insertion"
    table = pq.read_table(folder / "assignments.parquet", partitioning=None)
    rows = table.to_pylist()
    changed = next(row for row in rows if row["arm"] == "perturbed" and row["level"] == 0)
    changed["level"] = 8
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / "assignments.parquet")
    remark(folder, "insert")
    assert any(f"{changed['record_id']} is assigned (8," in problem for problem in problems(built_copy))


def test_facts_of_the_corpus_name_no_place_or_time(built: Path) -> None:
    """Clock, host and path never enter a hashed file (invariant 8)."""
    text = json.dumps(json.loads((built / "corpus" / "corpus.json").read_text()))
    assert str(built.parent) not in text
    assert "/" not in json.loads(text)["source"]
