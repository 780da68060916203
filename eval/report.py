"""The report: one HTML file that opens from disk, light and dark, with its figures and their numbers beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow.compute as pc

from ..core.design import Suite
from ..core.errors import CostarError
from ..core.hashing import keyed_hash
from ..core.parquet import read_table
from ..core.workspace import Workspace, corpus_facts, read_facts, write_text
from ..corpus.reading import open_tokenizer
from ..manifests.lineage import read_configs, stretches
from ..manifests.tables import EFFECTS
from . import figures
from .effects import read_effects
from .figures import Point, colours, csv_text, dose_points, draw_doses, draw_path, legend, new_figure, save_figure
from .membership import gate_text
from .membership_report import MEMBERSHIP_COLUMNS, draw_roc, membership_rows
from .scores import Scores, load_scores
from .stored import ledger_in, told_gaps
from .suite_attacks import read_membership
from .summary import (
    Summary,
    density_text,
    draws_text,
    effect_lines,
    headline,
    interval_text,
    main_treated,
    placebo_text,
    summarize,
    table_rows,
)

NLL = ("likelihood", "", "nll_token")
PER_CELL = 12  # records of each perturbation and level that the browser shows
MEASURES = (
    ("passage", ("extraction", "prefix={prefix}", "extracted"), "given back word for word", "share"),
    ("testset", ("choice", "format=cloze", "accuracy"), "right answers, cloze", "share"),
    ("testset", ("choice", "format=letters", "accuracy"), "right answers, letters", "share"),
    ("password", ("secret-rank", "", "exposure_bits"), "exposure of secrets", "bits"),
)


def write_report(suite: Suite, workspace: Workspace) -> Path:
    """Write `report/index.html` and `report/figures/`.

    Raises:
        CostarError: nothing was measured yet.
    """
    scores = load_scores(suite, workspace)
    summary = summarize(suite, workspace, scores)
    treated = main_treated(suite, summary) if summary else None
    if summary is None or treated is None:
        raise CostarError(
            str(workspace.eval), found="no measured pair", expected="scores and effects", mend="run `costar eval` first"
        )
    folder = workspace.report / "figures"
    drawn = _figures(suite, scores, summary, folder)
    attacked, _ = read_membership(workspace)
    if roc := draw_roc(suite, scores, summary.perturbation, treated, summary.model, folder):
        drawn["roc"] = roc
    control = suite.arms[treated].control or ""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    facts = corpus_facts(workspace)
    configs = read_configs(workspace)
    shape = next(config["shape"] for config in configs.values() if config["model"] == summary.model)
    columns, rows = table_rows(summary)
    verified = workspace.root / "verified.txt"
    page = environment.get_template("report.html.j2").render(
        suite=suite,
        summary=summary,
        treated=treated,
        control=control,
        headline=headline(suite, summary),
        effect_lines=effect_lines(suite, summary),
        draws=draws_text(suite),
        density=density_text(suite, summary),
        gaps=told_gaps(suite, workspace),
        placebo=placebo_text(summary),
        figures=drawn,
        columns=columns,
        rows=rows,
        effects=_effect_rows(suite, workspace, summary),
        retention=_retention_rows(suite, summary),
        gates=gate_text(attacked),
        membership_columns=MEMBERSHIP_COLUMNS,
        membership=membership_rows(suite, attacked, summary.model),
        built=_built_rows(suite, workspace, facts, shape),
        verified=verified.read_text(encoding="utf-8").strip() if verified.is_file() else "",
        parameters=_parameters(shape),
        data=_embedded(_browser_data(suite, workspace, scores, summary, treated, control)),
    )
    path = workspace.report / "index.html"
    write_text(path, page)
    return path


def _embedded(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _parameters(shape: dict[str, Any]) -> str:
    from ..core.models import ModelShape

    return f"{ModelShape(**shape).parameters / 1e6:.1f} M"


def _figures(suite: Suite, scores: Scores, summary: Summary, folder: Path) -> dict[str, str]:
    palette = colours(suite)
    name = summary.perturbation
    drawn = {}
    points = dose_points(suite, scores, summary.arms, name, NLL)
    figure, (ax,) = new_figure(5.4, 3.5)
    draw_doses(ax, points, palette, summary.levels, "nats per token")
    legend(ax)
    drawn["frequency"] = save_figure(figure, folder, "frequency", points, "Loss against copies")
    points = figures.path_points(suite, scores, summary.arms, name, NLL)
    figure, (ax,) = new_figure(5.4, 3.5)
    draw_path(ax, points, palette, suite, name, f"nats per token, {summary.top} copies")
    legend(ax)
    drawn["timing"] = save_figure(figure, folder, "timing", points, "Loss over training")
    pair = [arm for arm in summary.arms if not suite.arms[arm].inserted or arm == main_treated(suite, summary)]
    others = list(suite.perturbations)
    figure, axes = new_figure(2.9 * len(others), 2.9, len(others))
    every: list[Point] = []
    for ax, other in zip(axes, others):
        points = dose_points(suite, scores, pair, other, NLL)
        draw_doses(
            ax, points, palette, sorted(suite.perturbations[other].levels), "nats per token" if ax is axes[0] else ""
        )
        ax.set_title(other)
        every += points
    legend(axes[0])
    drawn["kinds"] = save_figure(figure, folder, "kinds", every, "Loss against copies by perturbation")
    panels = []
    for kind, (probe, variant, metric), title, unit in MEASURES:
        for design in suite.perturbations.values():
            measure = (probe, variant.format(prefix=summary.prefix), metric)
            points = dose_points(suite, scores, pair, design.name, measure) if design.kind == kind else []
            if points:
                panels.append((f"{design.name}: {title}", unit, sorted(design.levels), points))
    if panels:
        figure, axes = new_figure(2.9 * len(panels), 2.9, len(panels))
        for ax, (title, unit, levels, points) in zip(axes, panels):
            draw_doses(ax, points, palette, levels, unit)
            ax.set_title(title, fontsize=9)
        legend(axes[0])
        drawn["measures"] = save_figure(
            figure, folder, "measures", [p for *_, own in panels for p in own], "Other measures"
        )
    return drawn


def _effect_rows(suite: Suite, workspace: Workspace, summary: Summary) -> list[list[str]]:
    """Effects at the last step, one line each, and all of them as CSV."""
    effects = read_effects(workspace)
    text = csv_text(EFFECTS.names, [[row[name] for name in EFFECTS.names] for row in effects])
    write_text(workspace.report / "figures" / "effects.csv", text)
    rows = []
    places = {name: number for number, name in enumerate([summary.perturbation, *suite.perturbations])}
    kinds = ("total", "timing", "interference", "factor", "direct", "spillover", "displacement", "placebo")
    main = {"likelihood": "nll_token", "extraction": "extracted", "choice": "accuracy", "secret-rank": "exposure_bits"}
    order = list(main)
    shown = [
        row
        for row in effects
        if (row["step"], row["model"], row["metric"]) == (summary.steps, summary.model, main.get(row["probe"]))
    ]

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        measure = (order.index(row["probe"]), row["variant"])
        return kinds.index(row["estimand"]), places[row["perturbation"]], *measure, row["treated"], row["level"]

    for row in sorted(shown, key=place):
        if row["metric"] == "extracted" and row["variant"] != f"prefix={summary.prefix}":
            continue
        p = row["p_adjusted"] if row["p_adjusted"] is not None else row["p_value"]
        pair = row["treated"] + (f" − {row['control']}" if row["control"] else "")
        cells = [
            row["estimand"],
            row["perturbation"],
            row["metric"],
            row["variant"],
            pair,
            str(row["level"]),
            str(row["n"]),
        ]
        rows.append([*cells, interval_text(row), "" if p is None else f"{p:.4f}", row["method"]])
    return rows


def _retention_rows(suite: Suite, summary: Summary) -> list[list[str]]:
    """Acquisition (the effect at the end of the phase) and retention (at the end of training), for arms with a phase."""
    rows = []
    name = summary.perturbation
    for arm in summary.arms:
        design = suite.arms[arm]
        if name not in design.inserted:
            continue
        end = design.phase_end(name)
        for level in summary.levels[1:]:
            acquired = summary.effect("total", "nll_token", level, treated=f"{arm}.", step=end)
            kept = summary.effect("total", "nll_token", level, treated=f"{arm}.")
            rows.append([arm, str(level), str(end), interval_text(acquired), interval_text(kept)])
    return rows


def _built_rows(
    suite: Suite, workspace: Workspace, facts: dict[str, Any], shape: dict[str, Any]
) -> list[tuple[str, str]]:
    differing = read_facts(workspace.corpus / "source.json", ["differs"], mend="run `costar corpus`")
    versions = differing.get("python", "")
    rows = [
        (
            "corpus",
            f"{facts['source']}: {facts['documents']:,} documents, {facts['tokens']:,} tokens, "
            f"vocabulary {facts['vocab_size']:,}",
        ),
        ("tokens", f"sha256 {facts['tokens_sha256']}"),
        ("dropped as contaminated", f"{facts['dropped']:,} documents"),
        (
            "sequences",
            f"{facts['sequences']:,} of {facts['sequence_length']} tokens; a run reads {suite.train.slots:,}",
        ),
        ("model", ", ".join(f"{key} {value}" for key, value in shape.items())),
        ("training", ", ".join(f"{key} {value}" for key, value in vars(suite.train).items())),
        ("seed, draws", f"{suite.seed}, {suite.draws}"),
    ]
    if versions:
        rows.append(("installation", f"Python {versions}, {differing['platform']}"))
    if differing["differs"]:
        rows.append(
            ("not as pinned", f"{', '.join(differing['differs'])}: the corpus differs from that of other machines")
        )
    for arm in suite.arms.values():
        copies = sum(suite.perturbations[name].copies for name in arm.inserted)
        share = copies / arm.train.slots
        rows.append((f"arm {arm.name}", f"{copies:,} copies in {arm.train.slots:,} slots ({share:.1%})"))
    return rows


def _browser_data(
    suite: Suite, workspace: Workspace, scores: Scores, summary: Summary, treated: str, control: str
) -> dict[str, Any]:
    """Tokens and log-probabilities (hundredths of a nat) of some records of each cell, and a line for every record."""
    tokenizer = open_tokenizer(suite.corpus, workspace.corpus)
    records = read_table(workspace.insertion / "records.parquet", mend="run `costar corpus` again").to_pylist()
    sides = [f"{arm}.{summary.model}.d0" for arm in (control, treated)]
    ledgers = [_last_ledger(workspace, run, suite.arms[arm].train.steps) for run, arm in zip(sides, (control, treated))]
    subjects = scores.subjects
    levels = dict(zip(subjects.ids, subjects.levels[(treated, 0)].tolist(), strict=True))
    measured_nll = [scores.by_id(run, summary.steps, NLL) for run in sides]
    cells: dict[tuple[str, int], list[str]] = {}
    table = []
    for record in records:
        if record["role"] != "main":
            continue
        record_id = record["record_id"]
        cells.setdefault((record["perturbation"], levels[record_id]), []).append(record_id)
        values = [found.get(record_id) for found in measured_nll]
        table.append([record_id, record["perturbation"], levels[record_id], record["n_tokens"], *values])
    shown: list[dict[str, Any]] = []
    for (perturbation, level), ids in sorted(
        cells.items(), key=lambda cell: (list(suite.perturbations).index(cell[0][0]), -cell[0][1])
    ):
        measured = [record_id for record_id in ids if all(record_id in ledger for ledger in ledgers)]
        for record_id in sorted(measured, key=lambda r: keyed_hash("browser", r))[:PER_CELL]:
            token_ids, first = ledgers[0][record_id]
            _, second = ledgers[1][record_id]
            shown.append(
                {"id": record_id, "level": level, "kind": perturbation, "t": token_ids, "a": first, "b": second}
            )
    used = sorted({token for each in shown for token in each["t"]})
    texts = {token: tokenizer.decode([token]) for token in used}
    return {"records": shown, "tokens": texts, "table": table, "treated": treated, "control": control}


def _last_ledger(workspace: Workspace, run: str, step: int) -> dict[str, tuple[list[int], list[int]]]:
    """Token ids and rounded log-probabilities of each record's canonical rendering at a run's last step."""
    configs = read_configs(workspace)
    owner = next(s.owner for s in stretches(configs, run) if s.after < step <= s.upto)
    renderings = read_table(workspace.insertion / "renderings.parquet", mend="run `costar corpus` again")
    canonical: dict[str, str] = {}
    for record_id, rendering in zip(
        *(renderings.column(n).to_pylist() for n in ("record_id", "rendering")), strict=True
    ):
        canonical.setdefault(record_id, rendering)
    columns = ("record_id", "rendering", "token_id", "logp", "context")
    table = ledger_in(workspace.ledger(owner, step), columns)
    table = table.filter(pc.and_(pc.equal(table.column("context"), "eos"), pc.is_finite(table.column("logp"))))
    table = table.filter(pc.is_in(table.column("rendering"), value_set=_strings(sorted(set(canonical.values())))))
    found: dict[str, tuple[list[int], list[int]]] = {}
    logp = np.round(table.column("logp").to_numpy() * 100).astype(int).tolist()
    rows = zip(*(table.column(n).to_pylist() for n in columns[:3]), logp, strict=True)
    for record_id, rendering, token_id, value in rows:
        if canonical[record_id] == rendering:
            ids, values = found.setdefault(record_id, ([], []))
            ids.append(token_id)
            values.append(value)
    return found


def _strings(values: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.array(list(values), pa.string())
