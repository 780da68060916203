"""Effects: what differs between runs that differ in one thing, by level, with intervals and p-values.

- `total`: treated − control at a level. `spillover`: total at level 0. `direct`: total at the level − total at 0.
- `displacement`: filler arm − control, over all records. `timing`: later − earlier phase.
- `interference`: with other perturbations − without. `factor`: one value of a randomized factor − its first, at one level.
- `shift`: log2 of the ratio of two half-doses (`shifts.py`). `utility`: loss on validation documents (`utility.py`).
- `placebo`: within a run that has read nothing of a perturbation, nor its parents, level − 0: it should find nothing.

What is compared is in `contrasts.py`, how in `estimates.py`; here are the rows, and the families over which p-values of
primary measures are adjusted. Everything is computed in numpy on sorted input, so equal scores give equal bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..core.design import Suite
from ..core.workspace import Workspace
from ..manifests.tables import EFFECTS
from .contrasts import Contrast, common_steps, contrasts, run_label
from .estimates import Estimate, estimates
from .scores import Measure, Scores
from .shifts import shifts
from .stacks import Stack, stacks
from .stats import holm
from .utility import utility_effects

Row = dict[str, Any]
KEYS = EFFECTS.names[:11]


def effect_rows(suite: Suite, workspace: Workspace, scores: Scores) -> list[Row]:
    """The rows of `effects.parquet`, in order."""
    found = [*all_effects(suite, scores), *shifts(suite, scores), *utility_effects(suite, workspace)]
    return sorted(found, key=_order)


def _order(row: Row) -> tuple[Any, ...]:
    """By what names a row; numbers as numbers, and what has none first."""
    return tuple((row[name] is not None, row[name]) if name in ("level", "step") else row[name] for name in KEYS)


def all_effects(suite: Suite, scores: Scores) -> list[Row]:
    """Every effect that the scores allow, adjusted; and a row without an estimate for each draw that is left out."""
    rows: list[Row] = []
    primary: dict[str, list[Row]] = defaultdict(list)
    for contrast in contrasts(suite, scores):
        rows += _left_out(contrast)
        steps = common_steps(scores, contrast)
        found = [row for stack in stacks(scores, contrast) for row in _stack_rows(suite, contrast, stack)]
        if contrast.estimand == "total" and found and _lacks_held_out(suite, contrast, found):
            rows.append(_row("direct", contrast, method="no held-out record was measured: no direct effect"))
        for row in _exploratory(suite, contrast, found, steps):
            primary[_family(suite, row)].append(row)
        rows += found
    for family, members in primary.items():
        _adjust(members, family)
    return rows


def _left_out(contrast: Contrast) -> list[Row]:
    return [_row(contrast.estimand, contrast, method=reason) for reason in contrast.left_out]


def _lacks_held_out(suite: Suite, contrast: Contrast, rows: Sequence[Row]) -> bool:
    """Whether records of level 0 are meant to be there, and none was measured."""
    return 0 in suite.perturbations[contrast.perturbation].levels and all(row["level"] for row in rows)


def _stack_rows(suite: Suite, contrast: Contrast, stack: Stack) -> Iterator[Row]:
    """The rows of all draws together, and of the primary measure also those of each draw."""
    for found in estimates(suite, contrast, stack):
        yield from _rows(contrast, stack, found)
    analysis, name = suite.eval.analysis, contrast.perturbation
    primary = [k for k, (_, measure) in enumerate(stack.columns) if analysis.is_primary(name, measure)]
    draws = stack.frame.draws.tolist()
    if primary and len(contrast.treated) > 1:
        for draw in draws:
            own, part = contrast.of_draw(draw), stack.chosen(primary).where(stack.frame.draw == draw)
            for found in estimates(suite, own, part, brief=True):
                yield from _rows(own, part, found)


def _rows(contrast: Contrast, stack: Stack, found: Estimate) -> Iterator[Row]:
    """One row for each column of the stack."""
    for k, (step, measure) in enumerate(stack.columns):
        numbers = {name: float(values[k]) if np.isfinite(values[k]) else None for name, values in found.numbers.items()}
        yield _row(
            found.estimand,
            contrast,
            measure,
            factor=found.factor,
            level=found.level,
            step=step,
            n=found.n,
            n_clusters=found.n_clusters,
            n_runs=found.n_runs,
            **numbers,
            method=found.method[k],
        )


def _row(estimand: str, contrast: Contrast, measure: Measure = ("", "", ""), **values: Any) -> Row:
    """A row of `effects`, null where nothing is given."""
    probe, variant, metric = measure
    named = {
        "estimand": estimand,
        "probe": probe,
        "variant": variant,
        "metric": metric,
        "perturbation": contrast.perturbation,
        "model": contrast.model,
        "treated": run_label(contrast.treated),
        "control": run_label(contrast.control),
        "factor": "",
        "n": 0,
        "n_clusters": 0,
        "n_runs": 0,
        "family": "",
    }
    return dict.fromkeys(EFFECTS.names) | named | values


def _exploratory(suite: Suite, contrast: Contrast, rows: Sequence[Row], steps: Sequence[int]) -> list[Row]:
    """Adjust what is not primary over the levels, or values of a factor, of one measure and step; the primary rows remain.

    Primary are those of a primary measure at the contrast's last step, of all its draws together. Level 0 of timing and
    interference is a check and stands outside of the family, as does one value of a factor alone.
    """
    families: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    primary = []
    for row in rows:
        if row["p_value"] is None:
            continue
        measure = (row["probe"], row["variant"], row["metric"])
        pooled = row["treated"] == run_label(contrast.treated)
        whole = row["estimand"] == "factor" or not row["factor"]
        judged = row["level"] > 0 or row["estimand"] in ("spillover", "displacement")
        is_last = bool(steps) and row["step"] == steps[-1]
        if suite.eval.analysis.is_primary(row["perturbation"], measure) and pooled and whole and judged and is_last:
            primary.append(row)
        else:
            factor = row["factor"].split("=")[0] if row["estimand"] == "factor" else row["factor"]
            names = ("estimand", "treated", "step", "probe", "variant", "metric")
            families[(*(row[name] for name in names), factor, row["level"] > 0)].append(row)
    for members in families.values():
        _adjust(members, "")
    return primary


def _family(suite: Suite, row: Row) -> str:
    """The name of a primary row's family."""
    if suite.eval.analysis.families == "suite":
        return str(row["estimand"])
    runs = " − ".join(row[side] for side in ("treated", "control") if row[side])
    factor = f" by {row['factor'].split('=')[0]}" if row["factor"] else ""
    return f"{row['estimand']} of {row['perturbation']}{factor}: {runs}"


def _adjust(rows: Sequence[Row], family: str) -> None:
    """Holm's adjustment over the rows of a family."""
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_adjusted"], row["family"] = adjusted, family
