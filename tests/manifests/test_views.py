from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from costar.core.workspace import Workspace
from costar.manifests.sql import ask, open_manifest


@pytest.fixture
def manifest(built: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = open_manifest(Workspace(built))
    yield connection
    connection.close()


def test_a_twin_has_the_level_of_its_main_record(manifest: duckdb.DuckDBPyConnection) -> None:
    query = """
        select t.record_id, t.level, a.level
        from (select distinct arm, draw, record_id, level from record_scores where role = 'twin') t
        join assignments a on a.arm = t.arm and a.draw = t.draw and a.record_id || '/twin' = t.record_id
    """
    found = manifest.execute(query).fetchall()
    assert {level for _, level, _ in found} == {0, 2}
    assert all(level == of_main for _, level, of_main in found)


def test_twins_are_told_from_main_records_by_the_variant(manifest: duckdb.DuckDBPyConnection) -> None:
    query = "select distinct role, variant, probe from record_scores"
    found = manifest.execute(query).fetchall()
    assert {("twin", "role=twin", "likelihood"), ("twin", "format=cloze,role=twin", "choice")} <= set(found)
    assert all(variant.endswith("role=twin") == (role == "twin") for role, variant, _ in found)


def test_no_score_is_lost_or_doubled(manifest: duckdb.DuckDBPyConnection) -> None:
    """The views have each score of a canonical text once, and the same ones: mains and twins."""
    (scores,) = manifest.execute(
        """
        select count(*) from scores s join renderings ren using (record_id, rendering) join records rec using (record_id)
        where rec.role in ('main', 'twin') and (ren.text = rec.text or s.variant like 'format=%')
        """
    ).fetchone() or (0,)
    for view, counted in (("record_scores", "count(*)"), ("dose_response", "sum(n)")):
        assert manifest.execute(f"select {counted} from {view}").fetchone() == (scores,)
    assert scores


def test_pairs_and_effects_cover_twins_alike(manifest: duckdb.DuckDBPyConnection) -> None:
    query = """
        select e.estimate, avg(p.difference), e.n, count(*)
        from effects e
        join paired p using (treated, control, step, level, probe, variant, metric)
        join records r on r.record_id = p.record_id and r.perturbation = e.perturbation
        where e.estimand in ('total', 'spillover') and e.variant like '%role=twin'
        group by e.estimate, e.n, e.treated, e.step, e.level, e.probe, e.variant, e.metric, e.perturbation
    """
    found = manifest.execute(query).fetchall()
    assert len(found) > 10
    for estimate, mean, n, count in found:
        assert estimate == pytest.approx(mean, abs=1e-9)
        assert n == count


def test_the_recipe_sets_items_beside_their_twins(manifest: duckdb.DuckDBPyConnection) -> None:
    names, rows = ask(manifest, "twins")
    assert names == ["run", "perturbation", "level", "probe", "variant", "metric", "n", "item", "twin"]
    expected = manifest.execute(
        """
        select avg(value) from record_scores
        where run = 'perturbed.nano.d0' and step = 96 and level = 2 and variant = 'format=cloze,role=twin'
          and metric = 'margin'
        """
    ).fetchone()
    found = [
        row[-1] for row in rows if row[:6] == ("perturbed.nano.d0", "quizzes", 2, "choice", "format=cloze", "margin")
    ]
    assert expected is not None
    assert found == [pytest.approx(expected[0])]
