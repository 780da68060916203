"""Verdicts on the hypotheses of a suite: each is tested once, on the row of `effects` that it named before training.

With three or more draws the claim is about runs, so the draw is the unit: the p-value is that of a one-sided t-test over
the estimates of the draws (df = draws − 1), and not below that of the randomization test given these runs (an
intersection-union test: Berger 1982, Technometrics 24:295). With fewer draws only the latter is there, and the claim is
about these runs. Equivalence takes two one-sided t-tests over the draws (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657).
Holm's adjustment goes over all hypotheses of the suite; one that could not be measured counts as a p-value of 1.

The t-interval of a row over draws holds all that its t-test needs: its middle, and from its width the standard error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t as student

from ..core.analysis import Hypothesis, measure_text
from .stats import holm

SUPPORTED, CONTRADICTED, NOT_SHOWN, NOT_MEASURED = "supported", "contradicted", "not shown", "not measured"
ALPHA = 0.05
LEAST_DRAWS = 3  # for a t-interval over draws
OVER_DRAWS = "one-sided t-test over {n} draws, and randomization given these runs: the larger p"
T_ALONE = "one-sided t-test over {n} draws; no randomization test: {why}"
GIVEN = "randomization test given {n}; nothing is said of other runs"
TOST_DRAWS = "two one-sided t-tests over {n} draws: the larger p"
TOST_GIVEN = "two one-sided tests given {n}; nothing is said of other runs"

Row = Mapping[str, Any]


def verdicts(hypotheses: Sequence[Hypothesis], effects: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of HYPOTHESES, adjusted over all of them."""
    tested = [_tested(each, effects) for each in hypotheses]
    adjusted = holm([1.0 if row["p_value"] is None else row["p_value"] for row in tested])
    for row, p in zip(tested, adjusted, strict=True):
        if row["verdict"] != NOT_MEASURED:
            row["p_adjusted"] = p
            row["verdict"] = _verdict(row)
    return tested


def _tested(hypothesis: Hypothesis, effects: Sequence[Row]) -> dict[str, Any]:
    """One row before adjustment, without a verdict unless it could not be measured."""
    probe, variant, metric = hypothesis.measure
    found = {
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
        return found | absent | {"verdict": NOT_MEASURED, "method": row}
    found |= absent | {name: row[name] for name in ("control", "n_runs", "estimate", "ci_low", "ci_high", "margin")}
    equivalence = hypothesis.expect == "equivalent"
    if row["ci_low"] is None or (equivalence and row["margin"] is None):
        why = row["method"] if row["ci_low"] is None else f"no margin of equivalence ({row['method']})"
        return found | {"verdict": NOT_MEASURED, "method": why}
    p, method = equivalence_p(row) if equivalence else one_sided_p(row, hypothesis.expect)
    if p is None:
        return found | {"verdict": NOT_MEASURED, "method": method}
    return found | {"p_value": p, "method": method}


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
    sign = -1.0 if expect == "below" else 1.0
    given = None if row["p_value"] is None else (float(row["p_value"]) if sign * row["estimate"] > 0 else 1.0)
    if row["n_runs"] < LEAST_DRAWS:
        return given, GIVEN.format(n=_runs(row)) if given is not None else row["method"]
    middle, error, freedom = _over_draws(row)
    p = float(student.sf(sign * middle / error, freedom))
    if given is None:
        return p, T_ALONE.format(n=row["n_runs"], why=row["method"])
    return max(p, given), OVER_DRAWS.format(n=row["n_runs"])


def equivalence_p(row: Row) -> tuple[float | None, str]:
    """The larger p-value of "at least the margin above" and "at least the margin below" zero."""
    given, margin = row["p_equivalent"], row["margin"]
    if row["n_runs"] < LEAST_DRAWS:
        return given, TOST_GIVEN.format(n=_runs(row)) if given is not None else "no equivalence test: " + row["method"]
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


def _verdict(row: Row) -> str:
    """Supported: the adjusted p-value below .05 and the interval on the expected side. Contradicted: the interval wholly
    on the other side, or wholly outside the margins."""
    low, high, margin = row["ci_low"], row["ci_high"], row["margin"]
    if row["expect"] == "equivalent":
        inside, outside = True, low > margin or high < -margin  # the test itself says that it is inside
    elif row["expect"] == "below":
        inside, outside = high < 0, low > 0
    else:
        inside, outside = low > 0, high < 0
    if inside and row["p_adjusted"] < ALPHA:
        return SUPPORTED
    return CONTRADICTED if outside else NOT_SHOWN
