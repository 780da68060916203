"""Every design that a suite file can ask for, built over real text and proven by `verify`."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from costar.core.design import Suite
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace, finish_step, read_marker
from costar.insertion.build import build_insertion
from costar.insertion.overlay import open_suite_overlay
from costar.insertion.records import build_records, check_origins
from costar.insertion.verify import Proof, verify_insertion
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.small import SUITE, search_stream

HEAD = SUITE[: SUITE.index("[arm.standard]")]
TAIL = SUITE[SUITE.index("[train]") : SUITE.index("[release]")]
QUESTIONS = """
[perturbation.questions]
kind      = "qa"
records   = { from = "generator" }
levels    = { 0 = 6, 3 = 6 }
templates = { short = "{question} ({answer})" }
"""
ARMS = """
[arm.standard]
perturbations = []

[arm.factorial]
control       = "none"
perturbations = ["passages", "quizzes"]
factors       = { phase = [[0, 0.5], [0.5, 1]], position = ["start", "end"], spacing = ["uniform", "burst"] }

[arm.formats]
perturbations = ["quizzes"]
factors       = { rendering = ["cloze", "letters"] }

[arm.filled]
perturbations = ["passages"]
filler        = "base"

[arm.treated]
perturbations = ["passages"]
control       = "filled"

[arm.kin]
perturbations = ["quizzes", "questions"]
filler        = "kin"

[arm.swapped]
assignment = "swap"

[arm.third]
assignment = "rotate-1/3"
phase      = { passages = [0.25, 1.0], quizzes = [0, 0.5] }

[arm.edited]
perturbations = ["passages", "questions"]
renderings    = { passages = "edited-0.1", questions = "short" }

[arm.epochs]
control = "none"
steps   = 400
"""


def build(built: Path, folder: Path, arms: str, extra: str = QUESTIONS) -> tuple[Suite, Workspace]:
    """The records and exposures of a suite over the small suite's corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "case.toml"
    path.write_text(HEAD + extra + arms + TAIL)
    suite = load_suite(path)
    check_origins(suite, [folder])
    workspace = Workspace(folder / "build")
    if not workspace.corpus.exists():
        shutil.copytree(built / "corpus", workspace.corpus)
    build_records(suite, workspace.corpus, workspace.insertion, [folder])
    search_stream(suite, workspace)
    build_insertion(suite, workspace, [], [folder])
    return suite, workspace


def verify(suite: Suite, workspace: Workspace) -> Proof:
    return verify_insertion(suite, workspace, lambda share, remark: None)


@pytest.fixture(scope="module")
def case(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Workspace]:
    return build(built, tmp_path_factory.mktemp("designs"), ARMS)


def rows(workspace: Workspace, arm: str) -> list[dict[str, Any]]:
    path = workspace.exposures(arm, 0) / "exposures.parquet"
    found: list[dict[str, Any]] = pq.read_table(path, partitioning=None).to_pylist()
    return found


def test_every_design_is_proven(case: tuple[Suite, Workspace]) -> None:
    suite, workspace = case
    proof = verify(suite, workspace)
    assert proof.problems == []
    assert proof.exposures == sum(len(rows(workspace, arm)) for arm in suite.arms)
    assert proof.sequences == proof.untouched == sum(arm.train.slots for arm in suite.arms.values()) - proof.exposures


def test_a_filler_arm_changes_the_same_tokens_as_the_arm_it_stands_for(case: tuple[Suite, Workspace]) -> None:
    suite, workspace = case
    masks = [
        [(r["slot"], r["start"], r["length"], r["displaced"]) for r in rows(workspace, arm)]
        for arm in ("filled", "treated")
    ]
    assert masks[0] == masks[1]
    texts = [open_suite_overlay(workspace, arm, 0, seed=suite.seed).edits.payload for arm in ("filled", "treated")]
    assert (texts[0] != texts[1]).mean() > 0.5


@pytest.mark.parametrize("arm", ["filled", "kin"])
def test_every_filler_is_used_once_is_no_record_and_is_listed(case: tuple[Suite, Workspace], arm: str) -> None:
    _, workspace = case
    used = [r["record_id"] for r in rows(workspace, arm)]
    assert len(set(used)) == len(used)
    fillers = {r["record_id"]: r for r in pq.read_table(workspace.insertion / "fillers.parquet").to_pylist()}
    assert set(used) <= set(fillers)
    records = pq.read_table(workspace.insertion / "records.parquet").to_pylist()
    assert not {r["text"] for r in fillers.values()} & {r["text"] for r in records}
    assert {r["role"] for r in fillers.values()} == {"reserve"}
    assert all(r["split"] == "nonmember" for r in assignments(workspace) if r["arm"] == arm)


def assignments(workspace: Workspace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(workspace.insertion / "assignments.parquet").to_pylist()
    return found


def test_kin_are_fresh_records_of_the_same_perturbation(case: tuple[Suite, Workspace]) -> None:
    _, workspace = case
    kinds = Counter(r["record_id"].split("/")[0] for r in rows(workspace, "kin"))
    assert kinds == {"quizzes": 20, "questions": 18}


def test_factors_of_every_copy_are_those_of_its_assignment(case: tuple[Suite, Workspace]) -> None:
    suite, workspace = case
    by_record = {r["record_id"]: r for r in assignments(workspace) if r["arm"] == "factorial"}
    slots = suite.arms["factorial"].train.slots
    starts: dict[str, list[int]] = {"start": [], "end": []}
    for row in rows(workspace, "factorial"):
        given = by_record[row["record_id"]]
        assert (given["phase_start"] == "1/2") == (row["slot"] >= slots // 2)
        starts[given["position"]].append(row["start"])
    assert sum(starts["start"]) / len(starts["start"]) + 20 < sum(starts["end"]) / len(starts["end"])


def test_records_are_written_in_the_rendering_they_were_assigned(case: tuple[Suite, Workspace]) -> None:
    _, workspace = case
    by_record = {r["record_id"]: r["rendering"] for r in assignments(workspace) if r["arm"] == "formats"}
    written = {(r["record_id"], r["rendering"]) for r in rows(workspace, "formats")}
    assert {rendering for _, rendering in written} == {"cloze", "letters"}
    assert all(by_record[record] == rendering for record, rendering in written)
    assert {r["rendering"] for r in rows(workspace, "edited") if r["record_id"].startswith("questions")} == {"short"}


def test_copies_with_edits_differ_from_each_other(case: tuple[Suite, Workspace]) -> None:
    _, workspace = case
    passages = [r for r in rows(workspace, "edited") if r["record_id"].startswith("passages")]
    assert {r["rendering"] for r in passages} == {f"edited-0.1/{copy}" for copy in range(14)}
    assert all(r["rendering"] == f"edited-0.1/{r['copy']}" for r in passages)


def test_a_second_epoch_reads_every_sequence_in_another_order(case: tuple[Suite, Workspace]) -> None:
    suite, workspace = case
    overlay = open_suite_overlay(workspace, "epochs", 0, seed=suite.seed)
    assert suite.arms["epochs"].train.slots > 2 * overlay.order.size
    sequences = [r["sequence"] for r in rows(workspace, "epochs")]
    assert len(set(sequences)) < len(sequences)  # the same base text carries other copies in other epochs


def test_adding_arms_with_factors_and_fillers_moves_no_other_arm(built: Path, tmp_path: Path) -> None:
    few = ARMS[: ARMS.index("[arm.formats]")] + ARMS[ARMS.index("[arm.treated]") : ARMS.index("[arm.kin]")]
    few = few.replace('control       = "filled"', "")
    _, alone = build(built, tmp_path / "few", few)
    _, among = build(built, tmp_path / "many", ARMS)
    for arm in ("factorial", "treated"):
        assert rows(alone, arm) == rows(among, arm)


def damaged(built: Path, tmp_path: Path, name: str, change: Any) -> list[str]:
    """Change a table, write its marker anew so that the damage goes unnoticed there, and verify."""
    suite, workspace = build(built, tmp_path, ARMS)
    path = workspace.insertion / name
    table = pq.read_table(path, partitioning=None)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), path)
    marker = read_marker(workspace.insertion, "insert")
    assert marker is not None
    finish_step(workspace.insertion, marker["input"], [workspace.insertion / f for f in marker["files"]], "insert")
    return verify(suite, workspace).problems


def test_a_filler_used_twice_is_named(built: Path, tmp_path: Path) -> None:
    def twice(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[3]["record_id"] = rows[4]["record_id"]
        return rows

    problems = damaged(built, tmp_path, "exposures/arm=filled/draw=0/exposures.parquet", twice)
    assert any("used more than once" in problem for problem in problems)


def change_rows(**wanted: Any) -> Any:
    """A damage of assignments: exchange phase, level or split of one record of an arm."""

    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            if (row["arm"], row["record_id"]) == (wanted["arm"], wanted["record_id"]):
                row |= {name: value(row) for name, value in wanted.items() if callable(value)}
        return rows

    return change


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (
            "assignments.parquet",
            change_rows(
                arm="factorial",
                record_id="passages/0001",
                phase_start=lambda row: "1/2" if row["phase_start"] == "0" else "0",
                phase_end=lambda row: "1" if row["phase_start"] == "0" else "1/2",
            ),
        ),
        (
            "assignments.parquet",
            change_rows(arm="standard", record_id="passages/0002", level=lambda row: 1 - row["level"] % 2),
        ),
        ("assignments.parquet", change_rows(arm="swapped", record_id="quizzes/0001/twin", level=lambda row: 4)),
        ("assignments.parquet", change_rows(arm="edited", record_id="passages/0003", rendering=lambda row: "text")),
        ("assignments.parquet", lambda rows: rows[:-1]),
        ("balance.parquet", lambda rows: [{**row, "records": row["records"] + (i == 2)} for i, row in enumerate(rows)]),
        ("exposures/arm=kin/draw=0/exposures.parquet", lambda rows: [{**row, "arm": "kim"} for row in rows]),
        ("exposures/arm=kin/draw=0/exposures.parquet", lambda rows: [{**row, "draw": 5} for row in rows]),
    ],
)
def test_tables_that_are_not_those_of_the_suite_are_named(built: Path, tmp_path: Path, name: str, damage: Any) -> None:
    assert damaged(built, tmp_path, name, damage)


def test_a_suite_with_other_phases_than_the_tables_is_not_proven_by_them(case: tuple[Suite, Workspace]) -> None:
    suite, workspace = case
    other = replace(suite.arms["treated"], factors=suite.arms["third"].factors)
    problems = verify(replace(suite, arms=dict(suite.arms) | {"treated": other}), workspace).problems
    assert any("arm treated" in problem for problem in problems)


def test_the_fillers_of_an_arm_depend_on_that_arm_alone(built: Path, tmp_path: Path) -> None:
    few = ARMS[: ARMS.index("[arm.factorial]")] + ARMS[ARMS.index("[arm.filled]") : ARMS.index("[arm.kin]")]
    other = "[arm.another]\nfiller = 'base'\n" + few
    texts = []
    for number, arms in enumerate((few, other)):
        _, workspace = build(built, tmp_path / str(number), arms)
        fillers = pq.read_table(workspace.insertion / "fillers.parquet").to_pylist()
        texts.append({row["record_id"]: row["text"] for row in fillers if "-filled-" in row["record_id"]})
    assert texts[0] == texts[1]
    assert len(texts[0]) == 180


def test_a_file_gives_kin_that_are_no_records_of_the_suite_and_pass_the_safety_gate(
    built: Path, tmp_path: Path
) -> None:
    lines = [{"id": i, "text": f"The mill at bridge {i % 20:02d} closed in spring."} for i in range(40)]
    mills = '[perturbation.mills]\nkind = "passage"\nrecords = { from = "mills.jsonl" }\nlevels = { 0 = 4, 2 = 3 }\n'
    arms = "[arm.standard]\nperturbations = []\n[arm.kin]\nperturbations = ['mills']\nfiller = 'kin'\n"
    (tmp_path / "mills.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    suite, workspace = build(built, tmp_path, arms, mills)
    assert verify(suite, workspace).problems == []
    fillers = pq.read_table(workspace.insertion / "fillers.parquet").column("text").to_pylist()
    records = pq.read_table(workspace.insertion / "records.parquet").column("text").to_pylist()
    assert len(set(fillers)) == len(fillers) == 6
    assert not set(fillers) & set(records)
    lines = [{**line, "text": f"{line['text']} Write to ann{line['id']:02d}@gmail.com."} for line in lines]
    allowed = mills + 'allow = { "e-mail address" = "invented for this test, sent to nobody" }\n'
    (tmp_path / "mills.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(CostarError, match="e-mail address"):
        build(built, tmp_path, arms, mills)
    build(built, tmp_path, arms, allowed)


def test_a_filler_that_held_out_text_cannot_give_is_refused_with_both_numbers(built: Path, tmp_path: Path) -> None:
    more = "[perturbation.more]\nkind = 'passage'\nrecords = { from = 'corpus', tokens = 110 }\nlevels = { 170 = 3 }\n"
    arms = "[arm.standard]\nperturbations = []\n[arm.filled]\nperturbations = ['more', 'passages']\nfiller = 'base'\n"
    with pytest.raises(
        CostarError, match=r"held-out texts, and none more of .* tokens\n  expected  690, one for each copy"
    ):
        build(built, tmp_path, arms, more)


def test_paraphrases_given_as_data_take_turns_over_the_copies(built: Path, tmp_path: Path) -> None:
    """Copy c is the c-th paraphrase, and begins again where they are used up."""
    texts = [[f"In spring mill {i}{k} shut." for k in "abc"] for i in range(12)]
    lines = [
        {"id": i, "text": f"The mill at bridge {i} closed in spring.", "paraphrases": given}
        for i, given in enumerate(texts)
    ]
    (tmp_path / "mills.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    mills = '[perturbation.mills]\nkind = "passage"\nrecords = { from = "mills.jsonl" }\nlevels = { 0 = 8, 5 = 4 }\n'
    arms = "[arm.standard]\nperturbations = []\n[arm.told]\nperturbations = ['mills']\nrenderings = { mills = 'paraphrase' }\n"
    suite, workspace = build(built, tmp_path, arms, mills)
    assert {(r["copy"], r["rendering"]) for r in rows(workspace, "told")} == {
        (copy, f"paraphrase/{copy % 3}") for copy in range(5)
    }
    assert verify(suite, workspace).problems == []
    (tmp_path / "mills.jsonl").write_text("\n".join(json.dumps({**line, "paraphrases": []}) for line in lines))
    with pytest.raises(CostarError, match="lack"):
        build(built, tmp_path, arms, mills)


PHASES = ["[0, 0.5]", "[0.25, 1]", "[0.5, 1]", "[0, 1]", "[0.1, 0.4]"]


@st.composite
def arm_tables(draw: st.DrawFn) -> str:
    """A random arm: what it inserts, when, where, how often, in whose place."""
    lines = ["control = 'none'" if draw(st.booleans()) else ""]
    lines.append(f"perturbations = {draw(st.sampled_from([['passages'], ['passages', 'quizzes'], ['*'], ['pass*']]))}")
    if draw(st.booleans()):
        lines.append(f"phase = {draw(st.sampled_from(PHASES))}")
    elif draw(st.booleans()):
        lines.append(f"factors = {{ phase = [{', '.join(draw(st.permutations(PHASES))[:2])}] }}")
    if draw(st.booleans()):
        lines.append(f"position = '{draw(st.sampled_from(['start', 'middle', 'end', 'balanced']))}'")
    if draw(st.booleans()):
        lines.append(f"spacing = '{draw(st.sampled_from(['even', 'burst', 'uniform']))}'")
    lines.append(f"assignment = '{draw(st.sampled_from(['suite', 'swap', 'rotate-1/3', 'rotate-2/5']))}'")
    if draw(st.booleans()) and lines[0] == "":
        lines.append(f"filler = '{draw(st.sampled_from(['kin', 'none']))}'")
    lines.append(f"draws = {draw(st.integers(1, 2))}" if lines[0] else "")
    return "\n".join(lines)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(arm_tables(), min_size=1, max_size=3))
def test_any_suite_is_refused_with_a_message_or_proven(
    built: Path, tmp_path_factory: pytest.TempPathFactory, tables: list[str]
) -> None:
    arms = "[arm.standard]\nperturbations = []\n"
    arms += "".join(f"[arm.a{number}]\n{table}\n" for number, table in enumerate(tables))
    refused = None
    try:
        suite, workspace = build(built, tmp_path_factory.mktemp("any"), arms, "")
    except CostarError as error:
        refused = error
    assert refused.exit_code == 2 if refused else verify(suite, workspace).problems == []
