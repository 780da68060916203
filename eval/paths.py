"""When records were read and what became of them: paths over training, cells of a randomized arm, acquired and kept."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.design import ArmDesign
from .figures import CONTROL, GRID, INK, Line, Panel, draw_line, file_name, legend, new_figure, save_figure, style
from .panels import number
from .report_data import Measured, Row, direct_or_total, effects, is_plain, means, measure_title, n_text, pair_text
from .summary import over_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = 6
PATH_COLUMNS = ("arm", "level", "step", "n", "mean", "effect", "low", "high")
CELL_COLUMNS = ("treated", "control", "factor", "level", "step", "n", "effect", "low", "high", "method")
RETENTION_COLUMNS = (
    "perturbation", "pair", "cell", "copies", "phase ends at step", "acquired", "kept at step", "kept", "share kept",
    "half-life, steps", "n", "runs", "method",
)  # fmt: skip


def timing_panels(measured: Measured, folder: Path, *, main: str) -> list[tuple[str, list[Panel]]]:
    """For each perturbation that some arm inserts in a part of the training, or per record at random: its figures.

    The path of the `main` perturbation stands on the first screen already.
    """
    found = []
    for name in measured.suite.perturbations:
        arms = measured.arms_of(name)
        panels = []
        if name != main and any(len(arm.factors[name]) == 1 and not is_plain(arm, name) for arm in arms):
            panels.append(path_panel(measured, name, folder))
        for arm in arms:
            if len(arm.factors[name]) > 1:
                panels.append(_cells_panel(measured, name, arm, folder))
        panels.append(_retention_panel(measured, name, folder))
        shown = [panel for panel in panels if panel]
        if shown:
            found.append((name, shown))
    return found


def path_panel(
    measured: Measured, perturbation: str, folder: Path, *, size: tuple[float, float] = (4.1, 2.9)
) -> Panel | None:
    """Means of the highest level over the checkpoints, by arm; the phases of timing arms are shaded. None without steps."""
    measure = measured.measures[perturbation][0]
    top = max(measured.suite.perturbations[perturbation].levels)
    cells = means(measured, perturbation, measure, "level = ? and model = ?", top, measured.model)
    arms = [arm for arm in measured.arms_of(perturbation) if len(arm.factors[perturbation]) == 1]
    arms.sort(
        key=lambda arm: is_plain(arm, perturbation) and arm != measured.main_arm(perturbation)
    )  # timing arms first
    shown = [arm for arm in measured.suite.arms.values() if arm in arms[:MOST_LINES]]
    controls = list(dict.fromkeys(arm.control for arm in shown))[:2]
    if not shown:
        return None
    base = {(row["arm"], row["step"]): row for row in cells}
    title, unit = measure_title(measured.suite, measure)
    figure, (ax,) = new_figure(*size)
    csv: list[list[object]] = []
    used: list[Row] = []
    names = [*((control or "", None) for control in controls), *((arm.name, arm) for arm in shown)]
    at = 0
    for name, arm in names:
        own = [row for row in cells if row["arm"] == name]
        drawn = (CONTROL, "-" if name == controls[0] else "--")
        ends: dict[int, Row] = {}
        if arm is not None:
            drawn = style(at)
            at += 1
            where = "estimand = 'total' and treated_arm = ? and model = ? and level = ?"
            rows = effects(measured, perturbation, measure, where, name, measured.model, top)
            ends = {row["step"]: row for row in rows if not row["factor"]}
            used += ends.values()
            _shade(ax, arm, perturbation, drawn[0])
        low, high = [], []
        for row in own:
            effect, under = ends.get(row["step"]), base.get((arm.control if arm else "", row["step"]))
            has_ends = effect is not None and effect["ci_low"] is not None and under is not None
            low.append(under["mean"] + effect["ci_low"] if has_ends and effect and under else None)
            high.append(under["mean"] + effect["ci_high"] if has_ends and effect and under else None)
            value = effect["estimate"] if effect else None
            csv.append([name, top, row["step"], row["n"], row["mean"], value, low[-1], high[-1]])
        xs, ys = [row["step"] for row in own], [row["mean"] for row in own]
        draw_line(ax, Line(label=name, xs=xs, ys=ys, low=low, high=high, style=drawn))
    _steps_axis(ax)
    ax.set_ylabel(unit)
    legend(figure, ax)
    file = file_name(perturbation, "path")
    svg = save_figure(figure, folder, file, PATH_COLUMNS, csv, f"{perturbation}: {title} over training")
    ns = max((row["n"] for row in cells), default=0)
    left = f"; {len(arms) - len(shown)} more arms in SQL (dose_response)" if len(arms) > len(shown) else ""
    note = f"{top:,} copies, n {ns:,}; phases shaded; band: 95 %{over_text(used)} of treated − control at each checkpoint{left}"
    return Panel(name=file, title=f"{title}, {top:,} copies", svg=svg, note=note)


def _shade(ax: Axes, arm: ArmDesign, perturbation: str, colour: str) -> None:
    lo, hi = arm.span(perturbation)
    if (lo, hi) != (0, arm.train.slots):
        ends = (lo / arm.train.batch, hi / arm.train.batch)
        ax.axvspan(*ends, color=colour, alpha=0.10, linewidth=0)


def _steps_axis(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = ax.xaxis
    axis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlim(0, None)
    ax.set_xlabel("training step")


def _cells_panel(measured: Measured, perturbation: str, arm: ArmDesign, folder: Path) -> Panel | None:
    """Effects of the highest level over the checkpoints, a line for each cell of a randomized arm; None without them."""
    measure = measured.measures[perturbation][0]
    where = "treated_arm = ? and model = ? and factor != '' and estimand in ('total', 'direct')"
    found = effects(measured, perturbation, measure, where, arm.name, measured.model)
    top = max((row["level"] for row in found), default=0)
    estimand = direct_or_total(found)
    found = [row for row in found if row["level"] == top and row["estimand"] == estimand]
    cells = list(dict.fromkeys(row["factor"] for row in found))
    cells.sort(key=cell_place)
    if not cells:
        return None
    figure, (ax,) = new_figure(4.1, 3.1)
    ax.axhline(0, color=INK, linewidth=0.8)
    for at, cell in enumerate(cells[:MOST_LINES]):
        own = [row for row in found if row["factor"] == cell]
        colour, _ = style(at)
        if phase := _phase(cell):
            steps = arm.train.steps
            ax.axvspan(float(phase[0] * steps), float(phase[1] * steps), color=colour, alpha=0.08, linewidth=0)
        draw_line(
            ax,
            Line(
                label=cell,
                xs=[row["step"] for row in own],
                ys=[row["estimate"] for row in own],
                low=[row["ci_low"] for row in own],
                high=[row["ci_high"] for row in own],
                style=style(at),
            ),
        )
    _steps_axis(ax)
    title, unit = measure_title(measured.suite, measure)
    ax.set_ylabel(f"{estimand} effect, {unit}")
    legend(figure, ax)
    file = file_name(perturbation, arm.name, "cells")
    csv = [
        [
            row[key]
            for key in ("treated", "control", "factor", "level", "step", "n", "estimate", "ci_low", "ci_high", "method")
        ]
        for row in found
    ]
    svg = save_figure(figure, folder, file, CELL_COLUMNS, csv, f"{perturbation}: cells of {arm.name}")
    left = f"; {len(cells) - MOST_LINES} more cells in the CSV" if len(cells) > MOST_LINES else ""
    note = f"records divided at random within {arm.name}, {top:,} copies, n {n_text(found)}; band: 95 %{over_text(found)}{left}"
    return Panel(name=file, title=f"{arm.name}: {title} by cell", svg=svg, note=note)


def _phase(cell: str) -> tuple[Fraction, Fraction] | None:
    """The phase that a cell names (`phase=3/4-1`), if it does."""
    for part in cell.replace(",", " ").split():
        if part.startswith("phase="):
            start, _, end = part.removeprefix("phase=").partition("-")
            return Fraction(start), Fraction(end)
    return None


def cell_place(cell: str) -> tuple[Fraction, str]:
    phase = _phase(cell)
    return (phase[0] if phase else Fraction(0)), cell


def _retention(measured: Measured, perturbation: str) -> list[Row]:
    return measured.rows("from retention where perturbation = ?", [perturbation])


def _retention_panel(measured: Measured, perturbation: str, folder: Path) -> Panel | None:
    """Acquired (hollow) and kept (filled) at the highest level, a line for each pair and cell; None without rows."""
    probe, variant, metric = measured.measures[perturbation][0]
    found = [
        row
        for row in _retention(measured, perturbation)
        if (row["probe"], row["variant"], row["metric"]) == (probe, variant, metric) and row["acquired"] is not None
    ]
    top = max((row["level"] for row in found), default=0)
    last = {(row["treated"], row["control"]): row["step"] for row in sorted(found, key=lambda row: row["step"])}
    found = [row for row in found if row["level"] == top and row["step"] == last[(row["treated"], row["control"])]]
    if not found:
        return None
    _, unit = measure_title(measured.suite, (probe, variant, metric))
    figure, (ax,) = new_figure(4.1, 1.1 + 0.27 * len(found))
    ax.grid(False)
    ax.axvline(0, color=INK, linewidth=0.8)
    csv = []
    for y, row in enumerate(found):
        ax.axhline(y, color=GRID, linewidth=0.5, zorder=0)
        for shift, what, fill in ((-0.14, "acquired", "none"), (0.14, "kept", "full")):
            if row[what] is None:
                continue
            colour = style(0 if what == "kept" else 4)[0]
            if row[f"{what}_low"] is not None and row[f"{what}_high"] is not None:
                ax.hlines(y + shift, row[f"{what}_low"], row[f"{what}_high"], color=colour, linewidth=1.6)
            name = what if y == 0 else None
            ax.plot([row[what]], [y + shift], "o", color=colour, markersize=5, fillstyle=fill, label=name)
        csv.append(list(row.values()))
    ax.set_yticks(range(len(found)), [_who(measured, row) for row in found], fontsize=8.5)
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_xlabel(f"effect, {unit}")
    legend(figure, ax)
    file = file_name(perturbation, "retention")
    svg = save_figure(figure, folder, file, list(found[0]), csv, f"{perturbation}: acquired and kept")
    note = f"{top:,} copies, n {n_text(found)}; acquired: at the end of the phase, kept: at the last checkpoint; bars: 95 %"
    return Panel(name=file, title="acquired and kept", svg=svg, note=note)


def _who(measured: Measured, row: Row) -> str:
    arm, model = measured.side(row["treated"])
    text = arm if model == measured.model else f"{arm} {model}"
    return f"{text} {row['factor']}".strip()


def retention_rows(measured: Measured) -> list[list[str]]:
    """Acquisition, retention and half-life of every pair, cell and level by the primary measures, a line each."""
    found = []
    for name in measured.suite.perturbations:
        primary = measured.measures[name][0]
        for row in _retention(measured, name):
            if (row["probe"], row["variant"], row["metric"]) != primary:
                continue
            values = [_with_ends(row, key) for key in ("acquired", "kept", "share", "half_life")]
            if row["censored"]:
                values[3] = f"{values[3]} ({row['censored']})".strip()
            place = [name, pair_text(measured, row), row["factor"], f"{row['level']:,}", f"{row['phase_end']:,}"]
            values.insert(1, f"{row['step']:,}")
            found.append([*place, *values, f"{row['n']:,}", str(row["n_runs"]), row["method"]])
    return found


def _with_ends(row: Row, key: str) -> str:
    """'−0.98 [−1.1, −0.86]'; empty where there is no number."""
    if row[key] is None:
        return ""
    ends = [row[f"{key}_low"], row[f"{key}_high"]]
    if None in ends:
        return number(row[key])
    return f"{number(row[key])} [{number(ends[0])}, {number(ends[1])}]"
