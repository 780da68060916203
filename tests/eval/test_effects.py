from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.analyses import compute_analyses
from costar.eval.effects import all_effects
from costar.eval.scores import Scores, load_scores
from costar.eval.stats import holm

from .worlds import NLL, changed, kept, second_draw, simulate, swapped, world_suite

WHEN = """
[arm.when]
factors = { phase = [[0.0, 0.5], [0.5, 1.0]] }
"""


def rows(built: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(built / "eval" / "effects.parquet", partitioning=None).to_pylist()
    return found


def chosen(rows: Iterable[dict[str, Any]], estimand: str = "total", **wanted: Any) -> list[dict[str, Any]]:
    """The rows of an estimand of the loss, of records by level alone unless a factor is asked for."""
    wanted = {"estimand": estimand, "probe": NLL[0], "variant": NLL[1], "metric": NLL[2], "factor": ""} | wanted
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def only(rows: Iterable[dict[str, Any]], estimand: str = "total", **wanted: Any) -> dict[str, Any]:
    (row,) = chosen(rows, estimand, **wanted)
    return row


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


def test_below_ten_clusters_there_are_points_and_p_values_and_no_intervals(built: Path) -> None:
    few = [row for row in rows(built) if row["n_clusters"] < 10]
    enough = [row for row in rows(built) if row["n_clusters"] >= 10]
    over = ("total", "spillover", "direct", "timing", "interference", "displacement", "factor", "placebo")
    assert all(row["given_low"] is None for row in few)
    assert all(row["p_adjusted"] >= row["p_value"] > 0 for row in few if row["n"] and row["estimand"] in over)
    assert all("fewer than 10 clusters" in row["method"] for row in few if row["n"])
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
    compute_analyses(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    assert path.read_bytes() == before


def test_several_draws_are_pooled_by_cluster_with_their_own_levels(built: Path) -> None:
    """Two copies of one draw under two names give the estimate of one, and say that two runs stand behind it."""
    suite = load_suite(built / "suite.toml")
    scores = kept(load_scores(suite, Workspace(built)), NLL)
    doubled = replace(suite, arms={name: replace(arm, draws=2) for name, arm in suite.arms.items()})

    def totals(suite: Any, scores: Scores) -> dict[tuple[Any, ...], dict[str, Any]]:
        names = ("perturbation", "level", "step", "metric", "variant")
        return {
            (*(row[name] for name in names), row["treated"].split(".")[0]): row
            for row in all_effects(suite, scores)
            if row["estimand"] == "total" and row["n_runs"] == min(arm.draws for arm in suite.arms.values())
        }

    one, two = totals(suite, scores), totals(doubled, second_draw(scores))
    assert one.keys() == two.keys()
    for key, row in one.items():
        assert two[key]["estimate"] == pytest.approx(row["estimate"])
        assert (two[key]["n"], two[key]["n_clusters"], two[key]["n_runs"]) == (2 * row["n"], row["n_clusters"], 2)
        assert not two[key]["treated"].endswith(".d0")
        assert two[key]["p_value"] == row["p_value"]  # signs are flipped by cluster, of both draws at once


def test_each_draw_is_read_by_its_own_levels(built: Path) -> None:
    """Two draws, in the second of which members and held-out records have changed places, in scores as in levels."""
    suite = load_suite(built / "suite.toml")
    scores = kept(load_scores(suite, Workspace(built)), NLL)
    twice = second_draw(scores, swapped(scores, "passages"))
    levels = twice.subjects.levels
    assert (levels[("late", 0)] != levels[("late", 1)]).any()
    doubled = replace(suite, arms={name: replace(arm, draws=2) for name, arm in suite.arms.items()})

    def totals(suite: Any, scores: Scores, treated: str) -> dict[int, float]:
        rows = all_effects(suite, scores)
        return {
            row["level"]: row["estimate"] for row in chosen(rows, treated=treated, perturbation="passages", step=96)
        }

    single = totals(suite, scores, "late.nano.d0")
    assert single[14] < single[1]
    assert totals(doubled, twice, "late.nano") == pytest.approx(single)
    assert totals(doubled, twice, "late.nano.d1") == pytest.approx(single)


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
    with pytest.raises(CostarError, match="other bytes than those computed"):
        write_report(suite, workspace)
    compute_analyses(suite, workspace)
    assert path.read_bytes() == before


def test_a_filler_arm_against_its_control_is_displacement_over_all_records(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    scores = kept(load_scores(suite, Workspace(built)), NLL)
    filled = replace(suite, arms=dict(suite.arms) | {"late": replace(suite.arms["late"], filler="base")})
    found = [row for row in all_effects(filled, scores) if row["treated"] == "late.nano.d0" and row["control"]]
    last = max(row["step"] for row in found)
    rows = [row for row in found if row["step"] == last and row["metric"] == "nll_token" and not row["variant"]]
    assert [row["estimand"] for row in rows] == ["displacement"]
    members = scores.subjects.members("passages")
    values = [scores.of(run, last, NLL).at(members) for run in ("late.nano.d0", "standard.nano.d0")]
    assert rows[0]["n"] == len(members)
    assert rows[0]["estimate"] == pytest.approx(float(np.mean(values[0] - values[1])), abs=1e-9)
    assert rows[0]["family"] == "displacement of passages: late.nano.d0 − standard.nano.d0"


def test_an_arm_with_an_assignment_of_its_own_is_read_by_its_own_levels(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    scores = kept(load_scores(suite, Workspace(built)), NLL)
    order = swapped(scores, "passages")
    levels = dict(scores.subjects.levels) | {("perturbed", 0): scores.subjects.levels[("perturbed", 0)][order]}
    other = replace(scores, subjects=replace(scores.subjects, levels=levels))

    def total(scores: Scores) -> float:
        found = chosen(all_effects(suite, scores), treated="perturbed.nano.d0", perturbation="passages", step=96)
        return next(float(row["estimate"]) for row in found if row["level"] == 14)

    assert total(scores) < total(other) - 0.05


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


def learnt(arm: Any, step: int, levels: Any, cells: Any) -> Any:
    """A loss that falls by 0.1 nat for each copy, in arms that insert."""
    return -0.1 * levels * bool(arm.inserted)


def test_estimates_are_the_planted_effects_and_the_intervals_hold_them(tmp_path: Path) -> None:
    suite = world_suite(tmp_path, draws=3)
    rows = all_effects(suite, simulate(suite, learnt))
    for estimand, level, truth in (("total", 1, -0.1), ("total", 4, -0.4), ("direct", 4, -0.4), ("spillover", 0, 0.0)):
        row = only(rows, estimand, level=level, step=20, treated="perturbed.nano")
        assert row["estimate"] == pytest.approx(truth, abs=0.08)
        assert row["given_low"] < truth < row["given_high"]
        assert (row["p_value"] < 0.01) == (truth != 0)
        assert row["n_runs"] == 3
        assert "t-interval over 3 draws" in row["method"]
        if level:
            assert row["band_low"] <= row["given_low"] < row["given_high"] <= row["band_high"]


def test_bands_contain_the_intervals_of_each_level(tmp_path: Path) -> None:
    """Also where one level alone has a band, which other samples of its clusters make by chance narrower on a side."""
    for levels in ("0 = 30, 4 = 30", "0 = 30, 1 = 15, 4 = 15"):
        suite = world_suite(tmp_path, levels=levels)
        found = [row for seed in range(6) for row in all_effects(suite, simulate(suite, learnt, seed=seed))]
        whole = [row for row in found if row["band_low"] is not None]
        assert whole
        assert all(row["band_low"] <= row["given_low"] and row["band_high"] >= row["given_high"] for row in whole)


def test_draws_average_to_the_pooled_estimate_and_carry_its_interval(tmp_path: Path) -> None:
    from scipy.stats import t

    suite = world_suite(tmp_path, draws=4)
    rows = all_effects(suite, simulate(suite, learnt))
    for estimand in ("total", "direct"):
        own = [only(rows, estimand, level=4, step=20, treated=f"perturbed.nano.d{draw}") for draw in range(4)]
        pooled = only(rows, estimand, level=4, step=20, treated="perturbed.nano")
        values = np.array([row["estimate"] for row in own])
        assert values.mean() == pytest.approx(pooled["estimate"])
        half = t.ppf(0.975, 3) * values.std(ddof=1) / 2
        assert (pooled["ci_low"], pooled["ci_high"]) == pytest.approx((values.mean() - half, values.mean() + half))
        assert all(
            (row["n_runs"], row["control"], row["family"]) == (1, f"standard.nano.d{k}", "")
            for k, row in enumerate(own)
        )
        assert all((row["ci_low"], row["ci_high"]) == (row["given_low"], row["given_high"]) for row in own)


def test_a_draw_that_lacks_a_level_leaves_its_drift_out_of_what_the_others_say(tmp_path: Path) -> None:
    suite = world_suite(tmp_path, draws=4)
    whole = simulate(suite, learnt)
    drifts = dict(zip((f"perturbed.nano.d{draw}" for draw in range(4)), (0.0, 5.0, -1.0, 1.0), strict=True))
    drifted = whole
    for run, drift in drifts.items():
        drifted = changed(drifted, run, NLL, lambda rows, values, drift=drift: values + drift)
    level = whole.subjects.levels[("perturbed", 1)]
    gone = changed(drifted, "perturbed.nano.d1", NLL, lambda rows, values: np.where(level[rows] == 4, np.nan, values))
    rows = all_effects(suite, gone)
    row = only(rows, "direct", level=4, step=20, treated="perturbed.nano")
    own = [only(rows, "direct", level=4, step=20, treated=f"perturbed.nano.d{draw}")["estimate"] for draw in (0, 2, 3)]
    assert row["estimate"] == pytest.approx(np.mean(own))
    assert (row["n_runs"], row["n"]) == (3, 90)
    assert row["given_low"] < -0.4 < row["given_high"]
    assert row["band_low"] <= row["given_low"] < row["given_high"] <= row["band_high"]
    assert only(rows, "direct", level=1, step=20, treated="perturbed.nano")["n_runs"] == 4

    some = (level == 4) & (np.arange(len(level)) % 3 > 0)
    uneven = changed(drifted, "perturbed.nano.d1", NLL, lambda rows, values: np.where(some[rows], np.nan, values))
    row = only(all_effects(suite, uneven), "direct", level=4, step=20, treated="perturbed.nano")
    assert row["estimate"] == pytest.approx(-0.4, abs=0.1)


def test_a_planted_difference_between_phases_is_found_and_none_is_not(tmp_path: Path) -> None:
    suite = world_suite(tmp_path, more=WHEN)

    def later_is_better(arm: Any, step: int, levels: Any, cells: Any) -> Any:
        return learnt(arm, step, levels, cells) - 0.3 * (cells == 1) * (levels > 0) * (arm.name == "when")

    for effect, truth in ((learnt, 0.0), (later_is_better, -0.3)):
        rows = all_effects(suite, simulate(suite, effect))
        for level in (1, 4):
            row = only(rows, "factor", level=level, step=20, factor="phase=1/2-1 − 0-1/2")
            assert row["estimate"] == pytest.approx(truth, abs=0.15)
            assert (row["p_adjusted"] < 0.01) == (truth != 0)
            assert row["given_low"] < truth < row["given_high"]
            cells = [only(rows, level=level, step=20, factor=f"phase={phase}") for phase in ("1/2-1", "0-1/2")]
            assert cells[0]["estimate"] - cells[1]["estimate"] == pytest.approx(row["estimate"])
            assert sum(each["n"] for each in cells) == only(rows, level=level, step=20, treated="when.nano.d0")["n"]
        assert not chosen(rows, "factor", treated="perturbed.nano.d0")


def test_one_factor_is_judged_within_the_values_of_the_others(tmp_path: Path) -> None:
    """Phase matters and position does not: the labels of position are drawn again among records of one phase."""
    more = '[arm.when]\nfactors = { phase = [[0.0, 0.5], [0.5, 1.0]], position = ["balanced", "start"] }'
    suite = world_suite(tmp_path, more=more, levels="0 = 60, 4 = 60")
    phases = [each[0] for each in suite.arms["when"].combinations("quizzes")]
    late = np.array([phase == "1/2-1" for phase in phases])
    scores = simulate(suite, lambda arm, step, levels, cells: -0.5 * late[cells] * (levels > 0) * (arm.name == "when"))
    rows = all_effects(suite, scores)
    phase = only(rows, "factor", level=4, step=20, factor="phase=1/2-1 − 0-1/2")
    position = only(rows, "factor", level=4, step=20, factor="position=start − balanced")
    assert phase["p_value"] < 0.001
    assert position["p_value"] > 0.05
    assert phase["family"] != position["family"]


def test_families_are_the_levels_of_a_contrast_or_the_whole_suite(tmp_path: Path) -> None:
    def by_hand(rows: list[dict[str, Any]]) -> None:
        for family in {row["family"] for row in rows if row["family"]}:
            own = [row for row in rows if row["family"] == family]
            assert [row["p_adjusted"] for row in own] == holm([row["p_value"] for row in own])

    more = "[arm.early]\nphase = [0.0, 0.5]"
    suite = world_suite(tmp_path, more=more)
    weak = simulate(suite, lambda arm, step, levels, cells: -0.01 * levels * bool(arm.inserted))
    rows = all_effects(suite, weak)
    by_hand(rows)
    families = {row["family"] for row in chosen(rows, step=20)}
    assert families == {f"total of quizzes: {arm}.nano.d0 − standard.nano.d0" for arm in ("perturbed", "early")}
    assert {row["family"] for row in chosen(rows, step=10)} == {""}
    earlier = chosen(rows, step=10, treated="early.nano.d0")
    assert [row["p_adjusted"] for row in earlier] == holm([row["p_value"] for row in earlier])
    whole = replace(suite, eval=replace(suite.eval, analysis=replace(suite.eval.analysis, families="suite")))
    rows = all_effects(whole, weak)
    by_hand(rows)
    assert {row["family"] for row in chosen(rows, step=20)} == {"total"}


def test_the_suite_says_what_is_primary_and_the_margin(tmp_path: Path) -> None:
    cloze, letters = (("choice", f"format={name}", "margin") for name in ("cloze", "letters"))
    tight = "margins = { testset = 0.01 }"
    wide = 'primary = { testset = "choice margin format=letters" }\nmargins = { testset = 0.5 }'
    for evaluation, primary, other, is_equivalent in ((tight, cloze, letters, False), (wide, letters, cloze, True)):
        suite = world_suite(tmp_path, evaluation=evaluation)
        scores = simulate(suite, lambda arm, step, levels, cells: 0.0, measures=(cloze, letters))
        rows = all_effects(suite, scores)
        named = [dict(zip(("probe", "variant", "metric"), measure, strict=True)) for measure in (primary, other)]
        row = only(rows, level=4, step=20, **named[0])
        assert row["family"]
        assert (row["p_equivalent"] < 0.05) == is_equivalent
        assert row["margin"] == suite.eval.analysis.margins["quizzes"]
        rest = only(rows, level=4, step=20, **named[1])
        assert (rest["family"], rest["margin"], rest["p_equivalent"]) == ("", None, None)


def test_what_is_missing_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A draw without a control, a run that stopped early, and gaps: rows where possible, a reason where not."""
    suite = world_suite(tmp_path, draws=3)
    whole = simulate(suite, learnt)
    missing = replace(whole, values={run: own for run, own in whole.values.items() if run != "standard.nano.d2"})
    rows = all_effects(suite, missing)
    row = only(rows, level=4, step=20, treated="perturbed.nano")
    assert row["n_runs"] == 2
    assert row["ci_low"] == row["given_low"]
    (said,) = [row for row in rows if row["estimate"] is None and row["estimand"] == "total"]
    assert said["method"] == "draw 2: standard.nano.d2 not measured"
    assert (said["level"], said["step"], said["n"]) == (None, None, 0)

    stopped = replace(
        whole, values=dict(whole.values) | {"perturbed.nano.d1": {10: whole.values["perturbed.nano.d1"][10]}}
    )
    rows = all_effects(suite, stopped)
    assert [only(rows, level=4, step=step, treated="perturbed.nano")["n_runs"] for step in (10, 20)] == [3, 2]

    nothing = all_effects(suite, replace(whole, values={run: {} for run in whole.values}))
    assert nothing
    assert {row["estimate"] for row in nothing} == {None}
    assert all("not measured" in row["method"] for row in nothing)


def test_no_held_out_record_leaves_totals_alone_and_says_so(tmp_path: Path) -> None:
    suite = world_suite(tmp_path)
    scores = simulate(suite, learnt)
    held_out = scores.subjects.levels[("perturbed", 0)] == 0
    gone = changed(scores, "perturbed.nano.d0", NLL, lambda rows, values: np.where(held_out[rows], np.nan, values))
    rows = all_effects(suite, gone)
    assert {row["level"] for row in chosen(rows, step=20)} == {1, 4}
    (said,) = [row for row in rows if row["estimand"] == "direct"]
    assert (said["estimate"], said["method"]) == (None, "no held-out record was measured: no direct effect")


def test_few_clusters_constant_values_and_two_records_give_points_with_a_reason(tmp_path: Path) -> None:
    one = world_suite(tmp_path, levels="0 = 40, 4 = 40")
    rows = all_effects(one, simulate(one, learnt, per_cluster=40))
    assert {row["n_clusters"] for row in chosen(rows)} == {1}
    assert all(row["ci_low"] is None for row in chosen(rows))
    assert {(row["p_value"], row["p_max_t"]) for row in [*chosen(rows), *chosen(rows, "direct")]} == {(1.0, 1.0)}
    assert all("too few for p to reach" in row["method"] for row in chosen(rows))

    seven = world_suite(tmp_path, levels="0 = 70, 4 = 70")
    rows = all_effects(seven, simulate(seven, learnt, per_cluster=10))
    row = only(rows, level=4, step=20)
    assert (row["n_clusters"], row["p_value"], row["ci_low"], row["p_equivalent"]) == (7, 2 / 2**7, None, None)
    assert "fewer than 10 clusters" in row["method"]
    assert "too few" not in row["method"]
    direct = only(rows, "direct", level=4, step=20)
    assert direct["p_value"] < 0.01
    assert direct["family"].startswith("direct of quizzes")

    five = simulate(one, lambda *given: 5 * learnt(*given), noise=0.0)
    for row in chosen(all_effects(one, five), level=4):
        assert row["estimate"] == pytest.approx(-2.0)
        assert (row["ci_low"], row["band_low"]) == (None, None)
        assert "no variation" in row["method"]

    two = world_suite(tmp_path, levels="0 = 40, 1 = 2, 4 = 40")
    rows = all_effects(two, simulate(two, learnt))
    row = only(rows, level=1, step=20)
    assert (row["n"], row["ci_low"], row["band_low"], row["p_value"]) == (2, None, None, 0.5)
    assert "too few for p to reach" in row["method"]
    assert "fewer than 10 clusters" in row["method"]
    assert only(rows, level=4, step=20)["ci_low"] is not None


def test_very_many_clusters_are_resampled_in_blocks_with_the_intervals_of_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from costar.eval import stacks

    suite = world_suite(tmp_path, draws=2, levels="0 = 600, 4 = 400")
    scores = simulate(suite, learnt, strata=3, steps=(20,))
    monkeypatch.setattr(stacks, "LEAST_UNITS", 100)
    found = all_effects(suite, scores)
    monkeypatch.setattr(stacks, "LEAST_UNITS", 10**9)
    every = all_effects(suite, scores)
    for estimand in ("total", "direct"):
        one, other = (only(rows, estimand, level=4, step=20, treated="perturbed.nano") for rows in (found, every))
        assert one["estimate"] == pytest.approx(other["estimate"], abs=1e-12)
        assert one["given_low"] != other["given_low"]
        width = other["given_high"] - other["given_low"]
        assert one["given_high"] - one["given_low"] == pytest.approx(width, rel=0.15)
        assert one["n_clusters"] == other["n_clusters"]


def test_equal_losses_have_no_interval_where_equal_shares_have_what_their_number_may_hide(tmp_path: Path) -> None:
    """Before an arm differs from its control all differences of losses are 0, which is known, and nothing is estimated."""
    suite = world_suite(tmp_path, levels="0 = 40, 4 = 40")
    scores = simulate(suite, lambda *given: 0 * learnt(*given), noise=0.0)
    loss = only(all_effects(suite, scores), level=4, step=20)
    assert (loss["estimate"], loss["ci_low"], loss["band_low"]) == (0.0, None, None)
    assert "no variation" in loss["method"]
    extracted = ("extraction", "prefix=16", "extracted")
    renamed = {
        run: {step: {extracted: found[NLL]} for step, found in steps.items()} for run, steps in scores.values.items()
    }
    found = all_effects(suite, replace(scores, values=renamed))
    probe, variant, metric = extracted
    share = only(found, level=4, step=20, probe=probe, variant=variant, metric=metric)
    assert share["ci_low"] == pytest.approx(-share["ci_high"])
    assert 0.01 < share["ci_high"] < 0.2
