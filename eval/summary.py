"""The table and sentences that end `costar all`, and that head the report: computed, and hedged where an interval says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import console
from ..core.design import Suite
from ..core.workspace import Workspace
from .effects import read_effects
from .scores import Scores, load_scores

HUBBLE_COPY = 258 / 100.66e9  # a Gutenberg passage of 258 tokens in 100.66 B tokens (Hubble, core runs)


@dataclass(frozen=True)
class Summary:
    """What the first screen shows of one perturbation: levels, arms, and means by (arm, level)."""

    perturbation: str
    levels: list[int]
    records: dict[int, int]
    arms: list[str]
    model: str
    nll: dict[tuple[str, int], float]
    extracted: dict[tuple[str, int], tuple[int, int]]
    prefix: int
    effects: list[dict[str, Any]]
    steps: int

    @property
    def top(self) -> int:
        return self.levels[-1]

    def effect(
        self, estimand: str, metric: str, level: int, *, treated: str = "", step: int | None = None
    ) -> dict[str, Any] | None:
        """The effect row of the first matching pair at a step (default: the last)."""
        for row in self.effects:
            same = (row["estimand"], row["metric"], row["level"]) == (estimand, metric, level)
            if same and row["step"] == (step or self.steps) and row["treated"].startswith(treated):
                return row
        return None


def main_perturbation(suite: Suite) -> str | None:
    """The perturbation that heads the report: the first of passages, or the first."""
    passages = [name for name, design in suite.perturbations.items() if design.kind == "passage"]
    return next(iter(passages or suite.perturbations), None)


def summarize(suite: Suite, workspace: Workspace, scores: Scores | None = None) -> Summary | None:
    """The summary of the main perturbation at the last step of its runs; None when nothing was measured."""
    name = main_perturbation(suite)
    if name is None or not (workspace.eval / "effects.parquet").is_file():
        return None
    scores = scores or load_scores(suite, workspace)
    model = suite.models[0]
    arms = [arm for arm in suite.arms.values() if arm.train.steps == suite.train.steps]
    prefix = _prefix(suite)
    nll: dict[tuple[str, int], float] = {}
    extracted: dict[tuple[str, int], tuple[int, int]] = {}
    shown = []
    for arm in arms:
        runs = [f"{arm.name}.{model}.d{draw}" for draw in range(arm.draws)]
        last = [scores.values.get(run, {}).get(arm.train.steps) for run in runs]
        if any(found is None for found in last):
            continue
        shown.append(arm.name)
        for level in suite.perturbations[name].levels:
            values: list[float] = []
            hits: list[float] = []
            for draw, found in enumerate(last):
                assert found is not None
                rows = scores.subjects.members(name)
                rows = rows[scores.subjects.levels[(arm.name, draw)][rows] == level]
                for measure, shown_values in (
                    (("likelihood", "", "nll_token"), values),
                    (("extraction", f"prefix={prefix}", "extracted"), hits),
                ):
                    own = found[measure].at(rows) if measure in found else np.zeros(0)
                    shown_values.extend(own[np.isfinite(own)].tolist())
            if values:
                nll[(arm.name, level)] = float(np.mean(values))
            if hits:
                extracted[(arm.name, level)] = (int(sum(hits)), len(hits))
    effects = [
        row
        for row in read_effects(workspace)
        if (row["perturbation"], row["model"], row["probe"], row["variant"]) == (name, model, "likelihood", "")
    ]
    if not shown or not nll:
        return None
    levels = sorted(suite.perturbations[name].levels)
    return Summary(
        perturbation=name,
        levels=levels,
        records=dict(suite.perturbations[name].levels),
        arms=shown,
        model=model,
        nll=nll,
        extracted=extracted,
        prefix=prefix,
        effects=effects,
        steps=suite.train.steps,
    )


def _prefix(suite: Suite) -> int:
    """The prefix that the summary shows: 16 if measured, else the middle one."""
    prefixes = sorted(suite.eval.prefixes)
    return 16 if 16 in prefixes else prefixes[len(prefixes) // 2]


def interval_text(row: dict[str, Any] | None, unit: str = "") -> str:
    """'−3.22 nats [−3.41, −3.02]', or the point alone where there is no interval."""
    if row is None:
        return "not measured"
    text = f"{signed(row['estimate'])}{unit}"
    if row["ci_low"] is None:
        return f"{text} (no interval: {row['method'].split(':')[0]})"
    return f"{text} [{signed(row['ci_low'])}, {signed(row['ci_high'])}]"


def signed(value: float) -> str:
    """A number with two decimals and a real minus sign."""
    return f"{value:+.2f}".replace("-", "−")


def excludes_zero(row: dict[str, Any] | None) -> bool:
    return row is not None and row["ci_low"] is not None and (row["ci_low"] > 0 or row["ci_high"] < 0)


def headline(suite: Suite, summary: Summary) -> str:
    """One sentence about frequency and one about timing, computed; a finding whose interval includes zero is not claimed."""
    top, thing = summary.top, summary.perturbation
    treated = main_treated(suite, summary)
    sentences = []
    if treated:
        held_out = 0 in summary.levels
        row = summary.effect("direct" if held_out else "total", "nll_token", top, treated=f"{treated}.")
        against = "held-out ones" if held_out else "in the control"
        hits, n = summary.extracted.get((treated, top), (0, 0))
        if excludes_zero(row) and row is not None and row["estimate"] < 0:
            text = f"{thing} with {top} copies are likelier than {against}: {interval_text(row, ' nats per token')}"
            sentences.append(text + (f", and {hits} of {n} are given back word for word" if hits else ""))
        else:
            sentences.append(
                f"{top} copies make no clear difference to {thing} at this size: {interval_text(row, ' nats per token')}"
            )
    timing = summary.effect("timing", "nll_token", top)
    if timing is not None:
        late, early = (timing[side].split(".")[0] for side in ("treated", "control"))
        if excludes_zero(timing) and timing["estimate"] < 0:
            found = [summary.extracted.get((arm, top), (0, 0)) for arm in (late, early)]
            sentences.append(
                f"read {early} they fade ({found[1][0]} of {found[1][1]} word for word), "
                f"read {late} they stay ({found[0][0]} of {found[0][1]})"
            )
        else:
            sentences.append(f"{late} and {early} do not differ clearly: {interval_text(timing, ' nats per token')}")
    text = "; ".join(sentences) + "."
    return text[0].upper() + text[1:]


def main_treated(suite: Suite, summary: Summary) -> str | None:
    """The arm that the first screen sets against its control: one that inserts over the whole run, if there is one."""
    arms = [
        arm
        for arm in summary.arms
        if suite.arms[arm].control in summary.arms and summary.perturbation in suite.arms[arm].inserted
    ]
    return next((arm for arm in arms if not _is_timing(suite, arm)), arms[0] if arms else None)


def _is_timing(suite: Suite, arm: str) -> bool:
    """Whether an arm inserts in a part of the training only."""
    design = suite.arms[arm]
    return any(design.span(name) != (0, design.train.slots) for name in design.inserted)


def placebo_text(summary: Summary) -> str:
    """What the level labels find in the run that inserts nothing."""
    rows = [
        row
        for row in summary.effects
        if row["estimand"] == "placebo" and row["metric"] == "nll_token" and row["step"] == summary.steps
    ]
    adjusted = [row["p_adjusted"] for row in rows if row["p_adjusted"] is not None]
    if not adjusted:
        return ""
    verdict = "finds nothing" if min(adjusted) > 0.05 else "finds something, which chance does once in twenty"
    return f"Label permutation on {rows[0]['treated']}: {verdict} (smallest adjusted p {min(adjusted):.2f})."


def density_text(suite: Suite, summary: Summary) -> str:
    """The relative frequency of a copy, beside Hubble's."""
    tokens = suite.train.slots * suite.corpus.sequence_length
    length = suite.perturbations[summary.perturbation].tokens or 0
    own = length / tokens
    return (
        f"One copy here is {own:.0e} of all tokens, in Hubble's 100 B runs {HUBBLE_COPY:.1e}: "
        f"{own / HUBBLE_COPY:,.0f} times denser. Directions, not sizes."
        if length
        else "Copies here are far denser than in Hubble: directions, not sizes."
    )


def draws_text(suite: Suite) -> str:
    if suite.draws == 1:
        return "One draw: intervals are over records, given this pair of runs."
    return f"{suite.draws} draws: intervals are over records, given these pairs of runs."


def table_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: copies, records, and for each arm nats per token and the share given back word for word."""
    columns = ["copies", "records", *summary.arms]
    rows = []
    for level in summary.levels:
        row = [str(level), str(summary.records[level])]
        for arm in summary.arms:
            hits, n = summary.extracted.get((arm, level), (0, 0))
            share = f"{100 * hits / n:.0f} %" if n else "–"
            loss = f"{summary.nll[(arm, level)]:.2f}" if (arm, level) in summary.nll else "–"
            row.append(f"{loss} · {share:>5}")
        rows.append(row)
    return columns, rows


def print_summary(suite: Suite, workspace: Workspace) -> None:
    """The end of `costar all`."""
    summary = summarize(suite, workspace)
    if summary is None:
        console.say("\nnothing was measured yet")
        return
    console.say(
        f"\nHow well is one of the {summary.perturbation} known after training?   "
        f"nats per token · given back word for word after {summary.prefix} tokens\n"
    )
    columns, rows = table_rows(summary)
    console.table(columns, rows, numeric=range(len(columns)))
    console.say()
    console.say(headline(suite, summary))
    for line in effect_lines(suite, summary):
        console.say(line)
    console.say(f"{draws_text(suite)} {density_text(suite, summary)}\n")


def effect_lines(suite: Suite, summary: Summary) -> Sequence[str]:
    """The effects of the first screen as lines of text."""
    treated = f"{main_treated(suite, summary)}."
    total = summary.effect("total", "nll_token", summary.top, treated=treated)
    direct = summary.effect("direct", "nll_token", summary.top, treated=treated)
    timing = summary.effect("timing", "nll_token", summary.top)
    spillover = summary.effect("spillover", "nll_token", 0, treated=treated)
    lines = [f"Effect of {summary.top} copies: {interval_text(total, ' nats')}."]
    if direct is not None:
        lines[0] += f"  Beyond held-out {summary.perturbation}: {interval_text(direct, ' nats')}."
    if timing is not None:
        late, early = (timing[side].split(".")[0] for side in ("treated", "control"))
        lines[0] += f"  {late.capitalize()} − {early}: {interval_text(timing, ' nats')}."
    if spillover is not None:
        held = f"Held-out {summary.perturbation} (0 copies), spillover: {interval_text(spillover, ' nats')}."
        lines.append(f"{held}  {placebo_text(summary)}")
    return lines
