from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace, start_step
from costar.eval.analyses import TABLES, compute_analyses, read_analysis, require_analyses
from costar.eval.report import write_report
from costar.eval.stored import damaged_files
from costar.manifests.catalogue import build_manifest


def contents(place: Path) -> dict[str, bytes]:
    return {name: (place / "eval" / f"{name}.parquet").read_bytes() for name in TABLES}


def test_equal_scores_give_equal_bytes_of_every_table(built_copy: Path) -> None:
    before = contents(built_copy)
    compute_analyses(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    assert contents(built_copy) == before


def test_tables_that_were_not_finished_are_not_reported(built_copy: Path) -> None:
    """Killed while they are written there is no marker: some may be new and some old."""
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    start_step(workspace.eval, "effects")
    with pytest.raises(CostarError, match="not finished"):
        write_report(suite, workspace)
    compute_analyses(suite, workspace)
    require_analyses(workspace)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_was_altered_is_refused_by_name(built_copy: Path, name: str) -> None:
    path = built_copy / "eval" / f"{name}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CostarError, match=rf"{name}\.parquet"):
        read_analysis(Workspace(built_copy), "effects")
    assert any(f"{name}.parquet" in text for text in damaged_files(Workspace(built_copy)))


def test_tables_of_an_older_version_load_in_sql_and_are_not_reported(built_copy: Path) -> None:
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    path = built_copy / "eval" / "effects.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns(["factor", "family"]), path)
    for name in ("dose_fits", "retention", "hypotheses"):
        (built_copy / "eval" / f"{name}.parquet").unlink()
    build_manifest(suite, workspace)
    with pytest.raises(CostarError, match="costar eval"):
        write_report(suite, workspace)
