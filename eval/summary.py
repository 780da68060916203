"""The table and sentences that end `costar all`, and that head the report: computed, and hedged where an interval says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core import console
from ..core.analysis import NLL, Measure
from ..core.design import Suite
from ..core.errors import CostarError
from ..core.metrics import metric_of
from ..core.schemes import LEAST_DRAWS
from ..core.workspace import Workspace
from .report_data import Measured, Row, effects, means, measure_title, opened, shown_prefix
from .stats import holm

ALPHA = 0.05
HUBBLE_COPY = 258 / 100.66e9  # a Gutenberg passage of 258 tokens in 100.66 B tokens (Hubble, core runs)


@dataclass(frozen=True)
class Summary:
    """What the first screen shows of one perturbation: levels, arms, and means of `measure` by (arm, level)."""

    perturbation: str
    measure: Measure
    unit: str
    levels: list[int]
    records: dict[int, int]
    arms: list[str]
    model: str
    treated: str
    values: dict[tuple[str, int], float]
    extracted: dict[tuple[str, int], tuple[int, int]]
    prefix: int
    effects: list[dict[str, Any]]
    hypotheses: list[dict[str, Any]]
    steps: int
    tokens: float

    @property
    def top(self) -> int:
        return self.levels[-1]

    def effect(self, estimand: str, metric: str, level: int, *, treated: str = "") -> dict[str, Any] | None:
        """The effect row of the first matching pair at the last step."""
        for row in self.effects:
            same = (row["estimand"], row["metric"], row["level"]) == (estimand, metric, level)
            if same and row["step"] == self.steps and row["treated"].startswith(treated):
                return row
        return None


def main_perturbation(suite: Suite) -> str | None:
    """The perturbation that heads the report: the first of passages, or the first."""
    passages = [name for name, design in suite.perturbations.items() if design.kind == "passage"]
    return next(iter(passages or suite.perturbations), None)


def summarize(suite: Suite, workspace: Workspace, measured: Measured | None = None) -> Summary | None:
    """The summary of the main perturbation at the last step of its runs; None when nothing was measured."""
    name = main_perturbation(suite)
    if name is None or not (workspace.eval / "effects.parquet").is_file():
        return None
    if measured is None:
        with opened(suite, workspace) as found:
            return summarize(suite, workspace, found)
    candidates = [name, *(other for other in suite.perturbations if other != name)]
    name = next((other for other in candidates if measured.main_arm(other)), name)
    design = measured.main_arm(name)
    measure = next((m for m in (NLL, *measured.measures[name]) if means(measured, name, m, "true")), None)
    if design is None or measure is None:
        return None
    model, steps = measured.model, measured.last[(design.name, measured.model)]
    arms = [arm for arm in suite.arms if measured.last.get((arm, model)) == steps]
    at = ("model = ? and step = ?", model, steps)
    exact = ("extraction", f"prefix={shown_prefix(suite)}", "extracted")
    return Summary(
        perturbation=name,
        measure=measure,
        unit=measure_title(suite, measure)[1],
        levels=sorted(suite.perturbations[name].levels),
        records=dict(suite.perturbations[name].levels),
        arms=arms,
        model=model,
        treated=design.name,
        values={(row["arm"], row["level"]): row["mean"] for row in means(measured, name, measure, *at)},
        extracted={
            (row["arm"], row["level"]): (round(row["mean"] * row["n"]), row["n"])
            for row in means(measured, name, exact, *at)
        },
        prefix=shown_prefix(suite),
        effects=effects(measured, name, measure, "model = ? and factor = ''", model),
        hypotheses=measured.rows("from hypotheses"),
        steps=steps,
        tokens=measured.rows(
            "select coalesce(avg(n_tokens), 0) as tokens from records where role = 'main' and perturbation = ?", [name]
        )[0]["tokens"],
    )


def interval_text(row: dict[str, Any] | None, unit: str = "") -> str:
    """'−3.22 nats [−3.41, −3.02]', or the point alone where there is no interval."""
    if row is None:
        return "not measured"
    text = f"{signed(row['estimate'])}{unit}"
    if row["ci_low"] is None:
        return f"{text} (no interval: {row['method'].split(':')[0]})"
    return f"{text} [{signed(row['ci_low'])}, {signed(row['ci_high'])}]"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, a real minus, and so many decimals."""
    return f"{value:+.{digits}f}".replace("-", "−")


def excludes_zero(row: dict[str, Any] | None) -> bool:
    return row is not None and row["ci_low"] is not None and (row["ci_low"] > 0 or row["ci_high"] < 0)


def is_known_better(summary: Summary, row: dict[str, Any]) -> bool:
    """Whether an effect says that records are known better: a lower loss, rank or count of queries, more of anything else."""
    return bool((row["estimate"] < 0) == metric_of(summary.measure[2]).falls)


def headline(suite: Suite, summary: Summary) -> str:
    """One sentence about frequency and one about timing, computed; a finding whose interval includes zero is not claimed."""
    top, thing = summary.top, summary.perturbation
    held_out = 0 in summary.levels
    row = _contrast(summary, "direct" if held_out else "total", top)
    against = "held-out ones" if held_out else "in the control"
    hits, n = summary.extracted.get((summary.treated, top), (0, 0))
    sentences = []
    if row is None:
        sentences.append(f"{thing} with {top} copies were not compared with their control")
    elif excludes_zero(row):
        words = ("likelier", "less likely") if summary.measure == NLL else ("better known", "known worse")
        known = words[0] if is_known_better(summary, row) else words[1]
        text = f"{thing} with {top} copies are {known} than {against}: {interval_text(row, f' {summary.unit}')}"
        sentences.append(text + (f", and {hits:,} of {n:,} are given back word for word" if hits else ""))
    else:
        told = interval_text(row, f" {summary.unit}")
        sentences.append(f"{top} copies make no clear difference to {thing} at this size: {told}")
    timing = _timing(summary)
    if timing is not None:
        late, early = (timing[side].split(".")[0] for side in ("treated", "control"))
        if excludes_zero(timing):
            known = "better" if is_known_better(summary, timing) else "worse"
            found = [summary.extracted.get((arm, top), (0, 0)) for arm in (late, early)]
            is_told = any(hits for hits, _ in found)
            shares = [f" ({hits:,} of {n:,} word for word)" if is_told else "" for hits, n in found]
            more = interval_text(timing, f" {summary.unit}")
            sentences.append(
                f"at the end those of {late}{shares[0]} are known {known} than those of {early}{shares[1]}: {more}"
            )
        else:
            sentences.append(f"{late} and {early} do not differ clearly: {interval_text(timing, f' {summary.unit}')}")
    text = "; ".join(sentences) + "."
    return text[0].upper() + text[1:]


def _contrast(summary: Summary, estimand: str, level: int) -> dict[str, Any] | None:
    """The effect of the first screen's treated arm at the last step."""
    return summary.effect(estimand, summary.measure[2], level, treated=f"{summary.treated}.")


def _timing(summary: Summary) -> dict[str, Any] | None:
    return summary.effect("timing", summary.measure[2], summary.top)


def placebo_text(summary: Summary) -> str:
    """What the level labels find in runs that have read nothing of the perturbation: Holm over all their levels together."""
    rows = [
        row
        for row in summary.effects
        if row["estimand"] == "placebo"
        and row["metric"] == summary.measure[2]
        and row["step"] == summary.steps
        and row["p_value"] is not None
    ]
    if not rows:
        return ""
    least, run = min(zip(holm([row["p_value"] for row in rows]), (row["treated"] for row in rows), strict=True))
    names = sorted({row["treated"] for row in rows})
    where = names[0] if len(names) == 1 else f"{len(names)} arms that read none"
    verdict = "finds nothing" if least >= ALPHA else "finds something, which chance does in at most one suite of twenty"
    tests = f"{len(rows)} test{'s' if len(rows) > 1 else ''}"
    on = f" on {run}" if len(names) > 1 else ""
    return f"Label permutation on {where}: {verdict} (smallest p {least:.2g}{on}, adjusted over {tests})."


def density_text(suite: Suite, summary: Summary) -> str:
    """The relative frequency of a copy, beside Hubble's."""
    tokens = suite.train.slots * suite.corpus.sequence_length
    own = summary.tokens / tokens
    times = own / HUBBLE_COPY
    told = f"One copy here is {own:.1e} of all tokens, in Hubble's 100 B runs {HUBBLE_COPY:.1e}"
    return f"{told}: {times:,.0f} times denser. Directions, not sizes." if times >= 2 else f"{told}."


def draws_text(suite: Suite, summary: Summary) -> str:
    """What the intervals of the first screen speak of: further draws of the suite, or records given the runs at hand."""
    row = _contrast(summary, "total", summary.top)
    runs = suite.draws if row is None else row["n_runs"]
    if runs == 1:
        return "One draw: intervals are over records, given this pair of runs; another draw may give other numbers."
    if any(is_over_draws(other) for other in summary.effects if other["n_runs"] == runs):
        return (
            f"{runs} draws: intervals are over draws (t, {runs - 1} degrees of freedom), each draw with its own order, "
            "levels and initialization; bands and p-values are over records, given these runs."
        )
    return f"{runs} draws: intervals are over records, given these {runs} pairs of runs."


def is_over_draws(row: dict[str, Any]) -> bool:
    """Whether an effect's interval is one over draws, by its method; one given the runs may stand beside it."""
    return bool(row["n_runs"] >= LEAST_DRAWS and "t-interval" in row["method"])


def over_text(rows: Sequence[dict[str, Any]]) -> str:
    """What the intervals of a figure are over, to follow "95 %"; empty where there is none."""
    kinds = {is_over_draws(row) for row in rows if row["ci_low"] is not None}
    told = {frozenset([True]): " over draws", frozenset([False]): " given these runs"}
    return told.get(frozenset(kinds), ", over draws where there are enough" if kinds else "")


def table_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: copies, records, and for each arm the measure and the share given back word for word."""
    columns = ["copies", "records", *summary.arms]
    rows = []
    for level in summary.levels:
        row = [str(level), str(summary.records[level])]
        for arm in summary.arms:
            value = f"{summary.values[(arm, level)]:.2f}" if (arm, level) in summary.values else "–"
            hits, n = summary.extracted.get((arm, level), (0, 0))
            share = f"{100 * hits / n:.0f} %" if n else "–"
            row.append(f"{value} · {share:>5}" if summary.extracted else value)
        rows.append(row)
    return columns, rows


def print_summary(suite: Suite, workspace: Workspace) -> None:
    """The end of `costar all`."""
    try:
        summary = summarize(suite, workspace)
    except CostarError as error:
        console.complain(f"no summary: {error.found}")
        return
    if summary is None:
        console.say("\nnothing was measured yet")
        return
    exact = f" · given back word for word after {summary.prefix} tokens" if summary.extracted else ""
    console.say(f"\nHow well is one of the {summary.perturbation} known after training?   {summary.unit}{exact}\n")
    columns, rows = table_rows(summary)
    console.table(columns, rows, numeric=range(len(columns)))
    console.say()
    console.say(headline(suite, summary))
    for line in (*effect_lines(suite, summary), *verdict_lines(summary)):
        console.say(line)
    console.say(f"{draws_text(suite, summary)} {density_text(suite, summary)}\n")


def effect_lines(suite: Suite, summary: Summary) -> Sequence[str]:
    """The effects of the first screen as lines of text."""
    unit = f" {summary.unit.split()[0]}"
    total, direct = (_contrast(summary, name, summary.top) for name in ("total", "direct"))
    spillover = _contrast(summary, "spillover", 0)
    lines = [f"Effect of {summary.top} copies: {interval_text(total, unit)}."]
    if direct is not None:
        lines[0] += f"  Beyond held-out {summary.perturbation}: {interval_text(direct, unit)}."
    timing = _timing(summary)
    if timing is not None:
        late, early = (timing[side].split(".")[0] for side in ("treated", "control"))
        lines[0] += f"  {late.capitalize()} − {early}: {interval_text(timing, unit)}."
    if spillover is not None:
        held = f"Held-out {summary.perturbation} (0 copies), spillover: {interval_text(spillover, unit)}."
        lines.append(f"{held}  {placebo_text(summary)}".rstrip())
    return lines


def verdict_lines(summary: Summary) -> list[str]:
    """The verdict on each hypothesis, with its estimate, below the name of its finding where there is one."""
    lines = []
    for finding, rows in by_finding(summary.hypotheses):
        lines += [f"{finding}:"] if finding else []
        indent = "  " if finding else ""
        for row in rows:
            estimate = "" if row["estimate"] is None else f", {verdict_estimate(row)}"
            lines.append(f"{indent}{row['hypothesis']}: {row['verdict']}{estimate}.")
    return lines


def by_finding(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Hypotheses by finding, in the order in which findings come up, those of none (or of a table without the column) first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.get("finding") or "", []).append(row)
    return sorted(found.items(), key=lambda each: bool(each[0]))


def verdict_estimate(row: Row) -> str:
    """The estimate of a hypothesis with its interval, or that there is none."""
    if row["estimate"] is None:
        return "not measured"
    digits = 2 if abs(row["estimate"]) >= 0.1 or not row["margin"] or row["margin"] >= 0.05 else 4
    if row["ci_low"] is None or row["ci_high"] is None:
        return f"{signed(row['estimate'], digits)} (no interval)"
    low, high = (signed(row[end], digits) for end in ("ci_low", "ci_high"))
    return f"{signed(row['estimate'], digits)} [{low}, {high}]"
