"""The insertion of a whole suite: what an edit of the suite moves, and what it must not move (invariant 3)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.insertion.build import build_insertion
from costar.insertion.records import build_records

from tests.small import search_stream

Exposures = dict[str, dict[tuple[str, int], tuple[int, int]]]


def exposures(built: Path, tmp_path: Path, edit: Callable[[str], str]) -> Exposures:
    """(record, copy) → (slot, start) of every arm, after an edit of the suite file, over the same corpus."""
    folder = tmp_path / f"edit-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    path = folder / "small.toml"
    path.write_text(edit((built / "suite.toml").read_text()))
    suite = load_suite(path)
    workspace = Workspace(folder / "build")
    shutil.copytree(built / "corpus", workspace.corpus)
    build_records(suite, workspace.corpus, workspace.insertion, [folder])
    search_stream(suite, workspace)
    build_insertion(suite, workspace, [])
    found: Exposures = {}
    for arm in suite.arms:
        table = pq.read_table(workspace.exposures(arm, 0) / "exposures.parquet", partitioning=None)
        found[arm] = {(r["record_id"], r["copy"]): (r["slot"], r["start"]) for r in table.to_pylist()}
    return found


def test_dropping_a_perturbation_from_an_arm_moves_nothing(built: Path, tmp_path: Path) -> None:
    before = exposures(built, tmp_path, lambda text: text)
    after = exposures(
        built,
        tmp_path,
        lambda text: text.replace("[arm.perturbed]", '[arm.perturbed]\nperturbations = ["passages", "quizzes"]'),
    )
    kept = {key: place for key, place in before["perturbed"].items() if not key[0].startswith("passwords")}
    assert after["perturbed"] == kept
    assert len(kept) < len(before["perturbed"])


def test_another_arm_moves_nothing(built: Path, tmp_path: Path) -> None:
    before = exposures(built, tmp_path, lambda text: text)
    after = exposures(
        built, tmp_path, lambda text: text + "\n[arm.only]\nperturbations = ['quizzes']\nphase = [0.25, 0.75]\n"
    )
    assert {arm: after[arm] for arm in before} == before


def test_another_rendering_moves_no_slot(built: Path, tmp_path: Path) -> None:
    before = exposures(built, tmp_path, lambda text: text)
    after = exposures(
        built,
        tmp_path,
        lambda text: text.replace("[arm.perturbed]", '[arm.perturbed]\nrenderings = { quizzes = "letters" }'),
    )
    slots = {key: place[0] for key, place in before["perturbed"].items()}
    assert {key: place[0] for key, place in after["perturbed"].items()} == slots


def test_more_held_out_records_change_no_level_and_no_slot(built: Path, tmp_path: Path) -> None:
    before = exposures(built, tmp_path, lambda text: text)
    after = exposures(built, tmp_path, lambda text: text.replace("{ 0 = 12, 2 = 10 }", "{ 0 = 14, 2 = 10 }"))
    changed = {key for key in before["perturbed"] if before["perturbed"][key] != after["perturbed"].get(key)}
    assert len({record for record, _ in changed}) <= 6  # at most one level border per stratum and added record


def test_a_second_build_writes_the_same_bytes(built: Path, tmp_path: Path) -> None:
    suite = load_suite(built / "suite.toml")
    workspace = Workspace(tmp_path / "again")
    shutil.copytree(built / "corpus", workspace.corpus)
    build_records(suite, workspace.corpus, workspace.insertion, [built.parent.parent])
    search_stream(suite, workspace)
    build_insertion(suite, workspace, [])
    for path in sorted((built / "insertion").rglob("*.parquet")):
        assert (workspace.insertion / path.relative_to(built / "insertion")).read_bytes() == path.read_bytes()


def test_renderings_that_a_kind_lacks_are_refused(built: Path, tmp_path: Path) -> None:
    from costar.core.errors import CostarError
    from costar.insertion.records import check_origins

    path = tmp_path / "small.toml"
    path.write_text(
        (built / "suite.toml")
        .read_text()
        .replace("[arm.perturbed]", '[arm.perturbed]\nrenderings = { quizzes = "song" }')
    )
    with pytest.raises(CostarError, match="one of cloze, letters"):
        check_origins(load_suite(path), [tmp_path])


def test_a_rendering_that_does_not_fit_its_sequence_is_refused_when_an_arm_inserts_it(
    built: Path, tmp_path: Path
) -> None:
    from costar.core.errors import CostarError

    edit = '[arm.perturbed]\nrenderings = { people = "letter" }'
    people = (
        '[perturbation.people]\nkind = "biography"\nrecords = { from = "generator" }\nlevels = { 0 = 1, 1 = 2 }\n\n'
    )

    def shortened(text: str) -> str:
        text = text.replace("[arm.standard]", people + "[arm.standard]")
        return text.replace("[arm.perturbed]", edit)

    with pytest.raises(CostarError, match="at most 125"):
        exposures(built, tmp_path, shortened)


def test_another_position_moves_no_slot_and_puts_copies_where_it_says(built: Path, tmp_path: Path) -> None:
    before = exposures(built, tmp_path, lambda text: text)
    medians = {}
    for position in ("start", "middle", "end"):
        edit = f'[arm.perturbed]\nposition = "{position}"'
        after = exposures(built, tmp_path, lambda text, edit=edit: text.replace("[arm.perturbed]", edit))
        slots = {key: place[0] for key, place in before["perturbed"].items()}
        assert {key: place[0] for key, place in after["perturbed"].items()} == slots
        assert after["late"] == before["late"]
        starts = sorted(place[1] for place in after["perturbed"].values())
        medians[position] = starts[len(starts) // 2]
    assert medians["start"] < medians["middle"] < medians["end"]


def test_a_suite_with_spacing_and_position_per_perturbation_is_proven(built: Path, tmp_path: Path) -> None:
    from costar.insertion.verify import verify_insertion

    edit = '[arm.perturbed]\nspacing = { passages = "even", quizzes = "burst" }\nposition = { quizzes = "start" }'
    folder = tmp_path / "spaced"
    folder.mkdir()
    path = folder / "small.toml"
    path.write_text((built / "suite.toml").read_text().replace("[arm.perturbed]", edit))
    suite, workspace = load_suite(path), Workspace(folder / "build")
    shutil.copytree(built / "corpus", workspace.corpus)
    build_records(suite, workspace.corpus, workspace.insertion, [folder])
    search_stream(suite, workspace)
    build_insertion(suite, workspace, [])
    assert verify_insertion(suite, workspace, lambda share, remark: None).problems == []
