"""What the report asks of the manifest: means by level, effects, fits, and which measures and pairs are shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb

from ..core.analysis import NLL, Measure, measure_text
from ..core.design import ArmDesign, Suite
from ..core.errors import CostarError, shorten
from ..core.metrics import metric_of
from ..core.workspace import Workspace
from ..manifests.sql import open_manifest
from .analyses import require_analyses

Row = dict[str, Any]

# What is shown beside the primary measure where it was measured: probe, metric, the form of the variant, title, unit.
FURTHER = (
    ("likelihood", "nll_token", r"", "loss", "nats per token"),
    ("extraction", "extracted", r"prefix={prefix}", "given back word for word after {prefix} tokens", "share"),
    ("verbatim", "rouge_l", r"prefix={prefix}", "overlap of the continuation (ROUGE-L)", "share"),
    ("attributes", "extracted", r"attribute=all", "attributes given back", "share"),
    ("pii-choice", "accuracy", r"prompt=name,attribute=\w+", "right attribute among wrong ones", "share"),
    ("persona", "accuracy", r"ask=\w+,prompt=asked", "right answer about a person", "share"),
    ("paraphrase", "accuracy", r"", "inserted wording preferred", "share"),
    ("choice", "accuracy", r"format=cloze", "right answers, cloze", "share"),
    ("choice", "accuracy", r"format=letters", "right answers, letters", "share"),
    ("infill", "accuracy", r"format=\w+", "right word filled in", "share"),
    ("answer", "accuracy", r"", "right answer preferred", "share"),
    ("secret-rank", "exposure_bits", r"", "exposure", "bits"),
)
MOST_FURTHER = 3  # panels of a perturbation beside that of its primary measure
POOLED = """
create temp view shown_effects as
with named as (
    select *, regexp_replace(treated, '[.][^.]+([.]d[0-9]+)?$', '') as treated_arm,
           regexp_replace(treated, '[.]d[0-9]+$', '') as together
    from effects
),
whole as (select distinct estimand, perturbation, treated as together from effects where n_runs > 1)
select * exclude (together) from named e
where not (e.n_runs = 1 and exists (
    select 1 from whole w
    where w.estimand = e.estimand and w.perturbation = e.perturbation and w.together = e.together
))
"""
CELLS = """
create temp table cells as
select s.arm, s.model, s.step, s.perturbation, s.level, s.probe, s.variant, s.metric,
       count(*) as n, count(distinct s.draw) as draws, avg(s.value) as mean
from record_scores s
join wanted w on w.perturbation = s.perturbation and w.probe = s.probe and w.variant = s.variant and w.metric = s.metric
where s.role = 'main' and isfinite(s.value)
group by all
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A suite and its opened manifest. `measures` are those shown of each perturbation, the primary one first; `last` is
    the last measured step of each arm and model that has any."""

    suite: Suite
    connection: duckdb.DuckDBPyConnection
    measures: dict[str, list[Measure]]
    last: dict[tuple[str, str], int]

    @property
    def model(self) -> str:
        """The model that the figures show where they show one."""
        return self.suite.models[0]

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return rows(self.connection, query, parameters)

    def arms_of(self, perturbation: str) -> list[ArmDesign]:
        """The arms that insert a perturbation, have a control, and were measured with it in the main model."""
        return [
            arm
            for arm in self.suite.arms.values()
            if perturbation in arm.inserted
            and (arm.name, self.model) in self.last
            and (arm.control or "", self.model) in self.last
        ]

    def main_arm(self, perturbation: str) -> ArmDesign | None:
        """The arm that is set against its control first: one whose copies may fall anywhere, all alike, if there is one."""
        arms = self.arms_of(perturbation)
        return next((arm for arm in arms if is_plain(arm, perturbation)), arms[0] if arms else None)

    def side(self, label: str) -> tuple[str, str]:
        """Arm and model of a label of effects."""
        found = re.fullmatch(r"(.+)\.([^.]+)\.d\d+", label)
        if found and found[1] in self.suite.arms:
            return found[1], found[2]
        arm, model = label.rsplit(".", 1)
        return arm, model


def is_plain(arm: ArmDesign, perturbation: str) -> bool:
    """Whether an arm inserts a perturbation over the whole run, every record in the same way."""
    return arm.span(perturbation) == (0, arm.train.slots) and len(arm.factors[perturbation]) == 1


def rows(connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[Any] = ()) -> list[Row]:
    """The rows of a query as dictionaries.

    Raises:
        CostarError: the manifest lacks a table or column: another version wrote it.
    """
    try:
        cursor = connection.execute(query, list(parameters))
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    except duckdb.CatalogException as error:
        raise _outdated(error) from None
    except duckdb.BinderException as error:
        raise _outdated(error) from None


def _outdated(error: duckdb.Error) -> CostarError:
    return CostarError(
        "manifest.duckdb",
        found=shorten(error),
        expected="the tables of this version",
        mend="rebuild it: costar manifest",
    )


@contextmanager
def opened(suite: Suite, workspace: Workspace) -> Iterator[Measured]:
    """The manifest, with the means by level of every measure that is shown in the temporary table `cells` and the effects
    over all draws in the view `shown_effects`. One thread: sums have an order, so equal numbers give an equal page.

    Raises:
        CostarError: there are no effects, or not those computed, or the manifest is missing or of another version.
    """
    require_analyses(workspace)
    with closing(open_manifest(workspace)) as connection:
        connection.execute("set enable_progress_bar = false")
        connection.execute("set python_enable_replacements = false")  # a table that is missing is no Python name
        connection.execute("set threads = 1")
        connection.execute("set preserve_insertion_order = true")
        rows(connection, POOLED)
        measures = _shown_measures(suite, connection)
        connection.execute(
            "create temp table wanted (perturbation varchar, probe varchar, variant varchar, metric varchar)"
        )
        wanted = [[name, *measure] for name, own in measures.items() for measure in own]
        if wanted:
            connection.executemany("insert into wanted values (?, ?, ?, ?)", wanted)
        rows(connection, CELLS)
        found = rows(connection, "select arm, model, max(step) as step from cells group by all order by all")
        last = {(row["arm"], row["model"]): row["step"] for row in found if row["arm"] in suite.arms}
        yield Measured(suite=suite, connection=connection, measures=measures, last=last)


def _shown_measures(suite: Suite, connection: duckdb.DuckDBPyConnection) -> dict[str, list[Measure]]:
    """The primary measure of each perturbation, then the further ones of which there are scores, in the order of FURTHER."""
    query = (
        "select distinct r.perturbation, s.probe, s.variant, s.metric from scores s join records r using (record_id) "
        "where s.metric in (select unnest(?)) and r.role = 'main' order by all"
    )
    metrics = sorted({metric for _, metric, *_ in FURTHER})
    present: dict[str, list[Measure]] = {}
    for row in rows(connection, query, [metrics]):
        present.setdefault(row["perturbation"], []).append((row["probe"], row["variant"], row["metric"]))
    found = {}
    for name in suite.perturbations:
        primary = suite.eval.analysis.primary.get(name, NLL)
        own = [
            measure
            for probe, metric, form, *_ in FURTHER
            for measure in present.get(name, [])
            if (measure[0], measure[2]) == (probe, metric)
            and re.fullmatch(form.format(prefix=shown_prefix(suite)) if "{prefix}" in form else form, measure[1])
        ]
        further = [measure for measure in own if measure != primary]
        if primary != NLL and NLL in further and len(further) > MOST_FURTHER:
            further = [NLL, *[measure for measure in further if measure != NLL]]
        found[name] = [primary, *further[:MOST_FURTHER]]
    return found


def shown_prefix(suite: Suite) -> int:
    """The prefix whose extraction is shown: 16 if measured, else the middle one."""
    prefixes = sorted(suite.eval.prefixes)
    return 16 if 16 in prefixes else prefixes[len(prefixes) // 2]


def measure_title(suite: Suite, measure: Measure) -> tuple[str, str]:
    """What a measure is called on the page, and its unit."""
    probe, variant, metric = measure
    for own, name, form, title, unit in FURTHER:
        if (own, name) == (probe, metric):
            rest = "" if "{prefix}" in form or "," not in variant else f" ({variant})"
            return title.format(prefix=shown_prefix(suite)) + rest, unit
    if metric == "margin":
        return f"margin of the right answer{', ' + variant.removeprefix('format=') if variant else ''}", "nats"
    return measure_text(measure), metric_of(metric).unit


def means(measured: Measured, perturbation: str, measure: Measure, where: str, *parameters: Any) -> list[Row]:
    """Cells of one perturbation and measure for which a condition holds, in order."""
    query = (
        "select arm, model, step, level, n, draws, mean from cells where perturbation = ? and probe = ? and variant = ? "
        f"and metric = ? and {where} order by arm, model, step, level"
    )
    return measured.rows(query, [perturbation, *measure, *parameters])


def effects(measured: Measured, perturbation: str, measure: Measure, where: str, *parameters: Any) -> list[Row]:
    """Effects over all draws on one perturbation by one measure for which a condition holds, in order."""
    query = (
        "from shown_effects where perturbation = ? and probe = ? and variant = ? and metric = ? "
        f"and {where} order by estimand, treated, control, factor, level, step"
    )
    return measured.rows(query, [perturbation, *measure, *parameters])


def direct_or_total(rows: Sequence[Row]) -> str:
    """The estimand that is shown of some effects: `direct` where there is any, as it is without what held-out records gained."""
    return "direct" if any(row["estimand"] == "direct" for row in rows) else "total"


def n_text(rows: Sequence[Row]) -> str:
    """'36', or '36 to 120', of the numbers of records `n` of some rows."""
    ns = sorted({row["n"] for row in rows})
    return f"{ns[0]:,}" if len(ns) == 1 else f"{ns[0]:,} to {ns[-1]:,}"


def pair_text(measured: Measured, row: Row) -> str:
    """'perturbed − standard': what an effect compares, with the model where the suite has several."""
    sides = [row["treated"], *([row["control"]] if row["control"] and row["control"] != row["treated"] else [])]
    models = {run for (_, run) in measured.last}
    return " − ".join(measured.side(side)[0] if len(models) == 1 else side for side in sides)
