"""The report: one HTML file that opens from disk, light and dark, with its figures and their numbers beside it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2

from ..core.design import Suite
from ..core.errors import CostarError
from ..core.workspace import Workspace, write_text
from .figures import Panel
from .forest import forests
from .membership_report import MEMBERSHIP_COLUMNS, gates_told, last_attacks, membership_rows, roc_panels
from .panels import dose_panel, risk_panels
from .paths import RETENTION_COLUMNS, path_panel, retention_rows, timing_panels
from .profiles import dilution_panels, profile_panels, query_panels
from .record_browser import RECORD_COLUMNS, browse
from .report_data import Measured, opened
from .report_tables import (
    analysis_plan,
    built_rows,
    effects_table,
    fit_rows,
    gap_rows,
    hypothesis_groups,
    missing_parts,
    table,
    tokens_text,
    write_effects_csv,
)
from .stored import told_gaps
from .summary import (
    Summary,
    density_text,
    draws_text,
    effect_lines,
    headline,
    placebo_text,
    summarize,
    table_rows,
)

FIT_COLUMNS = (
    "perturbation", "pair", "curve", "half-dose", "95 %", "censored", "first clear copies, given these runs", "largest effect",
    "slope", "fit p", "n", "runs", "method",
)  # fmt: skip
MOST_ATTACKS = 3_000
FIRST = (5.4, 3.2)  # inches of the figures of the first screen


def write_report(suite: Suite, workspace: Workspace) -> Path:
    """Write `report/index.html` and `report/figures/` from the manifest and the ledger.

    Raises:
        CostarError: nothing was measured yet, or what was measured is damaged.
    """
    with opened(suite, workspace) as measured:
        summary = summarize(suite, workspace, measured)
        if summary is None:
            raise CostarError(
                str(workspace.eval),
                found="no measured pair",
                expected="scores and effects of an arm and its control",
                mend="run `costar eval` first",
            )
        page = _page(measured, workspace, summary)
    path = workspace.report / "index.html"
    write_text(path, page)
    return path


def _page(measured: Measured, workspace: Workspace, summary: Summary) -> str:
    """The page as text; the figures are written on the way."""
    suite, folder = measured.suite, workspace.report / "figures"
    for old in sorted(folder.glob("*.*")):
        old.unlink()  # of a suite that has changed since
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    attacks = last_attacks(measured)
    write_effects_csv(measured, folder / "effects.csv")
    browsed = browse(measured, workspace)
    members = membership_rows(suite, attacks)
    columns, rows = table_rows(summary)
    data = {
        "browser": browsed.browser,
        "effects": effects_table(measured),
        "records": table(RECORD_COLUMNS, browsed.lines, ("perturbation", "copies"), browsed.note),
        "membership": table(
            MEMBERSHIP_COLUMNS,
            members[:MOST_ATTACKS],
            ("perturbation", "attack", "copies"),
            f"{MOST_ATTACKS:,} of {len(members):,}" if len(members) > MOST_ATTACKS else "",
        ),
        "retention": table(RETENTION_COLUMNS, retention_rows(measured), ("perturbation", "copies")),
        "fits": table(FIT_COLUMNS, fit_rows(measured), ("perturbation",)),
    }
    script = (here / "report.js").read_text(encoding="utf-8")
    verified = workspace.root / "verified.txt"
    gaps = gap_rows(measured)
    return environment.get_template("report.html.j2").render(
        suite=suite,
        summary=summary,
        control=suite.arms[summary.treated].control or "",
        styles=(here / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        parameters=_parameters(measured),
        tokens=tokens_text(suite),
        verified=verified.read_text(encoding="utf-8").strip() if verified.is_file() else "",
        headline=headline(suite, summary),
        effect_lines=effect_lines(suite, summary),
        draws=draws_text(suite, summary),
        density=density_text(suite, summary),
        placebo=placebo_text(summary),
        gaps=told_gaps(suite, workspace),
        missing=missing_parts(measured),
        gap_rows=gaps,
        frequency=_first(
            dose_panel(measured, summary.perturbation, summary.measure, folder, name="frequency", size=FIRST)
        ),
        timing=_first(path_panel(measured, summary.perturbation, folder, size=FIRST)),
        hypotheses=hypothesis_groups(measured),
        columns=columns,
        rows=rows,
        risks=risk_panels(measured, folder),
        forests=forests(measured, folder),
        paths=timing_panels(measured, folder, main=summary.perturbation),
        profiles=profile_panels(measured, folder),
        dilution=dilution_panels(measured, folder),
        queries=query_panels(measured, folder),
        rocs=roc_panels(measured, folder),
        gates=gates_told(measured),
        plan=analysis_plan(measured, workspace),
        built=built_rows(measured, workspace),
        data=_embedded(data),
        has={name: bool(value.get("rows")) for name, value in data.items()}
        | {"browser": bool(browsed.browser["records"])},
    )


def _first(panel: Panel | None) -> list[Panel]:
    return [panel] if panel else []


def _embedded(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _parameters(measured: Measured) -> str:
    found = measured.rows("select parameters from models where model = ?", [measured.model])
    if not found:
        return ""
    millions = found[0]["parameters"] / 1e6
    return f"{millions / 1e3:,.1f} B parameters" if millions >= 1e3 else f"{millions:,.1f} M parameters"
