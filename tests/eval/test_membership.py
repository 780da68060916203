from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.assigned import read_assigned
from costar.eval.dataset_inference import cluster_features, inference_p
from costar.eval.membership import Attack, Labels, Texts, adjusted, evaluate, evaluate_blind, gate_text, infer_sets
from costar.eval.scores import load_scores
from costar.eval.suite_attacks import Attacked, compute_membership, read_membership

from .worlds import changed, names, second_draw, swapped

LOSS = ("membership", "attack=loss", "attack_score")
ATTACKS = {"loss", "zlib", "min-k", "min-k-plus-plus", "recall", "dc-pdd"}


def labels_of(levels: dict[str, int], draws: int = 1) -> Labels:
    return Labels(
        arm="treated",
        perturbation="passages",
        levels=dict.fromkeys(range(draws), levels),
        cluster={record: record for record in levels},
        stratum=dict.fromkeys(levels, ""),
    )


def levels_of(held_out: int, **members: int) -> dict[str, int]:
    """Records by level: `one=12` is twelve with 1 copy."""
    number = {"one": 1, "four": 4}
    own = {f"h{i:03d}": 0 for i in range(held_out)}
    return own | {f"{name}{i:03d}": number[name] for name, n in members.items() for i in range(n)}


def attack_of(levels: dict[str, int], shift: float = 1.0, seed: int = 0, **more: Any) -> Attack:
    generator = np.random.default_rng(seed)
    scores = {record: generator.normal() + shift * (level > 0) for record, level in levels.items()}
    facts = {"run": "r.m.d0", "step": 9, "name": "loss", "tier": "plain", "scores": {0: scores}}
    return Attack(**(facts | more))


def attacked(built: Path) -> Attacked:
    workspace, suite = Workspace(built), load_suite(built / "suite.toml")
    return Attacked(suite, load_scores(suite, workspace), read_assigned(workspace).members)


def one(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_copies_are_found_on_the_run_that_read_them_and_not_on_the_one_that_did_not(built: Path) -> None:
    rows, _ = read_membership(Workspace(built))
    late = one(rows, run="late.nano.d0", step=96, level=14, attack="loss", tier="plain", gate="")
    assert late["auc"] > 0.9
    assert late["p_adjusted"] < 0.01
    gates = [row for row in rows if row["gate"] == "standard"]
    assert {row["run"] for row in gates} == {"standard.nano.d0"}
    assert {row["perturbation"] for row in gates} == {"passages", "quizzes", "passwords"}
    assert {row["attack"] for row in gates} == ATTACKS
    assert all(row["p_adjusted"] is None or row["p_adjusted"] >= 0.05 for row in gates)
    assert gate_text(rows) == "6 gates at chance"


def test_the_twin_as_reference_tells_members_from_the_others(built: Path) -> None:
    rows, _ = read_membership(Workspace(built))
    oracle = one(rows, run="late.nano.d0", step=96, level=14, tier="oracle")
    assert oracle["auc"] > 0.9


def test_a_control_that_may_have_read_the_records_is_neither_gate_nor_reference(built: Path) -> None:
    """Its own records, those of its parents, and those of a model from elsewhere; other perturbations are as before."""
    found = attacked(built)
    arms = dict(found.suite.arms)
    standard = arms["standard"]
    changed = [
        arms | {"late": replace(arms["late"], control="early")},
        arms | {"standard": replace(standard, parent="early")},
        arms | {"standard": replace(standard, init="elsewhere")},
    ]
    other = {run.replace(".nano.", ".pico."): steps for run, steps in found.scores.values.items()}
    scores = replace(found.scores, values=dict(found.scores.values) | other)

    def tiers(arms: dict[str, Any], perturbation: str) -> set[tuple[str, str, str]]:
        each = replace(found, scores=scores, suite=replace(found.suite, arms=arms))
        return {
            (attack.run, attack.tier, attack.gate)
            for labels, attacks in each.trials()
            for attack in attacks
            if labels.perturbation == perturbation and attack.tier != "draws" and ".nano" in attack.run
        }

    assert ("standard.nano.d0", "plain", "standard") in tiers(arms, "passages")
    assert {t for run, t, _ in tiers(arms, "passages") if run == "late.nano.d0"} == {"plain", "oracle", "reference"}
    for each in changed:
        assert {(t, gate) for run, t, gate in tiers(each, "passages") if run == "late.nano.d0"} == {("plain", "")}
        assert not [run for run, _, gate in tiers(each, "passages") if gate and run != "standard.nano.d0"]
    assert tiers(changed[1], "quizzes") == tiers(arms, "quizzes")
    assert not [tier for _, tier, _ in tiers(changed[2], "quizzes") if tier != "plain"]


def test_an_arm_is_attacked_on_what_it_inserts_at_its_end_and_where_its_phase_ends(built: Path) -> None:
    rows, _ = read_membership(Workspace(built))
    found = {
        (row["run"], row["perturbation"], row["step"]) for row in rows if row["tier"] == "plain" and not row["gate"]
    }
    whole = {("perturbed.nano.d0", name, 96) for name in ("passages", "quizzes", "passwords")}
    assert found == whole | {
        (f"{arm}.nano.d0", "passages", step) for arm, step in (("early", 48), ("early", 96), ("late", 96))
    }


def test_the_labels_of_a_gate_are_those_of_the_treated_arm_and_no_row_comes_twice(built: Path) -> None:
    rows, sets = read_membership(Workspace(built))
    key = ("run", "step", "perturbation", "labels", "level", "attack", "tier", "reference", "gate")
    assert len({tuple(row[name] for name in key) for row in rows}) == len(rows)
    assert len(
        {tuple(row[name] for name in ("run", "step", "perturbation", "labels", "level", "gate", "n")) for row in sets}
    ) == len(sets)
    gate = one(rows, gate="standard", perturbation="passages", step=96, level=14, attack="zlib")
    late = one(rows, run="late.nano.d0", step=96, level=14, attack="zlib")
    assert (gate["n_members"], gate["n_nonmembers"]) == (late["n_members"], late["n_nonmembers"]) == (12, 20)


def test_scores_are_those_of_the_ledger_and_the_prefix_of_recall_was_never_inserted(built: Path) -> None:
    found = attacked(built)
    nll, loss, recall = (
        found.scores.by_id("late.nano.d0", 96, measure)
        for measure in (("likelihood", "", "nll_token"), LOSS, ("membership", "attack=recall", "attack_score"))
    )
    assert {record: pytest.approx(-value) for record, value in loss.items()} == nll
    missing = set(loss) - set(recall)
    perturbations = ("passages", "quizzes", "passwords")
    assert all(missing & names(found.scores, found.scores.subjects.members(name)) for name in perturbations)
    assert not missing & set().union(*found.members.values())


def test_runs_without_a_record_are_those_whose_labels_do_not_hang_together_with_its_own(built: Path) -> None:
    """Early and late insert passages with the same labels, so that only the control is without them: too few."""
    rows, _ = read_membership(Workspace(built))
    draws = {(row["run"], row["perturbation"], row["reference"]) for row in rows if row["tier"] == "draws"}
    assert draws == {
        ("perturbed.nano.d0", name, "up to 3 runs without the record") for name in ("quizzes", "passwords")
    }


def test_a_model_of_another_size_is_a_reference_and_the_twin_is_an_oracle(built: Path) -> None:
    found = attacked(built)
    other = {run.replace(".nano.", ".pico."): steps for run, steps in found.scores.values.items()}
    both = replace(found, scores=replace(found.scores, values=dict(found.scores.values) | other))
    tiers = {
        (attack.tier, attack.reference)
        for labels, attacks in both.trials()
        for attack in attacks
        if attack.run == "late.nano.d0" and attack.tier in ("reference", "oracle")
    }
    assert tiers == {("reference", "standard.pico.d0"), ("oracle", "standard.nano.d0")}


def test_two_draws_are_pooled_and_one_of_them_is_the_others_reference(built: Path) -> None:
    found = attacked(built)
    scores, suite = found.scores, found.suite
    twice = second_draw(scores)
    doubled = replace(suite, arms={name: replace(arm, draws=2) for name, arm in suite.arms.items()})
    members = dict(found.members) | {(arm, 1): own for (arm, _), own in found.members.items()}

    def rows(each: Attacked) -> list[dict[str, Any]]:
        return [
            row
            for labels, attacks in each.trials()
            if labels.perturbation == "passages"
            for row in evaluate(labels, attacks)
        ]

    single, double = rows(found), rows(Attacked(doubled, twice, members))
    was = one(single, run="late.nano.d0", level=14, attack="zlib", step=96)
    row = one(double, run="late.nano", level=14, attack="zlib", step=96)
    assert row["auc"] == pytest.approx(was["auc"])
    assert (row["n_runs"], row["n_members"]) == (2, 2 * was["n_members"])
    assert any(row["tier"] == "reference" and row["reference"] == "standard.nano, another draw" for row in double)
    draws = [row for row in double if row["tier"] == "draws" and row["run"] == "late.nano"]
    assert {row["attack"] for row in draws} == {"lira", "rmia"}  # with both controls, for every record
    assert {row["n_members"] for row in draws if row["level"] == 14} == {24}
    sets = [
        row for labels, attacks in Attacked(doubled, twice, members).trials() for row in infer_sets(labels, attacks)
    ]
    assert {"late.nano.d0", "late.nano.d1"} <= {row["run"] for row in sets}


def in_two_draws(found: Attacked) -> Attacked:
    """A second draw with the scores of the first, in which members and held-out passages have changed places."""
    scores = found.scores
    order = swapped(scores, "passages")
    own, ids = scores.subjects.levels[("late", 0)], scores.subjects.ids
    assert ((own > 0) != (own[order] > 0)).any()
    other = {ids[one]: ids[two] for one, two in enumerate(order.tolist())}
    members = {(arm, 1): frozenset(other.get(r, r) for r in read) for (arm, _), read in found.members.items()}
    return Attacked(
        replace(found.suite, arms={name: replace(arm, draws=2) for name, arm in found.suite.arms.items()}),
        second_draw(scores, order),
        dict(found.members) | members,
    )


def from_draws(each: Attacked) -> dict[str, dict[str, float]]:
    """The scores of LiRA and RMIA on the first draw of `late`."""
    return {
        attack.name: dict(attack.scores[0])
        for labels, attacks in each.trials()
        for attack in attacks
        if (labels.perturbation, attack.tier, attack.run) == ("passages", "draws", "late.nano")
    }


def with_loss(each: Attacked, run: str, records: Set[str], shift: float) -> Attacked:
    """The loss scores of some records in a run moved."""
    chosen = [row for row, name in enumerate(each.scores.subjects.ids) if name in records]
    shifted = changed(each.scores, run, LOSS, lambda rows, values: values + shift * np.isin(rows, chosen))
    return replace(each, scores=shifted)


def test_a_run_that_has_read_a_record_is_not_among_those_without_it(built: Path) -> None:
    both = in_two_draws(attacked(built))
    before = from_draws(both)
    assert set(before) == {"lira", "rmia"}
    read = both.members[("late", 1)] & names(both.scores, both.scores.subjects.members("passages"))
    after = from_draws(with_loss(both, "late.nano.d1", read, 50.0))
    assert after == before
    unread = set(both.scores.subjects.ids) - read
    assert from_draws(with_loss(both, "late.nano.d1", unread, 50.0))["lira"] != before["lira"]


def test_the_population_of_rmia_is_held_out(built: Path) -> None:
    """What the run says of other members moves no one's rank, what it says of held-out records does."""
    both = in_two_draws(attacked(built))
    before = from_draws(both)["rmia"]
    levels = dict(zip(both.scores.subjects.ids, both.scores.subjects.levels[("late", 0)].tolist(), strict=True))
    members, held_out = ({r for r in before if (levels[r] > 0) == side} for side in (True, False))
    assert members
    assert held_out
    after = from_draws(with_loss(both, "late.nano.d0", members, -50.0))["rmia"]
    assert {r: after[r] for r in held_out} == {r: before[r] for r in held_out}
    after = from_draws(with_loss(both, "late.nano.d0", held_out, -50.0))["rmia"]
    assert {after[r] for r in members} == {1.0}


def test_what_a_parent_arm_has_read_is_not_held_out_and_fillers_have_no_members(built: Path) -> None:
    found = attacked(built)
    passages = found.scores.subjects.members("passages")
    own = found.scores.subjects.levels[("late", 0)][passages]
    held_out = sorted(names(found.scores, passages[own == 0]))
    read = dict(found.members) | {("early", 0): found.members[("early", 0)] | set(held_out[:3])}
    arms = dict(found.suite.arms)
    child = replace(
        found, members=read, suite=replace(found.suite, arms=arms | {"late": replace(arms["late"], parent="early")})
    )
    labels = next(own for own, _ in child.trials() if own.arm == "late")
    assert set(held_out) - set(labels.levels[0]) == set(held_out[:3])
    filled = replace(found, suite=replace(found.suite, arms=arms | {"late": replace(arms["late"], filler="base")}))
    assert not any(attack.run == "late.nano.d0" for _, attacks in filled.trials() for attack in attacks)


def test_the_same_scores_give_the_same_bytes_and_altered_ones_are_refused(built_copy: Path) -> None:
    from costar.core.errors import CostarError
    from costar.eval.stored import damaged_files

    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    paths = [built_copy / "eval" / f"{name}.parquet" for name in ("membership", "dataset_inference")]
    before = [path.read_bytes() for path in paths]
    assert compute_membership(suite, workspace) == "6 gates at chance"
    assert [path.read_bytes() for path in paths] == before
    paths[0].write_bytes(before[0][:-1] + b"x")
    assert "membership.parquet" in damaged_files(workspace)[0]
    with pytest.raises(CostarError, match="other numbers"):
        read_membership(workspace)


def test_a_gate_that_finds_something_is_said_to_have_failed() -> None:
    levels = levels_of(60, one=20, four=20)
    rows = evaluate(labels_of(levels), [attack_of(levels, 2.0, gate="standard"), attack_of(levels, 2.0)])
    assert "1 of 1 GATES FAILED: standard on passages (r.m.d0, step 9, p 0.00" in gate_text(rows)
    text = {record: "read me" if level else "leave me" for record, level in levels.items()}
    blind = evaluate_blind(labels_of(levels), Texts(text=text, n_tokens=dict.fromkeys(levels, 3)))
    assert "GATES FAILED: blind on passages" in gate_text(blind)
    assert gate_text([]) == ""
    assert "no gate could be tested" in gate_text([row | {"gate": ""} for row in rows])


def test_below_ten_clusters_there_is_a_point_only_and_two_records_are_enough_for_that() -> None:
    levels = levels_of(60, one=2, four=12)
    rows = evaluate(labels_of(levels), [attack_of(levels)])
    few, enough = one(rows, level=1), one(rows, level=4)
    assert few["auc"] is not None
    assert (few["ci_low"], few["p_value"], few["p_adjusted"]) == (None, None, None)
    assert few["method"].startswith("fewer than 10 clusters")
    assert enough["ci_low"] < enough["auc"] < enough["ci_high"]
    shared = replace(labels_of(levels), cluster={record: record[:2] for record in levels})
    assert all(row["p_value"] is None for row in evaluate(shared, [attack_of(levels)]))


def test_a_record_without_a_number_is_left_out_and_counts_as_none() -> None:
    levels = levels_of(30, one=12)
    attack = attack_of(levels)
    scores = dict(attack.scores[0]) | {"one000": float("nan")}
    del scores["h000"]
    row = one(evaluate(labels_of(levels), [replace(attack, scores={0: scores})]), level=1)
    assert (row["n_members"], row["n_nonmembers"]) == (11, 29)
    nothing = replace(attack, scores={0: dict.fromkeys(scores, float("nan"))})
    assert evaluate(labels_of(levels), [nothing]) == []
    assert list(infer_sets(labels_of(levels), [nothing])) == []


def test_a_rate_that_cannot_be_known_is_empty_and_the_method_says_why() -> None:
    few, enough = levels_of(99, one=12), levels_of(100, one=12)
    row = one(evaluate(labels_of(few), [attack_of(few)]), level=1)
    assert row["tpr_01"] is None
    assert "no rate at 1 % false positives: it takes 100 non-members" in row["method"]
    row = one(evaluate(labels_of(enough), [attack_of(enough, 9.0)]), level=1)
    assert (row["tpr_01"], row["fpr_01"], row["tpr_01_high"]) == (1.0, 0.01, 1.0)
    assert row["tpr_001"] is None
    assert (row["auc"], row["ci_low"]) == (1.0, None)
    assert row["method"].startswith("no interval: every resample has the same area; p by")


def test_draws_of_different_levels_are_each_read_by_their_own() -> None:
    """A record that is a member in one draw and held out in the other, with scores that follow: every pair is in order."""
    one_draw = levels_of(20, one=12, four=12)
    names = sorted(one_draw)
    other = {name: one_draw[twin] for name, twin in zip(names, names[15:] + names[:15], strict=True)}
    assert any((one_draw[name] > 0) != (other[name] > 0) for name in names)
    scores = {
        draw: {record: level + 0.01 * n for n, (record, level) in enumerate(sorted(own.items()))}
        for draw, own in enumerate((one_draw, other))
    }
    labels = replace(labels_of(one_draw), levels={0: one_draw, 1: other})
    rows = evaluate(labels, [replace(attack_of(one_draw), scores=scores)])
    for level, members in ((1, 24), (4, 24), (None, 48)):
        row = one(rows, level=level)
        assert (row["n_members"], row["n_nonmembers"], row["n_runs"]) == (members, 40, 2)
        assert row["auc"] == 1.0


def test_sets_are_inferred_from_members_against_held_out_records() -> None:
    levels = levels_of(60, one=50)
    attacks = [attack_of(levels, 0.4, seed, name=f"a{seed}") for seed in range(2)]
    scores = [attack.scores[0] for attack in attacks]
    sides = [sorted(r for r, level in levels.items() if (level > 0) == side) for side in (True, False)]
    features = [cluster_features(side, labels_of(levels).cluster, scores) for side in sides]
    expected = inference_p(features[0], features[1], ("passages", 0, 1))
    rows = list(infer_sets(labels_of(levels), attacks))
    assert {row["n"]: row["p_value"] for row in rows} == expected
    assert expected != inference_p(features[1], features[0], ("passages", 0, 1))


def test_levels_are_adjusted_together_and_gates_over_attacks_as_well() -> None:
    levels = levels_of(40, one=12, four=12)
    attacks = [
        attack_of(levels, 0.9, seed, name=name, gate=gate)
        for seed, name in enumerate("ab")
        for gate in ("", "standard")
    ]
    rows = evaluate(labels_of(levels), attacks)
    for name in "ab":
        own = sorted(
            (r for r in rows if r["attack"] == name and not r["gate"] and r["level"]), key=lambda r: r["p_value"]
        )
        assert own[0]["p_adjusted"] == pytest.approx(min(1, 2 * own[0]["p_value"]))
        assert one(rows, attack=name, gate="", level=None)["p_adjusted"] is None
    gates = sorted((row for row in rows if row["gate"]), key=lambda row: row["p_value"])
    assert len(gates) == 6
    assert gates[0]["p_adjusted"] == pytest.approx(min(1, 6 * gates[0]["p_value"]))


def test_a_gate_is_one_question_whatever_its_runs_and_steps() -> None:
    """Twenty rows of one gate are one family: the least of their p-values counts twenty times."""
    levels = levels_of(40, one=12)
    attacks = [attack_of(levels, 0.0, n, step=n, run=f"r{n % 2}.m.d0", gate="standard") for n in range(20)]
    apart = [row for attack in attacks for row in evaluate(labels_of(levels), [attack])]
    assert [row["p_adjusted"] for row in apart] == [row["p_value"] for row in apart]
    rows = adjusted(apart)
    least = min(rows, key=lambda row: row["p_value"])
    assert least["p_adjusted"] == pytest.approx(min(1, 20 * least["p_value"]))
    other = [row | {"perturbation": "quizzes"} for row in rows[:1]]
    assert adjusted([*rows, *other])[-1]["p_adjusted"] == other[0]["p_value"]


def test_what_an_attack_is_worth_does_not_depend_on_the_others_beside_it() -> None:
    levels = levels_of(40, one=12, four=12)
    attacks = [attack_of(levels, 0.5, seed, name=f"a{seed}") for seed in range(4)]
    together, alone = evaluate(labels_of(levels), attacks), evaluate(labels_of(levels), attacks[2:3])
    assert [row for row in together if row["attack"] == "a2"] == alone
