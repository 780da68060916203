"""Proof of an insertion from the files: every copy found and compared with its text, every untouched sequence with the
base, every placement certified, in other arithmetic than the one that wrote them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..core.design import ArmDesign, Suite, phase_slots
from ..core.parquet import read_table
from ..core.workspace import Workspace, changed_files, corpus_facts
from ..corpus.build import open_tokenizer
from . import reference
from .certificate import Roll, certify, keys_of
from .overlay import MEND, Overlay, open_overlay, read_exposures, read_renderings
from .placement import make_roster, place, sorted_copies
from .renderings import Texts, rendering_rows, variant_rows
from .untouched import check_untouched

CHUNK = 2048
Progress = Callable[[float, str], None]


@dataclass
class Proof:
    """What was checked, and what was found wrong. `sequences` of the `untouched` ones were compared with the base."""

    exposures: int = 0
    sequences: int = 0
    untouched: int = 0
    problems: list[str] = field(default_factory=list)


def verify_insertion(suite: Suite, workspace: Workspace, progress: Progress) -> Proof:
    """Check corpus and insertion of a built suite; problems are listed, not raised."""
    proof = Proof()
    for folder, steps in (
        (workspace.corpus, ("documents", "tokenizer", "tokens")),
        (workspace.insertion, ("records", "insert")),
    ):
        for step in steps:
            progress(0.0, f"bytes of {step}")
            proof.problems += [
                f"{folder / name}: its bytes are not those that were built" for name in changed_files(folder, step)
            ]
    if proof.problems:
        return proof
    checker = _Checker(suite, workspace, proof)
    pairs = [(arm, draw) for arm in suite.arms.values() for draw in range(arm.draws)]
    for number, (arm, draw) in enumerate(pairs):

        def share(part: float, number: int = number, what: str = f"{arm.name}, draw {draw}") -> None:
            progress((number + part) / len(pairs), what)

        checker.check_arm(arm, draw, share)
    return proof


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What the assignments of an arm and draw ask for: its certified roster, and per main record what is inserted."""

    roll: Roll
    level: NDArray[np.int64]
    inserted: NDArray[np.bool_]
    position: NDArray[np.object_]
    rendering: NDArray[np.object_]


class _Checker:
    def __init__(self, suite: Suite, workspace: Workspace, proof: Proof):
        self.suite, self.workspace, self.proof = suite, workspace, proof
        facts = corpus_facts(workspace)
        self.eos, self.length = facts["eos_id"], facts["sequence_length"]
        dtype = np.uint16 if facts["vocab_size"] <= 65_536 else np.int32
        self.tokens = np.memmap(workspace.corpus / "tokens.bin", dtype=dtype, mode="r")
        self.size = (len(self.tokens) - 1) // self.length
        records = read_table(workspace.insertion / "records.parquet", mend=MEND)
        role = np.array(records.column("role").to_pylist(), object)
        self.twins = records.column("record_id").filter(pa.array(role == "twin")).to_pylist()
        mains = records.filter(pa.array(role == "main"))
        self.ids: list[str] = mains.column("record_id").to_pylist()
        self.perturbation = np.array(mains.column("perturbation").to_pylist(), object)
        self.cluster: list[str] = mains.column("cluster_id").to_pylist()
        self.renderings = read_renderings(workspace)
        self.texts = Texts.of(self.renderings)
        self.variants = variant_rows(self.renderings, pa.array(self.ids))
        self.assignments = read_table(workspace.insertion / "assignments.parquet", mend=MEND)
        self._certified: dict[Any, Roll] = {}
        self._check_texts()

    def problem(self, where: str, texts: Iterator[str]) -> None:
        self.proof.problems += [f"{where}: {text}" for text in texts]

    def _check_texts(self) -> None:
        """Every text is what its ids decode to, and the ids are what the tokenizer makes of it."""
        tokenizer = open_tokenizer(self.suite.corpus, self.workspace.corpus)
        columns = ["record_id", "rendering", "text"]
        paths = [self.workspace.insertion / name for name in ("renderings.parquet", "fillers.parquet")]
        named = pa.concat_tables([read_table(path, mend=MEND, columns=columns) for path in paths])
        number = 0
        for batch in named.to_batches(4096):
            rows = batch.to_pylist()
            for row, ids in zip(rows, tokenizer.encode_batch([row["text"] for row in rows]), strict=True):
                written = self.texts.values[self.texts.ends[number] : self.texts.ends[number + 1]].tolist()
                if written != ids or tokenizer.decode(written) != row["text"]:
                    self.problem("renderings", iter([f"{row['record_id']} as {row['rendering']} is not its text"]))
                number += 1

    def check_arm(self, arm: ArmDesign, draw: int, progress: Callable[[float], None]) -> None:
        where = f"arm {arm.name}, draw {draw}"
        exposures = read_exposures(self.workspace, arm.name, draw)
        overlay = open_overlay(self.workspace, arm.name, draw, seed=self.suite.seed, length=self.length, eos=self.eos)
        self.proof.exposures += len(exposures)
        slots = exposures.column("slot").to_numpy()
        if arm.inserted:
            plan = self._plan(arm, draw, where)
            found = self._check_copies(arm, plan, exposures, where)
            self.problem(where, self._check_spans(arm, draw, plan, exposures, found, overlay, progress))
        elif len(exposures):
            self.problem(where, iter([f"{len(exposures)} copies in an arm that inserts nothing"]))
        checked, untouched, problems = check_untouched(
            overlay, self.tokens, slots, arm.train.slots, (self.suite.seed, draw), progress
        )
        self.proof.sequences += checked
        self.proof.untouched += untouched
        self.problem(where, iter(problems))

    def _plan(self, arm: ArmDesign, draw: int, where: str) -> _Plan:
        """The assignments of an arm, checked against the suite file, and the roster that they make, certified."""
        mask = pc.and_(
            pc.equal(self.assignments.column("arm"), arm.name), pc.equal(self.assignments.column("draw"), draw)
        )
        rows = self.assignments.filter(mask)
        at = pc.index_in(pa.array(self.ids), value_set=rows.column("record_id").combine_chunks())
        if at.null_count or len(rows) != len(self.ids) + len(self.twins):
            missing = at.null_count + len(rows) - len(self.ids) - len(self.twins)
            self.problem(where, iter([f"assignments of {len(rows)} records, {abs(missing)} too few or too many"]))
            at = at.fill_null(0)
        mains = rows.take(at)
        level = mains.column("level").to_numpy().astype(np.int64)
        inserted = np.isin(self.perturbation, list(arm.inserted))
        self.problem(where, self._check_levels(arm, mains, level, inserted))
        names = list(self.suite.perturbations)
        ordinal = np.array([names.index(name) for name in self.perturbation], np.int64)
        fixed = {name: arm.factors[name][0] for name in names}
        phases = [
            (Fraction(start), Fraction(end)) if start is not None else fixed[name].phase
            for start, end, name in zip(
                mains.column("phase_start").to_pylist(),
                mains.column("phase_end").to_pylist(),
                self.perturbation,
                strict=True,
            )
        ]
        bounds = {phase: phase_slots(phase, arm.train.slots) for phase in set(phases)}
        lo, hi = (np.array([bounds[phase][end] for phase in phases], np.int64) for end in (0, 1))
        columns = {
            key: np.array(
                [
                    value if value is not None else getattr(fixed[name], key)
                    for value, name in zip(mains.column(key).to_pylist(), self.perturbation, strict=True)
                ],
                object,
            )
            for key in ("position", "spacing", "rendering")
        }
        roll = self._roll(arm, draw, ordinal, level, lo, hi, columns["spacing"], where)
        return _Plan(
            roll=roll, level=level, inserted=inserted, position=columns["position"], rendering=columns["rendering"]
        )

    def _roll(
        self,
        arm: ArmDesign,
        draw: int,
        ordinal: NDArray[np.int64],
        level: NDArray[np.int64],
        lo: NDArray[np.int64],
        hi: NDArray[np.int64],
        spacing: NDArray[np.object_],
        where: str,
    ) -> Roll:
        key = (draw, arm.train.slots, *(column.tobytes() for column in (level, lo, hi)), str(spacing.tolist()))
        if key not in self._certified:
            copies = sorted_copies(self.ids, ordinal, level, seed=self.suite.seed, draw=draw)
            roster = make_roster(copies, lo, hi, spacing)
            slot, attempt = place(roster, arm.train.slots)
            roll = Roll(
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
            self.problem(where, certify(roll, self.suite.seed, draw))
            self._certified = {key: roll}
        return self._certified[key]

    def _check_levels(
        self, arm: ArmDesign, mains: pa.Table, level: NDArray[np.int64], inserted: NDArray[np.bool_]
    ) -> Iterator[str]:
        """The counts of the suite file, members as they are inserted, and factors divided evenly within a level."""
        largest = Counter(self.cluster).most_common(1)[0][1] if self.cluster else 0
        keys = ["phase_start", "phase_end", "position", "spacing", "rendering"]
        factors = [tuple(row.values()) for row in mains.select(keys).to_pylist()]
        for name, design in self.suite.perturbations.items():
            members = np.flatnonzero(self.perturbation == name)
            counted = Counter(level[members].tolist())
            if dict(counted) != dict(design.levels):
                yield f"{name} has levels {dict(counted)}, the suite asks for {dict(design.levels)}"
            if name not in arm.inserted:
                continue
            for each in counted:
                parts = Counter(factors[i] for i in members[level[members] == each])
                sizes = [*parts.values(), *[0] * (len(arm.factors[name]) - len(parts))]
                if len(parts) > len(arm.factors[name]) or max(sizes) - min(sizes) > max(largest, 1):
                    yield f"{name} at level {each} is divided as {dict(parts)}"
        member = (level > 0) & inserted & (arm.filler == "none")
        listed = np.array(mains.column("split").to_pylist(), object) == "member"
        for number in np.flatnonzero(member != listed)[:5].tolist():
            yield f"{self.ids[number]} is listed as {'member' if listed[number] else 'nonmember'}"

    def _check_copies(self, arm: ArmDesign, plan: _Plan, exposures: pa.Table, where: str) -> NDArray[np.int64]:
        """Copies 0 … level − 1 of every inserted record, each at its slot, and no other; the place in the roster of each
        exposure [n], −1 for one that should not be there."""
        roll = plan.roll
        selected = np.flatnonzero(plan.inserted[roll.record])
        by_slot = selected[np.argsort(roll.slot[selected])]
        slots = exposures.column("slot").to_numpy()
        at = np.minimum(np.searchsorted(roll.slot[by_slot], slots), max(len(by_slot) - 1, 0))
        found = by_slot[at] if len(by_slot) else np.full(len(slots), -1)
        found = np.where(roll.slot[found] == slots, found, -1)
        record_ids = exposures.column("record_id").to_pylist()
        copies = exposures.column("copy").to_pylist()
        problems: list[str] = []
        if arm.filler == "none":
            number = pc.index_in(exposures.column("record_id"), value_set=pa.array(self.ids)).fill_null(-1).to_numpy()
            right = (found >= 0) & (roll.record[found] == number) & (roll.copy[found] == copies)
        else:
            right = found >= 0
            twice = [record_id for record_id, count in Counter(record_ids).items() if count > 1]
            problems += [f"filler {record_id} is used more than once" for record_id in twice[:5]]
        right &= exposures.column("attempt").to_numpy() == roll.attempt[found]
        wrong = np.flatnonzero(~right)
        for row in wrong[:5].tolist():
            expected = f"{roll.name(int(found[row]))} there" if found[row] >= 0 else "no copy there"
            problems.append(f"{record_ids[row]} copy {copies[row]} at slot {slots[row]}, expected {expected}")
        seen = np.zeros(len(roll.record), bool)
        seen[found[right]] = True
        missing = selected[~seen[selected]]
        problems += [f"{roll.name(i)} is missing at slot {roll.slot[i]}" for i in missing[:5].tolist()]
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
        key, _ = keys_of(plan.roll, self.suite.seed, draw)
        windows_of = np.lib.stride_tricks.sliding_window_view(self.tokens, self.length + 1)[:: self.length]
        kept = np.flatnonzero((found >= 0) & (rows >= 0))
        for row in np.flatnonzero(rows < 0)[:5].tolist():
            yield f"a copy at slot {columns['slot'][row]} is of no rendering"
        for first in range(0, len(kept), CHUNK):
            progress(0.7 * first / len(kept))
            part = kept[first : first + CHUNK]
            slot, batch = columns["slot"][part], arm.train.batch
            record = plan.roll.record[found[part]]
            sequence = reference.sequences_at(self.suite.seed, draw, self.size, slot)
            expected = np.array(windows_of[sequence])
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
                    yield f"{plan.roll.name(found[part[i]])}: {name} is {columns[name][part[i]]}, not {values[i]}"
            written = self._rows(plan.rendering[record], record, plan.roll.copy[found[part]])
            other = self.texts.lengths(written) != lengths if arm.filler != "none" else written != rows[part]
            for i in np.flatnonzero(other)[:3].tolist():
                yield f"{plan.roll.name(found[part[i]])} is written as {columns['rendering'][part[i]]}, not as the arm asks"
            for i in range(len(part)):
                text = self.texts.values[self.texts.ends[rows[part[i]]] : self.texts.ends[rows[part[i]] + 1]]
                expected[i, begin[i] : begin[i] + displaced[i]] = self.eos
                expected[i, start[i] : start[i] + lengths[i]] = text
            read = overlay.sequences(slot)
            for i in np.flatnonzero((read != expected).any(axis=1))[:3].tolist():
                yield f"{plan.roll.name(found[part[i]])}: what training reads at slot {slot[i]} is not base plus record"

    def _rows(
        self, rendering: NDArray[np.object_], record: NDArray[np.int32], copy: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """The row of the renderings in which each copy of a record should be written."""
        rows = np.full(len(record), -1, np.int64)
        for name in set(rendering):
            first, count = self.variants[name]
            mask = rendering == name
            rows[mask] = first[record[mask]] + copy[mask] % count[record[mask]]
        return rows
