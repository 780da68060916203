"""Proof of an insertion from the files: every copy found and decoded, every untouched sequence compared, every
placement certified, by scalar code and plain file reads instead of the arrays that wrote them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..core.design import ArmDesign, Suite, phase_slots
from ..core.parquet import read_table
from ..core.workspace import Workspace, changed_files, corpus_facts
from ..corpus.build import open_tokenizer
from . import reference
from .overlay import MEND, Overlay, open_overlay, read_exposures
from .placement import place, record_key, suite_roster
from .records import read_records

CHUNK = 2048


@dataclass
class Proof:
    """What was checked, and what was found wrong."""

    exposures: int = 0
    sequences: int = 0
    problems: list[str] = field(default_factory=list)


def verify_insertion(suite: Suite, workspace: Workspace, progress: Callable[[float, str], None]) -> Proof:
    """Check corpus and insertion of a built suite; problems are listed, not raised."""
    proof = Proof()
    for folder, steps in (
        (workspace.corpus, ("documents", "tokenizer", "tokens")),
        (workspace.insertion, ("records", "insert")),
    ):
        for step in steps:
            proof.problems += [
                f"{folder / name}: its bytes are not those that were built" for name in changed_files(folder, step)
            ]
    if proof.problems:
        return proof
    checker = _Checker(suite, workspace, proof)
    pairs = [(arm, draw) for arm in suite.arms.values() for draw in range(arm.draws)]
    for number, (arm, draw) in enumerate(pairs):
        progress(number / len(pairs), f"{arm.name}, draw {draw}")
        checker.check_arm(arm, draw)
    return proof


class _Checker:
    def __init__(self, suite: Suite, workspace: Workspace, proof: Proof):
        self.suite, self.workspace, self.proof = suite, workspace, proof
        facts = corpus_facts(workspace)
        self.eos, self.length = facts["eos_id"], facts["sequence_length"]
        dtype = np.uint16 if facts["vocab_size"] <= 65_536 else np.int32
        self.tokens = np.memmap(workspace.corpus / "tokens.bin", dtype=dtype, mode="r")
        self.size = (len(self.tokens) - 1) // self.length
        self.tokenizer = open_tokenizer(suite.corpus, workspace.corpus)
        records, renderings = read_records(workspace.insertion)
        self.records = {row["record_id"]: row for row in records.to_pylist()}
        self.texts = {(row["record_id"], row["rendering"]): row["text"] for row in renderings.to_pylist()}
        self.assignments = read_table(workspace.insertion / "assignments.parquet", mend=MEND)

    def problem(self, text: str) -> None:
        self.proof.problems.append(text)

    def check_arm(self, arm: ArmDesign, draw: int) -> None:
        rows = read_exposures(self.workspace, arm.name, draw).to_pylist()
        overlay = open_overlay(self.workspace, arm.name, draw, seed=self.suite.seed, length=self.length, eos=self.eos)
        where = f"arm {arm.name}, draw {draw}"
        levels = self._levels(arm, draw, where)
        self._check_copies(rows, arm, levels, where)
        self._check_placement(rows, arm, draw, levels, where)
        for row in rows:
            if (row["record_id"], row["rendering"]) not in self.texts:
                continue
            self._check_exposure(row, arm, draw, overlay, f"{where}, {row['record_id']} copy {row['copy']}")
        self._check_untouched(rows, arm, draw, overlay, where)
        self.proof.exposures += len(rows)

    def _levels(self, arm: ArmDesign, draw: int, where: str) -> dict[str, int]:
        """The levels of the assignment, counted against the suite file."""
        mask = pa.compute.and_(
            pa.compute.equal(self.assignments.column("arm"), arm.name),
            pa.compute.equal(self.assignments.column("draw"), draw),
        )
        rows = self.assignments.filter(mask).to_pylist()
        levels = {row["record_id"]: row["level"] for row in rows}
        for name, design in self.suite.perturbations.items():
            mains = [
                r for r, record in self.records.items() if record["perturbation"] == name and record["role"] == "main"
            ]
            counted = Counter(levels[r] for r in mains)
            if dict(counted) != dict(design.levels):
                self.problem(f"{where}: {name} has levels {dict(counted)}, the suite asks for {dict(design.levels)}")
        for row in rows:
            record = self.records[row["record_id"]]
            member = row["level"] > 0 and record["role"] == "main" and record["perturbation"] in arm.inserted
            if (row["split"] == "member") != member:
                self.problem(f"{where}: {row['record_id']} is listed as {row['split']}")
        return levels

    def _check_copies(self, rows: list[dict[str, Any]], arm: ArmDesign, levels: dict[str, int], where: str) -> None:
        """Copies 0 … level − 1 of every inserted record, and no other."""
        found: dict[str, list[int]] = {}
        for row in rows:
            found.setdefault(row["record_id"], []).append(row["copy"])
        for unknown in sorted(found.keys() - self.records.keys()):
            self.problem(f"{where}: {unknown} has copies but is no record")
        for record_id, record in self.records.items():
            inserted = record["perturbation"] in arm.inserted and record["role"] == "main"
            expected = list(range(levels[record_id])) if inserted else []
            if sorted(found.get(record_id, [])) != expected:
                self.problem(
                    f"{where}: {record_id} has copies {sorted(found.get(record_id, []))}, expected {len(expected)}"
                )

    def _check_placement(
        self, rows: list[dict[str, Any]], arm: ArmDesign, draw: int, levels: dict[str, int], where: str
    ) -> None:
        """The certificate of the whole roster: slots distinct and inside the phase, each copy at the slot of its attempt,
        each earlier proposal held by a copy of lower rank. One placement alone satisfies this."""
        if not arm.inserted:
            return
        mains = [r for r, record in self.records.items() if record["role"] == "main"]
        names = [self.records[r]["perturbation"] for r in mains]
        bounds = {name: phase_slots(arm.phases[name], arm.train.slots) for name in self.suite.perturbations}
        roster = suite_roster(self.suite, arm, draw, list(zip(mains, names)), levels)
        slots, attempts = place(roster, arm.train.slots)
        holder = {int(slot): number for number, slot in enumerate(slots)}
        if len(holder) != len(slots):
            self.problem(f"{where}: two copies share a slot")
        expected = {}
        for number, (record, copy) in enumerate(zip(roster.record.tolist(), roster.copy.tolist())):
            name = names[record]
            lo, hi = bounds[name]
            record_hash = record_key(self.suite.seed, draw, mains[record])
            key = reference.mix(record_hash, copy)
            first = reference.first_proposal(key, record_hash, copy, arm.spacings[name])
            slot, attempt = int(slots[number]), int(attempts[number])
            if not lo <= slot < hi:
                self.problem(f"{where}: {mains[record]} copy {copy} at slot {slot}, outside its phase {lo} to {hi}")
            if reference.proposal(key, first, lo, hi, attempt) != slot:
                self.problem(f"{where}: {mains[record]} copy {copy} at slot {slot} is not its proposal {attempt}")
            for earlier in range(attempt):
                if holder.get(reference.proposal(key, first, lo, hi, earlier), number) >= number:
                    self.problem(f"{where}: {mains[record]} copy {copy} was refused a slot without a stronger holder")
            if name in arm.inserted:
                expected[(mains[record], copy)] = (slot, attempt)
        for row in rows:
            place_of = (row["slot"], row["attempt"])
            if expected.get((row["record_id"], row["copy"])) != place_of:
                self.problem(
                    f"{where}: {row['record_id']} copy {row['copy']} at slot {place_of[0]}, "
                    f"expected {expected.get((row['record_id'], row['copy']), ('none',))[0]}"
                )

    def _check_exposure(self, row: dict[str, Any], arm: ArmDesign, draw: int, overlay: Overlay, where: str) -> None:
        """One copy: its sequence, step and row, its span, its text, and every token around it."""
        slot, batch = row["slot"], arm.train.batch
        sequence = reference.sequence_at(self.suite.seed, draw, self.size, slot)
        if (row["sequence"], row["step"], row["row"]) != (sequence, slot // batch, slot % batch):
            self.problem(f"{where}: sequence, step or row do not follow from slot {slot}")
            return
        base = self._base(sequence)
        text = self.texts[(row["record_id"], row["rendering"])]
        ids = self.tokenizer.encode(text)
        key = reference.mix(record_key(self.suite.seed, draw, row["record_id"]), row["copy"])
        position = arm.positions[self.records[row["record_id"]]["perturbation"]]
        target = reference.position_target(key, self.length - 1 - len(ids), position)
        begin, start, displaced, at_boundary = reference.span(base.tolist(), len(ids), target, self.eos)
        if (row["start"], row["length"], row["displaced"], row["at_boundary"]) != (
            start,
            len(ids),
            displaced,
            at_boundary,
        ):
            self.problem(f"{where}: its span is not the one of the splice")
            return
        read = overlay.sequences(np.array([slot]))[0]
        expected = base.astype(np.int64)
        expected[begin : begin + displaced] = ([] if at_boundary else [self.eos]) + ids + [self.eos]
        if not np.array_equal(read.astype(np.int64), expected):
            self.problem(f"{where}: what training reads at slot {slot} is not base plus record")
        elif self.tokenizer.decode(read[row["start"] : row["start"] + row["length"]].tolist()) != text:
            self.problem(f"{where}: the copy does not decode to its text")

    def _base(self, sequence: int) -> NDArray[Any]:
        first = sequence * self.length
        return np.asarray(self.tokens[first : first + self.length + 1])

    def _check_untouched(
        self, rows: list[dict[str, Any]], arm: ArmDesign, draw: int, overlay: Overlay, where: str
    ) -> None:
        """Every slot without a copy reads the base sequence that the order gives, and nothing else."""
        touched = {row["slot"] for row in rows}
        for first in range(0, arm.train.slots, CHUNK):
            slots = np.arange(first, min(first + CHUNK, arm.train.slots))
            read = overlay.sequences(slots)
            for number, slot in enumerate(slots.tolist()):
                if slot in touched:
                    continue
                sequence = reference.sequence_at(self.suite.seed, draw, self.size, slot)
                if not np.array_equal(read[number], self._base(sequence)):
                    self.problem(f"{where}: slot {slot} has no copy but differs from the base")
            self.proof.sequences += len(slots) - len(touched.intersection(slots.tolist()))
