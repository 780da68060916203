from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.report_data import effects, means, opened

NLL = ("likelihood", "", "nll_token")


def test_means_are_those_of_the_view_and_the_primary_measure_comes_first(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    with opened(suite, Workspace(built)) as measured:
        found = means(measured, "passages", NLL, "step = 96 and arm = 'perturbed'")
        query = (
            "select level, n, mean from dose_response where arm = 'perturbed' and step = 96 and perturbation = 'passages' "
            "and probe = 'likelihood' and variant = '' and metric = 'nll_token' order by level"
        )
        wanted = measured.rows(query)
        firsts = {name: own[0] for name, own in measured.measures.items()}
    assert [(row["level"], row["n"]) for row in found] == [(row["level"], row["n"]) for row in wanted]
    assert [row["mean"] for row in found] == pytest.approx([row["mean"] for row in wanted])
    assert firsts == dict(suite.eval.analysis.primary)


def test_the_main_arm_is_one_that_inserts_over_the_whole_run(built: Path) -> None:
    with opened(load_suite(built / "suite.toml"), Workspace(built)) as measured:
        arms = [measured.main_arm(name) for name in measured.suite.perturbations]
    assert {arm.name for arm in arms if arm} == {"perturbed"}


def test_rows_of_single_draws_are_left_out_where_there_is_one_over_all(built_copy: Path) -> None:
    with duckdb.connect(str(built_copy / "manifest.duckdb")) as connection:
        connection.execute(
            "insert into effects select * replace ('perturbed.nano' as treated, 3 as n_runs, 42.0 as estimate) from effects "
            "where treated = 'perturbed.nano.d0'"
        )
    with opened(load_suite(built_copy / "suite.toml"), Workspace(built_copy)) as measured:
        found = effects(measured, "passages", NLL, "treated_arm = 'perturbed' and step = 96")
        others = effects(measured, "passages", NLL, "treated_arm = 'late' and step = 96")
    assert found
    assert {(row["treated"], row["estimate"]) for row in found} == {("perturbed.nano", 42.0)}
    assert {row["treated"] for row in others} == {"late.nano.d0"}


def test_a_manifest_of_another_version_is_refused_with_what_to_run(built_copy: Path) -> None:
    with duckdb.connect(str(built_copy / "manifest.duckdb")) as connection:
        connection.execute("drop table effects cascade")
    with (
        pytest.raises(CostarError, match="costar manifest"),
        opened(load_suite(built_copy / "suite.toml"), Workspace(built_copy)),
    ):
        pass


def test_without_a_manifest_the_error_says_so(built_copy: Path) -> None:
    (built_copy / "manifest.duckdb").unlink()
    shutil.rmtree(built_copy / "report")
    with (
        pytest.raises(CostarError, match="no manifest"),
        opened(load_suite(built_copy / "suite.toml"), Workspace(built_copy)),
    ):
        pass
