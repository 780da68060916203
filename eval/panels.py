"""Panels of the report by risk: each perturbation's measures against copies, treated beside control, and its conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.analysis import Measure
from ..core.design import ArmDesign
from .figures import (
    CONTROL,
    INK,
    Line,
    Panel,
    draw_line,
    file_name,
    legend,
    level_ticks,
    new_figure,
    save_figure,
    style,
)
from .report_data import Measured, Row, direct_or_total, effects, is_plain, means, measure_title, rows
from .summary import is_over_draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RISKS = {"copyright": "Copyright", "privacy": "Privacy", "testset": "Test sets", "secret": "Secrets"}
MOST_LINES = 6
COLUMNS = ("side", "level", "n", "mean", "effect", "low", "high", "interval")
CONDITIONS = ("treated", "control", "estimand", "level", "step", "n", "effect", "low", "high", "interval")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A perturbation on the page: what it is in words, and its panels."""

    name: str
    about: str
    panels: list[Panel]


def risk_panels(measured: Measured, folder: Path) -> list[tuple[str, list[Shown]]]:
    """The perturbations of each risk with their panels, in the order of the suite; those without any are told in `about`."""
    found = rows(measured.connection, "select perturbation, kind, risk from perturbations")
    risks = {row["perturbation"]: (row["risk"] or "other", row["kind"]) for row in found}
    by_risk: dict[str, list[Shown]] = {}
    for name, design in measured.suite.perturbations.items():
        risk, kind = risks.get(name, ("other", design.kind))
        panels = [dose_panel(measured, name, measure, folder) for measure in measured.measures[name]]
        panels.append(_conditions(measured, name, folder))
        about = f"{design.records:,} records ({kind}), copies {', '.join(map(str, sorted(design.levels)))}"
        shown = [panel for panel in panels if panel]
        if not shown:
            about += "; no run that inserts them was measured beside its control"
        by_risk.setdefault(risk, []).append(Shown(name=name, about=about, panels=shown))
    order = [*RISKS, *sorted(set(by_risk) - set(RISKS))]
    return [(RISKS.get(risk, risk.capitalize()), by_risk[risk]) for risk in order if risk in by_risk]


def dose_panel(
    measured: Measured,
    perturbation: str,
    measure: Measure,
    folder: Path,
    *,
    name: str = "",
    size: tuple[float, float] = (4.1, 2.9),
) -> Panel | None:
    """Means by level of the main arm and its control at their last step, and the half-dose; None without cells.

    The band is that of treated − control, drawn around the treated line.
    """
    arm = measured.main_arm(perturbation)
    if arm is None or arm.control is None:
        return None
    step = min(measured.last[(side, measured.model)] for side in (arm.name, arm.control))
    cells = means(measured, perturbation, measure, "step = ? and model = ?", step, measured.model)
    by_side = {side: {row["level"]: row for row in cells if row["arm"] == side} for side in (arm.name, arm.control)}
    levels = sorted(by_side[arm.name].keys() & by_side[arm.control].keys())
    if not levels:
        return None
    found = effects(
        measured,
        perturbation,
        measure,
        "step = ? and estimand in ('total', 'spillover') and treated_arm = ? and model = ? and factor = ''",
        step,
        arm.name,
        measured.model,
    )
    own = {row["level"]: row for row in found}
    title, unit = measure_title(measured.suite, measure)
    figure, (ax,) = new_figure(*size)
    places = list(range(len(levels)))
    csv: list[list[object]] = []
    for side, drawn in ((arm.control, (CONTROL, "-")), (arm.name, style(0))):
        values = [by_side[side][level]["mean"] for level in levels]
        ends = [_bounds(own.get(level)) if side == arm.name else (None, None, "") for level in levels]
        base = [by_side[arm.control][level]["mean"] for level in levels]
        low = [None if end[0] is None else place + end[0] for place, end in zip(base, ends, strict=True)]
        high = [None if end[1] is None else place + end[1] for place, end in zip(base, ends, strict=True)]
        draw_line(ax, Line(label=side, xs=places, ys=values, low=low, high=high, style=drawn))
        for level, mean, bottom, top, end in zip(levels, values, low, high, ends, strict=True):
            effect = own[level]["estimate"] if side == arm.name and level in own else None
            csv.append([side, level, by_side[side][level]["n"], mean, effect, bottom, top, end[2]])
    level_ticks(ax, levels)
    ax.set_ylabel(unit)
    if unit == "share":
        ax.set_ylim(-0.04, 1.04)
    half = _half_dose(measured, perturbation, measure, arm, step)
    if half is not None:
        _mark_half_dose(ax, half, levels)
    legend(figure, ax)
    file = name or file_name(perturbation, *measure)
    svg = save_figure(figure, folder, file, COLUMNS, csv, f"{perturbation}: {title}")
    ns = sorted({row["n"] for row in by_side[arm.name].values()})
    spread = f"n {ns[0]:,}" if len(ns) == 1 else f"n {ns[0]:,} to {ns[-1]:,} a level"
    kinds = sorted({kind for row in own.values() if (kind := _bounds(row)[2])})
    parts = [spread, band_text(kinds)]
    if half is not None:
        parts.append(half_dose_text(half))
    primary = measured.suite.eval.analysis.is_primary(perturbation, measure)
    return Panel(name=file, title=title + (" (primary)" if primary else ""), svg=svg, note="; ".join(parts))


def band_text(kinds: Sequence[str]) -> str:
    """What the bands of a panel are."""
    return f"band: {'; at other levels '.join(kinds[::-1])}" if kinds else "no intervals"


def _bounds(row: Row | None) -> tuple[float | None, float | None, str]:
    """The simultaneous band of an effect or its interval, whichever is wider, and which of them it is: where runs differ much,
    the single interval over draws is wider than the band, which is given these runs."""
    if row is None:
        return None, None, ""
    over = is_over_draws(row)
    single = "95 % of treated − control at each level, " + ("over draws" if over else "given these runs")
    found = [
        (row[f"{name}_high"] - row[f"{name}_low"], row[f"{name}_low"], row[f"{name}_high"], text)
        for name, text in (("band", "simultaneous 95 % of treated − control, given these runs"), ("ci", single))
        if row[f"{name}_low"] is not None and row[f"{name}_high"] is not None
    ]
    return max(found, key=lambda each: each[0])[1:] if found else (None, None, "")


def _half_dose(measured: Measured, perturbation: str, measure: Measure, arm: ArmDesign, step: int) -> Row | None:
    """The fit of a contrast at a step."""
    query = (
        "from dose_fits where perturbation = ? and probe = ? and variant = ? and metric = ? and step = ? and model = ? "
        "and regexp_replace(treated, '[.][^.]+([.]d[0-9]+)?$', '') = ? order by n_runs desc, treated limit 1"
    )
    found = measured.rows(query, [perturbation, *measure, step, measured.model, arm.name])
    return found[0] if found else None


def half_dose_text(fit: Row) -> str:
    """'half-dose 9.3 copies [5.1, 14]', or that it was not reached, in words."""
    if fit["half_dose"] is None:
        return f"half-dose: {fit['censored'] or fit['method']}"
    text = f"half-dose {number(fit['half_dose'])} copies"
    if fit["censored"]:
        text += f" (censored: {fit['censored']})"
    if fit["ci_low"] is None and fit["ci_high"] is None:
        return text
    low, high = (number(fit[end]) if fit[end] is not None else "?" for end in ("ci_low", "ci_high"))
    return f"{text} [{low}, {high}]"


def number(value: float) -> str:
    """Three digits, a real minus sign, no exponent below a million."""
    if not np.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else "not a number"
    text = (
        f"{value:.3g}"
        if 1e-3 <= abs(value) < 1e3 or value == 0
        else f"{value:,.0f}"
        if abs(value) >= 1e3
        else f"{value:.1e}"
    )
    return text.replace("-", "−")


def _mark_half_dose(ax: Axes, fit: Row, levels: Sequence[int]) -> None:
    """A dotted line at the half-dose and a bar along the bottom over its interval, where they lie among the levels."""

    def place(dose: float) -> float:
        return float(np.interp(np.log2(1 + dose), np.log2(1 + np.array(levels, float)), np.arange(len(levels))))

    dose, low, high = fit["half_dose"], fit["ci_low"], fit["ci_high"]
    if dose is not None and levels[0] <= dose <= levels[-1] and not fit["censored"]:
        ax.axvline(place(dose), color=INK, linewidth=0.9, linestyle=":")
        left, right = place(low if low is not None else levels[0]), place(high if high is not None else levels[-1])
        if low is not None or high is not None:
            bottom = ax.get_xaxis_transform()
            ax.hlines(0.015, left, right, color=INK, linewidth=2.5, alpha=0.55, transform=bottom)


def _conditions(measured: Measured, perturbation: str, folder: Path) -> Panel | None:
    """Effects of every condition that inserts a perturbation over the whole run, by model; None where there is one."""
    measure = measured.measures[perturbation][0]
    found = _last_effects(measured, perturbation, measure)
    estimand = direct_or_total(found)
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        arm, model = measured.side(row["treated"])
        design = measured.suite.arms.get(arm)
        if row["estimand"] == estimand and not row["factor"] and design and is_plain(design, perturbation):
            lines.setdefault((arm, model), []).append(row)
    if len(lines) < 2:
        return None
    levels = sorted({row["level"] for own in lines.values() for row in own})
    place = {level: number for number, level in enumerate(levels)}
    title, unit = measure_title(measured.suite, measure)
    figure, (ax,) = new_figure(4.1, 3.2)
    ax.axhline(0, color=INK, linewidth=0.8)
    several = len({model for _, model in lines}) > 1
    arms, models = list(measured.suite.arms), [run.model for run in measured.suite.runs()]
    shown = sorted(lines, key=lambda key: (models.index(key[1]), arms.index(key[0])))[:MOST_LINES]
    for number_, key in enumerate(shown):
        own = lines[key]
        bars = len(shown) > 3 or len(levels) == 1
        shift = (number_ - len(shown) / 2) * 0.05 if bars else 0
        draw_line(
            ax,
            Line(
                label=" ".join(key if several else key[:1]),
                xs=[place[row["level"]] + shift for row in own],
                ys=[row["estimate"] for row in own],
                low=[_bounds(row)[0] for row in own],
                high=[_bounds(row)[1] for row in own],
                style=style(number_),
            ),
            bars=bars,
        )
    level_ticks(ax, levels)
    ax.set_ylabel(f"{estimand} effect, {unit}")
    legend(figure, ax)
    file = file_name(perturbation, "conditions")
    csv = [
        [row["treated"], row["control"], estimand, row["level"], row["step"], row["n"], row["estimate"], *_bounds(row)]
        for own in lines.values()
        for row in own
    ]
    svg = save_figure(figure, folder, file, CONDITIONS, csv, f"{perturbation}: effect by condition")
    left = f"; {len(lines) - len(shown)} more conditions in the CSV" if len(lines) > len(shown) else ""
    kinds = sorted({kind for key in shown for row in lines[key] if (kind := _bounds(row)[2])})
    against = "held-out records" if estimand == "direct" else "the control"
    note = f"{estimand} effect on {title}; 0 is {against}; {band_text(kinds)}{left}"
    return Panel(name=file, title="by condition", svg=svg, note=note)


def _last_effects(measured: Measured, perturbation: str, measure: Measure) -> list[Row]:
    """Total and direct effects of each pair at its last step."""
    return effects(
        measured,
        perturbation,
        measure,
        "level > 0 and estimand in ('direct', 'total') and step = (select max(step) from shown_effects o where "
        "o.treated = shown_effects.treated and o.control = shown_effects.control and "
        "o.perturbation = shown_effects.perturbation and o.metric = shown_effects.metric and o.probe = shown_effects.probe)",
    )
