"""Rows of a membership benchmark: every record of the arm once, with the labels and the text that training had."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from costar.core.design import Suite
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.insertion.overlay import read_exposures
from costar.insertion.records import read_records
from costar.release.membership import ROWS, membership_rows


@pytest.fixture(scope="module")
def suite(built: Path) -> Suite:
    return load_suite(built / "suite.toml")


@pytest.mark.parametrize("arm", ["perturbed", "early", "late"])
def test_levels_are_the_copies_that_were_inserted_and_texts_are_theirs(built: Path, suite: Suite, arm: str) -> None:
    rows = membership_rows(suite, Workspace(built), arm, "nano", 0)
    assert rows.schema.equals(ROWS)
    exposures = read_exposures(Workspace(built), arm, 0).to_pylist()
    copies: dict[str, int] = {}
    for each in exposures:
        copies[each["record_id"]] = copies.get(each["record_id"], 0) + 1
    table = rows.to_pylist()
    assert {row["record_id"]: row["level"] for row in table if row["level"]} == copies
    assert all((row["split"] == "member") == (row["level"] > 0) for row in table)
    _, renderings = read_records(Workspace(built).insertion)
    texts = {(row["record_id"], row["rendering"]): row["text"] for row in renderings.to_pylist()}
    assert all(texts[(row["record_id"], row["rendering"])] == row["text"] for row in table)
    written = {(each["record_id"], each["rendering"]) for each in exposures}
    assert written <= {(row["record_id"], row["rendering"]) for row in table}


def test_every_main_record_of_the_arm_is_there_once_in_the_order_of_records(built: Path, suite: Suite) -> None:
    records = pq.read_table(built / "insertion" / "records.parquet", partitioning=None).to_pylist()
    for arm, names in (("perturbed", set(suite.perturbations)), ("early", {"passages"})):
        expected = [row["record_id"] for row in records if row["role"] == "main" and row["perturbation"] in names]
        found = membership_rows(suite, Workspace(built), arm, "nano", 0)
        assert found.column("record_id").to_pylist() == expected
        assert set(found.column("run").to_pylist()) == {f"{arm}.nano.d0"}


def test_test_items_and_nothing_else_carry_one_canary(built: Path, suite: Suite) -> None:
    rows = membership_rows(suite, Workspace(built), "perturbed", "nano", 0).to_pylist()
    marked = {row["canary"] for row in rows if row["risk"] == "testset"}
    assert len(marked) == 1
    assert all(len(text) > 30 for text in marked)
    assert {row["canary"] for row in rows if row["risk"] != "testset"} == {""}
