"""Proof that a foreign trainer read what the plan says, from its file of digests; and where not, what it read instead.

Every row of the run is read through the overlay and hashed again. A digest covers all steps before it, so the first one
that differs is where the trainer left the plan; what it read there is then looked for among likely mistakes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.console import Update
from ..core.design import Suite
from ..core.errors import CostarError
from ..core.hashing import EMPTY_DIGEST, row_hashes, step_digest
from ..core.workspace import Workspace
from ..insertion.overlay import Overlay, open_suite_overlay
from .digest_file import DigestFile, read_digests

CHUNK = 2048  # rows read at once
REACH = 8  # steps before and after in which skipped or repeated rows are looked for
PERMUTED = 8  # rows of which every order is tried: 40,320
LOOKED_UP = 16  # steps whose first rows are looked for in the whole run

Rows = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """The first step that read other rows than slots `first` … `last`, and what it read instead, as far as known."""

    step: int
    first: int
    last: int
    diagnosis: str


@dataclass(frozen=True, kw_only=True)
class DigestProof:
    """How many of a file's steps agree with the plan; `planned` is the arm's budget in steps."""

    path: Path
    arm: str
    draw: int
    steps: int
    planned: int
    agreed: int
    disagreement: Disagreement | None
    remarks: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """Everything wrong, as sentences; empty when the trainer read what the plan says."""
        found = [f"{self.path}: {remark}" for remark in self.remarks]
        if self.disagreement is not None:
            wrong = self.disagreement
            found.append(
                f"{self.path}: step {wrong.step} did not read slots {wrong.first} to {wrong.last} of arm {self.arm}, "
                f"draw {self.draw}: {wrong.diagnosis}"
            )
        return found


def verify_digests(suite: Suite, workspace: Workspace, path: str | Path, progress: Update) -> DigestProof:
    """Hold a file of digests against the plan of a built suite. What is wrong is listed in the proof, not raised.

    Costs the reading and hashing of every row of the run, once more or twice where something is wrong.

    Raises:
        CostarError: the file is malformed or names an arm or a draw that the suite lacks, or the corpus is damaged.
    """
    file = read_digests(path)
    _check_names(suite, file, Path(path))
    design = suite.arms[file.arm].train
    overlay = open_suite_overlay(workspace, file.arm, file.draw, seed=suite.seed)
    agreed, digest = count_agreeing(overlay, file, progress=progress)
    wrong = None
    if agreed < len(file.steps):
        search = _Search(suite=suite, workspace=workspace, file=file, overlay=overlay, step=agreed, before=digest)
        first = agreed * file.batch
        diagnosis = search.diagnosis(design.slots)
        wrong = Disagreement(step=agreed, first=first, last=first + file.batch - 1, diagnosis=diagnosis)
    return DigestProof(
        path=Path(path),
        arm=file.arm,
        draw=file.draw,
        steps=len(file.steps),
        planned=design.steps,
        agreed=agreed,
        disagreement=wrong,
        remarks=tuple(_remarks(file, overlay.length, design.steps, design.batch)),
    )


def count_agreeing(
    overlay: Overlay,
    file: DigestFile,
    *,
    start: int = 0,
    before: bytes = EMPTY_DIGEST,
    progress: Update | None = None,
) -> tuple[int, bytes]:
    """How many steps from `start` on agree one after the other, and the digest after the last of them."""
    digest, batch, total = before, file.batch, len(file.steps)
    at_once = max(1, CHUNK // batch)
    for begin in range(start, total, at_once):
        end = min(begin + at_once, total)
        hashes = row_hashes(overlay.sequences(np.arange(begin * batch, end * batch)))
        for step in range(begin, end):
            own = (step - begin) * batch
            following = step_digest(digest, hashes[own : own + batch])
            if following != file.steps[step].digest:
                return step - start, digest
            digest = following
        if progress is not None:
            progress(end / total, f"step {end:,} of {total:,}")
    return total - start, digest


def _check_names(suite: Suite, file: DigestFile, path: Path) -> None:
    if file.arm not in suite.arms:
        arms = list(suite.arms)
        mend = "name the suite that it was trained on, or correct the name"
        raise CostarError(f"{path}, line 1", found=f"arm {file.arm!r}", expected=f"one of {', '.join(arms)}", mend=mend)
    draws = suite.arms[file.arm].draws
    if file.draw >= draws:
        raise CostarError(
            f"{path}, line 1", found=f"draw {file.draw}", expected=f"below {draws}", mend="name another suite or draw"
        )


def _remarks(file: DigestFile, length: int, steps: int, batch: int) -> Iterator[str]:
    if not file.steps:
        yield "no finished step"
    if file.sequence_length != length:
        last = ": the last token of every row was dropped" if file.sequence_length == length - 1 else ""
        yield f"rows of {file.sequence_length + 1} ids where the suite has {length + 1}{last}"
    if file.batch != batch:
        yield f"{file.batch} rows a step where the arm has {batch}"
    if len(file.steps) > steps and file.batch == batch:
        yield f"{len(file.steps)} steps where the arm has {steps}"


@dataclass(frozen=True, kw_only=True)
class _Search:
    """Looks for what the first disagreeing step read; `before` is the digest up to it."""

    suite: Suite
    workspace: Workspace
    file: DigestFile
    overlay: Overlay
    step: int
    before: bytes

    def diagnosis(self, slots: int) -> str:
        """What explains the step, from the likely to the far-fetched. `slots` is the length of the run."""
        own = self.file.steps[self.step]
        if own.rows is not None and own.rows != self.file.batch:
            return f"it read {own.rows} rows instead of {self.file.batch}: the loader drops or repeats some"
        return (
            self._width()
            or self._other_arm()
            or self._base()
            or self._moved()
            or self._permuted()
            or self._first_rows(slots)
            or "none of the suite's arms, the base, rows nearby or another order explains it: "
            "a loader that shuffles, or ids that were changed"
        )

    def _slots(self, step: int) -> NDArray[np.int64]:
        return np.arange(step * self.file.batch, (step + 1) * self.file.batch)

    def _rows(self, step: int) -> Rows:
        rows: Rows = self.overlay.sequences(self._slots(step))
        return rows

    def _explains(self, hashes: Iterable[bytes]) -> bool:
        return step_digest(self.before, list(hashes)) == self.file.steps[self.step].digest

    def _width(self) -> str:
        rows = self._rows(self.step)
        if self._explains(row_hashes(rows[:, :-1])):
            return "the right rows without their last token: give all L + 1 ids"
        if self._explains(row_hashes(rows[:, 1:])):
            return "the right rows without their first token: give all L + 1 ids"
        return ""

    def _other_arm(self) -> str:
        names = [(arm.name, draw) for arm in self.suite.arms.values() for draw in range(arm.draws)]
        names.sort(key=lambda each: each[1] != self.file.draw)  # the same draw first
        for arm, draw in names:
            if (arm, draw) == (self.file.arm, self.file.draw):
                continue
            other = open_suite_overlay(self.workspace, arm, draw, seed=self.suite.seed)
            more, _ = count_agreeing(other, self.file, start=self.step, before=self.before)
            if more:
                steps = f"this step and the {more - 1} after it" if more > 1 else "this step"
                which = f"arm {arm}" if draw == self.file.draw else f"draw {draw} of arm {arm}"
                return f"{steps} read {which} instead"
        return ""

    def _base(self) -> str:
        base = self.overlay.base(self.overlay.order.sequences(self._slots(self.step)))
        return "the base sequences of these slots, without their copies" if self._explains(row_hashes(base)) else ""

    def _moved(self) -> str:
        for distance in sorted(range(-min(REACH, self.step), REACH + 1), key=abs):
            if distance and self._explains(row_hashes(self._rows(self.step + distance))):
                return _moved_text(distance * self.file.batch)
        return ""

    def _permuted(self) -> str:
        hashes = row_hashes(self._rows(self.step))
        for order in _orders(len(hashes)):
            if self._explains(hashes[i] for i in order):
                return f"the right rows in another order: {', '.join(map(str, order[:16]))}{', …' * (len(order) > 16)}"
        return ""

    def _first_rows(self, slots: int) -> str:
        """Where the first rows of this step and the next ones stand in the run, where the trainer recorded them."""
        wanted: dict[bytes, list[int]] = {}
        for step in range(self.step, min(self.step + LOOKED_UP, len(self.file.steps))):
            wanted.setdefault(self.file.steps[step].first_row or b"", []).append(step)
        if b"" in wanted:
            return ""
        moves: dict[int, int] = {}  # how far from its place the first row of a step stands
        for begin in range(0, slots, CHUNK):
            chunk = np.arange(begin, min(begin + CHUNK, slots))
            for slot, each in zip(chunk.tolist(), row_hashes(self.overlay.sequences(chunk))):
                for step in wanted.get(each, ()):
                    move = slot - step * self.file.batch
                    moves[step] = min(moves.get(step, move), move, key=abs)  # epochs may share a row
        if self.step not in moves:
            return "its first row stands nowhere in the run: ids were changed, or belong to another suite"
        return _moves_text(moves, self.file.batch)


def _moves_text(moves: dict[int, int], batch: int) -> str:
    """What the distances of first rows from their places say, by step."""
    steps = sorted(moves)
    distances = [moves[step] for step in steps]
    far = next((distance for distance in distances if distance), 0)
    if not far:
        return "its first row is right, a later one is not"
    growing = distances == sorted(distances, key=abs)
    if growing and min(distances) * max(distances) >= 0:
        return ("" if distances[0] else "its first row is right, a later one is not; afterwards ") + _moved_text(far)
    where = ", ".join(f"{moves[step] + step * batch} for step {step}" for step in steps[:4])
    return f"rows of the run in a shuffled order: first rows come from slots {where}"


def _moved_text(rows: int) -> str:
    if rows > 0:
        return f"it read {rows:,} row{'s' * (rows > 1)} ahead: the loader skipped some"
    return f"it read {-rows:,} row{'s' * (rows < -1)} behind: the loader gave some again"


def _orders(rows: int) -> Iterator[tuple[int, ...]]:
    """Orders of the rows of a step that trainers come up with: every one of a few rows; of more, backwards and dealt out."""
    if rows <= PERMUTED:
        yield from itertools.permutations(range(rows))
        return
    yield tuple(reversed(range(rows)))
    for ranks in (n for n in range(2, rows) if rows % n == 0):
        yield tuple(np.arange(rows).reshape(ranks, -1).T.ravel().tolist())
