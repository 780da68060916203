"""The step of `costar insert`: assignments, placements and exposures of every arm and draw."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..core.design import ArmDesign, Suite, plain
from ..core.errors import CostarError, StaleRuns
from ..core.hashing import sha256_json
from ..core.parquet import write_rows, write_table
from ..core.workspace import Workspace, check_files, corpus_facts, finish_step, is_current, start_step
from ..corpus.build import MEND, open_store
from ..manifests.tables import ASSIGNMENTS, BALANCE, EXPOSURES
from .kinds import load_kind
from .levels import Cluster, assign_levels
from .order import Order
from .overlay import Edits, exposures_path, read_edits
from .placement import Roster, check_suite, place, position_target, rosters_key, suite_roster
from .records import check_length, read_records
from .splice import find_spans

CHUNK = 8192


def build_insertion(suite: Suite, workspace: Workspace, protected: Sequence[tuple[str, str, int, str]]) -> bool:
    """Make assignments, balance and exposures; False when they were current.

    `protected` lists trained runs as (run, arm, draw, hash of the edits they read): when the new exposures differ from
    what a run was trained on, nothing is replaced and the runs are named.
    """
    check_suite(suite)
    folder = workspace.insertion
    inputs = insertion_inputs(suite, workspace)
    if is_current(folder, inputs, "insert"):
        return False
    records, renderings = read_records(folder)
    store = open_store(workspace.corpus)
    eos = corpus_facts(workspace)["eos_id"]
    builder = _Builder(suite, records, renderings, store.tokens, store.sequences(suite.corpus.sequence_length), eos)
    tables = {
        (arm.name, draw): builder.exposures(arm, draw) for arm in suite.arms.values() for draw in range(arm.draws)
    }
    edits = {key: read_edits(table, renderings, eos) for key, table in tables.items()}
    _refuse_change(edits, protected)
    start_step(folder, "insert")
    shutil.rmtree(folder / "exposures", ignore_errors=True)
    paths = [write_table(exposures_path(workspace, arm, draw), table) for (arm, draw), table in tables.items()]
    paths.append(write_rows(folder / "assignments.parquet", ASSIGNMENTS, builder.assignment_rows()))
    paths.append(write_rows(folder / "balance.parquet", BALANCE, builder.balance_rows()))
    finish_step(folder, inputs, paths, "insert")
    return True


def insertion_inputs(suite: Suite, workspace: Workspace) -> str:
    """The hash of everything that the exposures depend on."""
    tokens = check_files(workspace.corpus, "tokens", mend=MEND)["files"]
    records = check_files(workspace.insertion, "records", mend=MEND)["files"]
    skipped = ("train", "models", "control")
    arms = [plain({k: v for k, v in vars(arm).items() if k not in skipped}) for arm in suite.arms.values()]
    sizes = [(arm.train.steps, arm.train.batch) for arm in suite.arms.values()]
    levels = [plain(p.levels) for p in suite.perturbations.values()]
    return sha256_json([suite.seed, tokens["tokens.bin"]["sha256"], records, arms, sizes, levels])


def insertion_is_current(suite: Suite, workspace: Workspace) -> bool:
    """Whether the exposures were made from this state of the suite."""
    return is_current(workspace.insertion, insertion_inputs(suite, workspace), "insert")


def require_insertion(suite: Suite, workspace: Workspace) -> None:
    """Stop when an earlier stage is missing, damaged, or older than the suite.

    Raises:
        CostarError: the verb to run first, and the file that is wrong.
    """
    stages = (
        ("corpus", workspace.corpus, "tokens"),
        ("corpus", workspace.insertion, "records"),
        ("insert", workspace.insertion, "insert"),
    )
    for verb, folder, step in stages:
        check_files(folder, step, mend=f"run `costar {verb} {suite.name}` first")
    if not insertion_is_current(suite, workspace):
        raise CostarError(
            str(workspace.insertion),
            found="exposures of another state of the suite, or damaged ones",
            expected="those of this suite file",
            mend=f"run `costar insert {suite.name}` first",
        )


def _refuse_change(edits: dict[tuple[str, int], Edits], protected: Sequence[tuple[str, str, int, str]]) -> None:
    stale = [run for run, arm, draw, read in protected if (arm, draw) in edits and edits[(arm, draw)].sha256() != read]
    if stale:
        raise StaleRuns("insertion", found="other exposures than before", runs=stale)


class _Builder:
    """Holds the record columns and the placements that arms share."""

    def __init__(
        self, suite: Suite, records: pa.Table, renderings: pa.Table, tokens: NDArray[Any], size: int, eos: int
    ):
        self.suite, self.tokens, self.size, self.eos = suite, tokens, size, eos
        self.columns: dict[str, list[Any]] = {name: records.column(name).to_pylist() for name in records.column_names}
        self.main = [i for i, role in enumerate(self.columns["role"]) if role == "main"]
        keys = zip(renderings.column("record_id").to_pylist(), renderings.column("rendering").to_pylist(), strict=True)
        self.lengths = dict(zip(keys, renderings.column("n_tokens").to_pylist(), strict=True))
        self._levels: dict[int, dict[str, int]] = {}
        self._placements: dict[Any, tuple[Roster, NDArray[np.int64], NDArray[np.int64]]] = {}

    def levels(self, draw: int) -> dict[str, int]:
        """The level of every main record in a draw, the same in every arm."""
        if draw not in self._levels:
            levels: dict[str, int] = {}
            for name, design in self.suite.perturbations.items():
                members = [i for i in self.main if self.columns["perturbation"][i] == name]
                clusters: dict[str, list[int]] = {}
                for i in members:
                    clusters.setdefault(self.columns["cluster_id"][i], []).append(i)
                listed = [
                    Cluster(name=cluster, stratum=self.columns["stratum"][ids[0]], size=len(ids))
                    for cluster, ids in clusters.items()
                ]
                key = (self.suite.seed, draw, name)
                assigned = assign_levels(listed, design.levels, key=key, place=f"[perturbation.{name}] levels")
                levels |= {self.columns["record_id"][i]: assigned[c] for c, ids in clusters.items() for i in ids}
            self._levels[draw] = levels
        return self._levels[draw]

    def placement(self, arm: ArmDesign, draw: int) -> tuple[Roster, NDArray[np.int64], NDArray[np.int64]]:
        key = (draw, rosters_key(arm))
        if key not in self._placements:
            mains = [(self.columns["record_id"][i], self.columns["perturbation"][i]) for i in self.main]
            roster = suite_roster(self.suite, arm, draw, mains, self.levels(draw))
            self._placements[key] = (roster, *place(roster, arm.train.slots))
        return self._placements[key]

    def exposures(self, arm: ArmDesign, draw: int) -> pa.Table:
        """The exposures of an arm: its selection from the roster, spliced into its sequences, sorted by slot."""
        if not arm.inserted:
            return EXPOSURES.empty_table()
        roster, slots, attempts = self.placement(arm, draw)
        names = np.array([self.columns["perturbation"][i] for i in self.main], dtype=object)
        selected = np.isin(names[roster.record], list(arm.inserted)) if len(roster.record) else np.zeros(0, bool)
        chosen = np.flatnonzero(selected)
        chosen = chosen[np.argsort(slots[chosen], kind="stable")]
        ids = [self.columns["record_id"][self.main[r]] for r in roster.record[chosen]]
        rendering = [arm.renderings[name] or self._canonical(name) for name in names[roster.record[chosen]]]
        lengths = np.array([self.lengths[key] for key in zip(ids, rendering)], np.int64)
        for longest in np.flatnonzero(lengths == lengths.max(initial=0))[:1]:
            place_name = f"[arm.{arm.name}] {ids[longest]}, rendering {rendering[longest]}"
            check_length(int(lengths[longest]), self.suite.corpus.sequence_length, place_name)
        slot = slots[chosen]
        order = Order(seed=self.suite.seed, draw=draw, size=self.size)
        sequence = order.sequences(slot)
        position = np.array([arm.positions[name] for name in names[roster.record[chosen]]], object)
        spans = self._spans(sequence, lengths, roster.key[chosen], position)
        batch = arm.train.batch
        count = len(chosen)
        return (
            pa.table(
                {
                    "arm": [arm.name] * count,
                    "draw": [draw] * count,
                    "record_id": ids,
                    "copy": roster.copy[chosen].astype(np.int32),
                    "rendering": rendering,
                    "slot": slot,
                    "sequence": sequence,
                    "step": (slot // batch).astype(np.int32),
                    "row": (slot % batch).astype(np.int32),
                    **{name: column for name, column in spans.items() if name != "begin"},
                    "length": lengths.astype(np.int32),
                    "attempt": attempts[chosen].astype(np.int32),
                }
            )
            .select(EXPOSURES.names)
            .cast(EXPOSURES)
        )

    def _spans(
        self,
        sequence: NDArray[np.int64],
        lengths: NDArray[np.int64],
        key: NDArray[np.uint64],
        position: NDArray[np.object_],
    ) -> dict[str, Any]:
        length = self.suite.corpus.sequence_length
        targets = position_target(key, length - 1 - lengths, position)
        stride = np.arange(length + 1)
        columns: dict[str, list[NDArray[Any]]] = {"start": [], "displaced": [], "at_boundary": []}
        for first in range(0, max(len(sequence), 1), CHUNK):
            part = slice(first, first + CHUNK)
            windows = self.tokens[sequence[part, None] * length + stride]
            spans = find_spans(windows, lengths[part], targets[part], self.eos)
            for name, column in columns.items():
                column.append(getattr(spans, name))
        types = {"start": np.int32, "displaced": np.int32, "at_boundary": bool}
        return {name: np.concatenate(parts).astype(types[name]) for name, parts in columns.items()}

    def _canonical(self, perturbation: str) -> str:
        kind = load_kind(self.suite.perturbations[perturbation].kind, place=f"[perturbation.{perturbation}] kind")
        return kind.RENDERINGS[0]

    def assignment_rows(self) -> list[dict[str, Any]]:
        rows = []
        for arm in self.suite.arms.values():
            for draw in range(arm.draws):
                levels = self.levels(draw)
                for i, record_id in enumerate(self.columns["record_id"]):
                    level = levels.get(record_id, 0)
                    member = level > 0 and self.columns["perturbation"][i] in arm.inserted
                    split = "member" if member else "nonmember"
                    rows.append({"arm": arm.name, "draw": draw, "record_id": record_id, "level": level, "split": split})
        return rows

    def balance_rows(self) -> list[dict[str, Any]]:
        """Per cell: how many records, and how far their mean length is from the held-out ones, in standard deviations."""
        rows = []
        for draw in range(max(arm.draws for arm in self.suite.arms.values())):
            levels = self.levels(draw)
            for name in self.suite.perturbations:
                members = [i for i in self.main if self.columns["perturbation"][i] == name]
                for stratum in sorted({self.columns["stratum"][i] for i in members}):
                    cell = [i for i in members if self.columns["stratum"][i] == stratum]
                    spread = float(np.std([self.columns["n_tokens"][i] for i in cell]))
                    means: dict[int, float] = {}
                    for level in sorted({levels[self.columns["record_id"][i]] for i in cell}):
                        ids = [i for i in cell if levels[self.columns["record_id"][i]] == level]
                        means[level] = float(np.mean([self.columns["n_tokens"][i] for i in ids]))
                        difference = (means[level] - means[0]) / spread if 0 in means and spread > 0 else 0.0
                        rows.append(
                            {
                                "perturbation": name,
                                "draw": draw,
                                "stratum": stratum,
                                "level": level,
                                "records": len(ids),
                                "clusters": len({self.columns["cluster_id"][i] for i in ids}),
                                "mean_tokens": means[level],
                                "std_difference": difference,
                            }
                        )
        return rows
