"""The scores of a suite as analyses read them: by run and step, of main records, with what is known of the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..core.analysis import Measure
from ..core.design import RunName, Suite
from ..core.parquet import read_table
from ..core.workspace import Workspace
from ..insertion.origins import TWIN
from ..insertion.records import read_records
from ..manifests.catalogue import score_files
from ..manifests.lineage import read_configs, stretches
from .assigned import Codes, Subjects, read_subjects

__all__ = ["Measure", "Scores", "Subjects", "Values", "load_scores"]

TWINS = "role=twin"  # ends the variant of what was measured of twins
ANY_TEXT = "^(format|site)="  # variants that say themselves which text was measured
KEYS = ("step", "probe", "variant", "metric", "twin")


@dataclass(frozen=True, kw_only=True)
class Values:
    """One measure of one run at one step: `rows` [n] of `Subjects`, ascending, and their `values` [n], all finite."""

    rows: Codes
    values: NDArray[np.float64]

    def at(self, rows: Codes) -> NDArray[np.float64]:
        """The values of some rows [n], NaN where there is none."""
        if not len(self.rows):
            return np.full(len(rows), np.nan)
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[places] == rows, self.values[places], np.nan)


NOTHING = Values(rows=np.zeros(0, np.int64), values=np.zeros(0))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """run → step → measure → values, and the records that they are of. A begun run without checkpoints has no steps."""

    values: Mapping[str, Mapping[int, Mapping[Measure, Values]]]
    subjects: Subjects

    def steps(self, run: str) -> list[int]:
        """The steps at which anything was measured of a run."""
        return sorted(self.values.get(run, {}))

    def of(self, run: str, step: int, measure: Measure) -> Values:
        """What was measured, which may be nothing."""
        return self.values.get(run, {}).get(step, {}).get(measure, NOTHING)

    def by_id(self, run: str, step: int, measure: Measure) -> dict[str, float]:
        """What was measured, record → value."""
        found, ids = self.of(run, step, measure), self.subjects.ids
        return {ids[row]: value for row, value in zip(found.rows.tolist(), found.values.tolist(), strict=True)}

    def levels_of(self, run: str) -> Codes:
        """The level [N] of every record in the arm and draw of a run."""
        name = RunName.parse(run)
        return self.subjects.levels[(name.arm, name.draw)]

    def cells_of(self, run: str) -> Codes:
        """The combination of factors [N] of every record in the arm and draw of a run, 0 where none is randomized."""
        name = RunName.parse(run)
        found = self.subjects.cells.get((name.arm, name.draw))
        return np.zeros(len(self.subjects.ids), np.int64) if found is None else found


def load_scores(suite: Suite, workspace: Workspace) -> Scores:
    """Every score in the canonical rendering, by format or in place; inherited ones with each heir.

    The scores of a twin are measures of its main record, so that they are read by the main's level: their variant ends
    with `role=twin`. What is no number is no score.
    """
    records, renderings = read_records(workspace.insertion)
    subjects = read_subjects(suite, workspace, records)
    kept = _Kept.of(subjects, records, renderings)
    configs = read_configs(workspace)
    raw: dict[str, dict[int, dict[Measure, Values]]] = {}
    for run in configs:
        own: dict[int, dict[Measure, Values]] = {}
        for path in score_files(workspace, run):
            for step, measure, values in kept.scores(read_table(path, mend="run `costar eval` again")):
                own.setdefault(step, {})[measure] = values
        raw[run] = own
    found: dict[str, dict[int, dict[Measure, Values]]] = {run: {} for run in configs}
    for run in configs:
        for stretch in stretches(configs, run):
            for step, measures in raw[stretch.owner].items():
                if stretch.after < step <= stretch.upto:
                    found[run][step] = measures
    return Scores(values=found, subjects=subjects)


@dataclass(frozen=True)
class _Kept:
    """Which scores are analysed: those of main records and their twins in their canonical texts, by format or in place."""

    ids: pa.Array  # [2N] of the main records, then of what would be their twins
    renderings: pa.Array  # [K]
    canonical: NDArray[np.bool_]  # [2N, K]
    seen: dict[bytes, Codes]  # rows as bytes → one array of them: most measures are of the same records

    @classmethod
    def of(cls, subjects: Subjects, records: pa.Table, renderings: pa.Table) -> _Kept:
        ids = pa.array([*subjects.ids, *(name + TWIN for name in subjects.ids)], pa.string())
        names = pc.unique(renderings.column("rendering"))
        texts = _pairs(records.column("record_id"), records.column("text"))
        written = pc.is_in(_pairs(renderings.column("record_id"), renderings.column("text")), texts)
        shown = renderings.filter(pc.and_(written, pc.is_in(renderings.column("record_id"), ids)))
        canonical = np.zeros((len(ids), len(names)), bool)
        places = (_places(shown.column(name), among) for name, among in (("record_id", ids), ("rendering", names)))
        canonical[tuple(places)] = True
        return cls(ids, names, canonical, {})

    def scores(self, table: pa.Table) -> Iterator[tuple[int, Measure, Values]]:
        """(step, measure, values) of a table of scores. Of two scores of one text the last counts."""
        record, rendering = (
            _places(table.column(name), among)
            for name, among in (("record_id", self.ids), ("rendering", self.renderings))
        )
        value = table.column("value").to_numpy()
        shown = (record >= 0) & np.isfinite(value)
        any_text = pc.match_substring_regex(table.column("variant").combine_chunks(), ANY_TEXT)
        shown &= ((rendering >= 0) & self.canonical[record, rendering]) | any_text.to_numpy(zero_copy_only=False)
        record, value = record[shown], value[shown]
        row, twin = record % (len(self.ids) // 2), record >= len(self.ids) // 2
        coded = [table.column(name).combine_chunks().filter(pa.array(shown)).dictionary_encode() for name in KEYS[:-1]]
        code = twin.astype(np.int64)
        for each in coded:
            code = code * max(len(each.dictionary), 1) + each.indices.to_numpy()
        order = np.lexsort((row, code))
        code, row, value = code[order], row[order], value[order]
        last = np.append((code[1:] != code[:-1]) | (row[1:] != row[:-1]), True)[: len(row)]
        code, row, value, order = code[last], row[last], value[last], order[last]
        starts = np.flatnonzero(np.diff(code, prepend=-1))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(code)], strict=False):
            step, probe, variant, metric = (each[order[start].item()].as_py() for each in coded)
            if twin[order[start]]:
                variant = ",".join(part for part in (variant, TWINS) if part)
            rows = row[start:stop].copy()
            rows = self.seen.setdefault(rows.tobytes(), rows)
            yield step, (probe, variant, metric), Values(rows=rows, values=value[start:stop].copy())


def _places(column: pa.ChunkedArray, among: pa.Array) -> Codes:
    """The place of each text among others, −1 where it is not there."""
    coded = column.combine_chunks().dictionary_encode()
    places = pc.index_in(coded.dictionary, among).fill_null(-1).to_numpy().astype(np.int64)
    found: Codes = places[coded.indices.to_numpy()] if len(coded) else np.zeros(0, np.int64)
    return found


def _pairs(a: pa.ChunkedArray, b: pa.ChunkedArray) -> pa.ChunkedArray:
    """One text of every two; a line break parts them, which no record id has."""
    return pc.binary_join_element_wise(a, b, "\n")
