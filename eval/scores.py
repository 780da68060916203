"""The scores of a suite as analyses read them: by run and step, of main records, with what is known of the records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ..core.design import RunName, Suite
from ..core.parquet import read_table
from ..core.workspace import Workspace
from ..insertion.origins import TWIN
from ..insertion.records import read_records
from ..manifests.catalogue import score_files
from ..manifests.lineage import read_configs, stretches
from .assigned import ArmDraw, read_assigned

Measure = tuple[str, str, str]  # probe, variant, metric
TWINS = "role=twin"  # ends the variant of what was measured of twins
ANY_TEXT = "^(format|site)="  # variants that say themselves which text was measured


@dataclass(frozen=True)
class Scores:
    """Scores: run → step → measure → main record → value; and what is known of the records."""

    values: dict[str, dict[int, dict[Measure, dict[str, float]]]]
    perturbation: dict[str, str]
    cluster: dict[str, str]
    stratum: dict[str, str]
    levels: Mapping[ArmDraw, dict[str, int]]

    def levels_of(self, run: str) -> dict[str, int]:
        """The level of every record in the arm and draw of a run."""
        name = RunName.parse(run)
        return self.levels[(name.arm, name.draw)]

    def steps(self, run: str) -> list[int]:
        return sorted(self.values.get(run, {}))


def load_scores(suite: Suite, workspace: Workspace) -> Scores:
    """Every score in the canonical rendering, by format or in place; inherited ones with each heir.

    The scores of a twin are measures of its main record, so that they are read by the main's level: their variant ends
    with `role=twin`.
    """
    records, renderings = read_records(workspace.insertion)
    mains = records.filter(pc.equal(records.column("role"), "main"))
    kept = _Kept.of(records, renderings)
    configs = read_configs(workspace)
    raw: dict[str, dict[int, dict[Measure, dict[str, float]]]] = {}
    for run in configs:
        raw[run] = defaultdict(lambda: defaultdict(dict))
        for path in score_files(workspace, run):
            for step, measure, values in kept.scores(read_table(path, mend="run `costar eval` again")):
                raw[run][step][measure] |= values
    found: dict[str, dict[int, dict[Measure, dict[str, float]]]] = {run: {} for run in configs}
    for run in configs:
        for stretch in stretches(configs, run):
            for step, measures in raw[stretch.owner].items():
                if stretch.after < step <= stretch.upto:
                    found[run][step] = dict(measures)
    return Scores(
        values=found,
        perturbation=dict(zip(kept.mains, mains.column("perturbation").to_pylist(), strict=True)),
        cluster=dict(zip(kept.mains, mains.column("cluster_id").to_pylist(), strict=True)),
        stratum=dict(zip(kept.mains, mains.column("stratum").to_pylist(), strict=True)),
        levels=read_assigned(workspace).levels,
    )


@dataclass(frozen=True)
class _Kept:
    """Which scores are analysed: those of main records and their twins in their canonical texts, by format or in place."""

    mains: list[str]
    canonical: pa.Array  # (record, rendering)

    @classmethod
    def of(cls, records: pa.Table, renderings: pa.Table) -> _Kept:
        texts = _pairs(records.column("record_id"), records.column("text"))
        written = pc.is_in(_pairs(renderings.column("record_id"), renderings.column("text")), texts)
        canonical = renderings.filter(written)
        mains = records.filter(pc.equal(records.column("role"), "main")).column("record_id").to_pylist()
        return cls(mains, _pairs(canonical.column("record_id"), canonical.column("rendering")).combine_chunks())

    def scores(self, table: pa.Table) -> Iterator[tuple[int, Measure, dict[str, float]]]:
        """(step, measure, main record → value) of a table of scores."""
        pairs = _pairs(table.column("record_id"), table.column("rendering"))
        shown = pc.or_(pc.is_in(pairs, self.canonical), pc.match_substring_regex(table.column("variant"), ANY_TEXT))
        main = pc.replace_substring_regex(table.column("record_id"), f"{TWIN}$", "")
        keys = ("step", "probe", "variant", "metric", "twin")
        table = table.append_column("twin", pc.ends_with(table.column("record_id"), TWIN))
        table = table.append_column("main", pc.index_in(main, pa.array(self.mains)))
        table = table.filter(pc.and_(shown, pc.is_valid(table.column("main")))).select([*keys, "main", "value"])
        grouped = table.group_by(keys, use_threads=False).aggregate([("main", "list"), ("value", "list")])
        for row in grouped.to_pylist():
            variant = ",".join(part for part in (row["variant"], TWINS if row["twin"] else "") if part)
            names = (self.mains[place] for place in row["main_list"])
            yield row["step"], (row["probe"], variant, row["metric"]), dict(zip(names, row["value_list"], strict=True))


def _pairs(a: pa.ChunkedArray, b: pa.ChunkedArray) -> pa.ChunkedArray:
    """One text of every two; a line break parts them, which no record id has."""
    return pc.binary_join_element_wise(a, b, "\n")
