"""What the report shows of membership inference: a table, each attack beside itself on the control, and its ROC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.design import Suite
from ..core.workspace import write_text
from .figures import COLOURS, INK, csv_text, legend, new_figure, save_figure
from .membership import Row
from .roc import roc_points
from .scores import Scores

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
)
DRAWN = ("loss", "min-k-plus-plus")


def membership_rows(suite: Suite, rows: Sequence[Row], model: str) -> list[list[str]]:
    """Attacks on the last steps of a model's runs, and the blind one, one line each."""
    last = {
        name: arm.train.steps
        for arm in suite.arms.values()
        for name in (f"{arm.name}.{model}", *(f"{arm.name}.{model}.d{draw}" for draw in range(arm.draws)))
    }

    def is_last(row: Row) -> bool:
        return row["step"] is not None and row["step"] == last.get(row["run"])

    control = {
        (row["perturbation"], row["labels"], row["level"], row["attack"]): row
        for row in rows
        if row["gate"] == "standard" and is_last(row)
    }
    order = {name: number for number, name in enumerate(suite.perturbations)}
    shown = [row for row in rows if row["gate"] == "blind" or (not row["gate"] and is_last(row))]
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
            ]
        )
    return found


def area_text(row: Row) -> str:
    """'.86 [.74, .95]', or the point alone where there is no interval."""
    if row["ci_low"] is None:
        return f"{row['auc']:.2f}"
    return f"{row['auc']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def draw_roc(suite: Suite, scores: Scores, perturbation: str, arm: str, model: str, folder: Path) -> str | None:
    """The curves of some attacks on an arm's first run and on its control's, both axes logarithmic; None without scores."""
    design = suite.arms[arm]
    members = scores.subjects.members(perturbation)
    levels = scores.subjects.levels[(arm, 0)][members]
    top = max(suite.perturbations[perturbation].levels)
    sides = [(arm, design.train.steps)] + ([(design.control, design.train.steps)] if design.control else [])
    lines: list[list[Any]] = []
    figure, (ax,) = new_figure(5.4, 3.9)
    ends = [1.0]
    for side, (name, step) in enumerate(sides):
        for number, attack in enumerate(DRAWN):
            measure = ("membership", f"attack={attack}", "attack_score")
            found = scores.of(f"{name}.{model}.d0", step, measure).at(members)
            shown = np.isfinite(found) & ((levels == 0) | (levels == top))
            is_member = levels[shown] > 0
            if not is_member.any() or is_member.all():
                continue
            false, true = roc_points(found[shown], is_member)
            ends.append(0.5 / int((~is_member).sum()))
            low = max(ends[-1], 1e-12)
            ax.step(
                np.maximum(np.append(0.0, false), low),
                np.maximum(np.append(0.0, true), low),
                where="post",
                linewidth=1.6,
                label=f"{attack}, {name}",
                color=COLOURS[0] if side else COLOURS[number + 1],
                linestyle=("-", "--")[number],
            )
            lines += [[name, attack, top, f"{x:.6g}", f"{y:.6g}"] for x, y in zip(false, true, strict=True)]
    if not lines:
        return None
    ax.plot([min(ends), 1], [min(ends), 1], color=INK, linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(min(ends), 1)
    ax.set_ylim(min(ends), 1.05)
    ax.set_xlabel("held-out records called members")
    ax.set_ylabel(f"members found, {top} copies")
    legend(ax)
    text = save_figure(figure, folder, "roc", [], "Membership: members found against false alarms")
    write_text(folder / "roc.csv", csv_text(("arm", "attack", "level", "false_positives", "true_positives"), lines))
    return text
