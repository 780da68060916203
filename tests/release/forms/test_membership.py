"""The benchmark as `datasets` loads it: splits by level, and scores that are those of the suite."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from costar.core.design import Suite
from costar.core.workspace import Workspace
from costar.release.export import write_export
from costar.release.membership import membership_rows

from tests.release.linked import linked_workspace

ARM, CONTROL, STEP = "perturbed", "standard", 96


@pytest.fixture(scope="module")
def exported(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Workspace, Path]:
    suite, workspace = linked_workspace(built, tmp_path_factory.mktemp("membership"))
    return suite, workspace, write_export(suite, workspace, "membership", arm=ARM)[0]


def test_datasets_loads_every_perturbation_with_a_split_a_level(
    exported: tuple[Suite, Workspace, Path], tmp_path: Path
) -> None:
    from datasets import get_dataset_config_names, load_dataset

    suite, workspace, folder = exported
    assert set(get_dataset_config_names(str(folder))) == set(suite.perturbations)
    rows = membership_rows(suite, workspace, ARM, "nano", 0).to_pylist()
    for name, design in suite.perturbations.items():
        loaded = load_dataset(str(folder), name, cache_dir=str(tmp_path))
        assert {split: len(loaded[split]) for split in loaded} == {
            f"member_{level}" if level else "nonmember": count for level, count in design.levels.items()
        }
        found = {record_id: split for split in loaded for record_id in loaded[split]["record_id"]}
        own = [row for row in rows if row["perturbation"] == name]
        assert found == {r["record_id"]: f"member_{r['level']}" if r["level"] else "nonmember" for r in own}


def test_its_scores_are_those_of_both_models_at_the_last_step(exported: tuple[Suite, Workspace, Path]) -> None:
    _, workspace, folder = exported
    parts = [pq.read_table(path, partitioning=None).to_pylist() for path in sorted(folder.rglob("*.parquet"))]
    rows = {row["record_id"]: row for part in parts for row in part}
    for role, arm in (("treated", ARM), ("control", CONTROL)):
        path = workspace.scores(f"{arm}.nano.d0") / f"step-{STEP:06d}.membership.parquet"
        scores = pq.read_table(path, partitioning=None).to_pylist()
        assert len({score["variant"] for score in scores}) == 6
        seen = 0
        for score in scores:
            name = score["variant"].removeprefix("attack=").replace("-", "_")
            assert rows[score["record_id"]][f"{name}_{role}"] == score["value"]
            seen += 1
        columns = [name for name in next(iter(rows.values())) if name.endswith(f"_{role}")]
        assert seen == sum(row[name] is not None for row in rows.values() for name in columns)
    assert any(row["loss_treated"] != row["loss_control"] for row in rows.values())


def test_a_suite_that_was_not_measured_gives_the_labels_alone(built: Path, tmp_path: Path) -> None:
    suite, workspace = linked_workspace(built, tmp_path)
    (workspace.root / "eval").unlink()
    (folder,) = write_export(suite, workspace, "membership", arm=ARM)
    table = pq.read_table(folder / "passages" / "nonmember.parquet", partitioning=None)
    assert not [name for name in table.column_names if name.endswith(("_treated", "_control"))]
    assert "Scores that are here" not in (folder / "README.md").read_text()
