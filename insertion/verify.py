"""Proof of an insertion from the files: every copy found and compared with its text, every untouched sequence with the
base, every placement certified, in other arithmetic than the one that wrote them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..core.console import Update
from ..core.design import ArmDesign, Factors, Suite, phase_slots
from ..core.parquet import read_table
from ..core.workspace import Workspace, changed_files, corpus_facts
from . import recount, reference
from .certificate import PlacedRoster, certify, keys_of
from .kinds import load_kind
from .overlay import MEND, Overlay, open_overlay, read_exposures, read_renderings
from .placement import make_roster, place, sorted_copies
from .reference_base import check_indexes, open_reference
from .renderings import Texts, rendering_index, rendering_rows
from .rewordings import renderings_of
from .untouched import check_untouched
from .verify_records import check_balance, check_fillers, check_texts

CHUNK = 2048


@dataclass
class Proof:
    """What was checked, and what was found wrong. `sequences` of the `untouched` ones were compared with the base."""

    exposures: int = 0
    sequences: int = 0
    untouched: int = 0
    problems: list[str] = field(default_factory=list)


def verify_insertion(suite: Suite, workspace: Workspace, progress: Update) -> Proof:
    """Check corpus and insertion of a built suite; problems are listed, not raised."""
    proof = Proof()
    for folder, steps in (
        (workspace.corpus, ("documents", "tokenizer", "tokens", "occurrences")),
        (workspace.insertion, ("records", "insert")),
    ):
        for step in steps:
            progress(0.0, f"bytes of {step}")
            proof.problems += [
                f"{folder / name}: its bytes are not those that were built" for name in changed_files(folder, step)
            ]
    if not proof.problems:
        progress(0.0, "indexes")
        proof.problems += check_indexes(workspace.corpus, corpus_facts(workspace))
    if proof.problems:
        return proof
    checker = _Checker(suite, workspace, proof)
    pairs = [(arm, draw) for arm in suite.arms.values() for draw in range(arm.draws)]
    for number, (arm, draw) in enumerate(pairs):

        def share(part: float, number: int = number, what: str = f"{arm.name}, draw {draw}") -> None:
            progress((number + part) / len(pairs), what)

        checker.check_arm(arm, draw, share)
    progress(1.0, "records")
    checker.problem("records", check_texts(suite, workspace))
    checker.problem("fillers", check_fillers(workspace))
    checker.problem("balance", check_balance(workspace, checker.cells()))
    return proof


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a suite asks of an arm and draw: its certified roster, and per main record how it is inserted."""

    placed: PlacedRoster
    inserted: NDArray[np.bool_]
    position: NDArray[np.object_]
    rendering: NDArray[np.object_]


class _Checker:
    def __init__(self, suite: Suite, workspace: Workspace, proof: Proof):
        self.suite, self.workspace, self.proof = suite, workspace, proof
        facts = corpus_facts(workspace)
        self.eos, self.length = facts["eos_id"], facts["sequence_length"]
        self.base = open_reference(workspace.corpus, facts, suite.seed)
        records = read_table(workspace.insertion / "records.parquet", mend=MEND)
        role = np.array(records.column("role").to_pylist(), object)
        self.twins = records.column("record_id").filter(pa.array(role == "twin")).to_pylist()
        mains = records.filter(pa.array(role == "main"))
        self.ids: list[str] = mains.column("record_id").to_pylist()
        self.perturbation = np.array(mains.column("perturbation").to_pylist(), object)
        self.cluster: list[str] = mains.column("cluster_id").to_pylist()
        self.stratum: list[str] = mains.column("stratum").to_pylist()
        self.renderings = read_renderings(workspace)
        self.texts = Texts.of(self.renderings)
        self.index = rendering_index(self.renderings, pa.array(self.ids))
        self.assignments = read_table(workspace.insertion / "assignments.parquet", mend=MEND)
        self._recounted: dict[Any, dict[str, int]] = {}
        self._certified: dict[Any, PlacedRoster] = {}
        fillers = read_table(workspace.insertion / "fillers.parquet", mend=MEND, columns=["record_id", "perturbation"])
        columns = (fillers.column(name).to_pylist() for name in fillers.column_names)
        self.fillers = dict(zip(*columns, strict=True))

    def problem(self, where: str, texts: Iterator[str]) -> None:
        self.proof.problems += [f"{where}: {text}" for text in texts]

    def check_arm(self, arm: ArmDesign, draw: int, progress: Callable[[float], None]) -> None:
        where = f"arm {arm.name}, draw {draw}"
        exposures = read_exposures(self.workspace, arm.name, draw)
        overlay = open_overlay(self.workspace, arm.name, draw, seed=self.suite.seed, length=self.length, eos=self.eos)
        self.proof.exposures += len(exposures)
        slots = exposures.column("slot").to_numpy()
        for name, value in (("arm", arm.name), ("draw", draw)):
            other = [each for each in pc.unique(exposures.column(name)).to_pylist() if each != value]
            self.problem(where, iter([f"exposures of {name} {', '.join(map(str, other))}"] if other else []))
        plan = self._plan(arm, draw, where)
        if plan is not None:
            found = self._check_copies(arm, plan, exposures, where)
            self.problem(where, self._check_spans(arm, draw, plan, exposures, found, overlay, progress))
        elif len(exposures):
            self.problem(where, iter([f"{len(exposures)} copies in an arm that inserts nothing"]))
        checked, untouched, problems = check_untouched(
            overlay, self.base, slots, arm.train.slots, (self.suite.seed, draw), progress
        )
        self.proof.sequences += checked
        self.proof.untouched += untouched
        self.problem(where, iter(problems))

    def cells(self) -> dict[int, Counter[tuple[Any, ...]]]:
        """Records by (perturbation, stratum, level) in the suite's own assignment of every draw."""
        found: dict[int, Counter[tuple[Any, ...]]] = {}
        for draw in range(max(arm.draws for arm in self.suite.arms.values())):
            levels, _ = self._asked(replace(next(iter(self.suite.arms.values())), turn=Fraction(0)), draw)
            found[draw] = Counter(zip(self.perturbation.tolist(), self.stratum, levels.tolist(), strict=True))
        return found

    def _asked(self, arm: ArmDesign, draw: int) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
        """The level of every main record in an arm and draw, and its factors."""
        level = np.zeros(len(self.ids), np.int64)
        factors = np.empty(len(self.ids), object)
        for name, design in self.suite.perturbations.items():
            members = np.flatnonzero(self.perturbation == name).tolist()
            clusters = recount.grouped([self.ids[i] for i in members], [self.cluster[i] for i in members])
            strata = {self.cluster[i]: self.stratum[i] for i in reversed(members)}
            key = (self.suite.seed, draw, name)
            if (draw, arm.turn, name) not in self._recounted:
                self._recounted[(draw, arm.turn, name)] = recount.levels_of(
                    clusters, strata, design.levels, key, arm.turn
                )
            levels = self._recounted[(draw, arm.turn, name)]
            named = self._named(arm, name)
            for i in members:
                level[i] = levels[self.ids[i]]
                factors[i] = named[0]
            if len(named) > 1:
                for each in sorted(set(levels.values())):
                    cell = [i for i in members if level[i] == each]
                    parts = recount.combinations_of(
                        recount.grouped([self.ids[i] for i in cell], [self.cluster[i] for i in cell]),
                        arm.combinations(name),
                        (*key, "factors", each),
                    )
                    for i in cell:
                        factors[i] = named[parts[self.ids[i]]]
        return level, factors

    def _plan(self, arm: ArmDesign, draw: int, where: str) -> _Plan | None:
        """What the suite asks of an arm and draw, held against its assignments, and the certified roster of it; None where
        nothing is inserted."""
        level, factors = self._asked(arm, draw)
        self.problem(where, self._check_assignments(arm, draw, level, factors))
        if not arm.inserted:
            return None
        names = list(self.suite.perturbations)
        ordinal = np.array([names.index(name) for name in self.perturbation], np.int64)
        phases = [each.phase for each in factors]
        bounds = {phase: phase_slots(phase, arm.train.slots) for phase in set(phases)}
        lo, hi = (np.array([bounds[phase][end] for phase in phases], np.int64) for end in (0, 1))
        columns = {
            key: np.array([getattr(each, key) for each in factors], object)
            for key in ("position", "spacing", "rendering")
        }
        placed = self._placed(arm, draw, ordinal, level, lo, hi, columns["spacing"], where)
        inserted = np.isin(self.perturbation, list(arm.inserted))
        return _Plan(placed=placed, inserted=inserted, position=columns["position"], rendering=columns["rendering"])

    def _named(self, arm: ArmDesign, name: str) -> list[Factors]:
        """The combinations of a perturbation's factors, the canonical rendering by its name."""
        design = self.suite.perturbations[name]
        canonical = renderings_of(design, load_kind(design.kind, place=name))[0]
        return [replace(each, rendering=each.rendering or canonical) for each in arm.factors[name]]

    def _check_assignments(
        self, arm: ArmDesign, draw: int, level: NDArray[np.int64], factors: NDArray[np.object_]
    ) -> Iterator[str]:
        """Every row of an arm and draw: level, split and factors of mains, nothing of twins, and no row more or less."""
        table = self.assignments.filter(
            pc.and_(pc.equal(self.assignments.column("arm"), arm.name), pc.equal(self.assignments.column("draw"), draw))
        )
        expected: dict[str, tuple[Any, ...]] = dict.fromkeys(self.twins, (0, "nonmember", *[None] * 5))
        for i, record_id in enumerate(self.ids):
            selected = self.perturbation[i] in arm.inserted
            member = selected and level[i] > 0 and arm.filler == "none"
            each = factors[i]
            how = (str(each.phase[0]), str(each.phase[1]), each.position, each.spacing, each.rendering)
            split = "member" if member else "nonmember"
            expected[record_id] = (int(level[i]), split, *(how if selected else [None] * 5))
        names = ["level", "split", "phase_start", "phase_end", "position", "spacing", "rendering"]
        columns = [table.column(name).to_pylist() for name in ["record_id", *names]]
        found = {row[0]: row[1:] for row in zip(*columns, strict=True)}
        wrong = [record_id for record_id in expected if found.get(record_id) != expected[record_id]]
        for record_id in wrong[:5]:
            yield f"{record_id} is assigned {found.get(record_id)}, expected {expected[record_id]}"
        if len(wrong) > 5:
            yield f"{len(wrong)} records are assigned something else"
        if len(table) != len(expected):
            yield f"assignments of {len(table)} records, expected {len(expected)}"

    def _placed(
        self,
        arm: ArmDesign,
        draw: int,
        ordinal: NDArray[np.int64],
        level: NDArray[np.int64],
        lo: NDArray[np.int64],
        hi: NDArray[np.int64],
        spacing: NDArray[np.object_],
        where: str,
    ) -> PlacedRoster:
        key = (draw, arm.train.slots, *(column.tobytes() for column in (level, lo, hi)), str(spacing.tolist()))
        if key not in self._certified:
            copies = sorted_copies(self.ids, ordinal, level, seed=self.suite.seed, draw=draw)
            roster = make_roster(copies, lo, hi, spacing)
            slot, attempt = place(roster, arm.train.slots)
            placed = PlacedRoster(
                ids=self.ids,
                ordinal=ordinal,
                lo=lo,
                hi=hi,
                spacing=spacing,
                record=roster.record,
                copy=roster.copy,
                slot=slot,
                attempt=attempt,
            )
            self.problem(where, certify(placed, self.suite.seed, draw))
            self._certified = {key: placed}
        return self._certified[key]

    def _check_copies(self, arm: ArmDesign, plan: _Plan, exposures: pa.Table, where: str) -> NDArray[np.int64]:
        """Copies 0 … level − 1 of every inserted record, each at its slot, and no other; the place in the roster of each
        exposure [n], −1 for one that should not be there."""
        placed = plan.placed
        selected = np.flatnonzero(plan.inserted[placed.record])
        by_slot = selected[np.argsort(placed.slot[selected])]
        slots = exposures.column("slot").to_numpy()
        at = np.minimum(np.searchsorted(placed.slot[by_slot], slots), max(len(by_slot) - 1, 0))
        found = by_slot[at] if len(by_slot) else np.full(len(slots), -1)
        found = np.where(placed.slot[found] == slots, found, -1)
        record_ids = exposures.column("record_id").to_pylist()
        copies = exposures.column("copy").to_pylist()
        problems: list[str] = []
        if arm.filler == "none":
            number = pc.index_in(exposures.column("record_id"), value_set=pa.array(self.ids)).fill_null(-1).to_numpy()
            right = (found >= 0) & (placed.record[found] == number) & (placed.copy[found] == copies)
        else:
            named = np.array([self.fillers.get(record_id, "") for record_id in record_ids], object)
            right = (found >= 0) & (named == self.perturbation[placed.record[found]])
            twice = [record_id for record_id, count in Counter(record_ids).items() if count > 1]
            problems += [f"filler {record_id} is used more than once" for record_id in twice[:5]]
        right &= exposures.column("attempt").to_numpy() == placed.attempt[found]
        wrong = np.flatnonzero(~right)
        for row in wrong[:5].tolist():
            expected = f"{placed.name(int(found[row]))} there" if found[row] >= 0 else "no copy there"
            problems.append(f"{record_ids[row]} copy {copies[row]} at slot {slots[row]}, expected {expected}")
        seen = np.zeros(len(placed.record), bool)
        seen[found[right]] = True
        missing = selected[~seen[selected]]
        problems += [f"{placed.name(i)} is missing at slot {placed.slot[i]}" for i in missing[:5].tolist()]
        if len(right) - int(right.sum()) or len(missing):
            problems.append(f"{len(wrong)} copies that should not be there, {len(missing)} missing")
        extra = len(slots) - len(np.unique(slots))
        problems += [f"{extra} slots have two copies"] if extra else []
        self.problem(where, iter(problems))
        return np.where(right, found, -1)

    def _check_spans(
        self,
        arm: ArmDesign,
        draw: int,
        plan: _Plan,
        exposures: pa.Table,
        found: NDArray[np.int64],
        overlay: Overlay,
        progress: Callable[[float], None],
    ) -> Iterator[str]:
        """Every copy: its sequence, step and row, its span, its text, and every token around it."""
        columns = {
            name: exposures.column(name).combine_chunks().to_numpy(zero_copy_only=False)
            for name in ("slot", "sequence", "step", "row", "start", "length", "displaced", "at_boundary", "rendering")
        }
        rows = rendering_rows(exposures, self.renderings)
        key, _ = keys_of(plan.placed, self.suite.seed, draw)
        kept = np.flatnonzero((found >= 0) & (rows >= 0))
        for row in np.flatnonzero(rows < 0)[:5].tolist():
            yield f"a copy at slot {columns['slot'][row]} is of no rendering"
        for first in range(0, len(kept), CHUNK):
            progress(0.7 * first / len(kept))
            part = kept[first : first + CHUNK]
            slot, batch = columns["slot"][part], arm.train.batch
            record = plan.placed.record[found[part]]
            sequence = self.base.sequences(draw, slot)
            expected = self.base.rows(sequence)
            lengths = self.texts.lengths(rows[part])
            targets = reference.position_targets(key[found[part]], self.length - 1 - lengths, plan.position[record])
            begin, start, displaced, at_boundary = reference.spans(expected, lengths, targets, self.eos)
            facts = {
                "sequence": sequence,
                "step": slot // batch,
                "row": slot % batch,
                "start": start,
                "length": lengths,
                "displaced": displaced,
                "at_boundary": at_boundary,
            }
            for name, values in facts.items():
                for i in np.flatnonzero(columns[name][part] != values)[:3].tolist():
                    yield f"{plan.placed.name(found[part[i]])}: {name} is {columns[name][part[i]]}, not {values[i]}"
            written = self._rows(plan.rendering[record], record, plan.placed.copy[found[part]])
            other = self.texts.lengths(written) != lengths if arm.filler != "none" else written != rows[part]
            for i in np.flatnonzero(other)[:3].tolist():
                yield f"{plan.placed.name(found[part[i]])} is written as {columns['rendering'][part[i]]}, not as the arm asks"
            fits = (lengths >= 1) & (lengths <= self.length - 3)
            for i in np.flatnonzero(fits):
                text = self.texts.values[self.texts.ends[rows[part[i]]] : self.texts.ends[rows[part[i]] + 1]]
                expected[i, begin[i] : begin[i] + displaced[i]] = self.eos
                expected[i, start[i] : start[i] + lengths[i]] = text
            read = overlay.sequences(slot)
            for i in np.flatnonzero((read != expected).any(axis=1))[:3].tolist():
                yield f"{plan.placed.name(found[part[i]])}: what training reads at slot {slot[i]} is not base plus record"

    def _rows(
        self, rendering: NDArray[np.object_], record: NDArray[np.int32], copy: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """The row of the renderings in which each copy of a record should be written."""
        rows = np.full(len(record), -1, np.int64)
        for name in set(rendering):
            first, count = self.index[name]
            mask = rendering == name
            rows[mask] = first[record[mask]] + copy[mask] % count[record[mask]]
        return rows
