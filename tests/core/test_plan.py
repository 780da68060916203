from __future__ import annotations

from pathlib import Path

import pytest
from costar.core.design import Suite
from costar.core.plan import factor_notes, full_runs, plan_runs, rotation_notes, tree_remark
from costar.core.suite import find_suite, load_suite

from tests.small import SUITE


def test_demo_costs_three_and_a_half_runs() -> None:
    suite = load_suite(find_suite("demo"))
    runs = plan_runs(suite, suite.runs(), 1024)
    late = runs[-1]
    assert (late.parent, late.shared_steps) == ("standard.tiny.d0", 366)
    assert full_runs(runs) == pytest.approx(3.5)
    assert "for the price of 3.5" in tree_remark(runs)


def write_hubble(path: Path, arms: list[str], replaced: tuple[str, str] = ("", "")) -> Suite:
    """The published suite with some of its arms: for 1b only, and without a release."""
    text = find_suite("hubble").read_text(encoding="utf-8")
    head, tail = text[: text.index("[arm.standard]")], text[text.index("[train]") : text.index("[release]")]
    lines = {line.split()[0]: line for line in text.splitlines() if " = { phase = " in line}
    tables = [f"{name} = {lines[name].split('=', 1)[1]}" for name in arms]
    body = "[arm.standard]\nperturbations = []\n[arm]\n" + "\n".join(tables) + "\n"
    path.write_text(head + body + tail.replace(*replaced), encoding="utf-8")
    return load_suite(path)


WINDOWS = ["first-quarter", "second-quarter", "third-quarter", "last-quarter", "first-half", "second-half"]


@pytest.mark.parametrize("arms", [WINDOWS, WINDOWS[::-1]])
def test_hubbles_timing_set_is_seven_runs_for_the_price_of_five(tmp_path: Path, arms: list[str]) -> None:
    suite = write_hubble(tmp_path / "timing.toml", arms)
    runs = plan_runs(suite, suite.runs(), 50_304)
    assert suite.train.schedule == "cosine"
    assert {run.name.arm: run.shared_steps for run in runs if run.parent} == {
        "second-quarter": 12_000,
        "third-quarter": 24_000,
        "last-quarter": 36_000,
        "second-half": 24_000,
    }
    assert full_runs(runs) == pytest.approx(5.0)
    assert tree_remark(runs).startswith("7 runs for the price of 5: ")


def test_budgets_share_the_trunk_of_wsd_and_nothing_of_a_cosine_but_the_warm_up(tmp_path: Path) -> None:
    longer = "\n[arm.longer]\nperturbations = []\ncontrol = 'none'\nsteps = 240_000\n[train]"
    path = tmp_path / "budgets.toml"
    suite = write_hubble(path, [], ("[train]", longer))
    runs = plan_runs(suite, suite.runs(), 50_304)
    assert [run.shared_steps for run in runs] == [0, suite.train.warmup + 1]
    path.write_text(path.read_text().replace('"cosine"', '"wsd"\ndecay = 4_800'), encoding="utf-8")
    suite = load_suite(path)
    for names in (suite.runs(), suite.runs()[::-1]):
        runs = plan_runs(suite, names, 50_304)
        assert [run.shared_steps for run in runs] == [0, 43_200]
        assert full_runs(runs) == pytest.approx(2 * (1 - 43_200 / 288_000))


def test_exact_shares_take_the_place_of_the_bound() -> None:
    suite = load_suite(find_suite("demo"))
    exact = {str(name): (None, 0) for name in suite.runs()} | {"late.tiny.d0": ("standard.tiny.d0", 400)}
    runs = plan_runs(suite, suite.runs(), 1024, exact)
    assert full_runs(runs) == pytest.approx(4 - 400 / 732)


def test_records_that_a_rotation_inserts_twice_are_counted(tmp_path: Path) -> None:
    head, tail = (
        SUITE[: SUITE.index("[perturbation.quizzes]")],
        SUITE[SUITE.index("[train]") : SUITE.index("[release]")],
    )
    arms = "[arm.standard]\nperturbations = []\n[arm.swapped]\nassignment = 'swap'\n"
    path = tmp_path / "case.toml"
    path.write_text(head + arms + tail)
    (note,) = rotation_notes(load_suite(path))
    assert "4 of its 24 inserted passages" in note
    path.write_text(head.replace("{ 0 = 20, 1 = 12, 14 = 12 }", "{ 0 = 24, 1 = 12, 14 = 12 }") + arms + tail)
    assert rotation_notes(load_suite(path)) == []


def test_levels_with_fewer_records_than_combinations_are_noted(tmp_path: Path) -> None:
    head, tail = (
        SUITE[: SUITE.index("[perturbation.quizzes]")],
        SUITE[SUITE.index("[train]") : SUITE.index("[release]")],
    )
    factors = (
        "factors = { phase = [[0, 0.5], [0.5, 1]], position = ['start', 'middle', 'end'], spacing = ['even', 'burst'] }"
    )
    path = tmp_path / "case.toml"
    path.write_text(head + f"[arm.standard]\nperturbations = []\n[arm.many]\n{factors}\n" + tail)
    assert factor_notes(load_suite(path)) == []
    path.write_text(path.read_text().replace("14 = 12", "14 = 11"))
    assert "level 14 (11)" in factor_notes(load_suite(path))[0]
