"""The step of `costar insert`: assignments, placements and exposures of every arm and draw."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..core.console import Update
from ..core.design import ArmDesign, Suite, plain
from ..core.errors import CostarError, StaleRuns
from ..core.hashing import sha256_json
from ..core.parquet import read_table, write_rows, write_table
from ..core.workspace import (
    Workspace,
    changed_files,
    check_files,
    corpus_facts,
    finish_step,
    is_current,
    start_step,
    work_folder,
)
from ..corpus.contamination import refuse_found, require_search
from ..corpus.reading import MEND, open_store
from ..corpus.windows import TableWindows, Windows, open_windows
from ..manifests.tables import BALANCE, EXPOSURES, FILLERS
from .assignment import Assigner, repeated
from .fillers import FillerShelf
from .order import make_order, table_ends
from .overlay import read_edits, read_exposures
from .placement import Roster, check_load, check_suite, place, position_target
from .records import check_length, read_records
from .renderings import Texts, base_name, rendering_index
from .splice import find_spans

CHUNK = 1 << 19
THREADS = 2


def build_insertion(
    suite: Suite,
    workspace: Workspace,
    protected: Sequence[tuple[str, str, int, str]],
    folders: Sequence[Path] = (),
    progress: Update = lambda share, remark: None,
) -> bool:
    """Make assignments, balance, fillers and exposures; False when they were current.

    `protected` lists trained runs as (run, arm, draw, hash of the edits they read): when the new exposures differ from
    what a run was trained on, nothing is replaced and the runs are named. `folders` are where the files of records lie.
    """
    check_suite(suite)
    folder = workspace.insertion
    inputs = insertion_inputs(suite, workspace)
    require_search(suite, workspace.corpus, folder)
    if is_current(folder, inputs, "insert"):
        return False
    records, renderings = read_records(folder)
    windows = open_windows(workspace.corpus, suite.corpus.sequence_length, open_store(workspace.corpus))
    _check_budgets(suite, windows)
    planner = Planner(suite, records, renderings, windows)
    shelf = FillerShelf(suite, workspace, folders, records)
    arms = [(arm, draw) for draw in range(_draws(suite)) for arm in suite.arms.values() if draw < arm.draws]
    eos = corpus_facts(workspace)["eos_id"]
    with work_folder(folder) as work:
        exposures = {}
        for number, (arm, draw) in enumerate(arms):
            progress(number / len(arms), f"{arm.name}, draw {draw}")
            exposures[(arm.name, draw)] = work / f"arm={arm.name}" / f"draw={draw}" / "exposures.parquet"
            table = planner.exposures(arm, draw)
            if arm.filler != "none":
                table = shelf.fill(arm, draw, table)
            write_table(exposures[(arm.name, draw)], table)
        left_over = _left_over(workspace, protected, exposures, work)
        exposures |= left_over
        refuse_found(windows, shelf.kin())
        fillers = pa.concat_tables([shelf.table(), _left_over_fillers(folder, list(left_over.values()))])
        texts = pa.concat_tables(
            [part.select(["record_id", "rendering", "token_ids"]) for part in (renderings, fillers)]
        )
        _refuse_change(exposures, texts, eos, protected)
        start_step(folder, "insert")
        paths = _replace_exposures(folder, work, list(exposures.values()))
    paths.append(write_table(folder / "fillers.parquet", fillers))
    tables = [planner.assigner.table(arm, draw) for arm in suite.arms.values() for draw in range(arm.draws)]
    paths.append(write_table(folder / "assignments.parquet", pa.concat_tables(tables)))
    balance = [row for draw in range(_draws(suite)) for row in planner.assigner.balance(draw)]
    paths.append(write_rows(folder / "balance.parquet", BALANCE, balance))
    finish_step(folder, inputs, paths, "insert")
    return True


def _check_budgets(suite: Suite, windows: Windows) -> None:
    """Order tables hold one pass: a longer budget is refused before any work."""
    for arm in suite.arms.values():
        if isinstance(windows, TableWindows) and arm.train.slots > windows.size:
            raise table_ends(f"{arm.train.slots:,} slots of arm {arm.name}", windows.size)


def _left_over(
    workspace: Workspace,
    protected: Sequence[tuple[str, str, int, str]],
    exposures: Mapping[tuple[str, int], Path],
    work: Path,
) -> dict[tuple[str, int], Path]:
    """The exposures of trained runs whose arm is no longer in the suite, kept as they are."""
    kept = {}
    for _, arm, draw, _ in protected:
        old = workspace.exposures(arm, draw) / "exposures.parquet"
        if (arm, draw) not in exposures and old.is_file():
            kept[(arm, draw)] = work / f"arm={arm}" / f"draw={draw}" / "exposures.parquet"
            kept[(arm, draw)].parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old, kept[(arm, draw)])
    return kept


def _left_over_fillers(folder: Path, exposures: Sequence[Path]) -> pa.Table:
    """The fillers that left-over exposures name."""
    if not exposures or not (folder / "fillers.parquet").is_file():
        return FILLERS.empty_table()
    ids = pa.concat_tables([read_table(path, mend=MEND, columns=["record_id"]) for path in exposures])
    old = read_table(folder / "fillers.parquet", mend=MEND)
    return old.filter(pc.is_in(old.column("record_id"), value_set=ids.column("record_id").combine_chunks()))


def _draws(suite: Suite) -> int:
    return max(arm.draws for arm in suite.arms.values())


def _replace_exposures(folder: Path, work: Path, made: Sequence[Path]) -> list[Path]:
    """Put the new exposures in the place of the old ones; their paths."""
    target = folder / "exposures"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in sorted(work.iterdir()):
        os.replace(path, target / path.name)
    return [target / path.relative_to(work) for path in made]


def insertion_inputs(suite: Suite, workspace: Workspace) -> str:
    """The hash of everything that the exposures depend on."""
    tokens = check_files(workspace.corpus, "tokens", mend=MEND)
    records = check_files(workspace.insertion, "records", mend=MEND)
    skipped = ("train", "models", "control")
    arms = [_plain_arm({k: v for k, v in vars(arm).items() if k not in skipped}) for arm in suite.arms.values()]
    sizes = [(arm.train.steps, arm.train.batch) for arm in suite.arms.values()]
    levels = [plain(p.levels) for p in suite.perturbations.values()]
    # What the steps were made from, beside what they made: a shorter sequence or other unused rows leave their bytes alone.
    made_from = [tokens["input"], tokens["files"]["tokens.bin"]["sha256"], records["input"], records["files"]]
    return sha256_json([suite.seed, suite.corpus.sequence_length, made_from, arms, sizes, levels])


def _plain_arm(values: dict[str, Any]) -> Any:
    factors = {name: [plain(vars(each)) for each in many] for name, many in values["factors"].items()}
    return plain(values | {"factors": factors})


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
        ("corpus", workspace.corpus, "occurrences"),
        ("corpus", workspace.insertion, "records"),
        ("insert", workspace.insertion, "insert"),
    )
    for verb, folder, step in stages:
        check_files(folder, step, mend=f"run `costar {verb} {suite.argument}` first")
    for step in ("records", "insert"):
        for name in changed_files(workspace.insertion, step):
            raise CostarError(
                str(workspace.insertion / name),
                found="other bytes than those that were built",
                expected="the file as it was written",
                mend=f"run `costar {'corpus' if step == 'records' else 'insert'} {suite.argument}` again",
            )
    if not insertion_is_current(suite, workspace):
        raise CostarError(
            str(workspace.insertion),
            found="exposures of another state of the suite",
            expected="those of this suite file",
            mend=f"run `costar insert {suite.argument}` first",
        )


def _refuse_change(
    exposures: Mapping[tuple[str, int], Path],
    texts: pa.Table,
    eos: int,
    protected: Sequence[tuple[str, str, int, str]],
) -> None:
    hashes: dict[tuple[str, int], str] = {}
    stale = []
    for run, arm, draw, read in protected:
        key = (arm, draw)
        if key in exposures and key not in hashes:
            hashes[key] = read_edits(read_table(exposures[key], mend=MEND), texts, eos).sha256()
        if hashes.get(key, read) != read:
            stale.append(run)
    if stale:
        raise StaleRuns("insertion", found="other exposures than before", runs=stale)


class Planner:
    """Where every copy of an arm lies: from columns of records, with no token read."""

    def __init__(self, suite: Suite, records: pa.Table, renderings: pa.Table, windows: Windows):
        self.suite, self.windows = suite, windows
        self.assigner = Assigner(suite, records)
        self.texts = Texts.of(renderings)
        self._record_ids = records.column("record_id").combine_chunks()
        self._rendering = renderings.column("rendering").combine_chunks()
        self._index = rendering_index(renderings, self._record_ids)
        self._placements: dict[Any, tuple[Roster, NDArray[np.int64], NDArray[np.int64]]] = {}

    def placement(self, arm: ArmDesign, draw: int) -> tuple[Roster, NDArray[np.int64], NDArray[np.int64]]:
        """The roster of an arm with the slot and attempt of each copy. The last one is kept: arms share rosters."""
        placed = {
            name: [
                (each.phase, each.spacing, each.position, each.rendering)[: 4 if len(many) > 1 else 2] for each in many
            ]
            for name, many in arm.factors.items()
        }
        key = (draw, arm.train.slots, arm.turn, str(placed))
        if key not in self._placements:
            check_load(arm, self.assigner.phase_counts(arm, draw), f"[arm.{arm.name}]")
            roster = self.assigner.roster(arm, draw)
            self._placements = {key: (roster, *place(roster, arm.train.slots))}
        return self._placements[key]

    def exposures(self, arm: ArmDesign, draw: int) -> pa.Table:
        """The exposures of an arm: its selection from the roster, spliced into its sequences, sorted by slot."""
        if not arm.inserted:
            return EXPOSURES.empty_table()
        roster, slots, attempts = self.placement(arm, draw)
        inserted = [self.suite.perturbations[name].ordinal for name in arm.inserted]
        chosen = np.flatnonzero(np.isin(self.assigner.ordinal, inserted)[roster.record])
        chosen = chosen[np.argsort(slots[chosen])]
        how = {name: self.assigner.factor(arm, draw, name) for name in ("position", "rendering")}
        with ThreadPoolExecutor(THREADS) as pool:  # numpy and pyarrow leave the interpreter to the other
            parts = list(
                pool.map(
                    lambda first: self._spliced(arm, draw, how, roster, slots, attempts, chosen[first : first + CHUNK]),
                    range(0, len(chosen), CHUNK),
                )
            )
        return pa.concat_tables(parts) if parts else EXPOSURES.empty_table()

    def _spliced(
        self,
        arm: ArmDesign,
        draw: int,
        how: Mapping[str, NDArray[np.object_]],
        roster: Roster,
        slots: NDArray[np.int64],
        attempts: NDArray[np.int64],
        chosen: NDArray[np.int64],
    ) -> pa.Table:
        """The exposures of some copies of a roster."""
        record, slot = roster.record[chosen], slots[chosen]
        rows = self._rendering_rows(arm, how["rendering"], record, roster.copy[chosen])
        lengths = self.texts.lengths(rows)
        length = self.suite.corpus.sequence_length
        longest = int(np.argmax(lengths))
        written = self._rendering[int(rows[longest])]
        where = f"[arm.{arm.name}] {self.assigner.ids[record[longest]]}, rendering {written}"
        check_length(int(lengths[longest]), length, where)
        sequence = make_order(self.windows, seed=self.suite.seed, draw=draw).sequences(slot)
        targets = position_target(roster.key[chosen], length - 1 - lengths, how["position"][record])
        spans = find_spans(sequence, lengths, targets, self.windows)
        batch, count = arm.train.batch, len(chosen)
        columns = {
            "arm": repeated(arm.name, count),
            "draw": np.full(count, draw),
            "record_id": self._record_ids.take(pa.array(self.assigner.rows[record])),
            "copy": roster.copy[chosen],
            "rendering": self._rendering.take(pa.array(rows)),
            "slot": slot,
            "sequence": sequence,
            "step": slot // batch,
            "row": slot % batch,
            "start": spans.start,
            "length": lengths,
            "displaced": spans.displaced,
            "at_boundary": spans.at_boundary,
            "attempt": attempts[chosen],
        }
        return pa.table({name: pa.array(columns[name]).cast(EXPOSURES.field(name).type) for name in EXPOSURES.names})

    def _rendering_rows(
        self, arm: ArmDesign, names: NDArray[np.object_], record: NDArray[np.int32], copy: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """The row of `renderings` in which each copy is written; `names` are the renderings of main records."""
        rows = np.full(len(record), -1, np.int64)
        for name in sorted(set(names)):
            mask = np.flatnonzero((names == name)[record])
            if not len(mask):
                continue
            first, count = self._index.get(base_name(name), (np.full(len(self._record_ids), -1), None))
            table_rows = self.assigner.rows[record[mask]]
            lacking = np.flatnonzero(first[table_rows] < 0)
            if len(lacking):
                raise CostarError(
                    f"[arm.{arm.name}] renderings",
                    found=f"{name!r}, which {self.assigner.ids[record[mask][lacking[0]]]} and {len(lacking) - 1} others lack",
                    expected="a rendering of every inserted record",
                    mend="give the texts in the records, or choose another rendering",
                )
            assert count is not None
            rows[mask] = first[table_rows] + copy[mask] % count[table_rows]
        return rows


def told_insertion(suite: Suite, workspace: Workspace) -> str:
    """One line on the records and the copies of each arm, for people."""
    counts: dict[int, list[str]] = {}
    for arm in suite.arms.values():
        copies = len(read_exposures(workspace, arm.name, 0))
        if copies:
            counts.setdefault(copies, []).append(arm.name)
    named = "; ".join(f"{copies:,} in {', '.join(arms)}" for copies, arms in counts.items())
    return f"{len(read_records(workspace.insertion)[0]):,} records → exposures: {named or 'none'}"
