"""Texts that begin alike are read in one row: the beginning once, behind it each of its continuations.

A continuation sees the beginning and itself, at the positions that it would have in a text of its own, so the result
equals that of reading every text alone. A row of one continuation is a plain text and is read without a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Ids = tuple[int, ...]

ROW = 384  # tokens of a row that several continuations share, or twice the beginning: attention costs their square
BATCH = 4_096  # tokens of a batch, with padding, and of a shared row at most
WORTH = 8  # sharing leaves out one token of so many at least, or the texts are read alone: a mask has its price too


@dataclass(frozen=True, order=True)
class Row:
    """A beginning, one token or more, and its continuations, all different; one of them may be empty."""

    beginning: Ids
    continuations: tuple[Ids, ...]

    @property
    def length(self) -> int:
        return len(self.beginning) + sum(map(len, self.continuations))

    @property
    def is_plain(self) -> bool:
        """Whether its tokens are one text."""
        return sum(map(bool, self.continuations)) <= 1

    def slots(self) -> list[list[int]]:
        """Per continuation, the places in the row whose states predict its tokens and the one behind it."""
        found, at = [], len(self.beginning)
        for continuation in self.continuations:
            found.append([len(self.beginning) - 1, *range(at, at + len(continuation))])
            at += len(continuation)
        return found


def pack(texts: Sequence[tuple[Ids, Ids]], *, share: bool = True) -> list[Row]:
    """Rows that hold every (beginning, continuation) once; they do not depend on the order of the texts.

    Without `share` every text has a row of its own, for models that obey no mask.
    """
    groups: dict[Ids, set[Ids]] = {}
    for beginning, continuation in texts:
        groups.setdefault(beginning, set()).add(continuation)
    rows = [row for beginning, found in groups.items() for row in _rows(beginning, sorted(found), share)]
    return sorted(rows, key=lambda row: (not row.is_plain, row.length, row))


def _rows(beginning: Ids, continuations: list[Ids], share: bool) -> Iterator[Row]:
    """One row a continuation where sharing does not pay, else as few as hold them all."""
    own = sum(map(len, continuations))
    alone = len(beginning) * len(continuations) + own
    if not share or (len(continuations) - 1) * len(beginning) * WORTH < alone:
        yield from (Row(beginning, (continuation,)) for continuation in continuations)
        return
    held: list[Ids] = []
    room = most = min(max(ROW, 2 * len(beginning)), BATCH) - len(beginning)
    for continuation in continuations:
        if held and len(continuation) > room:
            yield Row(beginning, tuple(held))
            held, room = [], most
        held.append(continuation)
        room -= len(continuation)
    yield Row(beginning, tuple(held))


def batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Consecutive rows that go through the model together: like in length, all plain or all shared."""
    batch: list[Row] = []
    for row in rows:
        if batch:
            first, shortest = batch[0], batch[0].length
            wide = row.length > shortest + max(4, shortest // 8)
            if wide or row.is_plain != first.is_plain or (len(batch) + 1) * row.length > BATCH:
                yield batch
                batch = []
        batch.append(row)
    if batch:
        yield batch


def model_inputs(batch: Sequence[Row]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Ids [B, T] with zeros behind the shorter rows; for shared rows positions [B, T] and the mask [B, 1, T, T]."""
    width = max(row.length for row in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    for number, row in enumerate(batch):
        whole = [*row.beginning, *(token for continuation in row.continuations for token in continuation)]
        ids[number, : len(whole)] = torch.tensor(whole)
    if batch[0].is_plain:
        return ids, None, None
    positions = torch.zeros(len(batch), width, dtype=torch.long)
    part = torch.full((len(batch), width), -1)  # 0 for the beginning, then the number of the continuation
    for number, row in enumerate(batch):
        known = at = len(row.beginning)
        positions[number, :known] = torch.arange(known)
        part[number, :known] = 0
        for which, continuation in enumerate(row.continuations, 1):
            end = at + len(continuation)
            positions[number, at:end] = torch.arange(known, known + len(continuation))
            part[number, at:end] = which
            at = end
    seen = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
    return ids, positions, (seen & torch.ones(width, width, dtype=torch.bool).tril())[:, None]
