"""The suites of the findings: they load, they fit, and the larger one claims what the smaller one does."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pytest
from costar.core.design import Suite
from costar.core.suite import find_suite, load_suite
from costar.manifests.sql import recipes

from tests.small import costar

SUITES = ("findings", "findings-full", "rates")


def loaded(name: str) -> Suite:
    return load_suite(find_suite(name))


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_of_the_findings_plans_without_a_complaint(name: str, tmp_path: Path) -> None:
    done = costar(tmp_path, "plan", name)
    assert f"costar {name} · " in done.stdout
    notes = [line for line in done.stdout.splitlines() if line.startswith("note:")]
    assert all("a verdict is stricter than these sizes" in line for line in notes)
    assert done.stderr == ""


def test_the_core_takes_eight_runs_a_draw_of_which_three_are_enough_for_a_claim_about_runs() -> None:
    suite = loaded("findings")
    assert suite.draws == 3
    assert len(suite.runs(draw=0)) == 8
    assert sum(suite.arms[run.arm].train.slots * suite.corpus.sequence_length for run in suite.runs()) < 50e6


def test_the_full_suite_claims_all_that_the_core_does_of_the_same_records() -> None:
    core, full = loaded("findings"), loaded("findings-full")
    own = {"step": 0, "draws": 0}  # the larger suite trains longer, and more often
    claimed: dict[str, dict[str, Any]] = {each.name: vars(each) | own for each in full.hypotheses}
    for each in core.hypotheses:
        assert claimed[each.name] == vars(each) | own
    for name, design in core.perturbations.items():
        assert full.perturbations[name] == design


def test_the_page_has_a_row_for_every_claim_with_what_is_expected() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "findings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)`[^|]*\| (below|above|equivalent)", page, flags=re.MULTILINE)
    assert rows == [(each.name, each.expect) for each in loaded("findings-full").hypotheses]


@pytest.mark.parametrize("name", ["findings", "findings-full"])
def test_every_arm_serves_a_claim_and_every_claim_belongs_to_a_finding(name: str) -> None:
    suite = loaded(name)
    named = {arm for each in suite.hypotheses for arm in (each.treated, each.control)}
    assert named | {suite.arms[arm].control for arm in named} == {*suite.arms, None}
    order = [each.finding for each in suite.hypotheses]
    assert [finding for finding, _ in groupby(order)] == list(dict.fromkeys(order))
    assert all(order)


def test_the_page_has_a_section_for_every_finding_with_its_claims() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "findings.md").read_text(encoding="utf-8")
    claims = {each.name: each.finding for each in loaded("findings-full").hypotheses}
    for section in page.split("\n### ")[1:]:
        title = section.splitlines()[0].lower().replace(" ", "-")
        for claim in re.findall(r"^\| `([a-z0-9-]+)`", section, flags=re.MULTILINE):
            assert title.startswith(claims[claim]) or claims[claim] in title


@pytest.mark.parametrize("name", ["findings", "findings-full"])
def test_no_copy_of_a_randomized_phase_is_read_during_warm_up(name: str) -> None:
    for arm in loaded(name).arms.values():
        for each in arm.inserted:
            phases = arm.phases(each)
            assert len(phases) == 1 or phases[0][0] * arm.train.steps >= arm.train.warmup


def test_density_doubles_from_one_to_eight_percent_around_the_same_records() -> None:
    suite = loaded("findings-full")
    slots = suite.train.slots
    shares = []
    for share in (1, 2, 4, 8):
        arm = suite.arms[f"density-{share}"]
        assert "watched" in arm.inserted
        shares.append(sum(suite.perturbations[name].copies for name in arm.inserted) / slots)
    assert shares == pytest.approx([0.01, 0.02, 0.04, 0.08], abs=1e-9)


def test_each_size_has_the_rate_that_the_sweep_offers_around() -> None:
    full, rates = loaded("findings-full"), loaded("rates")
    swept = {(arm.models, arm.train.optimizer, arm.train.lr) for arm in rates.arms.values()}
    for arm in full.arms.values():
        assert (arm.models, arm.train.optimizer, arm.train.lr) in swept, arm.name
    assert rates.seed not in (full.seed, loaded("findings").seed)


def test_at_equal_loss_the_larger_model_is_read_at_its_first_checkpoint_that_is_as_good() -> None:
    connection = duckdb.connect()
    for statement in (
        "create table arm_perturbations as select * from (values ('small', 'p'), ('large', 'p')) t(arm, perturbation)",
        "create table models as select * from (values ('s', 10), ('l', 40)) t(model, parameters)",
        "create table runs as select * from (values ('small.s.d0', 'small', 's', 0, 8), ('large.l.d0', 'large', 'l', 0, 8))"
        " t(run, arm, model, draw, steps)",
        "create table validation as select * from (values ('small.s.d0', 4, 5.0), ('small.s.d0', 8, 4.0),"
        " ('large.l.d0', 2, 4.5), ('large.l.d0', 4, 3.9), ('large.l.d0', 6, 3.0), ('large.l.d0', 8, 2.5)) t(run, step, loss)",
        "create table assignments as select arm, 0 as draw, record_id, level"
        " from (values ('a', 4), ('b', 0)) t(record_id, level), (values ('small'), ('large')) u(arm)",
        "create table records as select * from (values ('a', 'p'), ('b', 'p')) t(record_id, perturbation)",
        "create table dose_at_step as select run, step, record_id, case when record_id = 'a' then step // 2 else 0 end as copies"
        " from validation, records",
        "create table dose_response as select run, step, 'p' as perturbation, level, 'likelihood' as probe, '' as variant,"
        " 'nll_token' as metric, case when level = 0 then loss else loss - step / 8 end as mean"
        " from validation, (values (0), (4)) t(level)",
    ):
        connection.execute(statement)
    rows = connection.execute(recipes()["equal_loss"]).fetchall()
    assert rows == [("small.s.d0", "large.l.d0", 4, "p", 4, 4.0, -1.0, 2.0, -0.5)]
