"""Verdicts on the hypotheses of a suite: each is tested once, on the row of `effects` that it named before training.

Where three or more draws are planned the claim is about runs, so the draw is the unit: the p-value is that of a one-sided
t-test over the estimates of the draws (df = draws − 1), and not below that of the randomization test given these runs (an
intersection-union test: Berger 1982, Technometrics 24:295); with fewer draws than planned there is no verdict. Where one or
two are planned only the latter test is there, and the claim is about these runs. Equivalence takes two one-sided t-tests
(Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657). What contradicts a claim is tested likewise, in the other direction,
or for lying outside of the margins on either side. Each of the two is adjusted (Holm) over the hypotheses of one finding, in
which one that could not be measured counts as a p-value of 1.

The t-interval of a row over draws holds all that its t-test needs: its middle, and from its width the standard error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t as student

from ..core.analysis import Hypothesis, measure_text
from ..core.schemes import ALPHA, LEAST_DRAWS
from .stats import holm

SUPPORTED, CONTRADICTED, NOT_SHOWN, NOT_MEASURED = "supported", "contradicted", "not shown", "not measured"
OVER_DRAWS = "one-sided t-test over {n} draws, and {test} given these runs: the larger p"
GIVEN = "{test}, given {n}; nothing is said of other runs"
TOST_DRAWS = "two one-sided t-tests over {n} draws: the larger p"
TOST_GIVEN = "two one-sided tests given {n}; nothing is said of other runs"
ALIKE = "the estimates of all {n} draws are alike, so no test over draws is possible"
NO_TEST = "no randomization test: {why}"
TESTS = {
    "McNemar": "McNemar's exact test",
    "redrawing the factor": "values of the factor drawn again",
    "redrawing levels": "levels drawn again",
    "sign flips": "sign flips of clusters",
    "p by them": "bootstrap of clusters",
}
"""By words of an effect's own method: its test."""
TEST_OF = {
    "direct": "levels drawn again",
    "factor": "values of the factor drawn again",
    "shift": "bootstrap of clusters",
}

Row = Mapping[str, Any]


def verdicts(hypotheses: Sequence[Hypothesis], effects: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of HYPOTHESES, adjusted over those of one finding."""
    tested = [_tested(each, effects) for each in hypotheses]
    for finding in dict.fromkeys(row["finding"] for row, _ in tested):
        family = [each for each in tested if each[0]["finding"] == finding]
        adjusted = holm([1.0 if row["p_value"] is None else row["p_value"] for row, _ in family])
        against = holm([1.0 if p is None else p for _, p in family])
        for (row, contrary), p, other in zip(family, adjusted, against, strict=True):
            if row["verdict"]:
                continue
            assert contrary is not None
            row["p_adjusted"], row["verdict"] = p, _verdict(row, p, other)
            if row["verdict"] == CONTRADICTED:
                row["method"] += f"; of the contrary, adjusted: {other:.2g}"
    return [row for row, _ in tested]


def _tested(hypothesis: Hypothesis, effects: Sequence[Row]) -> tuple[dict[str, Any], float | None]:
    """One row before adjustment, and the p-value of the contrary. It has a verdict only where there is no test."""
    probe, variant, metric = hypothesis.measure
    found = {
        "finding": hypothesis.finding,
        "hypothesis": hypothesis.name,
        "claim": hypothesis.claim,
        "expect": hypothesis.expect,
        "estimand": hypothesis.estimand,
        "probe": probe,
        "variant": variant,
        "metric": metric,
        "perturbation": hypothesis.perturbation,
        "model": hypothesis.model,
        "treated": f"{hypothesis.treated}.{hypothesis.model}",
        "control": f"{hypothesis.control}.{hypothesis.model}",
        "factor": hypothesis.factor,
        "level": hypothesis.level,
        "step": hypothesis.step,
        "hubble": hypothesis.hubble,
        "verdict": "",
    }
    absent = dict.fromkeys(("n_runs", "estimate", "ci_low", "ci_high", "margin", "p_value", "p_adjusted"))
    row = find_row(hypothesis, effects)
    if isinstance(row, str):
        return found | absent | {"verdict": NOT_MEASURED, "method": row}, None
    found |= absent | {name: row[name] for name in ("control", "n_runs", "estimate", "ci_low", "ci_high", "margin")}
    if row["estimate"] is None:
        return found | {"verdict": NOT_MEASURED, "method": row["method"]}, None
    draws, planned = row["n_runs"], hypothesis.draws
    if LEAST_DRAWS <= planned > draws:
        why = f"{draws} of {planned} draws: {_left_out(hypothesis, effects)}"
        return found | {"verdict": NOT_MEASURED, "method": why}, None
    if row["ci_low"] is None or math.isnan(row["ci_low"]):
        alike = draws >= LEAST_DRAWS and row["ci_low"] is None
        method = ALIKE.format(n=draws) if alike else _reason(row)
        return found | {"verdict": NOT_SHOWN if alike else NOT_MEASURED, "method": method}, None
    if hypothesis.expect == "equivalent":
        p, method = equivalence_p(row)
        contrary = None if p is None else min(1.0, 2 * (1 - p))  # outside on one side or the other
    else:
        p, method = one_sided_p(row, hypothesis.expect)
        contrary, _ = one_sided_p(row, "above" if hypothesis.expect == "below" else "below")
    if p is None:
        return found | {"verdict": NOT_MEASURED, "method": method}, None
    return found | {"p_value": p, "method": method}, contrary


def _left_out(hypothesis: Hypothesis, effects: Sequence[Row]) -> str:
    """What `effects` says of the draws that are missing."""
    name = f"{hypothesis.treated}.{hypothesis.model}"
    said = dict.fromkeys(
        row["method"]
        for row in effects
        if row["perturbation"] == hypothesis.perturbation
        and _is_of(row["treated"], name)
        and row["control"].split(".")[0] in ("", hypothesis.control)
        and row["estimate"] is None
        and row["method"].startswith("draw ")
    )
    return "; ".join(said) or "the others, or their scores, are missing"


def _reason(row: Row) -> str:
    """Why an interval or a test given these runs is missing, without what is not."""
    text = re.sub(r"^.*\bgiven (these runs|this run|this pair of runs): ", "", row["method"])
    return text.split("; p by ")[0].removesuffix(": no interval")


def find_row(hypothesis: Hypothesis, effects: Sequence[Row]) -> Row | str:
    """The row of `effects` that a hypothesis speaks of, over as many draws as there are, or why there is none."""
    name = f"{hypothesis.treated}.{hypothesis.model}"
    pair = f"{hypothesis.estimand} of {hypothesis.perturbation or 'validation text'} in {name}"
    left = [
        row
        for row in effects
        if (row["estimand"], row["perturbation"]) == (hypothesis.estimand, hypothesis.perturbation)
        and _is_of(row["treated"], name)
    ]
    if not left:
        return f"no {pair}: its runs, or their scores, are missing"
    ways = (
        ("control", hypothesis.control, lambda row: row["control"].split(".")[0] == hypothesis.control),
        ("measure", measure_text(hypothesis.measure), lambda row: _measure(row) == hypothesis.measure),
        ("factor", hypothesis.factor, lambda row: row["factor"] == hypothesis.factor),
        ("level", hypothesis.level, lambda row: hypothesis.level in (None, row["level"])),
        ("step", hypothesis.step, lambda row: row["step"] == hypothesis.step),
    )
    for key, wanted, matches in ways:
        if key == "control" and hypothesis.estimand == "factor":
            continue  # both values are of one arm
        matching = [row for row in left if matches(row)]
        if not matching:
            return f"{pair} is there, but not with {key} {wanted or 'none'}"
        left = matching
    return max(left, key=lambda row: row["n_runs"])


def _measure(row: Row) -> tuple[str, str, str]:
    return row["probe"], row["variant"], row["metric"]


def _is_of(label: str, name: str) -> bool:
    """Whether a label of runs, `arm.model` or one run's full name, is of this arm and model."""
    return label == name or label.rpartition(".d")[0] == name


def one_sided_p(row: Row, expect: str) -> tuple[float | None, str]:
    """The p-value of "not below" or "not above" zero, and how it was found; None where nothing tests it."""
    if row["p_value"] is None:
        return None, NO_TEST.format(why=_reason(row))
    sign = -1.0 if expect == "below" else 1.0
    given = float(row["p_value"]) if sign * row["estimate"] > 0 else 1.0
    if row["n_runs"] < LEAST_DRAWS:
        return given, GIVEN.format(test=_test(row), n=_runs(row))
    middle, error, freedom = _over_draws(row)
    p = float(student.sf(sign * middle / error, freedom))
    return max(p, given), OVER_DRAWS.format(n=row["n_runs"], test=_test(row))


def _test(row: Row) -> str:
    """The test that gave a row's p-value, by its own method, or by its estimand where that does not say."""
    named = (test for words, test in TESTS.items() if words in row["method"])
    return next(named, TEST_OF.get(row["estimand"], "sign flips of clusters"))


def equivalence_p(row: Row) -> tuple[float | None, str]:
    """The larger p-value of "at least the margin above" and "at least the margin below" zero."""
    given, margin = row["p_equivalent"], row["margin"]
    if margin is None:
        return None, "no equivalence test: the measure has no margin"
    if row["n_runs"] < LEAST_DRAWS:
        if given is None:
            return None, f"no equivalence test: {_reason(row)}"
        return given, TOST_GIVEN.format(n=_runs(row))
    middle, error, freedom = _over_draws(row)
    p = float(student.sf((margin - abs(middle)) / error, freedom))
    return p, TOST_DRAWS.format(n=row["n_runs"])


def _over_draws(row: Row) -> tuple[float, float, int]:
    """Middle, standard error and degrees of freedom of a 95 % t-interval over draws."""
    freedom = row["n_runs"] - 1
    half = (row["ci_high"] - row["ci_low"]) / 2
    return (row["ci_high"] + row["ci_low"]) / 2, max(half / float(student.ppf(0.975, freedom)), 1e-300), freedom


def _runs(row: Row) -> str:
    return "this pair of runs" if row["n_runs"] == 1 else f"these {row['n_runs']} pairs of runs"


def _verdict(row: Row, p: float, contrary: float) -> str:
    """Supported: the adjusted p-value below .05 and the 95 % interval on the expected side, or inside the margins.
    Contradicted: that of the contrary below .05, and the interval wholly on the other side, or outside the margins."""
    low, high, margin = row["ci_low"], row["ci_high"], row["margin"]
    if row["expect"] == "equivalent":
        inside, outside = -margin < low and high < margin, low > margin or high < -margin
    elif row["expect"] == "below":
        inside, outside = high < 0, low > 0
    else:
        inside, outside = low > 0, high < 0
    if inside and p < ALPHA:
        return SUPPORTED
    return CONTRADICTED if outside and contrary < ALPHA else NOT_SHOWN
