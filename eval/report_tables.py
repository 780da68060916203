"""Tables and words of the report: effects, hypotheses, gaps, how numbers were made, how the suite was built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.design import Suite
from ..core.registration import read_registered, registered_text
from ..core.workspace import Workspace, read_facts, replacing
from .figures import file_name
from .panels import number
from .report_data import Measured, Row, measure_title, pair_text
from .summary import by_finding, is_over_draws, verdict_estimate

MOST_EFFECTS = 2_500
EFFECT_COLUMNS = (
    "estimand", "perturbation", "measure", "pair", "cell", "copies", "step", "n", "clusters", "runs", "estimate", "95 %",
    "given the runs", "band", "p", "p (Holm)", "p (max-T)", "p (equivalent)", "family", "method",
)  # fmt: skip
ORDER = (
    "direct",
    "total",
    "timing",
    "factor",
    "interference",
    "displacement",
    "spillover",
    "shift",
    "utility",
    "placebo",
)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], filters: Sequence[str] = (), note: str = ""
) -> dict[str, Any]:
    """A table as the page's script reads it: texts once, cells by their number or as numbers."""
    texts: dict[str, int] = {}
    numeric = [all(isinstance(row[at], int | float | None) for row in rows) for at in range(len(columns))]
    packed = [
        [
            cell if numeric[at] or cell is None else texts.setdefault(str(cell), len(texts))
            for at, cell in enumerate(row)
        ]
        for row in rows
    ]
    return {
        "columns": list(columns),
        "numeric": numeric,
        "texts": list(texts),
        "rows": packed,
        "filters": [list(columns).index(name) for name in filters],
        "note": note,
    }


def effects_table(measured: Measured) -> dict[str, Any]:
    """Effects of the shown measures at each pair's last step, primary ones first, up to a number."""
    query = (
        "with own as (select e.*, row_number() over (partition by estimand, perturbation, probe, variant, metric, treated, "
        "control, factor, level order by step desc) as place from shown_effects e) "
        "select o.* exclude (place) from own o left join wanted w using (perturbation, probe, variant, metric) "
        "where o.place = 1 and (w.metric is not null or o.perturbation = '' or o.estimand = 'shift') "
        "order by estimand, perturbation, probe, variant, metric, treated, control, factor, level"
    )
    rows = measured.rows(query)
    names = list(measured.suite.perturbations)

    def place(row: Row) -> tuple[int, int, int]:
        measure = (row["probe"], row["variant"], row["metric"])
        own = measured.measures.get(row["perturbation"], [measure])
        at = own.index(measure) if measure in own else 0
        where = names.index(row["perturbation"]) if row["perturbation"] in names else len(names)
        estimand = ORDER.index(row["estimand"]) if row["estimand"] in ORDER else len(ORDER)
        return (at, where, estimand)

    rows.sort(key=place)
    shown = rows[:MOST_EFFECTS]
    left = f"{len(shown):,} of {len(rows):,}, primary measures first" if len(shown) < len(rows) else ""
    filters = ("estimand", "perturbation", "measure", "copies")
    return table(EFFECT_COLUMNS, [_effect_line(measured, row) for row in shown], filters, left)


def _effect_line(measured: Measured, row: Row) -> list[Any]:
    title, unit = measure_title(measured.suite, (row["probe"], row["variant"], row["metric"]))
    pair = pair_text(measured, row)
    given = interval(row["given_low"], row["given_high"]) if is_over_draws(row) else ""
    return [
        row["estimand"],
        row["perturbation"],
        f"{title}, {unit}",
        pair,
        row["factor"],
        row["level"],
        row["step"],
        row["n"],
        row["n_clusters"],
        row["n_runs"],
        _short(row["estimate"]),
        interval(row["ci_low"], row["ci_high"]),
        given,
        interval(row["band_low"], row["band_high"]),
        *(_short(row[name]) for name in ("p_value", "p_adjusted", "p_max_t", "p_equivalent")),
        row["family"],
        row["method"],
    ]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def interval(low: float | None, high: float | None) -> str:
    """'[−1.1, −0.86]', or nothing."""
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def write_effects_csv(measured: Measured, path: Path) -> None:
    """Every row of the table of effects, by DuckDB itself: there may be hundreds of thousands."""
    with replacing(path) as temporary:
        quoted = str(temporary).replace("'", "''")
        measured.connection.execute(f"copy (from effects order by all) to '{quoted}' (format csv, header)")


def hypothesis_groups(measured: Measured) -> list[tuple[str, list[dict[str, str]]]]:
    """Findings with claim, verdict, estimate and test of each of their hypotheses."""
    return [(name, _hypotheses(measured, rows)) for name, rows in by_finding(measured.rows("from hypotheses"))]


def _hypotheses(measured: Measured, rows: Sequence[Row]) -> list[dict[str, str]]:
    found = []
    for row in rows:
        title, unit = measure_title(measured.suite, (row["probe"], row["variant"], row["metric"]))
        pair = pair_text(measured, row)
        level = "" if row["level"] is None else f"{row['level']:,} copies"
        test = ", ".join(
            part for part in (row["estimand"], row["perturbation"], title, pair, row["factor"], level) if part
        )
        p = row["p_adjusted"] if row["p_adjusted"] is not None else row["p_value"]
        found.append(
            {
                "name": row["hypothesis"],
                "claim": row["claim"],
                "hubble": row.get("hubble") or "",
                "verdict": row["verdict"],
                "mark": file_name(row["verdict"].split(":")[0]),
                "estimate": verdict_estimate(row) + ("" if row["estimate"] is None else f" {unit}"),
                "p": "" if p is None else number(p),
                "runs": "" if row["n_runs"] is None else str(row["n_runs"]),
                "test": test,
                "method": row.get("method") or "",
            }
        )
    return found


def gap_rows(measured: Measured) -> list[list[str]]:
    """What could not be measured, with its reason: of runs, then of records."""
    found = []
    unfinished = measured.rows("select run, status, steps from runs where status <> 'finished' order by run")
    for row in unfinished:
        found.append([row["run"], "", "1 run", f"not trained to step {row['steps']:,}: {row['status']}"])
    for row in measured.rows(
        "select r.run, r.steps from runs r where status = 'finished' and not exists "
        "(select 1 from checkpoints c where c.run = r.run) order by run"
    ):
        found.append([row["run"], "", "1 run", "no checkpoint is left"])
    query = (
        "select probe, reason, count(*) as n, count(distinct run) as runs from gaps group by all order by n desc, probe, reason "
        "limit 40"
    )
    for row in measured.rows(query):
        found.append([f"{row['runs']} runs", row["probe"], f"{row['n']:,}", row["reason"]])
    return found


def missing_parts(measured: Measured) -> list[str]:
    """Which tables of the analysis hold nothing, in words: a section that is not there says why."""
    told = {
        "dose_fits": "half-doses: no fit was possible or made",
        "retention": "acquisition and retention: no arm has a phase that ends with a measured checkpoint",
        "membership": "membership inference: its probe was not asked for",
    }
    missing = [text for name, text in told.items() if not measured.rows(f"select 1 from {name} limit 1")]
    apart = "estimand = 'timing' or (estimand = 'factor' and factor like 'phase=%')"
    if not measured.rows(f"select 1 from effects where {apart} limit 1"):
        missing.append("timing: no two arms that differ in their phase alone, and no phases by lot, were measured")
    for name, design in measured.suite.perturbations.items():
        if 0 not in design.levels:
            missing.append(
                f"{name}: no held-out records, so no direct effect, no spillover and no membership inference"
            )
        few = [f"{count} at {level} copies" for level, count in sorted(design.levels.items()) if 0 < count < 10]
        if few:
            missing.append(f"{name}: {', '.join(few)}: below ten clusters there is no bootstrap interval")
        if measured.main_arm(name) is None:
            missing.append(f"{name}: no arm that inserts it was measured beside its control")
    return missing


def analysis_plan(measured: Measured, workspace: Workspace) -> list[tuple[str, str]]:
    """The analysis: primary measures, margins, families, and whether it was fixed before training."""
    design = measured.suite.eval.analysis
    found = [
        (name, f"primary: {text}" + ("" if math.isnan(margin) else f"; equivalent to none within ±{margin:g}"))
        for name, text, margin in (
            (name, text, design.margins.get(name, float("nan"))) for name, text in design.plain()["primary"].items()
        )
    ]
    over = "the levels of one contrast" if design.families == "perturbation" else "everything primary of one estimand"
    found.append(("Holm's adjustment", f"over {over}"))
    registered = read_registered(workspace)
    same = not registered or registered[-1]["sha256"] == design.sha256()
    note = "" if same else f" The suite file now says otherwise ({design.sha256()[:12]}): run `costar eval` again."
    found.append(("registered", registered_text(registered) + note))
    return found


def built_rows(measured: Measured, workspace: Workspace) -> list[tuple[str, str]]:
    """The corpus, the models and the training, as the manifest has them."""
    suite = measured.suite
    rows = []
    for facts in measured.rows("from corpus"):
        text = f"{facts['source']}: {facts['documents']:,} documents, {facts['tokens']:,} tokens"
        rows.append(("corpus", f"{text}, vocabulary {facts['vocab_size']:,}"))
        rows.append(("tokens", f"sha256 {facts['tokens_sha256']}"))
        rows.append(("dropped as contaminated", f"{facts['dropped']:,} documents"))
        length = f"{facts['sequences']:,} of {facts['sequence_length']:,} tokens; a run reads {suite.train.slots:,}"
        rows.append(("sequences", length))
    for model in measured.rows("from models order by model"):
        shape = ", ".join(f"{key} {value:,}" for key, value in model.items() if key != "model" and value is not None)
        rows.append((f"model {model['model']}", shape))
    rows.append(("training", ", ".join(f"{key} {value}" for key, value in vars(suite.train).items())))
    rows.append(("seed, draws", f"{suite.seed}, {suite.draws}"))
    for facts in measured.rows("from suite"):
        rows.append(("suite", f"sha256 {facts['spec_sha256']}, costar {facts['costar_version']}"))
    rows += _installation(workspace)
    for arm in suite.arms.values():
        copies = sum(suite.perturbations[name].copies for name in arm.inserted)
        share = copies / arm.train.slots
        rows.append((f"arm {arm.name}", f"{copies:,} copies in {arm.train.slots:,} slots ({share:.2%})"))
    return rows


def _installation(workspace: Workspace) -> list[tuple[str, str]]:
    path = workspace.corpus / "source.json"
    if not path.is_file():
        return []
    differing = read_facts(path, ["differs"], mend="run `costar corpus`")
    rows = []
    if versions := differing.get("python", ""):
        rows.append(("installation", f"Python {versions}, {differing['platform']}"))
    if differing["differs"]:
        told = f"{', '.join(differing['differs'])}: the corpus differs from that of other machines"
        rows.append(("not as pinned", told))
    return rows


def fit_rows(measured: Measured) -> list[list[Any]]:
    """Half-doses of the primary measures at the last step, a line each."""
    found = []
    for name in measured.suite.perturbations:
        probe, variant, metric = measured.measures[name][0]
        rows = measured.rows(
            "from dose_fits f where perturbation = ? and probe = ? and variant = ? and metric = ? and step = (select "
            "max(step) from dose_fits o where o.treated = f.treated and o.perturbation = f.perturbation) "
            "order by treated, control",
            [name, probe, variant, metric],
        )
        for row in rows:
            half = "" if row["half_dose"] is None else number(row["half_dose"])
            detected = "" if row["detection_dose"] is None else f"{row['detection_dose']:,}"
            place = [name, pair_text(measured, row), row["curve"], half, interval(row["ci_low"], row["ci_high"])]
            values = [row["censored"] or "", detected, *(_text(row[key]) for key in ("largest", "slope", "fit_p"))]
            found.append([*place, *values, f"{row['n']:,}", str(row["n_runs"]), row["method"]])
    return found


def _text(value: float | None) -> str:
    return "" if value is None else number(value)


def tokens_text(suite: Suite) -> str:
    """The tokens that a run of the suite reads."""
    return f"{suite.train.slots * suite.corpus.sequence_length:,} tokens"
