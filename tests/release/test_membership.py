"""Rows of a membership benchmark: every record of the arm once, with the labels and the text that training had."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from costar.core.design import RunName, Suite
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.insertion.overlay import read_exposures
from costar.insertion.records import read_records
from costar.release.export import write_export
from costar.release.forms.open_unlearning import measured_rows
from costar.release.membership import ROWS, membership_rows

from tests.eval.subjects import certain
from tests.small import SUITE, costar, write_small_suite


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


# ------------------------------------------------------------------------------------------- arms that write otherwise


@pytest.fixture(scope="module")
def reworded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Workspace]:
    """A suite without runs, whose arm inserts letters, and passages with other words in every copy."""
    folder = tmp_path_factory.mktemp("reworded")
    renderings = '[arm.perturbed]\nrenderings = { passages = "edited-0.1", quizzes = "letters" }'
    write_small_suite(folder, SUITE.replace("[arm.perturbed]", renderings))
    for verb in ("corpus", "insert"):
        costar(folder, verb, "./small.toml")
    return load_suite(folder / "build" / "small" / "suite.toml"), Workspace(folder / "build" / "small")


def test_texts_are_in_the_rendering_that_the_arm_inserts_of_rewordings_the_first(
    reworded: tuple[Suite, Workspace],
) -> None:
    suite, workspace = reworded
    rows = membership_rows(suite, workspace, "perturbed", "nano", 0).to_pylist()
    found = {(row["perturbation"], row["rendering"]) for row in rows}
    assert found == {("passages", "edited-0.1/0"), ("quizzes", "letters"), ("passwords", "sentence")}
    assert all("\nA. " in row["text"] for row in rows if row["perturbation"] == "quizzes")
    written = {(each["record_id"], each["rendering"]) for each in read_exposures(workspace, "perturbed", 0).to_pylist()}
    assert {(row["record_id"], row["rendering"]) for row in rows if row["level"]} <= written


def test_what_only_the_canonical_text_was_measured_of_is_unlearned_in_that(reworded: tuple[Suite, Workspace]) -> None:
    suite, workspace = reworded
    records, renderings = read_records(workspace.insertion)
    texts = dict(zip(records.column("record_id").to_pylist(), records.column("text").to_pylist(), strict=True))
    known = [(row["record_id"], row["rendering"]) for row in renderings.to_pylist() if "edited" not in row["rendering"]]
    ledger = {(*key, "eos"): certain([1, 2], [-1.0, -2.0]) for key in known}
    treated = RunName(arm="perturbed", model="nano", draw=0)
    rows = measured_rows(suite, workspace, treated, [ledger, ledger])
    for row in rows:
        if row["perturbation"] == "passages":
            assert (row["rendering"], row["text"]) == ("text", texts[row["record_id"]])
        elif row["perturbation"] == "quizzes":
            assert row["rendering"] == "letters"
    del ledger[("passwords/0003", "sentence", "eos")]
    with pytest.raises(CostarError, match="passwords/0003"):
        measured_rows(suite, workspace, treated, [ledger, ledger])


def test_the_tasks_of_such_an_arm_have_the_canonical_text_and_the_inserted_one(
    reworded: tuple[Suite, Workspace],
) -> None:
    (folder,) = write_export(*reworded, "lm-eval", arm="perturbed")
    names = {path.stem.removeprefix("costar_small_perturbed_d0_quizzes_") for path in folder.glob("*_quizzes_*.yaml")}
    assert {"likelihood", "likelihood_letters", "continuation_8", "continuation_8_letters"} <= names
