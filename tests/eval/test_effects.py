from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.effects import all_effects, compute_effects, timing_pairs, unread
from costar.eval.scores import Scores, load_scores
from costar.eval.stats import cluster_values, label_permutation_p

NLL = ("likelihood", "", "nll_token")


def rows(built: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(built / "eval" / "effects.parquet", partitioning=None).to_pylist()
    return found


def test_total_is_the_mean_of_the_paired_view(built: Path) -> None:
    """The SQL view and the numpy estimate are two ways to one number."""
    from costar.manifests.sql import open_manifest

    connection = open_manifest(Workspace(built))
    query = """
        select e.estimate, avg(p.difference), count(*), e.n
        from effects e
        join paired p on p.treated = e.treated and p.control = e.control and p.step = e.step and p.level = e.level
             and p.probe = e.probe and p.variant = e.variant and p.metric = e.metric
        join records r on r.record_id = p.record_id and r.perturbation = e.perturbation
        where e.estimand in ('total', 'spillover')
        group by e.estimate, e.n, e.perturbation, e.treated, e.step, e.level, e.probe, e.variant, e.metric
    """
    found = connection.execute(query).fetchall()
    connection.close()
    assert len(found) > 100
    for estimate, mean, count, n in found:
        assert estimate == pytest.approx(mean, abs=1e-9)
        assert count == n


def test_direct_is_total_less_spillover(built: Path) -> None:
    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        names = ("probe", "variant", "metric", "perturbation", "treated", "control", "step")
        return tuple(row[name] for name in names)

    spillover = {key(row): row["estimate"] for row in rows(built) if row["estimand"] == "spillover"}
    total = {(key(row), row["level"]): row["estimate"] for row in rows(built) if row["estimand"] == "total"}
    direct = [row for row in rows(built) if row["estimand"] == "direct"]
    assert direct
    for row in direct:
        assert row["estimate"] == pytest.approx(total[(key(row), row["level"])] - spillover[key(row)], abs=1e-9)


def test_timing_is_late_less_early_and_other_arms_are_not_contrasted(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    assert [(a.name, b.name, p) for a, b, p in timing_pairs(suite)] == [("late", "early", "passages")]
    timing = [row for row in rows(built) if row["estimand"] == "timing"]
    assert {(row["treated"], row["control"]) for row in timing} == {("late.nano.d0", "early.nano.d0")}


def test_arms_that_start_from_different_weights_are_no_timing_contrast(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    for start in ({"parent": "standard"}, {"init": "elsewhere"}):
        late = replace(suite.arms["late"], **start)
        assert timing_pairs(replace(suite, arms=dict(suite.arms) | {"late": late})) == []


def test_labels_are_a_placebo_only_where_nothing_of_the_perturbation_was_read(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    everything = list(suite.perturbations)
    assert unread(suite, suite.arms["standard"]) == everything
    assert unread(suite, suite.arms["late"]) == [name for name in everything if name != "passages"]

    def with_(**more: Any) -> Any:
        arms = dict(suite.arms)
        middle = replace(arms["standard"], name="middle", **more)
        return replace(suite, arms=arms | {"middle": middle, "child": replace(middle, name="child", parent="middle")})

    found = with_(parent="late")
    assert unread(found, found.arms["child"]) == [name for name in everything if name != "passages"]
    found = with_(init="elsewhere")
    assert unread(found, found.arms["child"]) == []
    child = replace(suite, arms=dict(suite.arms) | {"standard": replace(suite.arms["standard"], parent="late")})
    rows = all_effects(child, load_scores(suite, Workspace(built)))
    assert {row["perturbation"] for row in rows if row["estimand"] == "placebo"} == {"quizzes", "passwords"}


def test_below_ten_clusters_there_are_points_only(built: Path) -> None:
    few = [row for row in rows(built) if row["n_clusters"] < 10]
    enough = [row for row in rows(built) if row["n_clusters"] >= 10]
    assert all(row["ci_low"] is None and row["p_value"] is None for row in few)
    assert any(row["ci_low"] is not None for row in enough)
    assert all(
        row["ci_low"] <= row["estimate"] <= row["ci_high"]
        for row in enough
        if row["ci_low"] is not None and row["metric"] == "nll_token"
    )


def test_copies_leave_a_mark_where_they_were_read(built: Path) -> None:
    found = {
        (row["treated"], row["level"]): row
        for row in rows(built)
        if (row["estimand"], row["metric"], row["step"]) == ("total", "nll_token", 96)
    }
    assert found[("late.nano.d0", 14)]["ci_high"] < 0


def test_effects_are_the_same_bytes_when_computed_again(built_copy: Path) -> None:
    path = built_copy / "eval" / "effects.parquet"
    before = path.read_bytes()
    compute_effects(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    assert path.read_bytes() == before


def test_several_draws_are_pooled_by_cluster_with_their_own_levels(built: Path) -> None:
    """Two copies of one draw under two names give the estimate of one, and say that two runs stand behind it."""
    suite = load_suite(built / "suite.toml")
    scores = load_scores(suite, Workspace(built))
    twice = Scores(
        values=scores.values | {run.replace(".d0", ".d1"): found for run, found in scores.values.items()},
        perturbation=scores.perturbation,
        cluster=scores.cluster,
        stratum=scores.stratum,
        levels=scores.levels | {(arm, 1): found for (arm, _), found in scores.levels.items()},
    )
    doubled = replace(suite, arms={name: replace(arm, draws=2) for name, arm in suite.arms.items()})

    def totals(suite: Any, scores: Scores) -> dict[tuple[Any, ...], dict[str, Any]]:
        return {
            (
                row["perturbation"],
                row["level"],
                row["step"],
                row["metric"],
                row["variant"],
                row["treated"].split(".")[0],
            ): row
            for row in all_effects(suite, scores)
            if row["estimand"] == "total"
        }

    one, two = totals(suite, scores), totals(doubled, twice)
    assert one.keys() == two.keys()
    for key, row in one.items():
        assert two[key]["estimate"] == pytest.approx(row["estimate"])
        assert (two[key]["n"], two[key]["n_clusters"], two[key]["n_runs"]) == (2 * row["n"], row["n_clusters"], 2)
        assert not two[key]["treated"].endswith(".d0")


def test_each_draw_is_read_by_its_own_levels(built: Path) -> None:
    """Two draws, in the second of which members and held-out records have changed places, in scores as in levels."""
    suite, scores = load_suite(built / "suite.toml"), load_scores(load_suite(built / "suite.toml"), Workspace(built))
    own = scores.levels[("late", 0)]
    passages = sorted(record for record in own if scores.perturbation.get(record) == "passages")
    other = dict(zip(passages, reversed(passages), strict=True))
    assert any(own[one] != own[two] for one, two in other.items())

    def swapped(values: dict[str, Any]) -> dict[str, Any]:
        return {other.get(record, record): value for record, value in values.items()}

    again = {
        run.replace(".d0", ".d1"): {
            step: {measure: swapped(found) for measure, found in measures.items()} for step, measures in steps.items()
        }
        for run, steps in scores.values.items()
    }
    levels = {(arm, 1): swapped(found) for (arm, _), found in scores.levels.items()}
    twice = replace(scores, values=scores.values | again, levels=scores.levels | levels)
    doubled = replace(suite, arms={name: replace(arm, draws=2) for name, arm in suite.arms.items()})

    def totals(suite: Any, scores: Scores) -> dict[int, float]:
        wanted = ("total", "passages", "nll_token", "", 96)
        keys = ("estimand", "perturbation", "metric", "variant", "step")
        return {
            row["level"]: row["estimate"]
            for row in all_effects(suite, scores)
            if row["treated"].startswith("late.nano") and tuple(row[key] for key in keys) == wanted
        }

    single = totals(suite, scores)
    assert single[14] < single[1]
    assert totals(doubled, twice) == pytest.approx(single)
    placebo = next(
        row
        for row in all_effects(doubled, twice)
        if (row["estimand"], row["level"], row["step"], row["metric"]) == ("placebo", 1, 96, "nll_token")
        and (row["treated"], row["perturbation"], row["variant"]) == ("standard.nano", "passages", "")
    )
    sides = []
    for level in (1, 0):
        rows = [
            (run, record, draw)
            for draw, run in enumerate(("standard.nano.d0", "standard.nano.d1"))
            for record in passages
            if twice.levels_of(run)[record] == level
        ]
        values = [twice.values[run][96][NLL][r] for run, r, _ in rows]
        clusters, strata = ([named[r] for _, r, _ in rows] for named in (scores.cluster, scores.stratum))
        sides.append(cluster_values(np.array(values)[:, None], clusters, strata, [draw for _, _, draw in rows]))
    assert placebo["p_value"] == label_permutation_p(sides[0], sides[1], ("passages", 1))[0] > 0.01


def test_altered_effects_are_not_shown_and_eval_makes_them_again(built_copy: Path) -> None:
    import pyarrow as pa
    from costar.core.errors import CostarError
    from costar.eval.report import write_report
    from costar.eval.stored import damaged_files

    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    path = built_copy / "eval" / "effects.parquet"
    before = path.read_bytes()
    table = pq.read_table(path, partitioning=None)
    pq.write_table(
        table.set_column(table.schema.get_field_index("estimate"), "estimate", pa.array([42.0] * len(table))), path
    )
    assert "effects.parquet" in damaged_files(workspace)[0]
    with pytest.raises(CostarError, match="other effects than those computed"):
        write_report(suite, workspace)
    compute_effects(suite, workspace)
    assert path.read_bytes() == before


def test_a_filler_arm_against_its_control_is_displacement_over_all_records(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    scores = load_scores(suite, Workspace(built))
    filled = replace(suite, arms=dict(suite.arms) | {"late": replace(suite.arms["late"], filler="base")})
    found = [row for row in all_effects(filled, scores) if row["treated"] == "late.nano.d0" and row["control"]]
    last = max(row["step"] for row in found)
    rows = [row for row in found if row["step"] == last and row["metric"] == "nll_token" and not row["variant"]]
    assert [row["estimand"] for row in rows] == ["displacement"]
    values = [scores.values[run][last][NLL] for run in ("late.nano.d0", "standard.nano.d0")]
    ids = [record for record in values[0] if scores.perturbation[record] == "passages"]
    assert rows[0]["n"] == len(ids)
    mean = sum(values[0][record] - values[1][record] for record in ids) / len(ids)
    assert rows[0]["estimate"] == pytest.approx(mean, abs=1e-6)


def test_an_arm_with_an_assignment_of_its_own_is_read_by_its_own_levels(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    scores = load_scores(suite, Workspace(built))
    own = dict(scores.levels[("perturbed", 0)])
    held_out = [record for record, level in own.items() if scores.perturbation.get(record) == "passages" and not level]
    top = [record for record, level in own.items() if scores.perturbation.get(record) == "passages" and level == 14]
    for record, other in zip(top, held_out, strict=False):
        own[record], own[other] = own[other], own[record]
    swapped = replace(scores, levels=dict(scores.levels) | {("perturbed", 0): own})

    def total(scores: Scores) -> float:
        rows = all_effects(suite, scores)
        wanted = ("total", "perturbed.nano.d0", "passages", 14, 96, "nll_token", "likelihood")
        keys = ("estimand", "treated", "perturbation", "level", "step", "metric", "probe")
        return next(row["estimate"] for row in rows if tuple(row[key] for key in keys) == wanted)

    assert total(scores) < total(swapped) - 0.05
    assert scores.levels[("late", 0)] == swapped.levels[("late", 0)]


def test_a_twin_is_a_measure_of_its_main_record(built: Path) -> None:
    """Every score of a twin stands with its main record, under the same measure with `role=twin`, and nowhere else."""
    scores = load_scores(load_suite(built / "suite.toml"), Workspace(built))
    run = "perturbed.nano.d0"
    table = pq.read_table(built / "eval" / "scores" / f"run={run}" / "step-000096.choice.parquet", partitioning=None)
    found = scores.values[run][96]
    twins = [row for row in table.to_pylist() if row["record_id"].endswith("/twin")]
    assert twins
    for row in twins:
        measure = ("choice", f"{row['variant']},role=twin", row["metric"])
        assert found[measure][row["record_id"].removesuffix("/twin")] == row["value"]
    assert not [record for values in found.values() for record in values if record.endswith("/twin")]
    assert found[("likelihood", "role=twin", "nll_token")].keys() == found[("choice", "format=cloze", "margin")].keys()


def test_effects_on_twins_are_read_by_the_level_of_their_main(built: Path) -> None:
    twins = [row for row in rows(built) if row["variant"].endswith("role=twin")]
    mains = {
        (row["estimand"], row["level"], row["step"], row["metric"], row["treated"]): row
        for row in rows(built)
        if (row["probe"], row["variant"]) == ("choice", "format=cloze")
    }
    compared = [row for row in twins if (row["probe"], row["variant"]) == ("choice", "format=cloze,role=twin")]
    assert {row["level"] for row in compared} == {0, 2}
    assert len(compared) == len(mains)
    for row in compared:
        main = mains[tuple(row[name] for name in ("estimand", "level", "step", "metric", "treated"))]
        assert (row["n"], row["n_clusters"]) == (main["n"], main["n_clusters"])
    assert {row["perturbation"] for row in twins} == {"quizzes"}
