"""Forest plots: every primary effect of a perturbation at the last step, with its interval, margin and Holm's flag."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .figures import COLOURS, CONTROL, GRID, INK, Panel, file_name, new_figure, save_figure
from .panels import number
from .paths import cell_place
from .report_data import Measured, Row, measure_title, pair_text
from .summary import excludes_zero

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ESTIMANDS = ("direct", "total", "timing", "factor", "interference", "displacement", "spillover", "shift", "utility")
IN_OWN_UNITS = ("shift", "utility")  # shown apart: log2 of copies, validation loss
MOST_ROWS = 56  # of one figure
ALPHA = 0.05
COLUMNS = (
    "estimand", "treated", "control", "factor", "level", "step", "n", "n_clusters", "n_runs", "estimate", "ci_low",
    "ci_high", "given_low", "given_high", "band_low", "band_high", "p_value", "p_adjusted", "p_max_t", "family", "margin",
    "p_equivalent", "method",
)  # fmt: skip
NOTE = (
    "filled: Holm-adjusted p below .05, given these runs, and an interval that leaves out 0; hollow: not both; "
    "square: equivalent to none within the shaded margin; small ticks: the draws one by one"
)


def forests(measured: Measured, folder: Path) -> list[tuple[str, list[Panel]]]:
    """The figures of each perturbation that has any, then those of the pairs as a whole (validation loss)."""
    found = []
    for name in measured.suite.perturbations:
        measure = measured.measures[name][0]
        title, unit = measure_title(measured.suite, measure)
        rows = list(_primary(measured, name, measure))
        panels = _figures(measured, name, f"{title}, {unit}", rows, folder)
        shifts = [row for row in _rows(measured, "perturbation = ?", name) if row["estimand"] == "shift"]
        panels += _figures(measured, f"{name} half-dose", "half-dose, log2 of the ratio of copies", shifts, folder)
        if panels:
            found.append((name, panels))
    utility = [row for row in _rows(measured, "estimand = 'utility'") if row["estimand"] == "utility"]
    panels = _figures(measured, "utility", "validation loss, nats per token", utility, folder)
    return [*found, ("utility of the pairs", panels)] if panels else found


def _rows(measured: Measured, where: str, *parameters: object) -> list[Row]:
    """Effects of the pairs at the last step of each."""
    query = (
        f"with own as (select * from shown_effects where {where}) select * from own e where step = (select max(step) from "
        "own o where o.treated = e.treated and o.control = e.control and o.perturbation = e.perturbation and "
        "o.estimand = e.estimand) order by estimand, model, treated, control, factor, level"
    )
    return measured.rows(query, parameters)


def _primary(measured: Measured, name: str, measure: tuple[str, str, str]) -> Iterator[Row]:
    """Effects by the primary measure in the order of ESTIMANDS and of the suite; `total` only where `direct` is missing."""
    own = _rows(measured, "perturbation = ? and probe = ? and variant = ? and metric = ?", name, *measure)
    direct = {(row["treated"], row["control"], row["factor"]) for row in own if row["estimand"] == "direct"}
    arms = list(measured.suite.arms)

    def place(row: Row) -> tuple[object, ...]:
        arm, model = measured.side(row["treated"])
        at = arms.index(arm) if arm in arms else len(arms)
        return (
            ESTIMANDS.index(row["estimand"]),
            at,
            model,
            row["control"],
            bool(row["factor"]),
            cell_place(row["factor"]),
            row["level"] or 0,
        )

    shown = [row for row in own if row["estimand"] in ESTIMANDS and row["estimand"] not in IN_OWN_UNITS]
    for row in sorted(shown, key=place):
        if row["estimand"] != "total" or (row["treated"], row["control"], row["factor"]) not in direct:
            yield row


def _figures(measured: Measured, name: str, label: str, rows: Sequence[Row], folder: Path) -> list[Panel]:
    """Rows in as many figures as keep each of them readable; a contrast is not split unless it alone is too long."""
    pages: list[list[Row]] = [[]]
    blocks: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        blocks.setdefault((row["estimand"], row["treated"], row["control"]), []).append(row)
    for block in blocks.values():
        for first in range(0, len(block), MOST_ROWS):
            part = block[first : first + MOST_ROWS]
            if len(pages[-1]) + len(part) > MOST_ROWS:
                pages.append([])
            pages[-1] += part
    pages = [page for page in pages if page]
    draws = _draws(measured, rows)
    found = []
    for at, page in enumerate(pages):
        more = f" ({at + 1} of {len(pages)})" if len(pages) > 1 else ""
        file = file_name("effects", name, *([str(at + 1)] if more else []))
        found.append(_forest(measured, page, draws, f"{name}{more}", label, file, folder))
    return found


def _draws(measured: Measured, rows: Sequence[Row]) -> dict[tuple[object, ...], list[float]]:
    """The estimates draw by draw of rows, by what they have in common."""
    if not rows or max(row["n_runs"] for row in rows) < 2:
        return {}
    keys = ("estimand", "probe", "variant", "metric", "perturbation", "factor", "level", "step")
    columns = ", ".join((*keys, "treated", "control", "estimate"))
    query = f"select {columns} from effects where n_runs = 1 and perturbation = ? order by all"
    found: dict[tuple[object, ...], list[float]] = {}
    for row in measured.rows(query, [rows[0]["perturbation"]]):
        sides = (re.sub(r"\.d\d+$", "", row[side]) for side in ("treated", "control"))
        found.setdefault((*(row[key] for key in keys), *sides), []).append(row["estimate"])
    return found


def _forest(
    measured: Measured,
    rows: Sequence[Row],
    draws: dict[tuple[object, ...], list[float]],
    title: str,
    label: str,
    file: str,
    folder: Path,
) -> Panel:
    keys = ("estimand", "probe", "variant", "metric", "perturbation", "factor", "level", "step", "treated", "control")
    lines = list(_lines(measured, rows))
    figure, (ax,) = new_figure(6.6, 0.75 + 0.18 * len(lines))
    ax.grid(False)
    ax.axvline(0, color=INK, linewidth=0.9)
    margins = {row["margin"] for row in rows if row["margin"] is not None and row["margin"] == row["margin"]}
    if len(margins) == 1:
        ax.axvspan(-min(margins), min(margins), color=CONTROL, alpha=0.18, linewidth=0)
    own = [(y, row) for y, (_, row) in enumerate(lines) if row is not None]
    low, high = (min(ends) for ends in (_ends(rows, "ci_low", 1), _ends(rows, "ci_high", -1)))
    segments(ax, [(y, low, -high) for y, _ in own], GRID, 0.5)
    for estimand in ESTIMANDS:
        bounded = [(y, row["ci_low"], row["ci_high"]) for y, row in own if row["estimand"] == estimand]
        segments(ax, [each for each in bounded if None not in each], _colour(estimand), 1.8)
    each = [(value, y) for y, row in own for value in draws.get(tuple(row[key] for key in keys), [])]
    if each:
        ax.scatter(
            [x for x, _ in each],
            [y for _, y in each],
            marker="|",
            color=INK,
            s=30,
            linewidths=0.9,
            alpha=0.6,
            zorder=3,
            clip_on=False,
        )
    for marker in ("o", "s"):
        marked = [(y, row) for y, row in own if (marker == "s") == _is_equal(row)]
        if marked:
            hues = [_colour(row["estimand"]) for _, row in marked]
            fills = [hue if _is_flagged(row) else "none" for hue, (_, row) in zip(hues, marked, strict=True)]
            places = ([row["estimate"] for _, row in marked], [y for y, _ in marked])
            ax.scatter(
                places[0],
                places[1],
                marker=marker,
                s=24,
                facecolors=fills,
                edgecolors=hues,
                linewidths=1.2,
                zorder=4,
                clip_on=False,
            )
    ax.set_yticks(range(len(lines)), [text for text, _ in lines], fontsize=8)
    for tick, (_, row) in zip(ax.get_yticklabels(), lines, strict=True):
        if row is None:
            tick.set_fontweight("bold")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(label)
    csv = [[row[key] for key in COLUMNS] for row in rows]
    svg = save_figure(figure, folder, file, COLUMNS, csv, f"effects: {title}")
    runs = sorted({row["n_runs"] for row in rows})
    margin = f"; margin ±{number(min(margins))}" if len(margins) == 1 else ""
    note = f"{sizes_text([row['n'] for row in rows])}runs a side {', '.join(map(str, runs))}{margin}; {NOTE}"
    return Panel(name=file, title=title, svg=svg, note=note)


def sizes_text(sizes: Sequence[int]) -> str:
    """'n 9 to 120, ', or nothing where no row has any: losses of sequences that runs do not share."""
    ends = sorted({n for n in (min(sizes), max(sizes)) if n})
    return f"n {' to '.join(f'{n:,}' for n in ends)}, " if ends else ""


def segments(ax: Axes, lines: Sequence[tuple[float, float, float]], colour: str, width: float) -> None:
    """Level lines (y, from, to), drawn as one: hundreds of paths would be most of a page."""
    xs = [x for _, low, high in lines for x in (low, high, float("nan"))]
    ys = [place for y, _, _ in lines for place in (y, y, float("nan"))]
    ax.plot(xs, ys, color=colour, linewidth=width, solid_capstyle="butt", zorder=1 if colour == GRID else 2)


def _colour(estimand: str) -> str:
    return COLOURS[ESTIMANDS.index(estimand) % len(COLOURS)]


def _is_flagged(row: Row) -> bool:
    """Whether the adjusted p-value, or the only one there is, is below ALPHA and the interval that is drawn leaves out 0: from
    three draws on the p-value is given these runs and the interval over draws, so that one alone may say too much."""
    p = row["p_adjusted"] if row["p_adjusted"] is not None else row["p_value"]
    return p is not None and p < ALPHA and excludes_zero(row)


def _is_equal(row: Row) -> bool:
    return row["p_equivalent"] is not None and row["p_equivalent"] < ALPHA


def _ends(rows: Sequence[Row], key: str, sign: int) -> list[float]:
    """The ends of all intervals on one side, or the estimates where there is none, times a sign."""
    return [sign * (row[key] if row[key] is not None else row["estimate"]) for row in rows]


def _lines(measured: Measured, rows: Sequence[Row]) -> Iterator[tuple[str, Row | None]]:
    """Lines of text, a heading for each contrast before its rows."""
    before = None
    for row in rows:
        contrast = (row["estimand"], row["treated"], row["control"])
        if contrast != before:
            yield f"{row['estimand']}: {pair_text(measured, row)}", None
            before = contrast
        if row["estimand"] in IN_OWN_UNITS:
            text = "at the last step"
        elif row["estimand"] == "displacement":
            text = "all records"
        else:
            text = f"{row['level']:,} {'copy' if row['level'] == 1 else 'copies'}"
        yield f"{row['factor']}, {text}" if row["factor"] else text, row
