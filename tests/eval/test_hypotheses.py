from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from costar.core.analysis import NLL, Hypothesis
from costar.eval.hypotheses import verdicts
from costar.manifests.tables import EFFECTS
from scipy.stats import norm, ttest_1samp
from scipy.stats import t as student

ONE = Hypothesis(
    name="one",
    claim="Fourteen copies are remembered.",
    expect="below",
    estimand="direct",
    measure=NLL,
    perturbation="passages",
    model="nano",
    treated="perturbed",
    control="standard",
    factor="",
    level=14,
    step=96,
    finding="",
    draws=3,
    hubble="",
)


def row(estimates: list[float], p: float | None = 0.001, **other: Any) -> dict[str, Any]:
    """A row of effects over draws with these estimates, its t-interval from them; one draw has an interval of ±0.1."""
    draws, middle = len(estimates), float(np.mean(estimates))
    half = 0.1
    if draws >= 3:
        half = float(student.ppf(0.975, draws - 1) * np.std(estimates, ddof=1) / math.sqrt(draws))
    probe, variant, metric = NLL
    found = dict.fromkeys(EFFECTS.names) | {
        "estimand": "direct",
        "probe": probe,
        "variant": variant,
        "metric": metric,
        "perturbation": "passages",
        "model": "nano",
        "treated": "perturbed.nano" if draws > 1 else "perturbed.nano.d0",
        "control": "standard.nano" if draws > 1 else "standard.nano.d0",
        "factor": "",
        "level": 14,
        "step": 96,
        "n_runs": draws,
        "estimate": middle,
        "ci_low": middle - half,
        "ci_high": middle + half,
        "p_value": p,
        "margin": 0.3,
        "p_equivalent": 0.001,
        "method": "as they come",
    }
    return found | other


PAIR = replace(ONE, draws=1)
BCA = "given this pair of runs: 95 % BCa interval of the cluster bootstrap; "


def verdict(hypothesis: Hypothesis, *rows: dict[str, Any]) -> dict[str, Any]:
    return verdicts([hypothesis], rows)[0]


def test_over_draws_the_p_value_is_that_of_the_t_test_and_not_below_that_of_the_randomization() -> None:
    estimates = [-1.0, -1.2, -0.9]
    expected = ttest_1samp(estimates, 0, alternative="less").pvalue
    assert verdict(ONE, row(estimates))["p_value"] == pytest.approx(expected)
    assert verdict(ONE, row(estimates, p=0.04))["p_value"] == 0.04
    assert verdict(ONE, row(estimates))["verdict"] == "supported"


def test_equivalence_over_draws_is_two_one_sided_t_tests() -> None:
    claim = replace(ONE, expect="equivalent")
    estimates = [0.02, -0.01, 0.03]
    expected = max(
        ttest_1samp(estimates, 0.3, alternative="less").pvalue,
        ttest_1samp(estimates, -0.3, alternative="greater").pvalue,
    )
    found = verdict(claim, row(estimates))
    assert found["p_value"] == pytest.approx(expected)
    assert found["verdict"] == "supported"
    assert verdict(claim, row([0.4, -0.1, 0.2]))["verdict"] == "not shown"
    assert verdict(claim, row([1.0, 1.02, 0.98]))["verdict"] == "contradicted"
    assert verdict(claim, row([-1.0, -1.02, -0.98]))["verdict"] == "contradicted"
    found = verdict(claim, row(estimates, margin=None))
    assert (found["verdict"], found["method"]) == ("not measured", "no equivalence test: the measure has no margin")


def test_an_interval_that_reaches_over_a_margin_is_not_equivalent_though_the_test_says_so() -> None:
    found = verdict(replace(ONE, expect="equivalent"), row([0.2, 0.04, 0.12], margin=0.3))
    assert found["p_adjusted"] < 0.05
    assert found["ci_high"] > 0.3
    assert found["verdict"] == "not shown"


def test_what_lies_outside_of_the_margins_of_one_pair_contradicts() -> None:
    claim = replace(PAIR, expect="equivalent")
    assert verdict(claim, row([0.9], p_equivalent=0.999))["verdict"] == "contradicted"
    assert verdict(claim, row([0.41], p_equivalent=0.97))["verdict"] == "not shown"


@pytest.mark.parametrize("expect", ["below", "above"])
def test_an_interval_on_the_other_side_contradicts_and_one_over_zero_shows_nothing(expect: str) -> None:
    sign = -1 if expect == "below" else 1
    claim = replace(ONE, expect=expect)
    assert verdict(claim, row([sign * 1.0, sign * 1.1, sign * 0.9]))["verdict"] == "supported"
    assert verdict(claim, row([-sign * 1.0, -sign * 1.1, -sign * 0.9]))["verdict"] == "contradicted"
    assert verdict(claim, row([-sign * 1.0, -sign * 1.1, -sign * 0.9]))["p_value"] > 0.9
    assert verdict(claim, row([1.0, -1.0, 0.2]))["verdict"] == "not shown"


def test_one_pair_of_runs_is_judged_given_that_pair() -> None:
    found = verdict(PAIR, row([-1.0]))
    assert (found["p_value"], found["verdict"], found["n_runs"]) == (0.001, "supported", 1)
    assert "given this pair of runs" in found["method"]
    assert verdict(replace(PAIR, expect="above"), row([-1.0]))["p_value"] == 1.0
    assert verdict(replace(PAIR, expect="above"), row([-1.0]))["verdict"] == "contradicted"


@pytest.mark.parametrize("there", [1, 2])
def test_fewer_draws_than_planned_make_no_claim_easier(there: int) -> None:
    """With one draw less the randomization test alone would be left, which is never the larger of two."""
    gone = row(
        [0.0], treated="perturbed.nano.d2", probe="", estimate=None, method="draw 2: perturbed.nano.d2 not measured"
    )
    found = verdict(ONE, row([-1.0, -1.1][:there]), gone)
    assert (found["verdict"], found["p_value"]) == ("not measured", None)
    assert found["method"] == f"{there} of 3 draws: draw 2: perturbed.nano.d2 not measured"
    assert found["estimate"] is not None
    assert "2 of 3 draws: the others" in verdict(ONE, row([-1.0, -1.1]))["method"]
    pairs = verdict(replace(ONE, draws=2), row([-1.0, -1.1]))
    assert pairs["verdict"] == "supported"
    assert "given these 2 pairs of runs; nothing is said of other runs" in pairs["method"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": BCA + "p by redrawing levels within strata"}, "levels drawn again"),
        ({"method": BCA + "p by redrawing the factor within levels"}, "values of the factor drawn again"),
        ({"method": BCA + "p by sign flips of clusters", "estimand": "total"}, "sign flips"),
        ({"method": BCA + "p by McNemar's exact test", "estimand": "total"}, "McNemar"),
        ({"method": "percentile interval of 1,000 cluster bootstraps and p by them", "estimand": "shift"}, "bootstrap"),
        ({"method": "no variation within a group: no interval"}, "levels drawn again"),
        ({"method": "no variation within a group: no interval", "estimand": "timing"}, "sign flips"),
    ],
)
def test_the_method_names_the_test_that_gave_the_p_value(change: dict[str, str], says: str) -> None:
    claim = replace(ONE, estimand=change.get("estimand", "direct"))
    assert says in verdict(claim, row([-1.0, -1.2, -0.9], **change))["method"]
    assert says in verdict(replace(claim, draws=1), row([-1.0], **change))["method"]


def test_draws_that_are_all_alike_show_nothing_but_were_measured() -> None:
    found = verdict(ONE, row([0.5, 0.5, 0.5], ci_low=None, ci_high=None))
    assert (found["verdict"], found["estimate"], found["p_value"]) == ("not shown", 0.5, None)
    assert "alike" in found["method"]


def test_without_a_randomization_test_draws_alone_support_nothing() -> None:
    method = "t-interval over 3 draws; given these runs: fewer than 10 clusters: no interval"
    found = verdict(ONE, row([-1.0, -1.2, -0.9], p=None, method=method))
    assert (found["verdict"], found["method"]) == ("not measured", "no randomization test: fewer than 10 clusters")


def test_the_row_over_draws_is_read_and_not_those_of_each_draw() -> None:
    draws = [row([value], treated=f"perturbed.nano.d{n}") for n, value in enumerate([9.0, 9.0, 9.0])]
    assert verdict(ONE, *draws, row([-1.0, -1.2, -0.9]))["n_runs"] == 3


def test_holm_goes_over_the_hypotheses_of_one_finding_and_one_without_a_measurement_counts() -> None:
    claims = [replace(PAIR, name=name) for name in "abcd"] + [replace(PAIR, name="absent", step=97)]
    rows = [row([-1.0], p=p, level=level) for level, p in enumerate([0.011, 0.02, 0.001, 0.03])]
    claims = [replace(claim, level=level) if level < 4 else claim for level, claim in enumerate(claims)]
    found = verdicts(claims, rows)
    assert [each["p_adjusted"] for each in found] == pytest.approx([0.044, 0.06, 0.005, 0.06, None])
    assert [each["verdict"] for each in found] == ["supported", "not shown", "supported", "not shown", "not measured"]
    claims[1] = replace(claims[1], finding="ordering")
    found = verdicts(claims, rows)
    assert [each["finding"] for each in found] == ["", "ordering", "", "", ""]
    assert [each["p_adjusted"] for each in found] == pytest.approx([0.033, 0.02, 0.004, 0.06, None])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"perturbation": "quizzes"}, "scores, are missing"),
        ({"control": "early"}, "not with control early"),
        ({"measure": ("choice", "", "margin")}, "not with measure choice margin"),
        ({"factor": "phase=0-1/4"}, "not with factor phase=0-1/4"),
        ({"level": 1}, "not with level 1"),
        ({"step": 48}, "not with step 48"),
    ],
)
def test_what_was_not_measured_says_what_is_missing(change: dict[str, Any], says: str) -> None:
    found = verdict(replace(ONE, **change), row([-1.0, -1.2, -0.9]))
    assert (found["verdict"], found["p_adjusted"]) == ("not measured", None)
    assert says in found["method"]


def test_too_few_clusters_for_an_interval_is_not_measured_and_the_point_stays() -> None:
    method = "given this pair of runs: fewer than 10 clusters: no interval; p by redrawing levels within strata"
    found = verdict(PAIR, row([-1.0], ci_low=None, ci_high=None, method=method))
    assert (found["verdict"], found["estimate"]) == ("not measured", -1.0)
    assert found["method"] == "fewer than 10 clusters"


def test_runs_that_differ_by_chance_support_a_claim_no_more_often_than_said() -> None:
    """Four claims, none true: every draw has an effect of its own, of mean zero, so the randomization test always finds it."""
    generator = np.random.default_rng(3)
    claims = [
        replace(ONE, name=str(level), level=level, expect="above" if level % 2 else "below") for level in range(4)
    ]
    wrong = 0
    for _ in range(500):
        rows = [row(list(generator.normal(0, 1, 3)), p=0.0002, level=level) for level in range(4)]
        wrong += any(each["verdict"] == "supported" for each in verdicts(claims, rows))
    assert wrong <= 40  # 5 % of 500, and three standard errors


@pytest.mark.parametrize("draws", [1, 3])
def test_sixteen_true_nulls_contradict_a_claim_in_no_more_than_a_twentieth_of_studies(draws: int) -> None:
    generator = np.random.default_rng(4)
    claims = [replace(ONE, name=str(n), level=n, draws=draws, expect=("below", "above")[n % 2]) for n in range(16)]
    wrong = 0
    for _ in range(300):
        rows = []
        for level in range(16):
            estimates = list(generator.normal(0, 1, draws))
            p = 2 * norm.sf(abs(np.mean(estimates)) * math.sqrt(draws))
            rows.append(row(estimates, p=float(p), level=level))
            if draws == 1:
                rows[-1] |= {"ci_low": estimates[0] - 1.96, "ci_high": estimates[0] + 1.96}
        wrong += any(each["verdict"] == "contradicted" for each in verdicts(claims, rows))
    assert wrong <= 26  # 5 % of 300, and three standard errors
