"""Profiles over checkpoints as heat maps, copies against relative frequency, and extraction against queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..core.console import token_text
from .figures import CONTROL, INK, Line, Panel, draw_line, file_name, legend, new_figure, save_figure, style
from .paths import cell_place
from .report_data import Measured, Row, direct_or_total, effects, is_plain, measure_title, n_text, shown_prefix

MOST_NUMBERS = 60  # cells of a heat map that carry their number
QUERIES = 13  # 1 … 10^12: more samples than that are not told apart
PROFILE_COLUMNS = ("treated", "control", "row", "level", "step", "n", "effect", "low", "high", "p_adjusted", "method")
DILUTION_COLUMNS = ("treated", "control", "tokens", "level", "frequency", "n", "effect", "low", "high", "method")
QUERY_COLUMNS = ("run", "level", "n", "log10_queries", "share")


def profile_panels(measured: Measured, folder: Path) -> list[Panel]:
    """Heat maps of effects: levels against checkpoints, and cells of a randomized arm against checkpoints."""
    found = []
    for name in measured.suite.perturbations:
        measure = measured.measures[name][0]
        main = measured.main_arm(name)
        for arm in measured.arms_of(name):
            rows = effects(
                measured,
                name,
                measure,
                "estimand in ('total', 'direct') and level > 0 and treated_arm = ? and model = ?",
                arm.name,
                measured.model,
            )
            estimand = direct_or_total(rows)
            rows = [row for row in rows if row["estimand"] == estimand]
            _, unit = measure_title(measured.suite, measure)
            label = f"{estimand} effect, {unit}"
            plain = [row for row in rows if not row["factor"]]
            if arm == main:
                found.append(_heat_map(plain, "level", f"{name}: {arm.name}", label, folder))
            cells = [row for row in rows if row["factor"]]
            top = max((row["level"] for row in cells), default=0)
            cells = [row for row in cells if row["level"] == top]
            found.append(_heat_map(cells, "factor", f"{name}: {arm.name}, {top:,} copies", label, folder))
    return [panel for panel in found if panel]


def _heat_map(rows: Sequence[Row], key: str, title: str, label: str, folder: Path) -> Panel | None:
    """Effects as colours, zero in the middle; None with fewer than two checkpoints or lines."""
    steps = sorted({row["step"] for row in rows})
    names = sorted({row[key] for row in rows}, key=cell_place if key == "factor" else None)
    if len(steps) < 2 or len(names) < 2:
        return None
    values = np.full((len(names), len(steps)), np.nan)
    for row in rows:
        values[names.index(row[key]), steps.index(row["step"])] = row["estimate"]
    limit = float(np.nanmax(np.abs(values))) or 1.0
    figure, (ax,) = new_figure(max(4.1, 1.6 + 0.42 * min(len(steps), 20)), 1.25 + 0.34 * len(names))
    mesh = ax.pcolormesh(values, cmap="PuOr", vmin=-limit, vmax=limit, edgecolors="none")
    ax.grid(False)
    every = max(1, -(-len(steps) // 8))
    places = range(0, len(steps), every)
    ax.set_xticks([at + 0.5 for at in places], [f"{steps[at]:,}" for at in places])
    texts = [f"{name:,} {'copy' if name == 1 else 'copies'}" if key == "level" else name for name in names]
    ax.set_yticks([at + 0.5 for at in range(len(names))], texts, fontsize=8.5)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_xlabel("training step")
    bar = figure.colorbar(mesh, ax=ax, aspect=12, pad=0.02)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_visible(False)
    ax.set_title(label, fontsize=9, loc="left", color=INK)
    if values.size <= MOST_NUMBERS:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = abs(value) > 0.62 * limit
                text = f"{value:.2f}".replace("-", "−")
                ax.text(
                    j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8, color="#ffffff" if dark else "#222222"
                )
    file = file_name(title.split(",", maxsplit=1)[0], key, "profile")
    keys = (
        "treated",
        "control",
        "factor",
        "level",
        "step",
        "n",
        "estimate",
        "ci_low",
        "ci_high",
        "p_adjusted",
        "method",
    )
    csv = [[row[key] for key in keys] for row in rows]
    svg = save_figure(figure, folder, file, PROFILE_COLUMNS, csv, f"profile of {title}")
    return Panel(name=file, title=title, svg=svg, note=f"n {n_text(rows)} a cell; intervals and p-values in the CSV")


def dilution_panels(measured: Measured, folder: Path) -> list[tuple[str, list[Panel]]]:
    """Where arms of different length insert a perturbation alike: effects against copies, and against relative frequency."""
    lengths = {
        row["perturbation"]: row["tokens"]
        for row in measured.rows(
            "select perturbation, avg(n_tokens) as tokens from records where role = 'main' group by all order by all"
        )
    }
    found = []
    for name in measured.suite.perturbations:
        main = measured.main_arm(name)
        measure = measured.measures[name][0]
        rows = effects(measured, name, measure, "estimand in ('total', 'direct') and level > 0 and factor = ''")
        estimand = direct_or_total(rows)
        lines: dict[str, list[Row]] = {}
        budgets: dict[str, int] = {}
        for row in rows:
            arm, model = measured.side(row["treated"])
            design = measured.suite.arms.get(arm)
            if design is None or main is None or row["estimand"] != estimand or not is_plain(design, name):
                continue
            if (design.inserted, design.factors[name]) != (main.inserted, main.factors[name]):
                continue
            if row["step"] != measured.last.get((arm, model)) or row["step"] != design.train.steps:
                continue
            lines.setdefault(row["treated"], []).append(row)
            budgets[row["treated"]] = design.train.slots * measured.suite.corpus.sequence_length
        models = {treated: measured.side(treated)[1] for treated in lines}
        several = {
            model
            for model in models.values()
            if len({budgets[treated] for treated, own in models.items() if own == model}) > 1
        }
        lines = {treated: own for treated, own in lines.items() if models[treated] in several}
        if not lines or not lengths.get(name):
            continue
        found.append((name, _dilution(measured, name, lines, budgets, lengths[name], estimand, folder)))
    return found


def _dilution(
    measured: Measured,
    name: str,
    lines: dict[str, list[Row]],
    budgets: dict[str, int],
    length: float,
    estimand: str,
    folder: Path,
) -> list[Panel]:
    title, unit = measure_title(measured.suite, measured.measures[name][0])
    order = [run.model for run in measured.suite.runs()]
    shown = sorted(lines, key=lambda each: (order.index(measured.side(each)[1]), budgets[each], each))
    panels = []
    for what, label, scale in (("copies", "copies", None), ("frequency", "share of all tokens read", length)):
        figure, (ax,) = new_figure(4.1, 2.8 + 0.18 * min(6, len(shown)))
        ax.axhline(0, color=INK, linewidth=0.8)
        csv = []
        for at, treated in enumerate(shown):
            own = lines[treated]
            share = [row["level"] * length / budgets[treated] for row in own]
            xs = share if scale else [row["level"] for row in own]
            low, high = ([row[end] for row in own] for end in ("ci_low", "ci_high"))
            text = f"{treated}, {token_text(budgets[treated])} tokens"
            ys = [row["estimate"] for row in own]
            if at < 6:
                draw_line(ax, Line(label=text, xs=xs, ys=ys, low=low, high=high, style=style(at)), bars=True)
            for row, frequency in zip(own, share, strict=True):
                place = [row["treated"], row["control"], budgets[treated], row["level"], frequency, row["n"]]
                csv.append([*place, row["estimate"], row["ci_low"], row["ci_high"], row["method"]])
        ax.set_xscale("log")
        ax.minorticks_off()
        ax.set_xlabel(label)
        ax.set_ylabel(f"{estimand} effect, {unit}")
        legend(figure, ax, 1)
        file = file_name(name, "dilution", what)
        svg = save_figure(figure, folder, file, DILUTION_COLUMNS, csv, f"{name}: {title} against {label}")
        note = (
            "95 % intervals; where relative frequency alone counts, the lines of this figure coincide" if scale else ""
        )
        panels.append(Panel(name=file, title=f"against {label}", svg=svg, note=note or "95 % intervals"))
    return panels


def query_panels(measured: Measured, folder: Path) -> list[Panel]:
    """The share of records that so many samples give back with probability one half, by level, beside the control."""
    found = []
    variant = f"prefix={shown_prefix(measured.suite)}"
    for name in measured.suite.perturbations:
        arm = measured.main_arm(name)
        if arm is None or arm.control is None:
            continue
        step = min(measured.last[(side, measured.model)] for side in (arm.name, arm.control))
        grid = np.round(np.linspace(0, QUERIES - 1, 8 * (QUERIES - 1) + 1), 6)
        rows = measured.rows(
            "select arm, level, list(value order by value) as worth from record_scores where perturbation = ? and "
            "probe = 'extraction' and variant = ? and metric = 'queries_log10' and model = ? and step = ? and "
            "arm in (?, ?) and role = 'main' and isfinite(value) group by all order by all",
            [name, variant, measured.model, step, arm.name, arm.control],
        )
        treated = [row for row in rows if row["arm"] == arm.name]
        control = np.sort(np.concatenate([row["worth"] for row in rows if row["arm"] == arm.control] or [[]]))
        if not treated or not control.size:
            continue
        figure, (ax,) = new_figure(4.1, 3.1)
        csv: list[list[object]] = []
        lines = [(f"{arm.control}, all levels", "all", control, (CONTROL, "-"))]
        for at, row in enumerate(treated):
            text = f"{row['level']:,} {'copy' if row['level'] == 1 else 'copies'}"
            lines.append((text, row["level"], np.array(row["worth"]), style(at)))
        for text, level, worth, (colour, dash) in lines:
            below = np.where(
                grid < QUERIES - 1, np.searchsorted(worth, grid, "right"), np.searchsorted(worth, grid, "left")
            )
            share = below / len(worth)
            ax.step(10.0**grid, share, where="post", color=colour, linestyle=dash, linewidth=1.8, label=text)
            side = arm.control if level == "all" else arm.name
            csv += [[side, level, len(worth), float(x), float(y)] for x, y in zip(grid, share, strict=True)]
        ax.set_xscale("log")
        ax.set_xlim(1, 10.0 ** (QUERIES - 1))
        ax.set_xticks([10.0**power for power in range(0, QUERIES, 3)])
        ax.minorticks_off()
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlabel("samples")
        ax.set_ylabel("records given back")
        legend(figure, ax)
        file = file_name(name, "queries")
        svg = save_figure(figure, folder, file, QUERY_COLUMNS, csv, f"{name}: extraction against queries")
        ns = n_text([{"n": len(row["worth"])} for row in treated])
        note = (
            f"n {ns} a level; samples among the 40 likeliest tokens after {shown_prefix(measured.suite)} tokens that show "
            "the rest with probability one half"
        )
        found.append(Panel(name=file, title=name, svg=svg, note=note))
    return found
