from __future__ import annotations

from pathlib import Path

import pytest
from costar.core.design import Suite
from costar.core.errors import CostarError
from costar.core.suite import load_suite

from tests.small import SUITE

ORDERING = """
[arm.ordering]
perturbations = ["passages"]
factors       = { phase = [[0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1]] }
"""
CLAIM = {
    "claim": '"Fourteen copies are remembered."',
    "expect": '"below"',
    "estimand": '"direct"',
    "treated": '"perturbed"',
    "perturbation": '"passages"',
    "level": "14",
}


def load(folder: Path, **keys: str | None) -> Suite:
    """The small suite with one hypothesis; a key of None is left out."""
    table = "\n".join(f"{key} = {value}" for key, value in (CLAIM | keys).items() if value is not None)
    path = folder / "case.toml"
    path.write_text(SUITE + ORDERING + "[hypothesis.one]\n" + table, encoding="utf-8")
    return load_suite(path)


def test_a_hypothesis_names_its_row_with_what_the_suite_knows(tmp_path: Path) -> None:
    (one,) = load(tmp_path).hypotheses
    assert (one.name, one.control, one.model, one.level, one.step) == ("one", "standard", "nano", 14, 96)
    assert one.measure == ("likelihood", "", "nll_token")
    assert (one.finding, one.draws) == ("", 1)
    (quiz,) = load(tmp_path, perturbation='"quizzes"', level="2").hypotheses
    assert quiz.measure == ("choice", "format=cloze", "margin")


def test_the_step_is_the_last_one_or_the_end_of_the_phase_or_of_the_cell_or_a_number(tmp_path: Path) -> None:
    def step(**keys: str) -> int:
        return load(tmp_path, **keys).hypotheses[0].step

    assert step(treated='"early"', step='"phase-end"') == 48
    assert step(treated='"early"') == 96
    assert step(treated='"early"', step="24") == 24
    assert step(treated='"ordering"', factor='"phase=1/4-1/2"', step='"phase-end"') == 48
    assert step(treated='"ordering"', estimand='"factor"', factor='"phase=1/2-3/4 − 0-1/4"', step='"phase-end"') == 72


def test_a_plain_minus_between_two_values_is_the_one_that_effects_write(tmp_path: Path) -> None:
    suite = load(tmp_path, treated='"ordering"', estimand='"factor"', factor='"phase=3/4-1 - 0-1/4"')
    assert suite.hypotheses[0].factor == "phase=3/4-1 − 0-1/4"


def test_hypotheses_are_part_of_the_plan_that_is_hashed(tmp_path: Path) -> None:
    below, above = (load(tmp_path, expect=f'"{expect}"').eval.analysis for expect in ("below", "above"))
    assert below.sha256() == load(tmp_path).eval.analysis.sha256() != above.sha256()
    finding = load(tmp_path, finding='"ordering"').eval.analysis
    assert finding.plain()["hypotheses"][0]["finding"] == "ordering"
    assert finding.sha256() != below.sha256()
    assert below.plain()["hypotheses"][0]["measure"] == "likelihood nll_token"


@pytest.mark.parametrize(
    ("keys", "key", "says"),
    [
        ({"treated": '"pertubed"'}, "treated", "did you mean 'perturbed'"),
        ({"treated": '"standard"'}, "control", "compared with"),
        ({"control": '"standart"'}, "control", "did you mean 'standard'"),
        ({"estimand": '"timing"', "treated": '"late"'}, "control", "nothing"),
        ({"perturbation": '"passage"'}, "perturbation", "did you mean 'passages'"),
        ({"treated": '"early"', "perturbation": '"quizzes"'}, "perturbation", "which early does not insert"),
        ({"perturbation": None}, "perturbation", "nothing"),
        ({"level": "4"}, "level", "one of 1, 14"),
        ({"level": "0"}, "level", "one of 1, 14"),
        ({"level": None}, "level", "nothing"),
        ({"estimand": '"spillover"'}, "level", "one of 0"),
        ({"estimand": '"shift"', "control": '"early"'}, "level", "over all records"),
        ({"estimand": '"utility"'}, "perturbation", "none"),
        ({"estimand": '"utility"', "perturbation": None, "level": None, "step": '"phase-end"'}, "step", "number"),
        ({"measure": '"likelihood"'}, "measure", "PROBE METRIC"),
        ({"measure": '"persona margin"'}, "measure", "[eval] probes"),
        ({"measure": '"extraction extracted prefix=8"', "expect": '"equivalent"'}, "measure", "no margin"),
        ({"model": '"tiny"'}, "model", "one of nano"),
        ({"step": "25"}, "step", "24, 48, 72, 96"),
        ({"factor": '"phase=0-1/4"'}, "factor", "arm with factors"),
        ({"treated": '"ordering"', "factor": '"phase=0-1/2"'}, "factor", "phase=0-1/4"),
        ({"treated": '"ordering"', "estimand": '"factor"'}, "factor", "phase=1/4-1/2 − 0-1/4"),
        (
            {"treated": '"ordering"', "estimand": '"factor"', "factor": '"phase=0-1/4 − 3/4-1"'},
            "factor",
            "phase=3/4-1 − 0-1/4",
        ),
        ({"expect": '"less"'}, "expect", "'below'"),
        ({"clam": '"x"'}, "", "did you mean 'claim'"),
    ],
)
def test_a_hypothesis_about_what_the_suite_lacks_is_refused_by_name(
    tmp_path: Path, keys: dict[str, str | None], key: str, says: str
) -> None:
    with pytest.raises(CostarError) as caught:
        load(tmp_path, **keys)
    assert f"[hypothesis.one] {key}".rstrip() in str(caught.value)
    assert says in str(caught.value)


def test_a_name_of_a_hypothesis_is_lower_case(tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    path.write_text(
        SUITE + "[hypothesis.One]\nclaim = 'It is so, we say.'\nexpect = 'below'\nestimand = 'direct'\n"
        "treated = 'perturbed'\nperturbation = 'passages'\nlevel = 1\n",
        encoding="utf-8",
    )
    with pytest.raises(CostarError, match="lower-case"):
        load_suite(path)
