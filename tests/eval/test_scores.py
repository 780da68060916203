from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from costar.core.parquet import write_table
from costar.core.suite import load_suite
from costar.core.workspace import Workspace, finish_step, read_marker
from costar.eval.scores import Scores, Values, load_scores

from .worlds import NLL

RUN, STEP = "perturbed.nano.d0", 96


@pytest.fixture(scope="module")
def scores(built: Path) -> Scores:
    return load_scores(load_suite(built / "suite.toml"), Workspace(built))


def rows(built: Path, probe: str, run: str = RUN) -> list[dict[str, Any]]:
    path = built / "eval" / "scores" / f"run={run}" / f"step-{STEP:06d}.{probe}.parquet"
    found: list[dict[str, Any]] = pq.read_table(path, partitioning=None).to_pylist()
    return found


def test_values_are_found_by_row_and_what_is_missing_is_nan() -> None:
    values = Values(rows=np.array([2, 5, 9]), values=np.array([1.0, 2.0, 3.0]))
    assert np.array_equal(values.at(np.array([0, 9, 2, 10])), [np.nan, 3.0, 1.0, np.nan], equal_nan=True)
    nothing = Values(rows=np.zeros(0, np.int64), values=np.zeros(0))
    assert np.isnan(nothing.at(np.array([0, 1]))).all()


def test_scores_are_those_of_the_files_in_canonical_texts(built: Path, scores: Scores) -> None:
    found = scores.by_id(RUN, STEP, NLL)
    canonical = {
        (row["record_id"], row["rendering"])
        for row in pq.read_table(built / "insertion" / "renderings.parquet", partitioning=None).to_pylist()
        if row["text"] == texts(built)[row["record_id"]]
    }
    expected = {
        row["record_id"]: row["value"]
        for row in rows(built, "likelihood")
        if row["metric"] == "nll_token" and not row["variant"] and (row["record_id"], row["rendering"]) in canonical
    }
    assert found == {name: value for name, value in expected.items() if not name.endswith("/twin")}
    assert set(found) == set(scores.subjects.ids)


def texts(built: Path) -> dict[str, str]:
    table = pq.read_table(built / "insertion" / "records.parquet", partitioning=None)
    return dict(zip(table.column("record_id").to_pylist(), table.column("text").to_pylist(), strict=True))


def test_every_format_of_a_question_is_a_measure(built: Path, scores: Scores) -> None:
    """Only one of the formats is the canonical text, the other is asked for by its name."""
    for variant in ("format=cloze", "format=letters"):
        expected = {
            row["record_id"]: row["value"]
            for row in rows(built, "choice")
            if (row["variant"], row["metric"]) == (variant, "margin") and not row["record_id"].endswith("/twin")
        }
        assert expected
        assert scores.by_id(RUN, STEP, ("choice", variant, "margin")) == expected


def test_a_twin_is_a_measure_of_its_main_record(built: Path, scores: Scores) -> None:
    """Every score of a twin stands with its main record, under the same measure with `role=twin`, and nowhere else."""
    twins = [row for row in rows(built, "choice") if row["record_id"].endswith("/twin")]
    assert twins
    for row in twins:
        found = scores.by_id(RUN, STEP, ("choice", f"{row['variant']},role=twin", row["metric"]))
        assert found[row["record_id"].removesuffix("/twin")] == row["value"]
    assert not [name for name in scores.subjects.ids if name.endswith("/twin")]
    mains, others = (
        scores.of(RUN, STEP, measure).rows.tolist()
        for measure in (("choice", "format=cloze", "margin"), ("likelihood", "role=twin", "nll_token"))
    )
    assert mains == others


def test_rows_ascend_and_values_are_numbers(scores: Scores) -> None:
    for steps in scores.values.values():
        for measures in steps.values():
            for values in measures.values():
                assert (np.diff(values.rows) > 0).all()
                assert np.isfinite(values.values).all()
                assert len(values.rows) == len(values.values) > 0


def test_a_branch_has_the_scores_of_its_parent_up_to_where_it_begins(scores: Scores) -> None:
    assert scores.steps("late.nano.d0") == scores.steps("standard.nano.d0")
    assert scores.by_id("late.nano.d0", 24, NLL) == scores.by_id("standard.nano.d0", 24, NLL)
    assert scores.by_id("late.nano.d0", 96, NLL) != scores.by_id("standard.nano.d0", 96, NLL)


def test_levels_and_cells_are_those_of_the_assignments(built: Path, scores: Scores) -> None:
    table = pq.read_table(built / "insertion" / "assignments.parquet", partitioning=None).to_pylist()
    own = {row["record_id"]: row["level"] for row in table if (row["arm"], row["draw"]) == ("late", 0)}
    assert dict(zip(scores.subjects.ids, scores.levels_of("late.nano.d0").tolist(), strict=True)) == {
        name: own[name] for name in scores.subjects.ids
    }
    assert scores.subjects.cells == {}
    assert not scores.cells_of("late.nano.d0").any()
    names = [scores.subjects.perturbations[code] for code in scores.subjects.perturbation]
    records = pq.read_table(built / "insertion" / "records.parquet", partitioning=None).to_pylist()
    mains = [row for row in records if row["role"] == "main"]
    assert names == [row["perturbation"] for row in mains]
    for code, named, column in (("cluster", "clusters", "cluster_id"), ("stratum", "strata", "stratum")):
        codes, values = getattr(scores.subjects, code), getattr(scores.subjects, named)
        assert [values[each] for each in codes] == [row[column] for row in mains]


def test_no_number_is_no_score(built_copy: Path) -> None:
    folder = built_copy / "eval" / "scores" / f"run={RUN}"
    path = folder / f"step-{STEP:06d}.likelihood.parquet"
    table = pq.read_table(path, partitioning=None)
    values = table.column("value").to_pylist()
    spoilt = {}
    for place, row in enumerate(table.to_pylist()):
        if (row["variant"], row["metric"]) == ("", "nll_token") and row["record_id"].startswith("passages"):
            spoilt.setdefault(row["record_id"], place)
    for number, place in enumerate(list(spoilt.values())[:3]):
        values[place] = (math.nan, math.inf, -math.inf)[number]
    write_table(path, table.set_column(table.schema.get_field_index("value"), "value", pa.array(values, pa.float64())))
    name = f"{STEP}.likelihood"
    marker = read_marker(folder, name)
    assert marker is not None
    finish_step(folder, marker["input"], [folder / each for each in marker["files"]], name, state=marker["state"])
    scores = load_scores(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    missing = set(scores.subjects.ids) - set(scores.by_id(RUN, STEP, NLL))
    assert missing == set(list(spoilt)[:3])
