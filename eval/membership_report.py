"""What the report shows of membership inference: a table, each attack beside itself on the control, and ROC curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.design import ArmDesign, Suite
from .figures import COLOURS, CONTROL, INK, Panel, file_name, legend, new_figure, save_figure
from .membership import Row, gate_text
from .report_data import Measured
from .roc import Bools, Floats, roc_points

MEMBERSHIP_COLUMNS = (
    "perturbation",
    "run",
    "attack",
    "may use",
    "copies",
    "members",
    "held out",
    "area",
    "p (Holm)",
    "at 1 % false alarms",
    "area on the control",
    "method",
)
ROC_COLUMNS = ("arm", "attack", "level", "members", "held_out", "false_positives", "true_positives", "low", "high")
DRAWN = ("loss", "min-k-plus-plus")
MOST_POINTS = 200  # of a curve in the figure; the CSV has no more


def gates_told(measured: Measured) -> str:
    """What the gates say, over all runs, steps and attacks."""
    return gate_text(measured.rows("from membership where gate <> '' order by all"))


def last_attacks(measured: Measured) -> list[Row]:
    """The rows of the main model's runs at their last steps, of their gates, and of the blind attack."""
    query = (
        "select m.* from membership m left join runs r on r.run = m.run left join arms a on a.arm = "
        "coalesce(r.arm, regexp_replace(m.run, '[.][^.]+$', '')) "
        "where m.gate = 'blind' or (m.step = a.steps and (r.model = ? or m.run = a.arm || '.' || ?)) order by all"
    )
    return measured.rows(query, [measured.model, measured.model])


def membership_rows(suite: Suite, rows: Sequence[Row]) -> list[list[str]]:
    """Attacks and the blind one, one line each, with the same attack on the control beside it."""
    control = {
        (row["perturbation"], row["labels"], row["level"], row["attack"]): row
        for row in rows
        if row["gate"] == "standard"
    }
    order = {name: number for number, name in enumerate(suite.perturbations)}
    shown = [row for row in rows if row["gate"] in ("", "blind")]
    found = []
    for row in sorted(shown, key=lambda row: (order[row["perturbation"]], not row["gate"])):
        gate = control.get((row["perturbation"], row["labels"], row["level"], row["attack"]))
        p = row["p_value"] if row["p_adjusted"] is None else row["p_adjusted"]
        found.append(
            [
                row["perturbation"],
                row["run"] or "no model",
                row["attack"],
                "the texts" if row["gate"] else row["tier"] + (f": {row['reference']}" if row["reference"] else ""),
                "all" if row["level"] is None else str(row["level"]),
                str(row["n_members"]),
                str(row["n_nonmembers"]),
                area_text(row),
                "" if p is None else f"{p:.4f}",
                "" if row["tpr_01"] is None else f"{row['tpr_01']:.0%} (at {row['fpr_01']:.2%})",
                area_text(gate) if gate and not row["gate"] else "",
                row["method"],
            ]
        )
    return found


def area_text(row: Row) -> str:
    """'.86 [.74, .95]', or the point alone where there is no interval."""
    if row["ci_low"] is None:
        return f"{row['auc']:.2f}"
    return f"{row['auc']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def roc_panels(measured: Measured, folder: Path) -> list[Panel]:
    """A figure for every perturbation whose records were attacked."""
    found = []
    for name in measured.suite.perturbations:
        arm = measured.main_arm(name)
        panel = _roc(measured, name, arm, folder) if arm else None
        if panel:
            found.append(panel)
    return found


def _roc(measured: Measured, perturbation: str, arm: ArmDesign, folder: Path) -> Panel | None:
    """The curves of some attacks on an arm's first run and on its control's, both axes logarithmic; None without scores.

    The ribbon has at each threshold the exact binomial interval of the members found (Clopper and Pearson 1934), records
    taken as independent.
    """
    top = max(measured.suite.perturbations[perturbation].levels)
    rows = measured.rows(
        "select arm, variant, record_id, level, value from record_scores where perturbation = ? and probe = 'membership' "
        "and metric = 'attack_score' and model = ? and draw = 0 and arm in (?, ?) and step = ? and level in (0, ?) "
        "and role = 'main' and isfinite(value) order by all",
        [perturbation, measured.model, arm.name, arm.control, measured.last[(arm.name, measured.model)], top],
    )
    levels = {row["record_id"]: row["level"] for row in rows if row["arm"] == arm.name}
    csv: list[list[Any]] = []
    figure, (ax,) = new_figure(4.1, 3.4)
    lowest = 1.0
    for side, name in enumerate((arm.name, arm.control)):
        for at, attack in enumerate(DRAWN):
            own = [
                r for r in rows if (r["arm"], r["variant"]) == (name, f"attack={attack}") and r["record_id"] in levels
            ]
            is_member = np.array([levels[row["record_id"]] > 0 for row in own], bool)
            if not is_member.any() or is_member.all():
                continue
            false, true, low, high = _curve(np.array([row["value"] for row in own], float), is_member)
            counts = (int(is_member.sum()), int((~is_member).sum()))
            lowest = min(lowest, 0.5 / counts[1])
            colour = CONTROL if side else COLOURS[at]
            dash = ("-", "--")[at]
            edge = np.maximum(false, lowest)
            ax.step(
                edge,
                np.maximum(true, lowest),
                where="post",
                linewidth=1.6,
                label=f"{attack}, {name}",
                color=colour,
                linestyle=dash,
            )
            if not side and not at:
                ax.fill_between(edge, np.maximum(low, lowest), high, step="post", color=colour, alpha=0.18, linewidth=0)
            points = zip(false, true, low, high, strict=True)
            csv += [[name, attack, top, *counts, *map(float, point)] for point in points]
    if not csv:
        return None
    ax.plot([lowest, 1], [lowest, 1], color=INK, linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.minorticks_off()
    ax.set_xlim(lowest, 1)
    ax.set_ylim(lowest, 1.1)
    ax.set_xlabel("held-out records called members")
    ax.set_ylabel(f"members found, {top:,} copies")
    legend(figure, ax)
    file = file_name(perturbation, "roc")
    svg = save_figure(figure, folder, file, ROC_COLUMNS, csv, f"{perturbation}: members found against false alarms")
    sizes = f"{csv[0][3]:,} members, {csv[0][4]:,} held out, draw 0"
    note = f"{sizes}; ribbon: exact 95 % of {DRAWN[0]} at each threshold; grey: control"
    return Panel(name=file, title=perturbation, svg=svg, note=note)


def _curve(values: Floats, is_member: Bools) -> tuple[Floats, Floats, Floats, Floats]:
    """False and true positive rates from (0, 0) on, at most MOST_POINTS of them, and the bounds of the latter."""
    from scipy.stats import beta

    false, true = (np.append(0.0, rates) for rates in roc_points(values, is_member))
    if len(false) > MOST_POINTS:
        kept = np.unique(np.geomspace(1, len(false), MOST_POINTS).astype(int) - 1)
        false, true = false[kept], true[kept]
    n = int(is_member.sum())
    hits = np.round(true * n)
    low = np.where(hits > 0, beta.ppf(0.025, hits, n - hits + 1), 0.0)
    high = np.where(hits < n, beta.ppf(0.975, hits + 1, n - hits), 1.0)
    return false, true, low, high
